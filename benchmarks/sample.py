"""Repeated measurements of one thing -> best, median and how far they can be trusted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

STEADY_FRACTION = 0.10  # above this spread a median of few runs says more about the machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Wall times of the same work, and the largest memory any of its processes held.

    `peak_rss_bytes` is None when the work shared a process with something else.
    """

    wall_s: Sequence[float]
    peak_rss_bytes: int | None = None

    @property
    def best_s(self) -> float:
        """The run least disturbed by the rest of the machine."""
        return min(self.wall_s)

    @property
    def median_s(self) -> float:
        """The run a user should expect; goals are judged by it."""
        return statistics.median(self.wall_s)

    @property
    def spread_fraction(self) -> float:
        """Standard deviation divided by mean."""
        return statistics.stdev(self.wall_s) / statistics.fmean(self.wall_s)

    @property
    def steady(self) -> bool:
        """Whether the runs agree well enough to compare them with another day's."""
        return self.spread_fraction <= STEADY_FRACTION
