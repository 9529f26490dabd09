"""A chain of calls over several models -> one pool of replicas per model, chosen together.

The promise covers the chain, so slower replicas of one model can be paid for with faster ones of
another. Percentiles of the calls are added (exact when calls are slow together, an upper bound
otherwise), each pool offers a front of (GPUs, seconds), and the fronts are combined exhaustively.
A closed load becomes the highest rate its clients could reach, which overstates it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from tonnage.fleet.purchase import Need, Purchase, buy
from tonnage.fleet.replica import Replica, replicas_for, scaled_load, share_of
from tonnage.workload import ClosedLoad, Load, OpenLoad, Promise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tonnage.fleet import Candidate, Objective, Question, ScenarioPolicy

DENSEST, FASTEST = 6, 3  # arrangements kept per pool: most capacity per GPU, lowest latency
GROWTH = 1.15  # replica counts tried above the smallest stable one
STEPS = 10
STABLE_UTILISATION = 0.95


@dataclass(frozen=True, slots=True)
class _Point:
    """So many replicas of one arrangement, and what they add to each promise of the chain."""

    replica: Replica
    need: Need
    gpus: int
    seconds: tuple[float, ...]


def best_pools(
    question: Question,
    policy: ScenarioPolicy,
    objective: Objective,
    candidate: Candidate,
    pools: Sequence[Sequence[Replica]],
) -> tuple[tuple[Replica, ...], tuple[Need, ...], Purchase] | None:
    """The cheapest combination of pools that keeps every promise, or None."""
    workload = question.workload
    load = as_open(workload.load, pools)
    chain = tuple(p for p in workload.promises if p.metric != "tpot")
    fronts: list[list[_Point]] = []
    for index, replicas in enumerate(pools):
        final = index == len(pools) - 1
        front: list[_Point] = []
        for replica in _worth_trying(replicas):
            front.extend(_points(question, policy, replica, load, chain, final=final))
        fronts.append(_pareto(front))
    best: tuple[tuple[float, ...], tuple[_Point, ...], Purchase] | None = None
    for combination in product(*fronts):
        if any(
            sum(point.seconds[i] for point in combination) + workload.network_s > promise.limit_s
            for i, promise in enumerate(chain)
        ):
            continue
        needs = tuple(point.need for point in combination)
        purchase = buy(candidate, needs, policy.spare_units)
        key = (
            purchase.value(objective),
            float(sum(point.gpus for point in combination)),
            *(sum(point.seconds[i] for point in combination) for i in range(len(chain))),
        )
        if best is None or key < best[0]:
            best = (key, combination, purchase)
    if best is None:
        return None
    _, combination, purchase = best
    return (
        tuple(point.replica for point in combination),
        tuple(point.need for point in combination),
        purchase,
    )


def as_open(load: Load | None, pools: Sequence[Sequence[Replica]]) -> Load | None:
    """`load`, a closed one turned into the highest open rate its clients could reach."""
    if not isinstance(load, ClosedLoad):
        return load
    fastest = 0.0
    for replicas in pools:
        alone = [
            r.curve.chain_s(_light(r), 50, last="e2e") for r in replicas if r.curve is not None
        ]
        fastest += min(alone, default=0.0)
    rate = load.clients / max(fastest + load.think_time_s, 1e-9)
    return OpenLoad(requests_per_s_mean=rate, requests_per_s_peak=rate)


def _light(replica: Replica) -> OpenLoad:
    assert replica.curve is not None  # noqa: S101 — callers have a load
    rate = replica.curve.capacity_requests_per_s() * 1e-6
    return OpenLoad(requests_per_s_mean=rate, requests_per_s_peak=rate)


def _worth_trying(replicas: Sequence[Replica]) -> list[Replica]:
    """The arrangements with most capacity per GPU, and the fastest ones."""
    loaded = [r for r in replicas if r.curve is not None]

    def density(replica: Replica) -> float:
        assert replica.curve is not None  # noqa: S101 — filtered above
        return -replica.curve.capacity_requests_per_s() / replica.deployment.gpus

    def latency(replica: Replica) -> float:
        assert replica.curve is not None  # noqa: S101 — filtered above
        return float(replica.curve.decode_s[0])

    chosen = sorted(loaded, key=density)[:DENSEST] + sorted(loaded, key=latency)[:FASTEST]
    return list({id(replica): replica for replica in chosen}.values())


def _points(
    question: Question,
    policy: ScenarioPolicy,
    replica: Replica,
    load: Load | None,
    chain: tuple[Promise, ...],
    *,
    final: bool,
) -> list[_Point]:
    """Rising replica counts of one arrangement that are stable and keep TPOT."""
    own = tuple(p for p in question.workload.promises if p.metric == "tpot" and final)
    sessions = question.workload.sessions if final else None
    factor = 1 + policy.headroom_fraction
    for_load = replicas_for(replica, load, own, sessions)
    fewest = replicas_for(
        replica, scaled_load(load, factor), own, None if sessions is None else sessions * factor
    )
    if for_load is None or fewest is None:
        return []
    if not isinstance(load, OpenLoad):
        need = Need(deployment=replica.deployment, for_load=for_load, with_headroom=fewest)
        return [_Point(replica, need, fewest * replica.deployment.gpus, tuple(0.0 for _ in chain))]
    curve = replica.curve
    assert curve is not None  # noqa: S101 — there is a load
    scaled = scaled_load(load, factor)
    assert isinstance(scaled, OpenLoad)  # noqa: S101 — scaling keeps the kind
    points = []
    count = fewest
    for _ in range(STEPS):
        share = share_of(scaled, count)
        rate = share.requests_per_s_peak if isinstance(share, OpenLoad) else 0.0
        if rate < STABLE_UTILISATION * curve.capacity_requests_per_s():
            seconds = tuple(
                curve.chain_s(share, p.percentile, last=p.metric if final else "e2e") for p in chain
            )
            need = Need(
                deployment=replica.deployment,
                for_load=max(for_load, math.ceil(count / factor)),
                with_headroom=count,
            )
            points.append(_Point(replica, need, count * replica.deployment.gpus, seconds))
            if len(points) > 1 and all(
                now > 0.99 * before for now, before in zip(seconds, points[-2].seconds, strict=True)
            ):
                break
        count = max(count + 1, math.ceil(count * GROWTH))
    return points


def _pareto(points: list[_Point]) -> list[_Point]:
    """Points that no other beats in GPUs and in every promise."""
    kept: list[_Point] = []
    for point in sorted(points, key=lambda p: (p.gpus, p.seconds)):
        if not any(
            all(a <= b for a, b in zip(other.seconds, point.seconds, strict=True)) for other in kept
        ):
            kept.append(point)
    return kept
