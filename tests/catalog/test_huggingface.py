"""Reading a config.json: every family from a file on disk, and every way a file can be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tonnage.catalog.architectures import FAMILIES
from tonnage.catalog.huggingface import (
    MAX_CONFIG_BYTES,
    fetch_config,
    read_config,
    spec_from_config,
)
from tonnage.errors import InputError, MissingExtraError, UnsupportedError
from tonnage.model import Linear, LinearAttention, ModelSpec, SoftmaxAttention

CONFIGS = Path(__file__).parent / "configs"
FILES = sorted(CONFIGS.glob("*.json"))

# Parameters of the transformers 5.23 model built from the same file, router biases included.
TRANSFORMERS_COUNT = {
    "cohere": 34_980_831_232,
    "cohere2": 8_028_033_024,
    "deepseek_v3": 671_026_419_200,
    "deepseek_v32": 671_877_944_064,
    "falcon": 41_303_293_952,
    "gemma2": 9_241_705_984,
    "gemma3": 27_009_346_304,
    "gemma4": 25_233_141_760,
    "glm4_moe": 352_797_829_024,
    "glm_moe_dsa": 743_377_019_904,
    "gpt2": 124_439_808,
    "gpt_oss_120b": 116_829_156_672,
    "granite": 8_170_848_256,
    "granitemoehybrid": 32_207_337_984,
    "kimi_k2_int4": 1_026_408_232_448,
    "llama": 8_030_261_248,
    "llama4": 107_769_861_120,
    "mimo_v2_flash": 308_778_780_864,
    "minimax_m2": 228_689_764_864,
    "mixtral": 46_702_792_704,
    "nemotron_h": 31_577_940_288,
    "olmo2": 7_298_617_344,
    "phi3": 3_821_079_552,
    "phimoe": 41_873_153_344,
    "qwen2": 7_615_616_512,
    "qwen3": 596_049_920,
    "qwen3_5": 26_895_998_464,
    "qwen3_5_moe": 34_660_610_688,
    "qwen3_moe_fp8": 30_532_122_624,
}


def _config(family: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((CONFIGS / f"{family}.json").read_text(encoding="utf-8"))
    return values


def _linears(spec: ModelSpec) -> list[Linear]:
    found: list[Linear] = []
    for group in spec.layer_groups:
        found += group.linears
        if group.experts:
            found += group.experts.linears
    return found


def _write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


# ── every family ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_fixture_reads(file):
    spec = read_config(file)
    assert spec.name == file.stem
    assert spec.source == str(file)
    assert spec.family in FAMILIES
    assert 0 < spec.active_parameters <= spec.parameters
    assert sum(group.count for group in spec.layer_groups) == spec.layers


@pytest.mark.parametrize("name", list(TRANSFORMERS_COUNT))
def test_parameters_are_those_of_the_library(name):
    assert read_config(CONFIGS / f"{name}.json").parameters == TRANSFORMERS_COUNT[name]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_kv_projections_split_as_kv_heads_do(file):
    for linear in _linears(read_config(file)):
        if linear.name in ("k_proj", "v_proj"):
            assert linear.split == "kv"
        if linear.name in ("o_proj", "down_proj", "out_proj"):
            assert linear.split == "row"
        if linear.name in ("q_proj", "gate_proj", "up_proj"):
            assert linear.split == "column"
        if linear.name in ("router", "kv_a_proj", "q_a_proj"):
            assert linear.split == "replicated"
        if linear.name == "router":
            assert not linear.quantised


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_one_more_layer_is_one_more_layer(file):
    """Law: parameters outside the layers do not depend on their number."""
    spec = read_config(file)
    in_layers = sum(group.count * group.parameters_per_layer for group in spec.layer_groups)
    embeddings = spec.embedding_parameters * (1 if spec.tied_embeddings else 2)
    assert spec.parameters == in_layers + embeddings + spec.other_parameters


# ── rules ────────────────────────────────────────────────────────────────────────────────────


def _windows(spec: ModelSpec) -> dict[int | None, int]:
    counts: dict[int | None, int] = {}
    for group in spec.layer_groups:
        if isinstance(group.mixer, SoftmaxAttention):
            window = group.mixer.window_tokens
            counts[window] = counts.get(window, 0) + group.count
    return counts


@pytest.mark.parametrize(
    ("family", "windows"),
    [
        ("mistral", {4096: 32}),
        ("qwen2", {None: 28}),
        ("phi3", {None: 32}),  # its window is longer than its context
        ("gemma2", {4096: 21, None: 21}),
        ("gemma3", {1024: 52, None: 10}),
        ("gemma4", {1024: 25, None: 5}),
        ("cohere2", {4096: 24, None: 8}),
        ("olmo3", {4096: 48, None: 16}),
        ("llama4", {8192: 36, None: 12}),
        ("gpt_oss_120b", {128: 18, None: 18}),
        ("mimo_v2_flash", {128: 39, None: 9}),
        ("step3p7", {512: 33, None: 12}),
        ("qwen3_5", {None: 16}),
        ("nemotron_h", {None: 6}),
    ],
)
def test_windows(family, windows):
    assert _windows(read_config(CONFIGS / f"{family}.json")) == windows


def test_qwen_windows_start_where_the_config_says():
    config = {**_config("qwen2"), "use_sliding_window": True, "sliding_window": 4096}
    spec = spec_from_config({**config, "max_window_layers": 20}, name="m")
    assert _windows(spec) == {None: 20, 4096: 8}


@pytest.mark.parametrize("family", ["gpt_oss_120b", "gemma4", "qwen3_5", "step3p7"])
def test_a_list_of_layers_may_stand_in_any_order(family):
    config = _config(family)
    text = config.get("text_config", config)
    listed = spec_from_config(config, name="m")
    text["layer_types"] = sorted(text["layer_types"])
    again = spec_from_config(config, name="m")
    if family != "step3p7":  # its dense layers stand first, whatever their attention
        assert set(again.layer_groups) == set(listed.layer_groups)
    assert again.parameters == listed.parameters
    assert again.kv_bytes_per_session(10_000, "bf16") == listed.kv_bytes_per_session(10_000, "bf16")


def test_default_patterns_are_those_the_lists_spell_out():
    config = _config("gpt_oss_120b")
    listed = spec_from_config(config, name="m")
    del config["layer_types"]
    assert spec_from_config(config, name="m") == listed


def test_multimodal_files_give_the_text_model_and_say_so():
    spec = read_config(CONFIGS / "llama4.json")
    assert spec.family == "llama4_text"
    assert "vision tower is not counted" in spec.notes


def test_drafts_are_mentioned_and_not_counted():
    config = _config("deepseek_v3")
    without = spec_from_config({**config, "num_nextn_predict_layers": 0}, name="m")
    drafted = spec_from_config({**config, "num_nextn_predict_layers": 1}, name="m")
    assert drafted.parameters == without.parameters
    assert "draft" in drafted.notes
    assert "draft" not in without.notes


def test_dense_layers_of_a_mixture_have_no_experts():
    spec = read_config(CONFIGS / "deepseek_v3.json")
    counts = {bool(group.experts): group.count for group in spec.layer_groups}
    assert counts == {False: 3, True: 58}


def test_linear_attention_layers_keep_a_constant_state():
    spec = read_config(CONFIGS / "qwen3_5.json")
    linear = [group for group in spec.layer_groups if isinstance(group.mixer, LinearAttention)]
    assert sum(group.count for group in linear) == 48
    state = linear[0].mixer
    assert isinstance(state, LinearAttention)
    assert state.state_values == 48 * 128 * 128 + 3 * (2 * 16 * 128 + 48 * 128)
    growth = spec.kv_bytes_per_session(2000, "bf16") - spec.kv_bytes_per_session(1000, "bf16")
    assert growth == 1000 * spec.kv_bytes_per_token("bf16")


def test_shared_indexes_are_kept_once():
    """GLM-5.2 indexes one layer in four; the others reuse its choice and keep no index."""
    spec = read_config(CONFIGS / "glm_moe_dsa.json")
    mixers = [
        (group.count, group.mixer)
        for group in spec.layer_groups
        if isinstance(group.mixer, SoftmaxAttention)
    ]
    assert all(mixer.index_top_k == 2048 for _, mixer in mixers)
    indexed = sum(count for count, mixer in mixers if mixer.index_values)
    assert indexed == _config("glm_moe_dsa")["indexer_types"].count("full")


def test_compressed_layers_keep_a_window_and_one_entry_per_ratio():
    spec = read_config(CONFIGS / "deepseek_v4.json")
    ratios = _config("deepseek_v4")["compress_ratios"][:43]
    kept = sum(
        (128 + (100_000 // ratio if ratio else 0)) * (512 + (128 if ratio == 4 else 0))
        for ratio in ratios
    )
    assert spec.kv_bytes_per_session(100_000, "fp8") == kept


# ── quantisation ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("quantisation", "dtype"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_algo": "FP8"}, "fp8"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"type": "int", "num_bits": 4}}},
            },
            "int4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "g": {"weights": {"type": "float", "num_bits": 4, "group_size": 16}}
                },
            },
            "nvfp4",
        ),
    ],
)
def test_quantisation_methods(quantisation, dtype):
    spec = spec_from_config({**_config("llama"), "quantization_config": quantisation}, name="m")
    assert spec.native_quantisation is not None
    assert spec.native_weight_dtype == dtype
    assert spec.weights_bytes() == spec.weights_bytes(dtype) < spec.weights_bytes("bf16")


@pytest.mark.parametrize(
    "quantisation",
    [
        {"quant_method": "hqq"},
        {"quant_method": "gptq", "bits": 3},
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "a": {"weights": {"type": "int", "num_bits": 4}},
                "b": {"weights": {"type": "float", "num_bits": 8}},
            },
        },
    ],
)
def test_quantisation_that_is_not_understood_is_refused(quantisation):
    with pytest.raises(UnsupportedError, match="not understood"):
        spec_from_config({**_config("llama"), "quantization_config": quantisation}, name="m")


def test_experts_alone_are_quantised_where_attention_is_left_out():
    for family, dtype in (("gpt_oss_120b", "mxfp4"), ("kimi_k2_int4", "int4")):
        native = read_config(CONFIGS / f"{family}.json").native_quantisation
        assert native is not None
        assert (native.dtype, native.scope, native.dense_dtype) == (dtype, "experts", None)


def test_deepseek_v4_keeps_experts_in_half_of_the_rest():
    spec = read_config(CONFIGS / "deepseek_v4.json")
    native = spec.native_quantisation
    assert native is not None
    assert (native.dtype, native.scope, native.dense_dtype) == ("mxfp4", "experts", "fp8")
    q_proj = next(linear for linear in _linears(spec) if linear.name == "q_a_proj")
    assert spec.linear_dtype("mxfp4", q_proj, expert=False) == "fp8"


def test_a_dense_model_may_keep_its_attention_in_16_bits():
    quantisation = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    partly = spec_from_config({**_config("llama"), "quantization_config": quantisation}, name="m")
    wholly = spec_from_config(
        {**_config("llama"), "quantization_config": {"quant_method": "fp8"}}, name="m"
    )
    assert wholly.weights_bytes() < partly.weights_bytes() < partly.weights_bytes("bf16")
    assert {linear.name for linear in _linears(partly) if not linear.quantised} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }


def test_modelopt_writes_its_quantisation_beside(tmp_path):
    folder = tmp_path / "llama-fp8"
    folder.mkdir()
    _write(folder / "config.json", json.dumps(_config("llama")))
    _write(folder / "hf_quant_config.json", json.dumps({"quantization": {"quant_algo": "FP8"}}))
    spec = read_config(folder)
    assert spec.name == "llama-fp8"
    assert spec.native_weight_dtype == "fp8"


# ── files that are wrong ─────────────────────────────────────────────────────────────────────


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_config(tmp_path / "nothing.json")
    assert caught.value.file == str(tmp_path / "nothing.json")
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        read_config(tmp_path)


def test_text_that_is_not_json_is_named_with_its_line(tmp_path):
    with pytest.raises(InputError, match="not JSON") as caught:
        read_config(_write(tmp_path / "bad.json", '{\n "a": 1,\n oops\n}'))
    assert caught.value.line == 3


@pytest.mark.parametrize("content", ["[1, 2]", '"text"', "null"])
def test_json_that_is_no_object_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="no JSON object"):
        read_config(_write(tmp_path / "bad.json", content))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\xff\xfe\x00\x80" * 100)
    with pytest.raises(InputError, match="not a text file"):
        read_config(file)


def test_a_huge_file_is_not_read(tmp_path):
    with pytest.raises(InputError, match="6 MB"):
        read_config(_write(tmp_path / "huge.json", " " * (MAX_CONFIG_BYTES + 1_000_000)))


def test_a_file_nested_without_end_is_refused(tmp_path):
    with pytest.raises(InputError, match="nested too deeply"):
        read_config(_write(tmp_path / "deep.json", "[" * 100_000))


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "model_type"])
def test_a_missing_key_is_named_with_its_file(tmp_path, key):
    config = _config("llama")
    del config[key]
    with pytest.raises(InputError) as caught:
        read_config(_write(tmp_path / "config.json", json.dumps(config)))
    assert caught.value.key == key
    assert caught.value.file == str(tmp_path / "config.json")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "4096"),
        ("hidden_size", -1),
        ("hidden_size", True),
        ("num_hidden_layers", 10**9),
        ("num_key_value_heads", 7),
        ("tie_word_embeddings", "yes"),
        ("vocab_size", 1.5),
    ],
)
def test_a_wrong_value_is_named(key, value):
    with pytest.raises(InputError) as caught:
        spec_from_config({**_config("llama"), key: value}, name="m")
    assert caught.value.key == key


def test_a_list_that_is_too_short_is_refused():
    config = _config("gpt_oss_120b")
    with pytest.raises(InputError, match="3 entries for 36 layers"):
        spec_from_config({**config, "layer_types": config["layer_types"][:3]}, name="m")


def test_layers_of_an_unknown_kind_are_refused():
    config = _config("gpt_oss_120b")
    with pytest.raises(UnsupportedError, match="holographic"):
        spec_from_config({**config, "layer_types": ["holographic"] * 36}, name="m")


def test_an_unknown_type_that_is_a_plain_llama_is_read_as_one():
    config = {**_config("llama"), "model_type": "newcomer"}
    spec = spec_from_config(config, name="m")
    assert spec.parameters == read_config(CONFIGS / "llama.json").parameters
    assert "newcomer" in spec.notes


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"kv_lora_rank": 512}, "kv_lora_rank is not understood"),
        ({"num_local_experts": 8}, "num_local_experts is not understood"),
        ({"intermediate_size": None}, "intermediate_size is missing"),
    ],
)
def test_an_unknown_type_that_is_something_else_is_refused(more, complaint):
    with pytest.raises(UnsupportedError, match=complaint):
        spec_from_config({**_config("llama"), "model_type": "newcomer", **more}, name="m")


def test_encoder_decoders_are_refused():
    with pytest.raises(UnsupportedError, match="Encoder-decoder"):
        spec_from_config({"model_type": "t5", "is_encoder_decoder": True}, name="m")


# ── the hub ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hub_id", ["", "llama", "../../etc", "a/b/c", "maker/../x"])
def test_a_hub_id_has_two_parts(hub_id):
    with pytest.raises(InputError, match="not a hub id"):
        fetch_config(hub_id)


def test_without_the_extra_the_hub_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"tonnage\[hub\]"):
        fetch_config("maker/model")


def test_a_hub_out_of_reach_leaves_a_remedy(tmp_path):
    pytest.importorskip("huggingface_hub")
    code = (
        "from tonnage.catalog.huggingface import fetch_config\n"
        "from tonnage.errors import TonnageError\n"
        "try:\n    fetch_config('maker/model')\n"
        "except TonnageError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(  # the library reads its environment once, when imported
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "maker/model cannot be fetched" in done.stdout
    assert "path to the model's config.json" in done.stdout
