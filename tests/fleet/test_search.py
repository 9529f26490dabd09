"""The search: what is ranked how, what it says of those it turned down, odd kinds of question."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tonnage
from tests.laws.parts import POLICIES, candidate, dense, gpu, lengths, mix, p95, question, rate
from tonnage.fleet import Question
from tonnage.fleet.search import Design, objective_of, search
from tonnage.workload import Batch, ClosedLoad, LlmCall, OpenLoad, Promise, Workload

MODEL = dense(layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14_336, vocab=128_256)
GUARD = dense(layers=12, hidden=1024, heads=16, kv_heads=8, intermediate=4096, name="guard")
MIX = mix(lengths(2000, 0.5), lengths(300, 0.8))
CHEAP = candidate(gpu("cheap", hbm_bytes_per_s=1.5e12), usd_per_gpu_hour=1.0)
FAST = candidate(gpu("fast", hbm_bytes_per_s=6e12), usd_per_gpu_hour=4.0)
UNPRICED = candidate(gpu("unpriced", hbm_bytes_per_s=9e12), usd_per_gpu_hour=None)


def asked(load, promises=(), **changes) -> Question:
    told = {"model": MODEL, "lengths": MIX, "policies": POLICIES, **changes}
    return question(load, promises, **told)


# ── ranking ─────────────────────────────────────────────────────────────────────────────────────


def test_the_objective_is_cost_where_every_candidate_has_a_price():
    told = asked(rate(10.0), candidates=(CHEAP, FAST))
    assert objective_of(told) == ("cost", "every candidate has a price")
    objective, why = objective_of(replace(told, candidates=(CHEAP, UNPRICED)))
    assert objective == "gpus"
    assert "unpriced" in why
    assert objective_of(replace(told, objective="power"))[0] == "power"


@pytest.mark.parametrize("objective", ["cost", "gpus", "power"])
def test_no_turned_down_option_beats_the_chosen_one(objective):
    plan = tonnage.size(
        asked(rate(60.0), p95(ttft=1.0), candidates=(CHEAP, FAST), objective=objective)
    )
    chosen = plan.scenario("recommended")
    for rejection in plan.rejections:
        if rejection.gpus is not None and objective == "gpus":
            assert rejection.gpus >= chosen.gpus
        if rejection.usd_per_hour is not None and objective == "cost":
            assert chosen.usd_per_hour is not None
            assert rejection.usd_per_hour >= chosen.usd_per_hour


def test_a_beaten_option_names_the_price_that_would_have_won():
    told = asked(rate(60.0), p95(ttft=1.0), candidates=(CHEAP, FAST), objective="cost")
    plan = tonnage.size(told)
    assert plan.deployment is not None
    assert plan.deployment.gpu.name == "cheap"
    beaten = [r for r in plan.rejections if r.bottleneck == "cost" and r.gpu == "fast"]
    assert beaten
    for rejection in beaten:
        assert rejection.change is not None
        assert rejection.change.verified
        assert isinstance(rejection.change.value, float)
        cheaper = replace(FAST, usd_per_gpu_hour=rejection.change.value)
        alone = tonnage.size(
            replace(told, candidates=(cheaper,), tensor_parallel=(rejection.tensor_parallel,))
        ).scenario("recommended")
        assert alone.gpus == rejection.gpus
        limit = plan.scenario("recommended").usd_per_hour
        assert limit is not None
        assert alone.usd_per_hour is not None
        assert limit * 0.98 <= alone.usd_per_hour <= limit


def test_candidates_without_a_price_are_ranked_apart_under_cost():
    told = asked(rate(60.0), p95(ttft=1.0), candidates=(CHEAP, UNPRICED), objective="cost")
    plan = tonnage.size(told)
    assert plan.deployment is not None
    assert plan.deployment.gpu.name == "cheap"
    assert {r.gpu for r in plan.unpriced} == {"unpriced"}
    assert "unpriced" not in {r.gpu for r in plan.rejections if r.gpus is not None}
    for rejection in plan.unpriced:
        assert rejection.change is not None
        assert isinstance(rejection.change.value, float)
        assert rejection.change.verified
        assert rejection.gpus is not None
        limit = plan.scenario("recommended").usd_per_hour
        assert limit is not None
        assert rejection.change.value * rejection.gpus <= limit


def test_without_any_price_gpus_decide_even_under_cost():
    """Every value is infinite then: fewest GPUs is the next rank, not whatever came first."""
    told = asked(
        rate(60.0),
        p95(ttft=1.0, tpot=0.01),
        candidates=(UNPRICED,),
        tensor_parallel=(1,),
        pipeline_parallel=(1,),
    )
    (policy,) = [p for p in told.policies if p.name == "recommended"]
    by = {
        objective: search(Design(question=told, policy=policy, objective=objective)).best()
        for objective in ("gpus", "cost")
    }
    assert by["cost"] is not None
    assert by["gpus"] is not None
    assert by["cost"].purchase.gpus == by["gpus"].purchase.gpus


def test_everything_looked_at_is_counted():
    told = asked(rate(20.0), p95(ttft=1.0), candidates=(CHEAP, FAST))
    plan = tonnage.size(told)
    assert set(plan.considered) <= {
        "memory",
        "arrangement",
        "promises",
        "bounded",
        "evaluated",
        "limits",
    }
    assert sum(plan.considered.values()) > 0
    groups = {(r.gpu, r.tensor_parallel) for r in plan.rejections}
    assert len(groups) == len(plan.rejections)
    assert plan.deployment is not None
    assert (plan.deployment.gpu.name, plan.deployment.tensor_parallel) not in groups


# ── kinds of question ───────────────────────────────────────────────────────────────────────────


def test_memory_alone_has_no_latency_and_no_speed():
    plan = tonnage.size(asked(None, sessions=500, context_tokens=20_000.0))
    for scenario in plan.scenarios:
        assert scenario.latency is None
        assert scenario.pools[0].latency is None
        assert scenario.usd_per_million_output_tokens is None
    by_name = {constraint.name: constraint for constraint in plan.constraints}
    assert by_name["throughput"].slack is None
    assert by_name["wait"].slack is None
    recommended = plan.scenario("recommended")
    each = recommended.memory.sessions_per_server
    assert each is not None
    assert recommended.servers is not None
    assert recommended.servers * each >= 500 * 1.2


def test_sessions_beside_a_rate_need_as_many_as_the_larger_of_both():
    def replicas(load, sessions):
        told = asked(load, sessions=sessions, context_tokens=20_000.0, **one)
        return tonnage.size(told).scenario("minimum").replicas

    one = {
        "tensor_parallel": (1,),
        "pipeline_parallel": (1,),
        "weight_dtypes": ("bf16",),
        "kv_dtypes": ("bf16",),
    }
    by_memory, by_rate = replicas(None, 500), replicas(rate(60.0), None)
    assert replicas(rate(60.0), 500) == max(by_memory, by_rate)
    assert replicas(rate(600.0), 500) == replicas(rate(600.0), None) > by_memory


def test_a_batch_is_done_by_its_deadline():
    night = Batch(requests=100_000, deadline_s=8 * 3600)
    plan = tonnage.size(asked(night))
    (pool,) = plan.scenario("minimum").pools
    assert pool.latency is None
    throughput = next(c for c in plan.constraints if c.name == "throughput")
    assert throughput.used == pytest.approx(1.2 * 100_000 / (8 * 3600))
    assert throughput.available is not None
    assert throughput.used is not None
    assert throughput.available >= throughput.used
    half = tonnage.size(asked(replace(night, deadline_s=night.deadline_s / 200)))
    assert half.scenario("minimum").gpus > plan.scenario("minimum").gpus


def chain(load: OpenLoad | ClosedLoad, *promises: Promise, names=("a", "b", "a")) -> Question:
    models = {"a": replace(GUARD, name="a"), "b": replace(MODEL, name="b")}
    calls = tuple(
        LlmCall(name=f"{i}", model=name, mix=MIX if name == "b" else mix(400, 20))
        for i, name in enumerate(names)
    )
    told = asked(load, candidates=(candidate(whole_servers=True),))
    return replace(
        told,
        models={name: models[name] for name in dict.fromkeys(names)},
        workload=Workload(calls=calls, load=load, promises=promises),
    )


def test_a_chain_of_two_models_has_a_pool_for_each():
    plan = tonnage.size(chain(rate(20.0), *p95(ttft=3.0, e2e=15.0)))
    assert plan.infeasible is None
    for scenario in plan.scenarios:
        assert [pool.model for pool in scenario.pools] == ["b", "a"]
        assert scenario.latency is not None
        for metric, limit in (("ttft", 3.0), ("e2e", 15.0)):
            value = scenario.latency.percentiles[f"{metric}_p95_s"]
            assert value is not None
            assert value <= limit * 1.001
    recommended = plan.scenario("recommended")
    assert recommended.survives_servers == 1
    used = sum(pool.replicas * pool.deployment.gpus for pool in recommended.pools)
    assert recommended.gpus >= used


def test_every_call_of_a_chain_counts():
    """The small model is called twice in A, B, A: the chain is slower by just those calls."""
    load = rate(5.0)
    with_last = tonnage.size(chain(load, *p95(e2e=20.0)))
    without = tonnage.size(chain(load, *p95(e2e=20.0), names=("a", "b")))
    longer = with_last.scenario("ideal").latency
    shorter = without.scenario("ideal").latency
    assert longer is not None
    assert shorter is not None
    assert (longer.percentiles["e2e_p50_s"] or 0) > (shorter.percentiles["e2e_p50_s"] or 0)


def test_a_chain_under_a_closed_load_serves_the_rate_its_clients_could_reach():
    plan = tonnage.size(chain(ClosedLoad(clients=40, think_time_s=5.0), *p95(e2e=30.0)))
    assert plan.infeasible is None
    latency = plan.scenario("minimum").latency
    assert latency is not None
    rates = latency.requests_per_s * plan.scenario("minimum").replicas
    assert 0 < rates <= 40 / 5.0
