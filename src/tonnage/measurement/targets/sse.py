"""Bytes of a text/event-stream, cut anywhere -> its events.

The format is that of the HTML standard: lines end in LF, CR or CRLF, an empty one ends an event.
`id` and `retry` serve those who connect again, which a measurement does not; they are passed over.
Nearly every event of a language model is one whole `data: …` line, and takes the short way.
"""

from __future__ import annotations

from typing import NamedTuple

from tonnage.measurement.targets.http import MalformedError

MAX_EVENT_BYTES = 16_777_216
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LINE_ENDS = (b"\n", b"\r")


class Event(NamedTuple):
    """One event: its data lines, joined, and what kind of event it says it is."""

    data: str
    kind: str = "message"


class EventStream:
    """Takes the pieces of one stream in turn."""

    def __init__(self) -> None:
        self._line = bytearray()  # the beginning of a line whose end has not come
        self._data: list[bytes] = []  # of the event under way
        self._data_bytes = 0
        self._kind = b""
        self._first_line = True
        self._after_cr = False

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completes; MalformedError when one grows without end."""
        if (
            piece.startswith(b"data: ")
            and piece.endswith(b"\n\n")
            and not (self._line or self._data or self._kind or b"\r" in piece)
        ):
            texts = piece[6:-2].split(b"\n\ndata: ")
            if piece.count(b"\n") == 2 * len(texts):  # no line but those that were split at
                self._first_line = self._after_cr = False
                return [Event(text.decode(errors="replace")) for text in texts]
        return self._feed_lines(piece)

    def _feed_lines(self, piece: bytes) -> list[Event]:
        events: list[Event] = []
        if not piece:
            return events
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        for part in piece.splitlines(keepends=True):
            self._line += part
            if part.endswith(LINE_ENDS):
                self._take(bytes(self._line).rstrip(b"\r\n"), events)
                self._line.clear()
        self._after_cr = piece.endswith(b"\r")
        if len(self._line) + self._data_bytes > MAX_EVENT_BYTES:
            raise MalformedError(f"an event of more than {MAX_EVENT_BYTES // 2**20} MiB")
        return events

    def _take(self, line: bytes, events: list[Event]) -> None:
        """One whole line."""
        if self._first_line:
            line = line.removeprefix(BYTE_ORDER_MARK)
            self._first_line = False
        if not line:
            if self._data:
                data = b"\n".join(self._data).decode(errors="replace")
                events.append(Event(data, self._kind.decode(errors="replace") or "message"))
            self._data, self._data_bytes, self._kind = [], 0, b""
            return
        name, _, value = line.partition(b":")  # a comment has no name
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
        elif name == b"event":
            self._kind = value
