"""`tonnage measure`, as people use it: whole processes against servers whose truth is known."""

import csv
import fcntl
import importlib.util
import json
import os
import pty
import re
import struct
import sys
import termios
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.measuring import measure
from tests.cli.process import command, tonnage
from tests.servers.slots import slots_server
from tests.servers.timed import timed_server
from tonnage import errors
from tonnage.measurement.run import load_run, write_run

TTFT_S, ITL_S, TOKENS = 0.1, 0.01, 6
E2E_S = TTFT_S + ITL_S * (TOKENS - 1)
NOISE_S = 0.04  # of a busy machine with two cores
ROOT = Path(__file__).parents[2]
SHORT = ("--output-tokens", TOKENS, "--prompt-tokens", 20)
LLAMA = all(importlib.util.find_spec(each) for each in ("xllamacpp", "gguf"))


@pytest.fixture(scope="module")
def timed():
    with timed_server(ttft_s=TTFT_S, itl_s=ITL_S, output_tokens=TOKENS) as url:
        yield url


@pytest.fixture(scope="module")
def closed(timed, tmp_path_factory):
    """Three closed levels, drawn and kept."""
    told = measure(
        timed, "--concurrency", "1,4,16", "--duration", "800 ms", *SHORT, "--gpus", 2,
        "--ttft-p95", "1 s",
        cwd=tmp_path_factory.mktemp("closed"), plots=True, columns=120,
    )  # fmt: skip
    assert told.exit_code == errors.EXIT_ANSWERED, told.err
    return told


# ── a clock that is right ───────────────────────────────────────────────────────────────────────


def test_every_level_is_as_fast_as_the_server_is_known_to_be(closed):
    for point in closed.points:
        for name in ("ttft_p50_s", "ttft_mean_s"):
            assert TTFT_S - 0.002 < point[name] < TTFT_S + NOISE_S
        assert abs(point["tpot_mean_s"] - ITL_S) < 0.003
        assert E2E_S - 0.002 < point["e2e_p50_s"] < E2E_S + NOISE_S
        most_per_s = point["concurrency"] / E2E_S
        assert 0.7 * most_per_s < point["requests_per_s"] < 1.02 * most_per_s
        assert point["output_tokens_mean"] == TOKENS
        assert point["in_flight_mean_requests"] <= point["concurrency"] + 1e-6
        assert point["failed"] == 0
    counts = [len(closed.measured(f"c{clients}")) for clients in (1, 4, 16)]
    assert counts == [each["requests"] for each in closed.points]
    assert sum(each["phase"] == "warmup" for each in closed.records) >= 1 + 4 + 16


def test_the_folder_holds_the_run_and_its_pictures(closed):
    files = {each.name for each in closed.folder.iterdir()}
    assert files == {
        "campaign.json", "requests.jsonl", "run.json", "levels.png", "timeline.png",
    }  # fmt: skip
    assert closed.run["model"] == "timed"
    assert closed.run["gpus"] == 2


def test_the_report_says_what_was_measured_once(closed):
    title, *_ = closed.out.splitlines()
    assert title.strip() == closed.run["target"]
    assert closed.out.count(closed.run["target"]) == 1
    assert "concurrency 16 within TTFT p95 ≤ 1 s" in closed.out
    assert "tonnage fit run" in closed.out
    assert closed.err == "wrote run\n"  # nothing that moves, where there is no terminal


@pytest.mark.parametrize("columns", [80, 160])
def test_the_report_fits_its_terminal(closed, columns):
    shown = tonnage("import", "run", cwd=closed.folder.parent, columns=columns)
    assert shown.returncode == errors.EXIT_ANSWERED
    assert max(map(len, shown.stdout.splitlines())) <= columns


def test_the_run_is_read_by_fit_and_import_and_told_to_programs(closed):
    folder = closed.folder.parent
    fitted = tonnage("fit", "run", "--format", "json", cwd=folder)
    # it does not slow down with load: noise decides whether there is a line
    assert fitted.returncode in {errors.EXIT_ANSWERED, errors.EXIT_INFEASIBLE}, fitted.stderr
    assert [each["concurrency"] for each in json.loads(fitted.stdout)["points"]] == [1, 4, 16]
    told = tonnage("import", "run", "--format", "json", cwd=folder)
    document = json.loads(told.stdout, parse_constant=pytest.fail)
    assert document["points"][2]["requests"] == closed.points[2]["requests"]
    (folder / "told.json").write_text(told.stdout)
    assert (
        write_run(load_run(folder / "told.json"), folder / "again").read_text()
        == (closed.folder / "run.json").read_text()
    )
    told = tonnage("import", "run", "--format", "markdown", cwd=folder)
    assert "| concurrency |" in told.stdout


# ── loads ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("flags", "cv"),
    [
        (("--arrivals", "constant"), (0.0, 0.1)),
        (("--arrivals", "poisson"), (0.8, 1.25)),
        (("--arrivals", "gamma", "--burstiness", "3"), (1.8, 4.5)),
    ],
)
def test_arrivals_are_what_they_are_called(timed, tmp_path, flags, cv):
    told = measure(
        timed, "--rate", "150", "--requests", "200", "--warmup", 0, *flags, *SHORT, cwd=tmp_path
    )
    assert told.exit_code == errors.EXIT_ANSWERED, told.err
    due_s = sorted(each["scheduled_unix_s"] for each in told.measured())
    assert len(due_s) == 200
    gaps_s = [after - before for before, after in pairwise(due_s)]
    mean_s = sum(gaps_s) / len(gaps_s)
    deviation_s = (sum((each - mean_s) ** 2 for each in gaps_s) / len(gaps_s)) ** 0.5
    assert cv[0] <= deviation_s / mean_s <= cv[1]
    assert 0.6 / 150 < mean_s < 1.6 / 150
    assert told.points[0]["request_rate_target_per_s"] == 150


def test_a_recording_is_replayed_at_its_times_and_lengths(timed, tmp_path):
    rows = [(0.0, 10, 3), (0.3, 20, 5), (0.35, 30, 7), (0.9, 40, 2)]
    with (tmp_path / "trace.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("arrival_s", "input_tokens", "output_tokens"), *rows])
    told = measure(timed, "--trace", "trace.csv", "--warmup", 0, cwd=tmp_path)
    assert told.exit_code == errors.EXIT_ANSWERED, told.err
    records = sorted(told.records, key=lambda each: each["scheduled_unix_s"])
    begun_s = records[0]["scheduled_unix_s"]
    assert [each["scheduled_unix_s"] - begun_s for each in records] == pytest.approx(
        [row[0] for row in rows], abs=1e-3
    )
    assert [each["output_tokens"] for each in records] == [row[2] for row in rows]


def test_clients_think_and_start_over_the_ramp(timed, tmp_path):
    told = measure(
        timed, "--concurrency", 4, "--requests", 12, "--think-time", "250 ms", "--ramp", "800 ms",
        *SHORT, cwd=tmp_path,
    )  # fmt: skip
    first = min(each["scheduled_unix_s"] for each in told.records)
    starts = sorted(each["scheduled_unix_s"] - first for each in told.records)
    assert starts[1] == pytest.approx(0.2, abs=0.05)  # the second client, a quarter of the ramp on
    assert len(told.measured()) == 12
    rate_per_s = told.points[0]["requests_per_s"]
    assert rate_per_s < 1.15 * 4 / (E2E_S + 0.25)  # and not 4 / E2E


def test_turns_and_prefixes_are_shared(tmp_path):
    with slots_server() as server:
        measure(
            server.url, "--concurrency", 1, "--requests", 6, "--warmup", 0, "--turns", 3,
            "--prompt-tokens", 30, "--shared-prefix-tokens", 10, "--model", "m", cwd=tmp_path,
        )  # fmt: skip
    asked = [each.body["messages"] for each in server.asked[1:]]
    assert [len(each) for each in asked] == [1, 3, 5, 1, 3, 5]
    assert asked[1][0] == asked[0][0]
    assert asked[1][1] == {"role": "assistant", "content": "one two three"}
    first, second = (each[0]["content"].split() for each in (asked[0], asked[3]))
    assert first[:8] == second[:8]
    assert first[-8:] != second[-8:]


def test_two_processes_share_what_one_would_send(timed, tmp_path):
    told = measure(
        timed, "--concurrency", "5", "--requests", 31, "--workers", 2, *SHORT, cwd=tmp_path
    )
    assert told.exit_code == errors.EXIT_ANSWERED, told.err
    (point,) = told.points
    assert point["requests"] == len(told.measured()) == 31
    assert {each.get("shard", 0) for each in told.measured()} == {0, 1}
    assert TTFT_S - 0.002 < point["ttft_p50_s"] < TTFT_S + NOISE_S
    items = [each["item"] for each in told.records]
    assert len(set(items)) == len(items)


# ── searches ────────────────────────────────────────────────────────────────────────────────────


def test_the_most_clients_that_keep_a_promise_are_found(tmp_path):
    with slots_server(slots=4, service_s=0.1) as server:  # 8 clients wait 200 ms, 9 up to 300
        told = measure(
            server.url, "--search", "concurrency", "--concurrency", 4, "--e2e-p95", "270 ms",
            "--requests", 40, "--model", "m", cwd=tmp_path, columns=200,
        )  # fmt: skip
    assert told.exit_code == errors.EXIT_ANSWERED, told.err
    found = re.search(r"Found +(\d+) clients", told.out)
    assert found is not None, told.out
    assert 7 <= int(found[1]) <= 9
    assert {4, 8, 16} <= {each["concurrency"] for each in told.points}


def test_the_highest_rate_that_keeps_a_promise_is_found(tmp_path):
    """A machine that is taken away makes it find less, never more: the best of three counts."""
    rates: list[float] = []
    with slots_server(slots=4, service_s=0.1) as server:  # 40 requests/s and no more
        while len(rates) < 3 and max(rates, default=0) < 30:
            told = measure(
                server.url, "--search", "rate", "--rate", 15, "--arrivals", "constant",
                "--model", "m", "--e2e-p95", "250 ms", "--duration", "1.2 s", "--warmup", 0,
                cwd=tmp_path, folder=f"run {len(rates)}", columns=200,
            )  # fmt: skip
            assert told.exit_code == errors.EXIT_ANSWERED, told.err
            found = re.search(r"Found +([\d.]+) requests/s", told.out)
            assert found is not None, told.out
            rates.append(float(found[1]))
    assert 30 <= max(rates) <= 55


def test_a_promise_that_no_load_keeps_has_an_exit_of_its_own(timed, tmp_path):
    told = measure(
        timed, "--search", "concurrency", "--ttft-p95", "20 ms", "--requests", 4, *SHORT,
        cwd=tmp_path,
    )  # fmt: skip
    assert told.exit_code == errors.EXIT_INFEASIBLE
    assert "no load keeps TTFT p95 ≤ 20 ms" in told.out
    assert "no load keeps the promises" in told.err


# ── secrets ─────────────────────────────────────────────────────────────────────────────────────


def test_secrets_reach_the_server_and_nothing_else(tmp_path):
    secrets = {"MY_KEY": "sk-very-secret-4711", "MY_TEAM": "team-blue-0815"}
    with slots_server(rota=["ok", "401"]) as server:
        told = measure(
            server.url, "--api-key", "MY_KEY", "--header", "X-Team=MY_TEAM", "--concurrency", "1,2",
            "--requests", 4, "--model", "m", "--workers", 2, cwd=tmp_path, variables=secrets,
            plots=True,
        )  # fmt: skip
    assert {each.headers["authorization"] for each in server.asked} == {
        "bearer sk-very-secret-4711"
    }
    assert {each.headers["x-team"] for each in server.asked} == {"team-blue-0815"}
    kept = [each.read_bytes() for each in told.folder.rglob("*") if each.is_file()]
    assert len(kept) >= 4
    for secret in secrets.values():
        assert secret not in told.out + told.err
        assert not any(secret.encode() in each for each in kept)


# ── workflows ───────────────────────────────────────────────────────────────────────────────────

AGENT = """
import json, os, sys, urllib.request
body = json.dumps({"model": "m", "max_tokens": 3,
                   "messages": [{"role": "user", "content": sys.stdin.read()}]}).encode()
request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body,
                                 {"Content-Type": "application/json"})
print(urllib.request.urlopen(request).read().decode())
"""


def test_a_program_is_run_for_each_prompt_and_its_calls_are_recorded(tmp_path):
    (tmp_path / "agent.py").write_text(AGENT)
    with slots_server(service_s=0.05) as server:
        told = measure(
            "--record-llm", server.url, "--concurrency", "1,2", "--requests", 3, "--warmup", 0,
            "--", sys.executable, "agent.py", cwd=tmp_path, columns=200,
        )  # fmt: skip
    assert told.exit_code == errors.EXIT_ANSWERED, told.err
    assert len(server.asked) == len(told.records)
    assert len(told.measured()) == 6
    for record in told.records:
        (call,) = record["llm_calls"]
        assert 0.05 <= call["ended_unix_s"] - call["started_unix_s"] < record["e2e_s"]
    assert [each["llm_calls"] for each in told.points] == [3, 3]
    assert "LLM p95" in told.out
    assert "answers of" not in told.out  # nobody told the program how long to answer


def test_a_function_of_this_folder_is_measured_and_its_error_is_told(tmp_path):
    (tmp_path / "my_agent.py").write_text(
        "import asyncio\n"
        "count = 0\n"
        "async def answer(text):\n"
        "    global count\n"
        "    count += 1\n"
        "    await asyncio.sleep(0.05)\n"
        "    if count % 3 == 0: raise ValueError('no such tool: search')\n"
        "    return text.upper()\n"
    )
    (tmp_path / "q.jsonl").write_text('{"id": "a", "question": "why?"}\n' * 3)
    told = measure(
        "my_agent:answer", "--dataset", "q.jsonl", "--concurrency", 1, "--requests", 6,
        "--warmup", 0, cwd=tmp_path, columns=200,
    )  # fmt: skip
    assert told.exit_code == errors.EXIT_ANSWERED, told.err
    (point,) = told.points
    assert point["failures"] == {"workflow": 2}
    assert 0.05 <= point["workflow_runtime_p95_s"] < 0.05 + NOISE_S
    assert "failed with: ValueError: no such tool: search" in told.out


def test_one_request_is_said_to_be_one(timed, tmp_path):
    told = measure(timed, "--concurrency", 1, "--requests", 1, *SHORT, cwd=tmp_path, columns=200)
    assert "one request has no percentiles" in told.out
    assert "extreme" not in told.out


# ── what is not installed ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("missing", "target", "extra"),
    [
        ("nat", "config.yml", "tonnage[nat]"),
        ("httptools", "http://127.0.0.1:9/v1", "tonnage[measure]"),
    ],
)
def test_what_is_not_installed_is_named(tmp_path, missing, target, extra):
    (tmp_path / "config.yml").write_text("workflow: {}\n")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
    )
    told = measure(
        target, "--prompt-tokens", 5, "--concurrency", 1, "--requests", 1,
        cwd=tmp_path, variables={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert told.exit_code == errors.EXIT_BAD_INPUT
    assert f'pip install "{extra}"' in told.err
    assert "Traceback" not in told.err


# ── while it runs ───────────────────────────────────────────────────────────────────────────────


def on_a_terminal(*arguments, cwd, columns):
    """All that a terminal of so many columns is sent, and the exit code."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(cwd)
        os.environ |= {"TERM": "xterm-256color"}
        os.environ.pop("COLUMNS", None)
        os.execv(sys.executable, command("measure", *arguments, "--no-plots", "-o", "run"))  # noqa: S606 — no shell is wanted
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    sent = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other side has ended
            break
        if not piece:
            break
        sent += piece
    os.close(terminal)
    return sent.decode(), os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_shows_one_line_that_keeps_up_and_goes(timed, tmp_path, columns):
    sent, code = on_a_terminal(
        timed, "--concurrency", "1,16", "--duration", "700 ms", *map(str, SHORT),
        cwd=tmp_path, columns=columns,
    )  # fmt: skip
    assert code == errors.EXIT_ANSWERED
    live, report = sent.split("\x1b[?25h", 1)  # the cursor is back
    assert "\x1b[1A" not in live  # it never took a second line
    frames = [re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", each).strip() for each in live.split("\r")]
    shown = [each for each in frames if each.startswith("[")]
    assert max(map(len, shown)) <= columns
    assert any(each.startswith("[1/2] 1 client ") for each in shown)
    assert any(each.startswith("[2/2] 16 clients") and "in flight 16" in each for each in shown)
    assert all("TTFT p95" in each for each in shown if "warm-up" not in each)
    assert "in flight" not in report
    assert "Levels" in report


def test_a_quiet_terminal_shows_the_result_alone(timed, tmp_path):
    arguments = ("--concurrency", "1", "--requests", "2", *map(str, SHORT))
    sent, code = on_a_terminal(timed, *arguments, "-q", cwd=tmp_path, columns=80)
    assert code == errors.EXIT_ANSWERED
    assert "\x1b[?25l" not in sent
    assert "wrote" not in sent


# ── a real engine ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def llama():
    if not LLAMA:
        pytest.skip("xllamacpp is not installed")
    from tests.servers.llama import llama_server  # noqa: PLC0415 — optional

    with llama_server(parallel=2) as url:
        yield url


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_real_engine_answers_to_the_token(llama, tmp_path, api):
    told = measure(
        llama, "--api", api, "--concurrency", "1,2,4", "--requests", 8, "--prompt-tokens", 40,
        "--output-tokens", 12, cwd=tmp_path,
    )  # fmt: skip
    assert told.exit_code == errors.EXIT_ANSWERED, told.err
    assert [each["requests"] for each in told.points] == [8, 8, 8]
    for record in told.records:
        assert record["output_tokens"] == len(record["token_s"]) == 12
        assert record["tokens_from"] == "usage"
        assert 40 <= record["prompt_tokens"] <= 43
        assert list(record["token_s"]) == sorted(record["token_s"])
        assert record["token_s"][-1] <= record["e2e_s"]
