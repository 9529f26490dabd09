"""`tonnage measure` when things go wrong: each failure is counted, and nothing measured is lost."""

import json
import os
import shlex
import signal
import subprocess
import time

import pytest

from tests.cli.measuring import measure, records_of
from tests.cli.process import command, tonnage
from tests.servers.slots import slots_server
from tests.servers.timed import timed_server
from tonnage import errors

ONE_BY_ONE = ("--concurrency", "1", "--warmup", "0", "--model", "m", "--output-tokens", "3")
IMPATIENT = ("--timeout", "600 ms", "--stall-timeout", "300 ms")
BROKEN = {  # a fault of the server, and the kind it is counted as
    "400": "http",
    "503": "http",
    "half-a-stream": "truncated",
    "length-too-long": "truncated",
    "bad-json": "malformed",
    "bad-http": "malformed",
    "error-event": "rejected",
    "stalls": "stalled",
    "silent": "timeout",
    "drips-head": "timeout",
    "drips-body": "timeout",
}


# ── a server that fails ─────────────────────────────────────────────────────────────────────────


def test_each_failure_is_counted_as_its_kind_and_the_run_goes_on(tmp_path):
    rota = [each for fault in BROKEN for each in (fault, "ok")]
    with slots_server(rota=rota) as server:
        told = measure(
            server.url, *ONE_BY_ONE, *IMPATIENT, "--requests", len(rota), cwd=tmp_path, columns=200
        )
    assert told.exit_code == errors.EXIT_ANSWERED, told.err
    assert [each.get("failure") for each in told.measured()] == [BROKEN.get(each) for each in rota]
    (point,) = told.points
    kinds = list(BROKEN.values())
    assert point["failures"] == {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    assert (point["requests"], point["failed"]) == (len(BROKEN), len(BROKEN))
    assert point["e2e_p99_s"] < 0.3  # nothing that failed is in it
    assert len(server.asked) == 1 + len(rota)  # and nothing was sent twice


def test_what_the_server_says_is_told_to_the_user(tmp_path):
    with slots_server(rota=["503", "400", "ok", "400"]) as server:
        told = measure(server.url, *ONE_BY_ONE, "--requests", 4, cwd=tmp_path, columns=200)
    assert "3 of 4 failed" in told.out
    assert "prompt is too long" in told.out
    assert '"message"' not in told.out  # what it says, not how JSON says it
    assert "prompt is too long" in told.points[0]["notes"][1]


def test_a_level_that_fails_leaves_the_others_alone(tmp_path):
    with slots_server(rota=["500"] * 3 + ["ok"] * 5) as server:
        told = measure(
            server.url, "--concurrency", "1,2", "--warmup", 0, "--requests", "3", "--model", "m",
            cwd=tmp_path,
        )  # fmt: skip
    assert told.exit_code == errors.EXIT_ANSWERED
    assert [(each["requests"], each["failed"]) for each in told.points] == [(0, 3), (3, 0)]


def test_a_server_that_goes_away_is_measured_again_later(tmp_path):
    with slots_server(leave_after=4) as server:
        arguments = (server.url, "--concurrency", "1,2,3", "--warmup", 0, "--model", "m",
                     "--requests", 6)  # fmt: skip
        told = measure(*arguments, cwd=tmp_path, columns=200)
    assert told.exit_code == errors.EXIT_BAD_INPUT
    assert "levels are missing" in told.err
    first, second = told.points  # nobody was there for a third
    assert first["requests"] == 3
    assert first["failures"]["refused"] >= 2
    assert second["stopped"]
    assert "nobody listens" in told.out
    assert "tonnage measure … -o run" in told.out


def test_where_nothing_is_answered_the_exit_says_so(tmp_path):
    with slots_server(rota=["401"]) as server:
        told = measure(server.url, *ONE_BY_ONE, "--requests", 3, cwd=tmp_path)
    assert told.exit_code == errors.EXIT_BAD_INPUT
    assert "not one request was answered" in told.err
    assert "no such key" in told.out
    assert "tonnage fit" not in told.out


def test_nobody_there_is_one_line_and_the_folder_is_free_for_another_try(tmp_path):
    with timed_server(ttft_s=0, itl_s=0, output_tokens=3) as url:
        pass
    arguments = ("--concurrency", "1", "--requests", "2", "--model", "m")
    told = measure(url, *arguments, cwd=tmp_path)
    assert told.exit_code == errors.EXIT_BAD_INPUT
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert "nobody listens" in told.err
    assert len(told.err.splitlines()) == 1
    with slots_server() as server:
        again = measure(server.url, *arguments, cwd=tmp_path)
    assert again.exit_code == errors.EXIT_ANSWERED, again.err
    assert again.run["target"] == server.url


# ── a measurement that is ended ─────────────────────────────────────────────────────────────────


@pytest.fixture
def slow():
    """One answer every 50 ms."""
    with slots_server(slots=1, service_s=0.05) as server:
        yield server


def begin(*arguments, cwd):
    return subprocess.Popen(
        command("measure", *arguments, "--no-plots"),
        cwd=cwd,
        env=os.environ | {"COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until_kept(folder, level, count):
    """Wait until so many requests of a level are in the record."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (folder / "requests.jsonl").exists():
            kept = [each for each in records_of(folder) if each["level"] == level]
            if len(kept) >= count:
                return
        time.sleep(0.02)
    pytest.fail("nothing was kept")


def test_ctrl_c_keeps_what_was_measured_and_the_same_command_goes_on(slow, tmp_path):
    arguments = (slow.url, "--concurrency", "1,2,3", "--requests", "12", "--model", "m")
    with begin(*arguments, "-o", "run", cwd=tmp_path) as process:
        until_kept(tmp_path / "run", "c3", 4)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == errors.EXIT_INTERRUPTED
    assert "Traceback" not in err
    assert "interrupted: the same command with -o run goes on from here" in err
    assert "stopped before its end" in out
    assert "tonnage measure … -o run" in out
    before = records_of(tmp_path / "run")
    stopped = [each for each in before if each.get("failure") == "stopped"]
    assert {each["level"] for each in stopped} == {"c3"}
    probe = 1
    assert len(before) - len(stopped) <= slow.answered - probe <= len(before)
    assert tonnage("fit", "run", cwd=tmp_path).returncode == errors.EXIT_ANSWERED

    again = measure(*arguments, cwd=tmp_path)
    assert again.exit_code == errors.EXIT_ANSWERED, again.err
    assert [each["level"] for each in again.points] == ["c1", "c2", "c3 again 1"]
    assert [each["requests"] for each in again.points] == [12, 12, 12]
    assert again.records[: len(before)] == before
    assert len(again.measured("c1")) == 12
    asked = len(slow.asked)
    assert measure(*arguments, cwd=tmp_path).points == again.points
    assert len(slow.asked) == asked  # all of it was there


def test_a_second_ctrl_c_waits_for_nothing(tmp_path):
    (tmp_path / "stubborn.py").write_text(
        "import asyncio\n"
        "async def answer(text):\n"
        "    print('asked', flush=True)\n"
        "    while True:\n"
        "        try:\n"
        "            await asyncio.sleep(60)\n"
        "        except asyncio.CancelledError:\n"
        "            print('cancelled', flush=True)\n"
    )
    arguments = ("stubborn:answer", "--prompt-tokens", "3", "--concurrency", "1", "-o", "run")
    with begin(*arguments, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "cancelled\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == errors.EXIT_INTERRUPTED
    assert "Traceback" not in err


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_what_ends_a_whole_group_of_processes_keeps_what_was_measured(tmp_path, workers):
    with slots_server(slots=4, service_s=0.02) as server:
        arguments = (server.url, "--concurrency", "4", "--duration", "60 s", "--model", "m")
        with begin(*arguments, *workers, "-o", "run", cwd=tmp_path) as process:
            until_kept(tmp_path / "run", "c4", 20)
            os.killpg(process.pid, signal.SIGTERM)
            _, err = process.communicate(timeout=60)
    assert process.returncode == errors.EXIT_INTERRUPTED, err
    kept = records_of(tmp_path / "run")
    assert sum(each.get("failure") == "stopped" for each in kept) == 4
    assert {each.get("failure") for each in kept} == {None, "stopped"}


def test_more_clients_than_the_system_has_files_for_is_a_failure_like_others(tmp_path):
    with slots_server(slots=100, service_s=0.05) as server:
        words = command(
            "measure", server.url, "--concurrency", 80, "--requests", 80, "--warmup", 0,
            "--model", "m", "--no-plots", "-o", "run",
        )  # fmt: skip
        told = subprocess.run(
            ["/bin/sh", "-c", f"ulimit -n 48; exec {shlex.join(words)}"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert told.returncode == errors.EXIT_ANSWERED, told.stderr
    (point,) = json.loads((tmp_path / "run" / "run.json").read_text())["points"]
    assert point["requests"] > 10
    assert set(point["failures"]) == {"unreachable"}
    assert "file descriptors are in use" in " ".join(point["notes"])


def test_kill_9_loses_nothing_that_was_answered(tmp_path):
    with slots_server(slots=4, service_s=0.02) as server:
        arguments = (server.url, "--concurrency", "4,8", "--requests", "60", "--model", "m")
        with begin(*arguments, "-o", "run", cwd=tmp_path) as process:
            until_kept(tmp_path / "run", "c8", 20)
            process.kill()
        answered = server.answered
        kept = records_of(tmp_path / "run")
        probe = 1
        assert answered - probe - 8 <= len(kept) <= answered - probe
        assert process.returncode == -signal.SIGKILL
        again = measure(*arguments, cwd=tmp_path)
    assert again.exit_code == errors.EXIT_ANSWERED, again.err
    assert again.records[: len(kept)] == kept
    assert [each["requests"] for each in again.points] == [60, 60]
    assert len(again.measured("c4")) == 60  # finished levels are not measured twice


def test_another_question_is_not_mixed_in_unless_forced(tmp_path):
    with slots_server() as server:
        arguments = (server.url, "--concurrency", "1", "--requests", "3", "--model", "m")
        measure(*arguments, "--output-tokens", "3", cwd=tmp_path)
        asked = len(server.asked)
        refused = measure(*arguments, "--output-tokens", "4", cwd=tmp_path)
        assert refused.exit_code == errors.EXIT_BAD_INPUT
        assert "output_tokens was 3, is 4" in refused.err
        assert "--force" in refused.err
        assert len(server.asked) == asked
        forced = measure(
            server.url, "--concurrency", "1,2", "--requests", "3", "--model", "m", "--force",
            "--output-tokens", "4", cwd=tmp_path, columns=200,
        )  # fmt: skip
    assert forced.exit_code == errors.EXIT_ANSWERED
    assert [each["concurrency"] for each in forced.points] == [1, 2]
    assert "mixed by force: prompts.output_tokens was 3, is 4" in forced.out


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"mine": True}))
    with slots_server() as server:
        told = measure(server.url, *ONE_BY_ONE, "--requests", 1, cwd=tmp_path)
        assert not server.asked
    assert told.exit_code == errors.EXIT_BAD_INPUT
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"mine": True}
