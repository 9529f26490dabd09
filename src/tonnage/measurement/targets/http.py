"""A request -> the bytes of its answer with the time at which each arrived, or how it failed.

An HTTP/1.1 client made for measuring: between the socket and the clock lie one callback of the
event loop and a parser in C. Connections are kept alive and used last in, first out, one for each
request in flight and as many as there are requests.

A kept connection that turns out to be closed as soon as a request goes out says nothing about the
server: the request goes out again, once, on a fresh connection. Nothing else is retried; a server
that breaks off while it has a request has failed, on a kept connection as on a fresh one.
"""

from __future__ import annotations

import asyncio
import errno
import math
import re
import resource
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import SplitResult, quote, urlsplit

from tonnage.errors import MissingExtraError, UsageError
from tonnage.measurement.load import Failure, Outcome, TargetSpec, clock

try:
    import httptools
except ImportError:
    raise MissingExtraError(
        "Measuring a server needs the httptools package.",
        hint='pip install "tonnage[measure]".',
    ) from None

MAX_HEAD_BYTES = 262_144  # of status line and headers; a server that sends more is not well
MAX_ERROR_BYTES = 65_536  # of the body of an answer that is not 2xx
MAX_ERROR_CHARACTERS = 300
SHORTEST_SECRET = 6  # characters; a shorter header value is no secret, and part of many words
PORTS = {"http": 80, "https": 443}
FINAL_STATUS = 200  # below are answers that announce another
STALE_S = 0.1  # a closed connection is told at the next round trip; a busy event loop hears it late
OURS = frozenset({"connection", "content-length", "transfer-encoding"})  # headers that frame

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

OnData = Callable[[bytes, float], None]
OnType = Callable[[str], None]


class MalformedError(Exception):
    """What came is not the protocol. Raised by whoever reads the body."""


@dataclass(slots=True)
class Exchange:
    """One request and how its answer went; times are of `clock`.

    `sent_s` is when the request was ready to go, the first time if it went out again: what a fresh
    connection and a stale one cost comes after it.
    """

    sent_s: float
    end_s: float
    status: int | None = None
    failure: Failure | None = None
    error: str = ""
    stale_retries: int = 0

    def outcome(self, **seen: Any) -> Outcome:  # noqa: ANN401 — fields of Outcome
        """What came of a prompt by it, with what was `seen` in its body."""
        return Outcome(
            sent_s=self.sent_s,
            end_s=self.end_s,
            status=self.status,
            failure=self.failure,
            error=self.error,
            stale_retries=self.stale_retries,
            **seen,
        )


class HttpClient:
    """Exchanges with one server. Raises UsageError for a URL or header that cannot be used.

    `timeout_s` is for a whole exchange, `stall_timeout_s` for a silence after the first byte of a
    body: headers may come at once and the first token only when a queue has been worked off.
    """

    def __init__(
        self, base_url: str, *, headers: Mapping[str, str], timeout_s: float, stall_timeout_s: float
    ) -> None:
        url = _split_url(base_url)
        self.timeout_s = timeout_s
        self.stall_timeout_s = stall_timeout_s
        self._host = url.hostname or ""
        self._port = url.port or PORTS[url.scheme]
        self._path = quote(url.path, safe="/%:@!$&'()*+,;=~")
        self._query = quote(url.query, safe="/%:@!$&'()*+,;=~?[]")
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._headers = _headers(url, headers)
        self._secrets = _secrets(headers)
        self._heads: dict[tuple[str, str, bool], bytes] = {}
        self._connections: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._connecting_s = math.inf  # the fastest so far: one round trip at least
        _allow_files()

    @classmethod
    def of(cls, spec: TargetSpec, base_url: str | None = None) -> HttpClient:
        """The client for a target; `base_url` where that is not its address."""
        return cls(
            base_url or spec.address,
            headers=spec.headers,
            timeout_s=spec.timeout_s,
            stall_timeout_s=spec.stall_timeout_s,
        )

    async def exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        on_data: OnData,
        on_type: OnType | None = None,
    ) -> Exchange:
        """Send a request and wait for the end of its answer.

        `path` is added to that of the base URL. `on_data` gets the pieces of the body of a 2xx
        answer and when each arrived; it may raise MalformedError. `on_type` gets its Content-Type
        before that, if it has one. Cancelled, the connection is closed.
        """
        request = self._request(method, path, body)
        started_s = clock()
        exchange = Exchange(started_s, started_s)
        if connection := self._take_idle():
            await self._converse(connection, request, exchange, on_data, on_type)
            if exchange.failure != "truncated" or not self._was_stale(connection, exchange):
                return exchange
            exchange = Exchange(started_s, exchange.end_s, stale_retries=1)
        if fresh := await self._connect(exchange):
            await self._converse(fresh, request, exchange, on_data, on_type)
        return exchange

    async def close(self) -> None:
        """Close every connection."""
        closed = [connection.closed for connection in self._connections]
        for connection in self._connections:
            connection.drop()
        if closed:
            await asyncio.wait(closed)

    def shown(self, text: str) -> str:
        """What a server said, fit to be shown: short, on one line and without our own secrets."""
        text = text[:MAX_ERROR_BYTES]
        for secret in self._secrets:
            text = text.replace(secret, "…")
        text = " ".join(text.split())
        text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
        return text[:MAX_ERROR_CHARACTERS]

    async def _converse(
        self,
        connection: _Connection,
        request: bytes,
        exchange: Exchange,
        on_data: OnData,
        on_type: OnType | None,
    ) -> None:
        try:
            await connection.ask(request, exchange, on_data, on_type)
        except BaseException:  # cancelled above all: the answer is on its way and nobody reads it
            connection.drop()
            raise
        if connection.reusable:
            self._idle.append(connection)

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    def _was_stale(self, connection: _Connection, exchange: Exchange) -> bool:
        """Whether a kept connection was lost before the server can have had the request for long.

        The time of two connects leaves room for a round trip that takes longer than most.
        """
        lost_after_s = exchange.end_s - exchange.sent_s
        return not connection.heard and lost_after_s <= STALE_S + 2 * self._connecting_s

    async def _connect(self, exchange: Exchange) -> _Connection | None:
        """A fresh connection, or None and why in `exchange`."""
        try:
            async with asyncio.timeout(exchange.sent_s + self.timeout_s - clock()):
                return await self._connect_any()
        except TimeoutError:
            exchange.failure = "timeout"
            exchange.error = f"no connection to {self._host} within {self.timeout_s:g} s"
        except _NoConnectionError as error:
            exchange.failure, exchange.error = error.failure, str(error)
        exchange.end_s = clock()
        return None

    async def _connect_any(self) -> _Connection:
        """A connection to the first address of the host that takes one."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise _NoConnectionError(
                "unreachable", f"no address for {self._host}: {error.strerror}"
            ) from None
        errors: list[OSError] = []
        for address in dict.fromkeys(str(each[4][0]) for each in found):
            began_s = clock()
            try:
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, self._connections),
                    address,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
            except OSError as error:
                errors.append(error)
            else:
                self._connecting_s = min(self._connecting_s, clock() - began_s)
                return connection
        raise _no_connection(errors, self._host, self._port)

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        kind = method, path, body is None
        head = self._heads.get(kind)
        if head is None:
            head = self._heads[kind] = self._head(method, path, content=body is not None)
        return head if body is None else b"%b%d\r\n\r\n%b" % (head, len(body), body)

    def _head(self, method: str, path: str, *, content: bool) -> bytes:
        """All that comes before the length of the body, or the whole request without one."""
        whole, _, query = path.partition("?")
        target = (self._path.rstrip("/") + whole if whole else self._path) or "/"
        if query := "&".join(each for each in (self._query, query) if each):
            target += f"?{query}"
        headers = dict(self._headers)
        if content:
            headers.setdefault("content-type", ("Content-Type", "application/json"))
        lines = [f"{method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.values()]
        lines.append("Content-Length: " if content else "\r\n")
        return "\r\n".join(lines).encode("latin-1")


class _Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request.

    TCP_NODELAY is set by the event loop. A parser serves all answers of its connection, and one
    timer all deadlines: rung early, it is wound up again.
    """

    def __init__(self, client: HttpClient, among: set[_Connection]) -> None:
        self._client = client
        self._among = among  # the open ones
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._now_s = 0.0
        self.reusable = False
        self.heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready for the first request."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._among.add(self)

    def ask(
        self, request: bytes, exchange: Exchange, on_data: OnData, on_type: OnType | None = None
    ) -> asyncio.Future[None]:
        """Send a request; done when `exchange` says how it ended."""
        self._exchange = exchange
        self._on_data = on_data
        self._on_type = on_type
        self._deadline_s = exchange.sent_s + self._client.timeout_s
        self.reusable = self.heard = False
        self._status = 0  # of a final answer, once its headers are complete
        self._head_bytes = 0
        self._good = False
        self._body_began = False
        self._error_body = b""
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._transport.write(request)
        if self._timer is None:
            self._watch()
        return self._done

    def drop(self) -> None:
        """Close without a farewell; an exchange that is under way ends as truncated."""
        self.reusable = False
        self._transport.abort()

    # ── what the event loop calls ──────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        self._now_s = clock()
        if self._exchange is None:  # nothing was asked
            self.drop()
            return
        self.heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__ or error
            if isinstance(cause, MalformedError):
                self._end("malformed", str(cause))
            else:
                self._break(cause)
        except httptools.HttpParserError as error:
            self._end("malformed", f"not HTTP: {error}")
        except httptools.HttpParserUpgrade:
            self._end("malformed", "the server switches to another protocol")
        if not self._status:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._end("malformed", f"more than {MAX_HEAD_BYTES // 1024} KiB of headers")

    def connection_lost(self, error: Exception | None) -> None:
        """The other side closed, or we did."""
        self.reusable = False
        if self._timer is not None:
            self._timer.cancel()
        self._among.discard(self)
        self.closed.set_result(None)
        self._now_s = clock()
        if self._status and self._until_close and error is None:
            self._end()
        elif self.heard:
            self._end("truncated", "the connection closed before the answer was complete")
        else:
            self._end("truncated", "the connection closed before any of the answer came")

    def _watch(self) -> None:
        """End an exchange that takes too long; otherwise look again when it may."""
        self._timer = None
        if self._exchange is None:
            return
        now_s = clock()
        client = self._client
        silent_since_s = self._now_s if self._body_began else now_s
        if now_s >= self._deadline_s:
            self._now_s = now_s
            self._end("timeout", f"no complete answer within {client.timeout_s:g} s")
        elif now_s >= silent_since_s + client.stall_timeout_s:
            self._now_s = now_s
            self._end("stalled", f"silent for {client.stall_timeout_s:g} s in mid-answer")
        else:
            due_s = min(self._deadline_s, silent_since_s + client.stall_timeout_s)
            self._timer = self._loop.call_later(due_s - now_s, self._watch)

    # ── what the parser calls, within data_received ────────────────────────────────────────────

    def on_message_begin(self) -> None:
        """The first byte of an answer; headers of one before it, such as a 103, are not its own."""
        if self._exchange is None:  # nothing was asked, or the answer to it has ended
            self.drop()
        self._until_close = True
        self._encoding = self._location = self._type = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or a trailer."""
        if self._status:
            return
        name = name.lower()
        if name == b"content-length":
            self._until_close = False
        elif name == b"transfer-encoding":
            self._until_close = False
            if value.lower() != b"chunked":
                self._encoding = value
        elif name == b"content-encoding":
            if value.lower() != b"identity":
                self._encoding = value
        elif name == b"content-type":
            self._type = value
        elif name == b"location":
            self._location = value

    def on_headers_complete(self) -> None:
        """The status is known."""
        status = self._parser.get_status_code()
        if self._exchange is None or status < FINAL_STATUS:
            return
        self._status = self._exchange.status = status
        self._good = status // 100 == 2  # noqa: PLR2004 — 2xx
        if self._good and self._encoding:
            raise MalformedError(f"encoded as {self._encoding.decode('latin-1')}, unasked")
        if self._good and self._type and self._on_type:
            self._on_type(self._type.decode("latin-1"))

    def on_body(self, body: bytes) -> None:
        """A piece of the body, as large as the network made it."""
        if self._exchange is None:
            return
        self._body_began = True
        if self._good:
            self._on_data(body, self._now_s)
            return
        self._error_body += body
        if len(self._error_body) > MAX_ERROR_BYTES:
            self._end()

    def on_message_complete(self) -> None:
        """The end of an answer, or of a 100 Continue that comes before one."""
        if self._exchange is None or not self._status:
            return
        self.reusable = self._parser.should_keep_alive()
        self._end()

    # ── how an exchange ends ───────────────────────────────────────────────────────────────────

    def _end(self, failure: Failure | None = None, error: str = "") -> None:
        """Say how it went, once; what is said of a status other than 2xx is what the server says.

        A connection that does not stand at the beginning of another answer is closed.
        """
        exchange, self._exchange = self._exchange, None
        if not self.reusable:
            self._transport.abort()
        if exchange is None:
            return
        if self._status and not self._good:
            failure = "http"
            if self._location:
                error = f"redirects to {self._location.decode('latin-1')}"
            else:
                error = self._error_body.decode(errors="replace") or "no more is said"
        exchange.end_s = self._now_s
        exchange.failure = failure
        if error:
            exchange.error = self._client.shown(error)
        if not self._done.done():
            self._done.set_result(None)

    def _break(self, error: BaseException) -> None:
        """Whoever reads the body has a bug: it is theirs to hear of it."""
        self._exchange = None
        self.drop()
        if not self._done.done():
            self._done.set_exception(error)


class _NoConnectionError(Exception):
    """No address of the host takes a connection."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


def _no_connection(errors: list[OSError], host: str, port: int) -> _NoConnectionError:
    """What to say of one error for each address of a host; a refusal says least."""
    error = next((each for each in errors if not isinstance(each, ConnectionRefusedError)), None)
    if error is None:
        return _NoConnectionError("refused", f"nobody listens on port {port} of {host}")
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        reason = f"all {limit} file descriptors are in use; raise the limit with ulimit -n"
    elif isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate cannot be trusted: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        reason = f"no TLS: {error.reason or error}"
    else:
        reason = error.strerror or str(error)
    return _NoConnectionError("unreachable", f"no connection to {host}:{port}: {reason}")


def _split_url(text: str) -> SplitResult:
    """The parts of a base URL; UsageError says what is wrong with one."""
    shown = text.rpartition("@")[2]
    example = "For example http://localhost:8000/v1."
    if not text.isprintable() or " " in text:
        raise UsageError("the URL has a space or a control character in it.", hint=example)
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise UsageError(f"{shown} is not a URL: {error}.", hint=example) from None
    if url.scheme not in PORTS:
        raise UsageError(f"{shown} does not begin with http:// or https://.", hint=example)
    if url.username is not None or url.password is not None:
        raise UsageError(
            f"the URL of {url.hostname} has a user or password in it.",
            hint="Give an Authorization header, its value from the environment.",
        )
    if not url.hostname or port == 0 or url.fragment:
        raise UsageError(f"{shown} is not the URL of a server.", hint=example)
    try:
        url.hostname.encode("idna")
    except UnicodeError:
        raise UsageError(f"{url.hostname} is not a host name.", hint=example) from None
    return url


def _headers(url: SplitResult, headers: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What goes with every request, by name in lower case; the user's own come before ours."""
    host = (url.hostname or "").encode("idna").decode()
    ours = {
        "Host": (f"[{host}]" if ":" in host else host) + (f":{url.port}" if url.port else ""),
        "User-Agent": "tonnage",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
    }
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in OURS:
            raise UsageError(f"{name!r} is not a header that can be set.")
        if not _HEADER_VALUE.fullmatch(value):
            raise UsageError(f"the value of header {name} has a character that HTTP cannot carry.")
    return {name.lower(): (name, value.strip()) for name, value in (ours | dict(headers)).items()}


def _secrets(headers: Mapping[str, str]) -> list[str]:
    """Header values and their last words (`Bearer …`), the longest first."""
    values = {value.strip() for value in headers.values()}
    values |= {value.split()[-1] for value in values if value}
    return sorted((each for each in values if len(each) >= SHORTEST_SECRET), key=len, reverse=True)


def _allow_files() -> None:
    """Each connection is a file: as many as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a limit that cannot be set stays what it was
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
