"""A server that speaks the wire protocol of NeMo Agent Toolkit, in a thread of its own.

What it says of its times is exact: the runtime of an item is base × (1 + 0.5 × the requests in
flight when it came), its one LLM call a quarter of that, while the answer really takes `hold_s`.
"""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable

HOLD_S = 0.004
STEADY_S = 0.02  # long enough that a busy machine still has every client in flight at once


class WorkflowServer:
    """Use as a context. `asked` holds each question in the order of arrival, `headers` what came.

    `status_of` is the status for the n-th request, whose answer repeats the key that came with it;
    after `lives_for` requests nobody listens.
    """

    def __init__(
        self,
        *,
        hold_s: float = HOLD_S,
        base_s: float = 1.0,
        status_of: Callable[[int], int] | None = None,
        lives_for: int | None = None,
        with_llm_call: bool = True,
        plain: bool = False,
    ) -> None:
        self.hold_s = hold_s
        self.base_s = base_s
        self.status_of = status_of
        self.lives_for = lives_for
        self.with_llm_call = with_llm_call
        self.plain = plain
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.peak = 0
        self.in_flight = 0
        self.port = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join(10)
        self._loop.close()

    def _serve(self):
        self._loop.run_until_complete(self._run())

    async def _run(self):
        self._over = asyncio.Event()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        self._hang_up()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _end(self):
        self._over.set()

    def _hang_up(self):
        self._server.close()
        for each in self._connections:
            each.cancel()

    async def _connected(self, reader, writer):
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        pairs = (line.partition(": ") for line in head.split("\r\n")[1:])
        headers = {name.lower(): value for name, _, value in pairs}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            self.headers.append(headers)
            self.asked.append(body.get("input_message", body.get("query")))
            if self.lives_for is not None and len(self.asked) > self.lives_for:
                self._hang_up()
                return False
            runtime_s = self.base_s * (1 + 0.5 * self.in_flight)
            status = self.status_of(len(self.asked)) if self.status_of else 200
            await asyncio.sleep(self.hold_s)
        finally:
            self.in_flight -= 1
        if status != 200:
            text = json.dumps({"detail": "too many", "for": headers.get("authorization")})
        elif self.plain:
            text = json.dumps({"result": {"text": "an answer"}})
        else:
            text = self._lines(runtime_s)
        writer.write(
            f"HTTP/1.1 {status} OK\r\nContent-Type: text/event-stream\r\n"
            f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        await writer.drain()
        return True

    def _lines(self, runtime_s):
        start = time.time()
        workflow, call = str(uuid.uuid4()), str(uuid.uuid4())
        events = [("WORKFLOW_START", workflow, "workflow", start)]
        if self.with_llm_call:
            events += [
                ("LLM_START", call, "some-model", start + 0.1),
                ("LLM_END", call, "some-model", start + 0.1 + runtime_s / 4),
            ]
        events.append(("WORKFLOW_END", workflow, "workflow", start + runtime_s))
        lines = [
            "intermediate_data: "
            + json.dumps(
                {
                    "id": id_,
                    "parent_id": "root",
                    "type": "markdown",
                    "name": name,
                    "payload": json.dumps(
                        {
                            "event_type": kind,
                            "event_timestamp": at,
                            "span_event_timestamp": None,
                            "framework": None,
                            "name": name,
                            "data": {"input": None, "output": None, "chunk": None},
                            "UUID": id_,
                        }
                    ),
                }
            )
            for kind, id_, name, at in events
        ]
        return "\n\n".join([*lines, 'data: {"value": "an answer"}']) + "\n\n"
