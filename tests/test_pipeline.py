"""The whole tool from a study to a plan: what only shows when the parts are put together."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import tonnage
from tonnage.errors import TonnageError, UsageError
from tonnage.evidence import Evidence
from tonnage.fleet import Plan, StatedFleet
from tonnage.study.loader import study_from_overrides

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZED = sorted(path.name for path in EXAMPLES.glob("*.yaml"))


@pytest.fixture(scope="module")
def catalog():
    return tonnage.Catalog.load()


def told(**changes: object) -> tonnage.Study:
    """A small study by its keys; `__` stands for the dot."""
    base: dict[str, object] = {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "workload__users__registered": 20_000,
        "workload__prompt": "1000 tokens",
        "workload__answer": "200 tokens",
        "promises__ttft__p95": "1 s",
        "hardware__gpus": ["L40S"],
    }
    kept = {key: value for key, value in {**base, **changes}.items() if value is not None}
    return study_from_overrides({key.replace("__", "."): value for key, value in kept.items()})


def gpus(plan: Plan) -> int:
    return plan.scenario("recommended").gpus


# ── examples ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", SIZED)
def test_every_example_has_an_answer_that_keeps_its_promises(name):
    plan = tonnage.size(EXAMPLES / name)
    assert plan.infeasible is None
    # a batch run again the next night may have scenarios alike, but never shrinking ones
    assert all(a.gpus <= b.gpus for a, b in pairwise(plan.scenarios))
    for scenario in plan.scenarios:
        for promise in plan.question.workload.promises:
            assert scenario.latency is not None
            value = scenario.latency.percentiles.get(f"{promise.metric}_p{promise.percentile:g}_s")
            assert value is not None
            assert value <= promise.limit_s * 1.001
    assert all(r.change is None or r.change.verified for r in plan.rejections)


def test_a_path_a_study_and_a_question_are_the_same_question(catalog):
    path = EXAMPLES / "support-chatbot.yaml"
    study = tonnage.load_study(path)
    by_path, by_study = tonnage.size(path), tonnage.size(study, catalog)
    by_question = tonnage.size(study.question(catalog))
    assert by_path == by_study
    assert by_question == replace(by_study, sensitivities=())


def test_another_process_gives_the_same_answer():
    """Nothing hangs on hashes, order of files or time."""
    code = (
        "import tonnage, sys;"
        "p = tonnage.size(sys.argv[1]);"
        "print(repr((p.scenarios, p.rejections, p.sensitivities)))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code, str(EXAMPLES / "support-chatbot.yaml")],
            capture_output=True,
            check=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


# ── sensitivities ───────────────────────────────────────────────────────────────────────────────


def test_assumed_figures_are_tried_at_half_and_one_and_a_half(catalog):
    study = told()
    plan = tonnage.size(study, catalog)
    assumed = {
        i.key
        for i in plan.question.inputs
        if i.evidence is Evidence.ASSUMED and i.value is not None
    }
    assert {s.key for s in plan.sensitivities} == assumed
    assert "workload.users.active_at_peak" in assumed
    swings = [
        max(abs((n if n is not None else 10**9) - gpus(plan)) for n in (s.gpus_low, s.gpus_high))
        for s in plan.sensitivities
    ]
    assert swings == sorted(swings, reverse=True)
    assert {s.gpus_base for s in plan.sensitivities} == {gpus(plan)}


@pytest.mark.parametrize(
    "key",
    ["workload.users.active_at_peak", "workload.users.requests_per_active_user_per_hour"],
)
def test_more_of_what_loads_the_fleet_never_needs_less(catalog, key):
    plan = tonnage.size(told(workload__users__registered=500_000), catalog)
    found = {s.key: s for s in plan.sensitivities}[key]
    assert found.gpus_low is not None
    assert found.gpus_high is not None
    assert found.gpus_low < gpus(plan) < found.gpus_high


def test_a_sensitivity_is_the_plan_with_that_figure_stated(catalog):
    study = told(workload__users__registered=500_000, hardware__tensor_parallel=1)
    plan = tonnage.size(study, catalog)
    key = "workload.users.active_at_peak"
    found = {s.key: s for s in plan.sensitivities}[key]
    assert plan.deployment is not None
    share = next(i.value for i in plan.question.inputs if i.key == key)
    assert share is not None
    fixed = study.with_value("engine.weight_dtype", plan.deployment.weight_dtype)
    fixed = fixed.with_value("engine.kv_dtype", plan.deployment.kv_dtype)
    half, more = (
        gpus(tonnage.size(fixed.with_value(key, share * factor), catalog)) for factor in (0.5, 1.5)
    )
    assert (found.gpus_low, found.gpus_high) == (half, more)


# ── directions ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "light", "heavy"),
    [
        ("workload__users__registered", 200_000, 800_000),
        ("workload__prompt", "500 tokens", "4000 tokens"),
        ("workload__answer", "100 tokens", "600 tokens"),
        ("promises__ttft__p95", "3 s", "300 ms"),
        ("scenarios__recommended__headroom", "0 %", "80 %"),
        ("scenarios__recommended__spare", 0, 3),
        ("memory__kv_budget_fraction", "80 %", "30 %"),
    ],
)
def test_asking_for_more_takes_more(catalog, key, light, heavy):
    fixed = {"workload__users__registered": 400_000, "hardware__tensor_parallel": 1}
    few, many = (
        gpus(tonnage.size(told(**{**fixed, key: each}), catalog)) for each in (light, heavy)
    )
    assert few <= many
    if key != "memory__kv_budget_fraction":
        assert few < many


# ── the question turned round ───────────────────────────────────────────────────────────────────


def test_a_fleet_carries_what_it_was_sized_for(catalog):
    study = told(workload__users__registered=400_000)
    plan = tonnage.size(study, catalog)
    assert plan.deployment is not None
    recommended = plan.scenario("recommended")
    fleet = StatedFleet(
        text="mine",
        units=recommended.gpus,
        name="L40S",
        tensor_parallel=plan.deployment.tensor_parallel,
    )
    found = tonnage.capacity(study, fleet, catalog)
    load = plan.question.workload.load
    assert found.requests_per_s is not None
    assert found.requests_per_s >= load.requests_per_s_peak * 1.2  # type: ignore[union-attr]
    assert found.gpus == recommended.gpus
    assert found.servers is None


def test_a_named_server_is_counted_whole(catalog):
    study = told(hardware__gpus=["H100-SXM"])
    found = tonnage.capacity(study, StatedFleet(text="", units=2, name="DGX-H100"), catalog)
    assert (found.gpus, found.servers) == (16, 2)


def test_capacity_answers_for_one_model(catalog):
    study = tonnage.load_study(EXAMPLES / "moderated-assistant.yaml")
    with pytest.raises(UsageError, match="one model"):
        tonnage.capacity(study, StatedFleet(text="", units=1, name="DGX-H100"), catalog)


def test_a_fleet_of_nothing_known_is_refused(catalog):
    with pytest.raises(TonnageError):
        tonnage.capacity(told(), StatedFleet(text="", units=1, name="no such thing"), catalog)
