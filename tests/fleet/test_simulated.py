"""From a question and options to a scene: which replicas, which requests, and what is said."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tonnage
from tests.laws.parts import (
    RECOMMENDED,
    candidate,
    dense,
    deployment,
    gpu,
    lengths,
    mix,
    mixes,
    p95,
    question,
    rate,
    server,
)
from tonnage.catalog import profiles
from tonnage.catalog.loader import Catalog
from tonnage.cli.capacity import parse_fleet
from tonnage.engine import StepModel
from tonnage.errors import InputError, TonnageError, UsageError
from tonnage.fleet import Question, Scene, SimulationOptions
from tonnage.fleet.offered import COUNTED_REQUESTS
from tonnage.fleet.simulated import ENGINE_START_S, scene_of, startup_s
from tonnage.model import LayerGroup, ModelSpec, SoftmaxAttention
from tonnage.queueing.simulation import Autoscaler, Outage
from tonnage.queueing.simulation.world import Simulation
from tonnage.workload import Batch, ClosedLoad, Lengths, LlmCall, OpenLoad

MODEL = dense(layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14_336, vocab=128_256)
MIX = mix(lengths(600, 0.5), lengths(60, 0.8))
SINGLE = candidate()
WHOLE = candidate(whole_servers=True)
STEPS = StepModel(base_s=0.008, per_prefill_token_s=2e-5, per_sequence_s=5e-5, per_kv_token_s=1e-8)
FEW = 200


def asked(load, promises=(), **changes) -> Question:
    told = {"model": MODEL, "lengths": MIX, "weight_dtypes": ("bf16",), "kv_dtypes": ("bf16",)}
    return question(load, promises, **{**told, **changes})


def scene(
    told: Question, fleet: str | None = "2 x big:tp1", owned=SINGLE, *, poisson=False, **options
) -> Scene:
    stated = None if fleet is None else parse_fleet(fleet)
    return scene_of(
        told,
        SimulationOptions(fleet=stated, **options),
        owned=owned if stated else None,
        poisson_peak=poisson,
    )


def run(ready: Scene) -> Simulation:
    simulation = Simulation(ready.fleet, ready.requests, ready.clients, seed=ready.seed)
    simulation.step(1e9)
    assert simulation.done
    return simulation


def said(ready: Scene) -> str:
    return "\n".join(ready.notes)


# ── which replicas ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fleet", "owned", "replicas", "each"),
    [
        ("4 x big:tp2", SINGLE, 4, 2),  # a count of GPUs counts replicas
        ("big", SINGLE, 1, 1),
        ("3 x big:tp2-pp2", SINGLE, 3, 4),
        ("3 x big:pp2", SINGLE, 3, 2),
        ("2 x box:tp4", WHOLE, 4, 4),  # servers are filled
        ("2 x box:tp8", WHOLE, 2, 8),
    ],
)
def test_a_stated_fleet_is_as_large_as_it_says(fleet, owned, replicas, each):
    ready = scene(asked(rate(1.0)), fleet, owned, requests=FEW)
    assert (ready.fleet.replicas, ready.deployment.gpus) == (replicas, each)
    assert ready.gpus == replicas * each
    many = "replica" if replicas == 1 else "replicas"
    assert ready.notes[0].startswith(f"{replicas} {many} of {each} big: {replicas * each} GPU")


def test_an_open_arrangement_is_the_one_that_carries_most_per_gpu_and_is_named():
    told = asked(rate(1.0), p95(tpot=0.2))
    ready = scene(told, "3 x big", requests=FEW)
    assert ready.fleet.replicas == 3
    assert f"{ready.deployment.describe()} was chosen" in said(ready)
    per_gpu: dict[int, float] = {}
    for tp in (1, 2, 4, 8):
        fixed = replace(told, tensor_parallel=(tp,), pipeline_parallel=(1,))
        found = tonnage.fleet.capacity.capacity_of(fixed, SINGLE, parse_fleet("8 x big"))
        per_gpu[tp] = found.requests_per_s or 0.0
    assert ready.deployment.gpus == max(per_gpu, key=lambda tp: per_gpu[tp])


def test_without_a_fleet_the_recommended_one_is_simulated_with_its_spares():
    told = asked(rate(20.0), p95(ttft=1.0), policies=(RECOMMENDED,))
    plan = tonnage.size(told)
    (pool,) = plan.scenario("recommended").pools
    ready = scene(told, None, requests=FEW)
    assert ready.fleet.replicas == pool.replicas
    assert ready.deployment == pool.deployment
    assert ready.gpus == plan.scenario("recommended").gpus
    assert "spares" in ready.notes[0]


def test_a_fleet_that_cannot_start_is_refused_with_the_reason():
    small = candidate(gpu("small", memory_bytes=12e9))
    with pytest.raises(InputError, match=r"fleet is .* will not start: weights") as error:
        scene(asked(rate(1.0)), "4 x small:tp1", small)
    assert error.value.hint
    with pytest.raises(InputError, match="TP3 does not divide"):
        scene(asked(rate(1.0)), "4 x big:tp3")
    ready = scene(asked(rate(1.0)), "4 x small:tp1", small, kv_blocks=500, requests=FEW)
    assert ready.fleet.engine.kv.units == 500
    assert "believed" in said(ready)


def test_nothing_recommended_is_nothing_simulated():
    with pytest.raises(UsageError, match="no recommended fleet") as error:
        scene(asked(rate(1.0), p95(ttft=1e-6)), None)
    assert "--fleet" in error.value.hint


def test_several_models_are_refused():
    guard = dense(layers=4, name="guard")
    told = asked(rate(1.0))
    calls = (*told.workload.calls, LlmCall(name="guard", model="guard", mix=MIX))
    two = replace(
        told,
        workload=replace(told.workload, calls=calls),
        models={**told.models, guard.name: guard},
    )
    with pytest.raises(UsageError, match="one model at a time"):
        scene(two)


# ── the engine ──────────────────────────────────────────────────────────────────────────────────


def test_options_replace_what_is_modelled():
    ready = scene(
        asked(rate(1.0)),
        step_model=STEPS,
        kv_blocks=777,
        max_num_seqs=12,
        max_num_batched_tokens=345,
        policy="sglang",
        prefix_cache=True,
        requests=FEW,
    )
    engine = ready.fleet.engine
    assert (engine.kv.units, engine.max_num_seqs, engine.max_num_batched_tokens) == (777, 12, 345)
    assert (engine.policy, engine.prefix_cache) == ("sglang", True)
    table = engine.table
    assert np.interp(1, table.tokens, table.token_s) == pytest.approx(0.008 + 2e-5)
    assert engine.table.max_batched_tokens == 345
    assert "finds nothing" in said(ready)
    notes = {told.key: told.note for told in ready.inputs}
    assert notes["simulation.kv_pool"] == notes["simulation.policy"] == "stated"


def test_what_is_not_stated_comes_from_the_engines_profile():
    vllm = profiles.engine("vLLM")
    engine = scene(asked(rate(1.0), engine=vllm), requests=FEW).fleet.engine
    assert (engine.max_num_seqs, engine.max_num_batched_tokens) == (1024, 8192)
    assert (engine.policy, engine.chunked_prefill, engine.prefix_cache) == ("vllm", True, True)
    assert engine.max_context_tokens == MODEL.max_context_tokens
    trtllm = profiles.engine("trtllm")
    other = scene(asked(rate(1.0), engine=trtllm), requests=FEW).fleet.engine
    assert (other.policy, other.chunked_prefill) == ("trtllm-no-evict", False)


def test_more_tokens_a_step_leave_less_cache():
    pools = [
        scene(asked(rate(1.0)), max_num_batched_tokens=tokens, requests=FEW).fleet.engine.kv.units
        for tokens in (512, 8192)
    ]
    assert pools[0] > pools[1]


@pytest.mark.parametrize(
    "options",
    [
        {"kv_blocks": 0},
        {"requests": 0},
        {"max_num_seqs": -1},
        {"max_num_batched_tokens": 100_000},
        {"rate_factor": 0.0},
        {"rate_factor": math.nan},
        {"rate_factor": math.inf},
        {"decode_replicas": -1},
        {"kv_link_bytes_per_s": 0.0, "decode_replicas": 1},
        {"cv": math.nan, "arrivals": "gamma"},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(TonnageError, match="is "):
        scene(asked(rate(1.0)), **options)


def test_blocks_that_are_all_kept_back_are_refused():
    with pytest.raises(InputError, match="keeps 1 back"):
        scene(asked(rate(1.0), engine=profiles.engine("vLLM")), kv_blocks=1)


def windowed(window: int, count: int = 16) -> ModelSpec:
    (group,) = MODEL.layer_groups
    assert isinstance(group.mixer, SoftmaxAttention)
    kept = replace(group, count=count, mixer=replace(group.mixer, window_tokens=window))
    groups: tuple[LayerGroup, ...] = (kept,)
    if count < group.count:
        groups = (replace(group, count=group.count - count), kept)
    return replace(MODEL, layer_groups=groups)


@pytest.mark.parametrize("steps", [None, STEPS])
@pytest.mark.parametrize("model", [windowed(256), windowed(100, 30), windowed(256, 32)])
@pytest.mark.parametrize("policy", ["vllm", "trtllm-no-evict", "sglang"])
def test_windowed_layers_give_back_all_they_take(model, steps, policy):
    """With roofline and step model alike: the cache and the step times know one window."""
    told = asked(rate(30.0), model=model, lengths=mix(lengths(300, 0.7), lengths(150, 0.5)))
    ready = scene(told, "1 x big:tp1", step_model=steps, kv_blocks=400, policy=policy, requests=FEW)
    assert ready.fleet.engine.kv.window_blocks == -(-model.window_tokens // 16)
    simulation = run(ready)
    (replica,) = simulation.world.replica
    assert replica.free == replica.pool
    assert simulation.totals()[0].kv_peak_fraction > 0.5


def test_a_prefix_cache_is_not_simulated_with_windows():
    told = asked(rate(1.0), model=windowed(256), engine=profiles.engine("vLLM"))
    ready = scene(told, requests=FEW)
    assert not ready.fleet.engine.prefix_cache
    assert "no prefix cache" in said(ready)
    with pytest.raises(UsageError, match="not simulated"):
        scene(told, prefix_cache=True)


# ── open loads ──────────────────────────────────────────────────────────────────────────────────

PEAKED = OpenLoad(requests_per_s_mean=5.0, requests_per_s_peak=9.0)


@pytest.mark.parametrize(
    ("poisson", "arrivals", "expected"),
    [
        (True, "poisson", 5.0),
        (True, "gamma", 5.0),
        (True, "constant", 9.0),  # nothing scatters: the peak must come from the rate
        (False, "poisson", 9.0),
        (False, "constant", 9.0),
    ],
)
def test_a_poisson_peak_and_random_arrivals_are_not_both_simulated(poisson, arrivals, expected):
    ready = scene(asked(PEAKED), poisson=poisson, arrivals=arrivals, cv=1.5)
    assert len(ready.requests) / ready.requests.arrival_s[-1] == pytest.approx(expected, rel=0.03)
    assert ("Poisson percentile" in said(ready)) == (poisson and arrivals != "constant")
    assert f"{expected:g} requests/s" in ready.load


def test_requests_before_and_after_those_that_count_keep_the_fleet_busy():
    ready = scene(asked(rate(1.0)))
    first, last = ready.counted
    assert last - first == COUNTED_REQUESTS
    assert first >= COUNTED_REQUESTS * 0.1
    assert len(ready.requests) - last >= COUNTED_REQUESTS * 0.05
    assert f"{COUNTED_REQUESTS:,} requests count" in said(ready)


def test_a_fleet_with_many_calls_in_flight_is_warmed_up_for_longer():
    long = mix(200, 1000)
    ready = scene(asked(rate(20.0), lengths=long), "4 x big:tp1", requests=500)
    first, last = ready.counted
    assert first > 0.5 * 500
    records = run(ready).records()
    stays_s = records.last_token_s - records.arrival_s
    counting_from_s = records.arrival_s[first]
    assert counting_from_s > 2 * np.median(stays_s)
    assert records.last_token_s[:last].max() < records.arrival_s[-1] + np.median(stays_s)


@given(told=mixes, per_s=st.floats(0.1, 20), factor=st.sampled_from([0.5, 1.0, 2.0]))
def test_requests_are_as_many_and_as_long_as_told(told, per_s, factor):
    told = replace(told, prompt=Lengths.constant(told.prompt.mean_tokens))
    ready = scene(asked(rate(per_s), lengths=told), requests=1000, rate_factor=factor)
    requests = ready.requests
    assert (requests.prompt_tokens == told.prompt.mean_tokens).all()
    assert requests.output_tokens.mean() == pytest.approx(told.output.mean_tokens, rel=0.25)
    arrived_per_s = len(requests) / requests.arrival_s[-1]
    assert arrived_per_s == pytest.approx(per_s * factor, rel=0.15)
    if told.cached_share:
        assert requests.cached_tokens is not None
        cached = requests.cached_tokens / requests.prompt_tokens
        assert cached == pytest.approx(told.cached_share, abs=0.05)


def test_the_same_seed_gives_the_same_scene_and_another_another():
    first, again, other = (scene(asked(rate(3.0)), requests=FEW, seed=seed) for seed in (1, 1, 2))
    assert first.requests.arrival_s.tobytes() == again.requests.arrival_s.tobytes()
    assert first.requests.prompt_tokens.tobytes() == again.requests.prompt_tokens.tobytes()
    assert first.requests.arrival_s.tobytes() != other.requests.arrival_s.tobytes()


def test_a_profile_is_run_through_once_at_the_mean_rate(tmp_path):
    path = tmp_path / "day.csv"
    path.write_text("at,factor\n00:00,1\n08:00,3\n20:00,1\n")
    low = asked(OpenLoad(requests_per_s_mean=0.02, requests_per_s_peak=0.2))
    ready = scene(low, profile=path)
    first, last = ready.counted
    assert last - first == math.ceil(0.02 * 86_400)
    hours = ready.requests.arrival_s[first:last] % 86_400 / 3600
    by_day = ((hours >= 8) & (hours < 20)).mean()
    assert by_day == pytest.approx(0.75, abs=0.03)
    assert "profile makes the peak" in said(ready)
    part = scene(low, profile=path, requests=500)
    assert "the first 28.9 % of the profile's period" in part.load
    assert (ready.cyclic, part.cyclic) == (True, False)
    with pytest.raises(UsageError, match="one period of the profile brings"):
        scene(asked(rate(500.0)), profile=path)


def test_calls_of_a_chain_come_one_by_one_and_only_their_tokens_are_judged():
    told = asked(rate(2.0), p95(ttft=1.0, tpot=0.1, e2e=9.0))
    calls = (
        LlmCall(name="plan", model=MODEL.name, mix=mix(100, 10), repeats=3),
        LlmCall(name="answer", model=MODEL.name, mix=mix(800, 50)),
    )
    chain = replace(told, workload=replace(told.workload, calls=calls))
    ready = scene(chain)
    short = (ready.requests.prompt_tokens == 100).mean()
    assert short == pytest.approx(0.75, abs=0.02)
    assert len(ready.requests) / ready.requests.arrival_s[-1] == pytest.approx(8.0, rel=0.03)
    assert [promise.metric for promise in ready.promises] == ["tpot"]
    assert "4 calls" in said(ready)
    assert "whole chains" in said(ready)
    assert scene(told, requests=FEW).promises == told.workload.promises


# ── clients, batches, recordings ────────────────────────────────────────────────────────────────


def test_clients_wait_think_and_start_spread_unless_together():
    load = ClosedLoad(clients=30, think_time_s=4.0)
    ready = scene(asked(load), requests=600)
    assert ready.clients is not None
    assert (ready.clients.count, ready.clients.think_time_s) == (30, 4.0)
    assert ready.clients.spread_s > 4.0
    first, last = ready.counted
    assert last - first == 600
    records = run(ready).records()
    in_flight = [
        ((records.arrival_s <= t) & (records.last_token_s > t)).sum()
        for t in np.linspace(records.arrival_s[first], records.arrival_s[last], 50)
    ]
    assert max(in_flight) <= 30
    together = scene(asked(load), together=True, requests=600)
    assert together.clients is not None
    assert (together.clients.spread_s, together.counted) == (0.0, (0, 600))
    assert len(together.requests) == 600


def test_the_benchmark_protocol_is_ten_requests_of_each_client_at_once():
    ready = scene(asked(ClosedLoad(clients=8)), benchmark=True)
    assert len(ready.requests) == 80
    assert ready.counted == (0, 80)
    assert ready.clients is not None
    assert ready.clients.spread_s == ready.clients.think_time_s == 0
    prompts = ready.requests.prompt_tokens
    assert prompts.min() >= 0.8 * 600
    assert prompts.max() <= 600


@pytest.mark.parametrize("options", [{"benchmark": True}, {"together": True}])
def test_protocols_of_clients_need_clients(options):
    with pytest.raises(UsageError, match="clients that wait"):
        scene(asked(rate(1.0)), **options)


def test_a_batch_is_all_there_at_the_start():
    ready = scene(asked(Batch(requests=300.0, deadline_s=3600.0)))
    assert ready.counted == (0, 300)
    assert not ready.requests.arrival_s.any()
    assert ready.clients is None
    some = scene(asked(Batch(requests=300.0, deadline_s=3600.0)), requests=50)
    assert len(some.requests) == 50
    assert "50 of 300" in said(some)


def test_a_recording_brings_its_own_times_and_lengths(tmp_path):
    path = tmp_path / "day.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n0,100,10\n1.5,200,20\n4,300,30\n")
    told = replace(asked(rate(7.0)), inputs=tonnage.size(asked(rate(7.0))).question.inputs)
    ready = scene(told, trace=path, rate_factor=2.0)
    assert ready.requests.arrival_s.tolist() == [0.0, 0.75, 2.0]
    assert ready.requests.prompt_tokens.tolist() == [100, 200, 300]
    assert ready.counted == (0, 3)
    assert "day.csv" in ready.load
    path.write_text("arrival_s,input_tokens,output_tokens\n0,100,10\n1.5,131072,20\n")
    with pytest.raises(InputError) as error:
        scene(told, trace=path)
    assert error.value.line == 3
    for option in ({"requests": 2}, {"benchmark": True}, {"together": True}):
        with pytest.raises(UsageError, match="for the study's load"):
            scene(told, trace=path, **option)


def test_only_memory_is_no_load():
    with pytest.raises(UsageError, match="no load"):
        scene(asked(None, sessions=10, context_tokens=1000))


# ── failures, scaling, prompts and answers apart ────────────────────────────────────────────────


def test_a_start_takes_its_weights_and_its_engine():
    one = startup_s(deployment(MODEL))
    assert one == pytest.approx(MODEL.weights_bytes("bf16") / 3.67e9 + ENGINE_START_S)
    assert startup_s(deployment(MODEL, weight_dtype="fp8")) < one


def test_what_is_not_said_of_an_outage_is_a_start():
    outages = (
        Outage(replica=0, down_s=5.0, up_s=math.nan),
        Outage(replica=1, down_s=5.0, up_s=math.inf),
    )
    scaler = Autoscaler(least=1, outstanding=8, interval_s=10, startup_s=math.nan)
    ready = scene(asked(rate(5.0)), outages=outages, autoscaler=scaler, requests=FEW)
    start_s = startup_s(ready.deployment)
    assert [outage.up_s for outage in ready.fleet.outages] == [5.0 + start_s, math.inf]
    assert ready.fleet.autoscaler is not None
    assert ready.fleet.autoscaler.startup_s == start_s
    assert "to start a replica" in said(ready)
    late = (Outage(replica=0, down_s=1e7, up_s=math.inf),)
    assert "after the last arrival" in said(scene(asked(rate(5.0)), outages=late, requests=FEW))


@pytest.mark.parametrize(
    "outages",
    [
        [(2, 1.0, 2.0)],
        [(-1, 1.0, 2.0)],
        [(0, 3.0, 2.0)],
        [(0, -1.0, 2.0)],
        [(0, math.nan, 2.0)],
        [(0, 1.0, 5.0), (0, 4.0, 6.0)],
    ],
)
def test_impossible_outages_are_refused(outages):
    told = tuple(Outage(replica=r, down_s=down, up_s=up) for r, down, up in outages)
    with pytest.raises(UsageError, match="outage"):
        scene(asked(rate(1.0)), outages=told)


@pytest.mark.parametrize(
    "changes", [{"least": 0}, {"least": 3}, {"outstanding": 0.0}, {"interval_s": 0.0}]
)
def test_impossible_scaling_is_refused(changes):
    scaler = Autoscaler(**{"least": 1, "outstanding": 8, "interval_s": 1, "startup_s": 1} | changes)
    with pytest.raises(UsageError, match="autoscaler"):
        scene(asked(rate(1.0)), autoscaler=scaler)


def test_prompts_and_answers_apart_pay_for_the_way():
    fast = candidate(gpu(nic_bytes_per_s=50e9))
    ready = scene(asked(rate(1.0)), "2 x big:tp2", fast, decode_replicas=3, requests=FEW)
    split = ready.fleet.disaggregation
    assert split is not None
    assert (ready.fleet.replicas, split.replicas, ready.gpus) == (2, 3, 10)
    token_bytes = MODEL.kv_bytes_per_token("bf16")
    assert split.token_s == pytest.approx(token_bytes / (2 * 50e9))
    assert split.engine == ready.fleet.engine
    stated = scene(
        asked(rate(1.0)), fleet="2 x big:tp2", decode_replicas=1, kv_link_bytes_per_s=1e9,
        requests=FEW,
    )  # fmt: skip
    assert stated.fleet.disaggregation is not None
    assert stated.fleet.disaggregation.token_s == pytest.approx(token_bytes / 1e9)
    run(stated)


# ── the whole way ───────────────────────────────────────────────────────────────────────────────


def test_inputs_that_the_fleet_sets_aside_are_not_listed():
    catalog = Catalog.load()
    study = tonnage.study_from_overrides(
        {
            "model": "Llama-3.1-8B-Instruct",
            "workload.prompt.mean": "500 tokens",
            "workload.answer.mean": "100 tokens",
            "workload.request_rate": "2/s",
        }
    )
    keys = {
        told.key
        for told in scene(
            study.question(catalog),
            "2 x H200-SXM:tp1",
            candidate(catalog.gpu("H200-SXM"), server=server(of="H200-SXM")),
            requests=FEW,
        ).inputs
    }
    assert "workload.request_rate" in keys
    assert "simulation.kv_pool" in keys
    assert not [key for key in keys if key.startswith(("hardware.", "scenarios."))]
