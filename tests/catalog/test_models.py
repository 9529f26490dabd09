"""The model catalog: every row reads, agrees with its maker's count, and caches what it should."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tonnage.catalog.huggingface as reader
from tonnage.catalog.huggingface import spec_from_config
from tonnage.dtypes import KV_BYTES_PER_VALUE
from tonnage.model import ModelSpec, SoftmaxAttention

CATALOG = Path(reader.__file__).with_name("models.toml")
DOCUMENT = tomllib.loads(CATALOG.read_text(encoding="utf-8"))
ROWS: dict[str, dict[str, Any]] = DOCUMENT["models"]
ROW_KEYS = {
    "aliases",
    "source",
    "date",
    "licence",
    "published_parameters",
    "published_source",
    "notes",
    "config",
}
GIB = 2**30


def _spec(name: str) -> ModelSpec:
    row = ROWS[name]
    return spec_from_config(
        row["config"],
        name=name,
        source=row["source"],
        published_parameters=row.get("published_parameters"),
        aliases=row.get("aliases", ()),
        notes=row.get("notes", ""),
    )


SPECS = {name: _spec(name) for name in ROWS}
PUBLISHED = [name for name, spec in SPECS.items() if spec.published_parameters is not None]
every_model = pytest.mark.parametrize("name", list(ROWS))


def test_there_are_enough_models_and_most_have_a_published_count():
    assert len(SPECS) >= 132
    assert len(PUBLISHED) >= 117


@every_model
def test_a_row_has_known_keys_and_says_where_it_was_read(name):
    row = ROWS[name]
    assert set(row) <= ROW_KEYS
    assert len(row["source"]) > 3
    assert len(row["date"]) == len("2026-11-20")
    assert ("published_parameters" in row) == ("published_source" in row)


def test_no_two_rows_answer_to_the_same_name():
    names = [
        known.lower() for name, row in ROWS.items() for known in (name, *row.get("aliases", ()))
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_agree_with_the_published_count(name):
    assert SPECS[name].parameters == pytest.approx(SPECS[name].published_parameters, rel=0.01)


@pytest.mark.parametrize(
    ("name", "active_parameters", "tolerance"),
    [
        ("openai/gpt-oss-120b", 5.13e9, 0.01),  # model card, table 1
        ("openai/gpt-oss-20b", 3.61e9, 0.01),  # model card, table 1
        ("deepseek-ai/DeepSeek-V3", 37e9, 0.02),  # technical report, abstract
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", 35e9, 0.02),
        ("google/gemma-4-26B-A4B", 3.8e9, 0.01),
        ("moonshotai/Kimi-K2-Instruct", 32e9, 0.02),
        ("MiniMaxAI/MiniMax-Text-01", 45.9e9, 0.03),  # arXiv 2501.08313, which counts no LM head
    ],
)
def test_active_parameters_agree_with_the_published_count(name, active_parameters, tolerance):
    assert SPECS[name].active_parameters == pytest.approx(active_parameters, rel=tolerance)


@every_model
def test_no_token_uses_more_than_the_whole_model(name):
    spec = SPECS[name]
    sparse = any(group.experts for group in spec.layer_groups)
    embedding = 0 if spec.tied_embeddings else spec.embedding_parameters
    assert spec.active_parameters <= spec.parameters
    if not sparse and not _has_position_table(spec):
        assert spec.active_parameters == spec.parameters - embedding


def _has_position_table(spec: ModelSpec) -> bool:
    return spec.family == "gpt2"


@every_model
def test_layers_are_those_of_the_config(name):
    config = ROWS[name]["config"]
    stated = config.get("num_hidden_layers", config.get("n_layer"))
    listed = config.get("layers_block_type", config.get("hybrid_override_pattern"))
    assert SPECS[name].layers == (len(listed) if listed else stated)


@every_model
@pytest.mark.parametrize("tensor_parallel", [1, 2, 4, 8, 64])
def test_tensor_parallel_ranks_hold_the_whole_cache_at_least_once(name, tensor_parallel):
    for group in SPECS[name].layer_groups:
        if not isinstance(group.mixer, SoftmaxAttention):
            continue
        held = group.mixer.kv_values_per_token_per_gpu(tensor_parallel) * tensor_parallel
        whole = group.mixer.kv_values_per_token
        assert held >= whole
        splits = not group.mixer.latent_values and not group.mixer.index_values
        if splits and tensor_parallel <= group.mixer.kv_heads:
            assert held == pytest.approx(whole)


@given(
    name=st.sampled_from(list(ROWS)),
    shorter=st.integers(1, 200_000),
    more=st.integers(0, 200_000),
)
def test_a_longer_session_never_holds_less(name, shorter, more):
    spec = SPECS[name]
    held = spec.kv_bytes_per_session(shorter, "bf16")
    longer = spec.kv_bytes_per_session(shorter + more, "bf16")
    assert longer >= held
    if not any(_compressed(group.mixer) for group in spec.layer_groups):
        assert held <= spec.kv_bytes_per_session_full_charge(shorter, "bf16")


def _compressed(mixer: object) -> bool:
    return isinstance(mixer, SoftmaxAttention) and mixer.compress_ratio is not None


@every_model
def test_fewer_bits_are_never_more_bytes(name):
    spec = SPECS[name]
    assert spec.weights_bytes("bf16") > spec.weights_bytes("fp8") > spec.weights_bytes("mxfp4")
    assert spec.weights_bytes() <= spec.weights_bytes("fp32")


# ── published figures ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", 131_072),  # 2 · 32 layers · 8 heads · 128 · 2 B
        ("deepseek-ai/DeepSeek-V3", 70_272),  # 61 layers · (512 + 64) · 2 B
        ("openai/gpt-oss-120b", 73_728),  # all 36 layers
        ("google/gemma-3-27b-it", 507_904),  # 2 · 62 layers · 16 heads · 128 · 2 B
        ("Qwen/Qwen3.5-27B", 65_536),  # 2 · 16 full layers · 4 heads · 256 · 2 B
    ],
)
def test_kv_bytes_per_token(name, bytes_per_token):
    spec = SPECS[name]
    assert spec.kv_bytes_per_token("bf16") == bytes_per_token
    assert spec.kv_bytes_per_token("fp8") * 2 == bytes_per_token


def test_only_full_layers_of_gpt_oss_go_on_growing():
    spec = SPECS["openai/gpt-oss-120b"]
    assert spec.window_tokens == 128
    growth = spec.kv_bytes_per_session(100_001, "bf16") - spec.kv_bytes_per_session(100_000, "bf16")
    assert growth == 36_864


def test_gemma_3_keeps_a_window_in_five_layers_of_six():
    spec = SPECS["google/gemma-3-27b-it"]
    counts = {
        group.mixer.window_tokens: group.count
        for group in spec.layer_groups
        if isinstance(group.mixer, SoftmaxAttention)
    }
    assert counts == {1024: 52, None: 10}
    growth = spec.kv_bytes_per_session(50_001, "bf16") - spec.kv_bytes_per_session(50_000, "bf16")
    assert growth == 10 * 2 * 16 * 128 * KV_BYTES_PER_VALUE["bf16"]


def test_a_full_session_of_gpt_oss_is_two_and_a_quarter_gib():
    held = SPECS["openai/gpt-oss-120b"].kv_bytes_per_session(131_072, "fp8")
    assert held / GIB == pytest.approx(2.25, abs=0.005)
    assert held == 18 * 1024 * (131_072 + 128)  # 18 full layers and 18 windows of 128


def test_the_engine_log_of_gpt_oss():
    """An engine that charges windows in full fits 78,384 tokens in 5.38 GiB (hf-mem issue 60)."""
    charged = SPECS["openai/gpt-oss-120b"].kv_bytes_per_session_full_charge(78_384, "bf16")
    assert charged / GIB == pytest.approx(5.38, rel=0.001)


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("openai/gpt-oss-120b", 60.8),  # model card, table 1: checkpoint size
        ("openai/gpt-oss-20b", 12.8),  # model card, table 1: checkpoint size
    ],
)
def test_weights_as_published(name, gib):
    spec = SPECS[name]
    assert spec.weights_bytes() / GIB == pytest.approx(gib, abs=0.05)
    assert spec.weights_bytes() < spec.weights_bytes("bf16")


def test_nemo_43b_says_what_is_assumed():
    assert "ASSUMED" in SPECS["nvidia/nemo-43b-gpt"].notes
    assert SPECS["nvidia/nemo-43b-gpt"].max_context_tokens == 4096
