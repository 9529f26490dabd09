"""`tonnage sizing calc` of a workflow that the real toolkit runs in the process of the command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.nat.llm import DELAY_S, Server
from tonnage.measurement.load.journal import read_records

pytestmark = pytest.mark.skipif(find_spec("nat") is None, reason="needs nvidia-nat: make test-nat")

LEVELS = (1, 2, 4)
PASSES = 5
SAMPLES = {level: PASSES * level for level in LEVELS}
SENT = sum(SAMPLES.values()) + sum(LEVELS)  # and each client's warm-up
SLOWER_S = 0.25  # what the toolkit and a busy machine may add to one call
TOLD = ("measuring into ", "going on with ", "concurrency ", "warning: ", "wrote ", "error: ")

EVALUATION = """
eval:
  general:
    dataset:
      _type: json
      file_path: {dataset}
general:
  telemetry:
    logging:
      console:
        _type: console
        level: INFO
      file:
        _type: file
        path: {log}
        level: INFO
"""

Measured = Callable[..., list[str]]


@pytest.fixture
def command(tmp_path: Path, workflow: Callable[[str], Path]) -> Measured:
    """The command line that measures a workflow of this kind with these questions."""

    def write(kind: str, *questions: str) -> list[str]:
        dataset = tmp_path / "questions.json"
        rows = [{"id": str(at), "question": text} for at, text in enumerate(questions)]
        dataset.write_text(json.dumps(rows))
        file = workflow(kind)
        evaluation = EVALUATION.format(dataset=dataset, log=tmp_path / "nat.log")
        file.write_text(file.read_text() + evaluation)
        levels = ",".join(map(str, LEVELS))
        return [
            *(sys.executable, "-m", "tonnage", "sizing", "calc", "--no_plots"),
            *("--config_file", str(file), "--calc_output_dir", str(tmp_path / "out")),
            *("--concurrencies", levels, "--num_passes", str(PASSES)),
        ]

    return write


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def run(command: list[str]) -> tuple[int | None, str, list[str]]:
    """Exit code, what was printed, and the lines of stderr, none of which is the toolkit's."""
    with started(command) as child:
        stdout, stderr = child.communicate(timeout=300)
    lines = stderr.splitlines()
    assert [line for line in lines if not line.startswith(TOLD)] == []
    return child.returncode, stdout, lines


def the_job(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "out" / "online").iterdir()
    return folder


def output_in(folder: Path) -> Any:
    return json.loads((folder / "calc_runner_output.json").read_text())


@pytest.mark.parametrize(("kind", "calls"), [("chat_completion", 1), ("react_agent", 2)])
def test_times_are_those_of_the_llm_behind_it(
    kind: str, calls: int, command: Measured, llm: Server, tmp_path: Path
) -> None:
    code, stdout, _ = run(command(kind, "what time is it?", "and now?"))
    assert code == 0
    assert "| " in stdout
    assert llm.calls == calls * SENT
    assert 2 < llm.most_in_flight <= max(LEVELS)
    output = output_in(the_job(tmp_path))
    assert output["tonnage"]["model"] == "fake-model"
    assert output["tonnage"]["target"] == "in this process"
    for level, samples in SAMPLES.items():
        facts = output["tonnage"]["levels"][str(level)]
        assert (facts["samples"], facts["failures"]) == (samples, {})
        assert facts["llm_calls"] == calls * samples
        metrics = output["calc_data"][str(level)]["sizing_metrics"]
        assert DELAY_S <= metrics["llm_latency_p95"] <= DELAY_S + SLOWER_S
        assert calls * DELAY_S <= metrics["workflow_runtime_p95"] <= calls * (DELAY_S + SLOWER_S)
        assert PASSES * calls * DELAY_S <= metrics["total_runtime"]
        for item in metrics["per_item_metrics"].values():
            assert item["workflow_runtime"] > calls * DELAY_S
            assert item["workflow_runtime"] > item["llm_latency"]


def test_failed_llm_calls_are_failed_items_and_their_log_goes_to_its_file(
    command: Measured, tmp_path: Path
) -> None:
    code, stdout, lines = run(command("chat_completion", "fine", "refuse this"))
    assert code == 3
    assert stdout.count("!W") == len(LEVELS)
    assert lines[-1] == "error: no level can be used. (exit 3)"
    assert any("refused as asked" in line for line in lines)
    output = output_in(the_job(tmp_path))
    for level, samples in SAMPLES.items():
        facts = output["tonnage"]["levels"][str(level)]
        assert facts["samples"] == samples - samples // 2
        assert facts["failures"] == {"workflow": samples // 2}
        metrics = output["calc_data"][str(level)]["sizing_metrics"]
        assert len(metrics["per_item_metrics"]) == samples - samples // 2
        assert all(name.startswith("0") for name in metrics["per_item_metrics"])
    log = (tmp_path / "nat.log").read_text()
    assert "Traceback" in log
    assert "chat completion failed" in log


def test_a_killed_sweep_goes_on_at_the_level_it_was_in(
    command: Measured, llm: Server, tmp_path: Path
) -> None:
    told = command("chat_completion", "one", "two")
    before_last = SENT - SAMPLES[4] - 4
    with started(told) as child:
        while llm.calls < before_last + 4 + 6 and child.poll() is None:
            time.sleep(0.001)
        child.kill()
    folder = the_job(tmp_path)
    assert list(output_in(folder)["calc_data"]) == ["1", "2"]
    survived = list(read_records(folder / "requests.jsonl"))
    asked = llm.calls
    assert before_last <= len(survived) <= asked
    code, _, lines = run(told)
    assert code == 0
    assert lines[0].startswith(f"going on with {folder}: ")
    assert sum(line.endswith("(measured before)") for line in lines) == 2
    assert llm.calls - asked == 4 + SAMPLES[4]
    assert list(output_in(folder)["calc_data"]) == ["1", "2", "4"]
    assert list(read_records(folder / "requests.jsonl"))[: len(survived)] == survived
