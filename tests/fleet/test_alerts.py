"""Every alert there is, by a question that deserves it and one that does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import tonnage
import tonnage.fleet.alerts
from tests.laws.parts import (
    GIB,
    IDEAL,
    MINIMUM,
    POLICIES,
    RECOMMENDED,
    candidate,
    dense,
    deployment,
    gpu,
    lengths,
    mix,
    p95,
    question,
    rate,
)
from tonnage.evidence import Evidence
from tonnage.fleet import Plan, Question, StatedInput
from tonnage.performance.memory import memory_budget
from tonnage.workload import DemandStep

MODEL = dense(layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14_336, vocab=128_256)
ONE_GPU = {
    "tensor_parallel": (1,),
    "pipeline_parallel": (1,),
    "weight_dtypes": ("bf16",),
    "kv_dtypes": ("bf16",),
}


def asked(load, promises=(), **changes) -> Question:
    told = {"model": MODEL, "lengths": mix(1000, 200), "policies": POLICIES, **changes}
    return question(load, promises, **told)


def ids(plan: Plan) -> set[str]:
    of_scenarios = {alert.id for scenario in plan.scenarios for alert in scenario.alerts}
    return {alert.id for alert in plan.alerts} | of_scenarios


def quiet(**changes) -> Question:
    """A question with nothing to warn of."""
    return asked(rate(40.0), p95(ttft=0.5), **{**ONE_GPU, "kv_dtypes": ("fp8",), **changes})


def stepped(name: str) -> Question:
    told = quiet()
    step = DemandStep(name=name, formula="", value=1.0, unit="", evidence=Evidence.ASSUMED)
    return replace(told, workload=replace(told.workload, steps=(step,)))


def assumed() -> Question:
    guess = StatedInput(
        key="workload.x", text="10 %", evidence=Evidence.ASSUMED, value=0.1, unit=""
    )
    return quiet(inputs=(guess,))


def context_that_fits(fraction: float) -> Question:
    """One session that fills this share of the memory left by the weights, on one GPU of 40 GB."""
    chip = gpu("middle", memory_bytes=40e9)
    budget = memory_budget(deployment(MODEL, chip, max_batch_size=256), kv_budget_fraction=fraction)
    per_token = MODEL.kv_bytes_per_token("bf16")
    tokens = budget.kv_bytes / per_token - 3000
    return asked(
        None,
        sessions=4,
        context_tokens=tokens,
        candidates=(candidate(chip),),
        max_batched_tokens=8192,
        **ONE_GPU,
    )


CAUSES: dict[str, Callable[[], Question]] = {
    "kv_budget_aggressive": lambda: quiet(policies=(replace(RECOMMENDED, kv_budget_fraction=0.8),)),
    "few_sessions_per_server": lambda: asked(None, sessions=20, context_tokens=100_000.0),
    "many_servers": lambda: quiet(
        candidates=(candidate(whole_servers=True),),
        policies=(replace(RECOMMENDED, spare_units=20),),
    ),
    "closed_form_limit": lambda: asked(rate(900.0), policies=(MINIMUM,), **ONE_GPU),
    "overhead_below_weights": lambda: quiet(runtime_overhead_bytes=8 * GIB),
    "no_price": lambda: quiet(candidates=(candidate(usd_per_gpu_hour=None),), objective="cost"),
    "context_exceeds_model": lambda: asked(rate(1.0), lengths=mix(lengths(60_000, 1.0), 100)),
    "kv_sixteen_bit": lambda: quiet(kv_dtypes=("bf16",)),
    "poisson_counted_twice": partial(stepped, "Poisson peak"),
    "small_scenario_gap": lambda: quiet(
        policies=(
            MINIMUM,
            replace(RECOMMENDED, headroom_fraction=0.0, spare_units=0),
        )
    ),
    "assumed_inputs": assumed,
    "weights_requantised": lambda: asked(rate(400.0), p95(tpot=0.02)),
    "scenario_impossible": partial(context_that_fits, 0.7),
    "no_session_fits": lambda: asked(
        rate(1.0), candidates=(candidate(gpu("tiny", memory_bytes=8e9)),), **ONE_GPU
    ),
}


@pytest.mark.parametrize("alert", CAUSES)
def test_it_is_raised_where_it_is_due(alert):
    plan = tonnage.size(CAUSES[alert]())
    found = [
        a for a in (*plan.alerts, *(a for s in plan.scenarios for a in s.alerts)) if a.id == alert
    ]
    assert found
    for each in found:
        assert each.cause
        assert each.impact
        assert each.action
        assert each.scenario in {"all", "minimum", "recommended", "ideal"}


def test_a_question_with_nothing_to_warn_of_is_left_alone():
    assert ids(tonnage.size(quiet())) == set()


@pytest.mark.parametrize("module", ["alerts", "plan"])
def test_no_alert_is_without_a_test(module):
    source = Path(tonnage.fleet.alerts.__file__).with_name(f"{module}.py")
    written = set(re.findall(r'id="([a-z_]+)"', source.read_text(encoding="utf-8")))
    assert written
    assert written <= set(CAUSES)


def test_a_scenario_that_cannot_be_built_is_missing_from_the_plan():
    plan = tonnage.size(context_that_fits(0.7))
    assert [scenario.name for scenario in plan.scenarios] == ["minimum", "recommended"]
    (alert,) = [a for a in plan.alerts if a.id == "scenario_impossible"]
    assert alert.scenario == "ideal"
    with pytest.raises(KeyError):
        plan.scenario("ideal")
    roomier = tonnage.size(context_that_fits(IDEAL.kv_budget_fraction))
    assert len(roomier.scenarios) == 3


def test_the_price_of_published_weights_is_what_they_take():
    """The alert says how many GPUs 16-bit weights would take: the same question with only those."""
    told = CAUSES["weights_requantised"]()
    (alert,) = [a for a in tonnage.size(told).alerts if a.id == "weights_requantised"]
    published = tonnage.size(replace(told, weight_dtypes=("bf16",)))
    assert f" {published.scenario('recommended').gpus} " in alert.impact
