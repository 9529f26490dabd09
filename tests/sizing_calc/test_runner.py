"""The programmatic interface: measured levels -> the output, on real folders."""

import asyncio
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.sizing_calc.conftest import DOCUMENTED, SAMPLES, body_of, line
from tonnage.errors import InputError
from tonnage.sizing_calc import (
    CalcRunner,
    CalcRunnerConfig,
    CalcRunnerOutput,
    ConfigError,
    FitConfig,
)
from tonnage.sizing_calc.estimate import estimate_gpus
from tonnage.sizing_calc.jobs import load_levels, load_output
from tonnage.sizing_calc.models import SizingMetricsPerConcurrency


def configured(output_dir, /, **changes):
    asked = {
        "offline_mode": True,
        "output_dir": output_dir,
        "target_workflow_runtime": 10,
        "target_users": 100,
        "test_gpu_count": 8,
        "plot_data": False,
    }
    return CalcRunnerConfig.model_validate(asked | changes)


def sized(output_dir, **changes):
    return asyncio.run(CalcRunner(configured(output_dir, **changes)).run())


def written_by(runner):
    """The folder of a run."""
    asyncio.run(runner.run())
    assert runner.folder is not None
    return runner.folder


# ── the published example ───────────────────────────────────────────────────────────────────────


def test_the_documented_table_gives_its_fit_and_estimates(documented):
    config = CalcRunnerConfig(
        offline_mode=True,
        output_dir=documented,
        target_workflow_runtime=10,
        target_users=100,
        test_gpu_count=8,
        plot_data=False,
    )
    output = asyncio.run(CalcRunner(config).run())
    fit = output.fit_results.wf_runtime_fit
    assert fit is not None
    assert fit.slope == pytest.approx(0.656838, abs=5e-7)
    assert fit.intercept == pytest.approx(3.026423, abs=5e-7)
    assert fit.r_squared == pytest.approx(0.9955, abs=5e-5)
    assert output.gpu_estimates.gpu_estimate_by_wf_runtime == pytest.approx(75.3516, abs=5e-5)
    assert output.gpu_estimates.gpu_estimate_by_llm_latency is None
    assert output.tonnage.wf_runtime.concurrency_at_target == pytest.approx(10.6169, abs=5e-5)
    rough = [d.gpu_estimates.gpu_estimate_by_wf_runtime for d in output.calc_data.values()]
    expected = [322.79, 188.479, 113.516, 79.0895]
    assert rough[:4] == [pytest.approx(value, rel=2e-6) for value in expected]
    assert rough[4:] == [None, None]
    out_of_range = [
        data.alerts.num_items_greater_than_target_runtime for data in output.calc_data.values()
    ]
    assert out_of_range == [0, 0, 0, 0, 32, 64]
    assert output.per_concurrency_data is output.calc_data


def test_the_top_latency_of_the_documented_table_is_an_outlier(documented):
    output = sized(documented, target_llm_latency=3)
    fit = output.fit_results.llm_latency_fit
    assert fit.outliers_removed == [32]
    assert fit.r_squared == pytest.approx(0.996, abs=5e-4)
    assert output.calc_data[32].alerts.outlier_llm_latency
    assert not output.calc_data[32].alerts.outlier_workflow_runtime
    assert output.gpu_estimates.gpu_estimate_by_llm_latency == pytest.approx(56.957, abs=1e-3)
    assert output.tonnage.gpu_estimate == output.gpu_estimates.gpu_estimate_by_wf_runtime


def test_fit_settings_reach_the_fit(documented):
    output = sized(documented, fit_config=FitConfig(remove_outliers=False))
    assert output.fit_results.llm_latency_fit.outliers_removed == []
    strict = sized(documented, fit_config={"min_r_squared": 0.999})
    assert strict.fit_results.wf_runtime_fit is None
    assert "R²" in strict.tonnage.wf_runtime.no_fit


# ── what was measured ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["today.json", "older.json"])
def test_both_schemas_mean_the_same(add_job, tmp_path, name):
    add_job((SAMPLES / name).read_text())
    output = sized(tmp_path)
    assert list(output.calc_data) == [1, 2, 4]
    assert output.calc_data[4].sizing_metrics.alerts.workflow_interrupted
    assert output.tonnage.unusable_levels == {4: "the workflow was interrupted"}
    assert output.fit_results.wf_runtime_fit.slope == pytest.approx(1)
    assert output.fit_results.wf_runtime_fit.intercept == pytest.approx(1)
    assert output.gpu_estimates.gpu_estimate_by_wf_runtime == pytest.approx(100 / 9 * 8)


@pytest.mark.parametrize("name", ["today.json", "older.json"])
def test_what_was_written_reads_back_as_it_was(add_job, tmp_path, name):
    add_job((SAMPLES / name).read_text())
    runner = CalcRunner(configured(tmp_path))
    output = asyncio.run(runner.run())
    (file,) = tmp_path.glob("offline/*/calc_runner_output.json")
    text = file.read_text()
    assert CalcRunnerOutput.model_validate_json(text) == output
    assert set(json.loads(text)) == {"gpu_estimates", "fit_results", "calc_data", "tonnage"}
    levels = load_output(file).calc_data
    assert levels == output.calc_data


def test_the_newest_job_has_a_level_and_older_ones_fill_gaps(add_job, tmp_path):
    add_job(body_of(line(1, 1, (1, 2, 4, 8))), "job_1900000000")
    add_job(body_of(line(2, 2, (2, 16))), "job_6f9619ff-8b86-d011-b42d-00c04fc964ff")
    levels = load_levels(tmp_path)
    assert list(levels.metrics) == [1, 2, 4, 8, 16]
    assert levels.metrics[2].workflow_runtime_p95 == 6
    assert levels.metrics[4].workflow_runtime_p95 == 5
    taken = {job.folder.name: found for job, found in levels.jobs}
    assert taken == {
        "job_6f9619ff-8b86-d011-b42d-00c04fc964ff": (2, 16),
        "job_1900000000": (1, 4, 8),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an output of sizing calc"),
        ("{}", "no concurrency level"),
        ("[" * 100_000, "is not JSON"),
        ('{"calc_data": {"0": {}}}', "calc_data"),
        ('{"calc_data": {"one": {}}}', "calc_data"),
        ('{"calc_data": {"1": {"sizing_metrics": {"total_runtime": NaN}}}}', "total_runtime"),
        ('{"calc_data": {"1": {"sizing_metrics": {"llm_latency_p95": -1}}}}', "llm_latency_p95"),
        ('{"per_concurrency_data": {"1": 7}}', "calc_data.1"),
    ],
)
def test_a_job_that_cannot_be_read_is_named_and_skipped(documented, add_job, text, says):
    broken = add_job(text)
    (warning,) = load_levels(documented).warnings
    assert str(broken) in warning
    assert says in warning
    assert any(str(broken) in each for each in sized(documented).tonnage.warnings)


def test_nothing_left_is_an_error_that_says_why(add_job, tmp_path):
    add_job("{")
    (tmp_path / "online" / "job_1").mkdir()
    with pytest.raises(InputError, match=r"(?s)no job that can be used.*job_1\b") as raised:
        sized(tmp_path)
    assert "is not JSON" in str(raised.value)
    assert not (tmp_path / "offline").exists()


def test_the_folder_above_is_named_when_one_inside_was_given(documented):
    for inside in (documented / "online", documented / "online" / "job_1700000000"):
        with pytest.raises(InputError, match=f"Name {documented}"):
            load_levels(inside)


@pytest.mark.parametrize("missing", ["nowhere", "file"])
def test_an_output_dir_that_is_none_is_an_error(tmp_path, missing):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=missing):
        load_levels(tmp_path / missing)


@pytest.mark.parametrize(
    ("key", "values", "says"),
    [
        ("test_gpu_count", (8, 4), "different GPUs"),
        ("model", ("a", "b"), "different models"),
        ("config", ("a.yml", "b.yml"), "different configs"),
    ],
)
def test_jobs_of_different_things_are_refused_unless_forced(add_job, tmp_path, key, values, says):
    add_job(body_of(line(1, 1, (1, 2)), tonnage={key: values[0]}))
    add_job(body_of(line(1, 1, (4, 8)), tonnage={key: values[1]}))
    with pytest.raises(InputError, match=says):
        sized(tmp_path)
    assert not (tmp_path / "offline").exists()
    forced = sized(tmp_path, force=True)
    assert any(says in warning for warning in forced.tonnage.warnings)


def test_a_gpu_count_that_a_job_denies_is_refused(add_job, tmp_path):
    add_job(body_of(line(1, 1, (1, 2)), tonnage={"test_gpu_count": 4}))
    with pytest.raises(InputError, match=r"8 \(test_gpu_count\), 4 \(job_1700000000\)"):
        sized(tmp_path)
    assert sized(tmp_path, test_gpu_count=4).tonnage.test_gpu_count == 4


# ── what cannot be estimated ────────────────────────────────────────────────────────────────────


def test_a_target_below_the_intercept_leaves_the_other_estimate(documented):
    output = sized(documented, target_workflow_runtime=3, target_llm_latency=3)
    assert output.gpu_estimates.gpu_estimate_by_wf_runtime is None
    assert "not reachable at any GPU count" in output.tonnage.wf_runtime.not_reachable
    assert output.gpu_estimates.gpu_estimate_by_llm_latency == pytest.approx(56.957, abs=1e-3)
    assert output.tonnage.gpu_estimate is None
    assert output.fit_results.wf_runtime_fit is not None


def test_a_falling_line_reaches_nothing(add_job, tmp_path):
    add_job(body_of(line(-0.5, 9, (1, 2, 4, 8))))
    facts = sized(tmp_path).tonnage.wf_runtime
    assert "does not rise with concurrency" in facts.not_reachable


def test_scatter_and_a_single_level_have_no_line(add_job, tmp_path):
    add_job(body_of({c: (1, y, 9) for c, y in zip((1, 2, 3, 4), (2, 5, 1, 4), strict=True)}))
    scattered = sized(tmp_path)
    assert "R²" in scattered.tonnage.wf_runtime.no_fit
    assert scattered.fit_results.wf_runtime_fit is None
    add_job(body_of(line(1, 1, (1, 2, 3, 4)), interrupted=(2, 3, 4)))
    single = sized(tmp_path)
    assert "1 usable level" in single.tonnage.wf_runtime.no_fit
    assert single.calc_data[1].gpu_estimates.gpu_estimate_by_wf_runtime is not None
    assert single.calc_data[2].gpu_estimates.gpu_estimate_by_wf_runtime is None


def test_a_level_that_lacks_what_the_others_have_is_in_no_fit(add_job, tmp_path):
    """As where the LLM was dead, and every item failed fast."""
    levels = line(1, 1, (1, 2, 4)) | {8: (0, 0.5, 18), 16: (None, 0.5, 34)}
    body = body_of(levels)
    del body["calc_data"]["16"]["sizing_metrics"]["per_item_metrics"]
    add_job(body)
    output = sized(tmp_path)
    assert output.tonnage.unusable_levels == dict.fromkeys((8, 16), "no p95 of LLM Latency")
    assert output.tonnage.wf_runtime.levels == output.tonnage.llm_latency.levels == [1, 2, 4]
    assert output.calc_data[8].gpu_estimates.gpu_estimate_by_wf_runtime is None
    assert any("concurrency 8 is in no fit" in each for each in output.tonnage.warnings)


def test_a_workflow_without_llm_calls_is_sized_by_its_runtime(add_job, tmp_path):
    add_job(body_of({c: (0, 3 + c, 2 * c) for c in (1, 2, 4)}))
    output = sized(tmp_path)
    assert output.fit_results.wf_runtime_fit.slope == pytest.approx(1)
    assert output.gpu_estimates.gpu_estimate_by_wf_runtime is not None
    assert output.gpu_estimates.gpu_estimate_by_llm_latency is None
    assert output.fit_results.llm_latency_fit is None
    assert "LLM Latency: not measured at any level." in output.tonnage.warnings


def test_levels_that_do_not_rise_reach_no_target_and_bend_nowhere(add_job, tmp_path):
    flat = (3, 20, 26, 50, 55, 80, 86, 88, 98, 130, 144)
    add_job(body_of(dict.fromkeys(flat, (2.94, 2.94, 6))))
    output = sized(tmp_path, target_workflow_runtime=7.4, fit_config={"min_r_squared": 0})
    assert output.gpu_estimates.gpu_estimate_by_wf_runtime is None
    assert "does not rise" in output.tonnage.wf_runtime.not_reachable
    assert not any("bend" in each for each in output.tonnage.warnings)


@pytest.mark.parametrize("last", [2.5, 9.0])
def test_fences_at_infinity_drop_nothing_whatever_the_quartiles(add_job, tmp_path, last):
    add_job(body_of({level: (1, 2.5 if level < 5 else last, 6) for level in range(1, 6)}))
    output = sized(tmp_path, fit_config={"extreme_outlier_threshold": math.inf})
    assert output.tonnage.wf_runtime.no_fit is not None


def test_a_level_without_any_time_is_in_no_fit(add_job, tmp_path):
    add_job(body_of(line(1, 1, (1, 2, 4)) | {8: (0, 0, 18)}))
    output = sized(tmp_path)
    assert set(output.tonnage.unusable_levels) == {8}
    assert output.calc_data[8].gpu_estimates.gpu_estimate_by_wf_runtime is None


# ── what to think of it ─────────────────────────────────────────────────────────────────────────


def test_few_levels_and_a_steep_slope_are_warned_of(add_job, tmp_path):
    add_job(body_of(line(1.5, 1, (1, 2, 4))))
    warnings = " ".join(sized(tmp_path).tonnage.warnings)
    assert "3 usable concurrency levels" in warnings
    assert "Workflow Runtime: the slope is 1.5, above 1" in warnings
    assert "LLM Latency: the slope" not in warnings


def test_ten_levels_on_a_gentle_line_warn_of_nothing(add_job, tmp_path):
    add_job(body_of(line(0.5, 1, range(1, 21))))
    assert sized(tmp_path).tonnage.warnings == []


def test_an_estimate_beyond_the_levels_that_worked_names_the_largest(add_job, tmp_path):
    add_job(body_of(line(0.5, 1, (1, 2, 3, 8)), interrupted=(8,)))
    output = sized(tmp_path)
    assert output.tonnage.wf_runtime.extrapolated_beyond == 3
    assert any("concurrency 18, beyond" in each for each in output.tonnage.warnings)
    within = sized(tmp_path, target_workflow_runtime=2.4)
    assert within.tonnage.wf_runtime.extrapolated_beyond is None


def test_a_target_that_one_request_misses_is_warned_of(add_job, tmp_path):
    add_job(body_of(line(1, 1, (1, 2, 4))))
    output = sized(tmp_path, target_workflow_runtime=1.5)
    assert output.gpu_estimates.gpu_estimate_by_wf_runtime == pytest.approx(1600)
    assert any("one request alone already misses" in each for each in output.tonnage.warnings)


# ── job folders ─────────────────────────────────────────────────────────────────────────────────


def test_a_run_replaces_the_last_one_and_nothing_else(documented):
    offline = documented / "offline"
    appended = offline / "job_6f9619ff-8b86-d011-b42d-00c04fc964ff"
    theirs = offline / "job_1600000000"
    elsewhere = documented / "archive"
    for folder in (appended, theirs, elsewhere):
        folder.mkdir(parents=True)
        (folder / "calc_runner_output.json").touch()
    (theirs / "notes.txt").touch()
    (offline / "job_1500000000").symlink_to(elsewhere)
    measured = sorted((documented / "online").rglob("*"))

    first, second = (written_by(CalcRunner(configured(documented))) for _ in range(2))
    assert not first.exists()
    assert [each.name for each in second.iterdir()] == ["calc_runner_output.json"]
    assert (appended / "calc_runner_output.json").exists()
    assert (elsewhere / "calc_runner_output.json").exists()
    assert [each.name for each in theirs.iterdir()] == ["notes.txt"]
    assert not list(offline.glob(".*"))
    assert sorted((documented / "online").rglob("*")) == measured


def test_a_place_that_cannot_be_written_is_an_error(documented):
    (documented / "offline").touch()
    with pytest.raises(InputError, match="cannot be written"):
        sized(documented)


def test_the_written_file_says_what_was_asked_and_of_what(documented, add_job):
    add_job(body_of(line(1, 1, (64,)), tonnage={"model": "m", "config": "c.yml"}))
    facts = sized(documented).tonnage
    assert (facts.target_workflow_runtime_p95, facts.target_llm_latency_p95) == (10, 0)
    assert (facts.target_users, facts.test_gpu_count) == (100, 8)
    assert (facts.model, facts.config) == ("m", "c.yml")
    assert facts.jobs == {"job_1700000000": [1, 2, 4, 8, 16, 32], "job_1700000001": [64]}
    assert facts.versions["tonnage"]
    assert facts.created.endswith("+00:00")


# ── settings ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"concurrencies": [1]}, "concurrencies"),
        ({"concurrencies": [1, 2, 1]}, "concurrencies"),
        ({"concurrencies": [0, 1]}, "concurrencies"),
        ({"concurrencies": [-1, 1]}, "concurrencies"),
        ({"target_workflow_runtime": 0}, "target_workflow_runtime_p95"),
        ({"target_workflow_runtime": -1}, "target_workflow_runtime_p95"),
        ({"target_workflow_runtime": math.nan}, "target_workflow_runtime_p95"),
        ({"target_llm_latency": math.inf}, "target_llm_latency_p95"),
        ({"target_users": 0}, "target_users"),
        ({"target_users": -3}, "target_users"),
        ({"test_gpu_count": 0}, "test_gpu_count"),
        ({"num_passes": -1}, "num_passes"),
        ({"endpoint_timeout": 0}, "endpoint_timeout"),
        ({"append_job": True}, "append_job"),
        ({"output_dir": None}, "output_dir"),
        ({"offline_mode": False}, "config_file"),
    ],
)
def test_a_setting_that_cannot_be_used_is_a_value_error_naming_it(tmp_path, changes, field):
    with pytest.raises(ValueError, match=f"^{field} ") as raised:
        CalcRunner(configured(tmp_path, **changes))
    assert isinstance(raised.value, ConfigError)
    assert raised.value.field == field


def test_a_misspelt_setting_is_an_error(tmp_path):
    with pytest.raises(ValidationError, match="target_runtime"):
        configured(tmp_path, target_runtime=10)


# ── any measurements ────────────────────────────────────────────────────────────────────────────

times = st.floats(0.001, 1000) | st.just(0.0)
levels_measured = st.dictionaries(
    st.integers(1, 1000),
    st.builds(
        SizingMetricsPerConcurrency,
        llm_latency_p95=times,
        workflow_runtime_p95=times,
        total_runtime=times,
    ),
    min_size=1,
    max_size=12,
)


@given(measured=levels_measured, runtime_s=st.floats(0, 500), latency_s=st.floats(0.01, 500))
def test_any_measurements_have_an_answer_that_says_why_not(measured, runtime_s, latency_s):
    config = configured(".", target_workflow_runtime=runtime_s, target_llm_latency=latency_s)
    output = estimate_gpus(measured, config)
    assert list(output.calc_data) == sorted(measured)
    for gpus, facts, target_s in (
        (output.gpu_estimates.gpu_estimate_by_wf_runtime, output.tonnage.wf_runtime, runtime_s),
        (output.gpu_estimates.gpu_estimate_by_llm_latency, output.tonnage.llm_latency, latency_s),
    ):
        if target_s > 0:
            reasons = [gpus, facts.no_fit, facts.not_reachable]
            assert sum(each is not None for each in reasons) == 1
            assert gpus is None or gpus > 0
        else:
            assert gpus is None
    assert CalcRunnerOutput.model_validate_json(output.model_dump_json()) == output


@given(users=st.integers(1, 10**6), gpus=st.integers(1, 10**4))
def test_the_estimate_is_proportional_to_users_and_gpus(users, gpus):
    measured = {
        level: SizingMetricsPerConcurrency(llm_latency_p95=latency, workflow_runtime_p95=runtime)
        for level, (latency, runtime, _) in DOCUMENTED.items()
    }
    output = estimate_gpus(measured, configured(".", target_users=users, test_gpu_count=gpus))
    found = output.gpu_estimates.gpu_estimate_by_wf_runtime
    assert found == pytest.approx(75.35159084873074 * users / 100 * gpus / 8)


# ── levels that bend ────────────────────────────────────────────────────────────────────────────


def bending(folder, *, noise=0.02):
    """Levels of a known law: 2 s alone, 5 % contention, 0.4 % coherency; saved as measured."""
    levels = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48)
    runtime_s = {n: (1 + 0.05 * (n - 1) + 0.004 * n * (n - 1)) * 2.0 for n in levels}
    sign = {n: (-1) ** position for position, n in enumerate(levels)}
    job = folder / "online" / "job_1"
    job.mkdir(parents=True)
    data = {
        str(n): {"sizing_metrics": {"workflow_runtime_p95": each * (1 + noise * sign[n])}}
        for n, each in runtime_s.items()
    }
    (job / "calc_runner_output.json").write_text(json.dumps({"calc_data": data}))
    return folder


def test_a_line_through_a_bend_is_the_answer_and_is_warned_of(tmp_path):
    output = sized(bending(tmp_path), target_workflow_runtime=6)
    facts = output.tonnage.wf_runtime
    assert facts.kind == "line"
    assert facts.law is not None
    assert facts.law.knee == pytest.approx(math.sqrt(0.95 / 0.004), rel=0.1)
    assert any(
        "the levels bend" in each and "--fit best" in each for each in output.tonnage.warnings
    )
    assert output.fit_results.wf_runtime_fit is not None


@pytest.mark.parametrize("kind", ["usl", "best"])
def test_the_law_finds_the_load_that_the_line_misses(tmp_path, kind):
    truth = 17.6  # 2 (1 + 0.05 (n - 1) + 0.004 n (n - 1)) = 6
    folder = bending(tmp_path)
    by_line = sized(folder, target_workflow_runtime=6).tonnage.wf_runtime
    output = sized(folder, target_workflow_runtime=6, fit_config={"kind": kind})
    facts = output.tonnage.wf_runtime
    assert facts.kind == "usl"
    assert facts.concurrency_at_target == pytest.approx(truth, rel=0.03)
    assert by_line.concurrency_at_target is not None
    assert abs(by_line.concurrency_at_target - truth) > 2
    assert output.gpu_estimates.gpu_estimate_by_wf_runtime == pytest.approx(
        800 / facts.concurrency_at_target
    )
    assert not any("the levels bend" in each for each in output.tonnage.warnings)
    assert facts.levels == sorted(output.calc_data)
    assert output.fit_results.wf_runtime_fit is not None  # the line stays in the file
    assert not any("outlier" in each for each in output.tonnage.warnings)


@pytest.mark.parametrize(("kind", "law"), [("line", "line"), ("usl", "scalability law")])
def test_an_estimate_beyond_the_levels_names_the_law_that_may_not_go_on(tmp_path, kind, law):
    output = sized(bending(tmp_path), target_workflow_runtime=60, fit_config={"kind": kind})
    assert output.tonnage.wf_runtime.extrapolated_beyond is not None
    assert any(f"nothing shows that the {law} goes on" in each for each in output.tonnage.warnings)


def test_levels_on_a_line_stay_on_it(add_job, tmp_path):
    add_job(body_of(line(0.5, 3.0, range(1, 11))))
    plain = sized(tmp_path)
    best = sized(tmp_path, fit_config={"kind": "best"})
    assert not any("the levels bend" in each for each in plain.tonnage.warnings)
    assert best.gpu_estimates == plain.gpu_estimates
