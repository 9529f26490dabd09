"""A request -> the answer of a server that is broken in the way that its path names.

`/<fault>/…` misbehaves so; `/ok/…` streams three tokens as a server should. Run as a program it
prints its port and lists the faults. Servers that a test talks to in its own event loop count what
they were asked, so that a test can tell that nothing was sent twice.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import cast

from tests.servers.ending import end

DRIP_S = 0.05
IDLE_S = 0.05  # how long `dies-idle` keeps a connection
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
QUEUE_S = 0.6
THOUGHT_S = 1.0  # how long `dies-thinking` has had a request when it dies
STREAM = SSE + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of an HTTP body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(document: object) -> bytes:
    """`document` as one event of a stream."""
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def token(text: str) -> bytes:
    """One token of a chat."""
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


def stop(**more: object) -> bytes:
    """The last event with a choice."""
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **more})


def whole(status: str, body: bytes, *headers: str) -> bytes:
    """An answer of a stated length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


USAGE = {"prompt_tokens": 7, "completion_tokens": 3}
DONE = b"data: [DONE]\n\n"
EVENTS = token("one") + token(" two") + token(" three") + stop(usage=USAGE) + DONE
OK = STREAM + chunk(EVENTS) + END
MESSAGE = {"role": "assistant", "content": "one two three"}
ANSWER = json.dumps({"choices": [{"message": MESSAGE}], "usage": USAGE}).encode()
SAYS_NO = {
    "400": ("400 Bad Request", b'{"error": {"message": "prompt is too long"}}'),
    "401": ("401 Unauthorized", b'{"error": {"message": "no such key"}}'),
    "403": ("403 Forbidden", b'{"error": {"message": "not for you"}}'),
    "404": ("404 Not Found", b'{"error": {"message": "no such model"}}'),
    "429": ("429 Too Many Requests", b'{"error": {"message": "slow down"}}'),
    "500": ("500 Internal Server Error", b"line one\r\n\x1b[31mline\x00two" + b"!" * 2000),
    "503": ("503 Service Unavailable", b""),
}

# What is written before the connection is closed, or kept when the answer is complete.
WRITTEN: dict[str, tuple[bytes, bool]] = {
    "ok": (OK, True),
    "whole": (whole("200 OK", ANSWER), True),
    "until-close": (SSE + b"\r\n" + EVENTS, False),
    "http-1.0": (whole("200 OK", ANSWER).replace(b"1.1", b"1.0", 1), False),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, True),
    "early-hints": (
        b"HTTP/1.1 103 Early Hints\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n"
        b"Location: /elsewhere\r\n\r\n" + SSE + b"\r\n" + EVENTS,
        False,
    ),
    "hints-and-500": (
        b"HTTP/1.1 103 Early Hints\r\nLocation: /elsewhere\r\n\r\n"
        + whole("500 Internal Server Error", b"line one"),
        True,
    ),
    "web-page": (whole("200 OK", b"<html>Sign in</html>"), True),
    "no-tokens": (STREAM + chunk(stop() + DONE) + END, True),
    "no-done": (STREAM + chunk(token("one") + stop()) + END, True),
    "no-finish": (STREAM + chunk(token("one")) + END, True),
    "empty": (whole("200 OK", b""), True),
    "stray": (OK + b"HTTP/1.1 200 OK\r\n", True),
    "closes-early": (b"", False),
    "closes-in-head": (SSE, False),
    "closes-in-chunk": (STREAM + chunk(EVENTS)[:100], False),
    "half-a-stream": (STREAM + chunk(token("one")) + chunk(token(" two")), False),
    "length-too-long": (whole("200 OK", ANSWER).replace(b"Length: ", b"Length: 1"), False),
    "length-too-short": (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + ANSWER, True),
    "bad-chunk": (STREAM + chunk(token("one")) + b"zz\r\n", True),
    "bad-http": (b"SSH-2.0-OpenSSH_9.6\r\n", True),
    "endless-head": (SSE + b"X-Filler: " + b"x" * 400_000, True),
    "switch": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        True,
    ),
    "gzip": (whole("200 OK", gzip.compress(ANSWER), "Content-Encoding: gzip"), True),
    "redirect": (whole("307 Temporary Redirect", b"", "Location: http://elsewhere/v1"), True),
    "bad-json": (STREAM + chunk(token("one") + b"data: {oops\n\n" + DONE) + END, True),
    "bad-shape": (STREAM + chunk(event({"choices": 5}) + DONE) + END, True),
    "error-event": (
        STREAM + chunk(token("one") + event({"error": {"message": "out of memory"}})) + END,
        True,
    ),
    "error-and-gone": (STREAM + chunk(event({"error": "out of memory"})), False),
    "error-kind": (STREAM + chunk(b"event: error\ndata: out of memory\n\n") + END, True),
    "error-body": (whole("200 OK", b'{"object": "error", "message": "out of memory"}'), True),
    **{name: (whole(status, body), True) for name, (status, body) in SAYS_NO.items()},
}


@dataclass
class Faults:
    """A running server: where it is, and how often each path was asked."""

    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)


@dataclass
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answered: int = 0

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait for the other side to close."""
        await self.reader.read()


async def _silent(connection: _Connection) -> bool:
    await connection.gone()
    return False


async def _stalls(connection: _Connection) -> bool:
    await connection.send(STREAM + chunk(token("one")))
    await connection.gone()
    return False


async def _queues(connection: _Connection) -> bool:
    """Headers at once, the rest much later."""
    await connection.send(OK[: len(STREAM)])
    await asyncio.sleep(QUEUE_S)
    await connection.send(OK[len(STREAM) :])
    return True


async def _drips_head(connection: _Connection) -> bool:
    await connection.send(SSE + b"X-Slow: ")
    while not connection.reader.at_eof():
        await connection.send(b"x")
        await asyncio.sleep(DRIP_S)
    return False


async def _drips_body(connection: _Connection) -> bool:
    await connection.send(STREAM)
    while not connection.reader.at_eof():
        await connection.send(chunk(b":"))
        await asyncio.sleep(DRIP_S)
    return False


async def _slow(connection: _Connection) -> bool:
    """A good answer, a few bytes at a time."""
    for at in range(0, len(OK), 40):
        await connection.send(OK[at : at + 40])
        await asyncio.sleep(DRIP_S / 10)
    return True


async def _dies_idle(connection: _Connection) -> bool:
    await connection.send(OK)
    await asyncio.sleep(IDLE_S)
    return False


async def _dies_asked(connection: _Connection) -> bool:
    if connection.answered:
        return False
    await connection.send(OK)
    return True


async def _dies_thinking(connection: _Connection) -> bool:
    if connection.answered:
        await asyncio.sleep(THOUGHT_S)
        return False
    await connection.send(OK)
    return True


async def _dies_answering(connection: _Connection) -> bool:
    if connection.answered:
        await connection.send(SSE)
        return False
    await connection.send(OK)
    return True


ACTED: dict[str, Callable[[_Connection], Awaitable[bool]]] = {
    "silent": _silent,
    "stalls": _stalls,
    "queues": _queues,
    "drips-head": _drips_head,
    "drips-body": _drips_body,
    "slow": _slow,
    "dies-idle": _dies_idle,
    "dies-asked": _dies_asked,
    "dies-thinking": _dies_thinking,
    "dies-answering": _dies_answering,
}


@asynccontextmanager
async def fault_server(
    *, host: str = "127.0.0.1", ssl: SSLContext | None = None
) -> AsyncIterator[Faults]:
    """A server in this event loop, with every fault that there is."""
    faults = Faults()

    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(cast("asyncio.Task[None]", asyncio.current_task()))
        connection = _Connection(reader, writer)
        try:
            while await _answer_one(connection, faults.asked):
                connection.answered += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    server = await asyncio.start_server(answer, host, 0, ssl=ssl)
    port = server.sockets[0].getsockname()[1]
    authority = f"[{host}]" if ":" in host else host
    faults.url = f"{'https' if ssl else 'http'}://{authority}:{port}"
    try:
        yield faults
    finally:
        await end(server, tasks)


async def _answer_one(connection: _Connection, asked: Counter[str]) -> bool:
    """Read a request and answer it; whether the connection goes on."""
    head = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    body = await connection.reader.readexactly(int(headers.get("content-length", 0)))
    path = request.split()[1]
    name = path.split("/")[1].partition("?")[0]
    asked[name] += 1
    if name == "echo":  # what was sent, as the text of an error
        await connection.send(whole("418 Teapot", (head + body.decode()).encode()))
        return True
    if name in ACTED:
        return await ACTED[name](connection)
    written, goes_on = WRITTEN[name]
    await connection.send(written)
    return goes_on


async def _serve() -> None:
    async with fault_server() as faults:
        print(faults.url.rpartition(":")[2], flush=True)  # noqa: T201 — a door
        print(*ACTED, *WRITTEN)  # noqa: T201 — as above
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve())
