"""A chosen deployment -> the three scenarios: what each buys, how fast it is, what it survives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from tonnage.fleet import Constraint, MemoryFigures, PoolPlan, Scenario
from tonnage.fleet.chain import as_open, best_pools
from tonnage.fleet.purchase import Purchase, buy, replicas_per_server, servers_per_replica
from tonnage.fleet.rationale import rationale_of
from tonnage.fleet.replica import (
    NORMAL_SERVER_GPUS,
    Replica,
    build_replica,
    calls_of,
    largest_rate,
    resident_tokens,
    scaled_load,
    share_of,
)
from tonnage.fleet.search import Design, Option, evaluate
from tonnage.performance.memory import sequence_kv_bytes_per_gpu
from tonnage.queueing import LatencyFigures
from tonnage.units import SECONDS_PER_HOUR
from tonnage.workload import PERCENTILES, Batch, Load, OpenLoad, Promise

if TYPE_CHECKING:
    from tonnage.fleet import Question, ScenarioPolicy


def under_policy(question: Question, option: Option, policy: ScenarioPolicy) -> Option | None:
    """The same deployments sized under another policy; None when they cannot be."""
    rebuilt = []
    for old in option.replicas:
        built = build_replica(
            question,
            option.candidate,
            old.deployment,
            calls_of(question, model_name(question, old)),
            kv_budget_fraction=policy.kv_budget_fraction,
        )
        if not isinstance(built, Replica):
            return None
        rebuilt.append(built)
    if len(rebuilt) == 1:
        design = Design(question=question, policy=policy, objective=option.objective)
        return evaluate(design, rebuilt[0])
    return _chain_under_policy(question, option, policy, [[replica] for replica in rebuilt])


def _chain_under_policy(
    question: Question, option: Option, policy: ScenarioPolicy, pools: list[list[Replica]]
) -> Option | None:
    """A chain's pools sized with the policy's headroom, and without it for what the load needs."""
    bare = replace(policy, headroom_fraction=0.0, spare_units=0)
    at_load, chosen = (
        best_pools(question, each, option.objective, option.candidate, pools)
        for each in (bare, policy)
    )
    if chosen is None or at_load is None:
        return None
    replicas, with_headroom, _ = chosen
    needs = tuple(
        replace(need, for_load=bare_need.for_load)
        for need, bare_need in zip(with_headroom, at_load[1], strict=True)
    )
    purchase = buy(option.candidate, needs, policy.spare_units)
    return replace(option, replicas=replicas, needs=needs, purchase=purchase)


def model_name(question: Question, replica: Replica) -> str:
    """The name the question gives the model that `replica` serves."""
    for name, model in question.models.items():
        if model is replica.deployment.model:
            return name
    return replica.deployment.model.name


def build_scenario(question: Question, option: Option, policy: ScenarioPolicy) -> Scenario | None:
    """One scenario of the chosen option, latency at the stated peak on every replica bought."""
    sized = under_policy(question, option, policy)
    return None if sized is None else scenario_of(question, sized, policy)


def scenario_of(question: Question, sized: Option, policy: ScenarioPolicy) -> Scenario:
    """The scenario of an option that is sized under its policy."""
    bought = sized.purchase
    load = question.workload.load
    counts = bought.replicas
    pools = []
    for index, (replica, need, count) in enumerate(
        zip(sized.replicas, sized.needs, counts, strict=True)
    ):
        pools.append(
            PoolPlan(
                model=model_name(question, replica),
                deployment=replica.deployment,
                replicas_for_load=need.for_load,
                replicas=count,
                latency=_pool_latency(sized, index, count, load),
                latency_one_lost=_pool_latency(
                    sized, index, count - lost_replicas(sized, policy, index, 1), load
                ),
                latency_two_lost=_pool_latency(
                    sized, index, count - lost_replicas(sized, policy, index, 2), load
                ),
            )
        )
    latency = fleet_latency(question, sized, counts, load)
    memory = memory_figures(question, sized.replicas[-1])
    if question.workload.sessions is None:
        running = sized.replicas[-1].max_running if latency is None else latency.running
        total = memory.kv_bytes_per_session * running * counts[-1]
        memory = replace(memory, kv_bytes_total=total)
    survives_replicas, survives_servers = _survives(sized, policy)
    per_server, per_gpu = _normalised(question, sized)
    scenario = Scenario(
        name=policy.name,
        policy=policy,
        pools=tuple(pools),
        replicas=sum(counts),
        gpus=bought.gpus,
        servers=bought.servers,
        servers_for_load=bought.servers_for_load,
        servers_with_headroom=bought.servers_with_headroom,
        usd_per_hour=bought.usd_per_hour,
        usd_per_million_output_tokens=usd_per_million(question, bought),
        power_watts=bought.power_watts,
        rack_units=bought.rack_units,
        latency=latency,
        memory=memory,
        survives_replicas=survives_replicas,
        survives_servers=survives_servers,
        requests_per_s_per_server=per_server,
        requests_per_s_per_gpu=per_gpu,
    )
    return replace(scenario, rationale=rationale_of(question, sized, scenario))


def lost_replicas(option: Option, policy: ScenarioPolicy, index: int, units: int) -> int:
    """Replicas of pool `index` that stop with `units` failure units (servers, or replicas)."""
    if not option.candidate.whole_servers:
        return units
    deployment = option.replicas[index].deployment
    if len(option.replicas) > 1:  # spare servers stand by empty and take over
        units = max(units - policy.spare_units, 0)
    return units * max(replicas_per_server(option.candidate, deployment), 1)


def _survives(option: Option, policy: ScenarioPolicy) -> tuple[int, int | None]:
    """Replicas and whole servers that may be lost at the stated peak, promises kept."""
    if len(option.replicas) > 1:
        whole = option.candidate.whole_servers
        return policy.spare_units, policy.spare_units if whole else None
    free = option.purchase.replicas[0] - option.needs[0].for_load
    if option.candidate.server is None:
        return max(free, 0), None
    held = replicas_per_server(option.candidate, option.deployment)
    if held == 0:
        return max(free, 0), max(free, 0)
    return max(free, 0), max(free // held, 0)


def _pool_latency(
    option: Option, index: int, count: int, load: Load | None
) -> LatencyFigures | None:
    curve = option.replicas[index].curve
    if curve is None or count <= 0 or load is None or isinstance(load, Batch):
        return None
    if len(option.replicas) > 1:
        load = as_open(load, [[replica] for replica in option.replicas])
        assert isinstance(load, OpenLoad)  # noqa: S101 — a batch returned above
    return curve.at(share_of(load, count))


def fleet_latency(
    question: Question, option: Option, counts: tuple[int, ...], load: Load | None
) -> LatencyFigures | None:
    """Latency of the whole chain: the pool's own, or the pools' percentiles added up."""
    if load is None or isinstance(load, Batch) or min(counts) <= 0:
        return None
    if len(option.replicas) == 1:
        return _pool_latency(option, 0, counts[0], load)
    opened = as_open(load, [[replica] for replica in option.replicas])
    assert isinstance(opened, OpenLoad)  # noqa: S101 — a batch returned above
    shares = [share_of(opened, count) for count in counts]
    each = [
        replica.curve.at(share)
        for replica, share in zip(option.replicas, shares, strict=True)
        if replica.curve is not None
    ]
    percentiles: dict[str, float | None] = {}
    for p in PERCENTILES:
        percentiles[f"tpot_p{p:g}_s"] = each[-1].percentiles[f"tpot_p{p:g}_s"]
        for metric in ("ttft", "e2e"):
            seconds = 0.0
            for index, (replica, share) in enumerate(zip(option.replicas, shares, strict=True)):
                assert replica.curve is not None  # noqa: S101 — there is a load
                final = index == len(shares) - 1
                seconds += replica.curve.chain_s(share, p, last=metric if final else "e2e")
            known = seconds + question.workload.network_s
            percentiles[f"{metric}_p{p:g}_s"] = known if math.isfinite(known) else None
    return LatencyFigures(
        percentiles=percentiles,
        utilisation=max(figures.utilisation for figures in each),
        running=sum(f.running * n for f, n in zip(each, counts, strict=True)) / sum(counts),
        waiting=sum(f.waiting * n for f, n in zip(each, counts, strict=True)) / sum(counts),
        requests_per_s=opened.requests_per_s_peak / sum(counts),
        kv_fraction=max(figures.kv_fraction for figures in each),
        evidence=min(figures.evidence for figures in each),
        regime="; ".join(dict.fromkeys(f.regime for f in each if f.regime)),
    )


def memory_figures(question: Question, replica: Replica) -> MemoryFigures:
    """Bytes on one GPU of `replica`, per session and per server."""
    deployment, candidate, budget = replica.deployment, replica.candidate, replica.budget
    workload = question.workload
    calls = calls_of(question, model_name(question, replica))
    if workload.context_tokens is not None:
        tokens = min(workload.context_tokens, deployment.model.max_context_tokens)
    else:
        tokens = resident_tokens(calls)
    per_session = sequence_kv_bytes_per_gpu(deployment, tokens) * deployment.gpus
    server_gpus = candidate.server.gpus if candidate.server else NORMAL_SERVER_GPUS
    held = server_gpus // deployment.gpus
    gpus_used = held * deployment.gpus or server_gpus
    sessions = int(budget.kv_bytes / sequence_kv_bytes_per_gpu(deployment, tokens) + 1e-9)
    return MemoryFigures(
        weights_bytes_per_gpu=budget.weights_bytes,
        activations_bytes_per_gpu=budget.activations_bytes,
        runtime_bytes_per_gpu=budget.runtime_bytes,
        kv_pool_bytes_per_gpu=budget.kv_bytes,
        gpu_memory_bytes=budget.gpu_memory_bytes,
        kv_bytes_per_session=per_session,
        kv_bytes_total=per_session * (workload.sessions or replica.max_running),
        kv_budget_bytes_per_server=budget.kv_bytes * gpus_used,
        sessions_per_server=sessions * held
        if held
        else sessions // servers_per_replica(candidate, deployment),
        session_tokens=tokens,
    )


def _normalised(question: Question, option: Option) -> tuple[float | None, float | None]:
    """The highest peak rate one server and one GPU carry, promises kept (open load, one model)."""
    replica = option.replicas[-1]
    if len(option.replicas) > 1 or not isinstance(question.workload.load, OpenLoad):
        return None, None
    per_gpu = largest_rate(replica, question.workload.promises) / replica.deployment.gpus
    server = option.candidate.server
    gpus = server.gpus if server is not None else NORMAL_SERVER_GPUS
    size = replica.deployment.gpus
    return per_gpu * (gpus // size * size or gpus), per_gpu


def usd_per_million(question: Question, bought: Purchase) -> float | None:
    """Dollars per million output tokens at the mean load: hourly cost / tokens in an hour."""
    workload = question.workload
    if bought.usd_per_hour is None or workload.load is None:
        return None
    output = sum(call.repeats * call.mix.output.mean_tokens for call in workload.calls)
    match workload.load:
        case OpenLoad():
            rate = workload.load.requests_per_s_mean
        case Batch():
            rate = workload.load.requests / workload.load.deadline_s
        case _:
            return None
    tokens_per_hour = rate * output * SECONDS_PER_HOUR
    return bought.usd_per_hour / tokens_per_hour * 1e6 if tokens_per_hour else None


def constraints_of(
    question: Question,
    option: Option,
    policy: ScenarioPolicy,
    figures: LatencyFigures | None = None,
) -> tuple[Constraint, ...]:
    """The four constraints at the design point: load with headroom, on the replicas carrying it.

    `figures` are what a simulation found there, in place of the closed form's.
    """
    replica, need = option.replicas[-1], option.needs[-1]
    workload = question.workload
    load = scaled_load(workload.load, 1 + policy.headroom_fraction)
    counts = tuple(n.with_headroom for n in option.needs)
    if (
        len(counts) == 1
        and option.candidate.whole_servers
        and option.purchase.servers_with_headroom
    ):
        held = replicas_per_server(option.candidate, replica.deployment)
        counts = (option.purchase.servers_with_headroom * held or need.with_headroom,)
    figures = figures or fleet_latency(question, option, counts, load)
    drafts = [
        _memory_constraint(question, option, policy, counts[-1], figures),
        _promise_constraint(
            question, figures, "throughput", metric="tpot", load=load, option=option, counts=counts
        ),
        _capacity_constraint(question, option, counts, load, policy),
        _promise_constraint(
            question, figures, "wait", metric="ttft", load=load, option=option, counts=counts
        ),
    ]
    known = [draft.slack for draft in drafts if draft.slack is not None]
    least = min(known, default=None)
    binding = next((d.name for d in drafts if d.slack is not None and d.slack == least), None)
    return tuple(replace(draft, binding=draft.name == binding) for draft in drafts)


def _constraint(
    name: str, used: float | None, available: float | None, unit: str, explanation: str
) -> Constraint:
    slack = None
    if used is not None and available:
        slack = 1 - used / available
    return Constraint(
        name=name,  # type: ignore[arg-type]
        used=used,
        available=available,
        unit=unit,
        slack=slack,
        binding=False,
        explanation=explanation,
    )


def _memory_constraint(
    question: Question,
    option: Option,
    policy: ScenarioPolicy,
    count: int,
    figures: LatencyFigures | None,
) -> Constraint:
    replica = option.replicas[-1]
    pool = replica.budget.kv_bytes * replica.deployment.gpus * count
    sessions = question.workload.sessions
    if sessions is not None:
        each = memory_figures(question, replica).kv_bytes_per_session
        held = each * sessions * (1 + policy.headroom_fraction)
        return _constraint(
            "memory", held, pool, "bytes", "KV cache of all resident sessions, headroom included"
        )
    used = None if figures is None else figures.kv_fraction * pool
    if figures is None and isinstance(question.workload.load, Batch):
        used = min(replica.max_running / replica.kv_limit, 1.0) * pool
    return _constraint(
        "memory", used, pool, "bytes", "KV cache in use at the design load against its budget"
    )


def _promise_constraint(
    question: Question,
    figures: LatencyFigures | None,
    name: str,
    *,
    metric: str,
    load: Load | None,
    option: Option,
    counts: tuple[int, ...],
) -> Constraint:
    if isinstance(load, Batch) and name == "throughput":
        curve = option.replicas[-1].curve
        assert curve is not None  # noqa: S101 — there is a load
        return _constraint(
            "throughput",
            load.requests / load.deadline_s,
            curve.capacity_requests_per_s() * counts[-1],
            "requests/s",
            "average rate that meets the deadline against the rate at full batches",
        )
    wanted = [p for p in question.workload.promises if p.metric == metric]
    if not wanted and name == "throughput":
        wanted = [p for p in question.workload.promises if p.metric == "e2e"]
    tightest: tuple[float, Promise, float] | None = None
    for promise in wanted:
        reached: float | None = None
        if figures is not None:
            reached = figures.percentiles.get(f"{promise.metric}_p{promise.percentile:g}_s")
        if reached is not None and (tightest is None or reached / promise.limit_s > tightest[0]):
            tightest = (reached / promise.limit_s, promise, reached)
    what = {
        "throughput": "time per output token",
        "wait": "time to the first token, queue included",
    }
    if tightest is None:
        return _constraint(name, None, None, "s", f"{what[name]}: nothing is promised")
    _, promise, value = tightest
    label = {"tpot": "TPOT", "ttft": "TTFT", "e2e": "end-to-end"}[promise.metric]
    return _constraint(
        name, value, promise.limit_s, "s", f"{label} p{promise.percentile:g} at the design load"
    )


def _capacity_constraint(
    question: Question,
    option: Option,
    counts: tuple[int, ...],
    load: Load | None,
    policy: ScenarioPolicy,
) -> Constraint:
    replica = option.replicas[-1]
    sessions = question.workload.sessions
    if load is None:
        held = (replica.sessions or 0) * counts[-1]
        wanted = (sessions or 0) * (1 + policy.headroom_fraction)
        return _constraint(
            "capacity", wanted, held, "sessions", "sessions with headroom against those that fit"
        )
    pools = [[r] for r in option.replicas]
    opened = as_open(load, pools) if len(option.replicas) > 1 else load
    if isinstance(opened, OpenLoad):
        most = min(
            r.curve.capacity_requests_per_s() * n
            for r, n in zip(option.replicas, counts, strict=True)
            if r.curve is not None
        )
        return _constraint(
            "capacity",
            opened.requests_per_s_peak,
            most,
            "requests/s",
            "peak load with headroom against the largest stable load",
        )
    if isinstance(opened, Batch):
        return _constraint(
            "capacity", None, None, "requests/s", "a batch waits: see throughput for its deadline"
        )
    assert opened is not None  # noqa: S101 — load is not None
    slots = replica.max_running * counts[-1]
    return _constraint(
        "capacity",
        opened.clients,
        slots,
        "requests",
        "clients with headroom against the calls that run at once (more would queue)",
    )


def first_complete(
    question: Question, ranked: list[Option]
) -> tuple[Option | None, tuple[Scenario, ...]]:
    """The best option that all scenarios can be built on; else the best one, with those it can."""
    fallback: tuple[Option, tuple[Scenario, ...]] | None = None
    for option in ranked:
        built = tuple(
            scenario
            for policy in question.policies
            if (scenario := build_scenario(question, option, policy)) is not None
        )
        if len(built) == len(question.policies):
            return option, built
        if fallback is None:
            fallback = (option, built)
    return fallback if fallback is not None else (None, ())
