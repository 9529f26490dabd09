"""Real programs as targets, with and without a recorder in front of their LLM."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.measurement.targets.scripted import Request, Step, reply, scripted
from tonnage.errors import UsageError
from tonnage.measurement.load import Outcome, Prompt, TargetSpec
from tonnage.measurement.targets.command import LONGEST_VARIABLE_BYTES, CommandTarget

SHELL = ("sh", "-c")
ASK = """
import json, os, sys, urllib.request
text = sys.stdin.read()
for part in text.split():
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({"model": part}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        print(urllib.request.urlopen(request).read().decode())
    except urllib.error.HTTPError:
        print("sorry")
"""


def send(
    *command: str, texts: tuple[str, ...] = ("hello",), timeout_s: float = 20.0, llm: str = ""
) -> list[Outcome]:
    async def go() -> list[Outcome]:
        return await send_all(*command, texts=texts, timeout_s=timeout_s, llm=llm)

    return asyncio.run(go())


async def send_all(
    *command: str, texts: tuple[str, ...], timeout_s: float = 20.0, llm: str = ""
) -> list[Outcome]:
    target = CommandTarget(
        TargetSpec(
            kind="command",
            address=command[0] if command else "",
            command=command,
            timeout_s=timeout_s,
            record_llm=llm or None,
        )
    )
    await target.open()
    try:
        return await asyncio.gather(*(target.send(Prompt(item=t, text=t)) for t in texts))
    finally:
        await target.close()


def test_the_prompt_comes_on_standard_input_and_in_a_variable() -> None:
    [outcome] = send(*SHELL, 'cat; printf " and %s" "$TONNAGE_PROMPT"', texts=("h\u00e9 'llo'",))
    assert (outcome.failure, outcome.answer) == (None, "h\u00e9 'llo' and h\u00e9 'llo'")
    assert outcome.sent_s < outcome.end_s


@pytest.mark.parametrize("text", ["x" * (LONGEST_VARIABLE_BYTES + 1), "nul \0 inside"])
def test_a_prompt_that_no_variable_can_hold_comes_on_standard_input_alone(text) -> None:
    [outcome] = send(*SHELL, 'cat; printf "%s" "${TONNAGE_PROMPT-}"', texts=(text,))
    assert (outcome.failure, outcome.answer) == (None, text)


def test_the_longest_prompt_that_a_variable_can_hold() -> None:
    text = "x" * (LONGEST_VARIABLE_BYTES - len("TONNAGE_PROMPT=") - 1)
    [outcome] = send(*SHELL, 'printf "%s" "${#TONNAGE_PROMPT}"', texts=(text,))
    assert (outcome.failure, outcome.answer) == (None, str(len(text)))


def test_a_program_that_does_not_read_its_prompt_is_fine() -> None:
    [outcome] = send("echo", "hi", texts=("x" * 1_000_000,))
    assert (outcome.failure, outcome.answer) == (None, "hi\n")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo one >&2; echo 'the last line' >&2; exit 3", "exit status 3: the last line"),
        ("exit 4", "exit status 4"),
        ("kill -SEGV $$", "killed by SIGSEGV"),
    ],
)
def test_an_exit_status_other_than_zero_is_a_failure(script, error) -> None:
    [outcome] = send(*SHELL, script)
    assert (outcome.failure, outcome.error) == ("workflow", error)


def test_one_that_takes_too_long_is_killed_with_its_children(tmp_path) -> None:
    script = f"sh -c 'echo $$ > {tmp_path}/child; sleep 60; exit 1' & cat; wait"
    [outcome] = send(*SHELL, script, timeout_s=1.0)
    assert outcome.failure == "timeout"
    assert 0.9 < outcome.end_s - outcome.sent_s < 10
    wait_until_gone(int((tmp_path / "child").read_text()))


def test_cancelled_it_kills_and_lets_the_cancellation_through(tmp_path) -> None:
    file = tmp_path / "pid"

    async def go() -> None:
        command = (*SHELL, f"echo $$ > {file}.new; mv {file}.new {file}; sleep 60")
        sending = asyncio.create_task(send_all(*command, texts=("x",)))
        while not file.exists():  # noqa: ASYNC110 — another process writes it
            await asyncio.sleep(0.01)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    asyncio.run(go())
    wait_until_gone(int(file.read_text()))


def wait_until_gone(pid: int) -> None:
    give_up_s = time.monotonic() + 5
    while time.monotonic() < give_up_s:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return  # dead, and so is its parent
        time.sleep(0.02)
    pytest.fail(f"process {pid} is still there")


@pytest.mark.parametrize("command", [(), ("no-such-program",), ("./not-executable",)])
def test_what_cannot_be_run_is_said_beforehand(command, tmp_path, monkeypatch) -> None:
    (tmp_path / "not-executable").write_text("text")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        send(*command)


def test_every_call_belongs_to_the_prompt_that_made_it() -> None:
    async def go() -> None:
        def answer(request: Request) -> list[Step]:
            usage = {"prompt_tokens": 1, "completion_tokens": len(request.body)}
            return [0.05, reply({"usage": usage})]

        async with scripted(answer) as server:
            texts = ("a b", "c", "d e f", "")
            outcomes = await send_all(
                sys.executable, "-c", ASK, texts=texts, llm=f"{server.url}/v1"
            )
        assert [outcome.failure for outcome in outcomes] == [None] * 4
        models = [" ".join(str(call.model) for call in each.llm_calls) for each in outcomes]
        assert models == list(texts)
        assert {request.path for request in server.requests} == {"/v1/chat/completions"}

    asyncio.run(go())


def test_a_program_that_hides_a_failed_call_has_failed() -> None:
    async def go() -> None:
        def answer(request: Request) -> list[Step]:
            return [reply({}, status="200 OK" if b"good" in request.body else "500 Broken")]

        async with scripted(answer) as server:
            [outcome] = await send_all(
                sys.executable, "-c", ASK, texts=("good bad",), llm=server.url
            )
        assert outcome.answer.splitlines() == ["{}", "sorry"]
        assert outcome.failure == "workflow"
        assert outcome.error == "1 of 2 LLM calls of the workflow failed (http)"
        assert [call.failure for call in outcome.llm_calls] == [None, "http"]

    asyncio.run(go())
