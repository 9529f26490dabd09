"""Bytes on a GPU: what adds up, what splits and what cannot be split."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws.parts import deployments
from tonnage.deployment import Deployment
from tonnage.dtypes import DTYPES, KV_BYTES_PER_VALUE
from tonnage.model import LayerGroup, LinearAttention, SoftmaxAttention
from tonnage.performance.memory import (
    activations_bytes_per_gpu,
    memory_budget,
    sequence_kv_bytes_per_gpu,
    weights_bytes_per_gpu,
)

fractions = st.floats(0.1, 0.95)


# ── the budget ──────────────────────────────────────────────────────────────────────────────────


@given(replica=deployments(), fraction=fractions)
def test_the_budget_adds_up(replica, fraction):
    budget = memory_budget(replica, kv_budget_fraction=fraction)
    used = budget.weights_bytes + budget.activations_bytes + budget.runtime_bytes
    assert budget.gpu_memory_bytes == replica.gpu.memory_bytes
    assert used + budget.kv_pool_bytes == pytest.approx(
        budget.gpu_memory_bytes * replica.engine.memory_fraction
    )
    assert budget.kv_budget_bytes == pytest.approx(fraction * (budget.gpu_memory_bytes - used))
    assert budget.weights_bytes == weights_bytes_per_gpu(replica)
    assert budget.activations_bytes == activations_bytes_per_gpu(replica)
    assert budget.kv_bytes == max(min(budget.kv_pool_bytes, budget.kv_budget_bytes), 0)
    assert budget.fits == (budget.kv_bytes > 0)


@given(replica=deployments(), usable=st.floats(0.8, 0.99))
def test_usable_memory_is_what_counts(replica, usable):
    chip = replace(replica.gpu, usable_memory_bytes=replica.gpu.memory_bytes * usable)
    less = memory_budget(replace(replica, gpu=chip), kv_budget_fraction=0.7)
    assert less.gpu_memory_bytes == chip.usable_memory_bytes
    assert less.kv_pool_bytes < memory_budget(replica, kv_budget_fraction=0.7).kv_pool_bytes


@given(replica=deployments(), stated=st.floats(0.1, 0.9), fraction=fractions)
def test_a_stated_overhead_takes_the_place_of_the_computed_one(replica, stated, fraction):
    overhead = replica.gpu.memory_bytes * stated
    budget = memory_budget(
        replica, kv_budget_fraction=fraction, runtime_overhead_bytes_per_gpu=overhead
    )
    assert budget.kv_bytes == pytest.approx(fraction * (replica.gpu.memory_bytes - overhead))


# ── weights ─────────────────────────────────────────────────────────────────────────────────────


def replicated_bytes(replica: Deployment) -> float:
    """Bytes that every GPU of a tensor-parallel group must hold again: norms, routers, KV heads."""
    model, tp = replica.model, replica.tensor_parallel
    sixteen_bit = DTYPES[model.native_dtype].bytes_per_value
    again = model.other_parameters * sixteen_bit * (tp - 1)
    for group in model.layer_groups:
        layer = group.other_parameters * sixteen_bit * (tp - 1)
        for linear in group.linears:
            stored = DTYPES[replica.weight_dtype].bytes_per_value * linear.parameters
            if linear.split == "replicated":
                layer += stored * (tp - 1)
            elif linear.split == "kv":
                layer += stored * max(tp / model.kv_heads - 1, 0)
        again += group.count * layer
    return again


@given(replica=deployments())
def test_tensor_parallel_shares_hold_everything_and_repeat_only_what_they_must(replica):
    whole = replace(replica, pipeline_parallel=1)
    total = replica.model.weights_bytes(replica.weight_dtype)
    held = weights_bytes_per_gpu(whole) * whole.tensor_parallel
    assert held >= total * (1 - 1e-12)
    assert held - total == pytest.approx(replicated_bytes(whole), rel=1e-6, abs=total * 1e-9)


@given(replica=deployments())
def test_pipeline_stages_hold_everything_together(replica):
    """The fullest stage times the stages is at least the model; one GPU never holds all of it."""
    total = replica.model.weights_bytes(replica.weight_dtype)
    each = weights_bytes_per_gpu(replica)
    embeddings = replica.model.embedding_parameters * 2
    assert each * replica.gpus + embeddings >= total * (1 - 1e-12)
    if replica.gpus > 1 and replica.model.layers >= 2 * replica.pipeline_parallel:
        assert each < total


@given(replica=deployments(), dtype=st.sampled_from(["fp8", "int4"]))
def test_smaller_weights_take_less(replica, dtype):
    sixteen = weights_bytes_per_gpu(replace(replica, weight_dtype="bf16"))
    assert weights_bytes_per_gpu(replace(replica, weight_dtype=dtype)) < sixteen


# ── KV cache ────────────────────────────────────────────────────────────────────────────────────


@given(replica=deployments(), blocks=st.integers(1, 8000))
def test_kv_shares_hold_everything_and_heads_are_never_cut(replica, blocks):
    whole = replace(replica, pipeline_parallel=1)
    tokens = blocks * whole.engine.block_tokens
    per_gpu = sequence_kv_bytes_per_gpu(whole, tokens)
    total = whole.model.kv_bytes_per_session(tokens, whole.kv_dtype)
    copies = max(whole.tensor_parallel / whole.model.kv_heads, 1)
    assert per_gpu * whole.tensor_parallel == pytest.approx(total * copies)
    one_head = sum(
        group.count * 2 * group.mixer.qk_head_dim * tokens * KV_BYTES_PER_VALUE[whole.kv_dtype]
        for group in whole.model.layer_groups
        if isinstance(group.mixer, SoftmaxAttention)
    )
    assert per_gpu >= one_head * (1 - 1e-12)


@given(replica=deployments(), tokens=st.integers(1, 100_000))
def test_kv_rounds_up_to_blocks_and_never_shrinks(replica, tokens):
    held = sequence_kv_bytes_per_gpu(replica, tokens)
    block = replica.engine.block_tokens
    assert held == sequence_kv_bytes_per_gpu(replica, -(-tokens // block) * block)
    assert sequence_kv_bytes_per_gpu(replica, tokens + block) > held


@given(replica=deployments(), tokens=st.integers(1, 100_000))
def test_an_engine_that_charges_windows_in_full_holds_more(replica, tokens):
    (group,) = replica.model.layer_groups
    windowed = replace(group, mixer=replace(group.mixer, window_tokens=1024))
    model = replace(replica.model, layer_groups=(windowed,))
    by_window = replace(replica, model=model)
    in_full = replace(by_window, engine=replace(replica.engine, kv_rule="full"))
    kept, charged = (sequence_kv_bytes_per_gpu(d, tokens) for d in (by_window, in_full))
    assert charged == sequence_kv_bytes_per_gpu(replica, tokens)
    if tokens > 1024:
        assert kept == sequence_kv_bytes_per_gpu(replica, 1024) < charged
    else:
        assert kept == charged


@given(replica=deployments(), tokens=st.integers(1, 100_000))
def test_a_state_of_linear_attention_does_not_grow(replica, tokens):
    (group,) = replica.model.layer_groups
    state = LinearAttention(state_values=1000, flop_per_token=1000, state_bytes_per_value=4)
    layers: tuple[LayerGroup, ...] = (replace(group, mixer=state),)
    replica = replace(
        replica, model=replace(replica.model, layer_groups=layers), pipeline_parallel=1
    )
    held = sequence_kv_bytes_per_gpu(replica, tokens)
    assert held == pytest.approx(group.count * 4000 / replica.tensor_parallel)
