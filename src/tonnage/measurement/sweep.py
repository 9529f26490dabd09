"""Runs -> one Sweep, the levels of one system -> each metric fitted over the sound ones.

Runs of different systems make no sweep: a line through two models is a line through nothing. A
level met in several runs is kept each time; repeats make a fit surer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tonnage.errors import InputError
from tonnage.measurement import Point, Run
from tonnage.measurement.fits import (
    NAT_RULES,
    Fit,
    FitRules,
    NoFit,
    Reachable,
    Unreachable,
    choose_fit,
    concurrency_at,
    fit_line,
    fit_usl,
)
from tonnage.measurement.run import first_difference

Kind = Literal["line", "usl", "best"]

METRICS = (
    "llm_latency_p95_s",
    "workflow_runtime_p95_s",
    *(
        f"{what}_{statistic}_s"
        for what in ("ttft", "tpot", "e2e")
        for statistic in ("mean", "p50", "p90", "p95", "p99")
    ),
)

SIZING_METRICS = METRICS[:2]  # what sizing asks about, where a run has it
WHOLE_ANSWER = "e2e_p95_s"  # the nearest to it, where a run has neither


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Points of one system by rising concurrency; open-loop points, which have none, at the end."""

    names: tuple[str, ...]
    model: str | None
    gpu: str | None
    gpus: int | None
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A point that a metric is not fitted on, and why."""

    concurrency: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedMetric:
    """What one metric of a sweep came to.

    `answer` is where it meets the target that was asked for, None without a target or a fit.
    The errors are those of `fits.Choice`, None unless the kind was left to be chosen.
    """

    metric: str
    kind: Kind
    fit: Fit | NoFit
    left_out: tuple[LeftOut, ...]
    line_error_s: float | None = None
    usl_error_s: float | None = None
    answer: Reachable | Unreachable | None = None


def fit_metric(
    sweep: Sweep,
    metric: str,
    *,
    kind: Kind = "line",
    target_s: float | None = None,
    rules: FitRules = NAT_RULES,
) -> FittedMetric:
    """Fit `metric` over the sound levels, as `kind` says, and ask where it meets `target_s`."""
    points, left_out = usable_points(sweep, metric)
    line_error = usl_error = None
    fit: Fit | NoFit
    if kind == "best":
        choice = choose_fit(points, rules)
        fit, line_error, usl_error = choice.fit, choice.line_error, choice.usl_error
    else:
        fit = fit_line(points, rules) if kind == "line" else fit_usl(points, rules)
    return FittedMetric(
        metric=metric,
        kind=kind,
        fit=fit,
        left_out=left_out,
        line_error_s=line_error,
        usl_error_s=usl_error,
        answer=None
        if target_s is None or isinstance(fit, NoFit)
        else concurrency_at(fit, target_s),
    )


def join_runs(runs: Sequence[Run], *, files: Sequence[str]) -> Sweep:
    """The levels of every run. Raises InputError where two runs differ in model or GPUs."""
    if differs := first_difference(runs, ("model", "gpu", "gpus")):
        index, noun, found, before = differs
        raise InputError(
            f"is of another system: {noun} is {found}, not {before}.",
            hint="Fit each system alone.",
            file=files[index],
        )
    points = [point for run in runs for point in run.points]
    return Sweep(
        names=tuple(run.name for run in runs),
        model=next((run.model for run in runs if run.model is not None), None),
        gpu=next((run.gpu for run in runs if run.gpu is not None), None),
        gpus=next((run.gpus for run in runs if run.gpus is not None), None),
        points=tuple(
            sorted(
                points, key=lambda each: math.inf if each.concurrency is None else each.concurrency
            )
        ),
    )


def measured_metrics(sweep: Sweep) -> tuple[str, ...]:
    """The metrics that at least one level has."""
    return tuple(name for name in METRICS if any(_value(each, name) for each in sweep.points))


def usable_points(
    sweep: Sweep, metric: str
) -> tuple[tuple[tuple[int, float], ...], tuple[LeftOut, ...]]:
    """(concurrency, value) of `metric` at each sound level, and what was left out.

    An interrupted level is not sound: its percentiles miss the requests that failed.
    """
    used: list[tuple[int, float]] = []
    left_out: list[LeftOut] = []
    for point in sweep.points:
        value = _value(point, metric)
        if point.concurrency is None:
            left_out.append(LeftOut(None, "open loop: no concurrency"))
        elif point.interrupted or point.failed:
            failed = f", {point.failed} failed" if point.failed else ""
            left_out.append(LeftOut(point.concurrency, f"interrupted{failed}"))
        elif not value:
            left_out.append(LeftOut(point.concurrency, "not measured"))
        else:
            used.append((point.concurrency, value))
    return tuple(used), tuple(left_out)


def _value(point: Point, metric: str) -> float | None:
    """The metric; None where the level has none, or a zero, which no latency is."""
    found: float | None = getattr(point, metric)
    return found if found is not None and math.isfinite(found) and found > 0 else None
