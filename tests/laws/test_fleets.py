"""What is true of any fleet: more asked is never cheaper, less is never dearer, nothing is missed.

Kept small so that every law can be tried on many questions: one dense model, one or two GPU kinds,
few arrangements. The exactness law asks every arrangement, batch limit and replica count in turn.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.laws.parts import (
    BARE,
    candidate,
    closed_loads,
    dense,
    gpu,
    lengths,
    mix,
    open_loads,
    p95,
    question,
    rate,
)
from tonnage.fleet import Candidate, Objective, Question
from tonnage.fleet.purchase import Need, buy
from tonnage.fleet.replica import (
    Replica,
    build_replica,
    calls_of,
    least_replicas,
    replicas_for,
    share_of,
)
from tonnage.fleet.search import BATCH_LIMITS, Design, Option, arrangements, search
from tonnage.workload import ClosedLoad, OpenLoad

MODEL = dense(layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14_336, vocab=128_256)
BIG = candidate(gpu("big"), usd_per_gpu_hour=3.0)
SMALL = candidate(
    gpu("small", memory_bytes=24e9, hbm_bytes_per_s=8e11, dense_flop_per_s={"bf16": 1.2e14}),
    usd_per_gpu_hour=0.6,
)
MOST_REPLICAS = 60
FEW: dict[str, Any] = {
    "tensor_parallel": (1, 2),
    "pipeline_parallel": (1,),
    "weight_dtypes": ("bf16",),
    "kv_dtypes": ("bf16",),
}

promises = st.builds(
    lambda ttft, tpot, e2e: p95(
        **{k: v for k, v in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)) if v}
    ),
    ttft=st.sampled_from([0.0, 0.2, 0.5, 2.0]),
    tpot=st.sampled_from([0.0, 0.012, 0.02, 0.05]),
    e2e=st.sampled_from([0.0, 0.0, 8.0]),
)
short_mixes = st.builds(
    lambda prompt, output, cv: mix(lengths(prompt, cv), lengths(output, cv)),
    prompt=st.sampled_from([200, 1000, 3000]),
    output=st.sampled_from([50, 200, 500]),
    cv=st.sampled_from([0.0, 0.7]),
)
loads = open_loads | closed_loads


def asked(load, promises, mix, candidates=(BIG,), **changes) -> Question:
    return question(
        load, promises, model=MODEL, lengths=mix, candidates=candidates, **{**FEW, **changes}
    )


def best(question: Question, objective="gpus", policy=BARE) -> Option | None:
    return search(Design(question=question, policy=policy, objective=objective)).best()


def price(option: Option | None) -> float:
    return math.inf if option is None else option.purchase.value(option.objective)


def replicas_of(question: Question, candidate: Candidate) -> list[Replica]:
    """Every arrangement of `candidate` that fits."""
    model = question.workload.calls[-1].model
    built = [
        build_replica(
            question, candidate, deployment, calls_of(question, model), kv_budget_fraction=0.7
        )
        for deployment, conflict in arrangements(question, candidate, question.models[model])
        if conflict is None
    ]
    return [row for row in built if isinstance(row, Replica)]


# ── counts of one deployment ────────────────────────────────────────────────────────────────────


@given(load=loads, promises=promises, mix=short_mixes)
def test_the_lower_bound_is_one_and_the_count_is_the_fewest(load, promises, mix):
    for replica in replicas_of(asked(load, promises, mix), BIG):
        bound = least_replicas(replica, load, promises, None)
        found = replicas_for(replica, load, promises, None)
        assert replica.curve is not None
        if found is None:
            continue
        assert bound is not None
        assert 1 <= bound <= found
        assert replica.curve.keeps(share_of(load, found), promises) is None
        if found > 1:
            assert replica.curve.keeps(share_of(load, found - 1), promises) is not None
        assert replicas_for(replica, load, promises, None, at_most=found) == found
        if found > 1:
            assert replicas_for(replica, load, promises, None, at_most=found - 1) is None


@given(load=open_loads, promises=promises, mix=short_mixes, more=st.floats(1.0, 5.0))
def test_more_load_never_needs_fewer_replicas_of_one_deployment(load, promises, mix, more):
    heavier = rate(load.requests_per_s_peak * more)
    for replica in replicas_of(asked(load, promises, mix), BIG):
        few = replicas_for(replica, load, promises, None)
        many = replicas_for(replica, heavier, promises, None)
        if many is not None:
            assert few is not None
            assert few <= many


@given(load=closed_loads, promises=promises, mix=short_mixes, more=st.integers(0, 500))
def test_more_clients_never_need_fewer_replicas(load, promises, mix, more):
    heavier = replace(load, clients=load.clients + more)
    for replica in replicas_of(asked(load, promises, mix), BIG):
        few = replicas_for(replica, load, promises, None)
        many = replicas_for(replica, heavier, promises, None)
        if few is not None and many is not None:
            assert few <= many


@given(clients=st.integers(1, 1000), replicas=st.integers(1, 50))
def test_the_fullest_replica_of_a_closed_load_counts(clients, replicas):
    dealt = [len(range(each, clients, replicas)) for each in range(replicas)]
    assert share_of(ClosedLoad(clients=clients), replicas) == ClosedLoad(clients=max(dealt))


@given(sessions=st.integers(1, 100_000), context=st.integers(100, 100_000))
def test_sessions_are_counted_whole(sessions, context):
    told = asked(None, (), mix(), sessions=sessions, context_tokens=float(context))
    for replica in replicas_of(told, BIG):
        assert replica.sessions is not None
        found = replicas_for(replica, None, (), sessions)
        if replica.sessions == 0:
            assert found is None
            continue
        assert found is not None
        assert found * replica.sessions >= sessions > (found - 1) * replica.sessions


# ── the best of all ─────────────────────────────────────────────────────────────────────────────


@given(load=loads, promises=promises, mix=short_mixes, looser=st.floats(1.0, 4.0))
def test_a_looser_promise_is_never_dearer(load, promises, mix, looser):
    loose = tuple(replace(p, limit_s=p.limit_s * looser) for p in promises)
    assert price(best(asked(load, loose, mix))) <= price(best(asked(load, promises, mix)))


@given(load=loads, promises=promises, mix=short_mixes)
def test_one_promise_less_is_never_dearer(load, promises, mix):
    assume(promises)
    assert price(best(asked(load, promises[1:], mix))) <= price(best(asked(load, promises, mix)))


@given(load=loads, promises=promises, mix=short_mixes)
def test_an_extra_gpu_kind_is_never_dearer(load, promises, mix):
    alone = best(asked(load, promises, mix, (SMALL,)), "cost")
    both = best(asked(load, promises, mix, (SMALL, BIG)), "cost")
    assert price(both) <= price(alone)


@given(load=loads, promises=promises, mix=short_mixes, more=st.floats(1.0, 3.0))
def test_more_load_is_never_cheaper(load, promises, mix, more):
    heavier = (
        rate(load.requests_per_s_peak * more)
        if isinstance(load, OpenLoad)
        else replace(load, clients=math.ceil(load.clients * more))
    )
    assert price(best(asked(heavier, promises, mix))) >= price(best(asked(load, promises, mix)))


def cheaper_fleet(question: Question, objective: Objective, than: float) -> str | None:
    """The first fleet that costs less and keeps the promises, of all there are; None if none does.

    Every deployment at every batch limit, with one replica, two, three … until it costs as much.
    """
    load, promises = question.workload.load, question.workload.promises
    assert isinstance(load, OpenLoad | ClosedLoad)
    for owned in question.candidates:
        for full in replicas_of(question, owned):
            for limit in (full.deployment.max_batch_size, *BATCH_LIMITS):
                built = build_replica(
                    question,
                    owned,
                    full.deployment.with_batch_limit(min(limit, full.deployment.max_batch_size)),
                    question.workload.calls,
                    kv_budget_fraction=0.7,
                )
                assert isinstance(built, Replica)
                assert built.curve is not None
                for count in range(1, MOST_REPLICAS):
                    need = Need(deployment=full.deployment, for_load=count, with_headroom=count)
                    if buy(owned, (need,), 0).value(objective) >= than:
                        break
                    if built.curve.keeps(share_of(load, count), promises) is None:
                        return f"{count} × {built.deployment.describe()} of {limit} at once"
    return None


@settings(max_examples=150)
@given(
    load=st.floats(1, 100).map(rate) | st.integers(1, 300).map(lambda n: ClosedLoad(clients=n)),
    promises=promises,
    mix=short_mixes,
    objective=st.sampled_from(["cost", "gpus", "power"]),
    whole=st.booleans(),
)
def test_no_enumeration_finds_a_cheaper_fleet(load, promises, mix, objective, whole):
    """With nothing found at all, up to 60 replicas of everything are tried."""
    owned = tuple(replace(each, whole_servers=whole) for each in (SMALL, BIG))
    stored = ("bf16", "fp8")
    told = asked(load, promises, mix, owned, weight_dtypes=stored, kv_dtypes=stored)
    assert cheaper_fleet(told, objective, price(best(told, objective))) is None
