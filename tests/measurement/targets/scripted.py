"""A loopback server that answers each request with exactly the bytes and pauses it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.servers.ending import end

Step = bytes | float | None  # bytes to send, seconds to wait, or None: reset the connection


@dataclass
class Request:
    """One request as it arrived; `lost` is set when its client went away before the answer."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class Scripted:
    """Where it listens, and what it was asked."""

    url: str
    requests: list[Request]


@asynccontextmanager
async def scripted(answer: Callable[[Request], Sequence[Step]]) -> AsyncIterator[Scripted]:
    """A server whose answers are what `answer` makes of each request."""
    requests: list[Request] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        number = len(tasks)
        try:
            while request := await _read(reader, number):
                requests.append(request)
                last = False
                for step in answer(request):
                    if step is None:
                        writer.transport.abort()
                        return
                    if isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                        last = last or b"connection: close" in step[:1000].lower()
                    else:
                        await asyncio.sleep(step)
                if last:
                    return
        except ConnectionError:
            requests[-1].lost.set()
        except asyncio.CancelledError:
            pass  # the server ends in the middle of an answer
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Scripted(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests)
    finally:
        await end(server, tasks)


def http(body: bytes, *, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """A whole answer with a length."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def reply(value: Any, *, status: str = "200 OK") -> bytes:
    """A whole answer of JSON."""
    return http(json.dumps(value).encode(), status=status)


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
STREAM_END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _read(reader: asyncio.StreamReader, connection: int) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = [(key, value) for key, _, value in (each.partition(": ") for each in lines)]
    request = Request(line, headers, b"", connection)
    if length := request.header("content-length"):
        request.body = await reader.readexactly(int(length[0]))
    elif request.header("transfer-encoding"):
        while size := int(await reader.readline(), 16):
            request.body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    return request
