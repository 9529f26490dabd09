"""Any HTTP workflow: what is asked of it, and what is found in its answer."""

from __future__ import annotations

import asyncio
import json
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
    http,
    reply,
    scripted,
)
from tonnage.errors import InputError, TonnageError, UsageError
from tonnage.measurement.load import Outcome, Prompt, TargetSpec
from tonnage.measurement.targets.workflow import JsonTarget, compile_template

ROW = Prompt(item="7_rep1", text='say "hi"\n', fields={"k": 5, "tags": ["a"], "name": "x"})


def send(steps: list[Step], **settings: Any) -> tuple[Outcome, Request]:
    async def go() -> tuple[Outcome, Request]:
        async with scripted(lambda _: steps) as server:
            target = JsonTarget(
                TargetSpec(kind="json", address=f"{server.url}/ask?v=1", **settings)
            )
            await target.open()
            outcome = await target.send(ROW)
            await target.close()
            return outcome, server.requests[0]

    return asyncio.run(go())


def test_it_posts_the_prompt_to_the_very_address_and_takes_the_whole_body() -> None:
    outcome, request = send([reply({"value": 1})], headers={"X-Api-Key": "secret"})
    assert request.line == "POST /ask?v=1 HTTP/1.1"
    assert json.loads(request.body) == {"input_message": ROW.text}
    assert request.header("x-api-key") == ["secret"]
    assert (outcome.failure, outcome.status, outcome.answer) == (None, 200, '{"value": 1}')
    assert outcome.token_s == []


@pytest.mark.parametrize(
    ("template", "body"),
    [
        ('{"input": "$prompt"}', {"input": ROW.text}),
        (
            '{"m": [{"content": "Q: $prompt!", "n": 1}]}',
            {"m": [{"content": f"Q: {ROW.text}!", "n": 1}]},
        ),
        ('["$item", null, true]', ["7_rep1", None, True]),
        ('{"k": "$field.k", "t": "$field.tags"}', {"k": 5, "t": ["a"]}),
        ('{"k": "$field.name is $field.k of $field.tags"}', {"k": 'x is 5 of ["a"]'}),
        ('"$$prompt costs $5 and $ $$"', "$prompt costs $5 and $ $"),
        ('"$prompt."', f"{ROW.text}."),
    ],
)
def test_placeholders(template, body) -> None:
    assert compile_template(template)(ROW) == body


@given(text=st.text(), item=st.text())
def test_no_text_breaks_the_body(text, item) -> None:
    fill = compile_template('{"a": "$prompt", "b": ["$item$prompt"], "c": "$field.x"}')
    body = json.dumps(fill(Prompt(item=item, text=text, fields={"x": text})))
    assert json.loads(body) == {"a": text, "b": [item + text], "c": text}


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ('{"a": ', "line 1, column 7"),
        ('{\n "a": $prompt}', "line 2, column 7"),
        ('{"a": ["x", "$promt"]}', "$promt at a.1"),
        ('{"a": "$promt"}', "Did you mean $prompt?"),
        ('{"a": "$field"}', "$field.NAME"),
    ],
)
def test_a_bad_template_is_refused_with_its_place(template, says) -> None:
    with pytest.raises(UsageError) as raised:
        JsonTarget(TargetSpec(kind="json", address="http://localhost:9", request_template=template))
    assert says in str(raised.value)


def test_a_row_without_the_field_is_named() -> None:
    with pytest.raises(InputError, match=r"row 7_rep1 has no field missing.*k, tags, name"):
        compile_template('"$field.missing"')(ROW)


@pytest.mark.parametrize(
    ("path", "answer"),
    [("choices.0.message.content", "hi"), ("n", "3"), ("choices.0.message", '{"content": "hi"}')],
)
def test_the_answer_is_found_at_its_path(path, answer) -> None:
    body = {"choices": [{"message": {"content": "hi"}}], "n": 3}
    outcome, _ = send([reply(body)], answer_path=path)
    assert (outcome.failure, outcome.answer) == (None, answer)


@pytest.mark.parametrize(
    ("steps", "failure", "says"),
    [
        ([reply({"error": "full", "code": 7})], "rejected",
         "nothing at out.text: the answer has the keys error, code"),
        ([reply({"out": {}})], "rejected", "out is empty"),
        ([reply({"out": ["x"]})], "rejected", "out is a list of 1"),
        ([reply({"out": 3})], "rejected", "out is '3'"),
        ([http(b"<html>")], "malformed", "the body is not JSON"),
        ([reply({"why": "broken"}, status="500 No")], "http", "broken"),
        ([http(b'{"out"')[:-3], None], "truncated", "closed"),
        ([STREAM_HEAD + chunk(b'data: {"role": 1}\n\n') + STREAM_END], "rejected", "no event"),
        ([STREAM_HEAD + chunk(b"data: nonsense\n\n") + STREAM_END], "malformed", "not JSON"),
        ([http(b"[" * 100_000)], "malformed", "not JSON"),
        ([STREAM_HEAD + chunk(b"data: " + b"[" * 100_000 + b"\n\n") + STREAM_END], "malformed",
         "not JSON"),
    ],
)  # fmt: skip
def test_failures_say_what_came_instead(steps, failure, says) -> None:
    outcome, _ = send(steps, answer_path="out.text")
    assert outcome.failure == failure
    assert says in outcome.error


def test_a_server_that_is_not_there_is_said_beforehand_and_is_an_outcome_later() -> None:
    async def go() -> Outcome:
        target = JsonTarget(TargetSpec(kind="json", address="http://127.0.0.1:9/ask"))
        with pytest.raises(TonnageError, match=r"port 9 of 127\.0\.0\.1"):
            await target.open()
        return await target.send(ROW)

    assert asyncio.run(go()).failure == "refused"


def test_pieces_of_an_event_stream_are_timed_and_other_events_are_not() -> None:
    events: list[Step] = [STREAM_HEAD + chunk(b": hello\n\n"), chunk(b'data: {"role": "x"}\n\n')]
    events += [0.05, chunk(b'data: {"out": {"text": ""}}\n\ndata: {"out": {"text": "a"}}\n\n')]
    events += [0.05, chunk(b'data: {"out": {"te'), chunk(b'xt": "b"}}\r\n\r\n'), STREAM_END]
    outcome, _ = send(events, answer_path="out.text")
    assert (outcome.failure, outcome.answer) == (None, "ab")
    first, second = outcome.token_s
    assert outcome.sent_s + 0.04 < first < second - 0.04 < outcome.end_s


def test_a_stream_without_a_path_is_its_data() -> None:
    outcome, _ = send([STREAM_HEAD, chunk(b"data: a\n\ndata: b\n\ndata: [DONE]\n\n"), STREAM_END])
    assert (outcome.answer, len(outcome.token_s)) == ("ab", 2)


ONE = b'data: {"out": "x"}\n\n'
ERROR = b"event: error\ndata: out of memory\n\n"


@pytest.mark.parametrize("ending", [STREAM_END, b"", chunk(ONE) + STREAM_END])
def test_an_error_in_mid_stream_is_told_however_the_stream_ends(ending) -> None:
    outcome, _ = send([STREAM_HEAD + chunk(ONE + ERROR) + ending, None], answer_path="out")
    assert (outcome.failure, outcome.error) == ("rejected", "out of memory")
    assert outcome.answer.startswith("x")
    assert outcome.token_s


def test_an_error_event_that_says_nothing_is_an_error() -> None:
    outcome, _ = send([STREAM_HEAD + chunk(ONE + b"event: error\ndata:\n\n") + STREAM_END])
    assert outcome.failure == "rejected"
    assert outcome.error


@pytest.mark.parametrize("text", [":-) hello there", "id: 5 is your ticket", "retry: later"])
@pytest.mark.parametrize("content_type", ["text/plain", "application/json"])
def test_a_text_that_says_so_is_no_stream_though_it_begins_like_one(text, content_type) -> None:
    outcome, _ = send([http(text.encode(), content_type=content_type)])
    assert (outcome.failure, outcome.answer, outcome.token_s) == (None, text, [])


def test_what_says_it_is_a_stream_and_is_a_document_is_read_as_one() -> None:
    body = b'{"out": "x"}'
    outcome, _ = send([http(body, content_type="text/event-stream")], answer_path="out")
    assert (outcome.failure, outcome.answer, outcome.token_s) == (None, "x", [])


@pytest.mark.parametrize(
    "stated",
    [
        "",
        "Content-Type: text/event-stream",
        "content-type: Text/Event-Stream;charset=x",
        "Content-Type: text/html",  # as servers say that were not told otherwise
    ],
)
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n\n\n\n\n\n\n\n", b"\xef\xbb\xbf\n\n"])
def test_a_stream_is_told_by_its_beginning_whatever_it_says_it_is(stated, before) -> None:
    head = "\r\n".join(["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *filter(None, [stated])])
    body = before + ONE + ONE
    pieces: list[Step] = [chunk(body[at : at + 1]) for at in range(len(body))]
    outcome, _ = send([f"{head}\r\n\r\n".encode(), *pieces, STREAM_END], answer_path="out")
    assert (outcome.failure, outcome.answer, len(outcome.token_s)) == (None, "xx", 2)
