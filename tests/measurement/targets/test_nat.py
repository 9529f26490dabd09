"""The wire of the toolkit's server, and what its events tell."""

from __future__ import annotations

import asyncio
import json
import math
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.measurement.targets.scripted import (
    STREAM_END,
    STREAM_HEAD,
    Request,
    Step,
    chunk,
    reply,
    scripted,
)
from tonnage.errors import MissingExtraError
from tonnage.measurement.load import LlmCall, Outcome, Prompt, Record, TargetSpec
from tonnage.measurement.load.journal import record_line
from tonnage.measurement.targets.events import (
    Event,
    calls_of,
    describe_failed,
    event_of,
    runtime_s_of,
)
from tonnage.measurement.targets.nat import NatTarget
from tonnage.measurement.targets.nemo import NemoTarget


def step(kind: str, id_: str, unix_s: float, **others: Any) -> bytes:
    payload = {"event_type": kind, "event_timestamp": unix_s, "UUID": id_, "name": "m"} | others
    outer = {"id": id_, "type": kind, "name": "m", "payload": json.dumps(payload)}
    return f"intermediate_data: {json.dumps(outer)}\n\n".encode()


def value(text: str) -> bytes:
    return f"data: {json.dumps({'value': text})}\n\n".encode()


USAGE = {"usage_info": {"token_usage": {"prompt_tokens": 9, "completion_tokens": 4}}}
CALL = step("LLM_START", "a", 10.5) + step("LLM_END", "a", 12.0, **USAGE)
START, END = step("WORKFLOW_START", "w", 10.0), step("WORKFLOW_END", "w", 13.0)
RAISED = b'{"code":"workflow_error","message":"it broke","details":"ValueError"}'


def send(steps: list[Step]) -> tuple[Outcome, list[Request]]:
    async def go() -> tuple[Outcome, list[Request]]:
        async with scripted(lambda _: steps) as server:
            target = NatTarget(TargetSpec(kind="nat", address=server.url))
            await target.open()
            outcome = await target.send(Prompt(item="1", text='say "hi"'))
            await target.close()
            return outcome, server.requests

    return asyncio.run(go())


def stream(*pieces: bytes) -> list[Step]:
    return [STREAM_HEAD, *(chunk(piece) for piece in pieces), STREAM_END]


def test_it_asks_as_the_toolkit_does_and_reads_calls_and_runtime_from_events() -> None:
    outcome, [request] = send(stream(START, CALL, value("forty"), value("-two"), END))
    assert request.line == "POST /generate/full HTTP/1.1"
    assert json.loads(request.body) == {"input_message": 'say "hi"'}
    assert (outcome.failure, outcome.status, outcome.answer) == (None, 200, "forty-two")
    assert outcome.runtime_s == 3.0
    assert len(outcome.token_s) == 2
    assert outcome.llm_calls == (
        LlmCall(
            id="a",
            started_unix_s=10.5,
            ended_unix_s=12.0,
            model="m",
            prompt_tokens=9,
            output_tokens=4,
        ),
    )


def test_a_workflow_without_calls_has_a_runtime() -> None:
    outcome, _ = send(stream(START, value("x"), END))
    assert (outcome.failure, outcome.runtime_s, outcome.llm_calls) == (None, 3.0, ())


@pytest.mark.parametrize(
    ("steps", "failure", "says"),
    [
        (stream(START, RAISED), "rejected", "ValueError: it broke"),
        (stream(START, RAISED + b"\n\n"), "rejected", "ValueError: it broke"),
        (stream(START, value("half"), RAISED), "rejected", "ValueError: it broke"),
        (stream(b'data: {"error": {"message": "no"}}\n\n'), "rejected", "no"),
        (stream(b'data: {"error": "no"}\n\n'), "rejected", "no"),
        (stream(START, CALL), "truncated", "without a data: line"),
        (stream(START, value("x"), b"intermediate_da"), None, ""),
        (stream(START, b'data: {"val'), "truncated", "not JSON"),
        ([STREAM_HEAD, chunk(START + value("x")), 0.05, None], "truncated", "closed"),
        (stream(b"data: nonsense\n\n"), "malformed", "not JSON"),
        (stream(b'data: {"text": 1}\n\n'), "malformed", "neither a value nor an error"),
        (stream(b'intermediate_data: {"payload": "{}"}\n\n'), "malformed", "without an event"),
        (stream(b'intermediate_data: ["payload"]\n\n'), "malformed", "without an event"),
        (stream(START, step("LLM_START", "a", 11), value("I apologize"), END), "workflow",
         "1 of 1 LLM calls of the workflow failed"),
        (stream(START, step("WORKFLOW_END", "w", math.inf), value("x")), "malformed", "possible"),
        (stream(START, step("WORKFLOW_END", "w", 10**400), value("x")), "malformed", "possible"),
        (stream(b"data: " + b"[" * 100_000 + b"\n\n"), "malformed", "not JSON"),
        ([reply({"detail": "overloaded"}, status="503 Busy")], "http", "overloaded"),
    ],
)  # fmt: skip
def test_each_way_to_fail_is_its_kind_and_nothing_is_asked_twice(steps, failure, says) -> None:
    outcome, requests = send(steps)
    assert outcome.failure == failure
    assert says in outcome.error
    assert len(requests) == 1


@given(
    spans=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50), st.booleans()), max_size=6),
    data=st.data(),
)
def test_calls_are_paired_by_id_whatever_overlaps_and_whatever_the_order(spans, data) -> None:
    events, expected = [], {}
    for number, (start_s, length_s, ends) in enumerate(spans):
        id_ = str(number)
        events.append(Event(kind="LLM_START", id=id_, unix_s=start_s))
        if ends:
            events.append(Event(kind="LLM_END", id=id_, unix_s=start_s + length_s))
        expected[id_] = (start_s + length_s - start_s if ends else None, ends)
    calls = calls_of(data.draw(st.permutations(events)))
    found = {
        call.id: (call.latency_s if call.failure is None else None, call.failure is None)
        for call in calls
    }
    assert found == expected
    assert [call.started_unix_s for call in calls] == sorted(span[0] for span in spans)
    assert bool(describe_failed(calls)) == any(not ends for *_, ends in spans)
    if events:
        times_s = [event.unix_s for event in events]
        assert runtime_s_of(events) == max(times_s) - min(times_s)


def test_the_first_token_with_text_is_the_first() -> None:
    def token(unix_s: float, text: str) -> Event:
        payload = {"event_type": "LLM_NEW_TOKEN", "UUID": "a", "event_timestamp": unix_s}
        return event_of(payload | {"data": {"chunk": text}})

    start = Event(kind="LLM_START", id="a", unix_s=1.0)
    end = Event(kind="LLM_END", id="a", unix_s=4.0)
    [call] = calls_of([start, token(1.5, ""), token(3.0, "y"), token(2.0, "x"), end])
    assert call.ttft_s == 1.0


def test_a_token_count_of_zero_is_not_known() -> None:
    payload = {"event_type": "LLM_END", "UUID": "a", "event_timestamp": 1, "usage_info": None}
    usage = {"usage_info": {"token_usage": {"prompt_tokens": 0, "completion_tokens": 0}}}
    for each in (payload, payload | usage):
        assert (event_of(each).prompt_tokens, event_of(each).output_tokens) == (None, None)


@pytest.mark.parametrize("said", [2**53, 10**400, -1, True, 2.0, "3", ["m"], {}])
def test_a_count_or_name_that_cannot_be_one_is_not_known(said) -> None:
    usage = {"usage_info": {"token_usage": {"prompt_tokens": said, "completion_tokens": said}}}
    event = event_of({"event_type": "LLM_END", "UUID": "a", "event_timestamp": 1, **usage})
    assert (event.prompt_tokens, event.output_tokens) == (None, None)
    named = event_of({"event_type": "LLM_END", "UUID": "a", "event_timestamp": 1, "name": said})
    assert named.name == (said if isinstance(said, str) else None)


@given(st.tuples(*[st.integers() | st.floats() | st.just(10**400)] * 2))
def test_whatever_times_events_state_what_is_taken_can_be_kept(times) -> None:
    try:
        events = [
            event_of({"event_type": kind, "UUID": "a", "event_timestamp": unix_s})
            for kind, unix_s in zip(("LLM_START", "LLM_END"), times, strict=True)
        ]
    except ValueError:
        return
    record = Record(
        level="x",
        phase="measured",
        item="1",
        scheduled_unix_s=0.0,
        lateness_s=0.0,
        e2e_s=1.0,
        runtime_s=runtime_s_of(events),
        llm_calls=calls_of(events),
    )
    assert json.loads(record_line(record))["llm_calls"][0]["id"] == "a"


@pytest.mark.parametrize("unix_s", [math.nan, math.inf, -math.inf, 1e308, 10**400, -1, "1", None])
def test_a_time_that_cannot_be_one_is_refused(unix_s) -> None:
    with pytest.raises(ValueError, match="event_timestamp"):
        event_of({"event_type": "LLM_END", "UUID": "a", "event_timestamp": unix_s})


@pytest.mark.parametrize("payload", [None, [], {}, {"event_type": "X", "UUID": 1}])
def test_what_is_no_event_is_refused(payload) -> None:
    with pytest.raises(ValueError, match="without event_type"):
        event_of(payload)


@pytest.mark.skipif(find_spec("nat") is not None, reason="nvidia-nat is installed here")
def test_a_configuration_needs_the_toolkit() -> None:
    with pytest.raises(MissingExtraError, match=r"tonnage\[nat\]"):
        asyncio.run(NemoTarget(TargetSpec(kind="nemo", address="config.yml")).open())
