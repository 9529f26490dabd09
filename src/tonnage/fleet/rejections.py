"""What the search turned down -> why, and the nearest change that would have admitted it.

A change is only shown after the option was run again with it and passed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from tonnage.deployment import Deployment, arrangement_conflict
from tonnage.dtypes import DTYPES
from tonnage.fleet import Change, Rejection
from tonnage.fleet.purchase import Purchase
from tonnage.fleet.replica import Replica, build_replica, calls_of, lightest
from tonnage.fleet.search import (
    Design,
    Group,
    Miss,
    Option,
    Outcome,
    arrangements,
    evaluate,
    within_limits,
)
from tonnage.units import format_bytes, format_time, format_usd
from tonnage.workload import Batch, ClosedLoad, OpenLoad, Promise

if TYPE_CHECKING:
    from tonnage.fleet import Objective, Question

BOTTLENECK = {"ttft": "wait", "tpot": "throughput", "e2e": "throughput"}
LABEL = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "end-to-end"}
TRIED_PER_GROUP = 3  # misses looked at to find the one that misses by least
SMALL_DTYPES = ("fp8", "int4", "mxfp4", "nvfp4")


def round_up(value: float, digits: int = 3) -> float:
    """`value` rounded up to so many significant digits, so that a rounded limit still holds."""
    if value <= 0 or not math.isfinite(value):
        return value
    step = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return math.ceil(value / step - 1e-9) * step


def rejections_of(
    design: Design,
    outcome: Outcome,
    chosen: Option | None,
) -> tuple[Rejection, ...]:
    """The best turned-down option of every GPU kind x TP: beaten ones first, then the misses."""
    beaten = [
        _beaten(design.objective, option, chosen)
        for option in sorted(outcome.options.values(), key=lambda option: option.key)
        if chosen is not None and option is not chosen
    ]
    missed = []
    for group, misses in outcome.misses.items():
        if group not in outcome.options:
            missed.append(missed_group(design, group, misses))
    missed.sort(key=lambda r: (r.bottleneck == "arrangement", r.gpu, r.tensor_parallel))
    return (*beaten, *missed)


def _name(candidate_gpu: str, text: str) -> str:
    return f"{candidate_gpu} {text}"


def _beaten(objective: Objective, option: Option, chosen: Option) -> Rejection:
    bought, best = option.purchase, chosen.purchase
    deployment = option.deployment
    value, limit = bought.value(objective), best.value(objective)
    change = None
    bottleneck: str = objective
    if objective == "cost" and bought.usd_per_hour is None:
        reason = f"keeps every promise with {bought.gpus} GPUs, but has no price"
        change = _price_to_win(bought, best, deployment.gpu.name)
    elif value == limit:
        bottleneck, reason = _tie(option, chosen, objective)
    elif objective == "cost":
        reason = (
            f"keeps every promise with {bought.gpus} GPUs, but costs "
            f"{format_usd(bought.usd_per_hour)} > {format_usd(best.usd_per_hour)} usd/h"
        )
        change = _price_to_win(bought, best, deployment.gpu.name)
    elif objective == "power":
        reason = (
            f"keeps every promise, but draws {value / 1e3:,.1f} > {limit / 1e3:,.1f} kW"
            if math.isfinite(value)
            else "keeps every promise, but its power draw is not known"
        )
    else:
        reason = f"keeps every promise, but takes {bought.gpus} > {best.gpus} GPUs"
    return Rejection(
        option=_name(deployment.gpu.name, deployment.describe()),
        gpu=deployment.gpu.name,
        tensor_parallel=deployment.tensor_parallel,
        deployment=deployment,
        bottleneck=bottleneck,
        reason=reason,
        change=change,
        gpus=bought.gpus,
        servers=bought.servers,
        usd_per_hour=bought.usd_per_hour,
        priced=bought.usd_per_hour is not None,
    )


def _price_to_win(bought: Purchase, best: Purchase, gpu: str) -> Change | None:
    """The price per GPU-hour at which `bought` costs no more than `best`."""
    if best.usd_per_hour is None:
        return None
    price = math.floor(best.usd_per_hour / bought.gpus * 100) / 100
    return Change(
        key=f"hardware.prices.{gpu}",
        description=f"a price of at most {format_usd(price)} usd per GPU-hour",
        value=price,
        verified=price * bought.gpus <= best.usd_per_hour,
    )


def _tie(option: Option, chosen: Option, objective: Objective) -> tuple[str, str]:
    """Which later rank decided between two options of equal objective."""
    what = {"cost": "cost", "gpus": "GPU count", "power": "power"}[objective]
    mine, best = option.key, chosen.key
    words = (
        ("gpus", "takes more GPUs"),
        ("cost", "costs more"),
        ("power", "draws more power"),
        ("quality", "changes the published weights or cache"),
        ("capacity", "carries less in the same purchase"),
    )
    for (name, phrase), a, b in zip(words, mine[1:], best[1:], strict=False):
        if a != b:
            return name, f"keeps every promise at the same {what}, but {phrase}"
    return "arrangement", f"keeps every promise at the same {what}; the simpler arrangement wins"


def missed_group(design: Design, group: Group, misses: list[Miss]) -> Rejection:
    """Why no option of this GPU kind x TP serves, by the miss that comes closest."""
    slow = [m for m in misses if m.replica is not None and m.bottleneck != "limits"]
    limits = [m for m in misses if m.bottleneck == "limits"]
    memory = [m for m in misses if m.bottleneck == "memory"]
    if limits:
        miss, reason, change = limits[0], limits[0].detail, None
        bottleneck = "limits"
        reason = f"keeps every promise but {reason}, over the stated limit"
    elif slow:
        miss, bottleneck, reason, change = _slow(design, slow)
    elif memory:
        miss = min(memory, key=lambda m: m.short_bytes)
        bottleneck = "memory"
        what = (
            f"the weights leave no room: {format_bytes(miss.short_bytes)} short on each GPU"
            if miss.detail == "weights"
            else f"the longest context does not fit: {format_bytes(miss.short_bytes)} short on "
            "each GPU"
        )
        reason = f"{what} at {miss.deployment.describe()}"
        change = _more_memory(design, group, miss)
    else:
        miss = misses[0]
        bottleneck, reason, change = "arrangement", miss.detail, None
    return Rejection(
        option=_name(miss.deployment.gpu.name, miss.deployment.describe()),
        gpu=miss.deployment.gpu.name,
        tensor_parallel=group.tensor_parallel,
        deployment=miss.deployment,
        bottleneck=bottleneck,
        reason=reason,
        change=change,
        priced=design.question.candidates[group.candidate].usd_per_gpu_hour is not None,
    )


def best_seconds(replica: Replica, question: Question, promise: Promise) -> float | None:
    """The lowest value of a promised percentile this replica can reach, at the lightest load."""
    load = question.workload.load
    if replica.curve is None or not isinstance(load, OpenLoad | ClosedLoad):
        return None
    return replica.curve.percentile_s(lightest(replica, load), promise.metric, promise.percentile)


def _slow(design: Design, misses: list[Miss]) -> tuple[Miss, str, str, Change | None]:
    """The miss closest to the promises, its bottleneck, what it reaches, what would admit it."""
    question = design.question
    load = question.workload.load
    if isinstance(load, Batch):
        return misses[0], "throughput", "its slowest answers alone outlast the deadline", None
    tried = sorted(
        misses,
        key=lambda m: float(m.replica.curve.decode_s[0]) if m.replica and m.replica.curve else 9e9,
    )[:TRIED_PER_GROUP]
    closest: tuple[float, Miss, Promise, float] | None = None
    for miss in tried:
        assert miss.replica is not None  # noqa: S101 — filtered by the caller
        worst: tuple[float, Promise, float] | None = None
        for promise in question.workload.promises:
            value = best_seconds(miss.replica, question, promise)
            if value is not None and (worst is None or value / promise.limit_s > worst[0]):
                worst = (value / promise.limit_s, promise, value)
        if worst is not None and (closest is None or worst[0] < closest[0]):
            closest = (worst[0], miss, worst[1], worst[2])
    if closest is None:
        return misses[0], "capacity", "the load has no steady state on it", None
    ratio, miss, promise, value = closest
    label = f"{LABEL[promise.metric]} p{promise.percentile:g}"
    if ratio <= 1:
        reason = "keeps each promise alone, but not all of them under this load"
    else:
        reason = (
            f"{label} {format_time(value)} > {format_time(promise.limit_s)}, even at the lightest "
            "load"
        )
    change = relax_promise(design, miss.replica, promise, value)
    return miss, BOTTLENECK[promise.metric], reason, change


def relax_promise(
    design: Design,
    replica: Replica | None,
    promise: Promise,
    value: float,
) -> Change | None:
    """The smallest limit on `promise`, near `value`, with which the replica is admitted."""
    if replica is None:
        return None
    limit = max(value, promise.limit_s)
    for slack in (1.0, 1.02, 1.1, 1.3, 1.6, 2.0, 3.0):
        loosened = round_up(limit * slack)
        relaxed = with_promise(design.question, promise, loosened)
        found = evaluate(design.asking(relaxed), replica)
        if found is not None and within_limits(relaxed, found):
            return Change(
                key=f"promises.{promise.metric}.p{promise.percentile:g}",
                description=f"{LABEL[promise.metric]} p{promise.percentile:g} ≥ "
                f"{format_time(loosened)}",
                value=loosened,
                verified=True,
            )
    return None


def with_promise(question: Question, promise: Promise, limit_s: float) -> Question:
    """The question with one promise loosened to `limit_s`."""
    promises = tuple(
        replace(p, limit_s=limit_s)
        if (p.metric, p.percentile) == (promise.metric, promise.percentile)
        else p
        for p in question.workload.promises
    )
    return replace(question, workload=replace(question.workload, promises=promises))


def _more_memory(
    design: Design,
    group: Group,
    miss: Miss,
) -> Change | None:
    """The nearest arrangement or dtype with which the model fits this GPU kind and serves."""
    question, policy = design.question, design.policy
    candidate = question.candidates[group.candidate]
    model = miss.deployment.model
    name = next(n for n, m in question.models.items() if m is model)
    calls = calls_of(question, name)
    if len(question.models) > 1:
        return None
    for deployment, conflict in arrangements(question, candidate, model):
        if conflict is not None or deployment.gpus <= miss.deployment.gpus:
            continue
        built = build_replica(
            question, candidate, deployment, calls, kv_budget_fraction=policy.kv_budget_fraction
        )
        if isinstance(built, Replica) and evaluate(design, built):
            spread = f"TP{deployment.tensor_parallel}" + (
                f" PP{deployment.pipeline_parallel}" if deployment.pipeline_parallel > 1 else ""
            )
            return Change(
                key="hardware.tensor_parallel",
                description=f"spread over {deployment.gpus} GPUs ({spread} "
                f"{deployment.weight_dtype})",
                value=float(deployment.gpus),
                verified=True,
            )
    tried = (miss.deployment, *_smaller(miss))
    for deployment in tried[1:]:
        if arrangement_conflict(deployment, candidate.server) is not None:
            continue
        built = build_replica(
            question, candidate, deployment, calls, kv_budget_fraction=policy.kv_budget_fraction
        )
        if isinstance(built, Replica) and evaluate(design, built):
            return Change(
                key="engine.weight_dtype",
                description=f"weights in {deployment.weight_dtype}",
                value=deployment.weight_dtype,
                verified=True,
            )
    return None


def _smaller(miss: Miss) -> list[Deployment]:
    """The missed deployment with every smaller weight dtype."""
    now = DTYPES[miss.deployment.weight_dtype].bits_per_value
    return [
        replace(miss.deployment, weight_dtype=dtype)
        for dtype in SMALL_DTYPES
        if DTYPES[dtype].bits_per_value < now
    ]
