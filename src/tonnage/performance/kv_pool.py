"""Deployment -> KvPool: the cache one replica offers, in the units that the simulator counts.

The only place where bytes of cache become blocks. What a sequence holds is asked of
`sequence_kv_bytes_per_gpu`, so that plan and simulation cannot disagree.
"""

from __future__ import annotations

import math
from collections import Counter

from tonnage.deployment import Deployment
from tonnage.dtypes import KV_BYTES_PER_VALUE
from tonnage.model import LinearAttention, SoftmaxAttention
from tonnage.performance import KvPool
from tonnage.performance.memory import engine_pool_bytes, sequence_kv_bytes_per_gpu

_FAR_BLOCKS = 1 << 12  # a multiple of every ratio by which compressed layers thin out their cache
_ALIKE = 1.5  # vLLM: layer kinds whose counts differ by less make groups of the larger count


def kv_pool(
    deployment: Deployment,
    *,
    runtime_overhead_bytes_per_gpu: float | None = None,
    engine_blocks: int | None = None,
) -> KvPool:
    """The pool of one replica, as its fullest GPU holds it.

    All of what the engine offers, not the share of it that a plan fills: an engine does not know of
    the plan. Without windowed layers and linear attention a unit is one block of all layers, else a
    byte. Windowed layers grow to their window, the widest one when there are several; layers that
    are compressed beyond it grow from the start on (some entries too many within the window).

    `engine_blocks` is the engine's own count and takes the place of our account of the memory. In
    vLLM (num_gpu_blocks) a block holds `block_tokens` tokens of all layers; for a model of several
    kinds of layers it holds those of one group of as many layers as the rarest kind has, padded to
    the largest kind, and the pool is that many bytes.

    `units` is not above 0 when the model does not fit.
    """
    engine, block = deployment.engine, deployment.engine.block_tokens

    def held(blocks: int) -> float:
        return sequence_kv_bytes_per_gpu(deployment, blocks * block)

    window_tokens = deployment.model.window_tokens if engine.kv_rule == "window" else None
    window_blocks = math.ceil((window_tokens or 0) / block)
    far = window_blocks + _FAR_BLOCKS
    state_bytes = held(0)
    block_bytes = (held(far + _FAR_BLOCKS) - held(far)) / _FAR_BLOCKS
    window_bytes = held(far) - far * block_bytes - state_bytes
    if not window_tokens and not state_bytes:
        blocks = engine_blocks
        if blocks is None:
            offered = engine_pool_bytes(
                deployment, runtime_overhead_bytes_per_gpu=runtime_overhead_bytes_per_gpu
            )
            blocks = math.floor(offered / block_bytes)
        return KvPool(units=blocks - engine.kept_back_blocks, block_tokens=block)
    if engine_blocks is not None:
        group_bytes = _group_block_bytes(deployment)
        offered = (engine_blocks - engine.kept_back_blocks) * group_bytes
    else:
        offered = engine_pool_bytes(
            deployment, runtime_overhead_bytes_per_gpu=runtime_overhead_bytes_per_gpu
        )
        offered -= engine.kept_back_blocks * _group_block_bytes(deployment)
    return KvPool(
        units=math.floor(offered),
        block_tokens=block,
        block_units=max(round(block_bytes), 1),  # at least 1: shares are reckoned by it
        window_block_units=round(window_bytes / window_blocks) if window_blocks else 0,
        window_blocks=window_blocks,
        sequence_units=round(state_bytes),
    )


def _group_block_bytes(deployment: Deployment) -> float:
    """Bytes of one block of a model with several kinds of layers, on the fullest GPU.

    As vLLM's hybrid cache manager lays them out: layers of one kind are put in groups of one size,
    and a block, which any group may take, is as large as that of the most demanding kind (for
    linear attention: the state of one sequence).
    """
    model, tp = deployment.model, deployment.tensor_parallel
    counts: Counter[object] = Counter()
    page_bytes = 0.0
    for group in model.layer_groups:
        mixer = group.mixer
        if isinstance(mixer, SoftmaxAttention):
            counts[mixer.window_tokens] += group.count
            token_bytes = KV_BYTES_PER_VALUE[deployment.kv_dtype]
            token_bytes *= mixer.kv_values_per_token_per_gpu(tp)
            page_bytes = max(page_bytes, deployment.engine.block_tokens * token_bytes)
        elif isinstance(mixer, LinearAttention):
            counts["state"] += group.count
            page_bytes = max(page_bytes, mixer.state_values * mixer.state_bytes_per_value / tp)
    rarest, commonest = min(counts.values()), max(counts.values())
    layers = commonest if commonest < _ALIKE * rarest else rarest
    stage_share = math.ceil(model.layers / deployment.pipeline_parallel) / model.layers
    return layers * page_bytes * stage_share
