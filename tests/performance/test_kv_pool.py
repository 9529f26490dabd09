"""The cache of a replica, counted as the simulator counts, against the bytes the plan counts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws.parts import dense, deployment, deployments, gpu
from tonnage.catalog import profiles
from tonnage.catalog.loader import Catalog
from tonnage.deployment import Deployment
from tonnage.model import SoftmaxAttention
from tonnage.performance.kv_pool import kv_pool
from tonnage.performance.memory import (
    engine_pool_bytes,
    memory_budget,
    sequence_kv_bytes_per_gpu,
)

CATALOG = Catalog.load()
ENGINES = [profiles.engine(name) for name in profiles.engine_names()]
VLLM = profiles.engine("vLLM")
FAR = 1 << 20


def of_catalog(model: str, engine=VLLM, **changes) -> Deployment:
    spec = CATALOG.model(model)
    told = {"weight_dtype": spec.native_weight_dtype, "engine": engine, **changes}
    return deployment(spec, CATALOG.gpu("H200-SXM"), **told)


catalog_deployments = st.builds(
    of_catalog,
    st.sampled_from(CATALOG.model_names),
    st.sampled_from([*ENGINES, replace(VLLM, kv_rule="full")]),
    tensor_parallel=st.sampled_from([1, 2, 8]),
    pipeline_parallel=st.sampled_from([1, 4]),
    kv_dtype=st.sampled_from(["bf16", "fp8"]),
)


@given(replica=catalog_deployments, context=st.integers(1, 300_000))
def test_a_sequence_takes_as_many_bytes_as_in_the_plan(replica, context):
    pool = kv_pool(replica)
    held = sequence_kv_bytes_per_gpu(replica, context)
    if pool.block_units == 1 and not pool.window_blocks and not pool.sequence_units:
        block_bytes = sequence_kv_bytes_per_gpu(replica, replica.engine.block_tokens)
        assert pool.units_of(context) * block_bytes == pytest.approx(held)
        return
    blocks = -(-context // pool.block_tokens)
    token_of_window = pool.window_block_units / pool.block_tokens
    rounding = 1.5 * blocks + pool.window_blocks + 1 + token_of_window
    taken = pool.units_of(context)
    if any(getattr(group.mixer, "compress_ratio", None) for group in replica.model.layer_groups):
        rounding += 2 * pool.block_units  # a compressed entry is whole or not there yet
        within_the_window = pool.block_units * pool.window_blocks
        assert held - rounding <= taken <= held + within_the_window + rounding
    else:
        assert taken == pytest.approx(held, abs=rounding)


@given(replica=catalog_deployments)
def test_a_long_context_takes_as_many_bytes_as_in_the_plan_whatever_the_layers(replica):
    pool = kv_pool(replica)
    if pool.block_units == 1:
        return  # in blocks, or never more than the window
    held = sequence_kv_bytes_per_gpu(replica, FAR)
    rounding = FAR / pool.block_tokens + pool.window_blocks
    assert pool.units_of(FAR) == pytest.approx(held, abs=rounding)


@given(replica=deployments())
def test_the_pool_is_what_the_engine_offers_whatever_the_plan_may_fill(replica):
    pool = kv_pool(replica)
    block_bytes = sequence_kv_bytes_per_gpu(replica, replica.engine.block_tokens)
    offered = memory_budget(replica, kv_budget_fraction=0.1).kv_pool_bytes
    assert pool.units == math.floor(offered / block_bytes)
    kept_back = replace(replica, engine=replace(replica.engine, kept_back_blocks=1))
    assert kv_pool(kept_back).units == pool.units - 1


@given(replica=deployments(), share=st.floats(0.0, 0.8))
def test_a_stated_overhead_takes_the_place_of_weights_activations_and_runtime(replica, share):
    stated = share * replica.gpu.memory_bytes
    offered = engine_pool_bytes(replica, runtime_overhead_bytes_per_gpu=stated)
    assert offered == pytest.approx((0.9 - share) * replica.gpu.memory_bytes)
    block_bytes = sequence_kv_bytes_per_gpu(replica, replica.engine.block_tokens)
    pool = kv_pool(replica, runtime_overhead_bytes_per_gpu=stated)
    assert pool.units == math.floor(offered / block_bytes)


def test_a_model_that_does_not_fit_has_no_units():
    assert kv_pool(deployment(dense(layers=40), gpu(memory_bytes=4e9))).units < 1


# ── the engine's own count ──────────────────────────────────────────────────────────────────────


@given(replica=deployments(), blocks=st.integers(2, 10**6))
def test_the_engines_own_blocks_replace_the_account_of_the_memory(replica, blocks):
    on_vllm = replace(replica, engine=VLLM)
    pool = kv_pool(on_vllm, engine_blocks=blocks)
    assert (pool.units, pool.block_units) == (blocks - 1, 1)
    other = replace(on_vllm, gpu=replace(replica.gpu, memory_bytes=1e9))
    assert kv_pool(other, engine_blocks=blocks) == pool


@pytest.mark.parametrize(
    ("model", "layers", "groups_that_see_all", "windowed_groups"),
    [
        ("gpt-oss-120b", 18, 1, 1),  # 18 full and 18 windowed layers
        ("gemma-3-27b-it", 10, 1, 6),  # 10 full, 52 windowed: five groups, and one of 2 and 8 empty
    ],
)
def test_a_block_of_a_hybrid_model_is_one_group_of_layers(
    model, layers, groups_that_see_all, windowed_groups
):
    replica = of_catalog(model)
    mixer = next(
        group.mixer
        for group in replica.model.layer_groups
        if isinstance(group.mixer, SoftmaxAttention)
    )
    page_bytes = 16 * mixer.kv_values_per_token * 2
    pool = kv_pool(replica, engine_blocks=10_001)
    assert pool.units == 10_000 * layers * page_bytes
    blocks_of_prompt = groups_that_see_all * 10 + windowed_groups * min(10, pool.window_blocks)
    taken = pool.units_of(160) / (layers * page_bytes)
    assert taken <= blocks_of_prompt  # vLLM pads the last group
    assert taken > blocks_of_prompt - windowed_groups * 10 / layers * 8


def test_the_state_of_linear_layers_is_taken_once():
    replica = of_catalog("Qwen/Qwen3-Next-80B-A3B-Instruct")
    pool = kv_pool(replica)
    assert pool.sequence_units == round(sequence_kv_bytes_per_gpu(replica, 0))
    assert pool.units_of(32) - pool.units_of(16) == pool.block_units
    # 36 linear and 12 full layers: groups of 12, a block as large as 12 states
    blocks = kv_pool(replica, engine_blocks=101)
    assert blocks.units == pytest.approx(100 * 12 * pool.sequence_units / 36)
