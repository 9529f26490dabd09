"""`tonnage simulate` as people run it: answers, exit codes, files, and a Ctrl-C."""

import csv
import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from tests.cli.process import command, tonnage
from tests.report.documents import checked
from tonnage import errors

STEP = {
    "base_s": 0.009,
    "per_prefill_token_s": 4e-5,
    "per_sequence_s": 2e-5,
    "per_kv_token_s": 2.5e-9,
}
QUESTION = (
    *("--model", "Llama-3.1-8B-Instruct", "--peak-request-rate", "4/s"),
    *("--prompt-tokens", "1000", "--output-tokens", "100", "--fleet", "2 x H200-SXM:tp1"),
    *("--ttft-p95", "1.5 s", "--tpot-p95", "50 ms"),
)
FEW = ("--requests", "1000")


@cache
def _answer(*arguments, columns=80):
    return tonnage("simulate", *QUESTION, *arguments, columns=columns)


def simulated(*arguments, exit_code=errors.EXIT_ANSWERED):
    """The document of an answer, and the lines beside it."""
    result = _answer(*arguments, "--format", "json")
    assert result.returncode == exit_code, result.stderr
    return checked(json.loads(result.stdout), "simulation"), result.stderr.splitlines()


def test_the_answer_is_a_document_with_everything_in_it():
    found, beside = simulated(*FEW)
    assert beside == []
    assert found["stable"] is True
    counts = found["requests"]
    assert counts["counted"] == 1000
    assert counts["arrived"] == counts["finished"] > 1000
    assert counts["rejected"] == counts["unfinished"] == counts["lost"] == 0
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        figures = [found[metric][name] for name in ("p50", "p90", "p95", "p99")]
        assert 0 < figures[0] <= figures[1] <= figures[2] <= figures[3]
    assert set(found["slo"]) == {"ttft_p95", "tpot_p95"}
    assert found["throughput"]["requests_per_s"] == pytest.approx(4, rel=0.2)
    assert 0 < found["kv"]["peak_fraction"] < 1
    assert (found["fleet"]["replicas"], found["fleet"]["gpus"]) == (2, 2)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    first, _ = simulated(*FEW)
    again = tonnage("simulate", *QUESTION, *FEW, "--format", "json").stdout
    assert again == _answer(*FEW, "--format", "json").stdout
    other, _ = simulated(*FEW, "--seed", "1")
    assert other["ttft_s"] != first["ttft_s"]


@pytest.mark.parametrize("columns", [80, 160])
def test_the_text_answers_first_and_fits(columns):
    result = _answer(*FEW, columns=columns)
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= columns
    said = " ".join(result.stdout.split())
    assert said.index("every promise") < said.index("Latency") < said.index("Next")


def test_a_fleet_of_arranged_gpus_is_so_many_replicas():
    found, _ = simulated("--fleet", "4 x H200-SXM:tp2", *FEW)
    fleet = found["fleet"]
    assert (fleet["replicas"], fleet["gpus_per_replica"], fleet["gpus"]) == (4, 2, 8)


def test_what_the_engine_is_told_replaces_what_is_modelled(tmp_path):
    (tmp_path / "step.json").write_text(json.dumps(STEP))
    told = (
        *("--step-model", tmp_path / "step.json", "--kv-blocks", "900"),
        *("--max-num-seqs", "9", "--max-num-batched-tokens", "512", "--policy", "sglang"),
    )
    found, _ = simulated(*told, *FEW)
    limits = found["fleet"]["limits"]
    assert (limits["max_num_seqs"], limits["max_num_batched_tokens"]) == (9, 512)
    assert limits["policy"] == "sglang"
    assert limits["kv_units"] in {899, 900}  # vLLM keeps one back
    assert found["fleet"]["step_evidence"] == "calibrated"
    assert found["tpot_s"]["p50"] > STEP["base_s"]


def test_a_missed_promise_is_an_answer():
    found, beside = simulated("--tpot-p95", "1 ms", *FEW)
    assert found["verdict"] == "missed"
    assert beside == []


def test_a_load_beyond_the_fleet_is_answered_and_refused():
    arguments = ("--rate-factor", "100", "--max-num-seqs", "8", *FEW)
    found, (line,) = simulated(*arguments, exit_code=errors.EXIT_INFEASIBLE)
    assert line.startswith("error: the load is beyond what this fleet carries: ")
    assert "requests/s more arrive than are answered" in line
    assert found["stable"] is False
    assert found["stability"]["growth_requests_per_s"] > 0


def test_requests_that_no_replica_can_hold_are_counted_and_refused():
    arguments = ("--kv-blocks", "20", *FEW)
    found, (line,) = simulated(*arguments, exit_code=errors.EXIT_INFEASIBLE)
    assert "can never be served" in line
    assert found["requests"]["rejected"] == found["requests"]["arrived"]
    assert found["ttft_s"]["p95"] is None
    assert found["slo"] == {"ttft_p95": 0.0, "tpot_p95": 0.0}


def test_a_trace_replaces_the_load(tmp_path):
    trace = tmp_path / "trace.csv"
    rows = [f"{index / 10},{500 + index},20" for index in range(200)]
    trace.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows, ""]))
    result = tonnage(
        "simulate", "--model", "Llama-3.1-8B-Instruct", "--fleet", "1 x H200-SXM",
        "--trace", trace, "--format", "json",
    )  # fmt: skip
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    found = checked(json.loads(result.stdout), "simulation")
    assert found["requests"]["arrived"] == 200
    assert found["load"]["prompt_tokens_max"] == 699


def test_a_mistake_in_a_trace_is_told_with_its_line(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,10,5\n1,10,0\n")
    result = tonnage("simulate", *QUESTION, "--trace", trace)
    assert result.returncode == errors.EXIT_BAD_INPUT
    assert result.stdout == ""
    assert f"{trace}:3: output_tokens" in result.stderr


# ── files ───────────────────────────────────────────────────────────────────────────────────────


def test_records_and_plots_are_written_beside_the_answer(tmp_path):
    pytest.importorskip("matplotlib")
    result = tonnage(
        "simulate", *QUESTION, *FEW, "--records", "requests.csv", "--plot", "plots",
        "-o", "answer.json", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert result.stdout == ""
    assert result.stderr.splitlines()[0] == "wrote requests.csv"
    found = checked(json.loads((tmp_path / "answer.json").read_text()), "simulation")
    rows = list(csv.DictReader((tmp_path / "requests.csv").read_text().splitlines()))
    assert len(rows) == found["requests"]["arrived"]
    counted = [float(row["ttft_s"]) for row in rows if row["counted"] == "true"]
    assert sum(counted) / len(counted) == pytest.approx(found["ttft_s"]["mean"])
    assert len(list((tmp_path / "plots").iterdir())) == 7


@pytest.mark.parametrize(
    "arguments",
    [
        ("--records", "requests.xlsx"),
        ("--records", "nowhere/requests.csv"),
        ("--plot", "picture.gif"),
        ("--plot", "nowhere/picture.png"),
        ("-o", "nowhere/answer.json"),
    ],
)
def test_what_cannot_be_written_is_found_before_the_work(tmp_path, arguments):
    result = tonnage("simulate", *QUESTION, "--requests", "1 M", *arguments, cwd=tmp_path)
    assert result.returncode == errors.EXIT_USAGE, result.stderr
    assert list(tmp_path.iterdir()) == []


# ── several seeds, several processes ────────────────────────────────────────────────────────────


def test_seeds_are_told_as_one_and_one_by_one():
    found, _ = simulated(*FEW, "--seeds", "5")
    alone, _ = simulated(*FEW)
    each = found["replications"]
    assert (found["intervals_from"], alone["intervals_from"]) == ("seeds", "batches")
    assert alone["replications"] == []
    assert found["requests"]["counted"] == sum(one["counted"] for one in each) == 5000
    assert len({one["seed"] for one in each}) == 5
    assert each[0]["seed"] == found["seed"] == 0
    assert each[0]["ttft_s"] == alone["ttft_s"]
    low, high = found["ttft_s"]["interval_90"]["p95"]
    assert low <= found["ttft_s"]["p95"] <= high
    again, _ = simulated(*FEW, "--seed", str(each[3]["seed"]))
    assert again["e2e_s"] == each[3]["e2e_s"]


@pytest.mark.parametrize("asked", [(*FEW, "--seeds", "3"), ("--requests", "50 k")])
def test_workers_change_no_byte(tmp_path, asked):
    told = ("--no-compiled", "--format", "json", "--records", "requests.jsonl", *asked)
    here, there = (tmp_path / name for name in ("here", "there"))
    for folder, shared in ((here, ()), (there, ("--workers", "2"))):
        folder.mkdir()
        result = tonnage("simulate", *QUESTION, *told, *shared, cwd=folder)
        assert result.returncode == errors.EXIT_ANSWERED, result.stderr
        (folder / "answer").write_text(result.stdout)
    for name in ("answer", "requests.jsonl"):
        assert (here / name).read_bytes() == (there / name).read_bytes()


def test_the_rows_of_several_seeds_say_which(tmp_path):
    file = tmp_path / "requests.csv"
    result = tonnage("simulate", *QUESTION, *FEW, "--seeds", "2", "--records", file)
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    assert "Seed by seed" in result.stdout
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    seeds = [row["seed"] for row in rows]
    first, second = dict.fromkeys(seeds)
    assert (first, seeds) == ("0", sorted(seeds, key=[first, second].index))
    assert sum(row["counted"] == "true" for row in rows) == 2000


# ── mistakes ────────────────────────────────────────────────────────────────────────────────────


def test_nothing_asked_is_wrong_use():
    result = tonnage("simulate")
    assert result.returncode == errors.EXIT_USAGE
    assert result.stderr.startswith("error: there is nothing to simulate")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--outage", "9@5 s"), errors.EXIT_USAGE, "replica 9"),
        (("--outage", "soon"), errors.EXIT_USAGE, "--outage"),
        (("--max-batch-size", "4"), errors.EXIT_USAGE, "--max-batch-size"),
        (("--fleet", "2 x H900:tp1"), errors.EXIT_BAD_INPUT, "H900"),
        (("--step-model", "nowhere.json"), errors.EXIT_BAD_INPUT, "nowhere.json: does not exist"),
        (("--trace", "nowhere.csv", "--seeds", "2"), errors.EXIT_USAGE, "--seeds"),
        (("--workers", "0"), errors.EXIT_USAGE, "--workers"),
        (("--cluster", "nowhere"), errors.EXIT_USAGE, "'nowhere' is no address"),
        (("--cluster", "tcp://127.0.0.1:9"), errors.EXIT_BAD_INPUT, "no Dask scheduler answers"),
        (("--trace", "nowhere.csv"), errors.EXIT_BAD_INPUT, "nowhere.csv"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(arguments, code, said):
    result = tonnage("simulate", *QUESTION, *arguments)
    assert result.returncode == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert said in result.stderr


# ── a terminal ──────────────────────────────────────────────────────────────────────────────────


def those_at_work_in(folder):
    """Processes whose working directory it is."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if each.readlink() == folder:
                found.append(int(each.parent.name))
    return found


@pytest.mark.parametrize("shared", [(), ("--seeds", "20", "--workers", "2")])
def test_ctrl_c_stops_it_and_leaves_nothing(tmp_path, shared):
    """On a terminal, so that it says when it is under way; all its processes get the signal."""
    reader, writer = pty.openpty()
    requests = ("--requests", "20 k" if shared else "200 k", "--no-compiled", *shared)
    running = subprocess.Popen(
        command(
            *("simulate", *QUESTION, *requests, "--records", "requests.csv", "-o", "answer.json"),
        ),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writer,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        start_new_session=True,
    )
    os.close(writer)
    seen = b""
    end_s = time.monotonic() + 60
    while b"simulated" not in seen and time.monotonic() < end_s:
        seen += os.read(reader, 4096)
    assert b"requests" in seen
    assert len(those_at_work_in(tmp_path)) > len(shared) // 2
    os.killpg(running.pid, signal.SIGINT)
    output, _ = running.communicate(timeout=30)
    said = os.read(reader, 1 << 16)
    os.close(reader)
    assert running.returncode == errors.EXIT_INTERRUPTED
    assert output == b""
    assert said.strip().endswith(b"interrupted")
    assert b"Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    assert those_at_work_in(tmp_path) == []


def test_a_worker_that_is_killed_is_said(tmp_path):
    asked = ("simulate", *QUESTION, "--seeds", "50", "--no-compiled", "--workers", "2")
    running = subprocess.Popen(
        command(*asked), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end_s = time.monotonic() + 60
    while not (workers := [each for each in those_at_work_in(tmp_path) if is_worker(each)]):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)
    output, said = running.communicate(timeout=30)
    assert running.returncode == errors.EXIT_BAD_INPUT, said
    assert output == ""
    assert said.startswith("error: a worker process ended before its work was done.")
    assert said.count("\n") == 1
    assert those_at_work_in(tmp_path) == []


def is_worker(process):
    with suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


def test_help_teaches_and_imports_nothing_heavy():
    listing = (
        "import sys\nsys.argv = ['tonnage', 'simulate', '--help']\n"
        "from tonnage.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print([m for m in ('scipy', 'numba', 'matplotlib', 'yaml')"
        " if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=False
    )
    assert result.returncode == errors.EXIT_ANSWERED
    assert result.stdout.splitlines()[-1] == "[]"
    for heading in ("Which fleet:", "How its engines work", "How the load arrives:"):
        assert heading in result.stdout
