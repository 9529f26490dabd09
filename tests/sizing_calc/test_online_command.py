"""`tonnage sizing calc` measuring, as its own process: killed, interrupted, mistaken."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from importlib.util import find_spec

import pytest

from tests.sizing_calc.workflow_server import STEADY_S, WorkflowServer
from tonnage.measurement.load.journal import read_records

LEVELS = (1, 2, 4, 8)
SAMPLES = {1: 20, 2: 20, 4: 20, 8: 24}


def command(config, server, *more):
    folder = config.parent / "out"
    flags = ["--config_file", config, "--endpoint", server.url, "--calc_output_dir", folder]
    told = [*flags, "--concurrencies", ",".join(map(str, LEVELS)), "--no_plots", *more]
    return [sys.executable, "-m", "tonnage", "sizing", "calc", *map(str, told)]


def run(config, server, *more):
    return subprocess.run(
        command(config, server, *more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=config.parent,
    )


def cut_short(config, server, after, signum):
    """Run until the server was asked `after` times, then send the signal."""
    with subprocess.Popen(
        command(config, server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        while len(server.asked) < after and child.poll() is None:
            time.sleep(0.001)
        child.send_signal(signum)
        stdout, stderr = child.communicate(timeout=60)
    return child.returncode, stdout, stderr


def the_job(config):
    (folder,) = (config.parent / "out" / "online").iterdir()
    return folder


def measured_levels(folder):
    """Concurrency -> items in the summary."""
    body = json.loads((folder / "calc_runner_output.json").read_text())
    return {
        int(level): len(data["sizing_metrics"]["per_item_metrics"])
        for level, data in body["calc_data"].items()
    }


def test_a_sweep_with_targets_prints_the_answer(config_file):
    with WorkflowServer(hold_s=STEADY_S) as server:
        result = run(
            config_file, server, "--test_gpu_count", 8, "--target_workflow_runtime", 4,
            "--target_users", 100,
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Estimated GPU count (Workflow Runtime): 133.3\n" in result.stdout
    assert "GPUs to plan: 133.3" in result.stdout
    lines = result.stderr.splitlines()
    assert lines[0].startswith("measuring into ")
    assert [line.partition(",")[0] for line in lines[1:5]] == [
        f"concurrency {level}: {count} items" for level, count in SAMPLES.items()
    ]
    assert not (the_job(config_file) / "unfinished.json").exists()


def test_on_a_terminal_what_is_done_stands_above_the_live_line(config_file):
    terminal, stderr = pty.openpty()
    termios.tcsetwinsize(stderr, (24, 80))
    shown = b""
    with WorkflowServer(hold_s=STEADY_S) as server:
        told = command(config_file, server)
        with subprocess.Popen(told, stdout=subprocess.DEVNULL, stderr=stderr) as child:
            os.close(stderr)
            with suppress(OSError):  # how Linux says that the other side has closed
                while part := os.read(terminal, 65536):
                    shown += part
    os.close(terminal)
    assert child.returncode == 0
    lines = re.split(r"\r\n|\r\x1b\[2K", shown.decode())  # a new one, or in place of the last
    assert any(line.startswith("[1/4] 1 client ") for line in lines)
    for level, count in SAMPLES.items():
        assert any(line.startswith(f"concurrency {level}: {count} items") for line in lines)


def test_without_targets_it_only_measures(config_file):
    with WorkflowServer(hold_s=STEADY_S) as server:
        result = run(config_file, server)
    assert result.returncode == 0, result.stderr
    assert "Fit (Workflow Runtime): slope 0.500000, intercept 1.000000" in result.stdout
    assert "GPU ESTIMATES" not in result.stdout


def test_a_killed_sweep_goes_on_where_it_was(config_file):
    with WorkflowServer() as server:
        # 21 + 22 requests are two levels, the third has warmed up and begun
        code, _, _ = cut_short(config_file, server, 43 + 12, signal.SIGKILL)
        assert code == -signal.SIGKILL
        folder = the_job(config_file)
        assert measured_levels(folder) == {1: 20, 2: 20}
        survived = list(read_records(folder / "requests.jsonl"))
        asked = len(server.asked)
        assert asked - 4 <= len(survived) <= asked
        offline = run(
            config_file, server, "--offline_mode", "--test_gpu_count", 8, "--target_users", 9,
            "--target_workflow_runtime", 4,
        )  # fmt: skip
        assert offline.returncode == 0
        assert "is not finished: concurrency 4, 8 is not in it" in offline.stderr
        result = run(config_file, server)
    assert result.returncode == 0, result.stderr
    assert f"going on with {folder}" in result.stderr
    assert result.stderr.count("(measured before)") == 2
    assert len(server.asked) - asked == 20 + 4 + 24 + 8
    assert measured_levels(folder) == SAMPLES
    records = list(read_records(folder / "requests.jsonl"))
    assert records[: len(survived)] == survived
    assert len(records) == len(survived) + 20 + 4 + 24 + 8
    for level, name in ((1, "1"), (2, "2"), (4, "4 again 1"), (8, "8")):
        items = [e.item for e in records if e.level == name and e.phase == "measured"]
        assert len(items) == len(set(items)) == SAMPLES[level]


def test_ctrl_c_keeps_and_prints_what_there_is(config_file):
    with WorkflowServer() as server:
        code, stdout, stderr = cut_short(config_file, server, 43 + 12, signal.SIGINT)
        assert code == 130, stderr
        assert "stopped at concurrency 4" in stderr
        assert "Fit (Workflow Runtime): slope 0.500000" in stdout
        folder = the_job(config_file)
        assert measured_levels(folder) == {1: 20, 2: 20}
        records = list(read_records(folder / "requests.jsonl"))
        assert len(records) == len(server.asked)  # those in flight are recorded as stopped
        assert run(config_file, server).returncode == 0
    assert measured_levels(folder) == SAMPLES


def test_keys_from_the_environment_are_sent_and_nothing_else(config_file, monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush-hush")
    monkeypatch.setenv("MY_TENANT", "whisper")
    with WorkflowServer(status_of=lambda count: 401 if count % 5 == 0 else 200) as server:
        result = run(
            config_file, server, "--api_key", "MY_KEY", "--header", "X-Tenant=MY_TENANT",
            "--num_passes", 3,
        )  # fmt: skip
    sent = {(each["authorization"], each["x-tenant"]) for each in server.headers}
    assert sent == {("Bearer hush-hush", "whisper")}
    assert "too many" in result.stderr  # as the server says it, but for the key
    said = [result.stdout, result.stderr]
    said += [each.read_text(errors="replace") for each in the_job(config_file).iterdir()]
    assert len(said) == 4
    assert not [text for text in said if "hush" in text or "whisper" in text]


def test_a_server_that_goes_away_exits_3(config_file):
    with WorkflowServer(lives_for=30) as server:
        result = run(config_file, server)
    assert result.returncode == 3
    assert f"error: nat {server.url} is gone: nobody listens" in result.stderr
    assert "The same command goes on" in result.stderr
    assert "!W" in result.stdout


def test_no_level_that_can_be_used_exits_3(config_file):
    with WorkflowServer(status_of=lambda _: 500) as server:
        result = run(config_file, server, "--num_passes", 2, "--no_warmup")
    assert result.returncode == 3
    assert "error: no level can be used" in result.stderr
    assert "concurrency 8: 16 of 16 items failed (16 × http" in result.stderr


def test_without_a_directory_it_measures_into_one_here(config_file):
    with WorkflowServer() as server:
        told = command(config_file, server)
        at = told.index("--calc_output_dir")
        result = subprocess.run(
            told[:at] + told[at + 2 :],
            capture_output=True, text=True, timeout=120, check=False, cwd=config_file.parent,
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert list((config_file.parent / "sizing_calc_output" / "online").glob("job_*/*.json"))


def test_an_output_directory_that_nat_empties_is_warned_of(config_file):
    with WorkflowServer() as server:
        result = run(config_file, server, "--calc_output_dir", "eval_out/sizing")
    assert result.returncode == 0
    assert "warning: eval_out/sizing lies in eval.general.output_dir" in result.stderr


@pytest.mark.parametrize(
    ("told", "code", "says"),
    [
        (["--endpoint", "nowhere"], 2, "--endpoint must be the URL"),
        (["--min_samples", -1], 2, "--min_samples must be a number from 0 up"),
        (["--request_template", "{"], 2, "template is not JSON"),
        (["--api_key", "NO_SUCH"], 2, "there is no environment variable of that name"),
        (["--header", "X-Key"], 2, "for example --header X-Api-Key=MY_KEY"),
    ],
)
def test_a_mistake_names_its_flag(config_file, told, code, says):
    result = run(config_file, WorkflowServer(), *told)
    assert result.returncode == code
    assert says in result.stderr
    assert not (config_file.parent / "out").exists()


def test_a_mistake_in_the_dataset_is_told_with_its_place(config_file):
    dataset = config_file.parent / "questions.json"
    dataset.write_text('[{"id": 1,\n "question" "one"}]')
    result = run(config_file, WorkflowServer())
    assert result.returncode == 3
    assert f"{dataset}:2: is not JSON" in result.stderr
    dataset.write_text('[{"id": 1, "ask": "one"}]')
    result = run(config_file, WorkflowServer())
    assert result.returncode == 3
    assert f"{dataset}: question is in no row" in result.stderr
    assert not (config_file.parent / "out").exists()


def test_a_workflow_in_this_process_is_needed_without_an_endpoint(config_file):
    told = command(config_file, WorkflowServer())
    at = told.index("--endpoint")
    result = subprocess.run(
        told[:at] + told[at + 2 :], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 3
    assert f"{config_file}: workflow is missing" in result.stderr
    assert "--endpoint" in result.stderr


@pytest.mark.skipif(find_spec("nat") is not None, reason="nvidia-nat is installed here")
def test_without_nvidia_nat_one_line_names_the_extra(config_file):
    config_file.write_text(f"workflow: {{_type: react_agent}}\n{config_file.read_text()}")
    told = command(config_file, WorkflowServer())
    at = told.index("--endpoint")
    result = subprocess.run(
        told[:at] + told[at + 2 :], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 3
    assert "tonnage[nat]" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (config_file.parent / "out").exists()
