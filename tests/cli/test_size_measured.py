"""`tonnage size --measured`: from what tools wrote to the report, the JSON and the picture."""

import json
from pathlib import Path

import pytest

from tests.cli.process import tonnage
from tests.report.documents import checked
from tonnage import errors
from tonnage.measurement import Point, Run
from tonnage.measurement.run import write_run

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "tests" / "measurement" / "samples"
MODEL = "meta-llama/Llama-3.3-70B-Instruct"


def size(*arguments, columns=100):
    return tonnage("size", *arguments, columns=columns)


def answered(*arguments):
    result = size(*arguments, "--format", "json")
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    return checked(json.loads(result.stdout), "plan")


def levels(rates, ttft_p95_s):
    return tuple(
        Point(
            concurrency=2**position,
            requests_per_s=rate,
            requests=400,
            ttft_p95_s=ttft_p95_s * (1 + position),
            e2e_mean_s=2**position / rate,
            input_tokens_mean=2800,
            output_tokens_mean=350,
        )
        for position, rate in enumerate(rates)
    )


@pytest.fixture
def runs(tmp_path):
    """TP2 carries 4 × 2.4 requests/s on a server of eight GPUs within 1 s, TP4 2 × 3."""
    found = []
    for name, gpus, points in (
        ("tp2", 2, levels((0.5, 0.9, 1.6, 2.4, 3.0), 0.25)),
        ("tp4", 4, levels((0.8, 1.5, 2.4, 3.0, 3.3), 0.25)),
    ):
        run = Run(name=name, tool="tool", model=MODEL, gpu="H100 SXM", gpus=gpus, points=points)
        write_run(run, tmp_path / name)
        found += ["--measured", tmp_path / name]
    return found


ASKED = ("--peak-request-rate", "31/s", "--ttft-p95", "1 s")


def test_two_runs_are_compared_per_server_and_told_in_the_words_of_any_plan(runs):
    found = answered(*runs, *ASKED)
    recommended = found["plan"]["scenarios"]["recommended"]
    assert found["measured"]["chosen"].endswith("tp2")
    assert recommended["servers"] == 5  # 37.2 / 9.6 = 3.9, one spare
    assert recommended["gpus"] == 40
    assert recommended["requests_per_s_per_server"] == pytest.approx(9.6)
    assert recommended["cost_usd_per_hour"] > 0
    assert recommended["latency"]["evidence"] == "measured"
    assert recommended["memory"] is found["model"] is found["plan"]["deployment"] is None
    (rejected,) = found["rejections"]
    assert rejected["option"] == "tp4 (4 × H100-SXM)"
    assert rejected["servers"] == 8
    tp2, tp4 = found["measured"]["runs"]
    assert [tp2["replicas_per_server"], tp4["replicas_per_server"]] == [4, 2]
    assert [each["chosen"] for each in tp2["levels"]] == [False, False, False, True, False]
    assert "model" not in {each["key"] for each in found["inputs"]}


@pytest.mark.parametrize("columns", [80, 160])
def test_the_report_fits_the_terminal_and_names_the_level(runs, columns):
    result = size(*runs, *ASKED, columns=columns)
    assert result.returncode == errors.EXIT_ANSWERED
    assert max(map(len, result.stdout.splitlines())) <= columns
    assert "5 × DGX-H100 (40 GPUs)" in result.stdout
    assert "tp2 at concurrency 8: 2.4 requests/s" in " ".join(result.stdout.split())
    assert result.stdout.count("← best") == 2
    assert "8 servers against 5" in " ".join(result.stdout.split())


def test_one_server_in_users_of_a_day(tmp_path):
    points = (Point(concurrency=100, requests_per_s=70.7, ttft_p95_s=0.49, requests=9000),)
    write_run(Run(name="dgx", tool="tool", gpu="H100-SXM", gpus=8, points=points), tmp_path)
    asked = ("--daily-users", "679 k", "--requests-per-user", "3", "--active-hours", "8 h")
    found = answered("--measured", tmp_path, *asked, "--ttft-p95", "500 ms")
    assert found["measured"]["daily_requests_per_server"] == pytest.approx(2.036e6, rel=1e-4)
    assert found["measured"]["daily_users_per_server"] == 678_720
    text = size("--measured", tmp_path, *asked, "--ttft-p95", "500 ms").stdout
    assert "2,036,160  that peak rate kept up for 8 h" in text


@pytest.mark.parametrize(
    ("sample", "asked", "copies"),
    [
        # 2.5 requests/s at concurrency 2
        ("genai_perf.json", ("--peak-request-rate", "10/s", "--ttft-p95", "1 s"), 4),
        # level 1 had a failure; level 8 carried 61 requests in 6 s
        ("guidellm.json", ("--peak-request-rate", "10/s", "--ttft-p95", "1 s"), 1),
        # stage 0 carried 1 request/s, stage 1 had failures
        ("inference_perf", ("--peak-request-rate", "10/s", "--ttft-p95", "3 s"), 10),
        # a workflow without rates, 8 in flight within 10 s: the clients are what is carried
        (ROOT / "docs/samples/calc_runner_output.json",
         ("--concurrency", "100", "--e2e-p95", "10 s"), 13),
    ],
)  # fmt: skip
def test_what_other_tools_wrote_is_sized_from_without_knowing_the_gpu(sample, asked, copies):
    found = answered("--measured", SAMPLES / sample, "--gpus", 3, *asked)
    minimum = found["plan"]["scenarios"]["minimum"]
    assert minimum["replicas"] == copies
    assert minimum["gpus"] == 3 * copies
    assert minimum["cost_usd_per_hour"] is minimum["servers"] is None


def test_a_study_says_what_is_asked_and_the_run_what_answers(runs, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(
        "model: Llama-3.3-70B-Instruct\n"
        "workload: {peak_request_rate: 31/s, prompt: 2000 tokens, answer: 350 tokens}\n"
        "promises: {ttft: {p95: 1 s}}\n"
        "hardware: {tensor_parallel: [8], prices: {H100-SXM: 1 usd/h}}\n"
        "scenarios: {recommended: {headroom: 0 %, spare: 0}}\n"
    )
    found = answered(study, *runs)
    recommended = found["plan"]["scenarios"]["recommended"]
    assert (recommended["gpus"], recommended["cost_usd_per_hour"]) == (32, 32)
    causes = [alert["cause"] for alert in found["alerts"] if alert["id"] == "other_lengths"]
    assert causes[0] == "tp2 was measured with prompts of 2,800 tokens, not 2,000"
    assert "other_model" not in {alert["id"] for alert in found["alerts"]}


def test_the_picture_is_drawn(runs, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curve.png"
    result = size(*runs, *ASKED, "--plot", picture)
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert f"wrote {picture}" in result.stderr
    assert f"Drawn in {picture}." in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--ttft-p95", "0.1 s"), errors.EXIT_INFEASIBLE, "no sound level keeps TTFT p95"),
        (("--ttft-p99", "1 s"), errors.EXIT_BAD_INPUT, "TTFT p99 is promised, and was not"),
        (("--gpu", "H200-SXM"), errors.EXIT_BAD_INPUT, "was measured on H100 SXM, not on H200"),
        (
            ("--gpus", "4"),
            errors.EXIT_USAGE,
            "the one run that does not say how many; 0 of 2 do not",
        ),
        (("--explain", "gpus"), errors.EXIT_USAGE, "--explain"),
        (("--plot", "curve.gif"), errors.EXIT_USAGE, ".png, .svg or .pdf"),
    ],
)
def test_a_mistake_ends_with_its_code_and_a_remedy(runs, arguments, code, said):
    result = size(*runs, "--peak-request-rate", "31/s", *arguments)
    assert result.returncode == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_count_of_gpus_there_is_nothing_to_copy():
    result = size("--measured", SAMPLES / "guidellm.json", *ASKED)
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert "does not say how many GPUs were measured" in result.stderr
    assert "tonnage import … --gpus N" in result.stderr


def test_a_plot_without_a_measurement_is_refused():
    result = size(*ASKED, "--model", MODEL, "--plot", "curve.png")
    assert result.returncode == errors.EXIT_USAGE
    assert "--measured" in result.stderr
