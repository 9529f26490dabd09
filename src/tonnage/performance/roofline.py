"""Deployment -> StepTable, operator by operator: each takes the longer of its sums and its bytes.

Projections, experts and the LM head are matrix products; attention reads its cache (decode) or
multiplies with it (prefill); tensor parallelism adds collectives. Each operator is bounded by
arithmetic, by memory traffic and by the shortest time a kernel can take; operators run one after
the other. Stops being true where kernels overlap (communication behind compute) and for kernels
far from the calibrated efficiencies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tonnage.deployment import Deployment
from tonnage.dtypes import DTYPES, KV_BYTES_PER_VALUE
from tonnage.evidence import Evidence
from tonnage.model import LinearAttention, SoftmaxAttention
from tonnage.performance import StepTable
from tonnage.performance.memory import shard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tonnage.engine import Calibration, StepModel

_POWERS = tuple(2**i for i in range(16))  # 1 … 32,768 rows
_BETWEEN = (48, 96, 192, 384, 768, 1536, 3072, 6144, 12288)
GRID = np.array(sorted((*_POWERS, *_BETWEEN)), dtype=float)
ELEMENTWISE_PASSES = 12  # reads and writes of a token's hidden state by norms, rotary, residual
SAMPLING_PASSES = 3  # reads and writes of the fp32 logits while sampling
ACTIVATION_BYTES = 2  # activations travel in 16 bits
DEFAULT_NIC_BYTES_PER_S = 25e9  # 200 Gbit/s per GPU between servers when the catalog knows none
MAX_REDUCTIONS = 2  # per layer: shared and routed experts are summed before one all-reduce
INDEX_HEADS = (
    64  # query heads of the sparse-attention indexer (DeepSeek-V3.2 config, index_n_heads)
)


def tabulate(
    deployment: Deployment,
    calibration: Calibration,
    *,
    link_domain_gpus: int | None = None,
    step_model: StepModel | None = None,
) -> StepTable:
    """The step times of one replica.

    `link_domain_gpus` is how many GPUs share the fast link (None: all); collectives of a wider
    group run at network speed. `step_model`, when given, replaces the roofline.
    """
    if step_model is not None:
        return StepTable.from_step_model(
            step_model, max_batched_tokens=deployment.max_batched_tokens
        )
    peak = deployment.gpu.dense_flop_per_s
    attention = _attention(deployment, calibration)
    per_sequence = _lm_head(deployment, calibration) + GRID * (
        attention.state_s + deployment.engine.sequence_overhead_s
    )
    per_token = (
        _matrices(deployment, calibration)
        + _collectives(deployment, calibration, link_domain_gpus)
        + _small_kernels(deployment, calibration)
        + GRID * attention.recurrence_flop / (peak["bf16"] * calibration.attention_compute_fraction)
        + deployment.engine.step_overhead_s
    )
    stretch = 1 + deployment.engine.bubble_fraction * (deployment.pipeline_parallel - 1)
    return StepTable(
        tokens=GRID,
        token_s=per_token * stretch,
        sequence_s=per_sequence * stretch,
        kv_token_s=attention.kv_token_s * stretch,
        windowed_kv_token_s=attention.windowed_kv_token_s * stretch,
        chunk_context_s=attention.chunk_context_s * stretch,
        windowed_chunk_context_s=attention.windowed_chunk_context_s * stretch,
        window_tokens=attention.window_tokens,
        stages=deployment.pipeline_parallel,
        max_batched_tokens=deployment.max_batched_tokens,
        request_overhead_s=deployment.engine.request_overhead_s,
        evidence=Evidence.MODELLED
        if calibration.evidence <= Evidence.MODELLED
        else Evidence.CALIBRATED,
    )


def _matrices(deployment: Deployment, calibration: Calibration) -> NDArray[np.float64]:
    """Seconds of all layers' projections, MLPs and experts for each row count of GRID.

    t = max(2*K*N*(rows + half_speed_rows) / (peak * fraction), bytes / (bandwidth * fraction),
    kernel floor), summed over matrices. Experts: a pass of T tokens touches
    E*(1 - (1 - k/E)^T) of them, reads those, and multiplies T*k rows.
    """
    model, gpu, tp = deployment.model, deployment.gpu, deployment.tensor_parallel
    dense: list[tuple[float, float, float, float, float]] = []
    total = np.zeros_like(GRID)
    for group in model.layer_groups:
        for linear in group.linears:
            dtype = model.linear_dtype(deployment.weight_dtype, linear, expert=False)
            values = linear.parameters / shard(linear, model, tp)
            dense.append(
                (
                    group.count,
                    values,
                    DTYPES[dtype].bytes_per_value,
                    _flop_per_s(deployment, dtype, calibration),
                    linear.in_features + linear.out_features / shard(linear, model, tp),
                )
            )
        experts = group.experts
        if experts is None:
            continue
        values = sum(linear.parameters for linear in experts.linears)
        dtype = model.linear_dtype(deployment.weight_dtype, experts.linears[0], expert=True)
        touched = experts.count * -np.expm1(
            GRID * np.log1p(-min(experts.per_token / experts.count, 1 - 1e-12))
        )
        rows = GRID * experts.per_token + touched * calibration.half_speed_rows / 4
        speed = gpu.dense_flop_per_s[gpu.math_dtype(dtype)] * calibration.expert_compute_fraction
        compute = 2 * rows * values / tp / speed
        memory = touched * values / tp * DTYPES[dtype].bytes_per_value
        traffic = memory / (gpu.hbm_bytes_per_s * calibration.expert_hbm_fraction)
        floor = len(experts.linears) * calibration.kernel_floor_s
        total += group.count * np.maximum(np.maximum(compute, traffic), floor)
    count, values_, bytes_per_value, speed_, width = (
        np.array(column)[:, None] for column in zip(*dense, strict=True)
    )
    compute = 2 * values_ * (GRID + calibration.half_speed_rows) / speed_
    traffic = (values_ * bytes_per_value + GRID * width * ACTIVATION_BYTES) / (
        gpu.hbm_bytes_per_s * calibration.hbm_fraction
    )
    slowest = np.maximum(np.maximum(compute, traffic), calibration.kernel_floor_s)
    return np.asarray(total + (count * slowest).sum(axis=0))


def _flop_per_s(deployment: Deployment, dtype: str, calibration: Calibration) -> float:
    """FLOP/s that large products with weights in `dtype` reach on this GPU."""
    math = deployment.gpu.math_dtype(dtype)
    fraction = calibration.compute_fraction.get(math, calibration.compute_fraction["bf16"])
    return deployment.gpu.dense_flop_per_s[math] * fraction


class _Attention:
    """Per-token costs of the mixers, summed over layers (seconds; `recurrence_flop` in FLOP)."""

    def __init__(self) -> None:
        self.kv_token_s = 0.0
        self.windowed_kv_token_s = 0.0
        self.chunk_context_s = 0.0
        self.windowed_chunk_context_s = 0.0
        self.state_s = 0.0
        self.recurrence_flop = 0.0
        self.window_tokens: int | None = None


def _attention(deployment: Deployment, calibration: Calibration) -> _Attention:
    """Decode: one resident token costs its cached bytes or its multiplications, whichever is more.

    bytes = values per GPU * KV bytes; FLOP = 2 * heads/TP * (qk + v dims), for MLA against the
    latent. Prefill: 2 * heads/TP * (qk + v) FLOP per token and token of context. Sparse attention
    reads only its top-k tokens (counted as a window) plus the indexer's keys.
    """
    model, gpu, tp = deployment.model, deployment.gpu, deployment.tensor_parallel
    bandwidth = gpu.hbm_bytes_per_s * calibration.attention_hbm_fraction
    speed = gpu.dense_flop_per_s["bf16"] * calibration.attention_compute_fraction
    costs = _Attention()
    kv_bytes = KV_BYTES_PER_VALUE[deployment.kv_dtype]
    for group in model.layer_groups:
        mixer = group.mixer
        if isinstance(mixer, LinearAttention):
            state = mixer.state_values * mixer.state_bytes_per_value / tp
            costs.state_s += group.count * 2 * state / bandwidth  # read and written
            costs.recurrence_flop += group.count * mixer.flop_per_token / tp
            continue
        if not isinstance(mixer, SoftmaxAttention):
            continue
        heads = mixer.heads / tp
        stored = mixer.kv_values_per_token_per_gpu(tp) - mixer.index_values
        latent = mixer.latent_values
        decode_width = 2 * latent if latent else mixer.qk_head_dim + mixer.v_head_dim
        decode = max(stored * kv_bytes / bandwidth, 2 * heads * decode_width / speed)
        prefill = 2 * heads * (mixer.qk_head_dim + mixer.v_head_dim) / speed
        limit = mixer.window_tokens if mixer.window_tokens is not None else mixer.index_top_k
        if limit is None:
            costs.kv_token_s += group.count * decode
            costs.chunk_context_s += group.count * prefill
        else:
            costs.window_tokens = max(costs.window_tokens or 0, limit)
            costs.windowed_kv_token_s += group.count * decode
            costs.windowed_chunk_context_s += group.count * prefill
        if mixer.index_values:
            costs.kv_token_s += group.count * mixer.index_values * kv_bytes / bandwidth
            costs.chunk_context_s += group.count * 2 * INDEX_HEADS * mixer.index_values / speed / tp
        if mixer.compress_ratio:
            costs.kv_token_s += group.count * decode / mixer.compress_ratio
            costs.chunk_context_s += group.count * prefill / mixer.compress_ratio
    return costs


def _lm_head(deployment: Deployment, calibration: Calibration) -> NDArray[np.float64]:
    """Seconds for GRID sequences to become logits and a sampled token each."""
    model, gpu, tp = deployment.model, deployment.gpu, deployment.tensor_parallel
    values = model.embedding_parameters / tp
    compute = (
        2
        * values
        * (GRID + calibration.half_speed_rows)
        / (gpu.dense_flop_per_s["bf16"] * calibration.compute_fraction["bf16"])
    )
    traffic = values * 2 / (gpu.hbm_bytes_per_s * calibration.hbm_fraction)
    sampling = GRID * model.vocab_size * 4 * SAMPLING_PASSES / gpu.hbm_bytes_per_s
    return np.asarray(np.maximum(compute, traffic) + sampling)


def _collectives(
    deployment: Deployment, calibration: Calibration, link_domain_gpus: int | None
) -> NDArray[np.float64]:
    """Seconds of all-reduces (tensor parallel) and hand-overs (pipeline parallel).

    An all-reduce of T tokens moves 2*(n-1)/n * T*hidden*2 bytes over each GPU's link and pays the
    link's latency; there is one after every row-split matrix or bank of experts. A group wider
    than the fast-link domain runs at the speed of its network adapter.
    """
    model, gpu, tp = deployment.model, deployment.gpu, deployment.tensor_parallel
    message = GRID * model.hidden_size * ACTIVATION_BYTES
    seconds = np.zeros_like(GRID)
    network = gpu.nic_bytes_per_s or DEFAULT_NIC_BYTES_PER_S
    if tp > 1:
        inside = link_domain_gpus is None or tp <= link_domain_gpus
        link = (gpu.interconnect.bytes_per_s if inside else network) * calibration.link_fraction
        reductions = sum(
            group.count
            * min(
                sum(1 for linear in group.linears if linear.split == "row")
                + (1 if group.experts else 0),
                MAX_REDUCTIONS,
            )
            for group in model.layer_groups
        )
        seconds += reductions * (calibration.link_latency_s + 2 * (tp - 1) / tp * message / link)
    hops = deployment.pipeline_parallel - 1
    if hops:
        seconds += hops * (calibration.link_latency_s + message / tp / network)
    return seconds


def _small_kernels(deployment: Deployment, calibration: Calibration) -> NDArray[np.float64]:
    """Seconds of norms, rotary embedding, activation and residual of all layers."""
    model, gpu = deployment.model, deployment.gpu
    traffic = GRID * model.hidden_size * ACTIVATION_BYTES * ELEMENTWISE_PASSES
    moved = traffic / (gpu.hbm_bytes_per_s * calibration.hbm_fraction)
    return np.asarray(model.layers * (calibration.layer_overhead_s + moved))
