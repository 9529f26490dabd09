"""Every way an exchange can fail is told by its kind, and the client goes on after it."""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servers.ending import end
from tests.servers.faults import (
    ANSWER,
    EVENTS,
    OK,
    THOUGHT_S,
    WRITTEN,
    Faults,
    chunk,
    event,
    fault_server,
    whole,
)
from tonnage.errors import UsageError
from tonnage.measurement.load import clock
from tonnage.measurement.loop import run
from tonnage.measurement.targets import http
from tonnage.measurement.targets.http import (
    MAX_ERROR_CHARACTERS,
    STALE_S,
    Exchange,
    HttpClient,
    MalformedError,
    _Connection,
)

FAILURES = [
    ("closes-early", "truncated", "before any"),
    ("closes-in-head", "truncated", "before the answer was complete"),
    ("closes-in-chunk", "truncated", "before the answer was complete"),
    ("half-a-stream", "truncated", "before the answer was complete"),
    ("length-too-long", "truncated", "before the answer was complete"),
    ("bad-chunk", "malformed", "not HTTP"),
    ("bad-http", "malformed", "not HTTP"),
    ("endless-head", "malformed", "headers"),
    ("switch", "malformed", "protocol"),
    ("gzip", "malformed", "encoded as gzip"),
    ("redirect", "http", "redirects to http://elsewhere/v1"),
    ("400", "http", "prompt is too long"),
    ("401", "http", "no such key"),
    ("429", "http", "slow down"),
    ("500", "http", "line one"),
    ("hints-and-500", "http", "line one"),
    ("503", "http", "no more is said"),
]
GOOD = [
    "ok",
    "whole",
    "until-close",
    "http-1.0",
    "continue",
    "early-hints",
    "slow",
    "stray",
    "empty",
]


def client_of(url: str, **headers: str) -> HttpClient:
    return HttpClient(url, headers=headers, timeout_s=10, stall_timeout_s=10)


async def ask(client: HttpClient, path: str, body: bytes = b"{}") -> tuple[Exchange, bytes]:
    """One exchange and the body it brought, whose pieces came in the order of their times."""
    pieces: list[tuple[float, bytes]] = []
    exchange = await client.exchange(
        "POST", path, body, lambda data, now_s: pieces.append((now_s, data))
    )
    times = [exchange.sent_s, *(now_s for now_s, _ in pieces), exchange.end_s, clock()]
    assert times == sorted(times)
    return exchange, b"".join(data for _, data in pieces)


def with_faults(
    test: Callable[[Faults, HttpClient], Coroutine[Any, Any, None]],
    on: Callable[[Coroutine[Any, Any, None]], None] = run,
) -> None:
    """Run `test` with a fault server and a client of it."""

    async def both() -> None:
        async with fault_server() as faults:
            client = client_of(faults.url)
            try:
                await test(faults, client)
            finally:
                await client.close()

    on(both())


@pytest.mark.parametrize("loop", [run, asyncio.run])
@pytest.mark.parametrize(("fault", "failure", "error"), FAILURES)
def test_a_failure_has_its_kind_and_the_client_goes_on(fault, failure, error, loop):
    async def test(faults: Faults, client: HttpClient) -> None:
        exchange, _ = await ask(client, f"/{fault}")
        assert exchange.failure == failure
        assert error in exchange.error
        assert exchange.status == (int(fault[-3:]) if fault[-3:].isdigit() else exchange.status)
        assert (await ask(client, "/ok"))[0].failure is None
        assert faults.asked == {fault: 1, "ok": 1}  # nothing went out twice

    with_faults(test, loop)


@pytest.mark.parametrize("loop", [run, asyncio.run])
@pytest.mark.parametrize("name", GOOD)
def test_a_good_answer_is_read_whole_whatever_its_framing(name, loop):
    async def test(_faults: Faults, client: HttpClient) -> None:
        for _ in range(3):
            exchange, body = await ask(client, f"/{name}")
            assert (exchange.status, exchange.failure, exchange.error) == (200, None, "")
            expected = {"whole": ANSWER, "http-1.0": ANSWER, "empty": b""}
            assert body == expected.get(name, EVENTS)
            assert exchange.stale_retries == 0

    with_faults(test, loop)


def test_silence_and_dripping_end_by_their_own_timeouts():
    async def test(faults: Faults, _client: HttpClient) -> None:
        async def one(fault: str) -> tuple[str | None, float]:
            client = HttpClient(faults.url, headers={}, timeout_s=2.0, stall_timeout_s=0.4)
            exchange, _ = await ask(client, f"/{fault}")
            assert faults.asked[fault] == 1
            await client.close()
            return exchange.failure, exchange.end_s - exchange.sent_s

        names = ("silent", "drips-head", "drips-body", "stalls", "queues")
        seen = dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
        assert {name: failure for name, (failure, _) in seen.items()} == {
            "silent": "timeout",
            "drips-head": "timeout",  # never silent for long, and never done
            "drips-body": "timeout",
            "stalls": "stalled",
            "queues": None,  # headers are no answer yet
        }
        assert 0.4 <= seen["stalls"][1] < 2.0
        assert all(2.0 <= seen[name][1] < 10.0 for name in names[:3])

    with_faults(test)


def test_a_deadline_counts_from_its_own_request_not_from_the_first_of_a_connection():
    async def test(faults: Faults, _client: HttpClient) -> None:
        client = HttpClient(faults.url, headers={}, timeout_s=0.8, stall_timeout_s=0.8)
        await ask(client, "/ok")
        await asyncio.sleep(0.5)
        exchange, _ = await ask(client, "/silent")
        assert exchange.failure == "timeout"
        assert exchange.end_s - exchange.sent_s >= 0.8
        await client.close()

    with_faults(test)


def test_a_connection_is_kept_and_the_last_used_is_used_again():
    async def test(_faults: Faults, client: HttpClient) -> None:
        await asyncio.gather(*(ask(client, "/slow") for _ in range(3)))
        assert len(client._connections) == 3
        last = client._idle[-1]
        await ask(client, "/ok")
        assert client._idle[-1] is last
        assert len(client._connections) == 3

    with_faults(test)


def test_a_connection_that_dies_idle_is_not_used():
    async def test(faults: Faults, client: HttpClient) -> None:
        await ask(client, "/dies-idle")
        await asyncio.gather(*(each.closed for each in client._connections))
        exchange, _ = await ask(client, "/dies-idle")
        assert (exchange.failure, exchange.stale_retries) == (None, 0)
        assert faults.asked["dies-idle"] == 2

    with_faults(test)


@pytest.fixture
def patient(monkeypatch):
    """A machine may be so slow that a connection's end is noticed late."""
    monkeypatch.setattr(http, "STALE_S", 10 * THOUGHT_S)


@pytest.mark.usefixtures("patient")
def test_a_kept_connection_found_closed_is_replaced_once_and_counted():
    async def test(faults: Faults, client: HttpClient) -> None:
        await ask(client, "/dies-asked")
        exchange, body = await ask(client, "/dies-asked")
        assert (exchange.failure, exchange.stale_retries) == (None, 1)
        assert body == EVENTS
        assert faults.asked["dies-asked"] == 3

    with_faults(test)


def test_a_server_that_dies_of_a_request_on_a_kept_connection_has_failed():
    async def test(faults: Faults, client: HttpClient) -> None:
        await ask(client, "/dies-thinking")
        exchange, _ = await ask(client, "/dies-thinking")
        assert (exchange.failure, exchange.stale_retries) == ("truncated", 0)
        assert exchange.end_s - exchange.sent_s > THOUGHT_S / 2
        assert faults.asked["dies-thinking"] == 2

    with_faults(test)


@pytest.mark.usefixtures("patient")
def test_what_a_stale_connection_cost_is_part_of_the_latency():
    async def test(_faults: Faults, client: HttpClient) -> None:
        await ask(client, "/dies-thinking")
        before_s = clock()
        exchange, _ = await ask(client, "/dies-thinking")
        assert (exchange.failure, exchange.stale_retries) == (None, 1)
        assert exchange.sent_s - before_s < THOUGHT_S / 2
        assert exchange.end_s - exchange.sent_s > THOUGHT_S / 2

    with_faults(test)


@pytest.mark.usefixtures("patient")
def test_a_retry_that_finds_the_same_is_truncated_and_not_tried_again():
    async def test(faults: Faults, client: HttpClient) -> None:
        await ask(client, "/ok")
        exchange, _ = await ask(client, "/closes-early")
        assert (exchange.failure, exchange.stale_retries) == ("truncated", 1)
        assert faults.asked["closes-early"] == 2

    with_faults(test)


def test_a_kept_connection_that_dies_in_its_answer_is_truncated_and_not_retried():
    async def test(faults: Faults, client: HttpClient) -> None:
        await ask(client, "/dies-answering")
        exchange, _ = await ask(client, "/dies-answering")
        assert (exchange.failure, exchange.stale_retries) == ("truncated", 0)
        assert faults.asked["dies-answering"] == 2

    with_faults(test)


def test_a_cancelled_request_closes_its_connection():
    async def test(_faults: Faults, client: HttpClient) -> None:
        task = asyncio.create_task(ask(client, "/stalls"))
        await asyncio.sleep(0.2)
        (connection,) = client._connections
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(connection.closed, 5)
        assert (await ask(client, "/ok"))[0].failure is None

    with_faults(test)


def test_what_reads_the_body_may_find_it_malformed_and_a_bug_in_it_stays_one():
    async def test(_faults: Faults, client: HttpClient) -> None:
        def refuse(_: bytes, __: float) -> None:
            raise MalformedError("no sense in it")

        def stumble(_: bytes, __: float) -> None:
            raise ZeroDivisionError

        exchange = await client.exchange("POST", "/ok", b"{}", refuse)
        assert (exchange.failure, exchange.error) == ("malformed", "no sense in it")
        with pytest.raises(ZeroDivisionError):
            await client.exchange("POST", "/ok", b"{}", stumble)
        assert (await ask(client, "/ok"))[0].failure is None

    with_faults(test)


def test_what_a_server_says_is_short_on_one_line_and_harmless():
    async def test(_faults: Faults, client: HttpClient) -> None:
        exchange, _ = await ask(client, "/500")
        assert exchange.error.startswith("line one �[31mline�two!!")
        assert len(exchange.error) == MAX_ERROR_CHARACTERS

    with_faults(test)


def test_a_server_that_repeats_our_key_does_not_make_us_tell_it():
    async def test(faults: Faults, _client: HttpClient) -> None:
        client = client_of(
            faults.url, Authorization="Bearer sk-very-secret", **{"X-Key": "k3y!k3y"}
        )
        exchange, _ = await ask(client, "/echo", b"sk-very-secret k3y!k3y")
        assert "authorization" in exchange.error.lower()
        assert "secret" not in exchange.error
        assert "k3y" not in exchange.error
        await client.close()

    with_faults(test)


def test_a_request_says_what_it_must_and_keeps_path_and_query_of_the_base_url():
    async def test(faults: Faults, _client: HttpClient) -> None:
        client = client_of(f"{faults.url}/echo/é/?version=2", **{"user-agent": "me"})
        exchange, _ = await ask(client, "/chat?more=1", b"the body")
        said = exchange.error
        assert said.startswith("POST /echo/%C3%A9/chat?version=2&more=1 HTTP/1.1 Host: 127.0.0.1:")
        assert said.endswith("Content-Type: application/json Content-Length: 8 the body")
        assert "Accept-Encoding: identity" in said
        assert len(re.findall("user-agent", said, re.IGNORECASE)) == 1
        await client.close()

    with_faults(test)


def test_nobody_listening_is_refused_and_no_such_host_is_unreachable():
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        for host, failure in (("127.0.0.1", "refused"), ("nowhere.invalid", "unreachable")):
            client = client_of(f"http://{host}:{port}")
            exchange, _ = await ask(client, "/")
            assert exchange.failure == failure
            assert host in exchange.error
            assert (exchange.status, exchange.end_s > exchange.sent_s) == (None, True)
            await client.close()

    run(test())


def test_no_file_descriptors_left_is_said_so():
    async def test(_faults: Faults, client: HttpClient) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == hard  # raised as far as it goes
        with socket.socket() as probe:
            first_free = probe.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
        try:
            exchange, _ = await ask(client, "/ok")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert exchange.failure == "unreachable"
        assert "file descriptors" in exchange.error
        assert (await ask(client, "/ok"))[0].failure is None

    with_faults(test)


def test_ipv6_and_no_delay():
    async def test() -> None:
        async with fault_server(host="::1") as faults:
            client = client_of(faults.url)
            assert (await ask(client, "/ok"))[0].failure is None
            sock = client._idle[0]._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await client.close()

    run(test())


async def speak_ssh(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    await writer.drain()
    writer.close()


@pytest.fixture
def certified(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """What a server at localhost speaks TLS with, and the certificate to trust."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    command += " -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command += f" -keyout {key.name} -out {certificate.name}"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, certificate


def test_https_is_trusted_by_certificate_only(certified, monkeypatch):
    server, certificate = certified

    async def test() -> None:
        async with fault_server(ssl=server) as faults:
            url = faults.url.replace("127.0.0.1", "localhost")
            stranger = client_of(url)
            exchange, _ = await ask(stranger, "/ok")
            assert exchange.failure == "unreachable"
            assert "certificate" in exchange.error
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            client = client_of(url)
            for _ in range(2):
                exchange, body = await ask(client, "/ok")
                assert (exchange.failure, body) == (None, EVENTS)
            await stranger.close()
            await client.close()
        plain = await asyncio.start_server(speak_ssh, "127.0.0.1", 0)
        async with plain:
            client = client_of(f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}")
            exchange, _ = await ask(client, "/ok")
            assert (exchange.failure, "TLS" in exchange.error) == ("unreachable", True)
            await client.close()

    run(test())


@asynccontextmanager
async def far_away(url: str, one_way_s: float) -> AsyncIterator[str]:
    """The same server, with bytes and the end of them under way for `one_way_s`."""
    upstream = int(url.rpartition(":")[2])
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await asyncio.sleep(one_way_s)
                writer.write(data)
            await asyncio.sleep(one_way_s)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(cast("asyncio.Task[None]", asyncio.current_task()))
        behind, to_behind = await asyncio.open_connection("127.0.0.1", upstream)
        await asyncio.gather(carry(reader, to_behind), carry(behind, writer))

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    try:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
    finally:
        await end(server, tasks)


def test_a_server_far_away_tells_late_that_a_connection_is_closed(certified, monkeypatch):
    """On loopback only TLS takes a connect as long as the way is."""
    server, certificate = certified
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    one_way_s = 2 * STALE_S

    async def test() -> None:
        async with fault_server(ssl=server) as faults, far_away(faults.url, one_way_s) as url:
            client = client_of(url)
            await ask(client, "/dies-asked")
            exchange, body = await ask(client, "/dies-asked")
            assert (exchange.failure, exchange.stale_retries, body) == (None, 1, EVENTS)
            await client.close()

    run(test())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000", "http://"),
        ("ftp://localhost", "http://"),
        ("http://", "not the URL"),
        ("http://host:0", "not the URL"),
        ("http://host:99999", "Port"),
        ("http://host/#part", "not the URL"),
        ("http://[::1", "not a URL"),
        ("http://ho st/", "space"),
        ("http://host/\n", "control"),
        ("http://a..b/", "not a host name"),
        ("http://user:hunter22@host/", "header"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_telling_its_password(url, said):
    with pytest.raises(UsageError) as refused:
        client_of(url)
    assert said in str(refused.value)
    assert "hunter22" not in str(refused.value)


@pytest.mark.parametrize(
    "header",
    [{"Content-Length": "hunter22"}, {"a b": "hunter22"}, {"": "hunter22"}, {"X": "hunter22\r\n"}],
)
def test_a_header_that_cannot_be_sent_is_refused_without_telling_its_value(header):
    with pytest.raises(UsageError) as refused:
        client_of("http://localhost", **header)
    assert "hunter22" not in str(refused.value)


def test_without_httptools_the_extra_is_named():
    code = (
        "import sys; sys.modules['httptools'] = None\n"
        "from tonnage.errors import MissingExtraError\n"
        "from tonnage.measurement.load import TargetSpec\n"
        "from tonnage.measurement.targets.choose import target_of\n"
        "try: target_of(TargetSpec(kind='chat', address='http://localhost'))\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tonnage[measure]" in done.stdout


# ── whatever the network makes of the bytes ─────────────────────────────────────────────────────


class Recorded(asyncio.Transport):
    """The far end of a connection that is fed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, _: object) -> None:
        """Nobody reads it."""

    def abort(self) -> None:
        self.aborted = True


def fed(pieces: list[bytes]) -> tuple[Exchange, bytes]:
    """The exchange and body after these pieces arrived and the connection closed."""

    async def test() -> tuple[Exchange, bytes]:
        client = client_of("http://localhost")
        connection = _Connection(client, client._connections)
        transport = Recorded()
        connection.connection_made(transport)
        exchange, body = Exchange(clock(), 0.0), bytearray()
        done = connection.ask(b"", exchange, lambda data, _: body.extend(data))
        for piece in pieces:
            if not transport.aborted:
                connection.data_received(piece)
        connection.connection_lost(None)
        await done
        return exchange, bytes(body)

    return asyncio.run(test())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds) if a < b]


ANSWERS = st.sampled_from([written for written, _ in WRITTEN.values() if len(written) < 10_000])
PLACES = st.lists(st.integers(0, 3000), max_size=8)


@given(ANSWERS, PLACES)
def test_the_outcome_does_not_depend_on_where_the_bytes_are_cut(answer, places):
    exchange, body = fed(cut(answer, []))
    again, body_again = fed(cut(answer, places))
    assert (exchange.status, exchange.failure) == (again.status, again.failure)
    assert exchange.error == again.error
    assert body == body_again or exchange.failure == "malformed"


@given(st.sampled_from([OK, whole("200 OK", ANSWER)]), st.integers(min_value=0), PLACES)
def test_a_part_of_an_answer_is_never_taken_for_the_whole(answer, length, places):
    part = answer[: length % len(answer)]
    assert fed(cut(part, places))[0].failure == "truncated"


@given(st.binary(max_size=200), ANSWERS, st.integers(min_value=0), PLACES)
def test_no_bytes_bring_the_client_down(noise, answer, where, places):
    at = where % (len(answer) + 1)
    exchange, body = fed(cut(answer[:at] + noise + answer[at:], places))
    assert exchange.end_s >= exchange.sent_s
    assert exchange.failure or exchange.status == 200
    assert exchange.failure or isinstance(body, bytes)


def test_events_come_with_the_times_of_their_own_chunks():
    """One read may hold several chunks: they arrived together."""
    exchange, body = fed([OK, chunk(event({}))])
    assert (exchange.failure, body) == (None, EVENTS)
