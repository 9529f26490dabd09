"""Nothing keeps the promises -> the closest option and what would help, each change tried.

Every relaxation changes one thing, is the smallest of its kind that a search found to work, and is
only shown when the search with exactly that value found an option.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tonnage.fleet import Change, Infeasible, Limits, Question
from tonnage.fleet.rejections import LABEL, best_seconds, round_up, with_promise
from tonnage.fleet.replica import Replica, lightest, scaled_load
from tonnage.fleet.search import Design, Outcome, Survey, search
from tonnage.units import format_bytes, format_number, format_time
from tonnage.workload import Batch, ClosedLoad, OpenLoad, Promise


def infeasible_of(design: Design, outcome: Outcome, ground: Survey) -> Infeasible:
    """The closest option and the smallest relaxation of each single constraint, each re-run."""
    question = design.question
    near = _near(question, outcome)
    relaxations: list[Change] = []
    for promise in question.workload.promises:
        change = _relax_one(design, promise, near, ground)
        if change is not None:
            relaxations.append(change)
    relaxations += _relax_limits(design, ground)
    relaxations += _relax_deadline(design, ground)
    relaxations += _relax_memory(design, outcome)
    relaxations += _relax_arrangement(design)
    if not relaxations:
        relaxations += _relax_together(design, near, ground)
    over = [m for misses in outcome.misses.values() for m in misses if m.bottleneck == "limits"]
    closest = ""
    if over:
        least = min(over, key=lambda m: m.gpus or 0)
        closest = f"{least.deployment.gpu.name} {least.deployment.describe()} {least.detail}"
        reason = "every option that keeps the promises is over the stated limit on GPUs or cost"
    elif near:
        ratio, replica, promise, value = min(near, key=lambda item: item[0])
        label = f"{LABEL[promise.metric]} p{promise.percentile:g}"
        closest = (
            f"{replica.deployment.gpu.name} {replica.deployment.describe()} at {label} "
            f"{format_time(value)}"
        )
        reason = (
            f"nothing among the candidates keeps {label} ≤ {format_time(promise.limit_s)} for this "
            "model"
            if ratio > 1
            else "no candidate keeps all promises together under this load"
        )
    elif outcome.considered["memory"]:
        reason = "the model, with one context, fits no arrangement of the candidates"
    else:
        reason = "no arrangement of the candidates can run this model"
    return Infeasible(reason=reason, closest=closest, relaxations=tuple(relaxations))


def _near(question: Question, outcome: Outcome) -> list[tuple[float, Replica, Promise, float]]:
    """Each group's fastest miss and the promise it misses most, with value over limit first."""
    near = []
    for misses in outcome.misses.values():
        slow = [
            m.replica
            for m in misses
            if m.replica is not None and m.replica.curve is not None and m.bottleneck != "limits"
        ]
        if not slow or isinstance(question.workload.load, Batch):
            continue
        fastest = min(slow, key=lambda r: float(r.curve.decode_s[0]) if r.curve else math.inf)
        worst: tuple[float, Replica, Promise, float] | None = None
        for promise in question.workload.promises:
            value = best_seconds(fastest, question, promise)
            if value is not None and (worst is None or value / promise.limit_s > worst[0]):
                worst = (value / promise.limit_s, fastest, promise, value)
        if worst is not None:
            near.append(worst)
    return near


def _feasible(design: Design, question: Question, ground: Survey | None = None) -> bool:
    """Whether `question`, asked instead, has an answer."""
    return bool(search(design.asking(question), ground, any_will_do=True).options)


def _relax_one(
    design: Design,
    promise: Promise,
    near: list[tuple[float, Replica, Promise, float]],
    ground: Survey,
) -> Change | None:
    """The smallest limit of one promise, the others kept, that a search confirms.

    One model and no limits on the purchase: more replicas reach the lightest load of every
    replica, so the smallest limit is the best value there. Otherwise by bisection over searches.
    """
    question = design.question
    if len(question.models) == 1 and question.limits == Limits():
        best = _best_reached(design, promise, ground)
        return None if best is None else _confirmed(design, promise, best, ground)
    unlimited = with_promise(question, promise, 1e6)
    if not _feasible(design, unlimited, ground):
        return None
    low = promise.limit_s
    reached = [
        value
        for _, replica, _, _ in near
        if (value := best_seconds(replica, question, promise)) is not None
    ]
    high = round_up(max(min(reached, default=low), low) * 1.001)
    while not _feasible(design, with_promise(question, promise, high), ground):
        low, high = high, high * 2
        if high > 1e6:  # noqa: PLR2004 — the limit that was just shown to work
            return None
    while high > low * 1.01:
        middle = math.sqrt(low * high)
        if _feasible(design, with_promise(question, promise, middle), ground):
            high = middle
        else:
            low = middle
    return _confirmed(design, promise, high, ground)


def _best_reached(design: Design, promise: Promise, ground: Survey) -> float | None:
    """The lowest value of `promise` at the lightest load of any replica that keeps the others."""
    load = design.question.workload.load
    if not isinstance(load, OpenLoad | ClosedLoad):
        return None
    others = tuple(p for p in design.question.workload.promises if p != promise)
    best: float | None = None
    for rows in ground.pools:
        for row in (row for each in rows.values() for row in each):
            if not isinstance(row, Replica) or row.curve is None:
                continue
            limit = () if best is None else (replace(promise, limit_s=best),)
            light = lightest(row, load)
            if row.curve.keeps(light, (*limit, *others)) is None:
                value = best_seconds(row, design.question, promise)
                best = value if best is None or (value is not None and value < best) else best
    return best


def _confirmed(design: Design, promise: Promise, limit_s: float, ground: Survey) -> Change | None:
    """The change to a limit of about `limit_s`, rounded up, once a search has found an option."""
    for slack in (1.0, 1.005, 1.02):
        limit = round_up(limit_s * slack)
        if _feasible(design, with_promise(design.question, promise, limit), ground):
            return Change(
                key=f"promises.{promise.metric}.p{promise.percentile:g}",
                description=f"{LABEL[promise.metric]} p{promise.percentile:g} ≥ "
                f"{format_time(limit)}",
                value=limit,
                verified=True,
            )
    return None


def _relax_together(
    design: Design, near: list[tuple[float, Replica, Promise, float]], ground: Survey
) -> list[Change]:
    """When no single change is enough: every promise to what the closest option reaches.

    If that still takes more than the stated limits allow, the limits are raised too.
    """
    question = design.question
    if not near:
        return []
    _, replica, _, _ = min(near, key=lambda item: item[0])
    for slack in (1.02, 1.3, 2.0, 4.0):
        loosened, words = question, []
        for promise in question.workload.promises:
            reached = best_seconds(replica, question, promise) or promise.limit_s
            if reached * slack > promise.limit_s:
                limit = round_up(reached * slack)
                loosened = with_promise(loosened, promise, limit)
                label = f"{LABEL[promise.metric]} p{promise.percentile:g}"
                words.append(f"{label} ≥ {format_time(limit)}")
        free = replace(loosened, limits=Limits())
        best = search(replace(design, question=free, objective="gpus"), ground).best()
        if best is None:
            continue
        if not _feasible(design, loosened, ground):
            words.append(f"at least {best.purchase.gpus} GPUs")
        joined = " and ".join(words)
        return [Change(key="promises", description=joined, value=joined, verified=True)]
    return []


def _relax_limits(design: Design, ground: Survey) -> list[Change]:
    question = design.question
    limits = question.limits
    changes = []
    if limits.max_gpus is not None:
        free = replace(question, limits=replace(limits, max_gpus=None))
        best = search(replace(design, question=free, objective="gpus"), ground).best()
        if best is not None:
            gpus = best.purchase.gpus
            tried = replace(question, limits=replace(limits, max_gpus=gpus))
            changes.append(
                Change(
                    key="limits.gpus",
                    description=f"at least {gpus} GPUs",
                    value=float(gpus),
                    verified=_feasible(design, tried, ground),
                )
            )
    if limits.max_usd_per_hour is not None:
        free = replace(question, limits=replace(limits, max_usd_per_hour=None))
        best = search(replace(design, question=free, objective="cost"), ground).best()
        if best is not None and best.purchase.usd_per_hour is not None:
            cost = math.ceil(best.purchase.usd_per_hour * 100) / 100
            tried = replace(question, limits=replace(limits, max_usd_per_hour=cost))
            changes.append(
                Change(
                    key="limits.cost",
                    description=f"at least {cost:,.2f} usd/h",
                    value=cost,
                    verified=_feasible(design, tried, ground),
                )
            )
    if changes or not (limits.max_gpus or limits.max_usd_per_hour):
        changes += _relax_load(design, ground)
    return changes


def _relax_load(design: Design, ground: Survey) -> list[Change]:
    """The largest share of the stated load that can be served, when any can."""
    question = design.question
    load = question.workload.load
    if load is None:
        return []

    def with_share(share: float) -> Question:
        scaled = scaled_load(load, share)
        return replace(question, workload=replace(question.workload, load=scaled))

    low, high = 0.0, 1.0
    if not _feasible(design, with_share(1e-3), ground):
        return []
    low = 1e-3
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        if _feasible(design, with_share(middle), ground):
            low = middle
        else:
            high = middle
    share = math.floor(low * 1000) / 1000
    match load:
        case OpenLoad():
            what = f"{format_number(load.requests_per_s_peak * share)} requests/s at peak"
        case ClosedLoad():
            what = f"{int(load.clients * share):,} clients"
        case Batch():
            what = f"{format_number(math.floor(load.requests * share))} requests"
    return [
        Change(
            key="workload",
            description=f"at most {what}",
            value=share,
            verified=_feasible(design, with_share(share), ground),
        )
    ]


def _relax_deadline(design: Design, ground: Survey) -> list[Change]:
    question = design.question
    load = question.workload.load
    if not isinstance(load, Batch):
        return []

    def with_deadline(seconds: float) -> Question:
        workload = replace(question.workload, load=replace(load, deadline_s=seconds))
        return replace(question, workload=workload)

    low, high = load.deadline_s, load.deadline_s
    for _ in range(40):
        high *= 2
        if _feasible(design, with_deadline(high), ground):
            break
        low = high
    else:
        return []
    while high > low * 1.01:
        middle = math.sqrt(low * high)
        if _feasible(design, with_deadline(middle), ground):
            high = middle
        else:
            low = middle
    limit = round_up(high)
    return [
        Change(
            key="workload.batch.deadline",
            description=f"a deadline of {format_time(limit)}",
            value=limit,
            verified=_feasible(design, with_deadline(limit), ground),
        )
    ]


def _relax_arrangement(design: Design) -> list[Change]:
    """Leave the stated parallelism to the search, when one is stated."""
    question = design.question
    stated = {
        "tensor_parallel": question.tensor_parallel,
        "pipeline_parallel": question.pipeline_parallel,
        "expert_parallel": question.expert_parallel,
    }
    if not any(stated.values()):
        return []
    free = replace(question, tensor_parallel=(), pipeline_parallel=(), expert_parallel=())
    best = search(design.asking(free)).best()
    if best is None:
        return []
    keys = [f"hardware.{name}" for name, sizes in stated.items() if sizes]
    arranged = best.deployment.describe()
    return [
        Change(
            key=", ".join(keys),
            description=f"another arrangement: {arranged}",
            value=arranged,
            verified=True,
        )
    ]


def _relax_memory(design: Design, outcome: Outcome) -> list[Change]:
    """When nothing fits: the longest context, or the smaller weights, that would."""
    question = design.question
    if set(outcome.considered) - {"memory", "arrangement"}:
        return []
    changes = []
    context = question.workload.context_tokens
    if context is not None:

        def with_context(tokens: float) -> Question:
            workload = replace(question.workload, context_tokens=tokens)
            return replace(question, workload=workload)

        low, high = 0.0, context
        if _feasible(design, with_context(1.0)):
            while high - low > max(16.0, 0.005 * high):
                middle = (low + high) / 2
                if _feasible(design, with_context(middle)):
                    low = middle
                else:
                    high = middle
            tokens = float(int(low) // 16 * 16)
            if tokens > 0:
                changes.append(
                    Change(
                        key="workload.context",
                        description=f"contexts of at most {format_number(tokens)} tokens",
                        value=tokens,
                        verified=_feasible(design, with_context(tokens)),
                    )
                )
    for dtype in ("fp8", "int4"):
        tried = replace(question, weight_dtypes=(dtype,))
        if _feasible(design, tried):
            changes.append(
                Change(
                    key="engine.weight_dtype",
                    description=f"weights in {dtype}",
                    value=dtype,
                    verified=True,
                )
            )
            break
    if not changes and outcome.considered["memory"]:
        changes += _relax_gpu_memory(design)
    return changes


def _relax_gpu_memory(design: Design) -> list[Change]:
    """The memory that the same GPUs would need, all else as it is."""
    question = design.question

    def with_memory(factor: float) -> Question:
        candidates = tuple(
            replace(
                candidate,
                gpu=replace(
                    candidate.gpu,
                    memory_bytes=candidate.gpu.memory_bytes * factor,
                    usable_memory_bytes=None,
                ),
            )
            for candidate in question.candidates
        )
        return replace(question, candidates=candidates)

    low, high = 1.0, 2.0
    while not _feasible(design, with_memory(high)):
        low, high = high, high * 2
        if high > 64:  # noqa: PLR2004 — no GPU is that large
            return []
    while high > low * 1.02:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _feasible(design, with_memory(middle)) else (middle, high)
    best = search(design.asking(with_memory(high))).best()
    if best is None:
        return []
    needed = best.deployment.gpu.memory_bytes
    return [
        Change(
            key="hardware.gpus",
            description=f"{best.deployment.gpu.name} with {format_bytes(needed, binary=False)} of "
            f"memory each, as {best.deployment.describe()}",
            value=needed,
            verified=True,
        )
    ]
