"""Other tools' results become runs: definitions, units, failures, refusals."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tonnage.errors import InputError, TonnageError, UsageError
from tonnage.measurement.importers import import_run, reading
from tonnage.measurement.importers.reading import Place, instant, without_credentials
from tonnage.measurement.run import load_run, write_run
from tonnage.measurement.statistics import percentile, spread

SAMPLES = Path(__file__).parent / "samples"
EVERY_SAMPLE = (
    "guidellm.json",
    "aiperf",
    "aiperf/profile_export.jsonl",
    "aiperf/profile_export_aiperf.json",
    "genai_perf.json",
    "vllm_summary.json",
    "vllm_detailed.json",
    "inference_perf",
    "nemo_calc.json",
    "nemo_old.json",
)


def imported(*names):
    return import_run([SAMPLES / name for name in names])


def changed(tmp_path, sample, change):
    """The run of a sample after `change` was made to its document."""
    document = json.loads((SAMPLES / sample).read_text())
    change(document)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    return import_run([path])


def near(value):
    return pytest.approx(value, rel=1e-12)


# ── GuideLLM ────────────────────────────────────────────────────────────────────────────────────


def test_guidellm_tpot_leaves_the_first_token_out():
    run = imported("guidellm.json")
    point = run.points[0]
    # (355 - 40) / 63 = 5 ms and (272 - 20) / 63 = 4 ms; the answer of one token has no TPOT
    assert point.tpot_mean_s == near(0.0045)
    assert point.tpot_p50_s == near(0.0045)
    assert point.tpot_p95_s == near(0.00495)


def test_guidellm_points_hold_the_strategy_the_counts_and_si_units():
    run = imported("guidellm.json")
    first, second = run.points
    assert (run.tool, run.tool_version, run.model) == ("GuideLLM", "0.8.1", "tiny")
    assert (first.concurrency, second.concurrency) == (1, 8)
    assert (first.requests, first.failed, first.interrupted) == (3, 1, True)
    assert (second.requests, second.failed, second.interrupted) == (61, 0, False)
    assert first.ttft_mean_s == near((0.04 + 0.02 + 0.06) / 3)
    assert first.ttft_p95_s == near(0.04 + (0.06 - 0.04) * 0.9)  # rank 1.9 of 0, 1, 2
    assert first.requests_per_s == near(3 / 6)
    assert first.output_tokens_per_s == near((64 + 64 + 1) / 6)
    assert second.requests_per_s == near(61 / 6)
    assert second.output_tokens_per_s == near(61 * 64 / 6)


def test_guidellm_with_only_some_requests_gives_the_summary_and_says_so():
    point = imported("guidellm.json").points[1]
    assert point.tpot_mean_s == near(0.009357951501989751)  # its inter-token latency, in ms there
    assert (point.tpot_p50_s, point.tpot_p95_s, point.tpot_p99_s) == (None, None, None)
    assert point.ttft_p95_s == near(0.2589268684387207)
    assert point.e2e_p95_s == near(0.9812626838684082)
    assert any("2 of 61 requests" in note for note in point.notes)
    assert any(note.startswith("8 more requests were cut off") for note in point.notes)


def test_guidellm_zeros_over_no_request_are_not_known(tmp_path):
    def nothing_finished(document):
        level = document["benchmarks"][1]
        level["requests"]["successful"] = []
        level["metrics"]["request_totals"] = {"successful": 0, "errored": 5, "incomplete": 0}
        for metric in level["metrics"].values():
            if "successful" in metric and isinstance(metric["successful"], dict):
                metric["successful"] = {"mean": 0.0, "count": 0, "percentiles": {"p95": 0.0}}

    point = changed(tmp_path, "guidellm.json", nothing_finished).points[1]
    assert (point.requests, point.failed, point.interrupted) == (0, 5, True)
    assert point.ttft_mean_s is point.ttft_p95_s is point.tpot_mean_s is point.e2e_p95_s is None
    assert point.requests_per_s is point.output_tokens_per_s is None


@pytest.mark.parametrize(
    ("strategy", "concurrency", "rate"),
    [
        ({"type_": "synchronous"}, 1, None),
        ({"type_": "throughput", "max_concurrency": 64}, 64, None),
        ({"type_": "throughput", "max_concurrency": None}, None, None),
        ({"type_": "constant", "rate": 2.5}, None, 2.5),
        ({"type_": "poisson", "rate": 4}, None, 4.0),
    ],
)
def test_guidellm_load_is_that_of_its_strategy(tmp_path, strategy, concurrency, rate):
    def single(document):
        del document["benchmarks"][1]
        document["benchmarks"][0]["config"]["strategy"] = strategy

    (point,) = changed(tmp_path, "guidellm.json", single).points
    assert (point.concurrency, point.request_rate_target_per_s) == (concurrency, rate)


# ── AIPerf and GenAI-Perf ───────────────────────────────────────────────────────────────────────


def test_aiperf_records_leave_out_warm_up_and_count_failures():
    (point,) = imported("aiperf/profile_export.jsonl").points
    assert (point.requests, point.failed, point.interrupted) == (3, 1, True)
    assert point.ttft_mean_s == near((0.1 + 0.11 + 0.15) / 3)
    # (730 - 100) / 63, (803 - 110) / 63, (906 - 150) / 63 = 10, 11, 12 ms
    assert point.tpot_mean_s == near(0.011)
    assert point.tpot_p90_s == near(0.0118)
    assert point.duration_s == near(3.25)  # from 1 s to 4 s + 250 ms, nanoseconds kept exactly
    assert point.output_tokens_per_s == near(3 * 64 / 3.25)
    assert point.concurrency is None
    assert "folder" in point.notes[0]


def test_aiperf_summary_keeps_what_it_lacks_unknown():
    (point,) = imported("aiperf/profile_export_aiperf.json").points
    assert point.concurrency == 16
    assert point.e2e_p90_s == near(0.8854)
    assert point.e2e_p95_s is None  # the sample has none
    assert (point.requests, point.failed) == (3, 1)


def test_aiperf_records_give_the_percentile_that_the_summary_lacks():
    (point,) = imported("aiperf").points
    assert point.e2e_p95_s == near(0.803 + (0.906 - 0.803) * 0.9)
    assert point.concurrency == 16
    assert point.requests_per_s == near(0.9235)
    assert point.notes == ()


def test_aiperf_files_named_one_by_one_are_paired_as_the_folder_is():
    named = imported("aiperf/profile_export.jsonl", "aiperf/profile_export_aiperf.json")
    assert named.points == imported("aiperf").points


def test_aiperf_records_with_two_summaries_beside_them_are_refused(tmp_path):
    for name in ("profile_export.jsonl", "profile_export_aiperf.json"):
        shutil.copy(SAMPLES / "aiperf" / name, tmp_path)
    shutil.copy(SAMPLES / "aiperf" / "profile_export_aiperf.json", tmp_path / "second.json")
    with pytest.raises(InputError, match="which records belong to which summary"):
        import_run([tmp_path])


def test_aiperf_levels_in_folders_of_one_folder_are_one_sweep(tmp_path):
    for concurrency in (32, 16):
        folder = tmp_path / f"c{concurrency}"
        shutil.copytree(SAMPLES / "aiperf", folder)
        summary = folder / "profile_export_aiperf.json"
        summary.write_text(
            summary.read_text().replace('"concurrency": 16', f'"concurrency": {concurrency}')
        )
    run = import_run([tmp_path])
    assert [point.concurrency for point in run.points] == [16, 32]


def test_aiperf_unit_that_is_no_time_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"time_to_first_token\.unit is not a unit of time"):
        changed(
            tmp_path,
            "aiperf/profile_export_aiperf.json",
            lambda document: document["time_to_first_token"].update(unit="fortnights"),
        )


def test_aiperf_units_are_those_of_the_file(tmp_path):
    run = changed(
        tmp_path,
        "aiperf/profile_export_aiperf.json",
        lambda document: document["time_to_first_token"].update(unit="us"),
    )
    assert run.points[0].ttft_mean_s == near(120e-6)


def test_genai_perf_is_told_from_aiperf_and_converted():
    run = imported("genai_perf.json")
    (point,) = run.points
    assert (run.tool, run.model, run.target) == ("GenAI-Perf", "small_model", "localhost:8001")
    assert point.concurrency == 2
    assert point.ttft_p95_s == near(0.065)
    assert point.tpot_mean_s == near(0.0233)


# ── vllm bench serve ────────────────────────────────────────────────────────────────────────────


def test_vllm_detail_gives_every_percentile_without_the_failed_request():
    (point,) = imported("vllm_detailed.json").points
    assert (point.concurrency, point.requests, point.failed) == (2, 3, 1)
    assert point.ttft_mean_s == near((0.04 + 0.05 + 0.06) / 3)  # not the zero of the failed one
    assert point.tpot_mean_s == near(0.006)  # 31 gaps of 5 ms, and of 7 ms
    assert (point.itl_mean_s, point.itl_p50_s, point.itl_p99_s) == (near(0.006), 0.006, 0.007)
    e2e_s = sorted((0.04 + 31 * 0.005, 0.05 + 31 * 0.007, 0.06))
    assert point.e2e_p50_s == near(e2e_s[1])
    assert point.e2e_p95_s == near(e2e_s[1] + 0.9 * (e2e_s[2] - e2e_s[1]))


def test_vllm_summary_and_detail_agree_where_both_speak():
    (summary,), (detail,) = (
        imported("vllm_summary.json").points,
        imported("vllm_detailed.json").points,
    )
    for name in (
        *("ttft_mean_s", "ttft_p50_s", "ttft_p99_s"),
        *("tpot_mean_s", "tpot_p99_s", "itl_mean_s", "itl_p99_s"),
    ):
        assert getattr(summary, name) == pytest.approx(getattr(detail, name)), name
    assert summary.ttft_p95_s is summary.e2e_p95_s is None


def test_vllm_percentiles_that_were_asked_for_are_read(tmp_path):
    run = changed(
        tmp_path,
        "vllm_summary.json",
        lambda document: document.update(p95_e2el_ms=250.0, mean_e2el_ms=200.0),
    )
    assert (run.points[0].e2e_p95_s, run.points[0].e2e_mean_s) == (0.25, 0.2)


def test_vllm_zero_latency_is_not_known_and_noted(tmp_path):
    run = changed(
        tmp_path,
        "vllm_summary.json",
        lambda document: document.update(mean_tpot_ms=0.0, median_tpot_ms=0.0, p99_tpot_ms=0.0),
    )
    (point,) = run.points
    assert point.tpot_mean_s is point.tpot_p50_s is point.tpot_p99_s is None
    assert any(note.startswith("no TPOT") for note in point.notes)


def test_vllm_rate_is_an_open_loop(tmp_path):
    run = changed(tmp_path, "vllm_summary.json", lambda document: document.update(request_rate=4.0))
    (point,) = run.points
    assert (point.concurrency, point.request_rate_target_per_s) == (None, 4.0)
    assert "at most 2" in point.notes[0]


def test_vllm_arrays_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(InputError, match="output_lens must have 4 entries"):
        changed(tmp_path, "vllm_detailed.json", lambda document: document["output_lens"].pop())


def test_vllm_arrays_that_contradict_the_count_are_refused(tmp_path):
    with pytest.raises(InputError, match="completed says 2"):
        changed(tmp_path, "vllm_detailed.json", lambda document: document.update(completed=2))


def test_vllm_results_appended_to_one_file_are_levels(tmp_path):
    document = json.loads((SAMPLES / "vllm_summary.json").read_text())
    path = tmp_path / "results.json"
    path.write_text(
        "\n".join(json.dumps(document | {"max_concurrency": level}) for level in (8, 2, 4))
    )
    assert [point.concurrency for point in import_run([path]).points] == [2, 4, 8]


# ── inference-perf ──────────────────────────────────────────────────────────────────────────────


def test_inference_perf_stages_are_levels_and_their_sum_is_not():
    run = imported("inference_perf")
    assert [point.request_rate_target_per_s for point in run.points] == [1.0, 2.0]
    assert [(point.requests, point.failed) for point in run.points] == [(100, 0), (197, 3)]
    assert run.points[0].ttft_p50_s == 0.2  # seconds there and here
    assert run.points[0].tpot_mean_s == 0.02  # not the normalized one, 0.05
    assert run.points[1].e2e_p95_s == 12.4


def test_inference_perf_sum_alone_is_noted():
    (point,) = imported("inference_perf/summary_lifecycle_metrics.json").points
    assert point.request_rate_target_per_s is None
    assert "stage_N" in point.notes[0]


# ── NeMo ────────────────────────────────────────────────────────────────────────────────────────


def test_nemo_levels_keep_p95s_items_and_interruptions():
    points = imported("nemo_calc.json").points
    assert [point.concurrency for point in points] == [1, 2, 4]
    assert [point.interrupted for point in points] == [False, False, True]
    assert points[0].llm_latency_p95_s == 0.19766205549240112
    assert points[0].workflow_runtime_p95_s == 0.21457924842834472
    assert points[0].requests == 4
    assert points[0].requests_per_s == near(4 / 0.8001668453216553)
    assert points[0].e2e_p95_s is None  # a workflow is not a request


def test_nemo_level_without_its_items_has_an_unknown_number_of_them(tmp_path):
    def no_items(document):
        document["calc_data"]["1"]["sizing_metrics"]["per_item_metrics"] = {}

    point = changed(tmp_path, "nemo_calc.json", no_items).points[0]
    assert point.requests is point.requests_per_s is None
    assert point.workflow_runtime_p95_s == 0.21457924842834472


def test_nemo_older_files_are_read_and_a_zero_p95_is_no_sample():
    first, second = imported("nemo_old.json").points
    assert first.llm_latency_p95_s is None
    assert first.workflow_runtime_p95_s == 3.864
    assert second.interrupted
    assert second.workflow_runtime_p95_s == near(4.0 + 0.95 * 4.0)  # between its two items


@pytest.mark.parametrize("level", ["eight", "0", "-1", "1.5", "²"])
def test_nemo_level_that_is_no_count_is_refused(tmp_path, level):
    with pytest.raises(InputError, match="is not a concurrency"):
        changed(
            tmp_path,
            "nemo_calc.json",
            lambda document: document["calc_data"].update({level: document["calc_data"]["1"]}),
        )


# ── every format ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sample", EVERY_SAMPLE)
def test_a_run_survives_being_written_and_read(tmp_path, sample):
    run = imported(sample)
    write_run(run, tmp_path / "run")
    assert load_run(tmp_path / "run") == run
    assert import_run([tmp_path / "run"]) == run
    assert import_run([tmp_path / "run" / "run.json"]) == run


@pytest.mark.parametrize("sample", EVERY_SAMPLE)
def test_no_secret_is_copied(tmp_path, sample):
    write_run(imported(sample), tmp_path)
    written = (tmp_path / "run.json").read_text()
    for secret in ("never-copied", "pass-word", "user:", "Authorization", "Bearer"):
        assert secret not in written


@pytest.mark.parametrize("sample", EVERY_SAMPLE)
def test_percentiles_are_in_order(sample):
    for point in imported(sample).points:
        for metric in ("ttft", "tpot", "e2e"):
            stated = [getattr(point, f"{metric}_p{each}_s") for each in (50, 90, 95, 99)]
            known = [value for value in stated if value is not None]
            assert known == sorted(known)


def test_a_file_is_recognised_by_its_content_not_its_name(tmp_path):
    for sample in ("guidellm.json", "aiperf/profile_export.jsonl", "nemo_calc.json"):
        path = tmp_path / "anything.txt"
        shutil.copy(SAMPLES / sample, path)
        assert import_run([path]).points == imported(sample).points


def test_the_same_file_twice_is_counted_once():
    assert imported("vllm_summary.json", "vllm_summary.json") == imported("vllm_summary.json")


def test_files_of_one_sweep_are_one_run_and_repeated_levels_are_noted(tmp_path):
    document = json.loads((SAMPLES / "vllm_summary.json").read_text())
    paths = []
    for index, level in enumerate((8, 2, 8)):
        paths.append(tmp_path / f"{index}.json")
        paths[-1].write_text(json.dumps(document | {"max_concurrency": level, "label": f"{level}"}))
    run = import_run(paths)
    assert [point.concurrency for point in run.points] == [2, 8, 8]
    assert run.notes == ("concurrency 8 was measured 2 times",)
    assert run.facts["label"] == "8, 2"


def test_files_of_two_tools_or_two_models_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nemo_calc\.json: .* tool is NeMo Agent Toolkit"):
        imported("guidellm.json", "nemo_calc.json")
    document = json.loads((SAMPLES / "vllm_summary.json").read_text()) | {"model_id": "other"}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    with pytest.raises(InputError, match="model is other, of the files before tiny"):
        import_run([SAMPLES / "vllm_summary.json", other])


def test_nothing_to_import_is_wrong_use():
    with pytest.raises(UsageError):
        import_run([])


# ── refusals ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", r"f\.json:1: is empty"),
        ('{"benchmarks": [', r"f\.json:1: is cut off\. Copy it again"),
        ('{"a": 1,\n "b": tru', r"f\.json:2: is not JSON"),
        ('{"a": 1,\n "b": NaN}', r"f\.json:2: holds NaN"),
        ('{"a": "NaN",\n\n "b": -Infinity}', r"f\.json:3: holds -Infinity"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "cannot be measured"),
        ('{"some": 1, "keys": 2}', "has the keys some, keys.*Tried: tonnage run, GuideLLM"),
        ('{"experiments": []}', "Perf Analyzer's raw profile"),
        ("{}", "is an empty object"),
        ("[1]", "holds a list"),
        ("7", "holds a number"),
        ("null", "holds a null"),
        (b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_a_file_that_is_none_of_these_says_why(tmp_path, content, said):
    path = tmp_path / "f.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=said):
        import_run([path])


def test_a_cut_off_record_is_told_with_its_line(tmp_path):
    text = (SAMPLES / "aiperf" / "profile_export.jsonl").read_text()
    path = tmp_path / "f.jsonl"
    path.write_text(text[:-40])
    with pytest.raises(InputError, match=r"f\.jsonl:5: is cut off"):
        import_run([path])
    path.write_text(text.replace("906.0", "NaN"))
    with pytest.raises(InputError, match=r"f\.jsonl:4: holds NaN"):
        import_run([path])
    path.write_text(text.replace("906.0", '"slow"'))
    with pytest.raises(InputError, match=r"f\.jsonl:4: metrics\.request_latency\.value must be a"):
        import_run([path])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("fast", "must be a number"),
        (True, "must be a number"),
        (-1.0, "must not be negative"),
        (1e308, "can be measured"),
        ([1], "must be a number"),
    ],
)
def test_a_wrong_value_is_told_with_its_key(tmp_path, value, said):
    with pytest.raises(InputError, match=rf"mean_ttft_ms .*({said})"):
        changed(tmp_path, "vllm_summary.json", lambda doc: doc.update(mean_ttft_ms=value))


def test_an_answer_that_ends_before_it_begins_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"successful\[0\] ends before its first token"):
        changed(
            tmp_path,
            "guidellm.json",
            lambda doc: doc["benchmarks"][0]["requests"]["successful"][0].update(
                request_latency=0.001
            ),
        )


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: does not exist"):
        import_run([tmp_path / "nowhere.json"])
    with pytest.raises(InputError, match="holds no result that is recognised"):
        import_run([tmp_path])


def test_a_huge_file_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "huge.json"
    path.touch()
    os.truncate(path, reading.MAX_BYTES + 1)  # sparse: takes no room
    with pytest.raises(InputError, match=r"1\.00 GB large, more than"):
        import_run([path])


def test_a_run_with_an_unknown_key_or_a_wrong_type_is_refused(tmp_path):
    write_run(imported("guidellm.json"), tmp_path)
    body = json.loads((tmp_path / "run.json").read_text())
    for change in (
        {"surprise": 1},
        {"points": 3},
        {"points": [{"ttft_p95_s": "x"}]},
        {"points": None},
        {"facts": {"a": 1}},
        {"notes": "no list"},
        {"gpus": 1.5},
    ):
        (tmp_path / "run.json").write_text(json.dumps(body | change))
        with pytest.raises(InputError):
            import_run([tmp_path])


def _values(place):
    """Every place of a document where a value could be wrong, as paths of keys."""
    if isinstance(place, dict):
        for key, value in place.items():
            yield (key,)
            yield from ((key, *path) for path in _values(value))
    elif isinstance(place, list):
        for index, value in enumerate(place[:3]):
            yield (index,)
            yield from ((index, *path) for path in _values(value))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**300, max_value=10**301),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.just("\ud800\x1b[31m"),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
)


@pytest.mark.parametrize("sample", [name for name in EVERY_SAMPLE if name.endswith(".json")])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_corrupted_value_is_a_run_or_an_input_error(tmp_path, sample, data):
    document = json.loads((SAMPLES / sample).read_text())
    path = data.draw(st.sampled_from(sorted(_values(document), key=str)))
    inside = document
    for key in path[:-1]:
        inside = inside[key]
    if data.draw(st.booleans()):
        inside[path[-1]] = data.draw(JUNK)
    else:
        del inside[path[-1]]
    file = tmp_path / "f.json"
    file.write_text(json.dumps(document))
    _is_a_run_or_refused(file, tmp_path)


@pytest.mark.parametrize("sample", [name for name in EVERY_SAMPLE if "." in name])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_corrupted_bytes_are_a_run_or_an_input_error(tmp_path, sample, data):
    content = bytearray((SAMPLES / sample).read_bytes())
    start = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, 40))
    content[start : start + length] = data.draw(st.binary(max_size=20))
    file = tmp_path / "f.json"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    _is_a_run_or_refused(file, tmp_path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_corrupted_run_is_a_run_or_an_input_error(tmp_path, data):
    write_run(imported("guidellm.json"), tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    document = json.loads(file.read_text())
    path = data.draw(st.sampled_from(sorted(_values(document), key=str)))
    inside = document
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = data.draw(JUNK)
    file.write_text(json.dumps(document))
    _is_a_run_or_refused(file, tmp_path)


def _is_a_run_or_refused(file, folder):
    try:
        run = import_run([file])
    except TonnageError:
        return
    written = write_run(run, folder / "again")
    assert replace(load_run(written), name="") == replace(run, name="")


# ── parts ───────────────────────────────────────────────────────────────────────────────────────


def test_percentiles_are_interpolated_linearly():
    assert percentile([1.0, 2.0, 4.0], 50) == 2.0
    assert percentile([1.0, 2.0, 4.0], 75) == 3.0
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) is None
    assert spread([]).mean_s is None


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_a_percentile_is_numpys(samples, which):
    expected = float(np.percentile(samples, which))
    assert percentile(sorted(samples), which) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:p@host:8000/v1?key=secret#x", "http://host:8000/v1"),
        ("u:p@host:8000", "host:8000"),
        ("localhost:8001", "localhost:8001"),
        ("https://a@b@host/", "https://host/"),
        ("http://[bad", None),
        (None, None),
    ],
)
def test_a_target_has_no_credentials(url, shown):
    assert without_credentials(url) == shown


@pytest.mark.parametrize(
    ("epoch_s", "shown"),
    [(0.0, None), (1e18, None), (None, None), (1795173798.6, "2026-11-20T11:23:18+00:00")],
)
def test_an_instant_is_written_in_utc(epoch_s, shown):
    assert instant(epoch_s) == shown


@pytest.mark.parametrize("unit", ["ns", "us", "ms", "s", "sec"])
def test_units_are_divided_exactly(unit):
    per_second = {"ns": 10**9, "us": 10**6, "ms": 10**3, "s": 1, "sec": 1}[unit]
    assert Place(7, "f").seconds(unit) == 7 / per_second
