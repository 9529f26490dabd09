"""Messages between a coordinator and its shards <-> bytes on one TCP connection.

A message is a kind, a JSON object and, mostly empty, lines of records that travel as they are:

    4 bytes: length of the JSON | 4 bytes: length of the records | the JSON | the records

Nothing that arrives is ever unpickled, and no length is believed beyond a bound. The connection is
not encrypted.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tonnage.measurement.load import clock

MAX_JSON_BYTES = 1 << 20
MAX_RECORDS_BYTES = 1 << 28

_LENGTHS = struct.Struct(">II")

# A machine that loses power says nothing: the kernel asks after it. Seconds, and a count.
_IDLE_BEFORE_PROBE_S = 5
_BETWEEN_PROBES_S = 5
_PROBES = 4
_UNANSWERED_S = 25


class LinkBrokenError(Exception):
    """The other side is gone, or what it sends is not ours."""


@dataclass(frozen=True, slots=True)
class Message:
    """What was sent, and when it arrived (`clock`)."""

    kind: str
    body: dict[str, Any]
    records: bytes
    arrived_s: float


class Link:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        _notice_silence(writer.get_extra_info("socket"))

    async def send(self, kind: str, records: bytes = b"", **body: object) -> None:
        """Send one message; waits while the other side cannot keep up."""
        text = json.dumps({"kind": kind, **body}, allow_nan=False).encode()
        try:
            self._writer.write(_LENGTHS.pack(len(text), len(records)) + text + records)
            await self._writer.drain()
        except (OSError, RuntimeError) as error:  # RuntimeError: uvloop, on a closed connection
            raise LinkBrokenError(str(error)) from error

    async def receive(self) -> Message:
        """The next message. Raises LinkBrokenError when there will be none."""
        try:
            lengths = await self._reader.readexactly(_LENGTHS.size)
            json_bytes, records_bytes = _LENGTHS.unpack(lengths)
            if json_bytes > MAX_JSON_BYTES or records_bytes > MAX_RECORDS_BYTES:
                raise LinkBrokenError("too long a message")
            text = await self._reader.readexactly(json_bytes)
            records = await self._reader.readexactly(records_bytes)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise LinkBrokenError(str(error)) from error
        arrived_s = clock()
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LinkBrokenError("not JSON") from error
        if not isinstance(body, dict) or not isinstance(kind := body.pop("kind", None), str):
            raise LinkBrokenError("a message without a kind")
        return Message(kind, body, records, arrived_s)

    def abort(self) -> None:
        """Break the connection now."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close, once what was sent is on its way."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def _notice_silence(connection: socket.socket) -> None:
    """Have the kernel break a connection whose other machine no longer answers."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _IDLE_BEFORE_PROBE_S),
        ("TCP_KEEPINTVL", _BETWEEN_PROBES_S),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", _UNANSWERED_S * 1000),
    ):
        if hasattr(socket, name):  # not every system has every one
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
