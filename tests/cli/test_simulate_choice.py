"""What `tonnage simulate` chooses for itself, and what a proven plan says to keep its choices."""

import json
import shlex
from functools import cache

import pytest
from typer.testing import CliRunner

from tests.report.documents import checked
from tonnage import errors
from tonnage.cli.commands import app

FEW = ("--requests", "300")
METRICS = ("ttft", "tpot", "e2e")
FLEETS = ("4 x H200-SXM:tp2", "1 x DGX-H200:tp2", "1 x DGX-H200")
ENGINE_FLAGS = {
    ("--max-num-batched-tokens", "16"): ("max_num_batched_tokens", 16),
    ("--max-num-seqs", "1"): ("max_num_seqs", 1),
    ("--kv-blocks", "2000"): ("kv_units", 1999),  # vLLM keeps one back
    ("--no-prefix-cache",): ("prefix_cache", False),
}


@cache
def answered(*arguments, name="simulation"):
    """The document of an answer, run in this process."""
    result = CliRunner().invoke(app, [*arguments, "--format", "json"])
    assert result.exit_code in {errors.EXIT_ANSWERED, errors.EXIT_INFEASIBLE}, result.output
    return checked(json.loads(result.stdout), name)


def simulated(*arguments):
    return answered("simulate", "examples/support-chatbot.yaml", *arguments, *FEW)


@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize("told", ENGINE_FLAGS, ids=lambda told: told[0])
def test_engine_flags_do_not_change_what_is_chosen(fleet, told):
    free, limited = (simulated("--fleet", fleet, *more)["fleet"] for more in ((), told))
    chosen = ("tensor_parallel", "pipeline_parallel", "weight_dtype", "kv_dtype", "replicas")
    assert {key: limited[key] for key in chosen} == {key: free[key] for key in chosen}
    place, value = ENGINE_FLAGS[told]
    assert limited["limits"][place] == value != free["limits"][place]


def test_formats_that_nobody_stated_are_said():
    free = simulated("--fleet", FLEETS[0])
    formats = free["fleet"]["weight_dtype"], free["fleet"]["kv_dtype"]
    (said,) = (note for note in free["notes"] if "chosen" in note)
    assert said.startswith("weights in {} and a KV cache in {} were chosen".format(*formats))
    stated = ("--weight-dtype", formats[0], "--kv-dtype", formats[1])
    told = simulated("--fleet", FLEETS[0], *stated)
    assert not any("chosen" in note for note in told["notes"])
    assert told["ttft_s"] == free["ttft_s"]


def test_limits_that_leave_no_cache_are_refused_and_nothing_else_is_chosen():
    words = ["simulate", "examples/support-chatbot.yaml", "--fleet", FLEETS[0]]
    result = CliRunner().invoke(app, [*words, "--max-num-seqs", "500000"])
    assert result.exit_code == errors.EXIT_BAD_INPUT
    assert result.stdout == ""
    said = " ".join(result.stderr.split())
    assert "have no room in its memory beside steps of 8,192 tokens for 500,000 requests" in said


@pytest.mark.parametrize(
    "asked",
    [
        ("examples/dli-llama3-8b.yaml",),
        ("examples/support-chatbot.yaml", "--seed", "3"),
        ("examples/offline-batch.yaml",),
        ("examples/dli-llama3-8b.yaml", "--buy", "gpus", "--max-batch-size", "8,16"),
        ("examples/support-chatbot.yaml", "--peak-request-rate", "400/s"),  # of which a part is run
        ("examples/support-chatbot.yaml", "--model", "gpt-oss-120b"),
        ("examples/dli-llama3-8b.yaml", "--concurrency", "300", "--weight-dtype", "bf16,fp8"),
    ],
    ids=" ".join,
)
def test_the_command_of_a_proof_simulates_its_fleet_to_the_same_figures(asked):
    plan = answered("size", *asked, "--prove", *FEW, name="plan")
    scenario = plan["plan"]["scenarios"]["recommended"]["proof"]["stated"]
    program, *words = shlex.split(plan["proof"]["command"])
    assert program == "tonnage"
    again = answered(*words)
    for metric in METRICS:
        assert again[f"{metric}_s"]["p95"] == scenario[f"{metric}_p95_s"]
    assert again["requests"]["counted"] == scenario["requests"]
    if scenario["finish_s"] is not None:
        assert again["batch"]["finish_s"] == scenario["finish_s"]


@pytest.mark.parametrize("study", ["dli-llama3-8b", "support-chatbot"])
def test_the_capacity_of_a_plan_is_that_of_its_own_formats(study):
    asked = ("size", f"examples/{study}.yaml")
    plan = answered(*asked, name="plan")["plan"]
    text = CliRunner().invoke(app, asked, env={"COLUMNS": "300"}).stdout
    (line,) = (line for line in text.splitlines() if "tonnage capacity" in line)
    words = shlex.split(line.partition("   the most")[0])[1:]
    for key in ("weight_dtype", "kv_dtype"):
        assert plan["deployment"][key] == words[words.index(f"--{key.replace('_', '-')}") + 1]
    found = json.loads(CliRunner().invoke(app, [*words, "--format", "json"]).stdout)
    assert found["arrangement"] == "TP{tensor_parallel} {weight_dtype}".format(**plan["deployment"])
    for key in ("gpus", "servers", "replicas"):
        assert found[key] == plan["scenarios"]["recommended"][key]
