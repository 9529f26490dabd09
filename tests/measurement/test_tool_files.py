"""Files that the tools wrote: every statistic is theirs, or redone from their records."""

import json
import shutil
from pathlib import Path

import pytest

from tonnage.errors import InputError
from tonnage.measurement.importers import import_run

SAMPLES = Path(__file__).parent / "samples"
AIPERF = SAMPLES / "aiperf_sweep"
GENAI_PERF = SAMPLES / "genai_perf_sweep"
LEVELS = (1, 2, 4)
STATISTICS = {"avg": "mean", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}


def document(path):
    return json.loads(path.read_text())


def near(value):
    return pytest.approx(value, rel=1e-9)


def assert_is_theirs(point, stated, metrics):
    """Every statistic of `metrics` (ours -> theirs) in `stated`, which has milliseconds."""
    for ours, theirs in metrics.items():
        assert stated[theirs]["unit"] == "ms"
        for statistic, name in STATISTICS.items():
            found = getattr(point, f"{ours}_{name}_s")
            assert found == near(stated[theirs][statistic] / 1000), (ours, name)


# ── AIPerf ──────────────────────────────────────────────────────────────────────────────────────


def aiperf_summary(level):
    return document(AIPERF / f"concurrency_{level}" / "profile_export_aiperf.json")


def aiperf_metrics(level):
    """The metrics of every finished request."""
    text = (AIPERF / f"concurrency_{level}" / "profile_export.jsonl").read_text()
    records = map(json.loads, text.splitlines())
    return [record["metrics"] for record in records if "error" not in record]


def test_a_sweep_of_aiperf_is_a_run_of_its_levels():
    run = import_run([AIPERF])
    assert (run.tool, run.tool_version, run.model) == ("AIPerf", "0.13.0", "tiny")
    assert [point.concurrency for point in run.points] == list(LEVELS)
    assert [(point.requests, point.failed) for point in run.points] == [(12, 0), (11, 1), (11, 1)]
    for point, level in zip(run.points, LEVELS, strict=True):
        stated = aiperf_summary(level)
        same = {
            "ttft": "time_to_first_token",
            "itl": "inter_chunk_latency",
            "e2e": "request_latency",
        }
        assert_is_theirs(point, stated, same)
        assert point.requests_per_s == near(stated["request_throughput"]["avg"])


@pytest.mark.parametrize("level", LEVELS)
def test_where_aiperf_counted_by_another_tokenizer_the_server_is_believed(level):
    """The tokenizer it was given makes a token of every byte."""
    (point,) = import_run([AIPERF / f"concurrency_{level}"]).points
    stated, metrics = aiperf_summary(level), aiperf_metrics(level)
    assert stated["output_sequence_length"]["avg"] > 3 * 20
    assert point.output_tokens_mean == near(20)
    assert point.input_tokens_mean == near(stated["usage_prompt_tokens"]["avg"])
    seconds = stated["benchmark_duration"]["avg"]
    assert point.output_tokens_per_s == near(20 * len(metrics) / seconds)
    tpot_s = [
        (each["request_latency"]["value"] - each["time_to_first_token"]["value"])
        / (each["usage_completion_tokens"]["value"] - 1)
        / 1000
        for each in metrics
    ]
    assert point.tpot_mean_s == near(sum(tpot_s) / len(tpot_s))
    assert [note for note in point.notes if "the server 20" in note] == list(point.notes)


def test_a_summary_alone_cannot_redo_what_another_tokenizer_counted():
    (point,) = import_run([AIPERF / "concurrency_2" / "profile_export_aiperf.json"]).points
    assert point.tpot_mean_s is point.tpot_p95_s is None
    assert point.output_tokens_mean == near(20)
    assert any(note.startswith("no TPOT") for note in point.notes)


@pytest.mark.parametrize("where", ["profile_runs/trial_{}", "profile_runs/run_{}"])
def test_trials_of_aiperf_are_levels_measured_more_than_once(tmp_path, where):
    for trial in ("0001", "0002"):
        shutil.copytree(AIPERF, tmp_path / where.format(trial))
    run = import_run([tmp_path])
    assert [point.concurrency for point in run.points] == [1, 1, 2, 2, 4, 4]
    assert "concurrency 4 was measured 2 times" in run.notes


def test_an_aggregate_of_aiperf_is_refused_with_what_to_give_instead():
    with pytest.raises(InputError) as refused:
        import_run([AIPERF / "sweep_aggregate" / "profile_export_aiperf_sweep.json"])
    assert "give the folder of them all" in str(refused.value.hint)


# ── GenAI-Perf ──────────────────────────────────────────────────────────────────────────────────


def test_a_sweep_of_genai_perf_is_a_run_of_its_levels():
    run = import_run([GENAI_PERF])
    assert (run.tool, run.model) == ("GenAI-Perf", "tiny")
    assert [point.concurrency for point in run.points] == list(LEVELS)
    for point, level in zip(run.points, LEVELS, strict=True):
        (file,) = GENAI_PERF.glob(f"*{level}/profile_export_genai_perf.json")
        stated = document(file)
        same = {
            "ttft": "time_to_first_token",
            "tpot": "inter_token_latency",
            "e2e": "request_latency",
        }
        assert_is_theirs(point, stated, same)
        assert point.itl_mean_s is None
        assert point.requests == 12
        assert point.output_tokens_per_s == near(stated["output_token_throughput"]["avg"])


# ── inference-perf ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("folder", "loads"),
    [
        ("inference_perf_rates", [(None, 5.0), (None, 20.0)]),
        ("inference_perf_clients", [(2, None), (4, None)]),
    ],
)
def test_stages_of_inference_perf_are_levels(folder, loads):
    run = import_run([SAMPLES / folder])
    assert run.tool == "inference-perf"
    found = [(point.concurrency, point.request_rate_target_per_s) for point in run.points]
    assert found == loads
    for stage, point in enumerate(run.points):
        stated = document(SAMPLES / folder / f"stage_{stage}_lifecycle_metrics.json")
        latency, successes = stated["successes"]["latency"], stated["successes"]
        for ours, theirs in (("ttft", "time_to_first_token"), ("e2e", "request_latency")):
            assert getattr(point, f"{ours}_p50_s") == near(latency[theirs]["median"])
            assert getattr(point, f"{ours}_p95_s") == near(latency[theirs]["p95"])
        assert (point.requests, point.failed) == (successes["count"], stated["failures"]["count"])
        # its tokenizer makes a token of every byte, and its TPOT and rate rest on that
        tokens = successes["output_tokens"]["mean"]
        assert successes["output_len"]["mean"] > 3 * tokens
        assert point.tpot_mean_s is None
        assert point.output_tokens_mean == near(tokens)
        seconds = stated["benchmark_time_seconds"]
        assert point.output_tokens_per_s == near(tokens * successes["count"] / seconds)
        assert any("the server is believed" in note for note in point.notes)


def test_a_rate_that_inference_perf_did_not_send_is_noted():
    slow, fast = import_run([SAMPLES / "inference_perf_rates"]).points
    assert "15.6 requests/s were sent where 20 were asked for" in fast.notes
    assert not any("were sent" in note for note in slow.notes)


def test_without_its_stages_the_sum_of_inference_perf_is_a_run_and_says_so(tmp_path):
    shutil.copy(SAMPLES / "inference_perf_rates" / "summary_lifecycle_metrics.json", tmp_path)
    (point,) = import_run([tmp_path]).points
    assert point.requests == 101
    assert any("all load stages pooled" in note for note in point.notes)
