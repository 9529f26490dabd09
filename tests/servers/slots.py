"""A request -> an answer when a slot is free: a server whose capacity is known.

`slots` requests are served at once, each for `service_s`; the others queue, first come first
served. `rota` names what becomes of each request after the first, over and over: "ok", or a fault
of `tests.servers.faults`. It runs in a thread of whoever opens it, who can see what it was asked.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.servers.faults import DRIP_S, SSE, STREAM, WRITTEN, chunk, token

SETTLES_S = 0.02  # connections that were just made
DRIPS = {"drips-head": (SSE + b"X-Slow: ", b"x"), "drips-body": (STREAM, chunk(b":"))}


@dataclass(frozen=True)
class Asked:
    """One request: its path, headers and body."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Slots:
    """A running server: what it was asked, and how many whole answers it has begun to write."""

    url: str
    loop: asyncio.AbstractEventLoop
    slots: asyncio.Semaphore
    service_s: float
    rota: Sequence[str]
    leave_after: int | None
    asked: list[Asked] = field(default_factory=list)
    answered: int = 0
    server: asyncio.Server | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._answer(reader, writer):
                pass
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and answer it; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *lines = head.strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        number = len(self.asked)
        self.asked.append(Asked(request.split()[1], headers, json.loads(body or b"{}")))
        if number == self.leave_after and self.server is not None:
            self.server.close()
            return False
        fault = self.rota[(number - 1) % len(self.rota)] if self.rota and number else "ok"
        async with self.slots:
            await asyncio.sleep(self.service_s)
        self.answered += fault == "ok"  # before whoever asked can know of it
        goes_on = await self._write(fault, reader, writer)
        return goes_on and self.server is not None and self.server.is_serving()

    async def _write(
        self, fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if fault in WRITTEN:
            written, goes_on = WRITTEN[fault]
            writer.write(written)
            await writer.drain()
            return goes_on
        begin, drip = DRIPS.get(fault, (STREAM + chunk(token("one")), b""))
        if fault != "silent":
            writer.write(begin)
        while drip and not reader.at_eof():
            writer.write(drip)
            await asyncio.sleep(DRIP_S)
        await reader.read()
        return False


@contextmanager
def slots_server(
    *,
    slots: int = 64,
    service_s: float = 0.0,
    rota: Sequence[str] = (),
    leave_after: int | None = None,
) -> Iterator[Slots]:
    """A server with its base URL; `leave_after` so many requests it hangs up and is gone."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> Slots:
        state = Slots("", loop, asyncio.Semaphore(slots), service_s, rota, leave_after)
        state.server = await asyncio.start_server(state.serve, "127.0.0.1", 0, backlog=1024)
        state.url = f"http://127.0.0.1:{state.server.sockets[0].getsockname()[1]}/v1"
        return state

    async def stop() -> None:
        await asyncio.sleep(SETTLES_S)  # asyncio loses what it accepts while a server is closed
        if state.server is not None:
            state.server.close()
        while True:
            await asyncio.sleep(SETTLES_S)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if not others:
                return
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    state = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield state
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
