"""A request -> an answer whose every token leaves at a time that is known beforehand.

`python -m tests.servers.timed --ttft-s 0.1 --itl-s 0.04 --output-tokens 50` prints its port and
answers until it is ended: chat and completions, streamed and whole, as fast as any number of
clients ask. Token i of a request that arrived at t leaves at t + ttft + i x itl, counted from t
and not from the token before, so that delays do not add up. What a client measures beyond that is
the network's, and the client's own.

Timers of an event loop count in milliseconds, too coarse for a truth; a timerfd of Linux is not.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Literal, cast

Kind = Literal["chat", "completions"]

ROOT = Path(__file__).resolve().parents[2]
MODEL = "timed"
BACKLOG = 4096
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@contextmanager
def timed_server(*, ttft_s: float, itl_s: float, output_tokens: int) -> Iterator[str]:
    """The base URL of a server of its own process, which ends with the block."""
    command = [sys.executable, "-m", "tests.servers.timed"]
    command += ["--ttft-s", str(ttft_s), "--itl-s", str(itl_s)]
    command += ["--output-tokens", str(output_tokens)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


class Ticks:
    """Callbacks at absolute times of `time.monotonic`, late by microseconds."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._due: list[tuple[float, int, Answering]] = []
        self._added = 0
        asyncio.get_running_loop().add_reader(self._timer, self._ring)

    def add(self, when_s: float, connection: Answering) -> None:
        """Have `connection.tick()` called at `when_s`."""
        self._added += 1  # of two at the same time, the first added comes first
        heappush(self._due, (when_s, self._added, connection))
        if self._due[0][1] == self._added:
            self._arm()

    def _arm(self) -> None:
        when_s = max(self._due[0][0], 1e-9)  # zero would disarm it
        seconds, nanoseconds = divmod(int(when_s * 1e9), 1_000_000_000)
        setting = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)
        self._libc.timerfd_settime(self._timer, 1, setting, None)  # 1: TFD_TIMER_ABSTIME

    def _ring(self) -> None:
        os.read(self._timer, 8)
        now_s = time.monotonic()  # what falls due meanwhile waits until requests have been read
        while self._due and self._due[0][0] <= now_s:
            heappop(self._due)[2].tick()
        if self._due:
            self._arm()


class Answering(asyncio.Protocol):
    """One connection: reads a request, then answers it at its times."""

    def __init__(self, ticks: Ticks, options: argparse.Namespace) -> None:
        self._ticks = ticks
        self._ttft_s: float = options.ttft_s
        self._itl_s: float = options.itl_s
        self._output_tokens: int = options.output_tokens
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        arrived_s = time.monotonic()
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = _content_length(head)
        if len(rest) < length:
            return
        self._received = rest[length:]
        method, path, _ = head.split(b" ", 2)
        if method == b"GET":
            self._write(_whole({"object": "list", "data": [{"id": MODEL, "object": "model"}]}))
        else:
            kind: Kind = "chat" if path.endswith(b"/chat/completions") else "completions"
            self._begin(kind, json.loads(rest[:length]), arrived_s)

    def _begin(self, kind: Kind, request: dict[str, Any], arrived_s: float) -> None:
        tokens = request.get("max_tokens") or self._output_tokens
        usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}
        self._first_s = arrived_s + self._ttft_s
        self._sent = 0
        if not request.get("stream"):
            choice = {"index": 0, "finish_reason": "length", **WHOLE[kind]("x" * tokens)}
            self._last = _whole({"model": MODEL, "choices": [choice], "usage": usage})
            self._pieces = 1
            ready = b""
            self._first_s += self._itl_s * (tokens - 1)
        else:
            self._token = TOKEN[kind]
            self._last = LAST_TOKEN[kind]
            if (request.get("stream_options") or {}).get("include_usage"):
                self._last += _event({"model": MODEL, "choices": [], "usage": usage})
            self._last += DONE
            self._pieces = tokens
            ready = HEAD[kind]
        while self._sent < self._pieces and self._due_s() <= arrived_s:
            ready += self._next()
        self._write(ready)
        self._wait()

    def tick(self) -> None:
        """Send the token that is due now."""
        if self._transport is not None:
            self._write(self._next())
            self._wait()

    def _due_s(self) -> float:
        return self._first_s + self._sent * self._itl_s

    def _next(self) -> bytes:
        self._sent += 1
        return self._last if self._sent == self._pieces else self._token

    def _wait(self) -> None:
        if self._sent < self._pieces:
            self._ticks.add(self._due_s(), self)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _whole(document: dict[str, Any]) -> bytes:
    body = json.dumps(document).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    ) + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(document: dict[str, Any]) -> bytes:
    return _chunk(b"data: " + json.dumps(document).encode() + b"\n\n")


def _choice(**fields: object) -> bytes:
    choice = {"index": 0, "finish_reason": None, **fields}
    return _event(
        {"id": "cmpl-1", "object": "chunk", "created": 0, "model": MODEL, "choices": [choice]}
    )


HEAD: dict[Kind, bytes] = {
    "chat": STREAM_HEAD + _choice(delta={"role": "assistant", "content": ""}),  # no token yet
    "completions": STREAM_HEAD,
}
TOKEN: dict[Kind, bytes] = {
    "chat": _choice(delta={"content": "x"}),
    "completions": _choice(text="x"),
}
LAST_TOKEN: dict[Kind, bytes] = {
    "chat": _choice(delta={"content": "x"}, finish_reason="length"),
    "completions": _choice(text="x", finish_reason="length"),
}
WHOLE: dict[Kind, Callable[[str], dict[str, Any]]] = {
    "chat": lambda text: {"message": {"role": "assistant", "content": text}},
    "completions": lambda text: {"text": text},
}
DONE = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


async def serve(options: argparse.Namespace) -> None:
    """Answer until ended."""
    ticks = Ticks()
    server = await asyncio.get_running_loop().create_server(
        lambda: Answering(ticks, options), "127.0.0.1", 0, backlog=BACKLOG
    )
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 — a door
    await server.serve_forever()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ttft-s", type=float, default=0.1)
    parser.add_argument("--itl-s", type=float, default=0.04)
    parser.add_argument("--output-tokens", type=int, default=50)
    from tonnage.measurement.loop import run  # noqa: PLC0415 — whoever only starts it needs none

    run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
