"""A measurement while it runs -> one line that keeps itself up to date, on a terminal's stderr.

Where stderr is no terminal nothing is shown: whoever reads a log wants the result, not the way.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tonnage.measurement.load import Progress
from tonnage.measurement.statistics import percentile
from tonnage.units import format_number, format_time

REFRESHES_PER_S = 8
BAR_COLUMNS = 24
FULL_WIDTH = 100  # columns; a narrower terminal is told less


class LiveWatch(AbstractContextManager["LiveWatch"]):
    """A `Watch` for people. Use it as a context: the line goes when it is left."""

    def __init__(self, *, quiet: bool, levels: int | None = None) -> None:
        self.shown = sys.stderr.isatty() and not quiet
        self._levels = levels
        self._seen: list[str] = []
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Begin to show."""
        if self.shown:
            console = Console(stderr=True)
            self._live = Live(
                Text("getting ready … (Ctrl-C stops safely, what was measured is kept)"),
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
        if progress.level.name not in self._seen:
            self._seen.append(progress.level.name)
        if self._live is not None:
            self._live.update(self._line(progress, self._live.console.width))

    def _line(self, progress: Progress, width: int) -> Table:
        done, whole = _share(progress)
        facts = [
            f"in flight {progress.in_flight}",
            f"{format_number(progress.requests_per_s)} requests/s",
        ]
        if progress.ttft_s:
            facts.append(f"TTFT p95 {format_time(percentile(sorted(progress.ttft_s), 95))}")
        if progress.e2e_s and (width >= FULL_WIDTH or not progress.ttft_s):
            facts.append(f"E2E p95 {format_time(percentile(sorted(progress.e2e_s), 95))}")
        facts.append(f"failed {progress.failed}")
        line = Table.grid(padding=(0, 2))
        line.add_row(
            Text(self._heading(progress)),
            ProgressBar(total=whole, completed=done, width=BAR_COLUMNS)
            if whole and width >= FULL_WIDTH
            else Text(""),
            Text(
                "warm-up" if progress.phase == "warmup" else format_time(progress.elapsed_s),
                style="dim",
            ),
            Text("  ".join(facts), style="red" if progress.failed else "", overflow="ellipsis"),
        )
        return line

    def _heading(self, progress: Progress) -> str:
        level = progress.level
        if level.concurrency is not None:
            what = f"{level.concurrency} clients"
        elif level.rate_per_s is not None:
            what = f"{format_number(level.rate_per_s)}/s"
        else:
            what = level.name
        if self._levels is None:
            return what
        return f"[{self._seen.index(level.name) + 1}/{self._levels}] {what}"


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
