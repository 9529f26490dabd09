"""Deployment + budget -> what one replica holds and carries: sessions, calls, requests/s."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tonnage.performance.memory import memory_budget, sequence_kv_bytes_per_gpu
from tonnage.performance.roofline import tabulate
from tonnage.queueing import TrafficClass
from tonnage.queueing.closed_form import PLANNED_LOAD, ClosedForm
from tonnage.workload import Batch, ClosedLoad, LlmCall, Load, OpenLoad, Promise

if TYPE_CHECKING:
    from tonnage.deployment import Deployment
    from tonnage.fleet import Candidate, Question
    from tonnage.performance import MemoryBudget, StepTable

NORMAL_SERVER_GPUS = 8  # results per server mean 8 GPUs where no server is known (DLI course)
MEAN_BELOW_PERCENTILE = 90  # the mean of a latency lies below this percentile of it
LIGHTEST_FRACTION = 0.01  # of a replica's capacity: no fleet is planned emptier than this
_RATE_TOLERANCE = 1e-4  # relative, on the largest rate a replica carries


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A deployment that fits: its memory, its latency curve and its limits.

    `sessions` is how many resident contexts of the question's `context_tokens` it holds (None
    when no context is stated), `max_running` how many calls it runs at once, `kv_limit` how many
    of mean length its KV budget holds.
    """

    deployment: Deployment
    candidate: Candidate
    budget: MemoryBudget
    curve: ClosedForm | None
    max_running: int
    kv_limit: float
    sessions: int | None
    network_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """A deployment whose weights leave no room: bytes short on the fullest GPU."""

    deployment: Deployment
    candidate: Candidate
    short_bytes: float
    reason: str


def calls_of(question: Question, model: str) -> tuple[LlmCall, ...]:
    """The calls of the chain that `model` answers, in order."""
    return tuple(call for call in question.workload.calls if call.model == model)


def traffic_of(calls: tuple[LlmCall, ...]) -> tuple[TrafficClass, ...]:
    """The calls as traffic of one pool, per user request."""
    return tuple(TrafficClass(name=call.name, weight=call.repeats, mix=call.mix) for call in calls)


def resident_tokens(calls: tuple[LlmCall, ...]) -> float:
    """Mean context of the calls present at an instant: weighted by how long each stays."""
    stay = [call.repeats * max(call.mix.output.mean_tokens, 1.0) for call in calls]
    held = [call.mix.resident_tokens_mean for call in calls]
    return sum(s * h for s, h in zip(stay, held, strict=True)) / sum(stay)


def build_replica(
    question: Question,
    candidate: Candidate,
    deployment: Deployment,
    calls: tuple[LlmCall, ...],
    *,
    kv_budget_fraction: float,
    busier: Replica | None = None,
) -> Replica | Misfit:
    """Fit the deployment into its GPUs and, when there is a load, tabulate its speed.

    `busier` is the same deployment with a larger batch limit, whose step times are reused.
    """
    budget = memory_budget(
        deployment,
        kv_budget_fraction=kv_budget_fraction,
        runtime_overhead_bytes_per_gpu=stated_overhead_bytes_per_gpu(question, candidate),
    )
    context = question.workload.context_tokens
    mean = resident_tokens(calls) if question.workload.load is not None else (context or 1.0)
    one = sequence_kv_bytes_per_gpu(deployment, mean)
    if not budget.fits or budget.weights_bytes > budget.gpu_memory_bytes:
        need = budget.weights_bytes + budget.activations_bytes + budget.runtime_bytes
        return Misfit(
            deployment=deployment,
            candidate=candidate,
            short_bytes=max(need - budget.gpu_memory_bytes, -budget.kv_pool_bytes),
            reason="weights",
        )
    largest = context
    if question.workload.load is not None:
        largest = max(context or 0.0, *(call.mix.context_tokens_max for call in calls))
    largest_bytes = sequence_kv_bytes_per_gpu(
        deployment, min(largest or 1.0, deployment.model.max_context_tokens)
    )
    if largest_bytes > budget.kv_bytes or one > budget.kv_bytes:
        return Misfit(
            deployment=deployment,
            candidate=candidate,
            short_bytes=max(largest_bytes, one) - budget.kv_bytes,
            reason="context",
        )
    kv_limit = budget.kv_bytes / one if one > 0 else math.inf
    max_running = max(int(min(deployment.max_batch_size, kv_limit)), 1)
    curve = None
    if busier is not None and busier.curve is not None and max_running <= busier.max_running:
        curve = busier.curve.limited(max_running, kv_limit)
    elif question.workload.load is not None:
        curve = ClosedForm(
            step_table(question, candidate, deployment),
            traffic_of(calls),
            max_running=max_running,
            kv_limit=kv_limit,
            network_s=question.workload.network_s,
        )
    sessions = None
    if context is not None and (question.workload.sessions is not None or curve is None):
        held = sequence_kv_bytes_per_gpu(
            deployment, min(context, deployment.model.max_context_tokens)
        )
        sessions = int(budget.kv_bytes / held + 1e-9)
    return Replica(
        deployment=deployment,
        candidate=candidate,
        budget=budget,
        curve=curve,
        max_running=max_running,
        kv_limit=kv_limit,
        sessions=sessions,
        network_s=question.workload.network_s,
    )


def stated_overhead_bytes_per_gpu(question: Question, candidate: Candidate) -> float | None:
    """A GPU's share of the overhead stated per server; None when none is stated."""
    stated = question.runtime_overhead_bytes
    server_gpus = candidate.server.gpus if candidate.server else NORMAL_SERVER_GPUS
    return None if stated is None else stated / server_gpus


def step_table(question: Question, candidate: Candidate, deployment: Deployment) -> StepTable:
    """The step times of a deployment in the servers of `candidate`."""
    server = candidate.server
    domain = server.nvlink_domain_gpus if server else None
    if server is not None and not deployment.gpu.interconnect.switched:
        domain = max(server.nvlink_domain_gpus, server.gpus)  # a host bus reaches every card
    return tabulate(
        deployment,
        candidate.calibration,
        link_domain_gpus=domain,
        step_model=question.step_model,
    )


def scaled_load(load: Load | None, factor: float) -> Load | None:
    """`load` times `factor`; clients and requests stay whole where they are."""
    match load:
        case OpenLoad():
            return replace(
                load,
                requests_per_s_mean=load.requests_per_s_mean * factor,
                requests_per_s_peak=load.requests_per_s_peak * factor,
            )
        case ClosedLoad():
            return replace(load, clients=math.ceil(load.clients * factor - 1e-9))
        case Batch():
            return replace(load, requests=load.requests * factor)
        case _:
            return None


def share_of(load: OpenLoad | ClosedLoad, replicas: int) -> OpenLoad | ClosedLoad:
    """What one of `replicas` equal replicas carries.

    A random split of an open load keeps it Poisson; a closed load's clients are dealt out, and the
    fullest replica counts.
    """
    if isinstance(load, OpenLoad):
        return OpenLoad(
            requests_per_s_mean=load.requests_per_s_mean / replicas,
            requests_per_s_peak=load.requests_per_s_peak / replicas,
        )
    return replace(load, clients=math.ceil(load.clients / replicas))


def replicas_for(
    replica: Replica,
    load: Load | None,
    promises: tuple[Promise, ...],
    sessions: float | None,
    *,
    at_least: int = 1,
    at_most: int | None = None,
) -> int | None:
    """The fewest replicas that carry `load` and hold `sessions`, every promise kept.

    None when no number does. Rounded up once, at the replica. `at_least` is a number that is known
    not to be too high; the search gallops up from it. Answers above `at_most` are None too, found
    out by a single look.
    """
    need = max(least_replicas(replica, load, promises, sessions) or 0, at_least)
    curve = replica.curve
    if (sessions is not None and not replica.sessions) or (at_most is not None and need > at_most):
        return None
    if load is None or curve is None:
        return need
    if isinstance(load, Batch):
        rate = curve.capacity_requests_per_s()
        tail = curve.output_tokens * float(curve.decode_s[-1])
        if load.deadline_s <= tail:
            return None
        need = max(need, math.ceil(load.requests / rate / (load.deadline_s - tail) - 1e-9))
        return None if at_most is not None and need > at_most else need

    return _fewest_keeping(replica, load, promises, need, at_most)


def _fewest_keeping(
    replica: Replica,
    load: OpenLoad | ClosedLoad,
    promises: tuple[Promise, ...],
    need: int,
    at_most: int | None,
) -> int | None:
    """The fewest replicas from `need` up that keep the promises; None if more than `at_most`."""
    curve = replica.curve
    assert curve is not None  # noqa: S101 — callers have a load

    def kept(count: int) -> bool:
        return curve.keeps(share_of(load, count), promises) is None

    if at_most is not None and at_most > need and not kept(at_most):
        return None
    if kept(need):
        return need
    if at_most is not None:
        low, high = need, at_most
        if low == high:
            return None
    else:
        if curve.keeps(lightest(replica, load), promises) is not None:
            return None
        low, step = need, 1
        while not kept(low + step):
            low, step = low + step, step * 2
            if isinstance(load, ClosedLoad) and low >= load.clients:
                return None
        high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if kept(middle) else (middle, high)
    return high


def least_replicas(
    replica: Replica, load: Load | None, promises: tuple[Promise, ...], sessions: float | None
) -> int | None:
    """A lower bound on the replicas needed, from step times alone; None when none suffice.

    A call can never decode faster than the step it is in, so the calls running are at most those
    whose step D(k) keeps the TPOT promise, and the rate at most the completion rate there.
    """
    need = 1
    if sessions is not None:
        if not replica.sessions:
            return None
        need = math.ceil(sessions / replica.sessions - 1e-9)
    curve = replica.curve
    if curve is None or load is None or isinstance(load, Batch):
        return need
    limits = [promise.limit_s for promise in promises if promise.metric == "tpot"]
    fast = curve.decode_s <= min(limits, default=math.inf)
    if not fast[0]:
        return None
    running = int(np.argmin(fast)) if not fast.all() else len(fast)
    rate = float(curve.completions_per_s[:running].max()) / curve.calls_per_request
    if isinstance(load, OpenLoad):
        return max(need, math.ceil(load.requests_per_s_peak / rate - 1e-9))
    stay = _longest_stay_s(promises, curve.output_tokens)
    clients = rate * (stay + load.think_time_s)
    return max(need, math.ceil(load.clients / clients - 1e-9)) if math.isfinite(clients) else need


def _longest_stay_s(promises: tuple[Promise, ...], output_tokens: float) -> float:
    """Longest mean stay the promises allow; means lie below the promised percentiles."""
    by_metric = {p.metric: p.limit_s for p in promises if p.percentile >= MEAN_BELOW_PERCENTILE}
    if "e2e" in by_metric:
        return by_metric["e2e"]
    if {"ttft", "tpot"} <= by_metric.keys():
        return by_metric["ttft"] + output_tokens * by_metric["tpot"]
    return math.inf


def lightest(replica: Replica, load: OpenLoad | ClosedLoad) -> OpenLoad | ClosedLoad:
    """The least load a fleet is planned for: one client, or a hundredth of what a replica can.

    A promise that breaks here is not mended by more replicas; a fleet run below it is no answer.
    """
    if isinstance(load, ClosedLoad):
        return replace(load, clients=1)
    assert replica.curve is not None  # noqa: S101 — callers have a load
    return _open(replica.curve.capacity_requests_per_s() * LIGHTEST_FRACTION)


def largest_rate(replica: Replica, promises: tuple[Promise, ...]) -> float:
    """The largest peak rate (user requests/s) one replica carries with every promise kept."""
    curve = replica.curve
    assert curve is not None  # noqa: S101 — callers have a load
    high = curve.capacity_requests_per_s() * PLANNED_LOAD
    if curve.keeps(_open(high), promises) is None:
        return high
    low = high * 1e-6
    if curve.keeps(_open(low), promises) is not None:
        return 0.0
    while high - low > _RATE_TOLERANCE * high:
        # geometric while far apart: capacities span orders of magnitude
        middle = math.sqrt(low * high) if high > 4 * low else (low + high) / 2
        if curve.keeps(_open(middle), promises) is None:
            low = middle
        else:
            high = middle
    return low


def _open(rate: float) -> OpenLoad:
    return OpenLoad(requests_per_s_mean=rate, requests_per_s_peak=rate)
