"""A Hugging Face config.json -> a ModelSpec.

The one way a model enters the tool: catalog rows, a user's file and a download from the hub all
come through `spec_from_config`. What a family's layers look like is in `architectures`; this
module finds the text model in the file, reads how its checkpoint is quantised, and refuses what it
does not understand instead of guessing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tonnage.catalog.architectures import FAMILIES, layer_groups, other_parameters
from tonnage.catalog.blocks import Config, Family, max_context_tokens
from tonnage.errors import InputError, MissingExtraError, TonnageError, UnsupportedError
from tonnage.model import LayerGroup, ModelSpec, NativeQuantisation

MAX_CONFIG_BYTES = 5_000_000  # the largest published config.json is under 1 MB

_TEXT_SECTIONS = ("text_config", "llm_config", "language_config")
_INHERITED = ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config")
_DRAFT_KEYS = ("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers")
_DTYPE_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def spec_from_config(
    config: Mapping[str, Any],
    *,
    name: str,
    source: str = "",
    published_parameters: float | None = None,
    aliases: Iterable[str] = (),
    notes: str = "",
) -> ModelSpec:
    """The model that `config`, the content of a config.json, describes.

    Raises InputError for a missing or wrong key, UnsupportedError for an architecture that is not
    understood.
    """
    text, remarks = _text_model(config)
    if text.get("is_encoder_decoder"):
        raise UnsupportedError(
            "Encoder-decoder models are not modelled.", hint="Choose a decoder-only model."
        )
    family, more = _family(text)
    view = Config({**family.defaults, **{k: v for k, v in text.items() if v is not None}})
    groups = layer_groups(view, family)
    quantisation, attention_quantised = _native_quantisation(view, groups)
    if not attention_quantised:
        groups = tuple(_attention_in_16_bits(group) for group in groups)
    drafts = view.optional(*_DRAFT_KEYS, minimum=0)
    if drafts:
        more = [*more, f"{drafts} draft (MTP) layers are not counted."]
    return ModelSpec(
        name=name,
        family=str(text["model_type"]),
        hidden_size=view.hidden_size,
        vocab_size=view.integer("vocab_size"),
        max_context_tokens=max_context_tokens(view),
        layer_groups=groups,
        tied_embeddings=view.flag("tie_word_embeddings", default=family.tied),
        native_dtype=_native_dtype(view),
        native_quantisation=quantisation,
        other_parameters=other_parameters(view, family),
        published_parameters=published_parameters,
        source=source,
        aliases=tuple(aliases),
        notes=" ".join(part for part in (notes, *remarks, *more) if part),
    )


def read_config(path: Path, name: str | None = None) -> ModelSpec:
    """The model in a config.json, or in the folder that holds one.

    A quantisation that ModelOpt wrote beside it in hf_quant_config.json is read too. `name`
    defaults to the folder's, or to the file's own when it is called otherwise.
    """
    file = path / "config.json" if path.is_dir() else path
    values = _load_json(file)
    beside = file.with_name("hf_quant_config.json")
    if "quantization_config" not in values and beside.is_file():
        values["quantization_config"] = {
            "quant_method": "modelopt",
            **Config(_load_json(beside)).section("quantization").values,
        }
    stem = file.resolve().parent.name if file.name == "config.json" else file.stem
    try:
        return spec_from_config(values, name=name or stem, source=str(file))
    except InputError as error:
        raise InputError(error.message, hint=error.hint, file=str(file), key=error.key) from error


def fetch_config(hub_id: str) -> Path:
    """Download the config.json of `hub_id` ("maker/model") from the Hugging Face hub; its path."""
    remedy = "Give a path to the model's config.json instead."
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", hub_id):
        raise InputError(f"{hub_id!r} is not a hub id like maker/model.", hint=remedy)
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415 (an extra)
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(
            "Reading from the hub needs the extra `hub`.",
            hint="pip install 'tonnage[hub]', or give a path to the model's config.json.",
        ) from error
    try:
        path = Path(hf_hub_download(hub_id, "config.json"))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TonnageError(f"{hub_id} cannot be fetched: {reason}", hint=remedy) from error
    try:
        hf_hub_download(hub_id, "hf_quant_config.json")
    except EntryNotFoundError:
        pass  # only ModelOpt checkpoints have one
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise TonnageError(f"{hub_id}: {error}", hint=remedy) from error
    return path


def _load_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; InputError with the file and line of what is wrong."""
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(
                f"is {file.stat().st_size / 1e6:.0f} MB; a config.json has a few kB.",
                hint="Give the model's config.json, not its weights or tokenizer.",
                file=str(file),
            )
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}.",
            hint="Give the path of a config.json or of the folder that holds it.",
            file=str(file),
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            "is not a text file.", hint="Give a config.json.", file=str(file)
        ) from error
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"is not JSON: {error.msg}.", file=str(file), line=error.lineno) from error
    except RecursionError as error:
        raise InputError("is nested too deeply.", file=str(file)) from error
    if not isinstance(values, dict):
        raise InputError("holds no JSON object.", hint="Give a config.json.", file=str(file))
    return values


def _text_model(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """The part of a config that describes the language model, and what was left out of it."""
    section = next((key for key in _TEXT_SECTIONS if isinstance(config.get(key), Mapping)), None)
    if section is None:
        seen = "vision_config" in config
        return config, ["The vision tower is not counted."] if seen else []
    inherited = {key: config[key] for key in _INHERITED if config.get(key) is not None}
    stated = {key: value for key, value in config[section].items() if value is not None}
    kind = {"model_type": config.get("model_type")}
    return {**kind, **inherited, **stated}, ["Text model only: the vision tower is not counted."]


# ── families that are not listed ─────────────────────────────────────────────────────────────

_LLAMA_KEYS = frozenset(
    [
        "architectures",
        "attention_bias",
        "dtype",
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "mlp_bias",
        "model_type",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "quantization_config",
        "tie_word_embeddings",
        "torch_dtype",
        "vocab_size",
    ]
)
_HARMLESS_KEYS = frozenset(
    [
        "_attn_implementation_autoset",
        "_name_or_path",
        "attention_dropout",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "decoder_start_token_id",
        "diversity_penalty",
        "embd_pdrop",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "hidden_act",
        "hidden_dropout",
        "id2label",
        "initializer_range",
        "is_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "name",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "original_max_position_embeddings",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "partial_rotary_factor",
        "pretraining_tp",
        "problem_type",
        "repetition_penalty",
        "resid_pdrop",
        "return_dict",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sep_token_id",
        "task_specific_params",
        "temperature",
        "tokenizer_class",
        "top_k",
        "top_p",
        "transformers_version",
        "typical_p",
        "unk_token_id",
        "use_cache",
    ]
)
_REQUIRED_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)


def _family(text: Mapping[str, Any]) -> tuple[Family, list[str]]:
    """The family of a text model; an unknown one is read as a Llama when nothing in it objects."""
    model_type = text.get("model_type")
    if not isinstance(model_type, str):
        raise InputError(
            "is missing.", key="model_type", hint="Give the complete config.json of the model."
        )
    family = FAMILIES.get(model_type)
    if family is not None:
        return family, []
    strange = sorted(
        key
        for key, value in text.items()
        if value and key not in _LLAMA_KEYS and key not in _HARMLESS_KEYS
    )
    missing = [key for key in _REQUIRED_KEYS if text.get(key) is None]
    if strange or missing:
        reasons = [f"{', '.join(strange)} is not understood"] if strange else []
        reasons += [f"{', '.join(missing)} is missing"] if missing else []
        raise UnsupportedError(
            f"model_type {model_type!r} is not known, and it is no plain Llama:"
            f" {'; '.join(reasons)}.",
            hint=f"Known: {', '.join(sorted(FAMILIES))}.",
        )
    return FAMILIES["llama"], [f"model_type {model_type!r} is not known: read as a plain Llama."]


# ── what the checkpoint is stored in ─────────────────────────────────────────────────────────


def _native_dtype(config: Config) -> str:
    stated = str(config.get("torch_dtype", "dtype") or "bfloat16").removeprefix("torch.")
    if stated not in _DTYPE_NAMES:
        raise UnsupportedError(
            f"dtype {stated!r} is not a format of unquantised weights.",
            hint=f"Known: {', '.join(_DTYPE_NAMES)}.",
        )
    return _DTYPE_NAMES[stated]


def _native_quantisation(
    config: Config, groups: Iterable[LayerGroup]
) -> tuple[NativeQuantisation | None, bool]:
    """How the checkpoint is quantised, and whether its attention matrices are.

    Checkpoints of mixtures of experts that leave attention alone leave everything but the experts
    alone, which is the scope "experts".
    """
    quantisation = config.section("quantization_config")
    if not quantisation.values:
        return None, True
    dtype = _quantised_dtype(quantisation)
    if config.get("expert_dtype") == "fp4":  # DeepSeek-V4: fp8, with experts in half of that
        experts = dtype if dtype in ("mxfp4", "nvfp4") else "mxfp4"
        return NativeQuantisation(dtype=experts, scope="experts", dense_dtype="fp8"), True
    attention = not _leaves_attention(quantisation, config.optional("num_hidden_layers") or 1)
    scope: Literal["linears", "experts"] = "linears"
    if not attention and any(group.experts for group in groups):
        scope, attention = "experts", True
    return NativeQuantisation(dtype=dtype, scope=scope), attention


def _quantised_dtype(quantisation: Config) -> str:
    """The tonnage dtype of a quantization_config."""
    unnamed = "modelopt" if quantisation.get("quant_algo") else ""
    method = str(quantisation.get("quant_method") or unnamed).lower()
    bits = quantisation.get("bits", "w_bit")
    dtype: str | None = None
    if method in ("fp8", "fbgemm_fp8"):
        dtype = "fp8"
    elif method == "mxfp4":
        dtype = "mxfp4"
    elif method in ("awq", "gptq", "auto-round", "autoround"):
        dtype = {4: "int4", 8: "int8"}.get(bits)
    elif method == "bitsandbytes":
        dtype = "int4" if quantisation.flag("load_in_4bit") else "int8"
    elif method.startswith("modelopt"):
        algorithm = str(quantisation.get("quant_algo") or "").upper()
        dtype = _MODELOPT_DTYPES.get(algorithm)
    elif method == "compressed-tensors":
        dtype = _compressed_dtype(quantisation)
    if dtype is None:
        raise UnsupportedError(
            f"quantization_config: {method or 'no quant_method'}"
            f" {quantisation.get('quant_algo', 'format') or bits or ''} is not understood.",
            hint="Take quantization_config out and state the weight dtype yourself.",
        )
    return dtype


_MODELOPT_DTYPES = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_AWQ": "int4",
    "W8A8_SQ_PER_CHANNEL": "int8",
}


def _compressed_dtype(quantisation: Config) -> str | None:
    """The dtype of a compressed-tensors checkpoint whose groups all share one."""
    groups = quantisation.section("config_groups").values.values()
    found = set()
    for group in groups:
        weights = Config(group if isinstance(group, Mapping) else {}).section("weights")
        key = (str(weights.get("type")), weights.get("num_bits"), weights.get("group_size"))
        found.add(_COMPRESSED_DTYPES.get(key) or _COMPRESSED_DTYPES.get((*key[:2], None)))
    return found.pop() if len(found) == 1 else None


_COMPRESSED_DTYPES: dict[tuple[str, Any, Any], str] = {
    ("int", 4, None): "int4",
    ("int", 8, None): "int8",
    ("float", 8, None): "fp8",
    ("float", 4, 16): "nvfp4",
    ("float", 4, 32): "mxfp4",
}


def _leaves_attention(quantisation: Config, layers: int) -> bool:
    """Whether the modules left out of the quantisation include the attention of most layers."""
    ignored = quantisation.get("modules_to_not_convert", "ignore", "exclude_modules") or ()
    attention = [str(entry) for entry in ignored if _WHOLE_ATTENTION.search(str(entry))]
    if any(not re.search(r"layers\.\d", entry) for entry in attention):
        return True
    named = {match[1] for entry in attention if (match := re.search(r"layers\.(\d+)", entry))}
    return len(named) > layers / 2


_WHOLE_ATTENTION = re.compile(r"attn(\.?\*.*)?$|attn\.(q|k|v|o|qkv|q_b|kv_b)_proj")
_ATTENTION = re.compile(r"(q|k|v|o|q_a|q_b|kv_a|kv_b|kv)_proj|index_.*|in_proj.*|out_proj|qkv_proj")


def _attention_in_16_bits(group: LayerGroup) -> LayerGroup:
    """`group` with the matrices of its mixer marked as never quantised."""
    linears = tuple(
        replace(linear, quantised=False) if _ATTENTION.fullmatch(linear.name) else linear
        for linear in group.linears
    )
    return replace(group, linears=linears)
