"""A measurement while it runs -> one line that keeps itself up to date, on a terminal's stderr.

Where stderr is no terminal nothing is shown: whoever reads a log wants the result, not the way.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tonnage.measurement.load import Level, Progress
from tonnage.measurement.statistics import percentile
from tonnage.units import format_amount, format_number, format_time

REFRESHES_PER_S = 8
BAR_COLUMNS = 24
GAP_COLUMNS = 2
FULL_WIDTH = 100  # columns; a narrower terminal has no bar
GETTING_READY = "getting ready … (Ctrl-C stops safely, what was measured is kept)"


class LiveWatch(AbstractContextManager["LiveWatch"]):
    """A `Watch` for people. Use it as a context: the line goes when it is left."""

    def __init__(self, *, quiet: bool, levels: Sequence[Level] = ()) -> None:
        self.shown = sys.stderr.isatty() and not quiet
        self._levels = levels
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Begin to show."""
        if self.shown:
            console = Console(stderr=True)
            self._live = Live(
                Text(GETTING_READY, no_wrap=True, overflow="ellipsis"),
                console=console,
                refresh_per_second=REFRESHES_PER_S,
                transient=True,
            )
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the line away."""
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    def progress(self, progress: Progress) -> None:
        """Show how the level stands now."""
        if self._live is not None:
            self._live.update(self._line(progress, self._live.console.width))

    def _line(self, progress: Progress, width: int) -> Table:
        """One line, whatever the width: what matters less is told where there is room."""
        done, whole = _share(progress)
        facts = [Text(self._heading(progress))]
        bar = ProgressBar(total=whole, completed=done, width=BAR_COLUMNS) if whole else None
        shows_bar = bar is not None and width >= FULL_WIDTH
        phase = {"warmup": "warm-up", "cooldown": "cool-down"}.get(progress.phase)
        facts.append(Text(phase or format_time(progress.elapsed_s), style="dim"))
        if progress.failed:
            facts.append(Text(f"failed {format_number(progress.failed)}", style="red"))
        facts.append(Text(f"in flight {format_number(progress.in_flight)}"))
        facts.append(Text(format_amount(progress.requests_per_s, "requests/s")))
        for name, samples_s in (("TTFT", progress.ttft_s), ("E2E", progress.e2e_s)):
            if samples_s:
                p95_s = percentile(sorted(samples_s), 95)
                facts.append(Text(f"{name} p95 {format_time(p95_s)}"))
        left = width - shows_bar * (BAR_COLUMNS + GAP_COLUMNS)
        cells: list[Text | ProgressBar] = []
        for fact in facts:
            left -= len(fact) + GAP_COLUMNS
            if cells and left + GAP_COLUMNS < 0:
                break
            cells.append(fact)
        if bar is not None and shows_bar:
            cells.insert(1, bar)
        line = Table.grid(padding=(0, GAP_COLUMNS, 0, 0))
        for _ in cells:
            line.add_column(no_wrap=True, overflow="ellipsis")
        line.add_row(*cells)
        return line

    def _heading(self, progress: Progress) -> str:
        level = progress.level
        if level.concurrency is not None:
            what = format_amount(level.concurrency, "clients")
        elif level.rate_per_s is not None:
            what = format_amount(level.rate_per_s, "requests/s")
        else:
            what = level.name
        loads = [(each.concurrency, each.rate_per_s) for each in self._levels]
        load = (level.concurrency, level.rate_per_s)
        return f"[{loads.index(load) + 1}/{len(loads)}] {what}" if load in loads else what


def _share(progress: Progress) -> tuple[float, float | None]:
    """How far the level is, and of how much; the larger share of time and requests."""
    level = progress.level
    ways = [
        (done, float(whole))
        for done, whole in (
            (progress.elapsed_s, level.duration_s),
            (float(progress.finished + progress.failed), level.requests),
        )
        if whole
    ]
    if progress.phase == "warmup" or not ways:
        return 0.0, ways[0][1] if ways else None
    return max(ways, key=lambda way: way[0] / way[1])
