"""What is true of every purchase: whole units, no more than needed, spares that do their job."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.laws.parts import (
    CALIBRATION,
    POLICIES,
    candidate,
    closed_loads,
    dense,
    deployment,
    gpu,
    lengths,
    mix,
    open_loads,
    p95,
    question,
    server,
)
from tonnage.fleet import Plan, ScenarioPolicy
from tonnage.fleet.plan import plan_fleet
from tonnage.fleet.purchase import Need, buy, most_within, replicas_per_server
from tonnage.performance.memory import memory_budget, sequence_kv_bytes_per_gpu
from tonnage.performance.roofline import tabulate
from tonnage.queueing import TrafficClass
from tonnage.queueing.closed_form import ClosedForm
from tonnage.workload import ClosedLoad, OpenLoad

MODEL = dense(layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14_336, vocab=128_256)
PROMISES = st.sampled_from([(), p95(ttft=0.5), p95(ttft=0.5, tpot=0.02), p95(e2e=6.0)])
MIXES = st.sampled_from(
    [mix(1000, 200), mix(lengths(2000, 0.5), lengths(300, 1.0)), mix(200, lengths(400, 0.5))]
)


def planned(load, promises, mix, *, whole, policies=POLICIES, **changes) -> Plan:
    return plan_fleet(
        question(
            load,
            promises,
            model=MODEL,
            lengths=mix,
            candidates=(candidate(whole_servers=whole),),
            policies=policies,
            **{"tensor_parallel": (1, 2), "pipeline_parallel": (1,), **changes},
        )
    )


# ── scenarios ───────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60)
@given(load=open_loads | closed_loads, promises=PROMISES, mix=MIXES, whole=st.booleans())
def test_each_scenario_holds_at_least_what_the_one_before_holds(load, promises, mix, whole):
    plan = planned(load, promises, mix, whole=whole)
    assume(len(plan.scenarios) == 3)
    minimum, recommended, ideal = plan.scenarios
    assert minimum.gpus <= recommended.gpus <= ideal.gpus
    assert minimum.replicas <= recommended.replicas <= ideal.replicas
    assert minimum.survives_replicas <= recommended.survives_replicas
    for scenario, spare in zip(plan.scenarios, (0, 1, 2), strict=True):
        survived = scenario.survives_servers if whole else scenario.survives_replicas
        assert survived is not None
        assert survived >= spare


@settings(max_examples=60)
@given(
    load=open_loads | closed_loads,
    whole=st.booleans(),
    headroom=st.floats(0, 1),
    more=st.floats(0, 1),
    spare=st.integers(0, 3),
)
def test_more_headroom_and_more_spares_never_take_fewer_gpus(load, whole, headroom, more, spare):
    def gpus(headroom: float, spare: int) -> int:
        policy = ScenarioPolicy(
            name="recommended",
            headroom_fraction=headroom,
            spare_units=spare,
            kv_budget_fraction=0.7,
        )
        plan = planned(load, p95(ttft=0.5), mix(1000, 200), whole=whole, policies=(policy,))
        return plan.scenario("recommended").gpus

    assert gpus(headroom, spare) <= gpus(headroom + more, spare) <= gpus(headroom + more, spare + 1)


@settings(max_examples=60)
@given(load=open_loads | closed_loads, promises=PROMISES, mix=MIXES, whole=st.booleans())
def test_with_the_spare_units_lost_every_promise_still_holds(load, promises, mix, whole):
    """N + k worked out again from the deployment alone, at the stated peak."""
    plan = planned(load, promises, mix, whole=whole)
    for scenario in plan.scenarios:
        (pool,) = scenario.pools
        budget = memory_budget(
            pool.deployment, kv_budget_fraction=scenario.policy.kv_budget_fraction
        )
        one = sequence_kv_bytes_per_gpu(pool.deployment, mix.resident_tokens_mean)
        curve = ClosedForm(
            tabulate(pool.deployment, CALIBRATION),
            (TrafficClass(name="answer", weight=1, mix=mix),),
            max_running=int(min(pool.deployment.max_batch_size, budget.kv_bytes / one)),
            kv_limit=budget.kv_bytes / one,
        )
        per_unit = 8 // pool.deployment.gpus if whole else 1
        left = pool.replicas - scenario.policy.spare_units * per_unit
        assert left >= 1
        if isinstance(load, OpenLoad):
            share: OpenLoad | ClosedLoad = OpenLoad(
                requests_per_s_mean=load.requests_per_s_mean / left,
                requests_per_s_peak=load.requests_per_s_peak / left,
            )
        else:
            share = replace(load, clients=-(-load.clients // left))
        assert curve.keeps(share, promises) is None
        found = curve.at(share).percentiles
        for promise in promises:
            value = found[f"{promise.metric}_p95_s"]
            assert value is not None
            assert value <= promise.limit_s * 1.001


@settings(max_examples=25)
@given(load=open_loads | closed_loads, promises=PROMISES, mix=MIXES, whole=st.booleans())
def test_the_same_question_has_the_same_answer(load, promises, mix, whole):
    assert planned(load, promises, mix, whole=whole) == planned(load, promises, mix, whole=whole)


# ── buying ──────────────────────────────────────────────────────────────────────────────────────

needs = st.builds(
    lambda tp, pp, load, more: Need(
        deployment=deployment(MODEL, tensor_parallel=tp, pipeline_parallel=pp),
        for_load=load,
        with_headroom=load + more,
    ),
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4]),
    load=st.integers(1, 100),
    more=st.integers(0, 30),
)
spares = st.integers(0, 3)
sizes = st.sampled_from([1, 2, 4, 8])


@given(need=needs, spare=spares, usd=st.floats(0.1, 20))
def test_rented_singly_a_spare_is_one_replica(need, spare, usd):
    bought = buy(candidate(usd_per_gpu_hour=usd), (need,), spare)
    assert bought.replicas == (need.with_headroom + spare,)
    assert bought.gpus == bought.replicas[0] * need.deployment.gpus
    assert bought.usd_per_hour == bought.gpus * usd
    assert bought.power_watts == bought.gpus * 700


@given(need=needs, spare=spares, gpus=sizes)
def test_bought_whole_servers_are_as_few_as_hold_the_replicas(need, spare, gpus):
    owned = candidate(whole_servers=True, server=server(gpus=gpus))
    bought = buy(owned, (need,), spare)
    size = need.deployment.gpus
    assert isinstance(bought.servers, int)
    assert bought.gpus == bought.servers * gpus
    held = gpus // size
    span = max(-(-size // gpus), 1)
    assert replicas_per_server(owned, need.deployment) == held

    def holds(servers: int) -> int:
        fit: int = servers * held or servers // span
        return fit

    assert bought.servers_with_headroom is not None
    assert bought.servers_for_load is not None
    assert holds(bought.servers_with_headroom) >= need.with_headroom
    assert holds(bought.servers_with_headroom - 1) < need.with_headroom
    assert holds(bought.servers_for_load) >= need.for_load > holds(bought.servers_for_load - 1)
    # every replica that stands in the servers bought runs, and k lost servers leave enough
    assert bought.replicas == (holds(bought.servers),)
    lost = spare * max(held, 1)
    assert bought.replicas[0] - lost >= need.with_headroom


@given(need=needs, spare=spares, whole=st.booleans(), gpus=st.integers(1, 2000))
def test_what_a_number_of_gpus_holds_is_buying_turned_round(need, spare, whole, gpus):
    owned = candidate(whole_servers=whole)

    def within(count: int) -> bool:
        just = replace(need, for_load=count, with_headroom=count)
        return bool(buy(owned, (just,), spare).gpus <= gpus)

    most = most_within(owned, need.deployment, gpus, spare)
    if most >= 1:
        assert within(most)
    assert not within(max(most, 0) + 1)


@given(first=needs, second=needs, spare=spares)
def test_pools_share_servers_and_never_take_more_than_apart(first, second, spare):
    owned = candidate(whole_servers=True)
    together = buy(owned, (first, second), spare)
    apart = [buy(owned, (need,), 0) for need in (first, second)]
    span = max(-(-need.deployment.gpus // 8) for need in (first, second))
    assert together.servers is not None
    assert together.servers <= sum(each.servers or 0 for each in apart) + spare * span
    used = sum(need.with_headroom * need.deployment.gpus for need in (first, second))
    assert (together.servers - spare * span) * 8 >= used
    assert together.replicas == (first.with_headroom, second.with_headroom)


def test_a_card_without_a_known_server_is_counted_in_gpus():
    owned = candidate(gpu(power_watts=None), server=None)
    need = Need(deployment=deployment(MODEL), for_load=3, with_headroom=4)
    bought = buy(owned, (need,), 1)
    assert (bought.gpus, bought.servers, bought.power_watts) == (5, None, None)
