"""`python -m benchmarks`: measure, print a table (or JSON), exit 1 when a goal is missed."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checks import Check, check_fields, format_checks, run_checks
from benchmarks.load import LOADS, LoadRow, format_loads, load_fields, measure_load
from benchmarks.process import CommandFailedError, measure_processes
from benchmarks.sample import STEADY_FRACTION, Sample
from benchmarks.search import DEPLOYMENTS, prepare_search

ROOT = Path(__file__).resolve().parents[1]
TONNAGE = str(Path(sys.executable).with_name("tonnage"))
SAMPLE = ROOT / "docs" / "samples" / "calc_runner_output.json"
STUDY = str(ROOT / "examples" / "support-chatbot.yaml")
CATALOG = ("--gpu", "all")  # every accelerator competes, whatever the study names
REPEATS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What must hold: the median below `wall_s`, the peak below `peak_rss_bytes` if stated."""

    wall_s: float
    peak_rss_bytes: float | None = None

    def __str__(self) -> str:
        """The goal as the table shows it."""
        memory = "" if self.peak_rss_bytes is None else f", < {self.peak_rss_bytes / 1e6:.0f} MB"
        return f"< {self.wall_s:g} s{memory}"

    def met_by(self, sample: Sample) -> bool:
        """Whether `sample` keeps every stated bound; an unknown peak keeps none."""
        if self.peak_rss_bytes is not None and (
            sample.peak_rss_bytes is None or sample.peak_rss_bytes >= self.peak_rss_bytes
        ):
            return False
        return sample.median_s < self.wall_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One benchmark and its outcome: a sample, or the reason there is none."""

    name: str
    goal: Goal
    sample: Sample | None
    problem: str = ""

    @property
    def met(self) -> bool:
        """Whether it was measured and keeps its goal."""
        return self.sample is not None and self.goal.met_by(self.sample)


def measure_command(name: str, goal: Goal, *arguments: str) -> Row:
    """Time whole processes of `tonnage` with these arguments."""
    try:
        sample = measure_processes([TONNAGE, *arguments], repeats=REPEATS)
    except CommandFailedError as error:
        return Row(name=name, goal=goal, sample=None, problem=str(error))
    return Row(name=name, goal=goal, sample=sample)


def measure_sizing_calc(name: str, goal: Goal) -> Row:
    """Time whole processes that size the documented sample."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "online", "job_1")
        job.mkdir(parents=True)
        shutil.copy(SAMPLE, job)
        flags = ["--offline_mode", "--no_plots", "--calc_output_dir", folder]
        asked = ["--test_gpu_count=8", "--target_workflow_runtime=10", "--target_users=100"]
        return measure_command(name, goal, "sizing", "calc", *flags, *asked)


def measure_search(name: str, goal: Goal) -> Row:
    """Time the search inside this process, after one unmeasured run."""
    search = prepare_search()
    judged = search()
    if judged < DEPLOYMENTS:
        problem = f"judged {judged} deployments instead of {DEPLOYMENTS}"
        return Row(name=name, goal=goal, sample=None, problem=problem)
    wall_s = []
    for _ in range(REPEATS):
        started_s = time.perf_counter()
        search()
        wall_s.append(time.perf_counter() - started_s)
    return Row(name=name, goal=goal, sample=Sample(wall_s=wall_s))


def format_table(rows: list[Row]) -> str:
    """The rows for people, with a warning for every one that cannot be trusted."""
    layout = "{:<34} {:<18} {:>9} {:>9} {:>9} {:>7}  {}"
    lines = [layout.format("benchmark", "goal", "best", "median", "peak", "spread", "verdict")]
    for row in rows:
        sample = row.sample
        if sample is None:
            cells = ("–", "–", "–", "–", f"not measured: {row.problem}")
        else:
            peak_bytes = sample.peak_rss_bytes
            cells = (
                f"{sample.best_s:.3f} s",
                f"{sample.median_s:.3f} s",
                "–" if peak_bytes is None else f"{peak_bytes / 1e6:.0f} MB",
                f"{sample.spread_fraction:.1%}",
                "met" if row.met else "MISSED",
            )
        lines.append(layout.format(row.name, str(row.goal), *cells))
    lines.append(f"\n{REPEATS} runs each; goals are judged by the median.")
    lines += [
        f"warning: {row.name}: the standard deviation is {row.sample.spread_fraction:.0%} of the "
        f"mean (more than {STEADY_FRACTION:.0%}): let the machine come to rest and run this again"
        for row in rows
        if row.sample is not None and not row.sample.steady
    ]
    return "\n".join(lines)


def format_json(rows: list[Row], loads: list[LoadRow], checks: list[Check]) -> str:
    """The rows for machines, in SI units."""
    commands = [
        {
            "name": row.name,
            "goal_wall_s": row.goal.wall_s,
            "goal_peak_rss_bytes": row.goal.peak_rss_bytes,
            "met": row.met,
            "problem": row.problem or None,
            "wall_s": list(row.sample.wall_s) if row.sample else None,
            "best_s": row.sample.best_s if row.sample else None,
            "median_s": row.sample.median_s if row.sample else None,
            "spread_fraction": row.sample.spread_fraction if row.sample else None,
            "steady": row.sample.steady if row.sample else None,
            "peak_rss_bytes": row.sample.peak_rss_bytes if row.sample else None,
        }
        for row in rows
    ]
    return json.dumps([*commands, *map(load_fields, loads), *map(check_fields, checks)], indent=2)


def main() -> int:
    """Run every benchmark; 0 when each was measured and keeps its goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="write JSON instead of a table")
    arguments = parser.parse_args()
    rows = [
        measure_command("tonnage --help", Goal(wall_s=0.2), "--help"),
        measure_command(
            "tonnage size, whole catalog",
            Goal(wall_s=1.5, peak_rss_bytes=150e6),
            "size",
            STUDY,
            *CATALOG,
        ),
        measure_sizing_calc("sizing calc offline, no plots", Goal(wall_s=0.5)),
        measure_search(f"search of {DEPLOYMENTS:,} deployments", Goal(wall_s=1.0)),
    ]
    loads = [measure_load(name) for name in LOADS]
    checks = run_checks()
    if arguments.json:
        print(format_json(rows, loads, checks))
    else:
        print(format_table(rows), format_loads(loads), format_checks(checks), sep="\n\n")
    met = [each.met for part in (rows, loads, checks) for each in part]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
