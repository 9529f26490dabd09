"""The recorder in front of a real server on loopback: nothing altered, everything noted."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import httptools
import pytest
from hypothesis import given, settings
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
from tests.servers.ending import end
from tonnage.errors import UsageError
from tonnage.measurement import loop
from tonnage.measurement.load import LlmCall
from tonnage.measurement.recorder import Recorder

T = TypeVar("T")
USAGE = {"prompt_tokens": 11, "completion_tokens": 7}
WHOLE = {"model": "served", "choices": [{"message": {"content": "hi"}}], "usage": USAGE}
RAW_DEFLATE = zlib.compress(json.dumps(WHOLE).encode())[2:-4]  # without the header of zlib
PIECE = b"x" * 1000
TOO_LARGE = reply({"error": {"message": "too large"}}, status="413 Content Too Large")


def event(delta: dict[str, Any] | None, **others: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta}]
    return f"data: {json.dumps({'model': 'served', 'choices': choices} | others)}\n\n".encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: recorder", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def run(going: Coroutine[Any, Any, T]) -> T:
    """Run a test that would otherwise wait for ever when it fails."""
    return loop.run(asyncio.wait_for(going, timeout=20))


class Answer:
    """One answer read to its end from a connection, and the raw bytes of it."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.body_pieces: list[bytes] = []
        self.done = False

    @property
    def raw(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def body(self) -> bytes:
        return b"".join(self.body_pieces)

    def on_body(self, body: bytes) -> None:
        self.body_pieces.append(body)

    def on_message_complete(self) -> None:
        self.done = True


class Client:
    """A bare connection, so that it is seen what really passes."""

    def __init__(self, url: str) -> None:
        self.address = url.removeprefix("http://").split("/")[0]
        self.path = url.removeprefix(f"http://{self.address}")

    async def __aenter__(self) -> Self:
        host, port = self.address.split(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, request: bytes) -> Answer:
        self.writer.write(request)
        answer = Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.done and (data := await self.reader.read(65536)):
            answer.pieces.append(data)
            with suppress(httptools.HttpParserError):
                parser.feed_data(data)
        return answer


@asynccontextmanager
async def serving(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """The base URL of a server that does to each connection what `serve` does, and closes it."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    finally:
        await end(server, tasks)


async def ended(recorder: Recorder) -> LlmCall:
    """The first call of the token "me", once it has ended."""
    while not recorder.calls("me"):  # noqa: ASYNC110 — a recorder tells nobody
        await asyncio.sleep(0.01)
    return recorder.calls("me")[0]


def record(
    steps: Sequence[Step],
    body: dict[str, Any] | None = None,
    *,
    path: str = "/chat/completions",
) -> tuple[Answer, tuple[LlmCall, ...]]:
    """What a client got of one request through the recorder, and what was noted of it."""

    async def go() -> tuple[Answer, tuple[LlmCall, ...]]:
        async with scripted(lambda _: steps) as server, Recorder(f"{server.url}/v1") as recorder:
            async with Client(recorder.url_for("me")) as client:
                request = json.dumps(body or {"model": "asked", "messages": []}).encode()
                answer = await client.ask(post(client.path + path, request))
            return answer, recorder.end("me")

    return run(go())


def test_a_request_arrives_as_it_was_sent_but_for_its_host() -> None:
    async def go() -> None:
        async with (
            scripted(lambda _: [reply(WHOLE)]) as server,
            Recorder(f"{server.url}/base/v1") as recorder,
            Client(recorder.url_for("me")) as client,
        ):
            key = "Authorization: Bearer not-for-the-record"
            offers = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM")
            path = f"{client.path}/chat/completions?version=1"
            await client.ask(post(path, b'{"model": "x"}', key, *offers))
            [request] = server.requests
            assert request.line == "POST /base/v1/chat/completions?version=1 HTTP/1.1"
            assert request.body == b'{"model": "x"}'
            assert dict(request.headers) == {
                "Host": server.url.removeprefix("http://"),
                "Content-Length": "14",
                "Authorization": "Bearer not-for-the-record",
            }
            assert "not-for-the-record" not in repr(recorder.calls("me"))

    run(go())


def test_a_whole_answer_passes_unchanged_and_is_noted() -> None:
    before_s = time.time()
    answer, [call] = record([0.05, reply(WHOLE)])
    assert answer.raw == reply(WHOLE)
    assert (call.model, call.prompt_tokens, call.output_tokens) == ("served", 11, 7)
    assert (call.failure, call.ttft_s) == (None, None)
    assert 0.04 < call.latency_s < 5
    assert before_s - 1 < call.started_unix_s < call.ended_unix_s < time.time() + 1


def test_of_a_stream_the_first_token_is_the_first_that_is_not_empty() -> None:
    steps: list[Step] = [STREAM_HEAD + chunk(event({"role": "assistant", "content": ""})), 0.1]
    steps += [chunk(event({"content": "a"})), 0.05, chunk(event({"content": "b"}))]
    steps += [chunk(event({})) + chunk(b"data: [DONE]\n\n") + STREAM_END]
    answer, [call] = record(steps)
    assert answer.raw == b"".join(step for step in steps if isinstance(step, bytes))
    assert call.ttft_s is not None
    assert 0.09 < call.ttft_s < call.latency_s - 0.04
    assert (call.output_tokens, call.prompt_tokens) == (2, None)  # no usage: events are counted


def test_usage_of_a_stream_is_trusted_before_its_events() -> None:
    steps = [STREAM_HEAD, chunk(event({"content": "a b c"})), chunk(event(None, usage=USAGE))]
    _, [call] = record([*steps, STREAM_END])
    assert (call.output_tokens, call.prompt_tokens) == (7, 11)


@pytest.mark.parametrize(
    "delta", [{"reasoning_content": "hm"}, {"tool_calls": [{"index": 0}]}, {"content": "x"}]
)
def test_thoughts_and_tools_are_tokens_too(delta) -> None:
    _, [call] = record([STREAM_HEAD, chunk(event(delta)), STREAM_END])
    assert call.ttft_s is not None


def test_the_responses_api_is_noted() -> None:
    lines = [
        {"type": "response.created", "response": {"model": "served", "error": None}},
        {"type": "response.output_text.delta", "delta": "hi"},
        {
            "type": "response.completed",
            "response": {"model": "served", "usage": {"input_tokens": 3, "output_tokens": 1}},
        },
    ]
    chunks = [chunk(f"event: x\ndata: {json.dumps(line)}\n\n".encode()) for line in lines]
    _, [call] = record([STREAM_HEAD, *chunks, STREAM_END], path="/responses")
    assert (call.model, call.prompt_tokens, call.output_tokens) == ("served", 3, 1)
    assert call.ttft_s is not None


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_stream_is_read_alike_however_it_is_cut(data) -> None:
    texts = data.draw(st.lists(st.text(max_size=3), max_size=5))
    events = b"".join(event({"content": text}) for text in texts) + event(None, usage=USAGE)
    stream = STREAM_HEAD + chunk(events) + STREAM_END
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    answer, [call] = record([step for piece in pieces for step in (piece, 0.0)])
    assert (answer.raw, answer.body) == (stream, events)
    assert (call.output_tokens, call.failure) == (7, None)
    assert (call.ttft_s is not None) == any(texts)


def test_a_compressed_answer_passes_unchanged_and_is_read() -> None:
    body = gzip.compress(json.dumps(WHOLE).encode())
    raw = http(body).replace(b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type")
    answer, [call] = record([raw])
    assert (answer.raw, call.output_tokens) == (raw, 7)


def test_an_encoding_that_cannot_be_read_is_no_failure() -> None:
    raw = http(b"\x01\x02").replace(b"Content-Type", b"Content-Encoding: br\r\nContent-Type")
    answer, [call] = record([raw])
    assert (answer.raw, call.failure, call.output_tokens) == (raw, None, None)


@pytest.mark.parametrize(
    ("raw", "failure"),
    [
        (http(RAW_DEFLATE), None),
        (http(RAW_DEFLATE, status="503 Service Unavailable"), "http"),
        (STREAM_HEAD + chunk(RAW_DEFLATE) + STREAM_END, None),
    ],
)
def test_deflate_without_its_header_is_an_encoding_that_cannot_be_read(raw, failure) -> None:
    raw = raw.replace(b"Content-Type", b"Content-Encoding: deflate\r\nContent-Type")
    answer, [call] = record([0.05, raw])
    assert (answer.raw, call.failure) == (raw, failure)
    assert (call.output_tokens, call.prompt_tokens, call.model) == (None, None, "asked")
    assert 0.04 < call.latency_s < 5


def test_a_stream_whose_encoding_breaks_keeps_its_times_and_has_no_tokens() -> None:
    packed = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    first = packed.compress(event({"content": "a"}, usage=USAGE)) + packed.flush(zlib.Z_SYNC_FLUSH)
    head = STREAM_HEAD.replace(b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type")
    rest = chunk(b"\xff" * 20) + chunk(b"\xff") + STREAM_END
    answer, [call] = record([head + chunk(first), 0.05, rest])
    assert answer.raw == head + chunk(first) + rest
    assert (call.failure, call.output_tokens, call.prompt_tokens) == (None, None, None)
    assert call.ttft_s is not None
    assert call.ttft_s < call.latency_s - 0.04


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\nContent-Length: 20\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 20\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 20\n\n",
    ],
)
def test_an_answer_that_is_bad_http_passes_whole_and_is_malformed(head) -> None:
    async def go() -> None:
        async with (
            scripted(lambda _: [head + b"1234567890", 0.05, b"abcdefghij"]) as server,
            Recorder(server.url) as recorder,
            Client(recorder.url_for("me")) as client,
        ):
            for times in (1, 2):  # on the same connection
                client.writer.write(post(f"{client.path}/chat/completions", b'{"model": "m"}'))
                raw = await client.reader.readexactly(len(head) + 20)
                assert raw == head + b"1234567890abcdefghij"
                calls = recorder.calls("me")
                assert [(call.failure, call.model) for call in calls] == [
                    ("malformed", "m")
                ] * times
            assert [request.path for request in server.requests] == ["/chat/completions"] * 2

    run(go())


@pytest.mark.parametrize(
    ("steps", "failure"),
    [
        ([reply({"error": {"message": "full"}}, status="429 Too Many Requests")], "http"),
        ([reply({"error": {"message": "no"}})], "rejected"),
        ([STREAM_HEAD + chunk(b'data: {"error": {"message": "x"}}\n\n') + STREAM_END], "rejected"),
        ([STREAM_HEAD + chunk(b"data: {nonsense\n\n") + STREAM_END], "malformed"),
        ([http(b"nonsense")], "malformed"),
        ([b"SSH-2.0-OpenSSH_9.0\r\n", 0.05, None], "malformed"),
        ([STREAM_HEAD + chunk(event({"content": "a"})), 0.05, None], "truncated"),
        ([None], "truncated"),
    ],
)
def test_each_failure_is_noted_as_its_kind(steps, failure) -> None:
    _, [call] = record(steps)
    assert call.failure == failure
    assert call.model == ("served" if failure == "truncated" and steps[0] else "asked")


def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    raw = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + json.dumps(WHOLE).encode()
    answer, [call] = record([raw])
    assert (answer.raw, call.failure, call.output_tokens) == (raw, None, 7)


def test_a_client_that_hangs_up_hangs_up_on_the_server_too() -> None:
    async def go() -> None:
        tick = chunk(event({"content": "a"}))
        steps: list[Step] = [STREAM_HEAD]
        for _ in range(500):
            steps += [tick, 0.01]
        async with scripted(lambda _: steps) as server, Recorder(server.url) as recorder:
            async with Client(recorder.url_for("me")) as client:
                client.writer.write(post(f"{client.path}/chat/completions", b"{}"))
                await client.reader.readuntil(b"data: ")
            await asyncio.wait_for(server.requests[0].lost.wait(), timeout=5)
            [call] = recorder.calls("me")
            assert call.failure == "stopped"
            assert call.ttft_s is not None

    run(go())


def test_a_server_that_closes_because_its_client_has_gone_has_not_truncated_its_answer() -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        assert await reader.read() == b""

    async def go() -> None:
        async with serving(serve) as url, Recorder(url) as recorder:
            async with Client(recorder.url_for("me")) as client:
                client.writer.write(post(f"{client.path}/chat/completions", b"{}"))
                await asyncio.sleep(0.05)
                assert recorder.calls("me") == ()
            assert (await ended(recorder)).failure == "stopped"

    run(go())


@pytest.mark.parametrize("run", [run, asyncio.run])  # each closes halves in its own way
@pytest.mark.parametrize("pause_s", [0.0, 0.05])  # before and after there is a server behind
def test_a_client_that_has_said_everything_still_gets_its_answer(run, pause_s) -> None:
    async def go() -> None:
        tick = chunk(event({"content": "a"}))
        steps: list[Step] = [0.1, STREAM_HEAD, 0.01, tick, 0.01, tick, STREAM_END]
        async with (
            scripted(lambda _: steps) as server,
            Recorder(server.url) as recorder,
            Client(recorder.url_for("me")) as client,
        ):
            client.writer.write(post(f"{client.path}/chat/completions", b"{}"))
            await asyncio.sleep(pause_s)
            client.writer.write_eof()
            answer = await asyncio.wait_for(client.reader.read(), timeout=5)
            assert answer == STREAM_HEAD + tick + tick + STREAM_END
            [call] = recorder.calls("me")
            assert (call.failure, call.output_tokens) == (None, 2)

    run(go())


@pytest.mark.parametrize("run", [run, asyncio.run])
def test_an_answer_may_come_before_its_request_has_ended(run) -> None:
    sizes: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (TOO_LARGE, reply(WHOLE)):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            sizes.append(len(await reader.readexactly(20 * len(PIECE))))

    async def go() -> None:
        async with (
            serving(serve) as url,
            Recorder(url) as recorder,
            Client(recorder.url_for("me")) as client,
        ):
            head = post(f"{client.path}/chat/completions", PIECE * 20).removesuffix(PIECE * 20)
            for answer in (TOO_LARGE, reply(WHOLE)):
                client.writer.write(head)
                assert (await client.ask(b"")).raw == answer
                for _ in range(20):
                    client.writer.write(PIECE)
                    await client.writer.drain()
                    await asyncio.sleep(0.001)
            while len(sizes) < 2:  # noqa: ASYNC110 — a server of the tests has no event
                await asyncio.sleep(0.01)
            refused, whole = recorder.calls("me")
            assert (refused.failure, whole.failure, whole.output_tokens) == ("http", None, 7)

    run(asyncio.wait_for(go(), timeout=20))


@pytest.mark.parametrize("run", [run, asyncio.run])
@pytest.mark.parametrize(
    ("reads", "pieces", "pause_s"),
    [(True, 50, 0.002), (False, 20_000, 0.0)],  # little by little, and more than buffers hold
)
def test_a_server_that_answers_early_and_closes_does_not_break_the_upload(
    run, reads, pieces, pause_s
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(TOO_LARGE)
        if not reads:
            await asyncio.sleep(0.2)  # until every buffer on the way is full
            return
        writer.write_eof()
        while await reader.read(65536):
            pass

    async def go() -> None:
        async with (
            serving(serve) as url,
            Recorder(url) as recorder,
            Client(recorder.url_for("me")) as client,
        ):
            request = post(f"{client.path}/chat/completions", PIECE * pieces)
            for start in range(0, len(request), len(PIECE)):
                client.writer.write(request[start : start + len(PIECE)])
                await client.writer.drain()
                await asyncio.sleep(pause_s)
            assert await client.reader.read() == TOO_LARGE  # and the end of the connection
            client.writer.write(request)  # nobody is there to be asked again
            await asyncio.sleep(0.05)
            [call] = recorder.end("me")
            assert call.failure == "http"

    run(asyncio.wait_for(go(), timeout=20))


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server at https://localhost needs; it is trusted as long as SSL_CERT_FILE is set."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2"
    command += " -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command += f" -keyout {key.name} -out {certificate.name}"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server


@pytest.mark.parametrize("run", [run, asyncio.run])
def test_certificates_are_read_once_and_not_for_each_connection(run, tls, monkeypatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(reply(WHOLE))
        await reader.read()

    async def go() -> None:
        async with serving(serve, tls) as url, Recorder(url) as recorder:
            monkeypatch.delenv("SSL_CERT_FILE")
            for _ in range(2):
                async with Client(recorder.url_for("me")) as client:
                    request = post(f"{client.path}/chat/completions", b"{}")
                    assert (await client.ask(request)).raw == reply(WHOLE)

    run(go())


@pytest.mark.parametrize("run", [run, asyncio.run])
@pytest.mark.parametrize("pause_s", [0.0, 0.2])  # before and after there is a server behind
def test_a_client_that_hangs_up_hangs_up_on_a_server_with_tls_too(run, pause_s, tls) -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.sleep(60)

    async def go() -> None:
        async with serving(serve, tls) as url, Recorder(url) as recorder:
            async with Client(recorder.url_for("me")) as client:
                client.writer.write(post(f"{client.path}/chat/completions", b"{}"))
                await asyncio.sleep(pause_s)
            assert (await ended(recorder)).failure == "stopped"

    run(asyncio.wait_for(go(), timeout=10))


def test_calls_under_way_when_their_token_ends_are_stopped() -> None:
    async def go() -> None:
        async with (
            scripted(lambda _: [60.0]) as server,
            Recorder(server.url) as recorder,
            Client(recorder.url_for("me")) as client,
        ):
            client.writer.write(post(f"{client.path}/chat/completions", b'{"model": "m"}'))
            while not server.requests:  # noqa: ASYNC110 — a server of the tests has no event
                await asyncio.sleep(0.01)
            assert recorder.calls("me") == ()
            [call] = recorder.end("me")
            assert (call.failure, call.model) == ("stopped", "m")

    run(go())


def test_a_base_url_stops_working_with_its_token() -> None:
    async def go() -> None:
        async with (
            scripted(lambda _: [reply({}, status="404 Not Found")]) as server,
            Recorder(f"{server.url}/v1") as recorder,
            Client(recorder.url_for("me")) as client,
        ):
            recorder.end("me")
            await client.ask(post(f"{client.path}/chat/completions", b"{}"))
            assert server.requests[0].path == "/me/v1/chat/completions"

    run(go())


def test_tokens_keep_calls_apart_and_calls_without_one_are_noted_too() -> None:
    async def go() -> None:
        async with scripted(lambda _: [reply(WHOLE)]) as server:
            async with Recorder(f"{server.url}/v1") as recorder:
                urls = [recorder.url_for(token) for token in ("a", "b", "")]

                async def ask(url: str, times: int) -> None:
                    async with Client(url) as client:  # one connection, kept alive
                        for _ in range(times):
                            await client.ask(post(f"{client.path}/chat/completions", b"{}"))

                await asyncio.gather(*(ask(url, 3 + i) for i, url in enumerate(urls)))
                assert [len(recorder.calls(token)) for token in ("a", "b", "")] == [3, 4, 5]
                assert recorder.model == "served"
                assert len(recorder.take("a")) == 3
                assert (recorder.take("a"), recorder.end("a")) == ((), ())
            assert len({call.id for token in ("b", "") for call in recorder.calls(token)}) == 9
            assert {request.path for request in server.requests} == {"/v1/chat/completions"}
            assert len({request.connection for request in server.requests}) == 3

    run(go())


def test_other_paths_and_methods_pass_unnoted() -> None:
    async def go() -> None:
        def answer(request: Request) -> list[Step]:
            if request.line.startswith("HEAD"):
                return [b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"]
            return [reply({"object": "list"})]

        async with scripted(answer) as server, Recorder(f"{server.url}/v1") as recorder:
            async with Client(recorder.url_for("me")) as client:
                client.writer.write(f"HEAD {client.path}/models HTTP/1.1\r\n\r\n".encode())
                await client.reader.readuntil(b"\r\n\r\n")
                got = await client.ask(f"GET {client.path}/models HTTP/1.1\r\n\r\n".encode())
                await client.ask(post(f"{client.path}/embeddings", b'{"input": "x"}'))
                await client.ask(post(f"{client.path}/chat/completions", b"{}"))
            assert got.body == b'{"object": "list"}'
            assert len(recorder.calls("me")) == 1

    run(go())


def test_a_head_does_not_end_the_call_after_it() -> None:
    async def go() -> None:
        def answer(request: Request) -> list[Step]:
            return [b"HTTP/1.1 200 OK\r\n\r\n"] if request.line.startswith("HEAD") else [None]

        async with scripted(answer) as server, Recorder(server.url) as recorder:
            async with Client(recorder.url_for("me")) as client:
                client.writer.write(f"HEAD {client.path}/models HTTP/1.1\r\n\r\n".encode())
                await client.reader.readuntil(b"\r\n\r\n")
                await client.ask(post(f"{client.path}/chat/completions", b"{}"))
            assert [call.failure for call in recorder.calls("me")] == ["truncated"]

    run(go())


def test_a_chunked_request_and_a_100_continue_pass() -> None:
    async def go() -> None:
        proceed = b"HTTP/1.1 100 Continue\r\n\r\n"
        async with (
            scripted(lambda _: [proceed, reply(WHOLE)]) as server,
            Recorder(server.url) as recorder,
            Client(recorder.url_for("me")) as client,
        ):
            head = f"POST {client.path}/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            client.writer.write(head.encode() + chunk(b'{"model":'))
            await asyncio.sleep(0.02)
            client.writer.write(chunk(b' "m"}') + STREAM_END)
            await client.reader.readuntil(proceed)
            answer = await client.ask(b"")
            assert (answer.raw, server.requests[0].body) == (reply(WHOLE), b'{"model": "m"}')
            [call] = recorder.calls("me")
            assert (call.output_tokens, call.failure) == (7, None)

    run(go())


@pytest.mark.parametrize("run", [run, asyncio.run])  # each has words of its own for it
def test_nobody_behind_is_a_clear_502(run) -> None:
    async def go() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            upstream = f"http://localhost:{free.getsockname()[1]}/v1"
        async with Recorder(upstream) as recorder, Client(recorder.url_for("me")) as client:
            answer = await client.ask(post(f"{client.path}/chat/completions", b'{"model": "m"}'))
            assert answer.raw.startswith(b"HTTP/1.1 502 ")
            assert upstream in json.loads(answer.body)["error"]["message"]
            [call] = recorder.calls("me")
            assert (call.failure, call.model) == ("refused", "m")

    run(go())


def test_what_is_not_http_is_a_400() -> None:
    async def go() -> None:
        async with (
            Recorder("http://localhost:9/v1") as recorder,
            Client(recorder.url_for("me")) as client,
        ):
            assert (await client.ask(b"NOT HTTP\r\n\r\n")).raw.startswith(b"HTTP/1.1 400 ")

    run(go())


def test_a_client_that_does_not_read_holds_up_the_server_and_not_the_memory() -> None:
    async def go() -> None:
        block = chunk(event({"content": "x" * 1_000_000}))
        sent = []

        def steps(_: Request) -> Sequence[Step]:
            class Counted(list[Step]):
                def __iter__(self):
                    for piece in [STREAM_HEAD, *[block] * 40, STREAM_END]:
                        sent.append(len(piece))
                        yield piece

            return Counted()

        async with (
            scripted(steps) as server,
            Recorder(server.url) as recorder,
            Client(recorder.url_for("me")) as client,
        ):
            client.writer.write(post(f"{client.path}/chat/completions", b"{}"))
            await asyncio.sleep(0.5)
            held = sum(sent)
            answer = await client.ask(b"")
            assert held < 32_000_000 < len(answer.body)

    run(go())


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://x/v1", "http://user:key@x/v1", "http://x/v1?key=1"]
)
def test_a_base_url_that_is_none_is_refused_and_keys_in_it_are_not_repeated(url) -> None:
    with pytest.raises(UsageError) as raised:
        Recorder(url)
    assert "key" not in str(raised.value).replace("keys go", "")
