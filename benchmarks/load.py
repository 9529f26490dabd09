"""The load client, one process, against a server of known timing -> how far it is from the truth.

Everything that `tonnage measure` does for a request is in it: synthetic prompts, the closed loop,
the OpenAI target, the record on the disk. `python -m benchmarks.load NAME` measures one load in a
process that has done nothing else, and writes JSON; the runner starts one for each.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field

ITL_S = 0.04
TTFT_S = 0.1
RAMP_S = 2.0  # clients do not all begin at once
STREAM_TOKENS = 50
REPEATS = 3
TIME_LIMIT_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one load measured of the server, and what that cost; of several runs the medians."""

    requests: int
    failed: int
    requests_per_s: float
    ttft_error_p50_s: float
    ttft_error_p99_s: float
    cores: float
    cpu_s_per_request: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadGoal:
    """What must hold; the rest is only shown."""

    ttft_error_p50_s: float | None = None
    ttft_error_p99_s: float | None = None
    cores: float | None = None
    requests_per_s: float | None = None

    def __str__(self) -> str:
        """The goal as the table shows it."""
        return ", ".join(
            text
            for bound, text in (
                (self.ttft_error_p50_s, f"p50 ±{(self.ttft_error_p50_s or 0) * 1e3:g} ms"),
                (self.ttft_error_p99_s, f"p99 ±{(self.ttft_error_p99_s or 0) * 1e3:g} ms"),
                (self.cores, f"≤ {self.cores or 0:.0%} core"),
                (self.requests_per_s, f"≥ {self.requests_per_s or 0:,.0f}/s"),
            )
            if bound is not None
        )

    def met_by(self, seen: Seen) -> bool:
        """Whether `seen` keeps every bound, without a failed request."""
        return (
            seen.failed == 0
            and _within(abs(seen.ttft_error_p50_s), self.ttft_error_p50_s)
            and _within(abs(seen.ttft_error_p99_s), self.ttft_error_p99_s)
            and _within(seen.cores, self.cores)
            and _within(self.requests_per_s or 0.0, seen.requests_per_s)
        )


def _within(value: float, bound: float | None) -> bool:
    return bound is None or value <= bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """So many clients, each asking for streams of so many tokens, for so long after the ramp."""

    clients: int
    tokens: int
    ttft_s: float
    itl_s: float
    duration_s: float
    goal: LoadGoal = field(default_factory=LoadGoal)


LOADS = {
    "500 streams, 40 ms a token": Load(
        clients=500,
        tokens=STREAM_TOKENS,
        ttft_s=TTFT_S,
        itl_s=ITL_S,
        duration_s=6.0,
        goal=LoadGoal(ttft_error_p50_s=0.001, cores=0.5),
    ),
    "1,000 streams, 40 ms a token": Load(
        clients=1000,
        tokens=STREAM_TOKENS,
        ttft_s=TTFT_S,
        itl_s=ITL_S,
        duration_s=6.0,
        goal=LoadGoal(ttft_error_p50_s=0.003, ttft_error_p99_s=0.015),
    ),
    "requests of one token": Load(
        clients=32,
        tokens=1,
        ttft_s=0.0,
        itl_s=0.0,
        duration_s=4.0,
        goal=LoadGoal(requests_per_s=10_000),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """One load and its outcome, or the reason there is none."""

    name: str
    goal: LoadGoal
    seen: Seen | None
    problem: str = ""

    @property
    def met(self) -> bool:
        """Whether it was measured and keeps its goal."""
        return self.seen is not None and self.goal.met_by(self.seen)


def measure_load(name: str) -> LoadRow:
    """Measure one of `LOADS`, several times, each in a process of its own."""
    goal = LOADS[name].goal
    command = [sys.executable, "-m", "benchmarks.load", name]
    runs = []
    for _ in range(REPEATS):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            return LoadRow(name=name, goal=goal, seen=None, problem=str(error))
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            return LoadRow(name=name, goal=goal, seen=None, problem=lines[-1])
        runs.append(json.loads(done.stdout))
    middle = {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
    middle["failed"] = max(run["failed"] for run in runs)
    return LoadRow(name=name, goal=goal, seen=Seen(**middle))


def format_loads(rows: list[LoadRow]) -> str:
    """The rows for people."""
    layout = "{:<34} {:<26} {:>9} {:>9} {:>6} {:>11} {:>10}  {}"
    lines = [
        layout.format(
            "load, one process",
            "goal",
            "TTFT p50",
            "p99",
            "core",
            "requests/s",
            "CPU each",
            "verdict",
        )
    ]
    for row in rows:
        seen = row.seen
        if seen is None:
            cells = ("–", "–", "–", "–", "–", f"not measured: {row.problem}")
        else:
            failed = f", {seen.failed} of {seen.requests} failed" if seen.failed else ""
            cells = (
                f"{seen.ttft_error_p50_s * 1e3:+.2f} ms",
                f"{seen.ttft_error_p99_s * 1e3:+.2f} ms",
                f"{seen.cores:.0%}",
                f"{seen.requests_per_s:,.0f}",
                f"{seen.cpu_s_per_request * 1e6:,.0f} µs",
                ("met" if row.met else "MISSED") + failed,
            )
        lines.append(layout.format(row.name, str(row.goal), *cells))
    lines.append(
        f"\n{REPEATS} runs each; every figure is the median, and failed requests are the most."
        " TTFT is told as\nits difference from the truth, which the server keeps."
    )
    return "\n".join(lines)


def load_fields(row: LoadRow) -> dict[str, object]:
    """A row for machines, in SI units."""
    return {
        "name": row.name,
        "goal": {name: bound for name, bound in asdict(row.goal).items() if bound is not None},
        "met": row.met,
        "problem": row.problem or None,
        "seen": asdict(row.seen) if row.seen else None,
    }


# ── in the process that measures ────────────────────────────────────────────────────────────────
# What it needs is imported there: the runner that starts it must stay small.


def measure_here(load: Load) -> Seen:
    """Put `load` on a known-timing server."""
    from tests.servers.timed import timed_server  # noqa: PLC0415 — as said above
    from tonnage.measurement.loop import run  # noqa: PLC0415 — as above

    with timed_server(ttft_s=load.ttft_s, itl_s=load.itl_s, output_tokens=load.tokens) as url:
        return run(_measure(load, url))


async def _measure(load: Load, url: str) -> Seen:
    import tempfile  # noqa: PLC0415 — as above
    from pathlib import Path  # noqa: PLC0415 — as above

    from tonnage.measurement.load import (  # noqa: PLC0415 — as above
        Level,
        Progress,
        PromptSpec,
        Record,
        TargetSpec,
    )
    from tonnage.measurement.load.journal import Journal  # noqa: PLC0415 — as above
    from tonnage.measurement.load.local import LocalDriver  # noqa: PLC0415 — as above
    from tonnage.measurement.statistics import percentile  # noqa: PLC0415 — as above

    records: list[Record] = []

    class Keeper(Journal):
        def keep(self, record: Record) -> None:
            records.append(record)
            super().keep(record)

    class Unwatched:
        def progress(self, progress: Progress) -> None:
            """Nobody looks on."""

    driver = LocalDriver(
        TargetSpec(kind="chat", address=url), PromptSpec(kind="synthetic", prompt_tokens=100)
    )
    level = Level(name="bench", concurrency=load.clients, duration_s=load.duration_s, ramp_s=RAMP_S)
    await driver.open()
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(Path(folder) / "requests.jsonl")
        holding = asyncio.create_task(driver.run(level, keeper, Unwatched(), asyncio.Event()))
        await asyncio.sleep(RAMP_S)
        cpu_before_s, before_s, ended_before = (
            time.process_time(),
            time.perf_counter(),
            len(records),
        )
        await asyncio.sleep(load.duration_s)
        cpu_s, wall_s = time.process_time() - cpu_before_s, time.perf_counter() - before_s
        ended = len(records) - ended_before
        await holding
        keeper.close()
    await driver.close()
    measured = [record for record in records if record.phase == "measured"]
    errors_s = sorted(
        record.ttft_s - load.ttft_s for record in measured if record.ttft_s is not None
    )
    p50_s, p99_s = percentile(errors_s, 50), percentile(errors_s, 99)
    if p50_s is None or p99_s is None:
        sys.exit(f"no token came: {measured[0].error if measured else 'nothing was measured'}")
    return Seen(
        requests=len(measured),
        failed=sum(record.failure is not None for record in measured),
        requests_per_s=ended / wall_s,
        ttft_error_p50_s=p50_s,
        ttft_error_p99_s=p99_s,
        cores=cpu_s / wall_s,
        cpu_s_per_request=cpu_s / ended,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(measure_here(LOADS[sys.argv[1]]))))
