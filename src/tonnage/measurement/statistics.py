"""Samples -> mean and percentiles, by one definition for every measurement.

Percentiles interpolate linearly between order statistics; of nothing there is no statistic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PERCENTILES = (50, 90, 95, 99)
_WORDS = {"llm": "LLM", "ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Mean and percentiles of one latency in seconds; None where the source has none."""

    mean_s: float | None = None
    p50_s: float | None = None
    p90_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None

    def fields(self, metric: str) -> dict[str, Any]:
        """The fields of a Point for `metric`: `ttft_mean_s`, `ttft_p50_s` and on."""
        return {
            f"{metric}_mean_s": self.mean_s,
            **{f"{metric}_p{each}_s": getattr(self, f"p{each}_s") for each in PERCENTILES},
        }


def spread(samples: Sequence[float]) -> Spread:
    """The statistics of `samples`, all None when there are none."""
    ordered = sorted(samples)
    return Spread(
        mean_s=mean(ordered),
        **{f"p{each}_s": percentile(ordered, each) for each in PERCENTILES},
    )


def mean(samples: Sequence[float]) -> float | None:
    """The arithmetic mean, None of nothing."""
    return math.fsum(samples) / len(samples) if samples else None


def percentile(ordered: Sequence[float], which: float) -> float | None:
    """Linear interpolation at rank (n - 1) · which / 100 of an ordered sample (NumPy's default)."""
    if not ordered:
        return None
    rank = (len(ordered) - 1) * which / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def metric_words(metric: str) -> str:
    """A statistic for people: "llm_latency_p95_s" -> "LLM latency p95"."""
    return " ".join(_WORDS.get(word, word) for word in metric.removesuffix("_s").split("_"))
