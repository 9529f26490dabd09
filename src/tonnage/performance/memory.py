"""Deployment -> bytes of weights, activations and runtime per GPU, and what KV cache may take."""

from __future__ import annotations

import math

from tonnage.deployment import Deployment
from tonnage.dtypes import DTYPES, KV_BYTES_PER_VALUE
from tonnage.model import Linear, LinearAttention, ModelSpec, SoftmaxAttention
from tonnage.performance import MemoryBudget

LOGITS_BYTES_PER_VALUE = 6  # a 16-bit and a 32-bit copy of each logit while sampling (vLLM sampler)
HIDDEN_COPIES = 4  # residual, normed input, attention output, block output alive at once
INTERMEDIATE_COPIES = 3  # gate, up and their product


def shard(linear: Linear, model: ModelSpec, tensor_parallel: int) -> int:
    """Over how many of `tensor_parallel` GPUs `linear` is cut."""
    if linear.split == "replicated":
        return 1
    if linear.split == "kv":
        return min(tensor_parallel, model.kv_heads)
    return tensor_parallel


def weights_bytes_per_gpu(deployment: Deployment) -> float:
    """Bytes of weights on the fullest GPU.

    Matrices by their split over TP, experts evenly over the group (each of `E/EP` experts cut over
    TP/EP GPUs), embedding and LM head by vocabulary over TP. Pipeline stages hold ceil(layers/PP)
    layers and, on the fullest stage, one of the two embedding matrices. Even splits are assumed;
    engines that pad the vocabulary or the experts hold slightly more.
    """
    model, tp, pp = deployment.model, deployment.tensor_parallel, deployment.pipeline_parallel
    sixteen_bit = DTYPES[model.native_dtype].bytes_per_value
    layers_bytes = 0.0
    for group in model.layer_groups:
        layer = group.other_parameters * sixteen_bit
        for linear in group.linears:
            dtype = model.linear_dtype(deployment.weight_dtype, linear, expert=False)
            layer += linear.parameters * DTYPES[dtype].bytes_per_value / shard(linear, model, tp)
        if group.experts:
            expert = group.experts.other_parameters_per_expert * sixteen_bit
            for linear in group.experts.linears:
                dtype = model.linear_dtype(deployment.weight_dtype, linear, expert=True)
                expert += linear.parameters * DTYPES[dtype].bytes_per_value
            layer += group.experts.count * expert / tp
        layers_bytes += group.count * layer
    stage_share = math.ceil(model.layers / pp) / model.layers
    embeddings = 1 if model.tied_embeddings or pp > 1 else 2
    return (
        layers_bytes * stage_share
        + embeddings * model.embedding_parameters * sixteen_bit / tp
        + model.other_parameters * sixteen_bit
    )


def activations_bytes_per_gpu(deployment: Deployment) -> float:
    """Peak bytes alive in one forward pass of `max_batched_tokens`, logits included.

    tokens * (4 * hidden + 3 * widest intermediate / TP) * 2 bytes + batch * vocabulary * 6 bytes.
    A bound on what engines measure in their profiling run; fused kernels keep less.
    """
    model, tp = deployment.model, deployment.tensor_parallel
    widest = 0.0
    for group in model.layer_groups:
        linears = (*group.linears, *(group.experts.linears if group.experts else ()))
        widest = max(
            widest,
            *(
                linear.out_features / shard(linear, model, tp)
                for linear in linears
                if linear.split != "row"
            ),
            0.0,
        )
    per_token = HIDDEN_COPIES * model.hidden_size + INTERMEDIATE_COPIES * widest
    logits = deployment.max_batch_size * model.vocab_size * LOGITS_BYTES_PER_VALUE
    return deployment.max_batched_tokens * per_token * 2 + logits / tp


def sequence_kv_bytes_per_gpu(deployment: Deployment, context_tokens: float) -> float:
    """Bytes of cache and state that one sequence of `context_tokens` holds on one GPU.

    Full layers round up to the engine's block. Windowed layers keep their window, or everything
    when the engine charges them in full. A pipeline stage holds its share of the layers.
    """
    model, tp = deployment.model, deployment.tensor_parallel
    block = deployment.engine.block_tokens
    rounded = math.ceil(context_tokens / block) * block
    total = 0.0
    for group in model.layer_groups:
        mixer = group.mixer
        if isinstance(mixer, SoftmaxAttention):
            kept = (
                rounded
                if deployment.engine.kv_rule == "full"
                else min(mixer.tokens_kept(rounded), rounded)
            )
            values = kept * mixer.kv_values_per_token_per_gpu(tp)
            total += group.count * values * KV_BYTES_PER_VALUE[deployment.kv_dtype]
        elif isinstance(mixer, LinearAttention):
            total += group.count * mixer.state_values * mixer.state_bytes_per_value / tp
    stage_share = math.ceil(model.layers / deployment.pipeline_parallel) / model.layers
    return total * stage_share


def engine_pool_bytes(
    deployment: Deployment, *, runtime_overhead_bytes_per_gpu: float | None = None
) -> float:
    """What the engine itself gives to KV cache on the fullest GPU; negative when nothing is left.

    usable memory * engine fraction - weights - activations - runtime, where
    `runtime_overhead_bytes_per_gpu`, when stated, takes the place of those three.
    """
    overhead = runtime_overhead_bytes_per_gpu
    if overhead is None:
        overhead = weights_bytes_per_gpu(deployment) + activations_bytes_per_gpu(deployment)
        overhead += deployment.engine.runtime_bytes
    usable = deployment.gpu.usable_memory_bytes or deployment.gpu.memory_bytes
    return usable * deployment.engine.memory_fraction - overhead


def memory_budget(
    deployment: Deployment,
    *,
    kv_budget_fraction: float,
    runtime_overhead_bytes_per_gpu: float | None = None,
) -> MemoryBudget:
    """What is on the fullest GPU and what KV cache may take.

    The pool is `engine_pool_bytes`; budget = fraction * (memory - overhead), where the overhead is
    weights + activations + runtime unless `runtime_overhead_bytes_per_gpu` states all of it. With a
    stated overhead the budget rules, as the statement replaces our own account of the memory.
    """
    gpu = deployment.gpu
    weights = weights_bytes_per_gpu(deployment)
    activations = activations_bytes_per_gpu(deployment)
    runtime = deployment.engine.runtime_bytes
    usable = gpu.usable_memory_bytes or gpu.memory_bytes
    pool = engine_pool_bytes(
        deployment, runtime_overhead_bytes_per_gpu=runtime_overhead_bytes_per_gpu
    )
    if runtime_overhead_bytes_per_gpu is None:
        budget = kv_budget_fraction * (usable - weights - activations - runtime)
    else:
        budget = kv_budget_fraction * (gpu.memory_bytes - runtime_overhead_bytes_per_gpu)
        pool = max(pool, budget)
    return MemoryBudget(
        gpu_memory_bytes=usable,
        weights_bytes=weights,
        activations_bytes=activations,
        runtime_bytes=runtime,
        kv_pool_bytes=pool,
        kv_budget_bytes=budget,
    )
