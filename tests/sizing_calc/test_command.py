"""`tonnage sizing calc` as its own process: exit codes, streams, flags."""

import json
import subprocess
import sys

import pytest

from tests.sizing_calc.conftest import body_of, line

FLAGS = {
    "--test_gpu_count": 8,
    "--target_workflow_runtime": 10,
    "--target_users": 100,
}


def calc(output_dir, *more, without=(), **changes):
    flags = FLAGS | {f"--{name}": value for name, value in changes.items()}
    if output_dir is not None:
        flags["--calc_output_dir"] = output_dir
    told = [part for flag, value in flags.items() if flag not in without for part in (flag, value)]
    return run("--offline_mode", "--no_plots", *told, *more)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tonnage", "sizing", "calc", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_estimate_is_printed_written_and_exits_0(documented):
    result = calc(documented)
    assert result.returncode == 0, result.stderr
    assert "Estimated GPU count (Workflow Runtime): 75.4\n" in result.stdout
    assert "| !L       |            32 |" in result.stdout
    assert "warning: 6 usable concurrency levels" in result.stderr
    (folder,) = (documented / "offline").iterdir()
    assert f"wrote {folder}" in result.stderr
    written = json.loads((folder / "calc_runner_output.json").read_text())
    assert written["gpu_estimates"]["gpu_estimate_by_wf_runtime"] == pytest.approx(75.3516)


def test_hyphens_are_underscores(documented):
    hyphened = [part for flag, n in FLAGS.items() for part in (flag.replace("_", "-")[1:], n)]
    told = [f"-{part}" if str(part).startswith("-") else part for part in hyphened]
    result = run("--offline-mode", "--no-plots", "--calc-output-dir", documented, *told)
    assert result.stdout == calc(documented).stdout
    assert result.returncode == 0


def test_a_target_out_of_reach_exits_4_with_all_else_done(documented):
    result = calc(documented, target_workflow_runtime=2, target_llm_latency=3)
    assert result.returncode == 4
    assert "(Workflow Runtime): not reachable at any GPU count by this fit" in result.stdout
    assert "Estimated GPU count (LLM Latency): 57.0\n" in result.stdout
    assert "error: --target_workflow_runtime: not reachable" in result.stderr
    assert list((documented / "offline").glob("job_*/calc_runner_output.json"))


def test_measurements_that_carry_no_line_exit_3(add_job, tmp_path):
    add_job(body_of(line(1, 1, (1, 2)), interrupted=(2,)))
    result = calc(tmp_path)
    assert result.returncode == 3
    assert "(Workflow Runtime): none: 1 usable level: a line needs two" in result.stdout
    assert "error: --target_workflow_runtime: no line" in result.stderr
    assert list((tmp_path / "offline").glob("job_*/calc_runner_output.json"))


def test_no_measurements_exit_3(tmp_path):
    result = calc(tmp_path)
    assert result.returncode == 3
    assert result.stdout == ""
    assert f"{tmp_path}: has no folder online" in result.stderr


def test_a_mixture_is_refused_and_can_be_forced(add_job, tmp_path):
    add_job(body_of(line(1, 1, (1, 2)), tonnage={"model": "a"}))
    add_job(body_of(line(1, 1, (4, 8)), tonnage={"model": "b"}))
    refused = calc(tmp_path)
    assert refused.returncode == 3
    assert "different models" in refused.stderr
    assert "--force" in refused.stderr
    assert calc(tmp_path, "--force").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"without": ["--target_workflow_runtime"]}, "--target_workflow_runtime or --target_llm"),
        ({"without": ["--target_users"]}, "--target_users must be above 0"),
        ({"without": ["--test_gpu_count"]}, "--test_gpu_count must be above 0"),
        ({"target_users": -1}, "--target_users must be a number from 0 up"),
        ({"target_users": "many"}, "--target_users"),
        ({"target_workflow_runtime": "nan"}, "--target_workflow_runtime"),
        ({"concurrencies": "1,two"}, '--concurrencies "1,two"'),
        ({"concurrencies": "0,1"}, "--concurrencies must all be above 0"),
        ({"concurrencies": "2"}, "--concurrencies must be at least two"),
        ({"concurrencies": "2,2"}, "--concurrencies must differ"),
        ({"num_passes": -1}, "--num_passes"),
        ({"config": "no/such.yml"}, "--config_file no/such.yml is not a file"),
    ],
)
def test_a_mistake_names_its_flag_and_exits_2(documented, arguments, says):
    result = calc(documented, **arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not (documented / "offline").exists()


def test_offline_needs_a_directory_and_does_not_append(documented):
    for result in (calc(None), calc(documented, "--append_calc_outputs")):
        assert result.returncode == 2
        assert "--offline_mode" in result.stderr


def test_measuring_needs_a_config(tmp_path):
    result = run("--concurrencies", "1,2", "--calc_output_dir", tmp_path)
    assert result.returncode == 2
    assert "--config_file is required" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_sizing_imports_neither_matplotlib_nor_the_planner(documented):
    code = (
        "import sys; sys.argv = ['tonnage', *sys.argv[1:]]\n"
        "from tonnage.cli.commands import app\n"
        "app(standalone_mode=False)\n"
        "unwanted = {'matplotlib', 'pandas', 'tonnage.fleet.search', 'tonnage.study'}\n"
        "unwanted |= {'tonnage.sizing_calc.online', 'tonnage.cli.sweep_lines'}\n"
        "print(sorted(unwanted & set(sys.modules)))"
    )
    told = [str(part) for pair in FLAGS.items() for part in pair]
    told += ["--offline_mode", "--no_plots", "--calc_output_dir", str(documented)]
    result = subprocess.run(
        [*(sys.executable, "-c", code, "sizing", "calc"), *told],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
