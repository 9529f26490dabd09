"""What the catalog says cannot be: formats, splits, windows and step models."""

import json

import pytest

from tonnage.errors import InputErrors
from tonnage.study import study_from_mapping, study_from_overrides
from tonnage.workload import Batch

BASE: dict[str, object] = {"model": "Qwen/Qwen3-8B", "workload.request_rate": "5/s"}


def refused(catalog, **values):
    """The message of the one complaint that these keys (dots as __) bring."""
    overrides = BASE | {key.replace("__", "."): value for key, value in values.items()}
    with pytest.raises(InputErrors) as caught:
        study_from_overrides(overrides).question(catalog)
    return str(caught.value)


def test_a_format_that_no_candidate_has_is_refused_with_those_it_has(catalog):
    text = refused(catalog, hardware__gpus="A100", engine__weight_dtype="fp8")
    assert text.startswith("engine.weight_dtype is fp8, which A100-80GB-SXM does not have.")
    assert "bf16" in text
    assert "fp8," not in text.partition("Choose")[2]


def test_a_format_that_one_candidate_has_is_left_to_the_search(catalog):
    overrides = BASE | {"hardware.gpus": ["A100", "H100-SXM"], "engine.weight_dtype": "fp8"}
    assert study_from_overrides(overrides).question(catalog).weight_dtypes == ("fp8",)


def test_a_split_that_does_not_divide_the_heads_is_refused(catalog):
    text = refused(catalog, hardware__gpus="H100-SXM", hardware__tensor_parallel="3")
    assert "hardware.tensor_parallel is 3, which does not divide the 32 attention heads" in text


@pytest.mark.parametrize(("prompt", "fits"), [(4096 - 500, True), (4096 - 499, False)])
def test_a_mean_request_must_fit_the_window(catalog, prompt, fits):
    overrides = {
        "model": "nvidia/nemo-43b-gpt",
        "workload.request_rate": "5/s",
        "workload.prompt": f"{prompt} tokens",
        "workload.answer": "500 tokens",
        "hardware.gpus": "H100-SXM",
    }
    study = study_from_overrides(overrides)
    if fits:
        assert study.question(catalog).workload.calls[0].mix.prompt.mean_tokens == prompt
    else:
        with pytest.raises(InputErrors, match="more than the 4,096 of nvidia/nemo-43b-gpt"):
            study.question(catalog)


def test_a_session_may_be_longer_than_the_window_and_is_clamped_later(catalog):
    overrides = {
        "model": "openai/gpt-oss-120b",
        "workload.sessions": "10",
        "workload.context": "262144",
        "hardware.gpus": "H100-SXM",
    }
    assert study_from_overrides(overrides).question(catalog).workload.context_tokens == 262144


@pytest.mark.parametrize(
    "hardware",
    [
        {"gpus": ["H100-SXM", "L40S"], "tensor_parallel": 1},
        {"gpus": ["H100-SXM"]},
        {"gpus": ["H100-SXM"], "tensor_parallel": [1, 2]},
    ],
)
def test_a_step_model_stands_for_one_arrangement_only(catalog, tmp_path, monkeypatch, hardware):
    steps = {"base_s": 0.01, "per_prefill_token_s": 1e-4}
    steps |= {"per_sequence_s": 1e-5, "per_kv_token_s": 1e-9}
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    monkeypatch.chdir(tmp_path)
    study = study_from_mapping(
        {
            "model": "Qwen/Qwen3-8B",
            "workload": {"request_rate": 5},
            "engine": {"step_model": "steps.json"},
            "hardware": hardware,
        }
    )
    with pytest.raises(InputErrors, match="measured on one arrangement"):
        study.question(catalog)


@pytest.mark.parametrize("requests", [None, "1 M"])
def test_a_throughput_is_a_deadline_for_the_requests_it_takes(catalog, requests):
    overrides = {
        "model": "Qwen/Qwen3-8B",
        "promises.throughput": "12,000 tokens/s",
        "workload.answer": "200 tokens",
        "hardware.gpus": "H100-SXM",
    }
    if requests is not None:
        overrides["workload.batch.requests"] = requests
    load = study_from_overrides(overrides).question(catalog).workload.load
    assert isinstance(load, Batch)
    assert load.requests / load.deadline_s == pytest.approx(12_000 / 200)


def test_a_deadline_and_a_throughput_hold_together(catalog):
    overrides = {
        "model": "Qwen/Qwen3-8B",
        "promises.throughput": "12,000 tokens/s",
        "workload.answer": "200 tokens",
        "workload.batch.requests": "1 M",
        "workload.batch.deadline": "1 h",
        "hardware.gpus": "H100-SXM",
    }
    load = study_from_overrides(overrides).question(catalog).workload.load
    assert load == Batch(requests=1e6, deadline_s=3600)
