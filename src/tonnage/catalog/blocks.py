"""The keys of a Hugging Face config.json -> the halves of one layer.

A layer is a mixer (attention, linear attention, a state-space block) and a feed-forward (dense, or
a bank of experts). Each function here builds one such half, a `Block`, from the config's numbers
and what its `Family` fixes; `architectures` arranges them into models.

Every fact was read in the `modeling_*.py` of transformers 5.23 unless a line says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tonnage.errors import InputError, UnsupportedError
from tonnage.model import (
    Experts,
    LayerGroup,
    Linear,
    LinearAttention,
    SoftmaxAttention,
    Split,
)

MAX_LAYERS = 10_000  # more is a broken file, not a model


class Config:
    """A config.json seen through the questions the reader asks; each complaint names its key.

    Like the library that writes these files, null means absent.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def get(self, *keys: str) -> Any:  # noqa: ANN401 (JSON has any type)
        """The first of `keys` that is there and not null."""
        return next((self.values[key] for key in keys if self.values.get(key) is not None), None)

    def integer(self, *keys: str, default: int | None = None, minimum: int = 1) -> int:
        """The first of `keys` as an integer of at least `minimum`; InputError without a default."""
        value = self.get(*keys)
        if value is None:
            if default is not None:
                return default
            also = f" (or {', '.join(keys[1:])})" if keys[1:] else ""
            raise InputError(
                f"is missing{also}.",
                key=keys[0],
                hint="Add it from the model's own config.json, or give the complete file.",
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            key = next(key for key in keys if self.values.get(key) is not None)
            raise InputError(
                f"is {value!r}, where a whole number of at least {minimum} belongs.", key=key
            )
        return value

    def optional(self, *keys: str, minimum: int = 1) -> int | None:
        """The first of `keys` as an integer, None when there is none."""
        return None if self.get(*keys) is None else self.integer(*keys, minimum=minimum)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """`key` as true or false."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(f"is {value!r}, where true or false belongs.", key=key)
        return value

    def per_layer(self, key: str, layers: int) -> list[Any] | None:
        """`key` as a list with one entry for each of `layers` (drafts beyond them are cut off)."""
        value = self.get(key)
        if value is None or not isinstance(value, list):
            return None
        if len(value) < layers:
            raise InputError(f"has {len(value)} entries for {layers} layers.", key=key)
        return value[:layers]

    def section(self, key: str) -> Config:
        """The table under `key`, empty when there is none."""
        value = self.get(key)
        return Config(value if isinstance(value, Mapping) else {})

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.integer("hidden_size", "n_embd", "n_embed", "d_model")

    @property
    def layers(self) -> int:
        """Layers, drafts not counted."""
        layers = self.integer("num_hidden_layers", "n_layer", "n_layers", "num_layers")
        if layers > MAX_LAYERS:
            raise InputError(f"is {layers}, which no model has.", key="num_hidden_layers")
        return layers

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.integer("num_attention_heads", "n_head", "n_heads")

    @property
    def kv_heads(self) -> int:
        """Key/value heads; one per query head when the file does not say."""
        kv_heads = self.integer("num_key_value_heads", "num_attention_groups", default=self.heads)
        if kv_heads > self.heads or self.heads % kv_heads:
            raise InputError(
                f"is {kv_heads}, which does not divide the {self.heads} query heads.",
                key="num_key_value_heads",
            )
        return kv_heads

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        stated = self.optional("head_dim", "attention_head_dim", "kv_channels")
        if stated is not None:
            return stated
        if self.hidden_size % self.heads:
            raise InputError(
                f"is missing, and hidden_size {self.hidden_size} is no multiple of the"
                f" {self.heads} heads.",
                key="head_dim",
            )
        return self.hidden_size // self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Half a layer: a mixer with its projections, or a feed-forward with its experts."""

    linears: tuple[Linear, ...] = ()
    mixer: SoftmaxAttention | LinearAttention | None = None
    experts: Experts | None = None
    other_parameters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a `model_type` fixes that its config.json does not say.

    `norms` counts the hidden-size norms of a layer, each of `norm_vectors` vectors (2 for a
    LayerNorm with bias). `biases`: which of q, k, v, o have one; None leaves it to the config's
    `attention_bias`, which switches on `config_biases`. `qk_norm` over each head or over all of
    them. `windows`: which layers slide when the file has a window but no `layer_types` ("period":
    all but each `period`-th). `sparse_size` names the key of an expert's width.
    """

    norms: int = 2
    norm_vectors: int = 1
    qk_norm: Literal["none", "head", "full"] = "none"
    qk_norm_optional: bool = False
    biases: str | None = None
    config_biases: str = "qkvo"
    gated: bool = True
    windows: Literal["none", "all", "qwen", "period"] = "none"
    period: int = 1
    tied: bool = False
    learned_positions: bool = False
    sinks: bool = False
    output_gate: bool = False
    sparse_size: str = "moe_intermediate_size"
    expert_biases: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    attention: Callable[[Config, Family, str], Block] | None = None
    linear: Callable[[Config], Block] | None = None
    layers: Callable[[Config, Family], tuple[LayerGroup, ...]] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


def matrix(
    name: str, in_features: int, out_features: int, split: Split, *, quantised: bool = True
) -> Linear:
    """A `Linear`, in the order people write a matrix."""
    return Linear(
        name=name,
        in_features=in_features,
        out_features=out_features,
        split=split,
        quantised=quantised,
    )


def with_more(block: Block, *, linears: Sequence[Linear] = (), other_parameters: int = 0) -> Block:
    """`block` with more matrices and small vectors."""
    return Block(
        mixer=block.mixer,
        experts=block.experts,
        linears=block.linears + tuple(linears),
        other_parameters=block.other_parameters + other_parameters,
    )


def window_tokens(config: Config) -> int | None:
    """The window in tokens; None when there is none or when no context is longer than it."""
    window = config.optional("sliding_window", "attention_chunk_size")
    if window is None or window >= max_context_tokens(config):
        return None
    return window


def max_context_tokens(config: Config) -> int:
    """The longest context the model was made for."""
    keys = ["max_position_embeddings", "n_positions", "seq_length", "max_seq_len"]
    if config.get("model_type") == "cohere":  # Command R states its trained length apart
        keys.insert(0, "model_max_length")
    return config.integer(*keys)


# ── mixers ───────────────────────────────────────────────────────────────────────────────────


def grouped_query(config: Config, family: Family, kind: str) -> Block:
    """MHA, GQA and MQA: q, k, v and o projections, optional head norms, biases, gate and sinks."""
    return attention_block(
        config,
        family,
        heads=config.heads,
        kv_heads=config.kv_heads,
        qk_head_dim=config.head_dim,
        v_head_dim=config.head_dim,
        window=window_tokens(config) if kind == "sliding" else None,
    )


def attention_block(
    config: Config,
    family: Family,
    *,
    heads: int,
    kv_heads: int,
    qk_head_dim: int,
    v_head_dim: int,
    window: int | None,
) -> Block:
    """Attention with separate keys and values, of the dimensions given."""
    hidden = config.hidden_size
    query, value = heads * qk_head_dim, heads * v_head_dim
    keys, values = kv_heads * qk_head_dim, kv_heads * v_head_dim
    biases = family.biases
    if biases is None:
        stated = config.flag("attention_bias") or config.flag("bias")
        biases = family.config_biases if stated else ""
    other = sum(
        size
        for letter, size in zip("qkvo", (query, keys, values, hidden), strict=True)
        if letter in biases
    )
    if not family.qk_norm_optional or config.flag("use_qk_norm"):
        other += {"none": 0, "head": 2 * qk_head_dim, "full": query + keys}[family.qk_norm]
    if family.sinks:
        other += heads
    gated = 2 if family.output_gate else 1  # the gate of the output is a second half of q_proj
    return Block(
        mixer=SoftmaxAttention(
            heads=heads,
            kv_heads=kv_heads,
            qk_head_dim=qk_head_dim,
            v_head_dim=v_head_dim,
            window_tokens=window,
        ),
        linears=(
            matrix("q_proj", hidden, gated * query, "column"),
            matrix("k_proj", hidden, keys, "kv"),
            matrix("v_proj", hidden, values, "kv"),
            matrix("o_proj", value, hidden, "row"),
        ),
        other_parameters=other,
    )


def latent_attention(config: Config, _family: Family, kind: str) -> Block:
    """Multi-head latent attention (DeepSeek-V2 report, 2.1), with V3.2's indexer where it is."""
    hidden, heads = config.hidden_size, config.heads
    kv_rank = config.integer("kv_lora_rank")
    rope, nope = config.integer("qk_rope_head_dim"), config.integer("qk_nope_head_dim")
    v_dim = config.integer("v_head_dim")
    q_rank = config.optional("q_lora_rank")
    if q_rank is None:
        queries = [matrix("q_proj", hidden, heads * (nope + rope), "column")]
    else:
        queries = [
            matrix("q_a_proj", hidden, q_rank, "replicated"),
            matrix("q_b_proj", q_rank, heads * (nope + rope), "column"),
        ]
    linears = [
        *queries,
        matrix("kv_a_proj", hidden, kv_rank + rope, "replicated"),
        matrix("kv_b_proj", kv_rank, heads * (nope + v_dim), "column"),
        matrix("o_proj", heads * v_dim, hidden, "row"),
    ]
    other = kv_rank + (q_rank or 0)
    index_top_k = config.optional("index_topk")
    index_values = 0
    if index_top_k is not None and kind != "shared":
        index_values = config.integer("index_head_dim")
        index_heads = config.integer("index_n_heads")
        linears += [
            matrix("index_q_proj", q_rank or hidden, index_heads * index_values, "replicated"),
            matrix("index_k_proj", hidden, index_values, "replicated"),
            matrix("index_weights", hidden, index_heads, "replicated", quantised=False),
        ]
        other += 2 * index_values  # a LayerNorm of the keys
    return Block(
        mixer=SoftmaxAttention(
            heads=heads,
            kv_heads=config.kv_heads,
            qk_head_dim=nope + rope,
            v_head_dim=v_dim,
            latent_values=kv_rank + rope,
            index_top_k=index_top_k,
            index_values=index_values,
        ),
        linears=tuple(linears),
        other_parameters=other,
    )


def mimo_attention(config: Config, _family: Family, kind: str) -> Block:
    """MiMo V2: windowed layers have heads of their own and attention sinks."""
    prefix = "swa_" if kind == "sliding" else ""
    dim = config.integer(f"{prefix}head_dim", "head_dim")
    return attention_block(
        config,
        Family(sinks=kind == "sliding"),
        heads=config.integer(f"{prefix}num_attention_heads", "num_attention_heads"),
        kv_heads=config.integer(f"{prefix}num_key_value_heads", "num_key_value_heads"),
        qk_head_dim=dim,
        v_head_dim=config.integer(f"{prefix}v_head_dim", "v_head_dim", "head_dim"),
        window=window_tokens(config) if kind == "sliding" else None,
    )


def step_attention(config: Config, family: Family, kind: str) -> Block:
    """Step 3.5 and later: windowed layers have their own head count; one gate value per head."""
    other = config.section("attention_other_setting") if kind == "sliding" else Config({})
    heads = other.integer("num_attention_heads", default=config.heads)
    block = attention_block(
        config,
        family,
        heads=heads,
        kv_heads=other.integer("num_attention_groups", default=config.kv_heads),
        qk_head_dim=config.head_dim,
        v_head_dim=config.head_dim,
        window=window_tokens(config) if kind == "sliding" else None,
    )
    return with_more(block, linears=[matrix("gate_heads", config.hidden_size, heads, "column")])


def gemma4_attention(config: Config, family: Family, kind: str) -> Block:
    """Gemma 4: full layers have wider heads, fewer of them, and values that are the keys."""
    if config.optional("num_kv_shared_layers", minimum=0):
        raise UnsupportedError(
            "num_kv_shared_layers: layers that share another layer's KV cache are not modelled.",
            hint="Choose a model without them.",
        )
    full = kind == "full"
    dim = config.integer("global_head_dim", "head_dim") if full else config.head_dim
    keys_are_values = full and config.flag("attention_k_eq_v")
    kv_heads = (
        config.integer("num_global_key_value_heads", "num_key_value_heads")
        if keys_are_values
        else config.kv_heads
    )
    block = attention_block(
        config,
        family,
        heads=config.heads,
        kv_heads=kv_heads,
        qk_head_dim=dim,
        v_head_dim=dim,
        window=None if full else window_tokens(config),
    )
    if not keys_are_values:
        return block
    return Block(
        mixer=block.mixer,
        linears=tuple(linear for linear in block.linears if linear.name != "v_proj"),
        other_parameters=block.other_parameters,
    )


def gated_delta_net(config: Config) -> Block:
    """Gated delta rule (Qwen3-Next): per value head a key x value state, and a short convolution.

    One token decays the state, reads it at its key, writes the correction, reads it at its query:
    7 operations per state value.
    """
    hidden = config.hidden_size
    key_heads = config.integer("linear_num_key_heads")
    value_heads = config.integer("linear_num_value_heads")
    key_dim, value_dim = (
        config.integer("linear_key_head_dim"),
        config.integer("linear_value_head_dim"),
    )
    kernel = config.integer("linear_conv_kernel_dim")
    keys, values = key_heads * key_dim, value_heads * value_dim
    convolved = 2 * keys + values
    state = value_heads * key_dim * value_dim
    return Block(
        mixer=LinearAttention(
            state_values=state + convolved * (kernel - 1),
            flop_per_token=7 * state + 2 * kernel * convolved,
            state_bytes_per_value=_state_bytes(config),
        ),
        linears=(
            matrix("in_proj_qkvz", hidden, 2 * keys + 2 * values, "column"),
            matrix("in_proj_ba", hidden, 2 * value_heads, "column", quantised=False),
            matrix("out_proj", values, hidden, "row"),
        ),
        other_parameters=convolved * kernel + 2 * value_heads + value_dim,
    )


def mamba2(config: Config) -> Block:
    """Mamba-2: one state of head width x state size per head, and a short convolution.

    One token decays the state, adds the outer product of its input and reads the state out:
    6 operations per state value.
    """
    hidden = config.hidden_size
    heads = config.integer("mamba_num_heads", "mamba_n_heads")
    inner = heads * config.integer("mamba_head_dim", "mamba_d_head")
    groups = config.integer("n_groups", "mamba_n_groups")
    size = config.integer("ssm_state_size", "mamba_d_state")
    kernel = config.integer("conv_kernel", "mamba_d_conv")
    convolved = inner + 2 * groups * size
    bias = config.flag("use_conv_bias", default=config.flag("mamba_conv_bias", default=True))
    return Block(
        mixer=LinearAttention(
            state_values=inner * size + convolved * (kernel - 1),
            flop_per_token=6 * inner * size + 2 * kernel * convolved,
            state_bytes_per_value=_state_bytes(config),
        ),
        linears=(
            matrix("in_proj", hidden, inner + convolved + heads, "column"),
            matrix("out_proj", inner, hidden, "row"),
        ),
        other_parameters=convolved * (kernel + bias) + 3 * heads + inner,
    )


def lightning(config: Config) -> Block:
    """Lightning attention (MiniMax-Text-01): one head width x head width state per head."""
    hidden, inner = config.hidden_size, config.heads * config.head_dim
    state = inner * config.head_dim
    return Block(
        mixer=LinearAttention(state_values=state, flop_per_token=5 * state),
        linears=(
            matrix("qkv_proj", hidden, 3 * inner, "column"),
            matrix("output_gate", hidden, inner, "column"),
            matrix("out_proj", inner, hidden, "row"),
        ),
        other_parameters=inner,
    )


def _state_bytes(config: Config) -> float:
    """Bytes of a state value: what the config asks engines to keep, fp32 when it does not say."""
    stated = config.get("mamba_ssm_dtype", "mamba_ssm_cache_dtype")
    return 2.0 if stated in ("bfloat16", "float16") else 4.0


# ── feed-forwards ────────────────────────────────────────────────────────────────────────────

EXPERT_COUNT = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = (
    "num_experts_per_tok",
    "experts_per_token",
    "top_k_experts",
    "num_experts_per_token",
    "moe_top_k",
)
_SHARED_SIZE = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
    "share_expert_dim",
)


def mlp_matrices(
    in_features: int,
    width: int,
    *,
    gated: bool = True,
    prefix: str = "",
    split: bool = True,
) -> tuple[Linear, ...]:
    """Two matrices, or three when a gate multiplies the up-projection."""
    column: Split = "column" if split else "replicated"
    row: Split = "row" if split else "replicated"
    gate = (matrix(f"{prefix}gate_proj", in_features, width, column),) if gated else ()
    return (
        *gate,
        matrix(f"{prefix}up_proj", in_features, width, column),
        matrix(f"{prefix}down_proj", width, in_features, row),
    )


def feed_forward(config: Config, family: Family, kind: str) -> Block:
    """The feed-forward of `kind`: "dense" or "experts"."""
    if kind == "experts":
        return experts_block(config, family)
    width = config.integer("intermediate_size_mlp", "intermediate_size", "ffn_hidden_size")
    biases = (width * (2 if family.gated else 1) + config.hidden_size) * config.flag("mlp_bias")
    return Block(
        linears=mlp_matrices(config.hidden_size, width, gated=family.gated), other_parameters=biases
    )


def experts_block(config: Config, family: Family) -> Block:
    """A router, a bank of experts and, where the model has them, experts that every token uses."""
    hidden = config.hidden_size
    count = config.integer(*EXPERT_COUNT)
    per_token = config.integer(*_EXPERTS_PER_TOKEN)
    if per_token > count:
        raise InputError(f"is {per_token} of {count} experts.", key="num_experts_per_tok")
    width = config.integer(family.sparse_size)
    latent = config.optional("moe_latent_size")
    shared = config.integer(*_SHARED_SIZE, default=0, minimum=0)
    if not shared:
        copies = config.integer("n_shared_experts", "num_shared_experts", default=0, minimum=0)
        shared = copies * width
    linears = [matrix("router", hidden, count, "replicated", quantised=False)]
    if latent:
        linears += [
            matrix("latent_down_proj", hidden, latent, "replicated"),
            matrix("latent_up_proj", latent, hidden, "replicated"),
        ]
    if shared:
        linears += mlp_matrices(hidden, shared, gated=family.gated, prefix="shared_")
    if shared and family.shared_gate:
        linears += [matrix("shared_gate", hidden, 1, "replicated", quantised=False)]
    expert = mlp_matrices(latent or hidden, width, gated=family.gated)
    matrices = len(expert) - 1
    return Block(
        linears=tuple(linears),
        experts=Experts(
            count=count,
            per_token=per_token,
            linears=expert,
            other_parameters_per_expert=matrices * width + hidden if family.expert_biases else 0,
        ),
        other_parameters=count if family.router_bias else 0,
    )
