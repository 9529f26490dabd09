"""Runs that were judged -> why not the others, what would have to change, what to know."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tonnage.evidence import Evidence, Rationale
from tonnage.fleet import (
    Alert,
    Change,
    Infeasible,
    Limits,
    Objective,
    Question,
    Rejection,
    Severity,
)
from tonnage.fleet.rejections import LABEL, round_up
from tonnage.measurement.curve import carried, keeps, percentile_s, promised_s
from tonnage.units import format_fraction, format_number, format_time, format_usd
from tonnage.workload import PERCENTILES, Batch, ClosedLoad, Load, OpenLoad, Promise

if TYPE_CHECKING:
    from tonnage.fleet import ScenarioPolicy
    from tonnage.fleet.measured import MeasuredCopy, MeasuredOption, Missed, Refused
    from tonnage.fleet.purchase import Need, Purchase
    from tonnage.measurement import Point

LENGTH_TOLERANCE = 0.1  # a curve holds for the lengths it was measured at
TAIL_SAMPLES = 5  # requests above a percentile; with fewer it is one or two slow ones


def _rejection(copy: MeasuredCopy, bottleneck: str, reason: str) -> Rejection:
    return Rejection(
        option=copy.name,
        gpu=copy.gpu or "",
        tensor_parallel=copy.gpus,
        deployment=None,
        bottleneck=bottleneck,
        reason=reason,
        change=None,
        priced=copy.candidate is not None and copy.candidate.usd_per_gpu_hour is not None,
    )


def beaten(
    question: Question, objective: Objective, option: MeasuredOption, chosen: MeasuredOption | None
) -> Rejection:
    """A run that keeps the promises, and what it is beaten by."""
    bought = option.purchase
    over = over_limit(question.limits, bought)
    if over or chosen is None:
        return _priced(
            _rejection(option.copy, "limits", f"keeps every promise, but {over}"), bought
        )
    best = chosen.purchase
    if bought.value(objective) != best.value(objective):
        bottleneck: str = objective
        reason = f"keeps every promise, but takes {_against(bought, best)}"
        if objective == "cost":
            usd, least = format_usd(bought.usd_per_hour), format_usd(best.usd_per_hour)
            reason += f" and costs {usd} > {least} usd/h"
        elif objective == "power":
            watts, least_watts = bought.power_watts, best.power_watts
            reason += " and draws " + (
                f"{watts / 1e3:,.1f} > {least_watts / 1e3:,.1f} kW"
                if watts is not None and least_watts is not None
                else "an unknown power"
            )
    elif bought.gpus != best.gpus:
        bottleneck, reason = "gpus", f"keeps every promise, but takes {_against(bought, best)}"
    else:
        bottleneck, reason = "capacity", "takes as much, and carries less"
    return _priced(_rejection(option.copy, bottleneck, reason), bought)


def over_limit(limits: Limits, bought: Purchase) -> str:
    """How the purchase is over a stated limit; "" when it is not."""
    if limits.max_gpus is not None and bought.gpus > limits.max_gpus:
        return f"takes {bought.gpus} GPUs, over the limit of {limits.max_gpus}"
    if limits.max_usd_per_hour is not None and bought.usd_per_hour is None:
        return "has no price, and a limit on cost is stated"
    if limits.max_usd_per_hour is not None and bought.usd_per_hour is not None:
        cost, most = bought.usd_per_hour, limits.max_usd_per_hour
        return f"costs {format_usd(cost)} > {format_usd(most)} usd/h" if cost > most else ""
    return ""


def _against(bought: Purchase, best: Purchase) -> str:
    if bought.servers is not None and best.servers is not None and bought.servers != best.servers:
        return f"{bought.servers} servers against {best.servers}"
    return f"{bought.gpus} GPUs against {best.gpus}"


def _priced(rejection: Rejection, bought: Purchase) -> Rejection:
    return replace(
        rejection,
        gpus=bought.gpus,
        servers=bought.servers,
        usd_per_hour=bought.usd_per_hour,
    )


def missed(miss: Missed) -> Rejection:
    """A run of which no level keeps the promises, and the one that comes closest."""
    _, promise, value_s = miss.nearest
    bottleneck = "wait" if promise.metric == "ttft" else "throughput"
    reason = (
        f"no sound level keeps the promises: {promise_words(promise)} {format_time(value_s)} > "
        f"{format_time(promise.limit_s)} where it comes closest"
    )
    return _rejection(miss.copy, bottleneck, reason)


def refused(run: Refused) -> Rejection:
    """A run that does not say what was promised or asked."""
    return _rejection(run.copy, "measurement", f"{run.reason}. {run.hint}".strip())


def infeasible_of(
    misses: Sequence[Missed], over: Sequence[MeasuredOption], limits: Limits
) -> Infeasible:
    """No run serves: the nearest to it, and each single change that admits one.

    `over` are the options that keep the promises and are over `limits`, the best first.
    """
    if over:
        return Infeasible(
            reason="every run that keeps the promises is over the stated limit on GPUs or cost",
            closest=f"{over[0].copy.name}, which {over_limit(limits, over[0].purchase)}",
            relaxations=tuple(_raised_limits(over, limits)),
        )
    nearest = min(misses, key=lambda miss: miss.nearest[0])
    _, promise, value_s = nearest.nearest
    others = " with the other promises" if len(nearest.promises) > 1 else ""
    return Infeasible(
        reason=f"no sound level keeps {promise_words(promise)} ≤"
        f" {format_time(promise.limit_s)}{others}",
        closest=f"{nearest.copy.name} at {promise_words(promise)} {format_time(value_s)}",
        relaxations=tuple(_relaxations(misses)),
    )


def _raised_limits(over: Sequence[MeasuredOption], limits: Limits) -> Iterator[Change]:
    """Each limit as high as the option asks that keeps the other one."""
    bought = [option.purchase for option in over]
    gpus = [b.gpus for b in bought if not over_limit(replace(limits, max_gpus=None), b)]
    if gpus:
        yield Change(
            key="limits.gpus",
            description=f"at least {min(gpus)} GPUs",
            value=float(min(gpus)),
            verified=True,
        )
    usd = [
        b.usd_per_hour
        for b in bought
        if b.usd_per_hour is not None and not over_limit(replace(limits, max_usd_per_hour=None), b)
    ]
    if usd:
        yield Change(
            key="limits.cost",
            description=f"at least {format_usd(min(usd))} usd/h",
            value=min(usd),
            verified=True,
        )


def _relaxations(misses: Sequence[Missed]) -> Iterator[Change]:
    """For each promise the smallest limit at which, the others kept, a level was measured."""
    for promise in dict.fromkeys(p for miss in misses for p in miss.promises):
        reached = [
            value
            for miss in misses
            for point in miss.points
            if (value := promised_s(point, promise)) is not None
            and all(keeps(point, other) for other in miss.promises if other is not promise)
        ]
        if reached:
            limit_s = round_up(min(reached))
            yield Change(
                key=f"promises.{promise.metric}.p{promise.percentile:g}",
                description=f"{promise_words(promise)} ≥ {format_time(limit_s)}",
                value=limit_s,
                verified=True,
            )


# ── how the figures came about ──────────────────────────────────────────────────────────────────


def rationale_of(
    option: MeasuredOption, load: Load, policy: ScenarioPolicy, need: Need, bought: Purchase
) -> Iterator[Rationale]:
    """How each figure of the scenario came about, in the order of the arithmetic."""
    copy = option.copy
    unit = "clients" if isinstance(load, ClosedLoad) else "requests/s"
    yield Rationale(
        figure="copy_carries",
        value=option.carries,
        unit=unit,
        formula="the most of any sound level that keeps every promise",
        inputs={"run": copy.name, "levels": str(len(copy.curve.points))},
        explanation="What one copy carried when it was measured. It holds for these lengths only.",
        evidence=Evidence.MEASURED,
    )
    if option.requests_per_s_per_server is not None:
        yield Rationale(
            figure="requests_per_s_per_server",
            value=option.requests_per_s_per_server,
            unit="requests/s",
            formula="rate of one copy × whole copies on a server",
            inputs={
                "rate": f"{format_number(option.best.requests_per_s)} requests/s",
                "copies": str(copy.per_server),
                "GPUs": str(copy.server_gpus),
            },
            explanation="To compare arrangements by. Copies are taken not to slow one another.",
            evidence=Evidence.MEASURED,
        )
    match load:
        case OpenLoad():
            asked = load.requests_per_s_peak
        case ClosedLoad():
            asked = float(load.clients)
        case Batch():
            asked = load.requests / load.deadline_s
    yield Rationale(
        figure="copies",
        value=float(need.with_headroom),
        unit="",
        formula="⌈load × (1 + headroom) ÷ what one copy carries⌉",
        inputs={
            "load": f"{format_number(asked)} {unit}",
            "headroom": format_fraction(policy.headroom_fraction),
            "one copy": f"{format_number(option.carries)} {unit}",
        },
        explanation="Rounded up once, to whole copies; spares come on top.",
        evidence=Evidence.MEASURED,
    )
    yield Rationale(
        figure="gpus",
        value=float(bought.gpus),
        unit="GPUs",
        formula="copies and spares, in the unit they are bought in",
        inputs={
            "copies": str(bought.replicas[0]),
            "GPUs of one": str(copy.gpus),
            "servers": "–" if bought.servers is None else str(bought.servers),
            "spares": str(policy.spare_units),
        },
        explanation="Servers are filled: every copy that fits one runs.",
        evidence=Evidence.MEASURED,
    )


# ── what to know ────────────────────────────────────────────────────────────────────────────────


def alerts_of(
    question: Question, chosen: MeasuredOption | None, copies: Sequence[MeasuredCopy]
) -> Iterator[Alert]:
    """What may be wrong with copying this measurement."""
    yield from _of_other_things(question, copies)
    yield from _set_aside(question, copies if chosen is None else [chosen.copy], chosen)
    if chosen is None:
        return
    best, load = chosen.best, question.workload.load
    if isinstance(load, OpenLoad) and best.concurrency is not None:
        yield _alert(
            "closed_loop_curve",
            "info",
            "the level is a closed loop: its clients waited for their answers",
            "arrivals at random come in bunches, and wait longer at the same rate",
            "keep the headroom, or confirm with an open loop at that rate",
        )
    heavier = [point for point, _ in chosen.copy.curve.unused if point.load > best.load]
    if best is chosen.copy.curve.points[-1] and not heavier:
        yield _alert(
            "highest_level",
            "info",
            "the level chosen is the heaviest that was measured",
            "a copy may carry more, and the fleet be smaller",
            "measure heavier levels too",
        )
    for promise in chosen.promises:
        above = (best.requests or 0) * (1 - promise.percentile / 100)
        if best.requests is not None and above < TAIL_SAMPLES:
            yield _alert(
                "few_requests",
                "warning",
                f"{promise_words(promise)} of the level rests on {best.requests} requests",
                "one or two slow requests move it",
                f"measure at least {math.ceil(TAIL_SAMPLES / (1 - promise.percentile / 100))}",
            )
            break
    unchecked = [p for p in question.workload.promises if p not in chosen.promises]
    if unchecked:
        yield _alert(
            "unchecked_promise",
            "info",
            f"nobody promised {promise_words(unchecked[0])}, and it was not measured",
            "that answers come at reading speed is not checked",
            "measure it, or state the promise",
        )
    for set_aside, what in (
        (question.workload.sessions, "resident sessions"),
        (question.existing, "today's fleet"),
    ):
        if set_aside is not None:
            yield _alert(
                "set_aside",
                "warning",
                f"the study states {what}, and a load test says nothing about that",
                "it has no part in this answer",
                "size without --measured too",
            )


def _set_aside(
    question: Question, copies: Sequence[MeasuredCopy], chosen: MeasuredOption | None
) -> Iterator[Alert]:
    """A warning where levels keep the promises, and carry more, but prove nothing as measured."""
    load = question.workload.load
    if load is None:
        return
    promises = question.workload.promises if chosen is None else chosen.promises
    least = chosen.carries if chosen else 0.0
    for copy in copies:
        found = [
            why
            for point, why in copy.curve.unused
            if not point.failed
            and not point.stopped
            and (carried(point, load) or 0.0) > least
            and all(keeps(point, promise) for promise in promises)
        ]
        if found:
            number = f"{len(found)} of {len(copy.run.points)} levels of {copy.run.name}"
            yield _alert(
                "unproved_levels",
                "warning",
                f"{number} keep the promises but prove nothing ({'; '.join(dict.fromkeys(found))})",
                "what they carry is not counted",
                "measure them again, for longer: --duration",
            )


def _of_other_things(question: Question, copies: Sequence[MeasuredCopy]) -> Iterator[Alert]:
    """A warning for each run of another model or of other lengths than those asked about."""
    call = question.workload.calls[0]
    for copy in copies:
        if copy.run.model not in {None, call.model}:
            yield _alert(
                "other_model",
                "warning",
                f"{copy.run.name} measured {copy.run.model}, not {call.model}",
                "another model takes other times",
                "measure the model that is asked about",
            )
        for what, asked, name in (
            ("prompts", call.mix.prompt.mean_tokens, "input_tokens_mean"),
            ("answers", call.mix.output.mean_tokens, "output_tokens_mean"),
        ):
            seen = [v for p in copy.curve.points if (v := getattr(p, name)) is not None]
            apart, farthest = max(((abs(each - asked), each) for each in seen), default=(0, 0))
            if apart > LENGTH_TOLERANCE * asked:
                yield _alert(
                    "other_lengths",
                    "warning",
                    f"{copy.run.name} was measured with {what} of {format_number(farthest)} tokens,"
                    f" not {format_number(asked)}",
                    "its curve holds for its own lengths only",
                    "measure with the lengths that are asked about",
                )


def _alert(name: str, severity: Severity, cause: str, impact: str, action: str) -> Alert:
    return Alert(
        id=name, severity=severity, scenario="all", cause=cause, impact=impact, action=action
    )


# ── words ───────────────────────────────────────────────────────────────────────────────────────


def measured_words(points: Sequence[Point], promise: Promise) -> str:
    """What there is of the metric that is promised."""
    metric = promise.metric
    known = ["mean"] if any(getattr(each, f"{metric}_mean_s") for each in points) else []
    known += [
        f"p{p:g}" for p in PERCENTILES if any(percentile_s(each, metric, p) for each in points)
    ]
    if not known:
        return f"It has no {LABEL[metric]} at all."
    return f"It has its {', '.join(known)}: promise a percentile that it has, or measure again."


def promise_words(promise: Promise) -> str:
    """In the manner of "TTFT p95"."""
    return f"{LABEL[promise.metric]} p{promise.percentile:g}"
