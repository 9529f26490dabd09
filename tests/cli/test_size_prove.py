"""`tonnage size --prove` as people run it: answers, exit codes, and a Ctrl-C."""

import json
import os
import pty
import signal
import subprocess
import time
from functools import cache

import pytest

from tests.cli.process import command, tonnage
from tests.report.documents import checked
from tonnage import errors

QUESTION = (
    *("--model", "Llama-3.1-8B-Instruct", "--gpu", "H100-SXM", "--peak-request-rate", "20/s"),
    *("--prompt-tokens", "1000", "--output-tokens", "100"),
    *("--ttft-p95", "1.5 s", "--tpot-p95", "50 ms"),
)
FEW = ("--prove", "--requests", "1000")


@cache
def _answer(*arguments, columns=80):
    return tonnage("size", *QUESTION, *arguments, columns=columns)


def proven(*arguments, exit_code=errors.EXIT_ANSWERED):
    """The document of an answer."""
    result = _answer(*arguments, "--format", "json")
    assert result.returncode == exit_code, result.stderr
    return checked(json.loads(result.stdout), "plan")


def test_the_document_says_how_it_was_proven():
    found = proven(*FEW)
    proof = found["proof"]
    assert proof["verdict"] == "kept"
    assert proof["requests"] == 1000
    assert proof["simulations"] > 0
    for name, scenario in found["plan"]["scenarios"].items():
        simulated = scenario["proof"]
        assert simulated["design"]["verdict"] == "kept", name
        assert simulated["stated"]["replicas"] == scenario["replicas"]
        assert scenario["latency"]["ttft_p95_s"] == simulated["stated"]["ttft_p95_s"]


def test_without_it_nothing_is_simulated_and_the_report_offers_it():
    found = proven()
    assert found["proof"] is None
    assert all(each["proof"] is None for each in found["plan"]["scenarios"].values())
    assert "--prove" in _answer(columns=160).stdout


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    again = tonnage("size", *QUESTION, *FEW, "--format", "json").stdout
    assert again == _answer(*FEW, "--format", "json").stdout
    assert proven(*FEW, "--seed", "1") != proven(*FEW)


@pytest.mark.parametrize("columns", [80, 160])
def test_the_text_answers_first_and_fits(columns):
    result = _answer(*FEW, columns=columns)
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= columns
    said = " ".join(result.stdout.split())
    proven_at = said.index("Proven by simulation, every promise kept")
    assert said.index("Recommended") < proven_at < said.index("What the simulation says")
    assert "closed form" in said
    assert "1 replica lost" in said or "1 server lost" in said


def test_a_chain_is_not_proven_and_says_so():
    result = tonnage("size", "examples/moderated-assistant.yaml", "--prove", columns=120)
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert "Not proven: the chain has several models" in result.stdout


def test_a_promise_that_nothing_keeps_ends_with_what_a_simulation_keeps():
    found = proven(*FEW, "--tpot-p90", "0.5 ms", exit_code=errors.EXIT_INFEASIBLE)
    assert found["proof"]["verdict"] == "missed"
    changes = found["infeasible"]["relaxations"]
    assert any(each["simulated"] for each in changes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--requests", "1000"), "--requests is about a proof"),
        (("--seed", "1"), "--seed is about a proof"),
        (("--prove", "--requests", "none"), "--requests"),
        (("--prove", "--measured", "run"), "--prove simulates a model"),
    ],
)
def test_a_contradiction_is_wrong_use(arguments, said):
    result = tonnage("size", *QUESTION, *arguments)
    assert result.returncode == errors.EXIT_USAGE
    assert result.stdout == ""
    assert said in " ".join(result.stderr.split())


def test_a_proof_of_nothing_is_wrong_use():
    result = tonnage("size", "--prove")
    assert result.returncode == errors.EXIT_USAGE
    assert "there is nothing to size" in result.stderr


def test_ctrl_c_stops_it_and_leaves_nothing_half_written(tmp_path):
    """On a terminal, so that it says when it is under way."""
    reader, writer = pty.openpty()
    running = subprocess.Popen(
        [*command("size", *QUESTION, "--prove", "--requests", "400 k"), "-o", "plan.json"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writer,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(writer)
    seen = b""
    end_s = time.monotonic() + 60
    while b"simulations" not in seen and time.monotonic() < end_s:
        seen += os.read(reader, 4096)
    assert b"proving" in seen
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    os.close(reader)
    assert running.returncode == errors.EXIT_INTERRUPTED
    assert output == b""
    assert list(tmp_path.iterdir()) == []
