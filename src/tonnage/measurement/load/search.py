"""Probes so far -> the next load to try, until the highest that keeps its limits is enclosed.

Nothing here measures: `next_load` sees only what came of earlier probes, so that a search that was
interrupted goes on where it was, and its logic can be tested against a law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tonnage.measurement import Point
from tonnage.measurement.statistics import metric_words
from tonnage.units import format_number, format_time

Verdict = Literal["kept", "broken", "unclear"]

GROWTH_FACTOR = 2.0
MOST_STEPS = 20  # of growth, or of shrinking: a million times the load that was begun with
ALONE_IN_FLIGHT = 0.1  # on average
TRIES = 2  # at a load whose verdict is unclear
LATE_SHARE_OF_LEVEL = 0.02  # by which a rate may be off, less than half the usual tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Where a search begins, whether loads are whole numbers, and how close it gets."""

    start: float
    whole: bool
    tolerance_fraction: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One level of a search: requests/s of an open load, clients of a closed one; and its verdict.

    `reason` says what broke, or why nothing is proved. `alone` when requests hardly ever met each
    other: a limit that breaks then is broken at any load.
    """

    load: float
    verdict: Verdict
    reason: str = ""
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came to: the highest load that keeps the limits, and the lowest that does not.

    `reason` says what broke there, or why nothing could be proved. `finished` when the two loads
    are as close as was asked for, or one of them is out of reach: without `broken` the limits were
    never reached, without `kept` they were never kept.
    """

    kept: float | None
    broken: float | None
    reason: str
    finished: bool
    probes: tuple[Probe, ...]
    notes: tuple[str, ...] = ()


def next_load(probes: Sequence[Probe], goal: Goal) -> float | None:
    """The load to try next; None when the search is over.

    Doubles from the start to the first load that breaks a limit (or halves to the first that keeps
    them), then bisects until the lowest broken load is within the tolerance of the highest kept
    one, or, where loads are whole numbers, next to it. An unclear load is tried once more, and
    then taken for broken: the answer is never above what was proved.
    """
    unclear = [each.load for each in probes if each.verdict == "unclear"]
    for load in unclear:
        if unclear.count(load) < TRIES and not any(
            each.load == load and each.verdict != "unclear" for each in probes
        ):
            return load
    kept, broken = enclose(probes)
    if kept is None and broken is None:
        return goal.start
    if kept is not None and broken is not None:
        return _between(kept, broken, goal)
    if len({each.load for each in probes}) > MOST_STEPS:
        return None
    if broken is None:
        return (kept or goal.start) * GROWTH_FACTOR
    if any(each.verdict == "broken" and each.alone for each in probes):
        return None
    if goal.whole:
        return math.floor(broken / GROWTH_FACTOR) or None
    return _rounded(broken / GROWTH_FACTOR)


def enclose(probes: Sequence[Probe]) -> tuple[float | None, float | None]:
    """The highest load kept below every broken one, and the lowest broken."""
    settled = {each.load for each in probes if each.verdict != "unclear"}
    not_kept = [
        each.load
        for each in probes
        if each.verdict == "broken" or (each.verdict == "unclear" and each.load not in settled)
    ]
    broken = min(not_kept, default=None)
    kept = [
        each.load
        for each in probes
        if each.verdict == "kept" and (broken is None or each.load < broken)
    ]
    return max(kept, default=None), broken


def _between(kept: float, broken: float, goal: Goal) -> float | None:
    if broken <= kept * (1 + goal.tolerance_fraction) or (goal.whole and broken - kept <= 1):
        return None
    middle = math.sqrt(kept * broken)
    middle = min(max(round(middle), kept + 1), broken - 1) if goal.whole else _rounded(middle)
    return middle if kept < middle < broken else None


def _rounded(rate_per_s: float) -> float:
    """To four digits: a rate that people read, still finer than any tolerance."""
    return float(f"{rate_per_s:.4g}")


def result_of(probes: Sequence[Probe], goal: Goal) -> Found:
    """What the probes come to."""
    following = next_load(probes, goal)
    kept, broken = enclose(probes)
    if following is not None and not any(each.verdict == "broken" for each in probes):
        broken = None  # what is unclear is only taken for broken once it was tried again
    notes = [
        f"nothing is proved at {format_number(each.load)}: {each.reason}"
        for each in probes
        if each.verdict == "unclear"
    ]
    if following is None and broken is None:
        notes.append("the limits were never reached: they may be looser than they look")
    return Found(
        kept=kept,
        broken=broken,
        reason=next((each.reason for each in reversed(probes) if each.load == broken), ""),
        finished=following is None,
        probes=tuple(probes),
        notes=tuple(dict.fromkeys(notes)),
    )


def judge(load: float, point: Point, limits: Mapping[str, float]) -> Probe:
    """Whether the level at `load` keeps `limits`: fields of Point in seconds, and no failure.

    A level whose batch means vary by more than what a limit is missed or kept by proves neither.
    Nor does one that the client itself was late in, but for an open load that still came at its
    rate: what lateness does to a latency there is at most itself, the work that came in meanwhile.
    """
    if point.failed:
        kinds = ", ".join(point.failures)
        return Probe(load=load, verdict="broken", reason=f"{point.failed} failed ({kinds})")
    if point.overloaded:
        return Probe(load=load, verdict="broken", reason="latency grows for as long as it lasts")
    late_s = (point.lateness_p99_s or 0.0) if point.client_bound else 0.0
    at_its_rate = point.request_rate_target_per_s is not None and late_s <= (
        LATE_SHARE_OF_LEVEL * (point.duration_s or 0.0)
    )
    if point.client_bound and not at_its_rate:
        late = format_time(late_s)
        return Probe(load=load, verdict="unclear", reason=f"the client was late by {late} at p99")
    noise = 0.0 if point.stable is not False else point.e2e_batch_means_cv or 0.0
    near: str | None = None
    for metric, limit_s in limits.items():
        value_s: float | None = getattr(point, metric)
        words = metric_words(metric)
        if value_s is None:
            return Probe(load=load, verdict="unclear", reason=f"{words} was not measured")
        said = f"{words} is {format_time(value_s)}, the limit {format_time(limit_s)}"
        if value_s > limit_s * (1 + noise) + late_s:
            alone = (point.in_flight_mean_requests or math.inf) <= ALONE_IN_FLIGHT
            return Probe(load=load, verdict="broken", reason=said, alone=alone)
        if value_s * (1 + noise) + late_s > limit_s:
            near = said
    if near is not None:
        return Probe(load=load, verdict="unclear", reason=f"{near}: too near for its noise")
    return Probe(load=load, verdict="kept")
