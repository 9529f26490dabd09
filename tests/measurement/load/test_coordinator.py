from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.measurement.load.sharded import (
    PROMPTS,
    UNTIL_STOPPED,
    Kept,
    counted,
    target,
    until,
)
from tonnage.errors import TonnageError
from tonnage.measurement.load import Level, Progress, PromptSpec, TargetSpec
from tonnage.measurement.load.coordinator import (
    LateStartError,
    Patience,
    Ping,
    ShardedDriver,
    WorkerLostError,
    compare_clocks,
    merge_progress,
)
from tonnage.measurement.load.launch import ProcessLauncher
from tonnage.measurement.load.shard import Invitation, run_shard
from tonnage.measurement.load.wire import Link, LinkBrokenError

ROOT = Path(__file__).resolve().parents[3]
AHEAD_S = 1000.0


class Inviting(ProcessLauncher):
    """Processes, and what they were invited with."""

    def launch(self, invitations: Sequence[Invitation]) -> list[Future[None]]:
        self.invitations = invitations
        return super().launch(invitations)


class Elsewhere:
    """Processes that run `shard`: as on a machine that is not like this one."""

    def __init__(self, shard: Callable[[Invitation], None]) -> None:
        self._shard = shard

    def open(self, shards: int | None) -> tuple[str, int]:
        number = shards or 1
        self._pool = ProcessPoolExecutor(number, mp_context=get_context("spawn"))
        return "127.0.0.1", number

    def launch(self, invitations: Sequence[Invitation]) -> list[Future[None]]:
        return [self._pool.submit(self._shard, each) for each in invitations]

    def close(self) -> None:
        self._pool.shutdown()


def run_ahead(invitation: Invitation) -> None:
    """A shard whose machine is so many times AHEAD_S ahead."""
    run_shard(invitation, unix_s=lambda: time.time() + AHEAD_S * invitation.shard)


def broken_clock() -> float:
    raise RuntimeError("no clock here")


def run_broken(invitation: Invitation) -> None:
    if invitation.shard == 1:
        run_shard(invitation, unix_s=broken_clock)
    else:
        run_shard(invitation)


def run_one_missing(invitation: Invitation) -> None:
    if invitation.shard != 1:
        run_shard(invitation)


async def no_stop(driver: ShardedDriver, level: Level, kept: Kept) -> None:
    await driver.run(level, kept, kept, asyncio.Event())


def measure(driver: ShardedDriver, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `body` between open and close; nothing may be left of any shard."""

    async def whole() -> None:
        await driver.open()
        try:
            await asyncio.wait_for(body(), 30)
        finally:
            await driver.close()

    before = set(active_children())
    asyncio.run(whole())
    assert set(active_children()) <= before


@pytest.fixture(autouse=True)
def spools(tmp_path, monkeypatch):
    """Where shards keep their records: a folder of each test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_records_of_all_shards_come_together_and_none_twice(spools):
    driver = ShardedDriver(target("answer"), PROMPTS, workers=2)
    kept = Kept()

    async def body() -> None:
        await no_stop(driver, counted(101, "first"), kept)
        first = kept.records
        assert len(first) == 101
        assert len({record["item"] for record in first}) == 101
        assert set(kept.by_shard) == {0, 1}
        assert kept.last is not None
        assert (kept.last.finished, kept.last.failed, kept.last.in_flight) == (101, 0, 0)
        await no_stop(driver, counted(7, "second"), kept)
        assert [record["level"] for record in kept.records[101:]] == ["second"] * 7
        now_s = time.time()
        assert all(now_s - 30 < record["scheduled_unix_s"] < now_s for record in kept.records)
        for clock in driver.clocks:
            assert clock is not None
            assert abs(clock.unix_ahead_s) < 0.1

    measure(driver, body)
    assert list(spools.iterdir()) == []


def test_a_killed_worker_is_missed_its_records_are_kept_and_the_others_go_on(spools):
    driver = ShardedDriver(target("answer"), PROMPTS, workers=2)
    kept, stop = Kept(), asyncio.Event()

    async def body() -> None:
        running = asyncio.create_task(driver.run(UNTIL_STOPPED, kept, kept, stop))
        await kept.until(2, at_least=20)
        victim = int(driver._seats[1].name.split()[1])
        os.kill(victim, signal.SIGSTOP)
        await asyncio.sleep(0.3)
        written = Path(driver._seats[1].spool).read_bytes().splitlines()  # noqa: ASYNC240
        survivors = kept.by_shard[0]
        os.kill(victim, signal.SIGKILL)
        await until(lambda: kept.by_shard[0] >= survivors + 100)
        stop.set()
        with pytest.raises(WorkerLostError, match=rf"worker 1 \(process {victim} .*killed"):
            await running
        its = [line for line in kept.lines.splitlines() if json.loads(line).get("shard", 0) == 1]
        assert its == written
        with pytest.raises(WorkerLostError, match="worker 1"):
            await no_stop(driver, counted(4), kept)

    measure(driver, body)
    assert list(spools.iterdir()) == []


def test_stop_ends_what_is_in_flight_on_every_shard():
    driver = ShardedDriver(target("never"), PROMPTS, workers=2)
    kept, stop = Kept(), asyncio.Event()

    async def body() -> None:
        running = asyncio.create_task(driver.run(UNTIL_STOPPED, kept, kept, stop))
        await until(lambda: kept.last is not None and kept.last.in_flight == 4)
        stop.set()
        await running
        assert [record["failure"] for record in kept.records] == ["stopped"] * 4
        assert kept.by_shard == {0: 2, 1: 2}

    measure(driver, body)


def test_a_cancelled_level_is_stopped_and_kept():
    driver = ShardedDriver(target("answer"), PROMPTS, workers=1)
    kept = Kept()

    async def body() -> None:
        running = asyncio.create_task(no_stop(driver, UNTIL_STOPPED, kept))
        await kept.until(1)
        before = len(kept.records)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert len(kept.records) > before
        await no_stop(driver, counted(5, "next"), kept)
        assert [record["level"] for record in kept.records[-5:]] == ["next"] * 5

    measure(driver, body)


def test_shards_leave_an_interrupt_to_the_coordinator():
    driver = ShardedDriver(target("answer"), PROMPTS, workers=2)
    kept = Kept()

    async def body() -> None:
        running = asyncio.create_task(no_stop(driver, counted(300), kept))
        await kept.until(2)
        for child in active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGINT)
        await running
        assert len(kept.records) == 300

    measure(driver, body)


def test_a_keeper_that_cannot_keep_ends_the_level():
    class Full(Kept):
        def keep_lines(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    driver = ShardedDriver(target("answer"), PROMPTS, workers=2)

    async def body() -> None:
        with pytest.raises(OSError, match="No space left"):
            await no_stop(driver, UNTIL_STOPPED, Full())

    measure(driver, body)


def test_strangers_are_sent_away_and_a_place_is_taken_once():
    launcher = Inviting()
    driver = ShardedDriver(target("answer"), PROMPTS, workers=1, launcher=launcher)
    kept = Kept()

    async def knock(**hello: object) -> None:
        invitation = launcher.invitations[0]
        link = Link(*await asyncio.open_connection(invitation.host, invitation.port))
        try:
            await link.send("hello", b"", **hello)
            with pytest.raises(LinkBrokenError):
                await link.receive()
        finally:
            await link.close()

    async def body() -> None:
        invitation = launcher.invitations[0]
        running = asyncio.create_task(no_stop(driver, counted(200), kept))
        await kept.until(1)
        await knock(token="guess", shard=0, host="h", pid=1)  # noqa: S106 — wrong on purpose
        await knock(shard=0)
        await knock(token="\ud800", shard=0)  # noqa: S106 — as above
        assert invitation.token not in repr(invitation)
        await asyncio.to_thread(run_shard, invitation)  # as Dask would run it again; it returns
        await running
        assert len(kept.records) == 200
        assert set(kept.by_shard) == {0}

    measure(driver, body)


def test_a_worker_that_does_not_come_is_named():
    driver = ShardedDriver(
        target("answer"),
        PROMPTS,
        workers=2,
        patience=Patience(ready_s=2.0),
        launcher=Waiting(),
    )
    with pytest.raises(TonnageError, match=r"of 2 workers .* worker 1 has not connected\."):
        asyncio.run(driver.open())


class Waiting(ProcessLauncher):
    """One worker less than asked for, as on a busy cluster."""

    def launch(self, invitations: Sequence[Invitation]) -> list[Future[None]]:
        self._never: Future[None] = Future()
        return [*super().launch(invitations[:1]), self._never]

    def close(self) -> None:
        self._never.cancel()
        super().close()


def test_what_a_shard_died_of_is_said():
    driver = ShardedDriver(target("nothing_like_it"), PROMPTS, workers=2)
    with pytest.raises(TonnageError, match=r"worker \d \(process .* has no nothing_like_it"):
        asyncio.run(driver.open())
    assert active_children() == []


def test_a_shard_that_ends_before_it_connects_is_lost():
    driver = ShardedDriver(
        target("answer"), PROMPTS, workers=2, launcher=Elsewhere(run_one_missing)
    )
    with pytest.raises(WorkerLostError, match="worker 1 was lost before it was ready"):
        asyncio.run(driver.open())


def test_a_bug_in_a_shard_is_told_with_the_level_that_it_ended():
    driver = ShardedDriver(target("answer"), PROMPTS, workers=2, launcher=Elsewhere(run_broken))

    async def body() -> None:
        with pytest.raises(WorkerLostError, match="RuntimeError: no clock here") as caught:
            await no_stop(driver, counted(5), Kept())
        assert isinstance(caught.value.__cause__, RuntimeError)

    measure(driver, body)


def test_prompts_that_cannot_be_read_are_told_before_the_level_starts(tmp_path):
    missing = PromptSpec(kind="dataset", path=str(tmp_path / "none.json"))
    driver = ShardedDriver(target("answer"), missing, workers=2)

    async def body() -> None:
        with pytest.raises(
            TonnageError, match=r"worker \d \(process .*none\.json.* does not exist"
        ):
            await no_stop(driver, counted(5), Kept())

    measure(driver, body)


def test_a_mistake_that_ends_every_shard_is_told_as_one():
    driver = ShardedDriver(target("answer"), PROMPTS, workers=2)

    async def body() -> None:
        replay = Level(name="replay", rate_per_s=10.0, arrivals="trace", requests=5)
        with pytest.raises(TonnageError, match=r"^these prompts are no recording") as caught:
            await no_stop(driver, replay, Kept())
        assert not isinstance(caught.value, WorkerLostError)

    measure(driver, body)


def test_records_have_the_time_of_the_coordinator():
    driver = ShardedDriver(target("answer"), PROMPTS, workers=3, launcher=Elsewhere(run_ahead))
    kept = Kept()

    async def body() -> None:
        await no_stop(driver, counted(30), kept)
        for shard, clock in enumerate(driver.clocks):
            assert clock is not None
            assert clock.unix_ahead_s == pytest.approx(AHEAD_S * shard, abs=0.1)
            # the shard's records were of this machine's time: now they are put right by as much
            its = [record for record in kept.records if record.get("shard", 0) == shard]
            for record in its:
                behind_s = time.time() - record["scheduled_unix_s"]
                assert AHEAD_S * shard < behind_s < AHEAD_S * shard + 30
        assert set(kept.by_shard) == {0, 1, 2}

    measure(driver, body)


def test_a_late_start_is_refused():
    driver = ShardedDriver(target("answer"), PROMPTS, workers=2, patience=Patience(lead_s=-1.0))
    kept = Kept()

    async def body() -> None:
        with pytest.raises(LateStartError, match=r"late start: worker 0 .* by 1\.\d+ s"):
            await no_stop(driver, counted(5), kept)
        assert kept.records == []

    measure(driver, body)


def runs(pid: int) -> bool:
    """Whether the process is there, and not only its exit code for a parent that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


SCRIPT = """
import asyncio
from tests.measurement.load.sharded import PROMPTS, UNTIL_STOPPED, Kept, target
from tonnage.measurement.load.coordinator import ShardedDriver

async def main():
    driver = ShardedDriver(target("answer"), PROMPTS, workers=2)
    await driver.open()
    kept = Kept()
    try:
        running = asyncio.create_task(driver.run(UNTIL_STOPPED, kept, kept, asyncio.Event()))
        await kept.until(2)
        print(*(seat.name.split()[1] for seat in driver._seats), flush=True)
        await running
    finally:
        await driver.close()

if __name__ == "__main__":
    asyncio.run(main())
"""


def end_while_it_measures(folder: Path, number: int) -> str:
    """What a measurement of two shards says when a signal ends it; they are gone when it has."""
    script = folder / "measure.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as coordinator:
        assert coordinator.stdout is not None
        assert coordinator.stderr is not None
        pids = [int(pid) for pid in coordinator.stdout.readline().split()]
        assert len(pids) == 2
        if number == signal.SIGINT:  # as a terminal does
            os.killpg(coordinator.pid, number)
        else:
            coordinator.send_signal(number)
        told = coordinator.stderr.read()  # ends when the last shard has
    deadline_s = time.monotonic() + 10
    while any(map(runs, pids)):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return told


def test_shards_end_with_their_coordinator_and_leave_their_records(spools):
    told = end_while_it_measures(spools, signal.SIGKILL)
    left = sorted(spools.glob("tonnage-shard*.jsonl"))
    assert len(left) == 2
    assert all(str(path) in told for path in left)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in left)
    assert all(json.loads(line) for path in left for line in path.read_bytes().splitlines())


def test_an_interrupt_sends_every_shard_home(spools):
    told = end_while_it_measures(spools, signal.SIGINT)
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert told.count("Traceback") <= 2  # of the script: cancelled, interrupted
    assert "SpawnProcess" not in told
    assert "coordinator" not in told.lower().replace("coordinator.py", "")
    assert list(spools.glob("tonnage-shard*.jsonl")) == []


@given(
    ahead_s=st.floats(-1e6, 1e6),
    boot_s=st.floats(0, 1e7),
    trips=st.lists(st.tuples(st.floats(1e-5, 0.1), st.floats(1e-5, 0.1)), min_size=1, max_size=8),
)
def test_the_true_offset_is_within_the_uncertainty(ahead_s, boot_s, trips):
    start_unix_s = 1.8e9
    pings = [
        Ping(
            sent_unix_s=start_unix_s,
            received_unix_s=start_unix_s + there_s + back_s,
            clock_s=start_unix_s + there_s - boot_s,
            unix_s=start_unix_s + there_s + ahead_s,
        )
        for there_s, back_s in trips
    ]
    offset = compare_clocks(pings)
    rounding_s = 1e-6  # of floats of this size
    assert abs(offset.unix_ahead_s - ahead_s) <= offset.uncertainty_s + rounding_s
    assert abs(offset.clock_zero_unix_s - boot_s) <= offset.uncertainty_s + rounding_s
    assert offset.uncertainty_s <= min(sum(trip) for trip in trips) / 2 + rounding_s


def test_progress_adds_up_and_is_warm_up_until_all_are_through():
    def part(**fields: Any) -> Progress:
        return Progress(
            **{
                "level": UNTIL_STOPPED,
                "phase": "measured",
                "elapsed_s": 1.0,
                "in_flight": 2,
                "finished": 10,
                "failed": 1,
                "requests_per_s": 5.0,
                "ttft_s": (0.1, 0.2),
                **fields,
            }
        )

    whole = merge_progress([part(phase="warmup", ttft_s=(0.9,)), part(elapsed_s=1.5, failed=0)])
    assert whole == part(
        phase="warmup",
        elapsed_s=1.5,
        in_flight=4,
        finished=20,
        failed=1,
        requests_per_s=10.0,
        ttft_s=(0.9, 0.1, 0.2),
    )


async def exchange(send: Callable[[Link], Coroutine[Any, Any, None]]) -> Any:
    """What the other end of a real connection receives."""
    received: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer)
        try:
            received.set_result(await link.receive())
        except LinkBrokenError as error:
            received.set_exception(error)
        await link.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        streams = await asyncio.open_connection(*server.sockets[0].getsockname())
        link = Link(*streams)
        await send(link)
        await link.close()
        return await received


jsonable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40)  # each makes a connection
@given(
    kind=st.text(),
    body=st.dictionaries(
        st.text().filter(lambda key: key not in {"kind", "records", "self"}), jsonable, max_size=4
    ),
    records=st.binary(),
)
def test_a_message_arrives_as_it_was_sent(kind, body, records):
    got = asyncio.run(exchange(lambda link: link.send(kind, records, **body)))
    assert (got.kind, got.body, got.records) == (kind, body, records)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\2\0\0\0\0[]",
        b"\0\0\0\2\0\0\0\0{}",
        b"\0\0\0\1\0\0\0\0{",
        b"\0\0\0\7\0\0\0\0" + b'{"a":1}',
        b"\0\0\0\x0c\0\0\0\0" + b'{"kind": 10}',
        b"\0\3\0\0\0\0\0\0" + b"[" * 0x30000,
        b"\xff" * 64,
    ],
)
def test_what_is_no_message_breaks_the_link(garbage):
    async def send(link: Link) -> None:
        link._writer.write(garbage)

    with pytest.raises(LinkBrokenError):
        asyncio.run(exchange(send))


def test_headers_are_in_no_representation():
    secret = TargetSpec(kind="chat", address="http://x", headers={"Authorization": "Bearer s3"})
    invitation = Invitation(
        host="h",
        port=1,
        token="t0ken",  # noqa: S106 — not a real one
        shard=0,
        shards=1,
        target=secret,
        prompts=PROMPTS,
    )
    assert "s3" not in repr(invitation)
    assert "t0ken" not in repr(invitation)
