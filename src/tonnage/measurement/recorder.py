"""An OpenAI-compatible API -> the same API on loopback, with notes on every call that passes.

Whatever a workflow is written in, its LLM calls go through here when it is told another base URL.
Each connection of a client has one of its own to the server behind: bytes of answers pass
unchanged and are read afterwards, requests keep all but the headers that concern one hop. Keys
pass through and are kept nowhere.

A base URL with a token in it tells whose calls they are; calls without one are noted under "".
"""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import time
import zlib
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit

from tonnage.errors import MissingExtraError, UsageError
from tonnage.measurement.load import Failure, LlmCall, clock
from tonnage.measurement.targets.events import whole_number

try:
    import httptools
except ModuleNotFoundError:
    raise MissingExtraError(
        "recording LLM calls needs httptools.", hint='Install it: pip install "tonnage[measure]"'
    ) from None

JOINING_TURNS = 10  # of the event loop
NOTED_PATHS = (b"/chat/completions", b"/completions", b"/responses")
# of one hop only; Host is written anew, and a change of protocol would make the rest unreadable
DROPPED_HEADERS = {b"host", b"upgrade", b"http2-settings", b"keep-alive", b"proxy-connection"}
FRAMING_HEADERS = {b"content-length", b"transfer-encoding"}  # without them a body ends at close
DELTA_KEYS = ("content", "reasoning_content", "reasoning", "tool_calls", "function_call", "refusal")


class Recorder:
    """The proxy in front of `upstream`, a base URL such as http://gpu-server:8000/v1."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"{parts.hostname or upstream!r} is no base URL of an API.",
                hint="For example http://localhost:8000/v1.",
            )
        if parts.username or parts.query or parts.fragment:
            raise UsageError(
                f"the base URL of {parts.hostname} has a user, a query or a fragment in it.",
                hint="Give scheme, host, port and path; keys go into the workflow's own settings.",
            )
        self.model: str | None = None  # the last one that answered
        self._scheme, self._host = parts.scheme, parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._base_path = parts.path.rstrip("/")
        self.host_header = parts.netloc.encode()
        self._server: asyncio.Server | None = None
        self._calls: dict[str, list[_Call]] = {"": []}
        self._numbers = itertools.count(1)
        self._clients: set[_Client] = set()

    async def __aenter__(self) -> Self:
        """Start listening."""
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening and close every connection."""
        await self.close()

    async def open(self) -> None:
        """Listen on a free port of the loopback interface."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), "127.0.0.1", 0)

    async def close(self) -> None:
        """Stop listening and close every connection; what was noted stays."""
        if self._server is None:
            return
        for _ in range(JOINING_TURNS):  # a connection accepted a moment ago has not joined yet
            await asyncio.sleep(0)
        self._server.close()
        for client in tuple(self._clients):
            client.abort()
        await self._server.wait_closed()
        while self._clients:  # noqa: ASYNC110 — they end with the next turn of the loop
            await asyncio.sleep(0)
        self._server = None

    def url_for(self, token: str = "") -> str:
        """The base URL under which calls are noted as `token`'s; "" for no one's in particular."""
        if self._server is None:
            raise RuntimeError("the recorder is not open")
        self._calls.setdefault(token, [])
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}{'/' if token else ''}{token}{self._base_path}"

    def calls(self, token: str = "") -> tuple[LlmCall, ...]:
        """The calls of `token` that have ended, by the time they started."""
        return tuple(call.noted for call in self._calls[token] if call.noted is not None)

    def take(self, token: str = "") -> tuple[LlmCall, ...]:
        """The calls of `token` that have ended since they were last taken."""
        ended = self.calls(token)
        self._calls[token] = [call for call in self._calls[token] if call.noted is None]
        return ended

    def end(self, token: str) -> tuple[LlmCall, ...]:
        """All calls of `token`, those still under way as "stopped"; its base URL stops working."""
        calls = self._calls.pop(token)
        return tuple(call.end(clock(), "stopped") for call in calls)

    # ── what connections ask ──

    def route(self, url: bytes) -> tuple[str, bytes]:
        """A request's path -> whose it is, and the path on the server behind."""
        first = url[1:].partition(b"/")[0]
        token = first.decode("latin-1")
        if token and token in self._calls:
            return token, url[1 + len(first) :] or b"/"
        return "", url

    def note(self, token: str, started_s: float) -> _Call:
        """Begin the notes on a call."""
        call = _Call(self, str(next(self._numbers)), started_s)
        self._calls[token].append(call)
        return call

    async def connect(self, client: _Client) -> _Server:
        """A connection to the server behind. Raises OSError."""
        loop = asyncio.get_running_loop()
        _, server = await loop.create_connection(
            lambda: _Server(client), self._host, self._port, ssl=self._tls
        )
        return server

    def joined(self, client: _Client) -> None:
        """A connection of a client has begun."""
        self._clients.add(client)

    def left(self, client: _Client) -> None:
        """A connection of a client is over."""
        self._clients.discard(client)

    @property
    def upstream(self) -> str:
        """What stands behind, as an error message says it."""
        return f"{self._scheme}://{self._host}:{self._port}{self._base_path}"


# ── notes ──


class _Call:
    """Notes on one call: what its request and its answer say, read after they have passed."""

    def __init__(self, recorder: Recorder, id_: str, started_s: float) -> None:
        self.noted: LlmCall | None = None
        self._recorder = recorder
        self._id = id_
        self._started_s = started_s
        self._started_unix_s = time.time() - (clock() - started_s)
        self._request = bytearray()
        self._status = 0
        self._streamed = False
        self._readable = False  # in an encoding that can be read here
        self._decoder: Any = None
        self._body = bytearray()  # of a stream, its last and unfinished line
        self._pieces = 0
        self._ttft_s: float | None = None
        self._model: str | None = None
        self._usage: Mapping[str, Any] = {}
        self._failure: Failure | None = None

    def asked(self, body: bytes) -> None:
        """A part of the request has passed, perhaps after the whole answer."""
        if self.noted is None:
            self._request += body

    def answering(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """The head of the answer has passed."""
        self._status = status
        self._streamed = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        encoding = headers.get(b"content-encoding", b"identity").lower()
        self._readable = encoding in (b"", b"identity", b"gzip", b"deflate")
        if encoding in (b"gzip", b"deflate"):
            self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either, by its header

    def answered(self, body: bytes, at_s: float) -> None:
        """A part of the answer has passed."""
        if not self._readable:
            return
        if self._decoder is not None:
            try:
                body = self._decoder.decompress(body)
            except zlib.error:  # such as deflate without a zlib header, which clients can read
                self._readable = False
                self._pieces, self._usage = 0, {}
                return
        self._body += body
        if self._streamed and b"\n" in body:
            *lines, self._body = self._body.split(b"\n")
            for line in lines:
                if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                    self._read(data, at_s)

    def end(self, at_s: float, failure: Failure | None = None) -> LlmCall:
        """Close the notes, once: how it first ended counts."""
        if self.noted is not None:
            return self.noted
        if self._status >= 400:  # noqa: PLR2004 — HTTP: errors
            self._failure = "http"
        elif failure is None and self._readable and not self._streamed:
            self._read(self._body, None)
        self.noted = LlmCall(
            id=self._id,
            started_unix_s=self._started_unix_s,
            ended_unix_s=self._started_unix_s + at_s - self._started_s,
            model=self._model or _model_asked(self._request),
            ttft_s=self._ttft_s,
            prompt_tokens=_count(self._usage, "prompt_tokens", "input_tokens"),
            output_tokens=_count(self._usage, "completion_tokens", "output_tokens")
            or (self._pieces or None),
            failure=failure or self._failure,
        )
        self._recorder.model = self.noted.model or self._recorder.model
        self._request = self._body = bytearray()
        return self.noted

    def _read(self, data: bytes | bytearray, at_s: float | None) -> None:
        """Read one JSON object: an event of a stream that came `at_s`, or a whole answer."""
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            self._failure = "malformed"
            return
        inner = event.get("response")  # the events of /responses hold the object in their middle
        holder = inner if isinstance(inner, dict) else event
        if holder.get("error") or event.get("type") == "error":
            self._failure = "rejected"
        if isinstance(model := holder.get("model"), str):
            self._model = model
        if isinstance(usage := holder.get("usage"), dict):
            self._usage = usage
        if at_s is not None and _has_output(event):
            self._pieces += 1
            if self._ttft_s is None:
                self._ttft_s = at_s - self._started_s


def _has_output(event: Mapping[str, Any]) -> bool:
    """Whether an event of a stream carries a piece of the answer, thoughts and tools included."""
    kind = event.get("type")
    if isinstance(kind, str):  # /responses
        return kind.endswith(".delta") and bool(event.get("delta"))
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict):
            if any(delta.get(key) for key in DELTA_KEYS):
                return True
        elif isinstance(choice, dict) and choice.get("text"):
            return True
    return False


def _model_asked(request: bytes | bytearray) -> str | None:
    try:
        model = json.loads(request)["model"]
    except (ValueError, KeyError, TypeError):
        return None
    return model if isinstance(model, str) else None


def _count(usage: Mapping[str, Any], *keys: str) -> int | None:
    found = (whole_number(usage.get(key)) for key in keys)
    return next((number for number in found if number is not None), None)


# ── connections ──


class _Half(asyncio.Protocol):
    """One of two connections that belong together; it is read no faster than the other writes."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Half | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def write(self, data: bytes) -> None:
        """Write, unless the connection is over."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def write_eof(self) -> bool:
        """Close the connection's one direction, if that can be: TLS has no such thing."""
        if self.transport is None or self.transport.is_closing():
            return False
        if half_closable := self.transport.can_write_eof():
            self.transport.write_eof()
        return half_closable

    def finish(self) -> None:
        """Close the connection once everything is written."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close the connection now."""
        if self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Its buffer is full: no more from the other side for now."""
        if self.other and self.other.transport and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Its buffer has room again."""
        if self.other and self.other.transport and not self.other.transport.is_closing():
            self.other.transport.resume_reading()


class _Client(_Half):
    """The connection of a client, whose requests go to a connection to the server behind."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.asked: deque[tuple[bytes, _Call | None]] = deque()  # method and notes, in order
        self._recorder = recorder
        self._parser = httptools.HttpRequestParser(self)
        self._connecting: asyncio.Task[None] | None = None
        self._out: list[bytes] = []
        self._now_s = 0.0
        self._started_s = 0.0
        self._method = self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunked = False
        self._call: _Call | None = None  # notes on the request that is arriving
        self._arriving = False
        self._half_closed = False  # the client sends no more
        self._lingering = False  # the server has closed, and nothing more is passed on

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be known to the recorder, which closes what is left."""
        super().connection_made(transport)
        self._recorder.joined(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 — of the protocol
        """The client has gone: so has whatever it asked."""
        self._recorder.left(self)
        if self._connecting is not None:
            self._connecting.cancel()
        self.end_calls("stopped")
        if self.other is not None:
            self.other.abort()

    def data_received(self, data: bytes) -> None:
        """Requests: their heads are written anew, their bodies pass."""
        if self._lingering:
            return
        self._now_s = clock()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            # The parser leaves the rest to the protocol that is offered. We do not: the same
            # request again, without the offer.
            request = self._head(self._method, self._url) + data[offer.args[0] :]
            self._parser = httptools.HttpRequestParser(self)
            self.data_received(request)
            return
        except httptools.HttpParserCallbackError:
            raise  # a bug of ours
        except httptools.HttpParserError as error:
            self.refuse(400, f"this is not HTTP: {error}")
            return
        if not self._out:
            return
        if self.other is not None:
            self._pass_on(self.other)
        elif self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def eof_received(self) -> bool:
        """The client sends no more. The server hears it, and may answer what was asked.

        Whether the client still listens cannot be told apart here, nor could the server.
        """
        self._half_closed = bool(self.asked)
        if self._half_closed and self.other is not None:
            return self.other.write_eof()
        return self._half_closed

    def server_closed(self) -> None:
        """Close as the server has, once the client has everything."""
        early = self._arriving and not self.asked and not self._half_closed
        self.end_calls("stopped" if self._half_closed else "truncated")
        if early and self.write_eof():  # closed now, the client would fail at sending its request
            self._lingering = True
        else:
            self.finish()

    def end_calls(self, failure: Failure) -> None:
        """Whatever has no answer by now will get none."""
        while self.asked:
            _, call = self.asked.popleft()
            if call is not None:
                call.end(clock(), failure)

    def refuse(self, status: int, message: str) -> None:
        """Answer in the server's place, and close."""
        body = json.dumps({"error": {"message": message, "type": "tonnage_recorder"}}).encode()
        reason = {400: "Bad Request", 502: "Bad Gateway"}[status]
        self.write(
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        self.finish()

    async def _connect(self) -> None:
        try:
            self.other = await self._recorder.connect(self)
        except OSError as error:
            self.end_calls(
                "refused" if isinstance(error, ConnectionRefusedError) else "unreachable"
            )
            self.refuse(502, f"{self._recorder.upstream} cannot be reached: {error}")
        else:
            self._pass_on(self.other)
            if self._half_closed and not self.other.write_eof():
                self.finish()

    def _pass_on(self, server: _Half) -> None:
        server.write(b"".join(self._out))
        self._out.clear()

    # ── the parser's calls ──

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._started_s = self._now_s
        self._url = b""
        self._headers = []
        self._chunked = False

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        lower = name.lower()
        if lower == b"transfer-encoding":
            self._chunked = True
        if lower in DROPPED_HEADERS or (lower == b"connection" and b"upgrade" in value.lower()):
            return
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete: write it anew for the server behind."""
        self._method = self._parser.get_method()
        if self._parser.should_upgrade():
            return
        token, path = self._recorder.route(self._url)
        noted = self._method == b"POST" and path.partition(b"?")[0].endswith(NOTED_PATHS)
        self._call = self._recorder.note(token, self._started_s) if noted else None
        self._arriving = True
        self.asked.append((self._method, self._call))
        self._out.append(self._head(self._method, path))

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._call is not None:
            self._call.asked(body)
        self._out += [b"%x\r\n" % len(body), body, b"\r\n"] if self._chunked else [body]

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._arriving = False
        if self._chunked and not self._parser.should_upgrade():
            self._out.append(b"0\r\n\r\n")

    def _head(self, method: bytes, path: bytes) -> bytes:
        """The head of a request for the server behind."""
        version = self._parser.get_http_version().encode()
        lines = [method + b" " + path + b" HTTP/" + version, b"Host: " + self._recorder.host_header]
        lines += [name + b": " + value for name, value in self._headers]
        return b"\r\n".join(lines) + b"\r\n\r\n"


class _Server(_Half):
    """The connection to the server behind, whose bytes go to the client as they are."""

    def __init__(self, client: _Client) -> None:
        super().__init__()
        self.other: _Client = client
        self._parser = httptools.HttpResponseParser(self)
        self._now_s = 0.0
        self._headers: dict[bytes, bytes] = {}
        self._status = 0
        self._until_close = False
        self._bodyless = False
        self._legible = True

    def data_received(self, data: bytes) -> None:
        """Pass it on first, then read it."""
        self._now_s = clock()
        self.other.write(data)
        if self._legible:
            self._read(data)
        if not self._legible:  # for us; the client may be less strict
            self.other.end_calls("malformed")

    def _read(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a bug of ours
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._legible = False
        if self._bodyless:  # of a HEAD request, whose answer promises a body and has none
            self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 — of the protocol
        """The server has closed: so is the client's connection, once it has everything."""
        if self._until_close:
            self._answer_ended()
        self.resume_writing()  # whatever was too much for its buffer
        self.other.server_closed()

    def _answer_ended(self) -> None:
        if self.other.asked:
            _, call = self.other.asked.popleft()
            if call is not None:
                call.end(self._now_s)

    # ── the parser's calls ──

    def on_message_begin(self) -> None:
        """The first byte of an answer."""
        self._headers = {}
        self._until_close = self._bodyless = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._status = self._parser.get_status_code()
        if self._interim or not self.other.asked:
            return
        method, call = self.other.asked[0]
        if call is not None:
            call.answering(self._status, self._headers)
        self._bodyless = method == b"HEAD"
        self._until_close = not (self._bodyless or self._headers.keys() & FRAMING_HEADERS)
        if self._bodyless:
            self._answer_ended()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self.other.asked and (call := self.other.asked[0][1]) is not None:
            call.answered(body, self._now_s)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._until_close = False
        if not (self._interim or self._bodyless):
            self._answer_ended()

    @property
    def _interim(self) -> bool:
        """Whether this is an answer before the answer, such as 100 Continue."""
        return self._status < 200  # noqa: PLR2004 — HTTP: informational
