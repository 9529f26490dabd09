"""A language model's architecture -> its parameters, its weight bytes and its KV-cache bytes.

The only parameter count and the only KV-bytes-per-token in the tree. A model is a list of layer
groups; a layer is a *mixer* (softmax attention or a linear-attention / state-space block) and a
list of matrices (`Linear`), plus, for mixture-of-experts layers, a bank of experts. Memory,
roofline and reports all read this one description.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tonnage.dtypes import DTYPES, KV_BYTES_PER_VALUE

Split = Literal["column", "row", "kv", "replicated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A matrix of `in_features` x `out_features`, applied to every token of its layer.

    `split` says what tensor parallelism does with it: "column" and "row" cut it evenly, "kv" cuts
    it no finer than one KV head per GPU, "replicated" leaves it whole on every GPU.
    `quantised` is false for the matrices that checkpoints keep in 16 bits (routers, gates).
    """

    name: str
    in_features: int
    out_features: int
    split: Split
    quantised: bool = True

    @property
    def parameters(self) -> int:
        """Values in the matrix (biases are counted in `LayerGroup.other_parameters`)."""
        return self.in_features * self.out_features


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxAttention:
    """Attention over a cache of keys and values that grows with the context.

    MHA and GQA store `kv_heads * (qk_head_dim + v_head_dim)` values per token and layer. MLA
    (`latent_values` not 0) stores `latent_values = kv_lora_rank + qk_rope_head_dim` values instead,
    whole on every tensor-parallel rank. `window_tokens` stops growth (sliding or chunked
    attention); `index_top_k` reads only that many tokens while keeping all (sparse attention), with
    `index_values` more stored per token for the indexer; `compress_ratio` keeps, beyond the
    window, one entry per that many tokens.
    """

    heads: int
    kv_heads: int
    qk_head_dim: int
    v_head_dim: int
    window_tokens: int | None = None
    latent_values: int = 0
    index_top_k: int | None = None
    index_values: int = 0
    compress_ratio: int | None = None

    @property
    def kv_values_per_token(self) -> int:
        """Values cached per token by one layer, over all its KV heads (MLA: the latent)."""
        if self.latent_values:
            return self.latent_values + self.index_values
        return self.kv_heads * (self.qk_head_dim + self.v_head_dim) + self.index_values

    def kv_values_per_token_per_gpu(self, tensor_parallel: int) -> float:
        """Values cached per token by one layer on one of `tensor_parallel` GPUs.

        KV heads are never split finer than one per GPU (beyond that they are replicated); MLA's
        latent is held whole by every rank.
        """
        if self.latent_values:
            return self.kv_values_per_token
        heads_per_gpu = max(self.kv_heads / tensor_parallel, 1)
        return heads_per_gpu * (self.qk_head_dim + self.v_head_dim) + self.index_values

    def tokens_kept(self, context_tokens: float) -> float:
        """Cache entries one sequence of `context_tokens` holds in one such layer."""
        if self.window_tokens is None:
            return context_tokens
        kept = min(context_tokens, self.window_tokens)
        if self.compress_ratio:
            kept += context_tokens // self.compress_ratio
        return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """Linear attention or a state-space block: a state of constant size, whatever the context.

    `state_values` counts the recurrent and convolution state of one sequence in one layer, kept in
    `state_bytes_per_value` (engines keep it in fp32 or bf16); `flop_per_token` is the recurrence
    itself, without the projections, which are `Linear`s.
    """

    state_values: int
    flop_per_token: int
    state_bytes_per_value: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A bank of `count` experts of which each token uses `per_token`, each made of `linears`."""

    count: int
    per_token: int
    linears: tuple[Linear, ...]
    other_parameters_per_expert: int = 0

    @property
    def parameters_per_expert(self) -> int:
        """Values in one expert, biases included."""
        return sum(linear.parameters for linear in self.linears) + self.other_parameters_per_expert


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """`count` layers of one kind. `other_parameters` counts norms, biases and small vectors."""

    count: int
    mixer: SoftmaxAttention | LinearAttention | None
    linears: tuple[Linear, ...]
    experts: Experts | None = None
    other_parameters: int = 0

    @property
    def parameters_per_layer(self) -> int:
        """All values of one layer."""
        return self._parameters(self.experts.count if self.experts else 0)

    @property
    def active_parameters_per_layer(self) -> int:
        """Values of one layer that one token is multiplied with."""
        return self._parameters(self.experts.per_token if self.experts else 0)

    def _parameters(self, experts: int) -> int:
        dense = sum(linear.parameters for linear in self.linears) + self.other_parameters
        return dense + (experts * self.experts.parameters_per_expert if self.experts else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeQuantisation:
    """What a checkpoint is published in. `scope`: which matrices are stored in `dtype`.

    With the scope "experts", `dense_dtype` is what the other quantised matrices are stored in
    (DeepSeek-V4: fp8 beside fp4 experts); None leaves them in the native 16-bit dtype.
    """

    dtype: str
    scope: Literal["linears", "experts"]
    dense_dtype: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model. Sizes in values (parameters) and tokens; see the module for the parts.

    `native_dtype` is the 16-bit format of what is not quantised; `native_quantisation` says what
    is. `published_parameters` is the maker's own count, `source` where the architecture was read.
    """

    name: str
    family: str
    hidden_size: int
    vocab_size: int
    max_context_tokens: int
    layer_groups: tuple[LayerGroup, ...]
    tied_embeddings: bool
    native_dtype: str = "bf16"
    native_quantisation: NativeQuantisation | None = None
    other_parameters: int = 0  # final norm, position embeddings
    published_parameters: float | None = None
    source: str = ""
    aliases: tuple[str, ...] = ()
    notes: str = ""

    @cached_property
    def layers(self) -> int:
        """Layers, of all kinds."""
        return sum(group.count for group in self.layer_groups)

    @cached_property
    def embedding_parameters(self) -> int:
        """Values of the token embedding, counted once; the LM head is the same size."""
        return self.vocab_size * self.hidden_size

    @cached_property
    def parameters(self) -> int:
        """All values of the text model; tied embeddings are counted once."""
        embeddings = self.embedding_parameters * (1 if self.tied_embeddings else 2)
        layers = sum(group.count * group.parameters_per_layer for group in self.layer_groups)
        return embeddings + layers + self.other_parameters

    @cached_property
    def active_parameters(self) -> int:
        """Values one token is multiplied with, LM head included, embedding look-up excluded."""
        layers = sum(group.count * group.active_parameters_per_layer for group in self.layer_groups)
        return self.embedding_parameters + layers + self.other_parameters

    @cached_property
    def heads(self) -> int:
        """The smallest number of query heads of any attention layer: what TP must divide."""
        return min(
            (
                group.mixer.heads
                for group in self.layer_groups
                if isinstance(group.mixer, SoftmaxAttention)
            ),
            default=1,
        )

    @cached_property
    def kv_heads(self) -> int:
        """The smallest number of KV heads of any layer that has some (MLA: its query heads)."""
        return min(
            (
                group.mixer.heads if group.mixer.latent_values else group.mixer.kv_heads
                for group in self.layer_groups
                if isinstance(group.mixer, SoftmaxAttention)
            ),
            default=1,
        )

    @cached_property
    def window_tokens(self) -> int | None:
        """The sliding window of the windowed layers, None when every layer sees everything."""
        windows = {
            group.mixer.window_tokens
            for group in self.layer_groups
            if isinstance(group.mixer, SoftmaxAttention) and group.mixer.window_tokens is not None
        }
        return max(windows, default=None)

    @property
    def native_weight_dtype(self) -> str:
        """The dtype the checkpoint is published in."""
        return self.native_quantisation.dtype if self.native_quantisation else self.native_dtype

    def linear_dtype(self, weight_dtype: str, linear: Linear, *, expert: bool) -> str:
        """The dtype `linear` is stored in when the model is loaded as `weight_dtype`.

        A native quantisation of the experts alone leaves the other matrices in 16 bits, or in its
        `dense_dtype`.
        """
        if not linear.quantised:
            return self.native_dtype
        native = self.native_quantisation
        as_published = native is not None and native.dtype == weight_dtype
        if native is not None and as_published and native.scope == "experts" and not expert:
            return native.dense_dtype or self.native_dtype
        return weight_dtype

    def weights_bytes(self, weight_dtype: str | None = None) -> float:
        """Bytes of all weights as `weight_dtype` (default: as published).

        Embeddings, LM head, norms and unquantised matrices stay in the native 16-bit dtype.
        """
        dtype = weight_dtype or self.native_weight_dtype
        sixteen_bit = DTYPES[self.native_dtype].bytes_per_value
        total = self.embedding_parameters * (1 if self.tied_embeddings else 2) * sixteen_bit
        total += self.other_parameters * sixteen_bit
        for group in self.layer_groups:
            layer = sum(
                linear.parameters
                * DTYPES[self.linear_dtype(dtype, linear, expert=False)].bytes_per_value
                for linear in group.linears
            )
            layer += group.other_parameters * sixteen_bit
            if group.experts:
                layer += group.experts.count * (
                    sum(
                        linear.parameters
                        * DTYPES[self.linear_dtype(dtype, linear, expert=True)].bytes_per_value
                        for linear in group.experts.linears
                    )
                    + group.experts.other_parameters_per_expert * sixteen_bit
                )
            total += group.count * layer
        return total

    def kv_bytes_per_token(self, kv_dtype: str) -> float:
        """Bytes one more token of context costs while every window is still growing.

        Sum over softmax-attention layers of the values they cache per token. Stops being true for
        windowed layers beyond their window: use `kv_bytes_per_session`.
        """
        return KV_BYTES_PER_VALUE[kv_dtype] * sum(
            group.count * group.mixer.kv_values_per_token
            for group in self.layer_groups
            if isinstance(group.mixer, SoftmaxAttention)
        )

    def kv_bytes_per_session(self, context_tokens: float, kv_dtype: str) -> float:
        """Bytes of cache and state one sequence of `context_tokens` holds, over all its layers.

        Sum over layers of `tokens kept * values per token * bytes`, plus the constant state of
        linear-attention layers. The engine adds block rounding and, for hybrid models, padding.
        """
        return self._cache_bytes(context_tokens, kv_dtype, engine_charges_windows_in_full=False)

    def kv_bytes_per_session_full_charge(self, context_tokens: float, kv_dtype: str) -> float:
        """As `kv_bytes_per_session`, when the engine charges windowed layers like full ones.

        vLLM before its hybrid cache groups, and any engine with that feature off, keeps the whole
        context for every layer (vLLM issue 28228; hf-mem issue 60 shows the log).
        """
        return self._cache_bytes(context_tokens, kv_dtype, engine_charges_windows_in_full=True)

    def _cache_bytes(
        self, context_tokens: float, kv_dtype: str, *, engine_charges_windows_in_full: bool
    ) -> float:
        total = 0.0
        for group in self.layer_groups:
            mixer = group.mixer
            if isinstance(mixer, SoftmaxAttention):
                kept = (
                    context_tokens
                    if engine_charges_windows_in_full
                    else mixer.tokens_kept(context_tokens)
                )
                total += (
                    group.count * kept * mixer.kv_values_per_token * KV_BYTES_PER_VALUE[kv_dtype]
                )
            elif isinstance(mixer, LinearAttention):
                total += group.count * mixer.state_values * mixer.state_bytes_per_value
        return total
