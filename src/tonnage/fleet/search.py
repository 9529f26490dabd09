"""Question -> the best option of every GPU kind x tensor parallelism, and the best of all.

Exact over integers: every arrangement that runs is bounded from below by what it could cost if only
its step times limited it, and evaluated in full unless that bound already loses to an evaluated
option of the same GPU kind and TP.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tonnage.deployment import Deployment, arrangement_conflict
from tonnage.fleet.chain import best_pools
from tonnage.fleet.purchase import Need, Purchase, buy, most_within
from tonnage.fleet.replica import (
    NORMAL_SERVER_GPUS,
    Misfit,
    Replica,
    build_replica,
    calls_of,
    least_replicas,
    replicas_for,
    scaled_load,
)
from tonnage.workload import Batch, ClosedLoad, OpenLoad

if TYPE_CHECKING:
    from tonnage.fleet import Candidate, Objective, Question, ScenarioPolicy
    from tonnage.model import ModelSpec

TENSOR_PARALLEL = (1, 2, 4, 8, 16)
PIPELINE_PARALLEL = (1, 2, 4)
BATCH_LIMITS = (8, 16, 32, 64, 128, 256, 512)
LONG_TAIL = 0.02  # of a deadline, spent on the last answers: beyond, smaller batches are tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What is searched for: an answer to `question` under `policy`, least in `objective`."""

    question: Question
    policy: ScenarioPolicy
    objective: Objective

    def asking(self, question: Question) -> Design:
        """The same search for another question."""
        return replace(self, question=question)


class Group(NamedTuple):
    """What rejections are kept by."""

    candidate: int
    tensor_parallel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A feasible way to serve everything on one GPU kind: replicas per pool and the purchase."""

    candidate: Candidate
    replicas: tuple[Replica, ...]
    needs: tuple[Need, ...]
    purchase: Purchase
    objective: Objective

    @property
    def deployment(self) -> Deployment:
        """The deployment that answers the last call of the chain."""
        return self.replicas[-1].deployment

    @property
    def least(self) -> tuple[float, int]:
        """What the search minimises: the objective, and GPUs where it ties or is not known."""
        return self.purchase.value(self.objective), self.purchase.gpus

    @property
    def key(self) -> tuple[float | str, ...]:
        """What options are ranked by, ties broken to the end.

        Objective; then GPUs, money and power; then weights and cache left as published; then spare
        capacity in the same purchase; then the simpler arrangement; then the name.
        """
        bought, deployment = self.purchase, self.deployment
        carried = self.replicas[-1].sessions or 0
        curve = self.replicas[-1].curve
        if curve is not None:
            carried = curve.capacity_requests_per_s()  # type: ignore[assignment]
        return (
            *self.least,
            _or_inf(bought.usd_per_hour),
            _or_inf(bought.power_watts),
            sum(compromises(replica.deployment) for replica in self.replicas),
            -carried * bought.replicas[-1],
            deployment.tensor_parallel,
            deployment.pipeline_parallel,
            deployment.expert_parallel,
            deployment.gpu.name,
            self.candidate.server.name if self.candidate.server else "",
            -deployment.max_batch_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """An arrangement that cannot serve the question, and what stops it.

    `short_bytes` is the memory missing on each GPU, `gpus` what it would take to serve, each where
    that is the reason.
    """

    deployment: Deployment
    bottleneck: str
    detail: str
    replica: Replica | None = None
    short_bytes: float = 0.0
    gpus: int | None = None


@dataclass(slots=True)
class Outcome:
    """What a search found: options and misses by group, and a count of every node."""

    options: dict[Group, Option] = field(default_factory=dict)
    misses: dict[Group, list[Miss]] = field(default_factory=dict)
    considered: Counter[str] = field(default_factory=Counter)

    def miss(self, candidate: int, miss: Miss) -> None:
        """Record `miss` under its group."""
        group = Group(candidate, miss.deployment.tensor_parallel)
        self.misses.setdefault(group, []).append(miss)

    def best(self) -> Option | None:
        """The best option of all groups, by rank."""
        return min(self.options.values(), key=lambda option: option.key, default=None)


def _or_inf(value: float | None) -> float:
    return math.inf if value is None else value


def compromises(deployment: Deployment) -> int:
    """What the model and the engine are asked to put up with: 0 as published, on one stage.

    A requantised model or cache may cost quality, one step each; a pipeline has bubbles and
    uneven stages that the step table does not show, two.
    """
    weights = deployment.weight_dtype != deployment.model.native_weight_dtype
    cache = deployment.kv_dtype not in {"bf16", "fp16"}
    return int(weights) + int(cache) + 2 * (deployment.pipeline_parallel > 1)


def objective_of(question: Question) -> tuple[Objective, str]:
    """The objective the search minimises, and why it is that one."""
    if question.objective is not None:
        return question.objective, "as asked"
    if all(candidate.usd_per_gpu_hour is not None for candidate in question.candidates):
        return "cost", "every candidate has a price"
    missing = sorted({c.gpu.name for c in question.candidates if c.usd_per_gpu_hour is None})
    shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")  # noqa: PLR2004
    return "gpus", f"no price for {shown}"


@dataclass(frozen=True, slots=True)
class Survey:
    """Every arrangement of every candidate, fitted or not, before any load is put on it.

    Depends on models, lengths, hardware and memory only, so that one survey serves every search
    that changes load, promises or limits. `pools[i][model]` are the rows of candidate i, the model
    that answers the last call of the chain last.
    """

    pools: tuple[dict[str, list[Replica | Misfit | Conflict]], ...]
    limited: dict[tuple[int, int], Replica | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """An arrangement that cannot be run, and why."""

    deployment: Deployment
    reason: str


def survey(question: Question, policy: ScenarioPolicy) -> Survey:
    """Enumerate and fit every arrangement under the policy's KV budget."""
    models = tuple(dict.fromkeys(call.model for call in reversed(question.workload.calls)))[::-1]
    pools = []
    for candidate in question.candidates:
        rows: dict[str, list[Replica | Misfit | Conflict]] = {}
        for model in models:
            calls = calls_of(question, model)
            rows[model] = [
                Conflict(deployment=deployment, reason=conflict)
                if conflict is not None
                else build_replica(
                    question,
                    candidate,
                    deployment,
                    calls,
                    kv_budget_fraction=policy.kv_budget_fraction,
                )
                for deployment, conflict in arrangements(
                    question, candidate, question.models[model]
                )
            ]
        pools.append(rows)
    return Survey(pools=tuple(pools))


def search(
    design: Design,
    ground: Survey | None = None,
    *,
    any_will_do: bool = False,
) -> Outcome:
    """Bound and evaluate every arrangement of every candidate under `policy`.

    With `any_will_do` the search ends at the first option found, and reasons are not kept.
    """
    ground = ground or survey(design.question, design.policy)
    outcome = Outcome()
    for index in range(len(design.question.candidates)):
        if len(ground.pools[index]) == 1:
            _search_one_model(design, index, ground, outcome, any_will_do=any_will_do)
        else:
            _search_chain(design, index, ground, outcome)
        if any_will_do and outcome.options:
            break
    return outcome


def arrangements(
    question: Question, candidate: Candidate, model: ModelSpec
) -> Iterator[tuple[Deployment, str | None]]:
    """Every arrangement worth naming on this candidate, with the conflict that rules it out."""
    gpu, server = candidate.gpu, candidate.server
    sequences, tokens = question.engine.limits_on(gpu.usable_memory_bytes or gpu.memory_bytes)
    if question.max_batched_tokens:
        tokens = question.max_batched_tokens
    largest = max(server.gpus if server else NORMAL_SERVER_GPUS, 1)
    experts = any(group.experts for group in model.layer_groups)
    weights = question.weight_dtypes or default_weight_dtypes(model)
    caches = question.kv_dtypes or ("bf16", "fp8")
    limit = max(question.max_batch_sizes) if question.max_batch_sizes else sequences
    for tp in question.tensor_parallel or TENSOR_PARALLEL:
        if not question.tensor_parallel and tp > largest:
            continue
        for pp in question.pipeline_parallel or PIPELINE_PARALLEL:
            if not question.pipeline_parallel and pp > 1 and tp * pp > 4 * largest:
                continue
            for ep in question.expert_parallel or ((1, tp) if experts and tp > 1 else (1,)):
                for weight_dtype in weights:
                    for kv_dtype in caches:
                        deployment = Deployment(
                            model=model,
                            gpu=gpu,
                            engine=question.engine,
                            weight_dtype=weight_dtype,
                            kv_dtype=kv_dtype,
                            tensor_parallel=tp,
                            pipeline_parallel=pp,
                            expert_parallel=ep,
                            max_batch_size=limit,
                            max_batched_tokens=tokens,
                        )
                        yield (
                            deployment,
                            arrangement_conflict(
                                deployment,
                                server,
                                allow_tp_beyond_domain=question.allow_tp_beyond_domain,
                            ),
                        )


def default_weight_dtypes(model: ModelSpec) -> tuple[str, ...]:
    """As published and, for 16-bit checkpoints, fp8."""
    native = model.native_weight_dtype
    return (native, "fp8") if native in {"bf16", "fp16"} else (native,)


def _fitting(
    rows: list[Replica | Misfit | Conflict],
    index: int,
    outcome: Outcome,
    *,
    record: bool = True,
) -> Iterator[Replica]:
    """The replicas among `rows`; the others are counted and, if wanted, recorded as misses."""
    for row in rows:
        if isinstance(row, Replica):
            yield row
            continue
        kind = "memory" if isinstance(row, Misfit) else "arrangement"
        outcome.considered[kind] += 1
        if record:
            outcome.miss(
                index,
                Miss(
                    deployment=row.deployment,
                    bottleneck=kind,
                    detail=row.reason,
                    short_bytes=row.short_bytes if isinstance(row, Misfit) else 0.0,
                ),
            )


def _search_one_model(
    design: Design, index: int, ground: Survey, outcome: Outcome, *, any_will_do: bool
) -> None:
    question, policy, objective = design.question, design.policy, design.objective
    candidate, workload = question.candidates[index], question.workload
    factor = 1 + policy.headroom_fraction
    load = scaled_load(workload.load, factor)
    sessions = None if workload.sessions is None else workload.sessions * factor
    (rows,) = ground.pools[index].values()
    limit = _gpu_limit(question, candidate) if any_will_do else None
    sizes = len(question.max_batch_sizes) or 1 + len(BATCH_LIMITS)  # nodes of one arrangement
    ready: list[tuple[tuple[float, int, int], int, Replica]] = []
    for built in _fitting(rows, index, outcome):
        deployment = built.deployment
        at_best = least_replicas(built, load, workload.promises, sessions)
        if at_best is None:
            outcome.considered["promises"] += 1
            outcome.miss(index, _slow(built))
            continue
        need = Need(deployment=deployment, for_load=at_best, with_headroom=at_best)
        least = buy(candidate, (need,), policy.spare_units)
        bound = (least.value(objective), least.gpus, compromises(deployment))
        ready.append((bound, at_best * deployment.gpus, built))
    for bound, _, replica in sorted(ready, key=lambda row: row[:2]):
        group = Group(index, replica.deployment.tensor_parallel)
        best = outcome.options.get(group)
        if best is not None and bound >= (*best.least, compromises(best.deployment)):
            outcome.considered["bounded"] += sizes
            continue
        option, tried = best, 0
        for limited in _batch_limits(design, replica, ground):
            if option is not None and option is not best and option.least <= bound[:2]:
                break  # as good as step times allow: smaller batches could only carry less
            tried += 1
            within = limit
            if option is not None:  # a smaller batch carries no more: it must take fewer GPUs
                within = option.purchase.gpus - (option is not best)
            found = evaluate(design, limited, within_gpus=within)
            if found is not None and (option is None or found.key < option.key):
                option = found
        outcome.considered["evaluated"] += tried
        outcome.considered["bounded"] += max(sizes - tried, 0)
        if option is None:
            outcome.miss(index, _slow(replica))
        elif option is not best:
            _keep(question, index, option, outcome)
        if any_will_do and outcome.options:
            return


def _gpu_limit(question: Question, candidate: Candidate) -> int | None:
    """The most GPUs of this kind that the stated limits allow; None when there is no limit."""
    limits, price = question.limits, candidate.usd_per_gpu_hour
    allowed = [limits.max_gpus] if limits.max_gpus is not None else []
    if limits.max_usd_per_hour is not None and price:
        allowed.append(math.floor(limits.max_usd_per_hour / price))
    return min(allowed, default=None)


def _slow(replica: Replica) -> Miss:
    """A replica that fits but keeps no promise; which one is found out when it is reported."""
    return Miss(
        deployment=replica.deployment,
        bottleneck="throughput",
        detail="promises",
        replica=replica,
    )


def _keep(question: Question, index: int, option: Option, outcome: Outcome) -> None:
    """Enter a feasible option: the best of its group, unless it is over the stated limits."""
    if within_limits(question, option):
        group = Group(index, option.deployment.tensor_parallel)
        best = outcome.options.get(group)
        if best is None or option.key < best.key:
            outcome.options[group] = option
        return
    outcome.considered["limits"] += 1
    bought = option.purchase
    cost = f" at {bought.usd_per_hour:,.2f} usd/h" if bought.usd_per_hour else ""
    outcome.miss(
        index,
        Miss(
            deployment=option.deployment,
            bottleneck="limits",
            detail=f"needs {bought.gpus} GPUs{cost}",
            replica=option.replicas[-1],
            gpus=bought.gpus,
        ),
    )


def evaluate(design: Design, replica: Replica, *, within_gpus: int | None = None) -> Option | None:
    """The purchase that this one deployment needs, or None when it cannot keep the promises.

    With `within_gpus`, None too when it needs more than that: no exact count is worked out then.
    """
    workload, policy = design.question.workload, design.policy
    factor = 1 + policy.headroom_fraction
    at_most = None
    if within_gpus is not None:
        at_most = most_within(
            replica.candidate, replica.deployment, within_gpus, policy.spare_units
        )
    sessions = workload.sessions
    with_headroom = replicas_for(
        replica,
        scaled_load(workload.load, factor),
        workload.promises,
        None if sessions is None else sessions * factor,
        at_most=at_most,
    )
    if with_headroom is None:
        return None
    for_load = replicas_for(
        replica, workload.load, workload.promises, sessions, at_most=with_headroom
    )
    if for_load is None:
        return None
    need = Need(deployment=replica.deployment, for_load=for_load, with_headroom=with_headroom)
    return Option(
        candidate=replica.candidate,
        replicas=(replica,),
        needs=(need,),
        purchase=buy(replica.candidate, (need,), policy.spare_units),
        objective=design.objective,
    )


def within_limits(question: Question, option: Option) -> bool:
    """Whether the purchase stays under the stated number of GPUs and cost."""
    limits, bought = question.limits, option.purchase
    if limits.max_gpus is not None and bought.gpus > limits.max_gpus:
        return False
    return limits.max_usd_per_hour is None or (
        bought.usd_per_hour is not None and bought.usd_per_hour <= limits.max_usd_per_hour
    )


def _batch_limits(
    design: Design,
    replica: Replica,
    ground: Survey,
) -> Iterator[Replica]:
    """The replica as it is and, where speed per call is promised, with fewer calls at once.

    Running fewer calls keeps tokens fast and makes others wait: every size up to
    the largest batch whose steps keep the TPOT promise is tried, or the sizes the user named. A
    batch with a tight deadline tries them all: large batches drain slowly.
    """
    question = design.question
    workload = question.workload
    yield replica
    limits: list[int] = []
    if question.max_batch_sizes:
        limits = [
            size for size in question.max_batch_sizes if size < replica.deployment.max_batch_size
        ]
    elif replica.curve is not None and isinstance(workload.load, OpenLoad | ClosedLoad):
        speeds = [p.limit_s for p in workload.promises if p.metric == "tpot"]
        stays = [p.limit_s for p in workload.promises if p.metric == "e2e"]
        per_token = min([*speeds, *(s / replica.curve.output_tokens for s in stays)], default=None)
        if per_token is not None:
            running = int(np.searchsorted(replica.curve.decode_s, per_token, side="right"))
            most = min(running, replica.max_running - 1)
            limits = [size for size in reversed(BATCH_LIMITS) if size <= most]
    elif replica.curve is not None and isinstance(workload.load, Batch):
        tail = replica.curve.output_tokens * float(replica.curve.decode_s[-1])
        if tail > LONG_TAIL * workload.load.deadline_s:
            limits = [size for size in BATCH_LIMITS if size < replica.max_running]
    for size in limits:
        key = (id(replica), size)
        if key not in ground.limited:
            built = build_replica(
                question,
                replica.candidate,
                replica.deployment.with_batch_limit(size),
                workload.calls,
                kv_budget_fraction=design.policy.kv_budget_fraction,
                busier=replica,
            )
            ground.limited[key] = built if isinstance(built, Replica) else None
        limited = ground.limited[key]
        if limited is not None:
            yield limited


def _search_chain(design: Design, index: int, ground: Survey, outcome: Outcome) -> None:
    """Several models on one GPU kind: a pool each, chosen together (see `chain`)."""
    question = design.question
    *_, final = ground.pools[index]
    pools = [
        list(_fitting(rows, index, outcome, record=model == final))
        for model, rows in ground.pools[index].items()
    ]
    if not all(pools):
        return
    outcome.considered["evaluated"] += sum(len(pool) for pool in pools)
    for tp in sorted({replica.deployment.tensor_parallel for replica in pools[-1]}):
        last = [r for r in pools[-1] if r.deployment.tensor_parallel == tp]
        chosen = best_pools(
            question,
            design.policy,
            design.objective,
            question.candidates[index],
            (*pools[:-1], last),
        )
        if chosen is None:
            outcome.miss(index, _slow(last[0]))
            continue
        replicas, needs, purchase = chosen
        option = Option(
            candidate=question.candidates[index],
            replicas=replicas,
            needs=needs,
            purchase=purchase,
            objective=design.objective,
        )
        _keep(question, index, option, outcome)
