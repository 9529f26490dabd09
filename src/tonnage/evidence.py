"""A figure -> what it rests on: how it was known, how sure it is, and how it was derived."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Evidence(IntEnum):
    """How a figure is known, weakest first; a derived figure is as weak as its weakest input."""

    ASSUMED = 1
    DATASHEET = 2
    MODELLED = 3
    CALIBRATED = 4
    MEASURED = 5

    @property
    def label(self) -> str:
        """The word shown to people and written to JSON."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A closed range that should hold the true value with probability `confidence` (0–1)."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rationale:
    """Why a figure is what it is.

    `figure` is the name used by `--explain`; `value` carries `unit` (SI, or "" for a count);
    `inputs` maps each symbol of `formula` to what was put in, already written for people;
    `explanation` says what the figure means and where the formula stops being true.
    """

    figure: str
    value: float | None
    unit: str
    formula: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    explanation: str
    evidence: Evidence


# ── Student's t ─────────────────────────────────────────────────────────────────────────────────


def student_t(degrees_of_freedom: int, confidence: float) -> float:
    """The t that |T| exceeds with probability 1 - `confidence`.

    P(|T| <= t) is a finite sum in the angle atan(t / sqrt(n)) for whole degrees of freedom n
    (Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.3-4); it rises with the angle,
    which is found by bisection.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        if _probability_within(middle, degrees_of_freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees_of_freedom) * math.tan((low + high) / 2)


def _probability_within(angle: float, degrees_of_freedom: int) -> float:
    odd = degrees_of_freedom % 2 == 1
    cosine = math.cos(angle)
    series = _series(cosine, degrees_of_freedom, start=3 if odd else 2)
    if odd:
        beyond_one = math.sin(angle) * cosine * series if degrees_of_freedom > 1 else 0.0
        return 2 / math.pi * (angle + beyond_one)
    return math.sin(angle) * series


def _series(cosine: float, degrees_of_freedom: int, *, start: int) -> float:
    """1 + (s-1)/s cos² + (s-1)(s+1)/(s(s+2)) cos⁴ + … for places s below n."""
    return math.fsum(_products(cosine, range(start, degrees_of_freedom, 2)))


def _products(cosine: float, places: Iterable[int]) -> Iterable[float]:
    term = 1.0
    yield term
    for place in places:
        term *= (place - 1) / place * cosine**2
        yield term
