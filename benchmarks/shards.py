"""Load from one process and from two -> CPU time of a request, which should be the same.

Wall time would say nothing where the server has to share the cores. Counted is what the client
processes used between start and end of a level, and this one, which merges their records.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path

from tests.servers.timed import MODEL, timed_server
from tonnage.measurement.load import Level, Progress, PromptSpec, Record, TargetSpec
from tonnage.measurement.load.coordinator import ShardedDriver
from tonnage.measurement.loop import run

TTFT_S = 0.1
CLIENTS_PER_WORKER = 100  # so that no process is busy all the time
REQUESTS_PER_WORKER = 5_000
REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """CPU seconds of one request, with one and with two client processes; medians."""

    one_process_s: float
    two_processes_s: float

    @property
    def growth_fraction(self) -> float:
        """How much dearer a request is from two processes."""
        return self.two_processes_s / self.one_process_s - 1


def measure_scaling() -> Scaling:
    """Hold the same load per process from one and from two, in turn."""
    with timed_server(ttft_s=TTFT_S, itl_s=0.0, output_tokens=1) as address:
        target = TargetSpec(kind="completions", address=address, model=MODEL)
        rounds = [(_cpu_s(target, 1), _cpu_s(target, 2)) for _ in range(REPEATS)]
    one, two = zip(*rounds, strict=True)
    return Scaling(one_process_s=statistics.median(one), two_processes_s=statistics.median(two))


def _cpu_s(target: TargetSpec, workers: int) -> float:
    return run(_hold(target, workers))


async def _hold(target: TargetSpec, workers: int) -> float:
    """CPU seconds of one request from so many processes."""
    prompts = PromptSpec(kind="synthetic", prompt_tokens=16, output_tokens=1)
    driver = ShardedDriver(target, prompts, workers=workers)
    count = _Count()
    await driver.open()
    try:
        processes = [child.pid for child in active_children() if child.pid is not None]
        await driver.run(_level(workers, 1), count, count, asyncio.Event())  # connections are made
        before_s, count.records = _used_s(processes), 0
        await driver.run(_level(workers, REQUESTS_PER_WORKER), count, count, asyncio.Event())
        return (_used_s(processes) - before_s) / count.records
    finally:
        await driver.close()


def _level(workers: int, requests_per_worker: int) -> Level:
    return Level(
        name="scaling",
        concurrency=workers * CLIENTS_PER_WORKER,
        requests=workers * requests_per_worker,
    )


def _used_s(processes: list[int]) -> float:
    """CPU seconds of these processes and of this one so far."""
    ticks = 0
    for pid in processes:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime, see proc(5)
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


class _Count:
    """Counts records and keeps none."""

    def __init__(self) -> None:
        self.records = 0

    def keep(self, _: Record) -> None:
        self.records += 1

    def keep_lines(self, lines: bytes) -> None:
        self.records += lines.count(b"\n")

    def progress(self, _: Progress) -> None:
        """Nobody looks."""
