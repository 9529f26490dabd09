"""An OpenAI-compatible API is asked rightly, and what it answers is read for what it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise, product
from typing import Any, Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servers.ending import end
from tests.servers.faults import EVENTS, USAGE, event, fault_server, token, whole
from tests.servers.llama import llama_server
from tests.servers.timed import timed_server
from tonnage.errors import TonnageError, UsageError
from tonnage.measurement.load import Message, Outcome, Prompt, TargetSpec
from tonnage.measurement.loop import run
from tonnage.measurement.targets.choose import target_of
from tonnage.measurement.targets.http import MalformedError
from tonnage.measurement.targets.openai import OpenAiTarget, _Answer

PROMPT = Prompt(item="1", text="Hello")


def spec(address: str, **fields: Any) -> TargetSpec:
    return TargetSpec(**{"kind": "chat", "address": address, "model": "m", **fields})


async def outcome_of(target_spec: TargetSpec, prompt: Prompt = PROMPT) -> Outcome:
    target = target_of(target_spec)
    try:
        return await target.send(prompt)
    finally:
        await target.close()


# ── what comes back ─────────────────────────────────────────────────────────────────────────────

FAULTS = [
    ("ok", None, ""),
    ("whole", None, ""),
    ("no-tokens", None, ""),
    ("no-done", None, ""),
    ("no-finish", "truncated", "finish_reason"),
    ("half-a-stream", "truncated", "closed"),
    ("bad-json", "malformed", "{oops"),
    ("bad-shape", "malformed", "choices"),
    ("empty", "malformed", "nothing"),
    ("length-too-short", "malformed", "not JSON"),
    ("web-page", "malformed", "<html>"),
    ("error-event", "rejected", "out of memory"),
    ("error-and-gone", "rejected", "out of memory"),
    ("error-kind", "rejected", "out of memory"),
    ("error-body", "rejected", "out of memory"),
    ("429", "http", "slow down"),
]


@pytest.mark.parametrize(("fault", "failure", "error"), FAULTS)
def test_each_answer_is_told_by_its_kind_and_the_next_goes_on(fault, failure, error):
    async def test() -> None:
        async with fault_server() as faults:
            outcome = await outcome_of(spec(f"{faults.url}/{fault}"))
            assert outcome.failure == failure
            assert error in outcome.error
            assert (await outcome_of(spec(f"{faults.url}/ok"))).failure is None
            assert faults.asked == ({fault: 1, "ok": 1} if fault != "ok" else {"ok": 2})

    run(test())


def test_what_is_known_of_a_stream_of_a_whole_answer_and_of_half_a_stream():
    async def test() -> None:
        async with fault_server() as faults:
            streamed = await outcome_of(spec(f"{faults.url}/ok"))
            assert streamed.answer == "one two three"
            assert (streamed.prompt_tokens, streamed.output_tokens) == (7, 3)
            assert streamed.tokens_from == "usage"
            assert len(streamed.token_s) == 3
            at_once = await outcome_of(spec(f"{faults.url}/whole"))
            assert at_once.answer == streamed.answer
            assert (at_once.token_s, at_once.output_tokens) == ([], 3)  # no first token is made up
            half = await outcome_of(spec(f"{faults.url}/half-a-stream"))
            assert (half.answer, len(half.token_s)) == ("one two", 2)
            assert (half.output_tokens, half.tokens_from) == (2, "events")
            nothing = await outcome_of(spec(f"{faults.url}/503"))
            assert (nothing.output_tokens, nothing.tokens_from) == (None, None)

    run(test())


@pytest.mark.parametrize("tokens", [2**53, 10**400, -1, True, 2.0, "3", None])
def test_a_count_that_cannot_be_one_is_not_known(tokens):
    usage = {"prompt_tokens": 2**53 - 1, "completion_tokens": tokens}
    said = {"choices": [{"message": {"content": "x"}}], "usage": usage}

    async def test() -> None:
        async with api(lambda *_: whole("200 OK", json.dumps(said).encode())) as (url, _):
            outcome = await outcome_of(spec(url))
        assert (outcome.failure, outcome.prompt_tokens) == (None, 2**53 - 1)
        assert (outcome.output_tokens, outcome.tokens_from) == (None, None)

    run(test())


def test_without_usage_a_tokenizer_counts_if_there_is_one(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"?": 0, "one": 1, "two": 2, "three": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))  # noqa: S106 — no password
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    said = json.dumps({"choices": [{"message": {"content": "one two three"}}]}).encode()
    stream = event({"choices": [{"delta": {"content": "one two"}}]}) + b"data: [DONE]\n\n"
    halves = b"".join(event({"choices": [{"delta": {"content": x}}]}) for x in ("\ud83d", "\ude00"))

    async def counts(body: bytes, **fields: Any) -> tuple[int | None, str | None]:
        async with api(lambda *_: whole("200 OK", body)) as (url, _):
            outcome = await outcome_of(spec(url, **fields))
            return outcome.output_tokens, outcome.tokens_from

    async def test() -> None:
        assert await counts(said) == (None, None)
        assert await counts(said, tokenizer=str(path)) == (3, "tokenizer")
        assert await counts(stream) == (1, "events")
        assert await counts(stream, tokenizer=str(path)) == (2, "tokenizer")
        assert await counts(halves + stream, tokenizer=str(path)) == (3, "tokenizer")

    run(test())


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_tokens_come_when_a_server_of_known_timing_sends_them(kind):
    async def test(url: str) -> None:
        target = target_of(TargetSpec(kind=kind, address=url))
        await target.open()
        assert target.model == "timed"
        outcome = await target.send(PROMPT)
        times_s = [at - outcome.sent_s for at in outcome.token_s]
        truth_s = [0.1 + 0.04 * i for i in range(5)]
        assert all(-1e-4 < at - true < 0.5 for at, true in zip(times_s, truth_s, strict=True))
        assert (outcome.output_tokens, outcome.tokens_from) == (5, "usage")
        asked = await target.send(Prompt(item="2", text="Hello", output_tokens=2))
        assert (len(asked.token_s), asked.output_tokens) == (2, 2)
        await target.close()
        silent = await outcome_of(TargetSpec(kind=kind, address=url, stream=False))
        assert (silent.token_s, silent.output_tokens, silent.answer) == ([], 5, "xxxxx")

    with timed_server(ttft_s=0.1, itl_s=0.04, output_tokens=5) as url:
        run(test(url))


def test_a_real_engine_is_asked_for_a_length_and_keeps_it():
    async def test(url: str) -> None:
        kinds: tuple[Literal["chat", "completions"], ...] = ("chat", "completions")
        for kind, stream in product(kinds, (True, False)):
            target = target_of(TargetSpec(kind=kind, address=url, stream=stream))
            await target.open()
            outcome = await target.send(Prompt(item="1", text="Hello", output_tokens=12))
            await target.close()
            assert (outcome.failure, outcome.output_tokens) == (None, 12)
            assert outcome.tokens_from == "usage"
            assert outcome.answer
            assert len(outcome.token_s) == (12 if stream else 0)
            assert outcome.sent_s < outcome.end_s
            assert outcome.token_s == sorted(outcome.token_s)

    with llama_server() as url:
        run(test(url))


def chat(**delta: object) -> bytes:
    return event({"choices": [{"delta": delta}]})


@pytest.mark.parametrize(
    ("chunks", "pieces", "content"),
    [
        ([chat(role="assistant", content=""), token("a")], ["a"], "a"),
        ([chat(reasoning_content="hm"), chat(reasoning="mm"), token("a")], ["hm", "mm", "a"], "a"),
        (
            [
                chat(tool_calls=[{"function": {"name": "f", "arguments": ""}}]),
                chat(tool_calls=[{"function": {"arguments": '{"x"'}}]),
                chat(tool_calls=[{"function": {"arguments": ""}}]),
            ],
            ["f", '{"x"'],
            "",
        ),
        ([chat(content=[{"type": "text", "text": "a"}])], ["a"], "a"),
        ([chat(content=None), event({"choices": []}), b": ping\n\n"], [], ""),
        ([event({"choices": [{"text": "a"}, {"text": "b"}]})], ["a", "b"], "ab"),
    ],
)
def test_a_token_is_a_piece_that_is_not_empty(chunks, pieces, content):
    answer = _Answer()
    for now_s, chunk in enumerate(chunks):
        answer.read(chunk, float(now_s))
    assert (answer.pieces, "".join(answer.content)) == (pieces, content)
    assert len(answer.token_s) == len(pieces)


@given(st.lists(st.integers(0, len(EVENTS)), max_size=10))
def test_a_stream_is_read_alike_however_it_is_cut(places):
    answer = _Answer()
    for start, stop in pairwise([0, *sorted(places), len(EVENTS)]):
        answer.read(EVENTS[start:stop], 1.0)
    answer.end()
    assert (answer.pieces, answer.usage) == (["one", " two", " three"], USAGE)
    assert answer.finished
    assert not answer.refusal


KEYS = ["choices", "delta", "message", "content", "text", "reasoning", "tool_calls", "function"]
KEYS += ["arguments", "usage", "error", "object", "finish_reason"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.booleans())
def test_no_json_brings_the_reader_down(document, streamed):
    answer = _Answer()
    try:
        answer.read(event(document) if streamed else json.dumps(document).encode(), 1.0)
        answer.end()
    except MalformedError:
        return
    assert all(isinstance(piece, str) for piece in answer.pieces)
    assert isinstance(answer.usage, dict)
    assert answer.finished or streamed


# ── what is asked ───────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def api(
    answer: Callable[[str, dict[str, Any]], bytes],
) -> AsyncIterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """A server that answers (request line, body) as told, and a list of what it was asked."""
    asked: list[tuple[str, dict[str, Any]]] = []

    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = head.rpartition("Content-Length: ")[2] if "Content-Length" in head else "0"
                body = json.loads(await reader.readexactly(int(length)) or b"{}")
                asked.append((head.split(" HTTP")[0], body))
                writer.write(answer(*asked[-1]))
        except asyncio.IncompleteReadError:
            pass  # the client has gone
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        await end(server, tasks)


GOOD = whole("200 OK", b'{"choices": [{"message": {"content": "x"}}]}')


def refusing(status: str, *names: str, said: str = "Unknown parameter: {}") -> Callable[..., bytes]:
    """Refuses the first of `names` that a request has."""

    def answer(_: str, body: dict[str, Any]) -> bytes:
        for name in names:
            if name in body:
                return whole(status, json.dumps({"error": said.format(name)}).encode())
        return GOOD

    return answer


def test_a_request_holds_what_was_asked_for():
    async def test() -> None:
        async with api(lambda *_: GOOD) as (url, asked):
            body = {"temperature": 0, "ignore_eos": False}
            prompt = Prompt(
                item="1",
                text="and é?",
                history=(Message(role="user", content="a"), Message(role="assistant", content="b")),
                output_tokens=9,
            )
            await outcome_of(spec(url, body=body), prompt)
            await outcome_of(spec(url, kind="completions", stream=False), PROMPT)
        assert asked == [
            (
                "POST /v1/chat/completions",
                {
                    "model": "m",
                    "stream": True,
                    "stream_options": {"include_usage": True},
                    "ignore_eos": False,  # the user's own body wins
                    "min_tokens": 9,
                    "max_tokens": 9,
                    "temperature": 0,
                    "messages": [
                        {"role": "user", "content": "a"},
                        {"role": "assistant", "content": "b"},
                        {"role": "user", "content": "and é?"},
                    ],
                },
            ),
            ("POST /v1/completions", {"model": "m", "stream": False, "prompt": "Hello"}),
        ]

    run(test())


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/serving/llama", "/serving/llama/chat/completions"),
        ("/openai/d?api-version=2", "/openai/d/chat/completions?api-version=2"),
    ],
)
def test_a_base_url_is_understood_as_people_write_it(written, path):
    async def test() -> None:
        async with api(lambda *_: GOOD) as (url, asked):
            await outcome_of(spec(url + written))
        assert asked[0][0] == f"POST {path}"

    run(test())


def opened(answer: Callable[..., bytes], **fields: Any) -> tuple[OpenAiTarget, list[Any]]:
    """A target after `open` and one prompt of nine tokens, and what its server was asked."""

    async def test() -> tuple[OpenAiTarget, list[Any]]:
        async with api(answer) as (url, asked):
            target = OpenAiTarget(spec(url, **fields))
            try:
                await target.open()
                await target.send(Prompt(item="1", text="Hello", output_tokens=9))
            finally:
                await target.close()
            return target, asked

    return run(test())


@pytest.mark.parametrize("status", ["400 Bad Request", "422 Unprocessable"])
def test_what_a_server_refuses_by_name_it_is_not_sent_again(status):
    _, asked = opened(refusing(status, "ignore_eos", "min_tokens"))
    assert len(asked) == 4  # the probe three times, then the prompt
    assert not {"ignore_eos", "min_tokens"} & asked[-1][1].keys()
    assert (asked[-1][1]["max_tokens"], "stream_options" in asked[-1][1]) == (9, True)


def test_a_reasoning_model_gets_its_own_name_for_the_length():
    said = "Unsupported parameter: '{}'. Use 'max_completion_tokens' instead."
    _, asked = opened(refusing("400 Bad Request", "max_tokens", said=said))
    assert asked[-1][1]["max_completion_tokens"] == 9
    assert "max_tokens" not in asked[-1][1]


def test_the_probe_gives_up_on_a_refusal_it_cannot_mend():
    with pytest.raises(TonnageError, match="Unknown parameter: ignore_eos"):
        opened(refusing("400 Bad Request", "ignore_eos"), body={"ignore_eos": True})


def test_a_busy_server_is_no_reason_not_to_begin():
    _, asked = opened(lambda *_: whole("429 Too Many Requests", b"slow down"))
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401", "--api-key"),
        ("403", "--api-key"),
        ("404", "no such model"),
        ("500", "answers 500"),
        ("bad-http", "not HTTP"),
        ("error-body", "out of memory"),
    ],
)
def test_a_server_that_cannot_be_loaded_is_refused_at_once_with_a_remedy(fault, said):
    async def test() -> None:
        async with fault_server() as faults:
            target = OpenAiTarget(
                spec(f"{faults.url}/{fault}", headers={"Authorization": "Bearer hunter22"})
            )
            try:
                with pytest.raises(TonnageError) as refused:
                    await target.open()
            finally:
                await target.close()
            assert said in str(refused.value)
            assert "hunter22" not in str(refused.value)

    run(test())


def listing(*names: str) -> Callable[..., bytes]:
    models = json.dumps({"data": [{"id": name} for name in names]}).encode()
    return lambda line, _: whole("200 OK", models) if line.startswith("GET /v1/models") else GOOD


def test_the_only_model_is_the_one_that_is_asked():
    target, asked = opened(listing("llama"), model=None)
    assert target.model == "llama"
    assert asked[-1][1]["model"] == "llama"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (listing(), "has 0 models"),
        (listing("a", "b"), "has 2 models: a, b."),
        (listing(*"abcdefg"), "a, b, c, d, e, …"),
        (lambda *_: whole("404 Not Found", b""), "does not say which models"),
        (lambda *_: whole("200 OK", b"<html>"), "no list of models"),
        (lambda *_: whole("200 OK", b'{"data": 5}'), "no list of models"),
    ],
)
def test_without_one_model_to_choose_the_user_is_asked_to(answer, said):
    with pytest.raises(UsageError, match="--model") as refused:
        opened(answer, model=None)
    assert said in str(refused.value)
