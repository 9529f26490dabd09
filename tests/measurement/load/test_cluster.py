from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.measurement.load.sharded import (
    PROMPTS,
    UNTIL_STOPPED,
    Kept,
    counted,
    look_first_in,
    look_no_more_in,
    target,
    until,
)
from tonnage.errors import MissingExtraError, TonnageError, UsageError
from tonnage.measurement.load.coordinator import ShardedDriver, WorkerLostError

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    """A scheduler and two workers of one thread, each with a nanny that starts it again."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as running:
        yield running


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as connected:
        connected.wait_for_workers(2)
        yield connected


def measure(
    client: Any, driver: ShardedDriver, body: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run `body` between open and close; then nothing of it is left there."""

    async def whole() -> None:
        await driver.open()
        try:
            await asyncio.wait_for(body(), 30)
        finally:
            await driver.close()

    asyncio.run(whole())
    assert_idle(client)


def assert_idle(client: Any) -> None:
    """Within a few seconds no task is known to the scheduler, nor runs."""

    def idle() -> bool:
        tasks = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        return tasks == 0 and not any(client.processing().values())

    asyncio.run(asyncio.wait_for(until(idle), 10))


@pytest.mark.parametrize("workers", [2, None])
def test_each_worker_of_a_cluster_runs_its_shard_once(cluster, client, workers):
    driver = ShardedDriver(
        target("answer"), PROMPTS, workers=workers, cluster=cluster.scheduler_address
    )
    kept = Kept()

    async def body() -> None:
        await driver.run(counted(101), kept, kept, asyncio.Event())

    measure(client, driver, body)
    assert len({record["item"] for record in kept.records}) == len(kept.records) == 101
    assert set(kept.by_shard) == {0, 1}


def test_stop_stops_what_cancelling_a_task_would_not(cluster, client):
    driver = ShardedDriver(target("never"), PROMPTS, workers=2, cluster=cluster.scheduler_address)
    kept, stop = Kept(), asyncio.Event()

    async def body() -> None:
        running = asyncio.create_task(driver.run(UNTIL_STOPPED, kept, kept, stop))
        await until(lambda: kept.last is not None and kept.last.in_flight == 4)
        stop.set()
        await running
        assert [record["failure"] for record in kept.records] == ["stopped"] * 4

    measure(client, driver, body)


def test_a_killed_worker_of_a_cluster_is_missed_and_its_shard_not_run_again(cluster, client):
    driver = ShardedDriver(target("answer"), PROMPTS, workers=2, cluster=cluster.scheduler_address)
    kept, stop = Kept(), asyncio.Event()

    async def body() -> None:
        running = asyncio.create_task(driver.run(UNTIL_STOPPED, kept, kept, stop))
        await kept.until(2, at_least=20)
        before = set(client.nthreads())
        victim = int(driver._seats[1].name.split()[1])
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(after := set(client.nthreads())) == 2 and after != before)
        await until(lambda: driver._seats[1].state == "lost")
        lost, survivors = kept.by_shard[1], kept.by_shard[0]
        await until(lambda: kept.by_shard[0] >= survivors + 100)
        assert kept.by_shard[1] == lost
        stop.set()
        with pytest.raises(WorkerLostError, match=rf"worker 1 \(process {victim} .*was lost"):
            await running

    measure(client, driver, body)
    assert len({record["item"] for record in kept.records}) == len(kept.records)


def test_a_cluster_too_small_or_with_several_threads_is_refused(cluster, client):
    address = cluster.scheduler_address
    with pytest.raises(TonnageError, match=r"3 workers .* has 2, and 0 with more.*--nthreads 1"):
        asyncio.run(ShardedDriver(target("answer"), PROMPTS, workers=3, cluster=address).open())
    assert_idle(client)


def test_several_threads_are_refused():
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            protocol="tcp",
            dashboard_address=":0",
        ) as threads,
        pytest.raises(TonnageError, match=r"has 0, and 1 with more.*--nthreads 1"),
    ):
        asyncio.run(
            ShardedDriver(
                target("answer"), PROMPTS, workers=1, cluster=threads.scheduler_address
            ).open()
        )


def test_what_a_shard_died_of_on_a_cluster_is_said(cluster, client):
    driver = ShardedDriver(
        target("nothing_like_it"), PROMPTS, workers=2, cluster=cluster.scheduler_address
    )
    with pytest.raises(TonnageError, match=r"worker \d \(process .* has no nothing_like_it"):
        asyncio.run(driver.open())
    assert_idle(client)


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)  # as if it were not installed
    driver = ShardedDriver(target("answer"), PROMPTS, workers=1, cluster="tcp://127.0.0.1:9")
    with pytest.raises(MissingExtraError, match=r"tonnage\[cluster\]"):
        asyncio.run(driver.open())


def test_workers_with_another_tonnage_are_refused(cluster, client, tmp_path):
    other = tmp_path / "tonnage-9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: tonnage\nVersion: 9.9\n")
    client.run(look_first_in, str(tmp_path))
    try:
        driver = ShardedDriver(
            target("answer"), PROMPTS, workers=2, cluster=cluster.scheduler_address
        )
        with pytest.raises(TonnageError, match=r"worker tcp://.* has tonnage 9\.9; this is"):
            asyncio.run(driver.open())
    finally:
        client.run(look_no_more_in, str(tmp_path))


def test_no_scheduler_and_no_address_are_said():
    with pytest.raises(TonnageError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        asyncio.run(
            ShardedDriver(target("answer"), PROMPTS, workers=1, cluster="tcp://127.0.0.1:9").open()
        )
    with pytest.raises(UsageError, match="is no address"):
        asyncio.run(
            ShardedDriver(target("answer"), PROMPTS, workers=1, cluster="ftp://here:1").open()
        )
