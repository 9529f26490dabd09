"""The keys of a Hugging Face config.json -> the layers of a model.

A `model_type` fixes things its config.json never says: how many norms a layer has, where biases
sit, which layers are windowed when no list says so. `FAMILIES` holds those facts, one line each;
`layer_groups` turns them and the config's numbers into layers, with the halves that `blocks`
builds. Architectures that are not a plain stack of (mixer, feed-forward) pairs have a function of
their own.

Every fact was read in the `modeling_*.py` of transformers 5.23 unless a line says otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tonnage.catalog.blocks import (
    EXPERT_COUNT,
    Block,
    Config,
    Family,
    attention_block,
    experts_block,
    feed_forward,
    gated_delta_net,
    gemma4_attention,
    grouped_query,
    latent_attention,
    lightning,
    mamba2,
    matrix,
    max_context_tokens,
    mimo_attention,
    mlp_matrices,
    step_attention,
    window_tokens,
    with_more,
)
from tonnage.errors import InputError, UnsupportedError
from tonnage.model import LayerGroup, SoftmaxAttention


def layer_groups(config: Config, family: Family) -> tuple[LayerGroup, ...]:
    """The layers `config` describes, equal ones counted together."""
    if family.layers is not None:
        return family.layers(config, family)
    mixers = _mixer_schedule(config, family)
    feeds = ["experts" if sparse else "dense" for sparse in _sparse_schedule(config)]
    blocks = {kind: _mixer(config, family, kind) for kind in set(mixers)}
    blocks |= {kind: feed_forward(config, family, kind) for kind in set(feeds)}
    norms = family.norms * family.norm_vectors * config.hidden_size
    return _count(zip(mixers, feeds, strict=True), blocks, norms)


def other_parameters(config: Config, family: Family) -> int:
    """Values outside the layers and embeddings: the final norm, learned positions, head bias."""
    total = config.hidden_size * family.norm_vectors * (1 if family.norms else 0)
    if family.learned_positions:
        total += max_context_tokens(config) * config.hidden_size
    if config.flag("lm_head_bias"):
        total += config.integer("vocab_size")
    hyper = config.optional("hc_mult")
    if hyper:
        total += hyper * (hyper * config.hidden_size + 1) + 1
    return total


def _count(
    schedule: Iterable[tuple[str, str]], blocks: Mapping[str, Block], norms: int
) -> tuple[LayerGroup, ...]:
    """One group per kind of layer in `schedule`; "" names an absent half."""
    empty = Block()
    groups = []
    for (mixer_kind, feed_kind), count in Counter(schedule).items():
        mixer, feed = blocks.get(mixer_kind, empty), blocks.get(feed_kind, empty)
        groups.append(
            LayerGroup(
                count=count,
                mixer=mixer.mixer,
                linears=mixer.linears + feed.linears,
                experts=feed.experts,
                other_parameters=mixer.other_parameters + feed.other_parameters + norms,
            )
        )
    return tuple(groups)


# ── which layer is of which kind ─────────────────────────────────────────────────────────────

_LAYER_KINDS = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "sliding",
    "linear_attention": "linear",
    "mamba": "linear",
    "deepseek_sparse_attention": "full",  # the index is a matter of other keys
}


def _mixer_schedule(config: Config, family: Family) -> list[str]:
    """The kind of mixer of every layer: "full", "sliding", "linear", or a family's own word."""
    layers = config.layers
    for key, words in _LISTED_KINDS.items():
        listed = config.per_layer(key, layers)
        if listed is None or (key == "attn_type_list" and family.linear is None):
            continue
        unknown = {str(entry) for entry in listed if entry not in words}
        if unknown:
            raise UnsupportedError(
                f"{key} has {', '.join(sorted(unknown))}, which is not understood.",
                hint="Leave the model out, or describe it with layers tonnage knows.",
            )
        kinds = [words[entry] for entry in listed]
        window = window_tokens(config)
        return ["full" if kind == "sliding" and window is None else kind for kind in kinds]
    interval = config.optional("full_attention_interval")
    if family.linear is not None and interval:
        return ["linear" if (index + 1) % interval else "full" for index in range(layers)]
    if window_tokens(config) is None:
        return ["full"] * layers
    if family.windows == "all":
        return ["sliding"] * layers
    if family.windows == "qwen" and config.flag("use_sliding_window"):
        first = config.integer("max_window_layers", default=0, minimum=0)
        return ["sliding" if index >= first else "full" for index in range(layers)]
    if family.windows == "period":
        period = config.integer("sliding_window_pattern", default=family.period)
        return ["sliding" if (index + 1) % period else "full" for index in range(layers)]
    return ["full"] * layers


_LISTED_KINDS: dict[str, dict[Any, str]] = {
    "indexer_types": {"full": "full", "shared": "shared"},  # GLM-5.2 shares one index by four
    "layer_types": _LAYER_KINDS,
    "no_rope_layers": {1: "sliding", 0: "full"},  # Llama 4: layers without RoPE see everything
    "hybrid_layer_pattern": {1: "sliding", 0: "full"},  # MiMo V2
    "attn_type_list": {0: "linear", 1: "full"},  # MiniMax-Text-01
}


def _sparse_schedule(config: Config) -> list[bool]:
    """Whether each layer's feed-forward is a bank of experts."""
    layers = config.layers
    if not config.get(*EXPERT_COUNT):
        return [False] * layers
    listed = config.per_layer("mlp_layer_types", layers)
    if listed is not None:
        return [entry != "dense" for entry in listed]
    listed = config.per_layer("moe_layer_freq", layers)
    if listed is not None:
        return [bool(entry) for entry in listed]
    if isinstance(config.get("moe_layers"), list):
        return [index in config.get("moe_layers") for index in range(layers)]
    dense_first = config.integer("first_k_dense_replace", default=0, minimum=0)
    dense_only = config.get("mlp_only_layers") or ()
    step = config.integer("decoder_sparse_step", "interleave_moe_layer_step", default=1)
    return [
        index >= dense_first and index not in dense_only and (index + 1) % step == 0
        for index in range(layers)
    ]


def _mixer(config: Config, family: Family, kind: str) -> Block:
    if kind == "linear":
        if family.linear is None:
            raise UnsupportedError(
                "This model has linear-attention layers in a family where none are known.",
                hint="Leave the model out, or describe it with layers tonnage knows.",
            )
        return family.linear(config)
    return (family.attention or grouped_query)(config, family, kind)


def _minimax_m3(config: Config, family: Family) -> tuple[LayerGroup, ...]:
    """MiniMax M3: GQA whose sparse layers choose blocks of the cache through a small index."""
    sparse = config.section("sparse_attention_config")
    chosen = sparse.per_layer("sparse_attention_freq", config.layers) or [0] * config.layers
    dense = grouped_query(config, family, "full")
    blocks = {"full": dense}
    if any(chosen):
        index_dim = sparse.integer("sparse_index_dim")
        index_heads = sparse.integer("sparse_num_index_heads")
        top_k = sparse.integer("sparse_topk_blocks") * sparse.integer("sparse_block_size")
        blocks["indexed"] = Block(
            mixer=SoftmaxAttention(
                heads=config.heads,
                kv_heads=config.kv_heads,
                qk_head_dim=config.head_dim,
                v_head_dim=config.head_dim,
                index_top_k=top_k,
                index_values=index_dim,
            ),
            linears=(
                *dense.linears,
                matrix("index_q_proj", config.hidden_size, index_heads * index_dim, "replicated"),
                matrix("index_k_proj", config.hidden_size, index_dim, "replicated"),
            ),
            other_parameters=dense.other_parameters + 2 * index_dim,
        )
    feeds = ["experts" if entry else "dense" for entry in _sparse_schedule(config)]
    dense_size = config.integer("dense_intermediate_size", "intermediate_size")
    blocks["dense"] = Block(linears=mlp_matrices(config.hidden_size, dense_size))
    blocks["experts"] = experts_block(config, family)
    kinds = ["indexed" if entry else "full" for entry in chosen]
    return _count(zip(kinds, feeds, strict=True), blocks, 2 * config.hidden_size)


# ── architectures with a layout of their own ─────────────────────────────────────────────────


def _gemma4(config: Config, family: Family) -> tuple[LayerGroup, ...]:
    """Gemma 4: where there are experts, every layer also keeps a dense feed-forward beside them."""
    hidden = config.hidden_size
    if config.optional("hidden_size_per_layer_input", minimum=0):
        raise UnsupportedError(
            "hidden_size_per_layer_input: embeddings per layer are not modelled.",
            hint="Choose a model without them.",
        )
    mixers = _mixer_schedule(config, family)
    blocks = {kind: gemma4_attention(config, family, kind) for kind in set(mixers)}
    dense = feed_forward(config, family, "dense")
    norms = 4 * hidden
    if config.flag("enable_moe_block"):
        sparse = experts_block(config, family)
        dense = with_more(sparse, linears=dense.linears, other_parameters=hidden)
        dense = with_more(dense, other_parameters=config.integer("num_experts"))
        norms = 7 * hidden
    blocks["feed"] = dense
    return _count(((kind, "feed") for kind in mixers), blocks, norms)


def _llama4(config: Config, family: Family) -> tuple[LayerGroup, ...]:
    """Llama 4: three chunked layers then a full one; a shared expert beside one routed expert."""
    mixers = _mixer_schedule(config, family)
    feeds = ["experts" if sparse else "dense" for sparse in _sparse_schedule(config)]
    blocks = {kind: grouped_query(config, family, kind) for kind in set(mixers)}
    for kind in set(feeds):
        blocks[kind] = feed_forward(config, family, kind)
    if "experts" in blocks:
        shared = mlp_matrices(
            config.hidden_size, config.integer("intermediate_size"), prefix="shared_"
        )
        blocks["experts"] = with_more(blocks["experts"], linears=shared)
    return _count(zip(mixers, feeds, strict=True), blocks, 2 * config.hidden_size)


def _gpt2(config: Config, family: Family) -> tuple[LayerGroup, ...]:
    """GPT-2: MHA and a two-matrix feed-forward, biases everywhere, LayerNorms."""
    hidden = config.hidden_size
    width = config.integer("n_inner", default=4 * hidden)
    attention = grouped_query(config, family, "full")
    feed = Block(linears=mlp_matrices(hidden, width, gated=False), other_parameters=width + hidden)
    blocks = {"full": attention, "dense": feed}
    return _count([("full", "dense")] * config.layers, blocks, 4 * hidden)


def _falcon(config: Config, family: Family) -> tuple[LayerGroup, ...]:
    """Falcon: attention and a two-matrix feed-forward side by side on one or two LayerNorms."""
    hidden, heads = config.hidden_size, config.heads
    newer = config.flag("new_decoder_architecture")
    parallel = newer or config.flag("parallel_attn", default=True)
    norms = config.integer("num_ln_in_parallel_attn", default=2 if newer else 1)
    kv_heads = heads
    if newer:
        kv_heads = config.integer("num_kv_heads", "n_head_kv", default=heads)
    elif config.flag("multi_query", default=True):
        kv_heads = 1
    dim = config.head_dim
    attention = attention_block(
        config,
        family,
        heads=heads,
        kv_heads=kv_heads,
        qk_head_dim=dim,
        v_head_dim=dim,
        window=None,
    )
    width = config.integer("ffn_hidden_size", default=4 * hidden)
    feed = Block(
        linears=mlp_matrices(hidden, width, gated=False),
        other_parameters=(width + hidden) * config.flag("bias"),
    )
    vectors = 2 * hidden * (norms if parallel else 2)
    blocks = {"full": attention, "dense": feed}
    return _count([("full", "dense")] * config.layers, blocks, vectors)


def _nemotron_h(config: Config, family: Family) -> tuple[LayerGroup, ...]:
    """Nemotron-H: every layer is one thing, a Mamba-2 block, attention, experts or an MLP."""
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        words = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
        if set(pattern) - set(words):
            raise InputError(
                f"is {pattern!r}, where only M, *, - and E belong.", key="hybrid_override_pattern"
            )
        kinds = [words[letter] for letter in pattern]
    elif isinstance(config.get("layers_block_type"), list):
        kinds = list(config.get("layers_block_type"))
    else:
        raise InputError(
            "is missing (or layers_block_type).",
            key="hybrid_override_pattern",
            hint="Add it from the model's own config.json, or give the complete file.",
        )
    builders: dict[str, Callable[[], Block]] = {
        "mamba": lambda: mamba2(config),
        "attention": lambda: grouped_query(config, family, "full"),
        "mlp": lambda: feed_forward(config, family, "dense"),
        "moe": lambda: experts_block(config, family),
    }
    unknown = set(kinds) - set(builders)
    if unknown:
        raise UnsupportedError(
            f"layers_block_type has {', '.join(sorted(map(str, unknown)))},"
            " which is not understood.",
            hint="Leave the model out, or describe it with layers tonnage knows.",
        )
    blocks = {kind: builders[kind]() for kind in dict.fromkeys(kinds)}
    schedule = [(kind, "") if kind in ("mamba", "attention") else ("", kind) for kind in kinds]
    return _count(schedule, blocks, config.hidden_size)


def _granite_hybrid(config: Config, family: Family) -> tuple[LayerGroup, ...]:
    """Granite 4: Mamba-2 and attention layers, a shared MLP in each, experts beside it in some."""
    mixers = _mixer_schedule(config, family)
    blocks = {kind: _mixer(config, family, kind) for kind in set(mixers)}
    shared = mlp_matrices(
        config.hidden_size,
        config.integer("shared_intermediate_size", "intermediate_size"),
        prefix="shared_",
    )
    blocks["feed"] = Block(linears=shared)
    if config.get(*EXPERT_COUNT):
        blocks["feed"] = experts_block(config, family)
    return _count(((kind, "feed") for kind in mixers), blocks, 2 * config.hidden_size)


_PUZZLE_MULTIPLE = 256  # DeciLM rounds its feed-forward widths up to this


def _puzzle(config: Config, family: Family) -> tuple[LayerGroup, ...]:
    """Nemotron-NAS (DeciLM): each block has its own attention, or none, and its own MLP width."""
    hidden, heads, dim = config.hidden_size, config.heads, config.head_dim
    entries = config.per_layer("block_configs", config.layers)
    if entries is None:
        raise InputError("is missing.", key="block_configs", hint="Give the complete config.json.")
    schedule = []
    blocks: dict[str, Block] = {}
    for entry in entries:
        mixing, feed = Config(entry).section("attention"), Config(entry).section("ffn")
        mixer_kind = feed_kind = ""
        if mixing.flag("replace_with_linear"):
            mixer_kind = "attention linear"
            blocks[mixer_kind] = _one_matrix(hidden)
        elif not mixing.flag("no_op"):
            group = mixing.integer("n_heads_in_group")
            window = mixing.optional("window_length")
            mixer_kind = f"attention {group} {window}"
            blocks[mixer_kind] = attention_block(
                config,
                family,
                heads=heads,
                kv_heads=heads // group,
                qk_head_dim=dim,
                v_head_dim=dim,
                window=window,
            )
        if feed.flag("replace_with_linear"):
            feed_kind = "ffn linear"
            blocks[feed_kind] = _one_matrix(hidden)
        elif not feed.flag("no_op"):
            feed_kind = f"ffn {feed.get('ffn_mult', 'intermediate_size')}"
            blocks[feed_kind] = Block(linears=mlp_matrices(hidden, _puzzle_width(feed, hidden)))
        schedule.append((mixer_kind, feed_kind))
    groups: list[LayerGroup] = []
    for group_of in (0, 1, 2):  # a half that is left out takes its norm with it
        same = [pair for pair in schedule if sum(map(bool, pair)) == group_of]
        groups.extend(_count(same, blocks, group_of * hidden))
    return tuple(groups)


def _one_matrix(hidden: int) -> Block:
    return Block(linears=(matrix("linear", hidden, hidden, "replicated"),))


def _puzzle_width(feed: Config, hidden: int) -> int:
    stated = feed.optional("intermediate_size")
    if stated is not None:
        return stated
    multiple = feed.get("ffn_mult")
    if isinstance(multiple, bool) or not isinstance(multiple, int | float):
        raise InputError(f"is {multiple!r}, where a number belongs.", key="ffn_mult")
    width = int(2 * multiple * hidden / 3)
    return -(-width // _PUZZLE_MULTIPLE) * _PUZZLE_MULTIPLE


def _deepseek_v4(config: Config, family: Family) -> tuple[LayerGroup, ...]:
    """DeepSeek-V4: a window on every layer and, beyond it, one entry per 4 or per 128 tokens.

    One shared head serves as key and value (`latent_values`); ratio 4 keeps an index and reads its
    best entries, ratio 128 reads all of them.
    """
    layers = config.layers
    ratios = config.per_layer("compress_ratios", layers)
    if ratios is None:
        raise InputError(
            "is missing.", key="compress_ratios", hint="Give the complete config.json."
        )
    blocks = {f"ratio {ratio}": _compressed(config, ratio) for ratio in sorted(set(ratios))}
    blocks["experts"] = experts_block(config, family)
    hidden, streams = config.hidden_size, config.integer("hc_mult")
    mix = (2 + streams) * streams  # weights of the residual streams before and after each half
    connection = matrix("hyper_connection", streams * hidden, mix, "replicated", quantised=False)
    blocks["experts"] = with_more(
        blocks["experts"], linears=[connection, connection], other_parameters=2 * (mix + 3)
    )
    return _count(((f"ratio {ratio}", "experts") for ratio in ratios), blocks, 2 * hidden)


def _compressed(config: Config, ratio: int) -> Block:
    hidden, heads, dim = config.hidden_size, config.heads, config.head_dim
    q_rank, o_rank = config.integer("q_lora_rank"), config.integer("o_lora_rank")
    groups = config.integer("o_groups")
    linears = [
        matrix("q_a_proj", hidden, q_rank, "replicated"),
        matrix("q_b_proj", q_rank, heads * dim, "column"),
        matrix("kv_proj", hidden, dim, "replicated"),
        matrix("o_a_proj", heads * dim // groups, groups * o_rank, "column"),
        matrix("o_b_proj", groups * o_rank, hidden, "row"),
    ]
    other = q_rank + dim + heads  # two norms and the attention sinks
    index_top_k, index_values = None, 0
    if ratio:
        indexed = ratio == _INDEXED_RATIO
        overlap = 2 if indexed else 1  # entries of ratio 4 are made from overlapping spans
        linears += [
            matrix("compress_kv_proj", hidden, overlap * dim, "replicated"),
            matrix("compress_gate_proj", hidden, overlap * dim, "replicated"),
        ]
        other += ratio * overlap * dim + dim
        if indexed:
            index_top_k = config.integer("index_topk")
            index_values = config.integer("index_head_dim")
            index_heads = config.integer("index_n_heads")
            linears += [
                matrix("index_kv_proj", hidden, 2 * index_values, "replicated"),
                matrix("index_gate_proj", hidden, 2 * index_values, "replicated"),
                matrix("index_q_proj", q_rank, index_heads * index_values, "replicated"),
                matrix("index_weights", hidden, index_heads, "replicated", quantised=False),
            ]
            other += ratio * 2 * index_values + index_values
    return Block(
        mixer=SoftmaxAttention(
            heads=heads,
            kv_heads=config.kv_heads,
            qk_head_dim=dim,
            v_head_dim=dim,
            window_tokens=config.integer("sliding_window"),
            latent_values=dim,
            index_top_k=index_top_k,
            index_values=index_values,
            compress_ratio=ratio or None,
        ),
        linears=tuple(linears),
        other_parameters=other,
    )


_INDEXED_RATIO = 4  # DeepSeek-V4: the compression whose entries are chosen by an index


# ── the families ─────────────────────────────────────────────────────────────────────────────

_QWEN_LINEAR = Family(qk_norm="head", output_gate=True, shared_gate=True, linear=gated_delta_net)
_MISTRAL = Family(windows="all", biases="")
_LATENT = Family(attention=latent_attention, router_bias=True)
_MINIMAX_M3 = Family(
    qk_norm="head", sparse_size="intermediate_size", router_bias=True, layers=_minimax_m3
)

FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": _MISTRAL,
    "ministral": _MISTRAL,
    "ministral3": _MISTRAL,
    "mixtral": Family(windows="all", biases="", sparse_size="intermediate_size"),
    "mimo": Family(biases="qkv", windows="qwen"),
    "qwen2": Family(biases="qkv", windows="qwen"),
    "qwen2_vl": Family(biases="qkv", windows="qwen"),
    "qwen2_vl_text": Family(biases="qkv", windows="qwen"),
    "qwen2_5_vl": Family(biases="qkv", windows="qwen"),
    "qwen2_5_vl_text": Family(biases="qkv", windows="qwen"),
    "qwen2_moe": Family(biases="qkv", windows="qwen", shared_gate=True),
    "qwen3": Family(qk_norm="head", windows="qwen"),
    "qwen3_moe": Family(qk_norm="head", windows="qwen"),
    "qwen3_vl_text": Family(qk_norm="head"),
    "qwen3_vl_moe_text": Family(qk_norm="head"),
    "qwen3_next": _QWEN_LINEAR,
    "qwen3_5_text": _QWEN_LINEAR,
    "qwen3_5_moe_text": _QWEN_LINEAR,
    "phi3": Family(windows="all", biases=""),
    "phimoe": Family(norm_vectors=2, windows="all", sparse_size="intermediate_size"),
    "gemma": Family(tied=True),
    "gemma2": Family(norms=4, windows="period", period=2, tied=True),
    "gemma3_text": Family(
        norms=4,
        qk_norm="head",
        windows="period",
        period=6,
        tied=True,
        defaults={  # published configs leave out what equals the library's default
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131_072,
            "sliding_window": 4096,
        },
    ),
    "gemma4_text": Family(
        norms=4, qk_norm="head", windows="period", period=6, tied=True, layers=_gemma4
    ),
    "olmo": Family(norms=0),
    "olmo2": Family(qk_norm="full"),
    "olmo3": Family(qk_norm="full", windows="period", period=4),
    "olmoe": Family(qk_norm="full", sparse_size="intermediate_size"),
    "granite": Family(),
    "granitemoehybrid": Family(
        sparse_size="intermediate_size", linear=mamba2, layers=_granite_hybrid
    ),
    "cohere": Family(norms=1, qk_norm="full", qk_norm_optional=True, tied=True),
    "cohere2": Family(norms=1, windows="period", period=4, tied=True),
    "nemotron": Family(norm_vectors=2, gated=False),
    "nemotron_h": Family(gated=False, router_bias=True, layers=_nemotron_h),
    "nemotron-nas": Family(layers=_puzzle),
    "gpt2": Family(
        norm_vectors=2,
        biases="qkvo",
        gated=False,
        tied=True,
        learned_positions=True,
        layers=_gpt2,
    ),
    "falcon": Family(
        norm_vectors=2,
        gated=False,
        tied=True,
        layers=_falcon,
        defaults={"max_position_embeddings": 2048},  # Falcon configs never state it
    ),
    "llama4_text": Family(
        windows="period", period=4, sparse_size="intermediate_size", layers=_llama4
    ),
    "gpt_oss": Family(
        biases="qkvo",
        windows="period",
        period=2,
        sinks=True,
        sparse_size="intermediate_size",
        expert_biases=True,
        router_bias=True,
    ),
    "minimax": Family(linear=lightning, sparse_size="intermediate_size"),
    "minimax_text_01": Family(linear=lightning, sparse_size="intermediate_size"),
    "MiniMaxM1": Family(linear=lightning, sparse_size="intermediate_size"),
    "minimax_m1": Family(linear=lightning, sparse_size="intermediate_size"),
    "minimax_m2": Family(qk_norm="full", sparse_size="intermediate_size", router_bias=True),
    "minimax_m3": _MINIMAX_M3,
    "minimax_m3_vl": _MINIMAX_M3,
    "minimax_m3_vl_text": _MINIMAX_M3,
    "glm4_moe": Family(
        config_biases="qkv", qk_norm="head", qk_norm_optional=True, router_bias=True
    ),
    "mimo_v2_flash": Family(router_bias=True, attention=mimo_attention),
    "step3p5": Family(qk_norm="head", router_bias=True, attention=step_attention),
    "step3p7": Family(qk_norm="head", router_bias=True, attention=step_attention),
    "deepseek_v2": Family(attention=latent_attention),
    "deepseek_v3": _LATENT,
    "deepseek_v32": _LATENT,
    "kimi_k2": _LATENT,
    "glm_moe_dsa": _LATENT,
    "deepseek_v4": Family(router_bias=True, layers=_deepseek_v4),
}
