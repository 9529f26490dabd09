"""A level -> held by several processes at the same moment, their records in one place.

Shards are launched by an executor (`launch`) and then connect back here: they say hello with a
token of this session, get ready, have their clock compared, start a level together, ship records
and how it stands, and end when told. A shard that is lost is missed at once: what it had recorded
is kept, the level goes on without it, and `run` says so at its end. Nothing is run twice: a place
is taken once, and whoever comes for it again is sent away.

The connection is checked by the token and not encrypted, as Dask itself is not by default: between
machines, measure over a network that you trust.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from tonnage.errors import TonnageError, UsageError
from tonnage.measurement.load import (
    Keeper,
    Level,
    Phase,
    Progress,
    PromptSpec,
    TargetSpec,
    Watch,
    clock,
)
from tonnage.measurement.load.launch import DaskLauncher, Launcher, ProcessLauncher
from tonnage.measurement.load.shard import SHIP_BYTES, Invitation, read_lines
from tonnage.measurement.load.wire import Link, LinkBrokenError, Message

log = logging.getLogger(__name__)

PINGS = 8
TICK_S = 0.2
HELLO_S = 20.0  # a connection may take to say who it is
LAST_WORDS_S = 1.0  # an executor may take to say what a shard died of
SILENCE_S = 30.0  # beyond the time one request may take; then a shard hangs

T = TypeVar("T")


class WorkerLostError(TonnageError):
    """A worker ended before it was told to; what it recorded until then is kept."""


class LateStartError(TonnageError):
    """A shard could not have started together with the others; the level does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the coordinator waits: for shards to be ready, from order to start, for an end."""

    ready_s: float = 60.0
    lead_s: float = 0.25
    end_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockOffset:
    """How the clocks of a shard stand to those of the coordinator, and how sure that is.

    `unix_ahead_s` is how much its Unix time is ahead; `clock_zero_unix_s` is the coordinator's Unix
    time when the shard's `clock` reads zero. Both are within `uncertainty_s`.
    """

    unix_ahead_s: float
    clock_zero_unix_s: float
    uncertainty_s: float

    @property
    def correction_s(self) -> float:
        """What to add to the shard's Unix times; nothing, where nothing can be told apart."""
        return 0.0 if abs(self.unix_ahead_s) <= self.uncertainty_s else -self.unix_ahead_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """One round trip in the coordinator's Unix time, and what the shard's clocks read meanwhile."""

    sent_unix_s: float
    received_unix_s: float
    clock_s: float
    unix_s: float


def compare_clocks(pings: Sequence[Ping]) -> ClockOffset:
    """What the fastest round trip says: the shard read its clocks halfway, give or take half."""
    best = min(pings, key=lambda ping: ping.received_unix_s - ping.sent_unix_s)
    halfway_s = (best.sent_unix_s + best.received_unix_s) / 2
    return ClockOffset(
        unix_ahead_s=best.unix_s - halfway_s,
        clock_zero_unix_s=halfway_s - best.clock_s,
        uncertainty_s=(best.received_unix_s - best.sent_unix_s) / 2,
    )


def merge_progress(parts: Sequence[Progress]) -> Progress:
    """How a level stands as a whole: as the shard does that is least far."""
    return Progress(
        level=parts[0].level,
        phase=next(each for each in get_args(Phase) if each in {part.phase for part in parts}),
        elapsed_s=max(part.elapsed_s for part in parts),
        in_flight=sum(part.in_flight for part in parts),
        finished=sum(part.finished for part in parts),
        failed=sum(part.failed for part in parts),
        requests_per_s=sum(part.requests_per_s for part in parts),
        ttft_s=tuple(chain.from_iterable(part.ttft_s for part in parts)),
        e2e_s=tuple(chain.from_iterable(part.e2e_s for part in parts)),
    )


_State = Literal["launched", "opening", "ready", "prepared", "busy", "late", "lost"]
_DOING: dict[_State, str] = {  # whoever is not there yet
    "launched": "has not connected",
    "opening": "has connected and still opens the target",
    "ready": "still reads its prompts",
    "prepared": "does not answer",
}


@dataclass(slots=True, kw_only=True, eq=False)
class _Seat:
    """The place of one shard, and what is known of whoever has taken it."""

    shard: int
    ended: asyncio.Future[None]
    state: _State = "launched"
    link: Link | None = None
    name: str = ""
    spool: str = ""
    model: str | None = None
    received_bytes: int = 0  # of the spool
    heard_s: float = 0.0
    pinged_unix_s: float = 0.0
    pings: list[Ping] = field(default_factory=list)
    offset: ClockOffset | None = None
    progress: Progress | None = None
    late_s: float = 0.0
    why: str = ""  # it is lost
    cause: BaseException | None = None

    def __str__(self) -> str:
        """As people are told of it."""
        return f"worker {self.shard}" + (f" ({self.name})" if self.name else "")

    async def tell(self, kind: str, **body: Any) -> None:  # noqa: ANN401 — as JSON takes it
        """Send it a message; that nobody is there any more is noticed by who listens."""
        if self.link is not None and self.state != "lost":
            with suppress(LinkBrokenError):
                await self.link.send(kind, **body)


class ShardedDriver:
    """Puts levels on a target from `workers` processes: a `Driver`.

    They are processes of this machine, or of the Dask cluster whose scheduler is at `cluster`,
    where each takes a worker with one thread, all of those if no number is given. Paths of the
    target and the prompts are read there; `headers` of the target reach them over connections that
    are not encrypted, and no disk.
    """

    def __init__(
        self,
        target: TargetSpec,
        prompts: PromptSpec,
        *,
        workers: int | None,
        cluster: str | None = None,
        patience: Patience | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        if (workers or cluster is None) and (workers or 0) < 1:
            raise UsageError("there must be at least one worker.", hint="For example --workers 2.")
        self._target = target
        self._prompts = prompts
        self._workers = workers
        self._patience = patience or Patience()
        self._launcher = launcher or (
            ProcessLauncher() if cluster is None else DaskLauncher(cluster)
        )
        self._token = secrets.token_hex(32)
        self._unix_at_zero_s = time.time() - clock()  # one anchor: Unix time may be set meanwhile
        self._server: asyncio.Server | None = None
        self._greeting: dict[asyncio.Task[None], Link] = {}
        self._launched = asyncio.Event()
        self._seats: list[_Seat] = []
        self._inbox: asyncio.Queue[tuple[_Seat, Message | None]] = asyncio.Queue()
        self._level: Level | None = None
        self._keeper: Keeper | None = None

    @property
    def model(self) -> str | None:
        """The model that answers, as far as the first shard knows after `open`."""
        return self._seats[0].model if self._seats else None

    @property
    def clocks(self) -> tuple[ClockOffset | None, ...]:
        """By shard, how its clocks stood before the last level."""
        return tuple(seat.offset for seat in self._seats)

    async def open(self) -> None:
        """Launch the shards and wait until each is ready.

        Raises what the first of them died of, or TonnageError with those that are missing.
        """
        try:
            await self._launch()
            await self._wait_for(lambda seat: seat.state == "ready", "ready")
            self._refuse_failed()
        except BaseException:
            await self.close()
            raise

    async def run(self, level: Level, keeper: Keeper, watch: Watch, stop: asyncio.Event) -> None:
        """Hold `level` from all shards at once.

        Raises LateStartError when one could not start with the others, and WorkerLostError when one
        was lost: at the end, once all records are kept, or at once where it was lost before.
        """
        self._level, self._keeper = level, keeper
        try:
            await self._prepare(level)
            await self._start()
            await self._hold(watch, stop)
        except BaseException:
            await self._halt()
            raise
        finally:
            self._keeper = None
        self._refuse_late()
        self._refuse_lost()

    async def close(self) -> None:
        """Send every shard home and leave no process, task or connection behind."""
        leaving = [seat.ended for seat in self._seats if seat.state not in {"launched", "lost"}]
        for seat in self._seats:
            await seat.tell("bye")
        if leaving:
            await asyncio.wait(leaving, timeout=self._patience.end_s)
        if self._server is not None:
            self._server.close()
        self._launched.set()
        for link in self._greeting.values():  # cancelled, a task of a server says so in the log
            link.abort()
        await asyncio.gather(*self._greeting)
        await _in_thread(self._launcher.close)
        if self._seats:  # their executors have just been closed
            await asyncio.wait([seat.ended for seat in self._seats], timeout=LAST_WORDS_S)
        self._server, self._seats = None, []

    async def _launch(self) -> None:
        host, shards = await _in_thread(partial(self._launcher.open, self._workers))
        self._server = await asyncio.start_server(self._greet, host, 0)
        invitations = [
            Invitation(
                host=host,
                port=self._server.sockets[0].getsockname()[1],
                token=self._token,
                shard=shard,
                shards=shards,
                target=self._target,
                prompts=self._prompts,
            )
            for shard in range(shards)
        ]
        for shard, future in enumerate(
            await _in_thread(partial(self._launcher.launch, invitations))
        ):
            seat = _Seat(shard=shard, ended=asyncio.wrap_future(future))
            seat.ended.add_done_callback(partial(self._notice_end, seat))
            self._seats.append(seat)
        self._launched.set()

    def _notice_end(self, seat: _Seat, ended: asyncio.Future[None]) -> None:
        """A shard ended; if it has a connection, what it sent before is read first."""
        if not ended.cancelled():
            ended.exception()  # seen, whatever becomes of it
        if seat.link is None:
            self._inbox.put_nowait((seat, None))

    # ── whoever connects ────────────────────────────────────────────────────────────────────────

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Let a shard in and listen to it; send everyone else away."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 — a coroutine runs in one
        self._greeting[task] = link = Link(reader, writer)
        try:
            await self._launched.wait()
            hello = await asyncio.wait_for(link.receive(), HELLO_S)
            if not self._knows(hello):
                peer = writer.get_extra_info("peername")
                log.warning("Refused a connection from %s: not of this measurement.", peer)
                return
            seat = self._seats[hello.body["shard"]]
            if seat.state == "launched":
                seat.name = f"process {hello.body['pid']} on {hello.body['host']}"
                seat.link, seat.state = link, "opening"
                await link.send("welcome")
                await self._listen(seat, link)
            else:
                log.warning("Worker %d was started a second time, and sent away.", seat.shard)
                await link.send("leave")
        except (LinkBrokenError, TimeoutError):
            pass  # nobody we know
        finally:
            del self._greeting[task]
            await link.close()

    def _knows(self, hello: Message) -> bool:
        token = str(hello.body.get("token")).encode(errors="replace")
        return (
            hello.kind == "hello"
            and hmac.compare_digest(token, self._token.encode())
            and hello.body.get("shard") in range(len(self._seats))
        )

    async def _listen(self, seat: _Seat, link: Link) -> None:
        try:
            while True:
                self._inbox.put_nowait((seat, await link.receive()))
        except LinkBrokenError:
            await asyncio.wait([seat.ended], timeout=LAST_WORDS_S)
            self._inbox.put_nowait((seat, None))

    # ── what shards say ─────────────────────────────────────────────────────────────────────────

    async def _until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Take in what shards say until `done`; whether that came within `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not done():
                    self._take(*await self._inbox.get())
        return done()

    async def _wait_for(self, done: Callable[[_Seat], bool], what: str) -> None:
        """Until every shard is so far, or one is lost; TonnageError when it takes too long."""
        ready_s = self._patience.ready_s
        if not await self._until(
            lambda: all(map(done, self._seats)) or bool(self._in("lost")), ready_s
        ):
            missing = [seat for seat in self._seats if not done(seat)]
            raise TonnageError(
                f"{len(missing)} of {len(self._seats)} workers were not {what} within"
                f" {ready_s:g} s: "
                + "; ".join(f"{seat} {_DOING[seat.state]}" for seat in missing)
                + ".",
                hint="On a cluster, look whether those workers are busy.",
            )

    def _take(self, seat: _Seat, message: Message | None) -> None:
        if seat.state == "lost":
            return
        if message is None:
            seat.why, seat.cause = _last_words(seat.ended)
            self._lose(seat, over=True)
            return
        seat.heard_s = message.arrived_s
        match message.kind:
            case "ready":
                seat.state = "ready"
                seat.spool, seat.model = message.body["spool"], message.body["model"]
            case "prepared":
                seat.state = "prepared"
            case "pong":
                received_unix_s = self._unix_at_zero_s + message.arrived_s
                ping = Ping(
                    sent_unix_s=seat.pinged_unix_s, received_unix_s=received_unix_s, **message.body
                )
                seat.pings.append(ping)
            case "records":
                self._keep(seat, message.records)
            case "progress":
                seat.progress = Progress(level=self._held_level(), **message.body)
            case "late":
                seat.state, seat.late_s = "late", message.body["late_s"]
            case "done":
                seat.state = "ready"

    def _keep(self, seat: _Seat, lines: bytes) -> None:
        if self._keeper is not None:
            self._keeper.keep_lines(lines)
            seat.received_bytes += len(lines)

    def _lose(self, seat: _Seat, *, over: bool) -> None:
        """Note that a shard is lost, and keep what is in its spool if that is on this machine.

        `over`: its process writes no more, so that an emptied spool can go.
        """
        seat.state = "lost"
        if seat.link is not None:
            seat.link.abort()
        if seat.progress is not None:
            seat.progress = replace(seat.progress, in_flight=0)
        log.warning("%s was lost: %s.", seat, seat.why)
        if seat.spool and self._keeper is not None:
            try:
                spool = os.open(seat.spool, os.O_RDONLY)
            except OSError:  # on another machine
                seat.why += f"; what it had not yet sent lies there in {seat.spool}"
                return
            try:
                while lines := read_lines(spool, seat.received_bytes, SHIP_BYTES):
                    self._keep(seat, lines)
            finally:
                os.close(spool)
            if over:
                Path(seat.spool).unlink(missing_ok=True)

    # ── a level ─────────────────────────────────────────────────────────────────────────────────

    async def _prepare(self, level: Level) -> None:
        """Have every shard read its prompts, then compare its clocks: it has nothing else to do."""
        self._refuse_lost()
        for seat in self._seats:
            seat.pings = []
            await seat.tell("prepare", level=asdict(level))
        await self._wait_for(lambda seat: seat.state == "prepared", "prepared")
        self._refuse_failed()
        for done in range(PINGS):
            for seat in self._seats:
                seat.pinged_unix_s = self._unix_at_zero_s + clock()
                await seat.tell("ping")
            await self._wait_for(lambda seat, done=done: len(seat.pings) > done, "answering")  # type: ignore[misc]
            self._refuse_lost()
        for seat in self._seats:
            seat.offset = compare_clocks(seat.pings)

    async def _start(self) -> None:
        start_unix_s = self._unix_at_zero_s + clock() + self._patience.lead_s
        for seat in self._seats:
            assert seat.offset is not None  # noqa: S101 — just compared
            seat.state, seat.progress, seat.heard_s = "busy", None, clock()
            await seat.tell(
                "start",
                start_s=start_unix_s - seat.offset.clock_zero_unix_s,
                correction_s=seat.offset.correction_s,
            )

    async def _hold(self, watch: Watch, stop: asyncio.Event) -> None:
        """Until no shard is busy with the level any more."""
        over = False
        while not over:
            over = await self._until(lambda: not self._in("busy"), TICK_S)
            if parts := [seat.progress for seat in self._seats if seat.progress is not None]:
                watch.progress(merge_progress(parts))
            if not over and (stop.is_set() or self._in("late")):
                await self._halt()
            silent_s = self._target.timeout_s + SILENCE_S
            for seat in self._in("busy"):
                if clock() - seat.heard_s > silent_s:
                    seat.why = f"it has said nothing for {silent_s:g} s"
                    self._lose(seat, over=False)

    async def _halt(self) -> None:
        """Stop the level, and lose whoever does not."""
        for seat in self._in("busy"):
            await seat.tell("stop")
        await self._until(lambda: not self._in("busy"), self._patience.end_s)
        for seat in self._in("busy"):
            seat.why = f"it did not stop within {self._patience.end_s:g} s"
            self._lose(seat, over=False)

    # ── how the shards stand ────────────────────────────────────────────────────────────────────

    def _in(self, state: _State) -> list[_Seat]:
        return [seat for seat in self._seats if seat.state == state]

    def _held_level(self) -> Level:
        assert self._level is not None  # noqa: S101 — progress is of a level
        return self._level

    def _refuse_failed(self) -> None:
        """Raise what kept a shard from getting ready."""
        for seat in self._in("lost"):
            if isinstance(seat.cause, TonnageError):
                raise TonnageError(f"{seat}: {seat.cause}") from seat.cause
            if seat.cause is not None and not isinstance(seat.cause, BrokenExecutor):
                raise seat.cause
            raise WorkerLostError(
                f"{seat} was lost before it was ready: {seat.why}.",
                hint=""
                if seat.link is not None
                else 'A script that measures needs its if __name__ == "__main__".',
            ) from seat.cause

    def _refuse_late(self) -> None:
        if late := self._in("late"):
            names = ", ".join(f"{seat} by {seat.late_s:.3f} s" for seat in late)
            for seat in late:
                seat.state = "ready"
            raise LateStartError(
                f"late start: {names}. The level was stopped and does not count.",
                hint="Start it again, with less else running on those machines.",
            )

    def _refuse_lost(self) -> None:
        """Raise for every worker that was lost; a mistake that ended all of them is not theirs."""
        lost = self._in("lost")
        if not lost:
            return
        cause = lost[0].cause
        if len(lost) == len(self._seats) and isinstance(cause, TonnageError):
            raise TonnageError(str(cause)) from cause
        reasons = " ".join(f"{seat} was lost: {seat.why}." for seat in lost)
        raise WorkerLostError(
            f"{reasons} What the workers recorded is kept; the load was less than asked for.",
            hint="Run the level again with all workers.",
        ) from cause


def _last_words(ended: asyncio.Future[None]) -> tuple[str, BaseException | None]:
    """Why a shard is gone, and the exception it died of."""
    if not ended.done() or ended.cancelled():
        return "its connection broke", None
    error = ended.exception()
    if error is None:
        return "its connection broke and it ended", None
    if isinstance(error, BrokenExecutor):
        return "its process ended abruptly (killed, or out of memory)", error
    if isinstance(error, TonnageError):
        return str(error).removesuffix("."), error
    return f"{type(error).__name__}: {error}", error


async def _in_thread(call: Callable[[], T]) -> T:
    """Run `call` in a thread; its end is waited for even if nobody wants the result any more."""
    running = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
