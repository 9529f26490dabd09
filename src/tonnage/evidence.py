"""A figure -> what it rests on: how it was known, how sure it is, and how it was derived."""

from __future__ import annotations

from collections.abc import Mapping
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
