"""What the LLM-call recorder adds to a call: the same calls with it and without it, in turns.

Server, recorder and client are three processes on loopback, the server as fast as it can be, so
that what differs between the two is the recorder and one more hop.
"""

from __future__ import annotations

import asyncio
import http.client
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tonnage.measurement.loop import run
from tonnage.measurement.recorder import Recorder

ROOT = Path(__file__).resolve().parents[1]
CALLS = 1000
EVENTS = 20
REQUEST = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hello"}]}'
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n' * EVENTS
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (
    len(EVENT),
    EVENT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedLatency:
    """The difference of two medians, and of two 99th percentiles."""

    p50_s: float
    p99_s: float
    direct_p50_s: float
    calls: int


def measure_added_latency(calls: int = CALLS) -> AddedLatency:
    """Make `calls` calls each way on one kept connection each, after some unmeasured ones."""
    with _process("serve") as server, _process("record", server) as recorder:
        direct, recorded = _connect(server), _connect(recorder)
        samples_s: tuple[list[float], list[float]] = ([], [])
        for turn in range(calls // 10 + calls):
            for connection, into in zip((direct, recorded), samples_s, strict=True):
                elapsed_s = _call(connection)
                if turn >= calls // 10:
                    into.append(elapsed_s)
        direct.close()
        recorded.close()
    without, through = (statistics.quantiles(each, n=100) for each in samples_s)
    return AddedLatency(
        p50_s=through[49] - without[49],
        p99_s=through[98] - without[98],
        direct_p50_s=without[49],
        calls=calls,
    )


def _connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(url.removeprefix("http://"))


def _call(connection: http.client.HTTPConnection) -> float:
    started_s = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", REQUEST, headers)
    if connection.getresponse().read() != EVENT:
        raise RuntimeError("the answer did not pass unchanged")
    return time.perf_counter() - started_s


@contextmanager
def _process(*arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.recorder", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield next(iter(process.stdout or ())).strip()
        finally:
            process.terminate()


class _Answering(asyncio.Protocol):
    """Answers whatever it gets once the body of `REQUEST` is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._heard = b""

    def data_received(self, data: bytes) -> None:
        """Answer once a request is whole."""
        self._heard += data
        if self._heard.endswith(REQUEST):
            self._heard = b""
            self._transport.write(ANSWER)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


async def _record(upstream: str) -> None:
    async with Recorder(upstream) as recorder:
        print(recorder.url_for(), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(_serve())
    elif sys.argv[1:2] == ["record"]:
        run(_record(sys.argv[2]))
    else:
        added = measure_added_latency()
        print(f"{added.calls} calls of {EVENTS} events, {added.direct_p50_s * 1e3:.3f} ms directly")
        print(f"added: p50 {added.p50_s * 1e3:.3f} ms, p99 {added.p99_s * 1e3:.3f} ms")
