"""What `tonnage simulate` refuses before it begins, and what it says then."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.cli.process import tonnage
from tonnage import errors
from tonnage.cli.capacity import parse_fleet
from tonnage.errors import UsageError
from tonnage.files import refuse_overwriting

QUESTION = (
    *("--model", "Llama-3.1-8B-Instruct", "--peak-request-rate", "4/s", "--cached", "40 %"),
    *("--prompt-tokens", "1000", "--output-tokens", "100", "--ttft-p95", "1.5 s"),
)
FLEET = ("--fleet", "2 x H200-SXM:tp1")
TRACE = "arrival_s,input_tokens,output_tokens\n0,100,5\n1,200,5\n"


def answer(*arguments, exit_code=errors.EXIT_ANSWERED, **where):
    result = tonnage("simulate", *QUESTION, *arguments, "--format", "json", **where)
    assert result.returncode == exit_code, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fleet", "10001 x H200-SXM:tp1"), "10,001 replicas, and 10,000 are the most"),
        (("--fleet", "5000 x DGX-H200:tp2"), "20,000 replicas, and 10,000 are the most"),
        ((*FLEET, "--decode-replicas", "9999"), "10,001 replicas, and 10,000 are the most"),
        ((*FLEET, "--seeds", "1001"), "seeds is 1,001, and 1,000 are the most"),
        (("--fleet", "500 x H200-SXM:tp1", "--seeds", "500"), "100,000 are the most"),
        ((*FLEET, "--seeds", "1000", "--requests", "50 k"), "20,000,000 are the most"),
        ((*FLEET, "--requests", "19 M"), "requests would be sent in all, and 20,000,000 are"),
        ((*FLEET, "--burst-start"), "--burst-start is for clients"),
        ((*FLEET, "--lose-requests"), "--lose-requests is for --outage"),
        (("--fleet", ""), '--fleet "" cannot be read'),
        (("--fleet", "-1 x H200-SXM"), "the count must be a whole number above 0, not -1"),
        (("--fleet", "1.5 x H200-SXM"), "the count must be a whole number above 0, not 1.5"),
    ],
)
def test_what_cannot_be_simulated_is_wrong_use(arguments, said):
    result = tonnage("simulate", *QUESTION, *arguments)
    assert result.returncode == errors.EXIT_USAGE, result.stderr
    assert result.stdout == ""
    assert said in " ".join(result.stderr.split())


def test_clients_without_number_are_not_drawn():
    closed = ("--concurrency", "1 G", "--model", "Llama-3.1-8B-Instruct", "--prompt-tokens", "9")
    result = tonnage("simulate", *closed, "--output-tokens", "9", *FLEET)
    assert result.returncode == errors.EXIT_USAGE, result.stderr
    assert "20,000,000 are the most" in result.stderr


def test_a_fleet_that_is_hardly_used_needs_no_longer_warm_up():
    found = answer("--fleet", "300 x H200-SXM:tp1", "--requests", "500")
    assert found["requests"]["arrived"] < 700


@pytest.mark.parametrize(
    ("fleet", "advice"),
    [("4 x H200-SXM:tp16", "another arrangement"), ("1 x L4:tp1", "more GPUs")],
)
def test_advice_is_of_what_is_wrong(fleet, advice):
    big = ("--model", "Llama-3.3-70B-Instruct")
    result = tonnage("simulate", *QUESTION, *big, "--fleet", fleet)
    assert result.returncode == errors.EXIT_BAD_INPUT, result.stderr
    assert advice in result.stderr


# ── files ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "arguments",
    [
        ("--records", "x.csv", "-o", "./x.csv"),
        ("--plot", "x.png", "-o", "x.png"),
        ("--trace", "tt.csv", "--records", "there/../tt.csv"),
        ("--trace", "linked.csv", "--records", "tt.csv"),
        ("--step-model", "tt.csv", "--records", "tt.csv"),
        ("--profile", "tt.csv", "--records", "tt.csv"),
    ],
)
def test_no_file_replaces_another(tmp_path, arguments):
    (tmp_path / "there").mkdir()
    (tmp_path / "tt.csv").write_text(TRACE)
    (tmp_path / "linked.csv").symlink_to("tt.csv")
    before = sorted(tmp_path.iterdir())
    if "--step-model" in arguments:  # one that can be read
        times = ("base_s", "per_prefill_token_s", "per_sequence_s", "per_kv_token_s")
        (tmp_path / "tt.csv").write_text(json.dumps(dict.fromkeys(times, 0.01)))
    kept = (tmp_path / "tt.csv").read_text()
    result = tonnage("simulate", *QUESTION, *FLEET, *arguments, cwd=tmp_path)
    assert result.returncode == errors.EXIT_USAGE, result.stderr
    assert re.search("would (replace|write the same file)", result.stderr)
    assert (tmp_path / "tt.csv").read_text() == kept
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", ["simulate", "size", "capacity"])
def test_an_answer_does_not_replace_its_study(tmp_path, command):
    study = tmp_path / "study.md"
    study.write_text("model: Llama-3.1-8B-Instruct\n")
    fleet = () if command == "size" else FLEET
    result = tonnage(command, "study.md", *fleet, "-o", study, cwd=tmp_path)
    assert result.returncode == errors.EXIT_USAGE, result.stderr
    assert "is read as the study" in result.stderr
    assert study.read_text() == "model: Llama-3.1-8B-Instruct\n"


def test_two_names_of_one_file_are_one(tmp_path):
    (tmp_path / "one").write_text("")
    os.link(tmp_path / "one", tmp_path / "other")
    with pytest.raises(UsageError, match="is read as --trace"):
        refuse_overwriting({"-o": tmp_path / "one"}, [("--trace", tmp_path / "other")])
    refuse_overwriting({"-o": tmp_path / "new", "--plot": None}, [("--trace", tmp_path / "one")])


# ── what is told of the cache ───────────────────────────────────────────────────────────────────


def test_without_a_prefix_cache_nothing_is_cached(tmp_path):
    few = (*FLEET, "--requests", "500")
    assert answer(*few)["kv"]["prefix_hit_share"] == pytest.approx(0.4, abs=0.01)
    found = answer(*few, "--no-prefix-cache")
    assert found["kv"]["prefix_hit_share"] == 0
    assert "workload.prompt.cached" not in [each["key"] for each in found["inputs"]]
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "arrival_s,input_tokens,output_tokens,cached_tokens\n0,100,5,50\n1,200,5,100\n"
    )
    recorded = (*FLEET, "--trace", trace)
    assert answer(*recorded)["kv"]["prefix_hit_share"] == pytest.approx(0.5)
    assert answer(*recorded, "--no-prefix-cache")["kv"]["prefix_hit_share"] == 0


def test_more_blocks_than_memory_holds_are_said():
    few = (*FLEET, "--requests", "500")
    found = answer(*few, "--kv-blocks", "99999999999")
    assert any("times those that we compute" in note for note in found["notes"])
    found = answer(*few, "--kv-blocks", "10 k")
    assert not any("times those that we compute" in note for note in found["notes"])


def test_a_slow_link_is_told_with_its_speed():
    arguments = (*FLEET, "--requests", "500", "--decode-replicas", "1", "--kv-link", "1 Mbit/s")
    found = answer(*arguments, exit_code=errors.EXIT_INFEASIBLE)
    (note,) = (note for note in found["notes"] if "kB/s" in note)
    assert "125.00 kB/s" in note
    assert "more replicas do not help" in note


# ── counts, and a Ctrl-C ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", ["-1", "0", "1.5", "+2", "-0.5"])
def test_a_count_that_is_none_is_not_part_of_the_name(count):
    with pytest.raises(UsageError, match="--fleet"):
        parse_fleet(f"{count} x H200-SXM")


def test_ctrl_c_while_everything_is_loaded_is_an_interruption():
    """Raised by the import itself, so that it falls there whatever the machine does."""
    code = (
        "import signal, sys\n"
        "class Now:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "from tonnage.cli import main\n"
        "sys.meta_path.insert(0, Now())\n"
        "main()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (errors.EXIT_INTERRUPTED, "interrupted\n")
