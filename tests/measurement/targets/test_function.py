"""Python callables of every kind as targets."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pytest

from tonnage.errors import UsageError
from tonnage.measurement.load import Outcome, Prompt, TargetSpec
from tonnage.measurement.targets.function import FunctionTarget

AGENT = """
import asyncio, sys, time

async def shout(text):
    await asyncio.sleep(0.01)
    return text.upper()

def plain(text):
    time.sleep(0.2)
    return {"text": text}

async def pieces(text):
    for word in text.split():
        await asyncio.sleep(0.02)
        yield word
        yield ""

def wrapped(text):
    return shout(text)

class Agent:
    async def __call__(self, text):
        return "called " + text
    async def method(self, text):
        return "method " + text

agent = Agent()
number = 42

def generator(text):
    yield text

async def fails(text):
    raise ValueError("two\\nlines")

def leaves(text):
    sys.exit(3)

async def cancels(text):
    asyncio.current_task().cancel()
    await asyncio.sleep(1)

async def stubborn(text):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if text == "let go":
                raise

def stuck(text):
    time.sleep(3)
"""


@pytest.fixture(autouse=True)
def agent(tmp_path, monkeypatch):
    """A module in the current directory, which is not on the path otherwise."""
    (tmp_path / "agent_module.py").write_text(AGENT)
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    (tmp_path / "needy_module.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("agent_module", None)


def send(name: str, *texts: str, timeout_s: float = 10.0) -> list[Outcome]:
    async def go() -> list[Outcome]:
        spec = TargetSpec(kind="function", address=f"agent_module:{name}", timeout_s=timeout_s)
        target = FunctionTarget(spec)
        await target.open()
        prompts = [Prompt(item=text, text=text) for text in texts or ("hi there",)]
        outcomes = await asyncio.gather(*map(target.send, prompts))
        await target.close()
        return outcomes

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("shout", "HI THERE"),
        ("plain", "{'text': 'hi there'}"),
        ("wrapped", "HI THERE"),
        ("agent", "called hi there"),
        ("agent.method", "method hi there"),
    ],
)
def test_whatever_can_be_called_answers(name, answer) -> None:
    [outcome] = send(name)
    assert (outcome.failure, outcome.answer, outcome.token_s) == (None, answer, [])
    assert outcome.sent_s < outcome.end_s


def test_pieces_of_an_async_generator_are_timed_and_empty_ones_are_none() -> None:
    [outcome] = send("pieces", "one two three")
    assert outcome.answer == "onetwothree"
    first, second, third = outcome.token_s
    assert outcome.sent_s + 0.015 < first < second < third <= outcome.end_s


def test_plain_calls_run_at_once_however_many() -> None:
    outcomes = send("plain", *map(str, range(60)))
    assert [outcome.answer for outcome in outcomes] == [f"{{'text': '{i}'}}" for i in range(60)]
    spent_s = max(each.end_s for each in outcomes) - min(each.sent_s for each in outcomes)
    assert spent_s < 60 * 0.2 / 4  # one after another they would take 12 s


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("fails", "ValueError: two lines"),
        ("leaves", "SystemExit: 3"),
        ("cancels", "CancelledError: it cancelled itself"),
    ],
)
def test_whatever_it_raises_is_a_failed_outcome_on_one_line(name, error) -> None:
    [outcome] = send(name)
    assert (outcome.failure, outcome.error) == ("workflow", error)


@pytest.mark.parametrize("name", ["stubborn", "stuck"])
def test_one_that_does_not_end_is_left_after_its_time(name) -> None:
    [outcome] = send(name, "let go", timeout_s=0.1)
    assert (outcome.failure, outcome.error) == ("timeout", "no answer within 0.1 s")
    assert 0.09 < outcome.end_s - outcome.sent_s < 2


def test_cancelled_it_cancels_and_lets_the_cancellation_through() -> None:
    async def go() -> None:
        target = FunctionTarget(TargetSpec(kind="function", address="agent_module:stubborn"))
        sending = asyncio.create_task(target.send(Prompt(item="1", text="let go")))
        await asyncio.sleep(0.05)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(go())


def test_threads_that_never_end_do_not_hold_the_process() -> None:
    send("stuck", timeout_s=0.05)
    assert [each for each in threading.enumerate() if not each.daemon] == [threading.main_thread()]
    time.sleep(0)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("agent_module", "module:function"),
        (":shout", "module:function"),
        ("no_such_module:f", "there is no module no_such_module"),
        ("agent_module.inner:f", "there is no module agent_module.inner"),
        ("needy_module:f", "imports no_such_package, which is not installed"),
        ("broken_module:f", "ZeroDivisionError: division by zero"),
        ("agent_module:shuot", "Did you mean shout?"),
        ("agent_module:number", "is int, which cannot be called"),
        ("agent_module:generator", "Make it an async one"),
    ],
)
def test_what_cannot_be_called_is_said(address, says) -> None:
    with pytest.raises(UsageError) as raised:
        FunctionTarget(TargetSpec(kind="function", address=address))
    assert says in str(raised.value)
