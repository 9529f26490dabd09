"""A fleet that is there -> what it carries with every promise kept, and whether it starts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from tonnage.evidence import Evidence, Rationale
from tonnage.fleet import Capacity, CapacityAlternative, StatedFleet
from tonnage.fleet.alerts import context_alerts
from tonnage.fleet.plan import design_policy
from tonnage.fleet.replica import (
    Misfit,
    Replica,
    largest_rate,
)
from tonnage.fleet.scenarios import memory_figures
from tonnage.fleet.search import Conflict, Survey, compromises, survey
from tonnage.performance.memory import sequence_kv_bytes_per_gpu
from tonnage.units import format_bytes, format_fraction, format_number, format_time
from tonnage.workload import OpenLoad, poisson_percentile

if TYPE_CHECKING:
    from tonnage.deployment import Deployment
    from tonnage.fleet import Candidate, Question

POISSON_PERCENTILE = 95.0
WORTH_A_COMPROMISE = 0.03  # less gain does not pay for a requantised model or a pipeline


def capacity_of(
    question: Question,
    candidate: Candidate,
    fleet: StatedFleet,
    *,
    requests_per_user_per_day: float | None = None,
    active_s_per_day: float | None = None,
    peak_factor: float | None = None,
) -> Capacity:
    """What `fleet` carries of the question's calls: the best arrangement, others beside it.

    The question's own load is set aside; its lengths, promises and memory rules hold. No headroom
    and no spare are taken off: losing a unit takes its share away. `peak_factor` is the stated
    ratio of peak to mean; None derives the mean as the one whose Poisson p95 is the peak.
    """
    policy = design_policy(question)
    gpus = fleet.units * (
        candidate.server.gpus if candidate.server and candidate.whole_servers else 1
    )
    restricted = restricted_to(question, candidate, fleet)
    ground = survey(restricted, policy)
    model = question.workload.calls[-1].model
    rows = ground.pools[0][model]
    ranked = rank_arrangements(restricted, candidate, gpus, rows)
    alternatives = _alternatives(restricted, gpus, ground, ranked)
    if not ranked:
        return _stopped(restricted, candidate, fleet, gpus, rows=rows, alternatives=alternatives)
    rate, _, replica, replicas = ranked[0]
    load = None
    if replica.curve is not None and rate > 0:
        each = OpenLoad(requests_per_s_mean=rate / replicas, requests_per_s_peak=rate / replicas)
        load = replica.curve.at(each)
    per_session = memory_figures(restricted, replica)
    held = int(
        replica.budget.kv_bytes
        / sequence_kv_bytes_per_gpu(replica.deployment, per_session.session_tokens)
        + 1e-9
    )
    mean = None
    if rate > 0:
        mean = rate / peak_factor if peak_factor is not None else _mean_of_peak(rate)
    daily = None
    if active_s_per_day is not None and rate > 0:
        daily = rate * active_s_per_day
    users = None
    if daily is not None and requests_per_user_per_day:
        users = math.floor(daily / requests_per_user_per_day)
    output = sum(call.repeats * call.mix.output.mean_tokens for call in question.workload.calls)
    binding, reason = _binding(restricted, replica, rate / replicas)
    result = Capacity(
        name=question.name,
        fleet=fleet.text,
        deployment=replica.deployment,
        replicas=replicas,
        gpus=gpus,
        servers=fleet.units if candidate.whole_servers and candidate.server else None,
        starts=True,
        reason=reason or (load.regime if load is not None else ""),
        requests_per_s=rate or None,
        requests_per_s_mean=mean,
        output_tokens_per_s=rate * output if rate else None,
        sessions=held * replicas,
        concurrency=None if load is None else round((load.running + load.waiting) * replicas),
        daily_requests=daily,
        daily_users=users,
        requests_per_user_per_day=requests_per_user_per_day,
        active_s_per_day=active_s_per_day,
        largest_context_tokens=_largest_context(replica),
        largest_batch=replica.max_running,
        latency=load,
        binding=binding,
        memory=per_session,
        promises=question.workload.promises,
        inputs=question.inputs,
        alternatives=alternatives,
        alerts=tuple(context_alerts(restricted, replica.deployment)),
    )
    return replace(result, rationale=_rationale(restricted, replica, result, held))


def restricted_to(question: Question, candidate: Candidate, fleet: StatedFleet) -> Question:
    """The question on this hardware alone, in the stated arrangement where one is stated."""

    def only(stated: int | None, otherwise: tuple[int, ...]) -> tuple[int, ...]:
        return (stated,) if stated is not None else otherwise

    return replace(
        question,
        candidates=(candidate,),
        tensor_parallel=only(fleet.tensor_parallel, question.tensor_parallel),
        pipeline_parallel=only(fleet.pipeline_parallel, question.pipeline_parallel),
        expert_parallel=only(fleet.expert_parallel, question.expert_parallel),
    )


def replicas_in(candidate: Candidate, deployment: Deployment, gpus: int) -> int:
    """Replicas that `gpus` hold; a replica that fits a server does not straddle two."""
    size, server = deployment.gpus, candidate.server
    if candidate.whole_servers and server is not None and size <= server.gpus:
        return gpus // server.gpus * (server.gpus // size)
    return gpus // size


def rank_arrangements(
    question: Question,
    candidate: Candidate,
    gpus: int,
    rows: list[Replica | Misfit | Conflict],
) -> list[tuple[float, int, Replica, int]]:
    """(peak rate of the fleet, compromises, replica, replicas), best first.

    Without a load to speak of (memory only) arrangements are ranked by the sessions they hold.
    """
    found = []
    for row in rows:
        if not isinstance(row, Replica):
            continue
        count = replicas_in(candidate, row.deployment, gpus)
        if count == 0:
            continue
        rate = largest_rate(row, question.workload.promises) * count if row.curve else 0.0
        found.append((rate, compromises(row.deployment), row, count))
    best = max((rate for rate, *_ in found), default=0.0)
    if best > 0:
        near = best * (1 - WORTH_A_COMPROMISE)
        return sorted(found, key=lambda f: (f[0] < near, f[1] if f[0] >= near else 0, -f[0]))
    return sorted(found, key=lambda f: (-(f[2].sessions or 0) * f[3], f[1]))


def _alternatives(
    question: Question,
    gpus: int,
    ground: Survey,
    ranked: list[tuple[float, int, Replica, int]],
) -> tuple[CapacityAlternative, ...]:
    """The best of every other tensor parallelism, those that do not start included."""
    shown: dict[int, CapacityAlternative] = {}
    output = sum(call.repeats * call.mix.output.mean_tokens for call in question.workload.calls)
    chosen = ranked[0][2].deployment.tensor_parallel if ranked else 0
    for rate, _, replica, count in ranked:
        tp = replica.deployment.tensor_parallel
        if tp == chosen or tp in shown:
            continue
        figures = memory_figures(question, replica)
        one = sequence_kv_bytes_per_gpu(replica.deployment, figures.session_tokens)
        shown[tp] = CapacityAlternative(
            deployment=replica.deployment,
            replicas=count,
            gpus=gpus,
            starts=True,
            reason="" if rate > 0 or replica.curve is None else "keeps no promise at any load",
            requests_per_s=rate or None,
            output_tokens_per_s=rate * output or None,
            sessions=int(replica.budget.kv_bytes / one + 1e-9) * count,
            largest_context_tokens=_largest_context(replica),
        )
    for row in ground.pools[0][question.workload.calls[-1].model]:
        tp = row.deployment.tensor_parallel
        if isinstance(row, Replica) or tp == chosen or tp in shown:
            continue
        shown[tp] = CapacityAlternative(
            deployment=row.deployment,
            replicas=0,
            gpus=gpus,
            starts=False,
            reason=_why_not(row),
        )
    return tuple(shown[tp] for tp in sorted(shown))


def _why_not(row: Misfit | Conflict) -> str:
    if isinstance(row, Conflict):
        return row.reason
    what = "weights" if row.reason == "weights" else "one context of the stated length"
    return f"{what} do not fit: {format_bytes(row.short_bytes)} short on each GPU"


def _stopped(
    question: Question,
    candidate: Candidate,
    fleet: StatedFleet,
    gpus: int,
    *,
    rows: list[Replica | Misfit | Conflict],
    alternatives: tuple[CapacityAlternative, ...],
) -> Capacity:
    """The answer when no arrangement comes up on these GPUs."""
    return Capacity(
        name=question.name,
        fleet=fleet.text,
        deployment=None,
        replicas=0,
        gpus=gpus,
        servers=fleet.units if candidate.whole_servers and candidate.server else None,
        starts=False,
        reason=why_none_starts(rows, gpus),
        promises=question.workload.promises,
        inputs=question.inputs,
        alternatives=alternatives,
    )


def why_none_starts(rows: list[Replica | Misfit | Conflict], gpus: int) -> str:
    """Why no arrangement comes up on so many GPUs, by the one that misses by least."""
    misfits = [row for row in rows if isinstance(row, Misfit) and row.deployment.gpus <= gpus]
    fitting = [row for row in rows if isinstance(row, Replica)]
    if fitting:
        fewest = min(row.deployment.gpus for row in fitting)
        return f"the model needs {fewest} GPUs in one replica, there are {gpus}"
    if misfits:
        return _why_not(min(misfits, key=lambda row: row.short_bytes))
    conflict = next((row for row in rows if isinstance(row, Conflict)), None)
    return conflict.reason if conflict else "no arrangement of these GPUs can run the model"


def _largest_context(replica: Replica) -> int:
    """The longest context, in tokens, that one session can reach before its cache is full."""
    deployment = replica.deployment
    limit = deployment.model.max_context_tokens
    if sequence_kv_bytes_per_gpu(deployment, limit) <= replica.budget.kv_bytes:
        return limit
    low, high = 0, limit
    while high - low > deployment.engine.block_tokens:
        middle = (low + high) // 2
        fits = sequence_kv_bytes_per_gpu(deployment, middle) <= replica.budget.kv_bytes
        low, high = (middle, high) if fits else (low, middle)
    return low // deployment.engine.block_tokens * deployment.engine.block_tokens


def _mean_of_peak(peak: float) -> float:
    """The largest mean rate whose Poisson p95 over one second stays within `peak`."""
    low, high = 0.0, peak
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if poisson_percentile(middle, POISSON_PERCENTILE) <= peak
            else (low, middle)
        )
    return low


def _binding(question: Question, replica: Replica, rate: float) -> tuple[str, str]:
    """What stops one replica from carrying more: the promise or the limit, and a sentence."""
    curve = replica.curve
    if curve is None or rate <= 0:
        if curve is None:
            return "memory", ""
        first = curve.keeps(_tiny(replica), question.workload.promises)
        label = {"ttft": "wait", "tpot": "throughput", "e2e": "throughput"}.get(
            first or "", "capacity"
        )
        return label, "it starts, but keeps no promise even for one request at a time"
    more = OpenLoad(requests_per_s_mean=rate * 1.01, requests_per_s_peak=rate * 1.01)
    broken = curve.keeps(more, question.workload.promises) or "capacity"
    label = {"ttft": "wait", "tpot": "throughput", "e2e": "throughput"}.get(broken, broken)
    if label == "capacity" and replica.max_running < replica.deployment.max_batch_size:
        label = "memory"
    return label, ""


def _tiny(replica: Replica) -> OpenLoad:
    assert replica.curve is not None  # noqa: S101 — the caller checked
    rate = replica.curve.capacity_requests_per_s() * 1e-6
    return OpenLoad(requests_per_s_mean=rate, requests_per_s_peak=rate)


def _rationale(
    question: Question, replica: Replica, found: Capacity, held: int
) -> tuple[Rationale, ...]:
    deployment, budget = replica.deployment, replica.budget
    memory = found.memory
    assert memory is not None  # noqa: S101 — set by the caller
    rows = [
        Rationale(
            figure="kv_budget_bytes",
            value=budget.kv_bytes * deployment.gpus,
            unit="bytes",
            formula="(memory − weights − activations − runtime) × budget fraction, per replica",
            inputs={
                "memory per GPU": format_bytes(budget.gpu_memory_bytes),
                "weights": format_bytes(budget.weights_bytes),
                "activations": format_bytes(budget.activations_bytes),
                "runtime": format_bytes(budget.runtime_bytes),
                "fraction": format_fraction(design_policy(question).kv_budget_fraction),
            },
            explanation="What one replica may fill with KV cache.",
            evidence=Evidence.MODELLED,
        ),
        Rationale(
            figure="sessions",
            value=float(found.sessions or 0),
            unit="",
            formula="⌊KV budget ÷ bytes per session⌋ × replicas",
            inputs={
                "bytes per session": format_bytes(memory.kv_bytes_per_session),
                "tokens": format_number(memory.session_tokens),
                "per replica": str(held),
                "replicas": str(found.replicas),
            },
            explanation="Contexts of that length resident at once.",
            evidence=Evidence.MODELLED,
        ),
    ]
    curve = replica.curve
    if curve is not None and found.requests_per_s is not None and found.latency is not None:
        each, most = found.requests_per_s / found.replicas, curve.capacity_requests_per_s()
        running = min(int(found.latency.running), len(curve.decode_s) - 1)
        rows.append(
            Rationale(
                figure="requests_per_s",
                value=found.requests_per_s,
                unit="requests/s",
                formula="largest rate of one replica that keeps every promise × replicas",
                inputs={
                    "per replica": f"{format_number(each)} requests/s",
                    "replicas": str(found.replicas),
                    "largest stable": f"{format_number(most)} requests/s",
                    "step at that load": format_time(float(curve.decode_s[running])),
                },
                explanation="Arrivals are split at random over the replicas; a smarter router does "
                "a little better.",
                evidence=curve.table.evidence,
            )
        )
    if found.daily_requests is not None and found.active_s_per_day is not None:
        rows.append(
            Rationale(
                figure="daily_requests",
                value=found.daily_requests,
                unit="requests/day",
                formula="peak rate × active hours",
                inputs={
                    "rate": f"{format_number(found.requests_per_s)} requests/s",
                    "hours": format_number(found.active_s_per_day / 3600),
                },
                explanation="If the peak lasts all the active hours; a real day has quieter hours.",
                evidence=Evidence.MODELLED,
            )
        )
    return tuple(rows)
