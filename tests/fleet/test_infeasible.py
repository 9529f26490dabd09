"""Nothing keeps the promises: what is said, and every change that is offered tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tonnage
from tests.laws.parts import (
    POLICIES,
    candidate,
    dense,
    gpu,
    lengths,
    mix,
    p95,
    question,
    rate,
)
from tonnage.fleet import Change, Limits, Plan, Question
from tonnage.workload import Batch, ClosedLoad

MODEL = dense(layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14_336, vocab=128_256)
HUGE = dense(layers=80, hidden=16_384, heads=128, kv_heads=8, intermediate=53_248)
MIX = mix(lengths(2000, 0.5), lengths(300, 0.8))
ONE_GPU = {"tensor_parallel": (1,), "pipeline_parallel": (1,)}


def asked(load, promises=(), **changes) -> Question:
    told = {"model": MODEL, "lengths": MIX, "policies": POLICIES, **changes}
    return question(load, promises, **told)


def feasible(question: Question) -> bool:
    return tonnage.size(question).infeasible is None


def with_limit(question: Question, key: str, limit_s: float) -> Question:
    """The question with the promise that `key` names set to `limit_s`."""
    metric = key.split(".")[1]
    loose = tuple(
        replace(p, limit_s=limit_s) if p.metric == metric else p for p in question.workload.promises
    )
    return replace(question, workload=replace(question.workload, promises=loose))


def relaxations(plan: Plan) -> dict[str, Change]:
    assert plan.infeasible is not None
    assert plan.scenarios == ()
    assert plan.deployment is None
    return {change.key: change for change in plan.infeasible.relaxations}


# ── promises ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "promises",
    [p95(tpot=0.001), p95(ttft=0.01), p95(e2e=0.5), p95(ttft=2.0, tpot=0.001)],
    ids=["tpot", "ttft", "e2e", "tpot beside ttft"],
)
@pytest.mark.parametrize("load", [rate(20.0), ClosedLoad(clients=50)], ids=["open", "closed"])
def test_the_smallest_looser_promise_is_offered_and_true(promises, load):
    told = asked(load, promises)
    plan = tonnage.size(told)
    offered = relaxations(plan)
    assert plan.infeasible is not None
    assert plan.infeasible.closest
    assert plan.infeasible.reason.startswith("nothing among the candidates keeps")
    broken = promises[-1]
    change = offered[f"promises.{broken.metric}.p95"]
    assert change.verified
    assert isinstance(change.value, float)
    assert feasible(with_limit(told, change.key, change.value))
    assert not feasible(with_limit(told, change.key, change.value * 0.98))


def test_promises_that_no_single_change_saves_are_loosened_together():
    told = asked(rate(20.0), p95(ttft=0.01, tpot=0.001))
    offered = relaxations(tonnage.size(told))
    assert offered
    assert all(change.verified for change in offered.values())
    assert not any(key.startswith("promises.ttft") for key in offered)


@pytest.mark.parametrize(
    ("promises", "bottleneck", "metric"),
    [(p95(tpot=0.001), "throughput", "tpot"), (p95(ttft=0.01), "wait", "ttft")],
)
def test_every_rejection_carries_a_change_that_admits_it(promises, bottleneck, metric):
    told = asked(rate(20.0), promises)
    plan = tonnage.size(told)
    assert plan.rejections
    for rejection in plan.rejections:
        assert rejection.bottleneck == bottleneck
        assert rejection.change is not None
        assert rejection.change.verified
        assert isinstance(rejection.change.value, float)
        assert rejection.deployment is not None
        alone = replace(
            with_limit(told, f"promises.{metric}.p95", rejection.change.value),
            tensor_parallel=(rejection.tensor_parallel,),
        )
        assert feasible(alone)


# ── limits ──────────────────────────────────────────────────────────────────────────────────────


def test_too_few_gpus_allowed():
    told = asked(rate(200.0), p95(ttft=1.0), limits=Limits(max_gpus=2))
    plan = tonnage.size(told)
    change = relaxations(plan)["limits.gpus"]
    assert {r.bottleneck for r in plan.rejections} == {"limits"}
    assert all("over the stated limit" in r.reason for r in plan.rejections)
    assert isinstance(change.value, float)
    gpus = int(change.value)
    assert feasible(replace(told, limits=Limits(max_gpus=gpus)))
    assert not feasible(replace(told, limits=Limits(max_gpus=gpus - 1)))


def test_too_little_money_allowed():
    told = asked(rate(200.0), p95(ttft=1.0), limits=Limits(max_usd_per_hour=3.0))
    change = relaxations(tonnage.size(told))["limits.cost"]
    assert isinstance(change.value, float)
    assert feasible(replace(told, limits=Limits(max_usd_per_hour=change.value)))
    assert not feasible(replace(told, limits=Limits(max_usd_per_hour=change.value * 0.98)))


def test_the_largest_load_within_the_limits_is_offered():
    told = asked(rate(200.0), p95(ttft=1.0), limits=Limits(max_gpus=4))
    change = relaxations(tonnage.size(told))["workload"]
    assert isinstance(change.value, float)
    assert 0 < change.value < 1
    within = told.workload
    for factor, answer in ((1.0, True), (1.03, False)):
        less = replace(within, load=rate(200.0 * change.value * factor))
        assert feasible(replace(told, workload=less)) is answer


def test_limits_that_hold_change_nothing():
    told = asked(rate(20.0), p95(ttft=1.0))
    free = tonnage.size(told)
    kept = tonnage.size(replace(told, limits=Limits(max_gpus=free.scenario("recommended").gpus)))
    assert kept.scenarios == free.scenarios


# ── deadlines ───────────────────────────────────────────────────────────────────────────────────


def test_a_deadline_shorter_than_one_answer_is_relaxed():
    told = asked(Batch(requests=1000, deadline_s=0.5))
    change = relaxations(tonnage.size(told))["workload.batch.deadline"]
    assert isinstance(change.value, float)
    for factor, answer in ((1.0, True), (0.98, False)):
        load = Batch(requests=1000, deadline_s=change.value * factor)
        assert feasible(replace(told, workload=replace(told.workload, load=load))) is answer


# ── memory ──────────────────────────────────────────────────────────────────────────────────────


def test_weights_that_fit_nowhere():
    plan = tonnage.size(asked(rate(1.0), model=HUGE, **ONE_GPU, weight_dtypes=("bf16",)))
    assert plan.infeasible is not None
    assert "fits no arrangement" in plan.infeasible.reason
    assert [alert.id for alert in plan.alerts] == ["no_session_fits"]
    (rejection,) = plan.rejections
    assert rejection.bottleneck == "memory"
    assert "short on each GPU" in rejection.reason


def test_a_context_that_fits_nowhere_is_shortened():
    told = asked(None, sessions=10, context_tokens=120_000.0, **ONE_GPU)
    small = candidate(gpu("small", memory_bytes=24e9))
    told = replace(told, candidates=(small,), kv_dtypes=("bf16",), weight_dtypes=("bf16",))
    change = relaxations(tonnage.size(told))["workload.context"]
    assert isinstance(change.value, float)
    for factor, answer in ((1.0, True), (1.02, False)):
        workload = replace(told.workload, context_tokens=change.value * factor)
        assert feasible(replace(told, workload=workload)) is answer


def test_smaller_weights_are_offered_where_they_fit():
    """16 GB of weights in 16 bits leave no room on a card of 16 GB; four bits do."""
    tiny = candidate(gpu("tiny", memory_bytes=16e9))
    told = asked(
        rate(1.0), candidates=(tiny,), **ONE_GPU, weight_dtypes=("bf16",), lengths=mix(500, 100)
    )
    change = relaxations(tonnage.size(told))["engine.weight_dtype"]
    assert change.verified
    assert isinstance(change.value, str)
    assert feasible(replace(told, weight_dtypes=(change.value,)))


def test_a_model_that_fits_on_more_gpus_says_on_how_many():
    told = asked(rate(1.0), model=dense(layers=80, hidden=8192, heads=64, intermediate=28_672))
    plan = tonnage.size(replace(told, weight_dtypes=("bf16",), pipeline_parallel=(1,)))
    alone = next(r for r in plan.rejections if r.tensor_parallel == 1)
    assert alone.bottleneck == "memory"
    assert alone.change is not None
    assert alone.change.verified
    spread = tonnage.size(
        replace(
            told,
            weight_dtypes=("bf16",),
            pipeline_parallel=(1,),
            tensor_parallel=(int(alone.change.value),),
        )
    )
    assert spread.infeasible is None


def test_an_arrangement_that_cannot_be_run_says_why():
    told = asked(rate(1.0), tensor_parallel=(1, 3))
    plan = tonnage.size(told)
    (rejected,) = [r for r in plan.rejections if r.tensor_parallel == 3]
    assert rejected.bottleneck == "arrangement"
    assert "does not divide the 32 attention heads" in rejected.reason
