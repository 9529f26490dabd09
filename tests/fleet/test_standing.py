"""Today's fleet: where it stands among the scenarios, on the plan's GPU and on another."""

from __future__ import annotations

import pytest

import tonnage
from tests.laws.parts import POLICIES, candidate, dense, gpu, mix, p95, question, rate, server
from tonnage.fleet import ExistingFleet, Plan, Standing

MODEL = dense(layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14_336, vocab=128_256)
NEW = candidate(gpu("new"), whole_servers=True, usd_per_gpu_hour=1.0)
OLD = candidate(
    gpu("old", hbm_bytes_per_s=1e12, dense_flop_per_s={"bf16": 2e14}),
    whole_servers=True,
    usd_per_gpu_hour=2.0,
    server=server("old-box", of="old"),
)


def today(kind: str, units: int) -> Plan:
    return tonnage.size(
        question(
            rate(300.0),
            p95(ttft=1.0),
            model=MODEL,
            lengths=mix(1000, 200),
            candidates=(NEW, OLD),
            policies=POLICIES,
            existing=ExistingFleet(gpu=kind, server="box", units=units, gpus=8 * units),
        )
    )


def standing(plan: Plan) -> Standing:
    assert plan.standing is not None
    return plan.standing


def test_nothing_is_said_without_a_fleet():
    plan = tonnage.size(question(rate(10.0), model=MODEL))
    assert plan.standing is None


def test_below_minimum_on_the_same_gpu():
    plan = today("new", 0)
    assert plan.deployment is not None
    assert plan.deployment.gpu.name == "new"
    wanted = plan.scenario("recommended")
    found = standing(plan)
    assert (found.reaches, found.add_servers, found.add_gpus) == (None, wanted.servers, wanted.gpus)
    assert "below minimum" in found.sentence


@pytest.mark.parametrize("name", ["minimum", "recommended", "ideal"])
def test_what_a_scenario_buys_reaches_it(name):
    bought = today("new", 0).scenario(name)
    assert bought.servers is not None
    found = standing(today("new", bought.servers))
    assert found.reaches == name
    wanted = today("new", 0).scenario("recommended").servers
    assert wanted is not None
    assert found.add_gpus == max(wanted - bought.servers, 0) * 8
    assert found.existing_servers == bought.servers
    if name == "recommended":
        assert found.sentence.endswith("nothing to add")
    assert found.latency is not None
    assert bought.latency is not None
    assert found.latency.percentiles == pytest.approx(bought.latency.percentiles)


def test_on_another_gpu_it_is_judged_in_its_own_best_arrangement():
    plan = today("old", 1)
    assert plan.deployment is not None
    assert plan.deployment.gpu.name == "new"
    found = standing(plan)
    alone = tonnage.size(
        question(
            rate(300.0),
            p95(ttft=1.0),
            model=MODEL,
            lengths=mix(1000, 200),
            candidates=(OLD,),
            policies=POLICIES,
        )
    )
    assert found.add_gpus == alone.scenario("recommended").gpus - 8
    assert "staying on old; the plan chose new" in found.sentence


def test_a_gpu_that_is_no_candidate_is_not_compared():
    found = standing(today("unknown", 3))
    assert found.reaches is None
    assert found.add_servers is None
    assert "cannot keep these promises" in found.sentence
