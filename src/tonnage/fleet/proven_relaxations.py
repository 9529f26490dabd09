"""Nothing is proven -> the closest option, and changes that a simulation finds to be enough.

Each change starts from the closed form's, or from what the simulations reached, and moves on along
its one dimension until a simulation keeps every promise.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from tonnage.fleet import Change, Infeasible
from tonnage.fleet.proof_words import trial_words, worst_of
from tonnage.fleet.rejections import LABEL, round_up, with_promise
from tonnage.fleet.replica import scaled_load
from tonnage.units import format_number, format_time
from tonnage.workload import Batch, ClosedLoad, OpenLoad

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tonnage.fleet import OptionProof, Question, Trial
    from tonnage.fleet.purchase import Purchase
    from tonnage.workload import Promise

    Keeps = Callable[[Question], bool]

STEPS = (1.0, 1.02, 1.05, 1.1, 1.2, 1.4, 2.0, 3.0)  # how far a change moves on, of where it starts
LEAST_SHARE, SHARE_STEP = 0.01, 0.01  # of the load: less is no answer, and how fine it is told


def nothing_proven(options: Sequence[OptionProof]) -> Infeasible:
    """The closed form finds options, and the simulation turns all of them down."""

    def beyond(option: OptionProof) -> float:
        worst = worst_of(option.tried[-1])
        if worst is None or worst.reached is None:
            return math.inf
        return worst.reached.value / worst.promise.limit_s

    tried = [option for option in options if option.tried]
    closest = min(tried, key=beyond)
    last = closest.tried[-1]
    kept = [option for option in tried if option.verdict == "kept"]
    if kept:
        least = min(kept, key=lambda option: option.gpus or math.inf)
        return Infeasible(
            reason="every option that keeps the promises is over the stated limit on GPUs or cost",
            closest=f"{least.option}, simulated, needs {least.gpus} GPUs",
            relaxations=(),
        )
    return Infeasible(
        reason="the closed form finds options, and no simulation of them keeps every promise",
        closest=f"{closest.option} with {last.replicas} replicas: {trial_words(last)}",
        relaxations=(),
    )


def proven_relaxations(
    question: Question,
    listed: Sequence[Change],
    *,
    beyond: Sequence[Purchase],
    tried: Sequence[Trial],
    keeps: Keeps,
) -> tuple[Change, ...]:
    """`listed` in closed form, moved on until simulated; without any, those of the simulations.

    `beyond` are purchases that keep every promise and only exceed the limits. A change that is no
    number on its own (another arrangement, several limits at once) stays as it is, not simulated.
    """
    if listed:
        return tuple(_moved_on(question, change, keeps) for change in listed)
    changes = [*_limits(question, beyond)]
    for promise in question.workload.promises:
        reached = _reached_s(promise, tried)
        if reached is not None and reached > promise.limit_s:
            changes.append(_moved_on(question, _promise(promise, round_up(reached)), keeps))
    share = _largest_share(question, keeps)
    if share is not None:
        changes.append(replace(_load(question, share), simulated=True))
    return tuple(change for change in changes if change.simulated)


def _moved_on(question: Question, change: Change, keeps: Keeps) -> Change:
    """The change with the first value from its own on that a simulation keeps; else as it is."""
    if isinstance(change.value, str):
        return change
    for step in STEPS:
        moved = _with_value(question, change, change.value, step)
        if moved is None:
            return change
        changed, asked = moved
        if keeps(asked):
            return replace(changed, simulated=True)
    return change


def _with_value(
    question: Question, change: Change, value: float, step: float
) -> tuple[Change, Question] | None:
    """The change `step` times as far, and the question with it; None for what has no further."""
    limits, workload = question.limits, question.workload
    for promise in workload.promises:
        if change.key == f"promises.{promise.metric}.p{promise.percentile:g}":
            limit_s = round_up(value * step)
            return _promise(promise, limit_s), with_promise(question, promise, limit_s)
    match change.key:
        case "limits.gpus":
            gpus = math.ceil(value * step)
            asked = replace(question, limits=replace(limits, max_gpus=gpus))
            return _gpus(gpus), asked
        case "limits.cost":
            cost = math.ceil(value * step * 100) / 100
            asked = replace(question, limits=replace(limits, max_usd_per_hour=cost))
            return _cost(cost), asked
        case "workload":
            share = math.floor(value / step * 1000) / 1000
            return _load(question, share), _at_share(question, share)
        case "workload.batch.deadline" if isinstance(workload.load, Batch):
            deadline_s = round_up(value * step)
            load = replace(workload.load, deadline_s=deadline_s)
            told = replace(
                change, description=f"a deadline of {format_time(deadline_s)}", value=deadline_s
            )
            return told, replace(question, workload=replace(workload, load=load))
    return None


def _limits(question: Question, beyond: Sequence[Purchase]) -> list[Change]:
    """The limits that the least of the purchases needs."""
    changes = []
    if question.limits.max_gpus is not None and beyond:
        changes.append(replace(_gpus(min(each.gpus for each in beyond)), simulated=True))
    costs = [each.usd_per_hour for each in beyond if each.usd_per_hour is not None]
    if question.limits.max_usd_per_hour is not None and costs:
        changes.append(replace(_cost(math.ceil(min(costs) * 100) / 100), simulated=True))
    return changes


def _reached_s(promise: Promise, tried: Sequence[Trial]) -> float | None:
    """The least that a promised percentile came to where all other promises were kept."""
    reached = [
        mine.reached.high or mine.reached.value
        for trial in tried
        if trial.summary.stability.stable
        for mine in trial.summary.attainments
        if mine.promise == promise
        and mine.reached is not None
        and all(o is mine or o.verdict == "kept" for o in trial.summary.attainments)
    ]
    return min(reached, default=None)


def _largest_share(question: Question, keeps: Keeps) -> float | None:
    """The largest share of the load that a simulation keeps, by halves and then to a hundredth."""
    low, high = 0.5, 1.0
    while not keeps(_at_share(question, low)):
        low, high = low / 2, low
        if low < LEAST_SHARE:
            return None
    while high - low > SHARE_STEP:
        middle = round((low + high) / 2, 3)
        low, high = (middle, high) if keeps(_at_share(question, middle)) else (low, middle)
    return low


def _at_share(question: Question, share: float) -> Question:
    load = scaled_load(question.workload.load, share)
    return replace(question, workload=replace(question.workload, load=load))


def _promise(promise: Promise, limit_s: float) -> Change:
    return Change(
        key=f"promises.{promise.metric}.p{promise.percentile:g}",
        description=f"{LABEL[promise.metric]} p{promise.percentile:g} ≥ {format_time(limit_s)}",
        value=limit_s,
        verified=True,
    )


def _gpus(gpus: int) -> Change:
    return Change(
        key="limits.gpus", description=f"at least {gpus} GPUs", value=float(gpus), verified=True
    )


def _cost(cost: float) -> Change:
    return Change(
        key="limits.cost", description=f"at least {cost:,.2f} usd/h", value=cost, verified=True
    )


def _load(question: Question, share: float) -> Change:
    match question.workload.load:
        case OpenLoad() as load:
            what = f"{format_number(load.requests_per_s_peak * share)} requests/s at peak"
        case ClosedLoad() as load:
            what = f"{int(load.clients * share):,} clients"
        case Batch() as load:
            what = f"{format_number(math.floor(load.requests * share))} requests"
        case _:
            what = "less"
    return Change(key="workload", description=f"at most {what}", value=share, verified=True)
