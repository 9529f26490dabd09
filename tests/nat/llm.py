"""A small OpenAI-compatible server on loopback, whose answers an agent of the toolkit can follow.

The first call of an agent that has tools gets a wish to use one, the second a final answer. A
prompt with the word "refuse" in it gets status 400.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "fake-model"
FINAL = "Thought: that is known.\nFinal Answer: forty-two"
WISH = "Thought: what time is it?\nAction: current_datetime\nAction Input: None"
DELAY_S = 0.05


class Server(ThreadingHTTPServer):
    """Counts how many calls it has at once; `daemon_threads` of the class end with the process."""

    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.calls = self.in_flight = self.most_in_flight = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def llm_server() -> Iterator[Server]:
    """A server of its own for a test."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # which would hold a body back for 40 ms
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.calls += 1
            self.server.in_flight += 1
            self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)
        time.sleep(DELAY_S)
        texts = [str(message.get("content")) for message in request["messages"]]
        if "refuse" in texts[-1]:
            self._send_json(400, {"error": {"message": "refused as asked", "code": 400}})
        elif request.get("stream"):
            self._send_stream(_answer(texts))
        else:
            self._send_json(200, _completion("message", _answer(texts)) | {"usage": _USAGE})
        with self.server.lock:
            self.server.in_flight -= 1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — as above
        """Say nothing."""

    def _send_json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_stream(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        chunks = [_completion("delta", word) for word in text.splitlines(keepends=True)]
        chunks.append({**_completion("delta", ""), "choices": [], "usage": _USAGE})
        for chunk in chunks:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
            time.sleep(DELAY_S / 10)
        self.wfile.write(b"data: [DONE]\n\n")


_USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def _completion(part: str, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "call",
        "object": "chat.completion" if part == "message" else "chat.completion.chunk",
        "created": 0,
        "model": MODEL,
        "choices": [
            {"index": 0, part: message, "finish_reason": None if part == "delta" else "stop"}
        ],
    }


def _answer(texts: list[str]) -> str:
    has_tools = any("current_datetime" in text for text in texts)
    observed = WISH in texts
    return WISH if has_tools and not observed else FINAL
