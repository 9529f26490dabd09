"""A plan that a simulation decides: how many, what failures leave, and what it cannot decide."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws.parts import (
    IDEAL,
    MINIMUM,
    POLICIES,
    RECOMMENDED,
    candidate,
    dense,
    gpu,
    lengths,
    mix,
    p95,
    question,
    rate,
)
from tonnage.engine import StepModel
from tonnage.fleet import Limits, Plan, ProofProgress, Question
from tonnage.fleet.plan import plan_fleet
from tonnage.fleet.proof import COUNTED_TWICE, prove
from tonnage.fleet.rejections import with_promise
from tonnage.fleet.trials import AGAIN, PART_REPLICAS, TrialAsked, run_trial
from tonnage.report.build import report_plan
from tonnage.report.json import render_json
from tonnage.workload import Batch, ClosedLoad, LlmCall, OpenLoad, Promise

STEPS = StepModel(base_s=0.01, per_prefill_token_s=3e-5, per_sequence_s=2e-4, per_kv_token_s=1e-8)
SINGLE = candidate()
WHOLE = candidate(whole_servers=True)
PROMISES = p95(ttft=0.5, tpot=0.02)
FEW = 1000


def asked(load, promises=PROMISES, **changes) -> Question:
    told = {
        "lengths": mix(lengths(600, 0.5), lengths(60, 0.8)),
        "weight_dtypes": ("bf16",),
        "kv_dtypes": ("bf16",),
        "tensor_parallel": (2,),
        "pipeline_parallel": (1,),
        "step_model": STEPS,
        "candidates": (SINGLE,),
    }
    return question(load, promises, **{**told, **changes})


def proven(told: Question, **options) -> Plan:
    return prove(told, **{"requests": FEW, "compiled": False, **options})


@cache
def all_three() -> Plan:
    return proven(asked(rate(40), policies=POLICIES))


@cache
def in_servers() -> Plan:
    return proven(asked(rate(100), policies=POLICIES, candidates=(WHOLE,)))


def trial_of(told: Question, replicas: int, *, requests: int = FEW, seed: int = 0):
    plan = plan_fleet(told)
    assert plan.deployment is not None
    return run_trial(
        TrialAsked(
            question=told,
            candidate=told.candidates[0],
            deployment=plan.deployment,
            kv_budget_fraction=None,
            requests=requests,
            seed=seed,
            compiled=False,
        ),
        replicas,
    )


# ── how many ────────────────────────────────────────────────────────────────────────────────────


def test_the_fewest_replicas_are_found_that_a_simulation_keeps():
    plan = all_three()
    assert plan.proof is not None
    assert plan.proof.verdict == "kept"
    (option,) = plan.proof.options
    verdicts = {trial.replicas: trial.verdict for trial in option.tried}
    assert option.replicas == min(count for count, verdict in verdicts.items() if verdict == "kept")
    assert verdicts[option.replicas - 1] != "kept"
    scenario = plan.scenario("recommended")
    assert scenario.replicas == option.replicas + RECOMMENDED.spare_units
    assert option.closed_form_gpus == plan_fleet(plan.question).scenario("recommended").gpus


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_every_scenario_keeps_its_promises_with_its_reserves(policy):
    scenario = all_three().scenario(policy.name)
    assert scenario.proof is not None
    design = scenario.proof.design
    assert design.verdict == "kept"
    assert isinstance(design.load, OpenLoad)
    assert design.load.requests_per_s_peak == pytest.approx(40 * (1 + policy.headroom_fraction))
    assert design.replicas == scenario.replicas - policy.spare_units


def test_a_promise_that_is_kept_is_kept_by_its_interval():
    for scenario in all_three().scenarios:
        assert scenario.proof is not None
        for each in scenario.proof.design.summary.attainments:
            assert each.verdict == "kept"
            assert each.reached is not None
            assert (each.reached.high or each.reached.value) <= each.promise.limit_s


@settings(max_examples=5)
@given(st.floats(5, 60), st.floats(1.0, 2.0))
def test_more_load_never_needs_fewer_replicas(requests_per_s, more):
    counts = []
    for factor in (1.0, more):
        plan = proven(asked(rate(requests_per_s * factor)), requests=500)
        counts.append(plan.scenario("recommended").replicas)
    assert counts[0] <= counts[1]


def test_servers_bought_whole_are_filled_and_fail_whole():
    for scenario in in_servers().scenarios:
        proof = scenario.proof
        assert proof is not None
        assert proof.unit == "server"
        assert proof.design.replicas % 4 == 0  # of two GPUs each
        assert proof.stated.replicas == scenario.replicas
        left = [0 if trial is None else trial.replicas for trial in proof.lost]
        assert left == [max(scenario.replicas - 4 * lost, 0) for lost in (1, 2)]


def test_the_option_that_wins_is_the_least_of_those_simulated():
    small = gpu("small", memory_bytes=40e9, hbm_bytes_per_s=1e12)
    both = (SINGLE, candidate(small, usd_per_gpu_hour=1.9))
    plan = proven(asked(rate(40), candidates=both))
    assert plan.proof is not None
    simulated = {each.gpu: each for each in plan.proof.options}
    assert simulated.keys() == {"big", "small"}  # as fast by the step model, and cheaper
    assert plan.deployment is not None
    assert plan.deployment.gpu.name == "small"
    assert plan.scenario("recommended").gpus == simulated["small"].gpus


def test_an_option_that_cannot_win_is_not_simulated():
    dear = candidate(gpu("dear"), usd_per_gpu_hour=40.0)
    plan = proven(asked(rate(40), candidates=(SINGLE, dear)))
    assert plan.proof is not None
    (lost,) = (each for each in plan.proof.options if each.gpu == "dear")
    assert lost.tried == ()
    assert lost.verdict is None
    assert any(each.gpu == "dear" and "not simulated" in each.reason for each in plan.rejections)


# ── what failures leave ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("plan", [all_three, in_servers])
def test_what_survives_is_what_a_simulation_keeps(plan):
    for scenario in plan().scenarios:
        assert scenario.proof is not None
        units = (
            scenario.survives_servers
            if scenario.proof.unit == "server"
            else scenario.survives_replicas
        )
        for lost, trial in enumerate(scenario.proof.lost, start=1):
            kept = trial is not None and trial.verdict == "kept"
            assert kept == (units >= lost)


def test_the_latency_of_a_scenario_is_the_simulated_one():
    for scenario in all_three().scenarios:
        assert scenario.proof is not None
        (pool,) = scenario.pools
        trials = (scenario.proof.stated, *scenario.proof.lost)
        shown = (pool.latency, pool.latency_one_lost, pool.latency_two_lost)
        for trial, figures in zip(trials, shown, strict=True):
            assert (figures is None) == (trial is None)
            if trial is not None and figures is not None:
                assert figures.percentiles == trial.latency.percentiles
                assert figures.utilisation > 0


def test_a_remainder_that_does_not_keep_up_says_by_how_much():
    trial = trial_of(asked(rate(200)), 1)
    assert trial.verdict == "missed"
    assert not trial.summary.stability.stable
    assert trial.summary.stability.growth_requests_per_s > 50
    assert set(trial.latency.percentiles.values()) == {None}


# ── loads ───────────────────────────────────────────────────────────────────────────────────────


def test_a_poisson_peak_is_simulated_at_its_mean_and_chance_is_counted_once():
    load = OpenLoad(requests_per_s_mean=20, requests_per_s_peak=40)
    at_mean = proven(asked(load), poisson_peak=True)
    at_peak = proven(asked(load))
    counts = []
    for plan, requests_per_s in ((at_mean, 20), (at_peak, 40)):
        proof = plan.scenario("recommended").proof
        assert proof is not None
        assert isinstance(proof.stated.load, OpenLoad)
        assert proof.stated.load.requests_per_s_peak == requests_per_s
        assert proof.stated.summary.offered_requests_per_s == pytest.approx(
            requests_per_s * proof.stated.simulated_replicas / proof.stated.replicas, rel=0.1
        )
        counts.append(plan.scenario("recommended").replicas)
    assert counts[0] < counts[1]
    assert at_mean.question.workload.load == load
    assert at_mean.proof is not None
    assert any("counted twice" in note for note in at_mean.proof.notes)
    assert COUNTED_TWICE not in {alert.id for alert in at_mean.alerts}


def test_clients_that_wait_are_simulated_as_such():
    plan = proven(asked(ClosedLoad(clients=100), p95(tpot=0.02), policies=(RECOMMENDED,)))
    proof = plan.scenario("recommended").proof
    assert proof is not None
    assert proof.design.verdict == "kept"
    assert proof.design.load == ClosedLoad(clients=120)


def test_a_batch_is_proven_by_when_it_is_done():
    told = asked(Batch(requests=4000, deadline_s=60), ())
    plan = proven(told)
    proof = plan.scenario("recommended").proof
    assert proof is not None
    assert proof.design.finish_s is not None
    assert proof.design.finish_s.high is not None
    assert proof.design.finish_s.high <= 60
    fewer = trial_of(told, proof.design.replicas - 1, requests=4000)
    assert fewer.finish_s is not None
    assert fewer.finish_s.value > proof.design.finish_s.value


def test_a_batch_goes_on_at_the_rate_that_was_simulated():
    told = asked(Batch(requests=20_000, deadline_s=600), ())
    whole, part = (trial_of(told, 2, requests=count) for count in (20_000, 4000))
    assert part.summary.arrived < whole.summary.arrived
    assert whole.finish_s is not None
    assert part.finish_s is not None
    assert part.finish_s.value == pytest.approx(whole.finish_s.value, rel=0.05)


def test_a_batch_of_which_too_little_is_simulated_is_unresolved():
    told = asked(Batch(requests=20_000, deadline_s=600), ())
    assert trial_of(told, 2, requests=20).verdict == "unresolved"


def test_of_a_large_fleet_a_part_is_simulated_and_fares_alike():
    replicas = PART_REPLICAS + 8
    part = trial_of(asked(rate(12.0 * replicas)), replicas)
    whole = trial_of(asked(rate(12.0 * PART_REPLICAS)), PART_REPLICAS)
    assert (part.replicas, part.simulated_replicas) == (replicas, PART_REPLICAS)
    assert part.latency == whole.latency


# ── what cannot be decided ──────────────────────────────────────────────────────────────────────


def test_too_few_requests_prove_nothing_and_it_says_what_to_do():
    rare = (Promise(metric="ttft", percentile=99, limit_s=0.5),)
    plan = proven(
        asked(rate(40), rare), requests=5
    )  # of 80 none may be late, and it proves nothing
    assert plan.proof is not None
    assert plan.proof.verdict == "unresolved"
    assert f"--requests {AGAIN[-1] * 5}" in plan.proof.advice
    assert all(each.verdict == "unresolved" for each in plan.proof.options)


def test_where_a_promise_is_unresolved_more_requests_are_simulated():
    rare = (Promise(metric="ttft", percentile=99, limit_s=0.5),)
    told = asked(rate(10), rare)
    assert trial_of(told, 4, requests=50).summary.counted > 50
    assert trial_of(asked(rate(10), p95(ttft=0.5)), 4, requests=500).summary.counted == 500


CHAIN = dense(layers=8)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (asked(None, (), sessions=10, context_tokens=1000.0), "without a load"),
        (
            replace(
                chain := asked(rate(1), p95(ttft=5)),
                workload=replace(
                    chain.workload, calls=(replace(chain.workload.calls[0], repeats=2),)
                ),
            ),
            "single calls",
        ),
        (
            replace(
                chain,
                models={**chain.models, "other": replace(CHAIN, name="other")},
                workload=replace(
                    chain.workload,
                    calls=(LlmCall(name="first", model="other", mix=mix()), *chain.workload.calls),
                ),
                tensor_parallel=(),
                step_model=None,
            ),
            "several models",
        ),
    ],
)
def test_what_the_simulator_does_not_know_is_answered_in_closed_form_and_said(told, why):
    plan = proven(told)
    assert plan.proof is not None
    assert plan.proof.verdict is None
    assert why in plan.proof.unproven
    assert replace(plan, proof=None) == plan_fleet(told)


# ── what would have to change ───────────────────────────────────────────────────────────────────


def test_a_promise_that_nothing_keeps_is_loosened_until_a_simulation_keeps_it():
    told = asked(rate(20), p95(ttft=0.5, tpot=0.005))
    plan = proven(told)
    assert plan.infeasible is not None
    (change,) = (c for c in plan.infeasible.relaxations if c.key == "promises.tpot.p95")
    assert change.simulated
    assert isinstance(change.value, float)
    (_, tpot) = told.workload.promises
    again = proven(with_promise(told, tpot, change.value))
    assert again.proof is not None
    assert again.proof.verdict == "kept"


def test_limits_that_no_simulation_keeps_are_raised_and_the_load_is_lowered():
    needed = proven(asked(rate(25))).scenario("recommended").gpus
    told = asked(rate(25), limits=Limits(max_gpus=needed - 2))
    plan = proven(told)
    assert plan.infeasible is not None
    changes = {change.key: change for change in plan.infeasible.relaxations}
    assert all(change.simulated for change in changes.values())
    assert changes["limits.gpus"].value == needed
    share = changes["workload"].value
    assert isinstance(share, float)
    assert 0.5 <= share < 1
    assert proven(replace(told, limits=Limits(max_gpus=needed))).infeasible is None
    less = replace(told, workload=replace(told.workload, load=rate(25 * share)))
    assert proven(less).infeasible is None


# ── the same answer ─────────────────────────────────────────────────────────────────────────────


def written(plan: Plan) -> str:
    return render_json(report_plan(plan))


def test_an_executor_gives_the_same_bytes_and_another_seed_does_not():
    told = all_three().question
    with ThreadPoolExecutor(2) as executor:
        assert written(proven(told, executor=executor)) == written(all_three())
    assert written(proven(told, seed=1)) != written(all_three())


def test_progress_counts_the_simulations():
    seen: list[ProofProgress] = []
    plan = proven(asked(rate(20), policies=(MINIMUM, RECOMMENDED, IDEAL)), progress=seen.append)
    assert plan.proof is not None
    assert [each.simulations for each in seen] == list(range(plan.proof.simulations))
    assert all("big TP2" in each.now for each in seen)
