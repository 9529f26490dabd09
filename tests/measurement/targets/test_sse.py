"""A stream of events is the same however the network cuts it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.measurement.targets.http import MalformedError
from tonnage.measurement.targets.sse import MAX_EVENT_BYTES, Event, EventStream


def events_of(stream: bytes) -> list[Event]:
    """What the HTML standard says, slowly: the whole text, line by line."""
    text = stream.decode(errors="replace").removeprefix("\ufeff")
    events, data, kind = [], "", ""
    for line in re.split("\r\n|\r|\n", text)[:-1]:
        if line == "":
            if data:
                events.append(Event(data.removesuffix("\n"), kind or "message"))
            data = kind = ""
        elif ":" in line:
            name, value = line.split(":", 1)
            value = value.removeprefix(" ")
            if name == "data":
                data += value + "\n"
            elif name == "event":
                kind = value
        elif line == "data":
            data += "\n"
        elif line == "event":
            kind = ""
    return events


def fed(pieces: list[bytes]) -> list[Event]:
    stream = EventStream()
    return [event for piece in pieces for event in stream.feed(piece)]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8)
ENDS = st.sampled_from(["\n", "\r", "\r\n"])
LINES = st.one_of(
    st.builds("data: {}".format, TEXTS),
    st.builds("data: {{{}}}\n".format, TEXTS),  # the common event
    st.builds("{}:{}".format, st.sampled_from(["data", "event", "id", "retry", ""]), TEXTS),
    st.sampled_from(["", "", "data", "event", "data:", "[DONE]"]),
    TEXTS,
)
STREAMS = st.builds(
    lambda mark, lines: (mark + "".join(line + end for line, end in lines)).encode(),
    st.sampled_from(["", "", "\ufeff"]),
    st.lists(st.tuples(LINES, ENDS), max_size=12),
)


@given(st.one_of(STREAMS, st.binary(max_size=60)), st.lists(st.integers(0, 200), max_size=12))
def test_any_cutting_gives_the_events_of_the_standard(stream, places):
    bounds = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(bounds)]
    assert fed(pieces) == events_of(stream)
    assert fed([bytes([byte]) for byte in stream]) == events_of(stream)
    assert fed([stream]) == events_of(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_comes_with_its_empty_line_and_not_later(end):
    stream = EventStream()
    assert stream.feed(b"data: one" + end) == []
    assert stream.feed(end) == [Event("one")]
    assert stream.feed(b"data: two" + end + end) == [Event("two")]


def test_several_common_events_in_one_piece():
    assert fed([b'data: {"a": 1}\n\ndata: [DONE]\n\n']) == [Event('{"a": 1}'), Event("[DONE]")]


@pytest.mark.parametrize("end", [b"", b"\n"])  # one line, or one event of many
def test_an_event_that_does_not_end_is_refused_before_it_fills_the_memory(end):
    pieces = [b"data: " + b"x" * (MAX_EVENT_BYTES // 4) + end] * 5
    assert fed(pieces[:3]) == []
    with pytest.raises(MalformedError, match="16 MiB"):
        fed(pieces)
