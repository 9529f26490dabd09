"""An invitation -> one share of the load, held in this process when the coordinator says so.

A shard connects back, opens its own target and prompts, says that it is ready, and holds each level
it is told to. A record goes into a file of this machine first (the *spool*) and from there to the
coordinator, so a record is lost only with the machine. Told to leave, or left alone because the
coordinator vanished, it cancels what is in flight and ends; in the second case the spool stays, and
the log says where.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from tonnage.errors import TonnageError
from tonnage.measurement.load import (
    Conversation,
    Level,
    Progress,
    PromptSpec,
    Record,
    Target,
    TargetSpec,
    clock,
)
from tonnage.measurement.load.journal import Journal
from tonnage.measurement.load.local import prompts_of
from tonnage.measurement.load.loops import drive
from tonnage.measurement.load.prompts import conversations
from tonnage.measurement.load.wire import Link, LinkBrokenError, Message
from tonnage.measurement.loop import run
from tonnage.measurement.targets.choose import target_of
from tonnage.spread import ENDING

log = logging.getLogger(__name__)

SHIP_EVERY_S = 0.2
SHIP_BYTES = 1 << 22
SHOWN_TIMES = 500  # a live percentile needs no more of each shard
ORPHAN_S = 15.0  # what is in flight may take to end once the parent process is gone
EXIT_ORPHANED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """All a shard needs: where the coordinator listens, who the shard is, what it loads."""

    host: str
    port: int
    token: str = field(repr=False)
    shard: int
    shards: int
    target: TargetSpec
    prompts: PromptSpec


class Spool:
    """Records of one shard, in a file only its user can read."""

    def __init__(self, shard: int) -> None:
        self._descriptor, name = tempfile.mkstemp(prefix=f"tonnage-shard{shard}-", suffix=".jsonl")
        self.path = Path(name)
        self._journal = Journal(self.path)
        self.shipped_bytes = 0
        self.correction_s = 0.0

    def keep(self, record: Record) -> None:
        """Append `record`, its Unix time put right."""
        if self.correction_s:
            put_right_s = record.scheduled_unix_s + self.correction_s
            record = replace(record, scheduled_unix_s=put_right_s)
        self._journal.keep(record)

    def keep_lines(self, lines: bytes) -> None:
        """Append `lines`, whose times are right."""
        self._journal.keep_lines(lines)

    def unshipped(self) -> bytes:
        """The next whole lines to ship; empty when all are."""
        return read_lines(self._descriptor, self.shipped_bytes, SHIP_BYTES)

    def close(self, *, remove: bool) -> None:
        """Close the file. It stays, and the log says where, unless it is empty or not needed."""
        if remove or self._journal.size_bytes == 0:
            self.path.unlink(missing_ok=True)
        else:
            log.warning("Records that may not have reached the coordinator lie in %s.", self.path)
        self._journal.close()
        os.close(self._descriptor)


def read_lines(descriptor: int, offset: int, limit: int) -> bytes:
    """Whole lines of a file from `offset` on: about `limit` bytes, at least one line."""
    piece = os.pread(descriptor, limit, offset)
    end = piece.rfind(b"\n") + 1
    if end == 0 and len(piece) == limit:
        return read_lines(descriptor, offset, 2 * limit)
    return piece[:end]


def run_process_shard(invitation: Invitation) -> None:
    """Run a shard in a process made for it, which must not outlive the coordinator's.

    It was started with the signals of `ENDING` blocked; a handler that does nothing, unlike that,
    does not pass on to programs that are started here.
    """
    for each in ENDING:
        signal.signal(each, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    ended = threading.Event()
    threading.Thread(target=_end_with_parent, args=(ended,), daemon=True).start()
    try:
        run_shard(invitation)
    finally:
        ended.set()


def _end_with_parent(ended: threading.Event) -> None:
    """Wait for the parent's end, then for the shard's; a pool's worker would wait forever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        ended.wait(ORPHAN_S)
        os._exit(EXIT_ORPHANED)


def run_shard(invitation: Invitation, *, unix_s: Callable[[], float] = time.time) -> None:
    """Run a shard from hello to goodbye. Raises whatever kept it from loading the target.

    `unix_s` is this machine's idea of the time.
    """
    try:
        run(_attend(invitation, unix_s))
    except TonnageError as error:  # of one kind, which survives the way back whole
        raise TonnageError(str(error)) from None


async def _attend(invitation: Invitation, unix_s: Callable[[], float]) -> None:
    """Connect, be let in, serve; a shard whose place is taken leaves at once."""
    try:
        streams = await asyncio.open_connection(invitation.host, invitation.port)
    except OSError as error:
        raise TonnageError(
            f"{socket.gethostname()} cannot reach the coordinator at "
            f"{invitation.host}:{invitation.port}: {error.strerror or error}.",
            hint="Workers must be able to connect to the machine that measures.",
        ) from None
    link = Link(*streams)
    try:
        with suppress(LinkBrokenError):
            await link.send(
                "hello",
                token=invitation.token,
                shard=invitation.shard,
                host=socket.gethostname(),
                pid=os.getpid(),
            )
            if (await link.receive()).kind == "welcome":
                await _open_and_serve(invitation, link, unix_s)
    finally:
        await link.close()


async def _open_and_serve(invitation: Invitation, link: Link, unix_s: Callable[[], float]) -> None:
    spool = Spool(invitation.shard)
    parted = False
    try:
        target = target_of(invitation.target)
        try:
            await target.open()
            shard = _Shard(invitation, link, spool, target, unix_s)
            await link.send("ready", spool=str(spool.path), model=target.model)
            parted = await shard.serve()
        finally:
            await target.close()
    finally:
        spool.close(remove=parted)


class _Shard:
    """What a shard does once it is let in; also the watch of the level it holds."""

    def __init__(
        self,
        invitation: Invitation,
        link: Link,
        spool: Spool,
        target: Target,
        unix_s: Callable[[], float],
    ) -> None:
        self._invitation = invitation
        self._link = link
        self._spool = spool
        self._target = target
        self._unix_s = unix_s
        self._stop = asyncio.Event()
        self._progress: Progress | None = None
        self._level: Level | None = None
        self._conversations: Iterator[Conversation] = iter(())

    def progress(self, progress: Progress) -> None:
        """Remember how the level stands, to ship it with the next records."""
        self._progress = progress

    async def serve(self) -> bool:
        """Do as the coordinator says; whether it said goodbye with nothing left to ship.

        Raises LinkBrokenError when it vanished, or what ended a level before its time.
        """
        holding: asyncio.Task[None] | None = None
        try:
            while (message := await self._link.receive()).kind != "bye":
                match message.kind:
                    case "prepare":
                        self._prepare(Level(**message.body["level"]))
                        await self._link.send("prepared")
                    case "ping":
                        await self._link.send("pong", clock_s=clock(), unix_s=self._unix_s())
                    case "start":
                        holding = await self._start(message)
                    case "stop":
                        self._stop.set()
            return holding is None or holding.done()
        finally:
            self._stop.set()
            if holding is not None:
                await holding

    def _prepare(self, level: Level) -> None:
        """Do what takes time before the level starts: read prompts, tidy up the memory."""
        invitation = self._invitation
        self._level = level
        self._conversations = conversations(
            prompts_of(level, invitation.prompts),
            tokenizer=invitation.target.tokenizer,
            shard=invitation.shard,
            shards=invitation.shards,
        )
        gc.collect()

    async def _start(self, message: Message) -> asyncio.Task[None] | None:
        """Start the level at its time; refuse when that has passed."""
        start_s = float(message.body["start_s"])
        late_s = clock() - start_s
        if late_s > 0:
            await self._link.send("late", late_s=late_s)
            return None
        self._spool.correction_s = float(message.body["correction_s"])
        self._stop = asyncio.Event()
        self._progress = None
        return asyncio.create_task(self._hold(start_s))

    async def _hold(self, start_s: float) -> None:
        """Drive the level and ship what comes; a failure breaks the link, so that `serve` ends."""
        assert self._level is not None  # noqa: S101 — prepared first
        gc.freeze()  # what is in memory by now is kept from the collector's rounds meanwhile
        driving = asyncio.create_task(
            drive(
                self._level,
                self._target,
                self._conversations,
                self._spool,
                self,
                self._stop,
                shard=self._invitation.shard,
                shards=self._invitation.shards,
                start_s=start_s,
            )
        )
        try:
            while not driving.done():
                await asyncio.wait([driving], timeout=SHIP_EVERY_S)
                with suppress(LinkBrokenError):  # `serve` sees it too, and stops the level
                    await self._ship()
            driving.result()
            with suppress(LinkBrokenError):
                await self._link.send("done")
        except BaseException:
            driving.cancel()
            await self._link.close()
            raise
        finally:
            gc.unfreeze()

    async def _ship(self) -> None:
        """Send the records that are in the spool only, and how the level stands."""
        while lines := self._spool.unshipped():
            await self._link.send("records", lines)
            self._spool.shipped_bytes += len(lines)
        if self._progress is not None:
            await self._link.send("progress", **_body_of(self._progress))
            self._progress = None


def _body_of(progress: Progress) -> dict[str, Any]:
    """The fields of `progress` for the wire, long lists thinned; the level is known there."""
    body = asdict(progress)
    del body["level"]
    for times in ("ttft_s", "e2e_s"):
        body[times] = body[times][:: 1 + len(body[times]) // SHOWN_TIMES]
    return body
