"""A sweep while it runs -> one line for each level, and on a terminal a live one below."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tonnage.measurement.load import Progress
from tonnage.measurement.statistics import percentile
from tonnage.sizing_calc.online import Swept
from tonnage.sizing_calc.online_jobs import OnlineJob


class ShownProgress:
    """Writes to `stream`; used as a context, so that the live line is gone when it ends."""

    def __init__(self, stream: TextIO) -> None:
        console = Console(file=stream, highlight=False, soft_wrap=True)
        self._console = console
        self._live = Live(console=console, transient=True) if console.is_terminal else None
        self._levels = 0
        self._done = 0
        self.told: set[str] = set()  # notes that have been shown

    def __enter__(self) -> Self:
        """Begin the live line."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take it away."""
        if self._live is not None:
            self._live.stop()

    def begin(self, job: OnlineJob, notes: Sequence[str]) -> None:
        """Say where measurements go, and what to think of them before they start."""
        self._levels = len(job.plan.concurrencies)
        levels = ", ".join(map(str, job.plan.concurrencies))
        doing = "going on with" if job.resumed else "measuring into"
        self._say(f"{doing} {job.folder}: concurrency {levels}")
        for note in notes:
            self._say(f"warning: {note}")
        self.told |= set(notes)

    def begin_level(self, concurrency: int, samples: int) -> None:
        """Show that a level starts."""
        self._show(f"concurrency {concurrency}: 0 of {samples}")

    def progress(self, progress: Progress) -> None:
        """Show how it stands."""
        level = progress.level
        p95_s = percentile(sorted(progress.e2e_s), 95)
        late = "" if p95_s is None else f", p95 {p95_s:.3g} s lately"
        what = "warming up" if progress.phase == "warmup" else "measuring"
        self._show(
            f"concurrency {level.concurrency} ({self._done + 1} of {self._levels}): {what},"
            f" {progress.finished} of {level.requests} items, {progress.in_flight} in flight,"
            f" {progress.failed} failed{late}"
        )

    def end_level(self, concurrency: int, swept: Swept, *, before: bool) -> None:
        """Say what a level gave."""
        self._done += 1
        metrics, facts = swept.metrics[concurrency], swept.facts[concurrency]
        failed = f", {facts.failed} failed" if facts.failed else ""
        self._say(
            f"concurrency {concurrency}: {facts.samples} items{failed},"
            f" p95 runtime {metrics.workflow_runtime_p95:.4g} s,"
            f" p95 LLM latency {metrics.llm_latency_p95:.4g} s"
            f"{' (measured before)' if before else ''}"
        )

    def _say(self, line: str) -> None:
        self._console.print(Text(line))

    def _show(self, line: str) -> None:
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
