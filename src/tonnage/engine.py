"""A serving engine's rules, a calibration of a GPU's speed, and a user's own step model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tonnage.evidence import Evidence

Policy = Literal["vllm", "trtllm-no-evict", "trtllm-max-utilisation", "sglang"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """How one serving engine admits, batches and spends time, for a range of versions.

    `memory_fraction` of a GPU is the engine's to use; `runtime_bytes` (CUDA context, communication
    buffers, captured graphs) come off it on every GPU. `large_*` limits hold on GPUs of at least
    `large_gpu_bytes`. `kv_rule` says whether windowed layers are charged for their window or in
    full. `step_overhead_s` and `sequence_overhead_s` are spent on the host per step and per running
    sequence, `request_overhead_s` once per request before its first token. Every pipeline stage
    after the first stretches a step by `bubble_fraction`: stages are uneven and wait on each other.

    `policy` names the scheduler: who is admitted, what a step is made of, who is preempted. With
    `chunked_prefill` a prompt may span steps, otherwise longer ones than a step are refused;
    `whole_prompt_fits` admits a prompt only when the cache has room for all of it; `prefix_cache`
    keeps the blocks of prompts for others that begin alike. `kept_back_blocks` of the cache are
    never given to a sequence.
    """

    name: str
    versions: str
    memory_fraction: float
    runtime_bytes: float
    block_tokens: int
    max_num_seqs: int
    max_num_batched_tokens: int
    large_gpu_bytes: float
    large_max_num_seqs: int
    large_max_num_batched_tokens: int
    step_overhead_s: float
    sequence_overhead_s: float
    request_overhead_s: float
    bubble_fraction: float
    kv_rule: Literal["window", "full"]
    source: str
    date: str
    policy: Policy = "vllm"
    chunked_prefill: bool = True
    whole_prompt_fits: bool = True
    prefix_cache: bool = False
    kept_back_blocks: int = 0
    notes: str = ""

    def limits_on(self, gpu_memory_bytes: float) -> tuple[int, int]:
        """`(max_num_seqs, max_num_batched_tokens)` by default on a GPU with this much memory."""
        if gpu_memory_bytes >= self.large_gpu_bytes:
            return self.large_max_num_seqs, self.large_max_num_batched_tokens
        return self.max_num_seqs, self.max_num_batched_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How much of its datasheet one kind of GPU reaches; fractions of peak unless a unit is named.

    `compute_fraction` maps a math dtype to the share of dense peak that large products reach,
    `half_speed_rows` is the number of rows (tokens) at which a product is half-way there.
    `kernel_floor_s` is the shortest time one kernel takes, `layer_overhead_s` the small kernels of
    a layer (norms, activation, rotary) that no matrix accounts for. `link_latency_s` is paid by
    every collective.
    """

    name: str
    compute_fraction: Mapping[str, float]
    half_speed_rows: float
    hbm_fraction: float
    attention_compute_fraction: float
    attention_hbm_fraction: float
    expert_compute_fraction: float
    expert_hbm_fraction: float
    link_fraction: float
    link_latency_s: float
    kernel_floor_s: float
    layer_overhead_s: float
    evidence: Evidence = Evidence.ASSUMED
    source: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """A user's own time of one engine step: affine in what the step holds.

    `base_s + per_prefill_token_s * prefill tokens + per_sequence_s * sequences that get a token
    + per_kv_token_s * tokens in the cache of those that decode`. Holds where it was measured;
    replaces the roofline.
    """

    base_s: float
    per_prefill_token_s: float
    per_sequence_s: float
    per_kv_token_s: float
    source: str = ""
    evidence: Evidence = field(default=Evidence.CALIBRATED)
