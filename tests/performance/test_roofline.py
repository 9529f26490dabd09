"""The step table: what a step can never beat, what it adds up to, and what replaces it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws.parts import (
    CALIBRATION,
    IDLE_HOST,
    PERFECT,
    dense,
    deployment,
    deployments,
    expert_bank,
    gpu,
)
from tonnage.dtypes import DTYPES, KV_BYTES_PER_VALUE
from tonnage.engine import StepModel
from tonnage.evidence import Evidence
from tonnage.model import Experts, LayerGroup, SoftmaxAttention
from tonnage.performance.roofline import tabulate

steps = st.fixed_dictionaries(
    {
        "prefill_tokens": st.sampled_from([0, 1, 100, 2048, 8000]),
        "prefill_context_tokens": st.sampled_from([0, 50, 4000, 60_000]),
        "sequences": st.sampled_from([0, 1, 7, 64, 200]),
        "kv_tokens": st.sampled_from([0, 1000, 1_000_000]),
        "windowed_kv_tokens": st.sampled_from([0, 1000]),
    }
).filter(lambda step: step["prefill_tokens"] + step["sequences"] > 0)


def attention_groups(replica):
    """The softmax layers, with how many there are of each."""
    return [
        (group.count, group.mixer)
        for group in replica.model.layer_groups
        if isinstance(group.mixer, SoftmaxAttention)
    ]


def touched_bytes_and_flop(group: LayerGroup, replica, tokens: float) -> tuple[float, float]:
    """Bytes of weights that `tokens` must read in one layer at the least, and FLOP they cost."""
    small = min(DTYPES[d].bytes_per_value for d in (replica.weight_dtype, "bf16"))
    values = sum(linear.parameters for linear in group.linears)
    multiplied = float(values)
    experts: Experts | None = group.experts
    if experts is not None:
        each = sum(linear.parameters for linear in experts.linears)
        # whatever the routing, the first token touches this many
        values += experts.per_token * each
        multiplied += experts.per_token * each
    return values * small, 2 * multiplied * tokens


# ── bounds ──────────────────────────────────────────────────────────────────────────────────────


@given(replica=deployments(), step=steps)
def test_a_step_is_never_below_any_roofline_bound(replica, step):
    seconds = float(tabulate(replica, CALIBRATION).step_s(**step))
    chip, gpus = replica.gpu, replica.gpus
    tokens = step["prefill_tokens"] + step["sequences"]
    read = flop = 0.0
    for group in replica.model.layer_groups:
        layer_bytes, layer_flop = touched_bytes_and_flop(group, replica, tokens)
        # every one of the stages reads its weights once per pass
        read += group.count * layer_bytes / replica.tensor_parallel
        flop += group.count * layer_flop / gpus
    assert seconds >= read / chip.hbm_bytes_per_s * (1 - 1e-9)
    assert seconds >= flop / max(chip.dense_flop_per_s.values()) * (1 - 1e-9)
    cached = sum(
        count * mixer.kv_heads * (mixer.qk_head_dim + mixer.v_head_dim) * step["kv_tokens"]
        for count, mixer in attention_groups(replica)
    )
    kv_bytes = cached * KV_BYTES_PER_VALUE[replica.kv_dtype] / gpus
    assert seconds >= kv_bytes / chip.hbm_bytes_per_s * (1 - 1e-9)
    scores = sum(
        count * 2 * mixer.heads * (mixer.qk_head_dim + mixer.v_head_dim)
        for count, mixer in attention_groups(replica)
    )
    attended = scores * step["prefill_tokens"] * step["prefill_context_tokens"] / gpus
    assert seconds >= attended / chip.dense_flop_per_s["bf16"] * (1 - 1e-9)
    assert seconds >= replica.engine.step_overhead_s


@given(replica=deployments(), step=steps, more=st.sampled_from([1, 10, 500]))
def test_a_step_with_more_in_it_never_takes_less(replica, step, more):
    table = tabulate(replica, CALIBRATION)
    before = table.step_s(**step)
    for key, value in step.items():
        # tokens and sequences beyond the grid are not asked for: 8,192 is the largest budget
        assert table.step_s(**{**step, key: value + more}) >= before * (1 - 1e-12), key


@given(replica=deployments(), prompt=st.integers(1, 20_000), others=st.sampled_from([0, 8, 200]))
def test_a_longer_prompt_never_takes_less(replica, prompt, others):
    table = tabulate(replica, CALIBRATION)

    def seconds(tokens: int, cached: int = 0) -> float:
        return float(
            table.prompt_s(
                prompt_tokens=float(tokens),
                cached_tokens=float(cached),
                sequences=float(others),
                kv_tokens=others * 1000.0,
                windowed_kv_tokens=0.0,
            )
        )

    assert seconds(prompt + 100) >= seconds(prompt) * (1 - 1e-9)
    assert seconds(prompt, cached=prompt // 2) <= seconds(prompt) * (1 + 1e-9)


# ── sums ────────────────────────────────────────────────────────────────────────────────────────


@given(
    tokens=st.sampled_from([1, 512, 2048, 8192]),
    tensor_parallel=st.sampled_from([1, 2, 4, 8]),
    layers=st.integers(1, 80),
)
def test_prefill_of_a_dense_model_is_two_flop_per_parameter_and_token(
    tokens, tensor_parallel, layers
):
    """With endless bandwidth, no host and no latency, time × peak is the arithmetic alone."""
    model = dense(layers=layers, hidden=4096, heads=32, kv_heads=8, intermediate=14_336)
    chip = gpu(hbm_bytes_per_s=1e30, interconnect=replace(gpu().interconnect, bytes_per_s=1e30))
    replica = deployment(model, chip, engine=IDLE_HOST, tensor_parallel=tensor_parallel)
    seconds = tabulate(replica, PERFECT).step_s(
        prefill_tokens=tokens,
        prefill_context_tokens=0.0,
        sequences=0.0,
        kv_tokens=0.0,
        windowed_kv_tokens=0.0,
    )
    # the LM head is multiplied with the last token of a prompt only, and for at least one row
    head = 2 * model.vocab_size * model.hidden_size
    flop = seconds * 1e15 * tensor_parallel
    matrices = model.parameters - 2 * model.embedding_parameters - layers * 2 * 4096
    assert flop == pytest.approx(2 * matrices * tokens + head, rel=1e-9)
    if tokens > 1:
        near = 2 * (model.parameters - model.embedding_parameters) * tokens
        assert flop == pytest.approx(near, rel=0.05 if layers >= 20 else 0.6)


@given(tokens=st.integers(1, 8000), context=st.integers(0, 100_000))
def test_attention_of_a_prompt_is_what_its_definition_multiplies(tokens, context):
    """Scores and weighted sum: 2 FLOP × heads × (qk + v) per token, token of context and layer."""
    replica = deployment(dense(layers=10, heads=32, head_dim=128), engine=IDLE_HOST)
    table = tabulate(replica, PERFECT)

    def seconds(looked_at: float) -> float:
        return float(
            table.step_s(
                prefill_tokens=tokens,
                prefill_context_tokens=looked_at,
                sequences=0,
                kv_tokens=0,
                windowed_kv_tokens=0,
            )
        )

    flop = (seconds(context) - seconds(0.0)) * 1e15
    assert flop == pytest.approx(10 * 2 * 32 * (128 + 128) * tokens * context, rel=1e-6, abs=1e4)


def test_a_window_stops_the_growth_of_attention():
    model = dense()
    (group,) = model.layer_groups
    assert isinstance(group.mixer, SoftmaxAttention)
    windowed = replace(
        model, layer_groups=(replace(group, mixer=replace(group.mixer, window_tokens=1024)),)
    )
    table = tabulate(deployment(windowed), CALIBRATION)

    def seconds(context: float) -> float:
        return float(
            table.step_s(
                prefill_tokens=1000,
                prefill_context_tokens=context,
                sequences=0,
                kv_tokens=0,
                windowed_kv_tokens=0,
            )
        )

    assert table.window_tokens == 1024
    assert seconds(500) < seconds(1024) == seconds(50_000)
    assert table.kv_token_s == 0.0
    assert table.windowed_kv_token_s > 0


@pytest.mark.parametrize(("count", "per_token"), [(8, 2), (32, 4), (128, 8)])
@pytest.mark.parametrize("tokens", [1, 4, 16, 64, 256])
def test_a_batch_reads_as_many_experts_as_random_routing_touches(count, per_token, tokens):
    """Time of a memory-bound bank over the time of one expert, against routing by lot."""
    bank = expert_bank(count=count, per_token=per_token, hidden=2048, intermediate=1024)
    model = dense(experts=bank)
    (group,) = model.layer_groups
    without = replace(model, layer_groups=(replace(group, experts=None),))
    chip = gpu(dense_flop_per_s={"bf16": 1e30})
    with_s, without_s = (
        float(np.interp(tokens, table.tokens, table.token_s))
        for table in (
            tabulate(deployment(m, chip, engine=IDLE_HOST), PERFECT) for m in (model, without)
        )
    )
    expert_bytes = 2 * 3 * 2048 * 1024
    read = (with_s - without_s) * chip.hbm_bytes_per_s / (model.layers * expert_bytes)
    rng = np.random.default_rng(1)
    lots = [
        len({int(e) for _ in range(tokens) for e in rng.choice(count, per_token, replace=False)})
        for _ in range(40)
    ]
    assert read == pytest.approx(np.mean(lots), rel=0.05)


@pytest.mark.parametrize("tokens", [1, 64, 4096])
@pytest.mark.parametrize("tensor_parallel", [1, 4])
def test_experts_cost_two_flop_per_active_parameter_and_token(tokens, tensor_parallel):
    """With endless bandwidth, what a bank of experts adds is its arithmetic alone."""
    bank = expert_bank(count=32, per_token=4, hidden=2048, intermediate=1024)
    model = dense(experts=bank)
    (group,) = model.layer_groups
    without = replace(model, layer_groups=(replace(group, experts=None),))
    chip = gpu(hbm_bytes_per_s=1e30, interconnect=replace(gpu().interconnect, bytes_per_s=1e30))
    with_s, without_s = (
        float(np.interp(tokens, table.tokens, table.token_s))
        for table in (
            tabulate(
                deployment(m, chip, engine=IDLE_HOST, tensor_parallel=tensor_parallel), PERFECT
            )
            for m in (model, without)
        )
    )
    flop = (with_s - without_s) * 1e15 * tensor_parallel
    active = model.layers * 4 * 3 * 2048 * 1024
    assert flop == pytest.approx(2 * active * tokens, rel=1e-6)


@given(replica=deployments())
def test_more_gpus_in_a_group_never_read_weights_slower_than_links_allow(replica):
    """Without link time, splitting a replica wider never makes its steps longer."""
    free = replace(gpu().interconnect, bytes_per_s=1e30)
    wide = replace(
        replica,
        gpu=replace(replica.gpu, interconnect=free),
        tensor_parallel=8,
        pipeline_parallel=1,
    )
    narrow = replace(wide, tensor_parallel=1)
    assert np.all(tabulate(wide, PERFECT).token_s <= tabulate(narrow, PERFECT).token_s * (1 + 1e-9))


def test_leaving_the_link_domain_costs_time():
    replica = deployment(dense(layers=40, hidden=4096), tensor_parallel=8)
    inside = tabulate(replica, CALIBRATION, link_domain_gpus=8)
    outside = tabulate(replica, CALIBRATION, link_domain_gpus=4)
    assert np.all(outside.token_s > inside.token_s)


# ── a user's own step model ─────────────────────────────────────────────────────────────────────


@given(
    base=st.floats(0, 0.1),
    prefill=st.floats(0, 1e-3),
    sequence=st.floats(0, 1e-3),
    kv=st.floats(0, 1e-6),
    step=steps,
)
def test_a_step_model_is_reproduced_exactly(base, prefill, sequence, kv, step):
    own = StepModel(
        base_s=base,
        per_prefill_token_s=prefill,
        per_sequence_s=sequence,
        per_kv_token_s=kv,
        source="my bench",
    )
    table = tabulate(deployment(), CALIBRATION, step_model=own)
    if step["sequences"] == 0:  # the grid begins at one sequence, as an engine's steps do
        step = {**step, "sequences": 1}
    said = (
        base
        + prefill * step["prefill_tokens"]
        + sequence * step["sequences"]
        + kv * step["kv_tokens"]
    )
    assert float(table.step_s(**step)) == pytest.approx(said, rel=1e-9, abs=1e-15)
    assert table.evidence is Evidence.CALIBRATED
