"""`tonnage fit`, asked the way people ask: figures, streams, exit codes, widths."""

import json

import pytest

from tests.cli.process import tonnage
from tests.report.documents import checked
from tonnage import errors
from tonnage.measurement import Point, Run
from tonnage.measurement.run import write_run

# the table in NVIDIA's documentation of `nat sizing calc`: level, LLM latency, workflow runtime
TABLE = (
    (1, 1.14981, 4.03488),
    (2, 1.3591, 4.71197),
    (4, 1.50682, 5.67581),
    (8, 2.10668, 7.90895),
    (16, 3.30196, 12.677),
    (32, 6.57847, 24.5307),
)
POINTS = tuple(
    Point(
        concurrency=level,
        llm_latency_p95_s=latency,
        workflow_runtime_p95_s=runtime,
        ttft_p95_s=0.1 * latency,
        requests=2 * level,
        output_tokens_per_s=100.0 * level,
    )
    for level, latency, runtime in TABLE
)
FAILED = Point(
    concurrency=64,
    requests=128,
    failed=3,
    interrupted=True,
    llm_latency_p95_s=1.0,
    workflow_runtime_p95_s=2.0,
)


def answered(*arguments):
    result = tonnage("fit", *arguments, "--format", "json")
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    return checked(json.loads(result.stdout), "fits")


@pytest.fixture
def run(tmp_path):
    """Write a run of these points and name its folder."""

    def write(*points, name="table", **facts):
        folder = tmp_path / name
        write_run(Run(name=name, tool="tonnage", points=points, **facts), folder)
        return folder

    return write


def test_the_documented_table_asks_for_the_documented_gpus(run):
    folder = run(*POINTS)
    data = answered(
        *(folder, "--target-s", "10", "--users", "100", "--gpus", "8"),
        *("--metric", "workflow_runtime_p95_s"),
    )
    [fit] = data["fits"]
    assert fit["metric"] == "workflow_runtime_p95_s"
    assert fit["kind"] == "line"
    assert fit["slope"] == pytest.approx(0.656838, abs=5e-7)
    assert fit["intercept"] == pytest.approx(3.026423, abs=5e-7)
    assert fit["r_squared"] == pytest.approx(0.9955, abs=5e-5)
    assert fit["outliers"] == []
    for figure in ("slope", "intercept"):
        low, high = fit["interval_90"][figure]
        assert low < fit[figure] < high
    [estimate] = data["estimates"]
    assert estimate["gpus"] == pytest.approx(75.3516, abs=5e-5)
    low, high = estimate["interval_90"]["gpus"]
    assert low < estimate["gpus"] < high
    assert estimate["extrapolated"] is False


def test_points_come_whole_under_their_names(run):
    points = answered(run(*POINTS, FAILED))["points"]
    assert set(points[0]) >= {
        *("concurrency", "llm_latency_p95_s", "workflow_runtime_p95_s", "ttft_p50_s"),
        *("ttft_p95_s", "tpot_mean_s", "e2e_p50_s", "e2e_p95_s", "requests", "failed"),
        "output_tokens_per_s",
    }
    assert [each["concurrency"] for each in points] == [1, 2, 4, 8, 16, 32, 64]
    assert points[0]["workflow_runtime_p95_s"] == 4.03488
    assert points[0]["e2e_p95_s"] is None
    assert points[-1]["failed"] == 3


def test_an_interrupted_level_is_left_out_and_said_so(run):
    with_it, without = run(*POINTS, FAILED), run(*POINTS, name="sound")
    assert answered(with_it)["fits"] == answered(without)["fits"]
    assert {each["concurrency"] for each in answered(with_it)["left_out"]} == {64}
    told = tonnage("fit", with_it)
    assert "level 64 (interrupted, 3 failed) is left out" in told.stdout
    assert "left out" not in tonnage("fit", without).stdout


def test_both_usual_metrics_are_fitted_unless_others_are_named(run):
    folder = run(*POINTS)
    usual = [each["metric"] for each in answered(folder)["fits"]]
    assert usual == ["llm_latency_p95_s", "workflow_runtime_p95_s"]
    named = answered(folder, "--metric", "ttft-p95", "--metric", "llm_latency_p95_s")["fits"]
    assert [each["metric"] for each in named] == ["ttft_p95_s", "llm_latency_p95_s"]


def test_a_run_without_them_is_fitted_on_the_whole_answer(run):
    folder = run(*(Point(concurrency=level, e2e_p95_s=1.0 + level) for level in (1, 2, 4)))
    [fit] = answered(folder)["fits"]
    assert fit["metric"] == "e2e_p95_s"
    assert fit["slope"] == pytest.approx(1)


def test_several_runs_are_fitted_together_and_say_how_many_gpus(run):
    low, high = run(*POINTS[:3], name="low", gpus=8), run(*POINTS[3:], name="high")
    data = answered(low, high, "--target-s", "10 s", "--users", "100")
    assert data["runs"] == ["low", "high"]
    assert data["test_gpus"] == 8
    assert data["estimates"][1]["gpus"] == pytest.approx(75.3516, abs=5e-5)


def test_a_concurrency_beyond_the_levels_is_flagged(run):
    folder = run(*POINTS)
    data = answered(folder, "--target-s", "60", "--metric", "workflow_runtime_p95")
    assert data["estimates"][0]["extrapolated"] is True
    told = tonnage("fit", folder, "--target-s", "60", "--metric", "workflow_runtime_p95").stdout
    assert "beyond the largest level" in told


def test_a_target_out_of_reach_is_answered_and_exits_4(run):
    folder = run(*POINTS)
    result = tonnage("fit", folder, "--target-s", "0.5", "--format", "json")
    assert result.returncode == errors.EXIT_INFEASIBLE
    estimates = checked(json.loads(result.stdout), "fits")["estimates"]
    assert [each["reachable"] for each in estimates] == [False, False]
    assert all("at any GPU count" in each["reason"] for each in estimates)
    assert "not reachable" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_a_request_alone_misses_is_out_of_reach(run):
    points = [Point(concurrency=n, requests=50, e2e_p95_s=0.1 + 0.5 * n) for n in (1, 2, 4, 8)]
    asked = ("--target-s", "0.4", "--users", 50, "--gpus", 1, "--format", "json")
    result = tonnage("fit", run(*points), *asked)
    assert result.returncode == errors.EXIT_INFEASIBLE
    assert "one request alone" in result.stderr
    (estimate,) = checked(json.loads(result.stdout), "fits")["estimates"]
    assert estimate["reachable"] is False
    assert estimate["below_one_request"] is True


def test_one_metric_out_of_reach_does_not_take_the_other_along(run):
    result = tonnage("fit", run(*POINTS), "--target-s", "2", "--format", "json")
    assert result.returncode == errors.EXIT_ANSWERED
    estimates = checked(json.loads(result.stdout), "fits")["estimates"]
    assert [each["reachable"] for each in estimates] == [True, False]


def test_too_few_levels_are_told(run):
    result = tonnage("fit", run(POINTS[0]), "--format", "json")
    assert result.returncode == errors.EXIT_INFEASIBLE
    data = checked(json.loads(result.stdout), "fits")
    assert data["fits"][0]["slope"] is None
    assert "1 usable level" in data["fits"][0]["reason"]


def test_the_law_and_the_choice(run):
    folder = run(*POINTS)
    metric = ("--metric", "workflow_runtime_p95_s")
    [law] = answered(folder, *metric, "--kind", "usl")["fits"]
    assert law["kind"] == "usl"
    assert law["slope"] is None
    assert 16 < law["knee_concurrency"] < 64
    [best] = answered(folder, *metric, "--kind", "best")["fits"]
    assert best["kind"] == "usl"
    assert best["usl_error_s"] < best["line_error_s"]


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("kind", ["line", "best"])
def test_no_line_is_wider_than_the_terminal(run, columns, kind):
    result = tonnage(
        *("fit", run(*POINTS, FAILED, model="Llama-3.3-70B-Instruct", gpu="H200-SXM", gpus=8)),
        *("--target-s", "10", "--users", "100", "--kind", kind),
        columns=columns,
    )
    assert result.returncode == errors.EXIT_ANSWERED
    commands = result.stdout.index("\n  Next")  # a command is not broken, it is copied
    assert max(map(len, result.stdout[:commands].splitlines())) <= columns


def test_text_says_the_answer_its_range_and_its_condition(run):
    result = tonnage(
        *("fit", run(*POINTS, gpus=8), "--target-s", "10", "--users", "100"),
        *("--metric", "workflow_runtime_p95_s"),
    )
    assert "GPUs   75.35" in result.stdout
    assert "76 whole GPUs" in result.stdout
    assert "range 69.7 to 80.8" in result.stdout
    assert "if the line holds" in result.stdout
    assert result.stderr == ""


def test_an_answer_goes_to_a_file(run, tmp_path):
    output = tmp_path / "fit.json"
    result = tonnage("fit", run(*POINTS), "-o", output)
    assert result.returncode == errors.EXIT_ANSWERED
    assert result.stdout == ""
    assert len(checked(json.loads(output.read_text()), "fits")["fits"]) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--users", "100"), "add --target-s"),
        (("--users", "100", "--target-s", "10"), "add --gpus"),
        (("--target-s", "0"), "must be above 0"),
        (("--target-s", "nan"), "must be above 0"),
        (("--target-s", "10 apples"), "--target-s"),
        (("--metric", "ttft_p59"), "Did you mean"),
        (("--kind", "cubic"), "cubic"),
    ],
)
def test_wrong_use_exits_2(run, flags, said):
    result = tonnage("fit", run(*POINTS), *flags)
    assert result.returncode == errors.EXIT_USAGE
    assert result.stdout == ""
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_metric_that_was_not_measured_is_bad_input(run):
    result = tonnage("fit", run(*POINTS), "--metric", "tpot_mean")
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert "has no tpot_mean_s" in result.stderr


def test_what_is_not_a_run_is_bad_input(tmp_path):
    result = tonnage("fit", tmp_path)
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert "Traceback" not in result.stderr


def test_two_systems_are_not_fitted_together(run):
    one, other = run(*POINTS, name="one", gpus=8), run(*POINTS, name="other", gpus=4)
    result = tonnage("fit", one, other)
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert "another system" in result.stderr
