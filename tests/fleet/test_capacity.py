"""What a fleet carries is sizing turned round."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tonnage
from tests.laws.parts import BARE, candidate, dense, gpu, lengths, mix, p95, question, rate
from tonnage.fleet import Capacity, Question, StatedFleet
from tonnage.fleet.capacity import capacity_of
from tonnage.workload import poisson_percentile

MODEL = dense(layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14_336, vocab=128_256)
MIX = mix(lengths(2000, 0.5), lengths(300, 0.8))
SINGLE = candidate()
WHOLE = candidate(whole_servers=True)
FIXED = {
    "pipeline_parallel": (1,),
    "weight_dtypes": ("bf16",),
    "kv_dtypes": ("bf16",),
}


def asked(load, promises=(), owned=SINGLE, **changes) -> Question:
    told = {"model": MODEL, "lengths": MIX, "candidates": (owned,), **FIXED, **changes}
    return question(load, promises, **told)


def fleet(units: int, tensor_parallel: int | None = 1) -> StatedFleet:
    return StatedFleet(text="mine", units=units, name="big", tensor_parallel=tensor_parallel)


def carried(question: Question, units: int, owned=SINGLE, **told) -> Capacity:
    return capacity_of(question, owned, fleet(units, **told))


@pytest.mark.parametrize("promises", [(), p95(ttft=0.5), p95(ttft=1.0, e2e=9.0)])
@pytest.mark.parametrize(("owned", "units"), [(SINGLE, 6), (WHOLE, 3)])
@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_a_fleet_carries_its_capacity_and_a_larger_one_a_little_more(
    promises, owned, units, tensor_parallel
):
    told = asked(rate(1.0), promises, owned, tensor_parallel=(tensor_parallel,))
    found = carried(told, units, owned, tensor_parallel=tensor_parallel)
    assert found.starts
    assert found.requests_per_s is not None

    def gpus(requests_per_s: float) -> int:
        load = replace(told.workload, load=rate(requests_per_s))
        return tonnage.size(replace(told, workload=load)).scenario("recommended").gpus

    assert gpus(found.requests_per_s * 0.9999) == found.gpus
    assert gpus(found.requests_per_s * 1.001) > found.gpus


def test_figures_of_a_capacity_agree_with_each_other():
    told = asked(rate(1.0), p95(ttft=0.25))
    found = capacity_of(
        told, SINGLE, fleet(6), requests_per_user_per_day=5, active_s_per_day=36_000.0
    )
    assert found.requests_per_s is not None
    assert found.daily_requests is not None
    assert found.daily_requests == pytest.approx(found.requests_per_s * 36_000)
    assert found.daily_users == int(found.daily_requests / 5)
    assert found.output_tokens_per_s == pytest.approx(found.requests_per_s * 300)
    assert found.latency is not None
    in_flight = (found.latency.running + found.latency.waiting) * found.replicas
    assert found.concurrency == round(in_flight)
    first = found.latency.percentiles["ttft_p95_s"]
    assert first is not None
    assert first <= 0.25 * 1.001
    assert found.binding == "wait"


def test_the_mean_rate_is_the_one_whose_peak_fits():
    found = carried(asked(rate(1.0), p95(ttft=0.5)), 6)
    assert found.requests_per_s is not None
    assert found.requests_per_s_mean is not None
    assert poisson_percentile(found.requests_per_s_mean * 0.999, 95) <= found.requests_per_s
    assert poisson_percentile(found.requests_per_s_mean * 1.001, 95) > found.requests_per_s


def test_sessions_are_what_sizing_needs_as_many_gpus_for():
    told = asked(None, sessions=1, context_tokens=20_000.0, tensor_parallel=(1,))
    found = carried(told, 6)
    assert found.requests_per_s is None
    assert found.latency is None
    assert found.sessions is not None

    def gpus(sessions: int) -> int:
        more = replace(told.workload, sessions=sessions)
        return tonnage.size(replace(told, workload=more)).scenario("recommended").gpus

    assert gpus(found.sessions) == 6
    assert gpus(found.sessions + 1) == 7


def test_the_largest_context_fits_and_a_longer_one_does_not():
    small = candidate(gpu("small", memory_bytes=24e9))
    told = asked(None, owned=small, sessions=1, context_tokens=1000.0, tensor_parallel=(1,))
    found = carried(told, 1, small)
    assert found.largest_context_tokens is not None
    for tokens, fits in (
        (found.largest_context_tokens, True),
        (found.largest_context_tokens + 32, False),
    ):
        longer = replace(told.workload, context_tokens=float(tokens))
        plan = tonnage.size(replace(told, workload=longer))
        assert (plan.infeasible is None) is fits


def test_too_few_gpus_do_not_start_and_say_why():
    large = dense(layers=80, hidden=8192, heads=64, kv_heads=8, intermediate=28_672)
    told = asked(rate(1.0), model=large)
    short = carried(told, 1, tensor_parallel=1)
    assert not short.starts
    assert "short on each GPU" in short.reason
    assert short.requests_per_s is None
    few = carried(told, 2, tensor_parallel=None)
    assert not few.starts
    assert "GPUs in one replica, there are 2" in few.reason


def test_a_promise_nobody_keeps_leaves_a_fleet_that_starts_and_carries_nothing():
    found = carried(asked(rate(1.0), p95(ttft=0.001)), 4)
    assert found.starts
    assert found.requests_per_s is None
    assert "keeps no promise" in found.reason


def test_other_arrangements_of_the_same_gpus_are_shown():
    found = carried(asked(rate(1.0), p95(ttft=0.5)), 8, tensor_parallel=None)
    assert found.deployment is not None
    shown = {a.deployment.tensor_parallel for a in found.alternatives}
    assert found.deployment.tensor_parallel not in shown
    assert shown | {found.deployment.tensor_parallel} >= {1, 2, 4, 8}
    for alternative in found.alternatives:
        if alternative.starts:
            assert alternative.replicas * alternative.deployment.gpus <= 8


def test_twice_the_fleet_carries_twice_as_much():
    told = asked(rate(1.0), p95(ttft=0.5), policies=(BARE,))
    one, two = carried(told, 4), carried(told, 8)
    assert one.requests_per_s is not None
    assert two.requests_per_s == pytest.approx(2 * one.requests_per_s)
    assert one.sessions is not None
    assert two.sessions == 2 * one.sessions


def test_where_only_a_smaller_batch_keeps_tpot_capacity_is_up_to_5_percent_low():
    """Sizing may limit the calls at once to keep tokens fast; a fleet is judged as it is."""
    told = asked(rate(1.0), p95(tpot=0.02), tensor_parallel=(1,))
    found = carried(told, 6)
    assert found.requests_per_s is not None
    load = replace(told.workload, load=rate(found.requests_per_s * 1.05))
    assert tonnage.size(replace(told, workload=load)).scenario("recommended").gpus > 6
