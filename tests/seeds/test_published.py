"""Figures that others published, reproduced from their inputs; each names its source.

Where a page contradicts its own inputs, the arithmetic is followed and the test says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import tonnage
from tests.laws.parts import GIB, POLICIES, mix, question, rate
from tonnage.catalog.loader import Catalog
from tonnage.deployment import Deployment
from tonnage.engine import StepModel
from tonnage.fleet import Candidate, Plan, Question, StatedFleet
from tonnage.fleet.capacity import capacity_of
from tonnage.fleet.plan import plan_fleet
from tonnage.performance.memory import sequence_kv_bytes_per_gpu
from tonnage.performance.roofline import tabulate
from tonnage.queueing.closed_form import PLANNED_LOAD
from tonnage.workload import poisson_percentile

EXAMPLES = Path(__file__).parents[2] / "examples"
TIB = 2**40


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load()


def owned(catalog: Catalog, server_name: str) -> Candidate:
    """A named server, bought whole."""
    server = catalog.server(server_name)
    gpu = catalog.gpu(server.gpu)
    return Candidate(
        gpu=gpu, server=server, calibration=catalog.calibration(gpu), whole_servers=True
    )


# ── NVIDIA DLI course "Sizing LLM inference systems" ────────────────────────────────────────────


@pytest.mark.parametrize(("mean", "peak"), [(64, 77), (7, 12)])
def test_dli_poisson_peaks(mean, peak):
    """`poisson.ppf(0.95, 64)` is 77 and `poisson.ppf(0.95, 7)` is 12."""
    assert poisson_percentile(mean, 95) == peak


def test_dli_one_server_carries_679_thousand_daily_users(catalog):
    """70.7 prompts/s on one DGX H100 in an eight-hour day, three requests each.

    The page prints 4.2 B input tokens a day; 2,000 tokens each are 4.07 B.
    """
    # eight replicas of 64 calls at once: 64 / (200 × 20 ms) calls/s, slowed by prompts so that
    # what is planned of them is 70.7 / 8
    one_prompt_s = PLANNED_LOAD * 8 / 70.7 - 200 * 0.020 / 64
    measured = StepModel(
        base_s=0.020,
        per_prefill_token_s=one_prompt_s / 2000,
        per_sequence_s=0.0,
        per_kv_token_s=0.0,
        source="the course's plot",
    )
    dgx = owned(catalog, "DGX-H100")
    asked = question(
        rate(1.0),
        model=catalog.model("meta-llama/Meta-Llama-3-8B-Instruct"),
        candidates=(dgx,),
        lengths=mix(2000, 200),
        max_batch_sizes=(64,),
        step_model=measured,
        engine=catalog.engine("vLLM"),
    )
    fleet = StatedFleet(
        text="1 x DGX-H100:tp1", units=1, name="DGX-H100", tensor_parallel=1, pipeline_parallel=1
    )
    found = capacity_of(asked, dgx, fleet, requests_per_user_per_day=3, active_s_per_day=8 * 3600.0)
    assert found.replicas == 8
    assert found.requests_per_s == pytest.approx(70.7, rel=1e-4)
    assert found.daily_requests == pytest.approx(2.036e6, rel=1e-3)
    assert found.daily_users == pytest.approx(679e3, abs=500)
    assert found.daily_requests is not None
    assert found.daily_requests * 2000 == pytest.approx(4.07e9, rel=1e-3)


def test_dli_679_thousand_daily_users_are_70_7_prompts_a_second():
    """The same page read backwards, through the study that ships as an example."""
    plan = tonnage.size(EXAMPLES / "dli-llama3-8b.yaml")
    steps = {step.name: step.value for step in plan.question.workload.steps}
    assert steps["requests per day"] == 2.037e6
    assert steps["peak rate"] == pytest.approx(70.7, abs=0.05)


def dgx_of_2_4_requests_per_s(catalog: Catalog) -> Question:
    """31 requests/s of 500 tokens at 21.4 ms each, on servers that carry 2.4 requests/s."""
    # 32 calls at once decode 32 / (500 × 21.4 ms) = 2.99 calls/s; their prompts bring what is
    # planned of a server to 2.4
    one_prompt_s = PLANNED_LOAD / 2.4 - 500 * 0.0214 / 32
    measured = StepModel(
        base_s=0.0214,
        per_prefill_token_s=one_prompt_s / 3500,
        per_sequence_s=0.0,
        per_kv_token_s=0.0,
        source="the course's slide",
    )
    return question(
        rate(31.0),
        model=catalog.model("nvidia/nemo-43b-gpt"),
        candidates=(owned(catalog, "DGX-H100"),),
        lengths=mix(3500, 500),
        tensor_parallel=(8,),
        pipeline_parallel=(1,),
        max_batch_sizes=(32,),
        step_model=measured,
        engine=catalog.engine("vLLM"),
    )


def test_dli_31_requests_a_second_take_13_servers(catalog):
    """31 / 2.4 = 12.9, rounded up once, through the whole search and purchase."""
    scenario = plan_fleet(dgx_of_2_4_requests_per_s(catalog)).scenario("recommended")
    assert scenario.servers == 13
    assert scenario.gpus == 104
    assert scenario.latency is not None
    assert scenario.latency.utilisation == pytest.approx(PLANNED_LOAD * 31 / 2.4 / 13, rel=1e-6)


def test_dli_500_tokens_at_21_4_ms_take_10_7_seconds(catalog):
    plan = plan_fleet(dgx_of_2_4_requests_per_s(catalog))
    assert plan.deployment is not None
    table = tabulate(
        plan.deployment,
        catalog.calibration(plan.deployment.gpu),
        step_model=plan.question.step_model,
    )
    step_s = table.step_s(
        prefill_tokens=0,
        prefill_context_tokens=0,
        sequences=1,
        kv_tokens=3500,
        windowed_kv_tokens=0,
    )
    assert 500 * step_s == pytest.approx(10.7)


def test_dli_llama_70b_on_four_h100_our_error_is_known(catalog):
    """Course: eight prompts of 3,500 tokens in 2.6 s, then 26.8 ms a token (fp16, TP4, 2024).

    Ours, from the datasheet and default efficiencies: 1.97 s (24 % low) and 17.3 ms (35 % low).
    Two years of kernels lie between, and the defaults are not fitted to that software.
    """
    gpu = catalog.gpu("H100-SXM")
    replica = Deployment(
        model=catalog.model("meta-llama/Meta-Llama-3-70B-Instruct"),
        gpu=gpu,
        engine=catalog.engine("vLLM"),
        weight_dtype="fp16",
        kv_dtype="fp16",
        tensor_parallel=4,
        max_batch_size=8,
        max_batched_tokens=8192,
    )
    table = tabulate(replica, catalog.calibration(gpu))
    prefill_s = 8 * float(
        table.prompt_s(
            prompt_tokens=3500.0,
            cached_tokens=0.0,
            sequences=0.0,
            kv_tokens=0.0,
            windowed_kv_tokens=0.0,
        )
    )
    token_s = float(
        table.step_s(
            prefill_tokens=0,
            prefill_context_tokens=0,
            sequences=8,
            kv_tokens=8 * 3550,
            windowed_kv_tokens=0,
        )
    )
    assert 0.70 < prefill_s / 2.6 < 1.0
    assert 0.60 < token_s / 0.0268 < 1.0
    # the slide's point, reading a prompt costs as much as writing some hundred tokens, holds
    assert prefill_s / token_s == pytest.approx(99, rel=0.2)


# ── Calculadora de Sizing de Inferência LLM ─────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def thousand_sessions():
    return tonnage.size(EXAMPLES / "long-context-gpt-oss-120b.yaml")


def servers(plan: Plan) -> list[int | None]:
    return [scenario.servers for scenario in plan.scenarios]


def test_calculadora_memory_of_a_session_and_of_a_server(thousand_sessions):
    """2.25 GiB a session; (2,304 GB − 120 GiB) × 70 % = 1,418.0 GiB, which hold 629 of them."""
    held = thousand_sessions.scenario("recommended").memory
    assert held.kv_bytes_per_session / GIB == pytest.approx(2.25, abs=0.005)
    assert held.kv_budget_bytes_per_server / GIB == pytest.approx(1418.0, abs=0.05)
    assert held.sessions_per_server == 629
    # the page rounds 2.199 up to 2.25 in its text and prints 2.2 in its JSON
    assert held.kv_bytes_total / TIB == pytest.approx(2.20, abs=0.005)


def test_calculadora_the_ideal_scenario_fills_65_percent(thousand_sessions):
    assert thousand_sessions.scenario("ideal").memory.sessions_per_server == 584


def test_calculadora_a_thousand_sessions(thousand_sessions):
    """2 servers at the limit, 3 with headroom and N + 1, 5 with more headroom and N + 2."""
    assert servers(thousand_sessions) == [2, 3, 5]


def test_calculadora_five_thousand_sessions(thousand_sessions):
    told = thousand_sessions.question
    more = replace(told, workload=replace(told.workload, sessions=5000))
    assert servers(plan_fleet(more)) == [8, 11, 14]


def test_calculadora_twice_the_context_takes_twice_the_memory(thousand_sessions):
    """Twice the context, twice the KV: 1.125 and 2.25 GiB for 64 k and 128 k tokens.

    All but the windows of half its layers, which never grow.
    """
    told = thousand_sessions.question
    half = plan_fleet(
        replace(told, workload=replace(told.workload, context_tokens=65_536.0))
    ).scenario("minimum")
    whole = thousand_sessions.scenario("minimum")
    ratio = whole.memory.kv_bytes_per_session / half.memory.kv_bytes_per_session
    assert ratio == pytest.approx(2, rel=0.003)


# ── InfraScale ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("example", ["public-administration.yaml", "support-chatbot.yaml"])
def test_infrascale_its_four_constraints_with_their_slack(example):
    """Memory, throughput, capacity and wait, of our own physics, and exactly one that binds."""
    found = {
        constraint.name: constraint for constraint in tonnage.size(EXAMPLES / example).constraints
    }
    assert list(found) == ["memory", "throughput", "capacity", "wait"]
    slacks = {}
    for name, constraint in found.items():
        assert constraint.used is not None
        assert constraint.available is not None
        assert constraint.slack is not None
        assert constraint.slack == pytest.approx(1 - constraint.used / constraint.available)
        assert constraint.slack >= 0
        slacks[name] = constraint.slack
    binding = [name for name, constraint in found.items() if constraint.binding]
    assert binding == [min(slacks, key=slacks.__getitem__)]


# ── engine logs ─────────────────────────────────────────────────────────────────────────────────


def test_an_engine_log_of_gpt_oss(catalog):
    """hf-mem issue 60: a vLLM that charges windows in full fits 78,384 tokens in 5.38 GiB."""
    gpu = catalog.gpu("H100-SXM")
    engine = replace(catalog.engine("vLLM"), kv_rule="full")
    replica = Deployment(
        model=catalog.model("openai/gpt-oss-120b"),
        gpu=gpu,
        engine=engine,
        weight_dtype="mxfp4",
        kv_dtype="bf16",
        max_batch_size=256,
        max_batched_tokens=8192,
    )
    assert 78_384 % engine.block_tokens == 0
    held = sequence_kv_bytes_per_gpu(replica, 78_384)
    assert held / GIB == pytest.approx(5.38, abs=0.005)


def test_policies_of_the_calculadora_are_ours():
    """0, 20 and 30 % headroom; none, one and two spare; 70, 70 and 65 % of the memory."""
    plan = tonnage.size(EXAMPLES / "long-context-gpt-oss-120b.yaml")
    assert plan.question.policies == POLICIES
