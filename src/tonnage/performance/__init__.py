"""Deployment -> what one replica holds (MemoryBudget) and how long its steps take (StepTable).

The vocabulary. `StepTable` is the seam between physics and queueing: the roofline, a calibration
and a user's own step model all fill it, and closed forms and simulators read nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tonnage.evidence import Evidence

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from tonnage.engine import StepModel

    Number: TypeAlias = float | NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """Bytes on the fullest GPU of a replica, and what is left for KV cache.

    `kv_pool_bytes` is what the engine really offers; `kv_budget_bytes` is what the plan may fill:
    a stated share of everything that weights, activations and runtime leave. `sequence_bytes` is
    what one running sequence of mean length holds there. Negative pools mean the model does not
    fit.
    """

    gpu_memory_bytes: float
    weights_bytes: float
    activations_bytes: float
    runtime_bytes: float
    kv_pool_bytes: float
    kv_budget_bytes: float

    @property
    def fits(self) -> bool:
        """Whether any memory is left for a cache."""
        return min(self.kv_pool_bytes, self.kv_budget_bytes) > 0

    @property
    def kv_bytes(self) -> float:
        """What the plan may fill with KV cache on this GPU: the smaller of pool and budget."""
        return max(min(self.kv_pool_bytes, self.kv_budget_bytes), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPool:
    """What one replica may fill with KV cache, counted in units of one size.

    A sequence of `c` cached tokens holds `b = ceil(c / block_tokens)` blocks and takes
    `b * block_units + min(b, window_blocks) * window_block_units + sequence_units`: layers that see
    everything, windowed layers, and the constant state of linear attention. A model without the
    latter two counts in blocks (`block_units` 1). `units` is the pool when empty, without the block
    that vLLM keeps back.
    """

    units: int
    block_tokens: int
    block_units: int = 1
    window_block_units: int = 0
    window_blocks: int = 0
    sequence_units: int = 0

    def units_of(self, context_tokens: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """Units that one sequence with so many tokens cached takes; each, of an array of them."""
        blocks = -(-context_tokens // self.block_tokens)
        windowed = np.minimum(blocks, self.window_blocks) * self.window_block_units
        return np.asarray(blocks * self.block_units + windowed + self.sequence_units)


_MOST_TOKENS = 2.0**20  # of one step: beyond any engine's


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTable:
    """Time of one engine step, tabulated so that anything can read it without calling back.

    `token_s[i]` is everything paid per forward pass over `tokens[i]` tokens (matrices, experts,
    collectives, small kernels, host overhead); `sequence_s[i]` what `tokens[i]` sequences that
    emit a token pay (LM head, sampling, state). Between grid points both are linear. On top:
    `decoding_s` per decoding sequence, `kv_token_s` and `windowed_kv_token_s` per resident token
    that decoding reads, in full and in windowed layers, and `chunk_context_s`,
    `windowed_chunk_context_s` per prefill token and token of context it attends to. `window_tokens`
    is the window, None when there is none.
    `stages` is the pipeline depth: a step splits its work over that many passes in flight.
    Times in seconds. Linear in KV tokens by construction; wrong where cache reads overlap matrices.
    """

    tokens: NDArray[np.float64]
    token_s: NDArray[np.float64]
    sequence_s: NDArray[np.float64]
    kv_token_s: float
    windowed_kv_token_s: float
    chunk_context_s: float
    windowed_chunk_context_s: float
    window_tokens: int | None
    stages: int
    max_batched_tokens: int
    request_overhead_s: float
    evidence: Evidence
    decoding_s: float = 0.0

    @classmethod
    def from_step_model(
        cls, model: StepModel, *, max_batched_tokens: int, request_overhead_s: float = 0.0
    ) -> StepTable:
        """The table of a user's own step model: affine in what a step holds."""
        tokens = np.array([0.0, _MOST_TOKENS])
        return cls(
            tokens=tokens,
            token_s=model.base_s + tokens * model.per_prefill_token_s,
            sequence_s=tokens * model.per_sequence_s,
            # decoding sequences pass through token_s too: take their share off again
            decoding_s=-model.per_prefill_token_s,
            kv_token_s=model.per_kv_token_s,
            windowed_kv_token_s=0.0,
            chunk_context_s=0.0,
            windowed_chunk_context_s=0.0,
            window_tokens=None,
            stages=1,
            max_batched_tokens=max_batched_tokens,
            request_overhead_s=request_overhead_s,
            evidence=model.evidence,
        )

    def step_s(
        self,
        *,
        prefill_tokens: Number,
        prefill_context_tokens: Number,
        sequences: Number,
        kv_tokens: Number,
        windowed_kv_tokens: Number,
    ) -> NDArray[np.float64]:
        """Seconds until every one of `sequences` has its next token and the prefill chunk is done.

        `prefill_tokens` are computed in this step, each attending to `prefill_context_tokens` on
        average; `kv_tokens` is the context of all decoding sequences together, `windowed_kv_tokens`
        the same with each context cut at the window. One pass, not a sum of two: prefill and decode
        tokens share the matrices. Arguments broadcast.
        """
        work = (prefill_tokens + sequences) / self.stages
        seconds = np.interp(work, self.tokens, self.token_s) + np.interp(
            sequences / self.stages,
            self.tokens,
            self.sequence_s,
        )
        windowed = (
            prefill_context_tokens
            if self.window_tokens is None
            else np.minimum(prefill_context_tokens, self.window_tokens)
        )
        attention = (
            sequences * self.decoding_s
            + kv_tokens * self.kv_token_s
            + windowed_kv_tokens * self.windowed_kv_token_s
            + prefill_tokens
            * (
                prefill_context_tokens * self.chunk_context_s
                + windowed * self.windowed_chunk_context_s
            )
        )
        return np.asarray(seconds + attention / self.stages)

    def prompt_s(
        self,
        *,
        prompt_tokens: Number,
        cached_tokens: Number,
        sequences: Number,
        kv_tokens: Number,
        windowed_kv_tokens: Number,
    ) -> NDArray[np.float64]:
        """Seconds to compute one prompt in chunks while `sequences` others go on decoding.

        Chunks are what the token budget leaves beside the decoding sequences. A chunk passes
        through all pipeline stages, so pipelining does not shorten it.
        """
        todo = np.maximum(prompt_tokens - cached_tokens, 1.0)
        budget = np.maximum(self.max_batched_tokens - np.asarray(sequences, dtype=float), 1.0)
        chunks = np.ceil(todo / budget)
        one_pass = self.step_s(
            prefill_tokens=todo / chunks * self.stages,
            prefill_context_tokens=cached_tokens + todo / 2,
            sequences=sequences,
            kv_tokens=kv_tokens,
            windowed_kv_tokens=windowed_kv_tokens,
        )
        return np.asarray(chunks * one_pass)
