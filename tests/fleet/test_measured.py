"""Sizing from load tests: the published figures, the laws, and why a run is not the one copied."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws.parts import CALIBRATION, ENGINE, gpu
from tonnage.errors import InputError, UsageError
from tonnage.evidence import Evidence
from tonnage.fleet import Candidate, Limits, Question, ScenarioPolicy
from tonnage.fleet.measured import MeasuredCopy, MeasuredPlan, plan_measured
from tonnage.hardware import ServerSpec
from tonnage.measurement import Point, Run
from tonnage.measurement.curve import MeasuredCurve, keeps
from tonnage.workload import (
    Batch,
    ClosedLoad,
    Lengths,
    LlmCall,
    Load,
    OpenLoad,
    Promise,
    TokenMix,
    Workload,
)

POLICIES = (
    ScenarioPolicy(name="minimum", headroom_fraction=0, spare_units=0, kv_budget_fraction=0.7),
    ScenarioPolicy(
        name="recommended", headroom_fraction=0.2, spare_units=1, kv_budget_fraction=0.7
    ),
    ScenarioPolicy(name="ideal", headroom_fraction=0.3, spare_units=2, kv_budget_fraction=0.65),
)
SERVER = ServerSpec(
    name="box",
    title="box",
    vendor="made up",
    gpu="big",
    gpus=8,
    nvlink_domain_gpus=8,
    rack_units=8,
    power_watts=10e3,
)
BOX = Candidate(
    gpu=gpu(), server=SERVER, calibration=CALIBRATION, whole_servers=True, usd_per_gpu_hour=2.0
)
TTFT = Promise(metric="ttft", percentile=95, limit_s=1.0)
CALL = LlmCall(
    name="answer",
    model="model",
    mix=TokenMix(prompt=Lengths.constant(1000), output=Lengths.constant(200)),
)


def rate(peak: float) -> OpenLoad:
    return OpenLoad(requests_per_s_mean=peak, requests_per_s_peak=peak)


def question(load: Load | None, *promises: Promise, limits: Limits | None = None) -> Question:
    return Question(
        name="question",
        workload=Workload(calls=(CALL,), load=load, promises=promises),
        models={},
        candidates=(BOX,),
        engine=ENGINE,
        policies=POLICIES,
        limits=limits or Limits(),
    )


def copy(*points: Point, gpus: int = 8, name: str = "run", on: Candidate | None = BOX):
    run = Run(name=name, tool="tool", gpus=gpus, gpu="big", points=points)
    return MeasuredCopy(
        run=run, file=name, gpus=gpus, candidate=on, curve=MeasuredCurve(run.points)
    )


def level(concurrency: int, requests_per_s: float, ttft_p95_s: float) -> Point:
    return Point(
        concurrency=concurrency, requests_per_s=requests_per_s, ttft_p95_s=ttft_p95_s, requests=1000
    )


def servers(plan: MeasuredPlan, name="minimum") -> int:
    found = plan.scenario(name).purchase.servers
    assert found is not None
    return found


# ── published figures (NVIDIA DLI, Sizing LLM Inference Systems) ────────────────────────────────


def test_31_requests_a_second_at_2_4_a_server_take_13_servers():
    plan = plan_measured(question(rate(31), TTFT), [copy(level(24, 2.4, 0.9))])
    assert servers(plan) == 13
    assert plan.scenario("minimum").copies == 13


def test_70_7_prompts_a_second_on_one_server_are_679_thousand_daily_users():
    plan = plan_measured(
        question(rate(70.7), TTFT),
        [copy(level(100, 70.7, 0.49), level(200, 80.1, 1.2))],
        requests_per_user_per_day=3,
        active_s_per_day=8 * 3600,
    )
    assert servers(plan) == 1
    assert plan.daily_requests == pytest.approx(2.036e6, rel=1e-4)
    assert plan.daily_users == 678_720


# ── runs compared ───────────────────────────────────────────────────────────────────────────────

TP2 = copy(level(8, 2.0, 0.5), level(16, 3.0, 0.9), level(32, 4.0, 2.0), gpus=2, name="tp2")
TP4 = copy(level(8, 3.0, 0.3), level(32, 5.0, 0.9), level(64, 8.0, 1.1), gpus=4, name="tp4")


@pytest.mark.parametrize("runs", [(TP2, TP4), (TP4, TP2)])
def test_the_arrangement_that_carries_more_per_server_wins_and_the_other_says_by_how_much(runs):
    """Four copies of 3 requests/s on a server of TP2, two of 5 of TP4: 12 against 10."""
    plan = plan_measured(question(rate(100), TTFT), runs)
    assert plan.chosen is not None
    assert plan.chosen.copy is TP2
    assert plan.chosen.best.concurrency == 16
    assert [each.requests_per_s_per_server for each in plan.options] == [12, 10]
    # 120 requests/s with headroom: 10 servers and a spare, 12 and a spare
    assert [each.purchase.servers for each in plan.options] == [11, 13]
    (beaten,) = plan.plan.rejections
    assert beaten.option == "tp4 (4 × big)"
    assert "takes 13 servers against 11" in beaten.reason
    assert "costs 208.00 > 176.00 usd/h" in beaten.reason


def test_a_looser_limit_may_turn_the_choice():
    plan = plan_measured(question(rate(100), replace(TTFT, limit_s=1.1)), [TP2, TP4])
    assert plan.chosen is not None
    assert plan.chosen.copy is TP4
    assert plan.chosen.requests_per_s_per_server == 16


def test_a_run_that_did_not_measure_what_is_promised_is_refused_and_told_of():
    blind = copy(Point(concurrency=4, requests_per_s=9.0, ttft_p50_s=0.1), name="blind")
    plan = plan_measured(question(rate(10), TTFT), [blind, TP2])
    assert plan.chosen is not None
    assert plan.chosen.copy is TP2
    (refused,) = plan.plan.rejections
    assert refused.bottleneck == "measurement"
    assert refused.reason.startswith("TTFT p95 is promised, and was not measured. It has its p50")
    with pytest.raises(InputError, match="TTFT p95 is promised") as raised:
        plan_measured(question(rate(10), TTFT), [blind])
    assert raised.value.file == "blind"


def test_a_promise_that_nobody_made_is_not_asked_of_a_run_that_did_not_measure_it():
    assumed = Promise(metric="tpot", percentile=95, limit_s=0.2, evidence=Evidence.ASSUMED)
    plan = plan_measured(question(rate(10), TTFT, assumed), [TP2])
    assert plan.chosen is not None
    assert plan.chosen.promises == (TTFT,)
    assert "unchecked_promise" in {alert.id for alert in plan.plan.alerts}
    slow = replace(TP2.run.points[0], tpot_p95_s=0.3)
    plan = plan_measured(question(rate(10), TTFT, assumed), [copy(slow)])
    assert plan.chosen is None


def test_no_level_within_the_limits_is_no_answer_and_says_which_limit_would_do():
    plan = plan_measured(question(rate(10), replace(TTFT, limit_s=0.2)), [TP2, TP4])
    assert plan.chosen is None
    assert plan.plan.infeasible is not None
    assert plan.plan.infeasible.closest == "tp4 (4 × big) at TTFT p95 300 ms"
    (change,) = plan.plan.infeasible.relaxations
    assert change.key == "promises.ttft.p95"
    limit_s = float(change.value)
    assert plan_measured(question(rate(10), replace(TTFT, limit_s=limit_s)), [TP2, TP4]).chosen


def test_a_stated_limit_is_kept_and_the_smallest_that_would_do_is_told():
    limits = Limits(max_gpus=80)
    plan = plan_measured(question(rate(100), TTFT, limits=limits), [TP2, TP4])
    assert plan.plan.infeasible is not None
    (change,) = plan.plan.infeasible.relaxations
    assert (change.key, change.value) == ("limits.gpus", 88)
    assert {each.bottleneck for each in plan.plan.rejections} == {"limits"}
    raised = Limits(max_gpus=88)
    assert plan_measured(question(rate(100), TTFT, limits=raised), [TP2, TP4]).chosen


# ── what is bought ──────────────────────────────────────────────────────────────────────────────


def test_on_hardware_that_nobody_knows_copies_are_counted():
    plan = plan_measured(question(rate(31), TTFT), [copy(level(24, 2.4, 0.9), gpus=3, on=None)])
    scenario = plan.scenario("recommended")
    assert (scenario.copies, scenario.purchase.gpus) == (17, 51)  # 37.2 / 2.4 = 15.5, one spare
    assert scenario.purchase.servers is scenario.purchase.usd_per_hour is None
    assert plan.plan.objective == "gpus"


def test_a_copy_larger_than_a_server_spans_whole_ones():
    plan = plan_measured(question(rate(10), TTFT), [copy(level(9, 5.0, 0.9), gpus=12)])
    assert servers(plan) == 4
    assert servers(plan, "recommended") == 3 * 2 + 2


def test_a_lost_server_takes_its_copies_and_beyond_what_was_measured_nothing_is_promised():
    plan = plan_measured(question(rate(12), TTFT), [TP2])
    minimum, recommended = plan.scenario("minimum"), plan.scenario("recommended")
    assert (minimum.copies_for_load, minimum.copies, minimum.survives_servers) == (4, 4, 0)
    assert minimum.latency_one_lost is None
    assert (recommended.copies, recommended.survives_servers) == (12, 2)
    assert recommended.latency is not None
    assert recommended.latency.percentiles["ttft_p95_s"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("load", "copies"),
    [
        (ClosedLoad(clients=33), 3),  # 16 in flight keep the promise: 33 take three copies
        (ClosedLoad(clients=46, think_time_s=10), 1),  # 16 + 3.0 × 10
        (ClosedLoad(clients=47, think_time_s=10), 2),
        (ClosedLoad(clients=93, think_time_s=10.3), 3),  # 46.9: no copy holds a part of a client
        (Batch(requests=36_000, deadline_s=3600), 4),  # 10 requests/s at 3 each
    ],
)
def test_clients_and_batches_are_carried_too(load, copies):
    plan = plan_measured(question(load, TTFT), [TP2])
    assert plan.scenario("minimum").copies_for_load == copies


def test_resident_sessions_are_not_sized_from_a_load_test():
    with pytest.raises(UsageError, match="memory"):
        plan_measured(question(None), [TP2])


def test_a_chain_of_calls_is_refused():
    asked = question(rate(1), TTFT)
    chain = replace(asked, workload=replace(asked.workload, calls=(CALL, CALL)))
    with pytest.raises(UsageError, match="chain"):
        plan_measured(chain, [TP2])


@pytest.mark.parametrize("sound", [True, False])
def test_levels_that_would_do_but_prove_nothing_are_told_of(sound):
    unsteady = replace(level(4, 4.0, 0.2), stable=False)
    late = replace(level(8, 8.0, 0.3), client_bound=True)
    lost = replace(level(9, 9.0, 0.3), failed=1)
    slow = level(16, 9.0, 3.0)
    first = level(1, 1.0, 0.1)
    run = copy(*([first] if sound else []), unsteady, late, lost, slow)
    plan = plan_measured(question(rate(1), TTFT), [run]).plan
    assert (plan.infeasible is None) == sound
    (alert,) = [alert for alert in plan.alerts if alert.id == "unproved_levels"]
    assert f"2 of {4 + sound} levels of run keep the promises" in alert.cause
    assert "unstable" in alert.cause
    assert "client-bound" in alert.cause


def test_levels_that_carry_no_more_than_the_chosen_one_are_not_worth_a_word():
    run = copy(replace(level(1, 1.0, 0.1), stable=False), level(2, 2.0, 0.2))
    plan = plan_measured(question(rate(1), TTFT), [run]).plan
    assert "unproved_levels" not in {alert.id for alert in plan.alerts}


def test_a_curve_of_other_lengths_or_another_model_is_warned_of():
    points = [replace(p, input_tokens_mean=1000, output_tokens_mean=230) for p in TP2.run.points]
    other = copy(*points, gpus=2)
    alerts = plan_measured(question(rate(1), TTFT), [other]).plan.alerts
    (lengths,) = [alert for alert in alerts if alert.id == "other_lengths"]
    assert "answers of 230 tokens, not 200" in lengths.cause
    named = replace(other, run=replace(other.run, model="other"))
    alerts = plan_measured(question(rate(1), TTFT), [named]).plan.alerts
    assert "other_model" in {alert.id for alert in alerts}
    near = copy(*(replace(p, output_tokens_mean=215) for p in TP2.run.points))
    alerts = plan_measured(question(rate(1), TTFT), [near]).plan.alerts
    assert "other_lengths" not in {alert.id for alert in alerts}


# ── laws ────────────────────────────────────────────────────────────────────────────────────────

RUNS = st.lists(
    st.builds(
        lambda points, gpus, name: copy(*points, gpus=gpus, name=name),
        st.lists(
            st.builds(
                level, st.integers(1, 256), st.floats(0.05, 50), st.sampled_from([0.2, 0.5, 1, 2])
            ),
            min_size=1,
            max_size=6,
        ),
        st.sampled_from([1, 2, 3, 4, 8, 16]),
        st.text("abc", min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=3,
)
LOADS = st.floats(0.1, 500)
LIMITS = st.sampled_from([0.5, 1.0, 2.0])


def sized(runs, load: float, limit_s: float) -> MeasuredPlan:
    return plan_measured(question(rate(load), replace(TTFT, limit_s=limit_s)), runs)


def gpus(plan: MeasuredPlan) -> float:
    """Of the design scenario; no number is enough where no level keeps the promise."""
    return plan.chosen.purchase.gpus if plan.chosen else math.inf


@given(RUNS, LOADS, LIMITS, st.floats(1, 3))
def test_more_load_never_takes_fewer(runs, load, limit_s, factor):
    assert gpus(sized(runs, load, limit_s)) <= gpus(sized(runs, load * factor, limit_s))


@given(RUNS, LOADS)
def test_a_looser_limit_never_takes_more(runs, load):
    bought = [gpus(sized(runs, load, limit_s)) for limit_s in (0.5, 1.0, 2.0)]
    assert bought == sorted(bought, reverse=True)


@given(RUNS, LOADS, LIMITS)
def test_the_level_copied_keeps_the_limits_and_no_sound_one_that_does_carries_more(
    runs, load, limit_s
):
    plan = sized(runs, load, limit_s)
    promise = replace(TTFT, limit_s=limit_s)
    for option in plan.options:
        assert keeps(option.best, promise)
        rivals = [p for p in option.copy.curve.points if keeps(p, promise)]
        assert max(p.requests_per_s or 0 for p in rivals) == option.best.requests_per_s


@given(RUNS, LOADS, LIMITS)
def test_what_is_bought_carries_the_load_with_headroom_and_its_spares_lost(runs, load, limit_s):
    plan = sized(runs, load, limit_s)
    if plan.chosen is None:
        return
    for scenario in plan.scenarios:
        policy = scenario.policy
        needed = load * (1 + policy.headroom_fraction)
        assert scenario.purchase.gpus >= scenario.copies * plan.chosen.copy.gpus
        assert scenario.copies * plan.chosen.carries >= needed * (1 - 1e-9)
        assert (scenario.survives_servers or 0) >= policy.spare_units
