"""A sweep of `sizing calc` while it runs -> a line for each level, above the live one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tonnage.cli.live import LiveWatch
from tonnage.measurement.load import Progress
from tonnage.sizing_calc.online import Swept
from tonnage.sizing_calc.online_jobs import OnlineJob
from tonnage.units import format_amount


class SweepLines:
    """A `SweepWatch` for people: what is done stays, and how a level stands goes to `live`."""

    def __init__(self, live: LiveWatch) -> None:
        self._live = live
        self.told: set[str] = set()  # notes that have been shown

    def begin(self, job: OnlineJob, notes: Sequence[str]) -> None:
        """Say where measurements go, and what to think of them before they start."""
        levels = ", ".join(map(str, job.plan.concurrencies))
        doing = "going on with" if job.resumed else "measuring into"
        _say(f"{doing} {job.folder}: concurrency {levels}")
        for note in notes:
            _say(f"warning: {note}")
        self.told |= set(notes)

    def progress(self, progress: Progress) -> None:
        """Show how a level stands."""
        self._live.progress(progress)

    def end_level(self, concurrency: int, swept: Swept, *, before: bool) -> None:
        """Say what a level gave."""
        metrics, facts = swept.metrics[concurrency], swept.facts[concurrency]
        items = format_amount(facts.samples + facts.failed, "items")
        failed = f", {facts.failed} of them failed" if facts.failed else ""
        times = (
            f", p95 runtime {metrics.workflow_runtime_p95:.4g} s,"
            f" p95 LLM latency {metrics.llm_latency_p95:.4g} s"
            if facts.samples
            else ""
        )
        earlier = " (measured before)" if before else ""
        _say(f"concurrency {concurrency}: {items}{failed}{times}{earlier}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")  # typer.echo writes past Rich, into the live line
