"""A configuration of the real toolkit, run in this process: what events tell, and what fails."""

from __future__ import annotations

import asyncio
import logging
from importlib.util import find_spec

import pytest

from tests.nat.llm import DELAY_S, FINAL, MODEL
from tonnage.errors import InputError
from tonnage.measurement.load import Outcome, Prompt, TargetSpec
from tonnage.measurement.loop import run
from tonnage.measurement.targets.nemo import NemoTarget

pytestmark = [
    pytest.mark.skipif(find_spec("nat") is None, reason="needs nvidia-nat: make test-nat"),
    pytest.mark.filterwarnings("ignore"),  # the toolkit and what it imports are full of them
]


def send_all(config, texts, *, timeout_s=60.0) -> list[Outcome]:
    async def send() -> list[Outcome]:
        target = NemoTarget(TargetSpec(kind="nemo", address=str(config), timeout_s=timeout_s))
        await target.open()
        try:
            return await asyncio.gather(
                *(target.send(Prompt(item=text, text=text)) for text in texts)
            )
        finally:
            await target.close()

    return run(send())


def test_an_answer_with_its_one_call_and_what_it_took(workflow, llm) -> None:
    [outcome] = send_all(workflow("chat_completion"), ["how are you?"])
    assert (outcome.failure, outcome.answer) == (None, FINAL)
    [call] = outcome.llm_calls
    assert (call.model, call.prompt_tokens, call.output_tokens) == (MODEL, 11, 7)
    assert call.failure is None
    assert outcome.runtime_s is not None
    assert DELAY_S <= call.latency_s <= outcome.runtime_s <= outcome.end_s - outcome.sent_s
    assert llm.calls == 1


def test_an_agent_makes_two_calls_and_its_streamed_tokens_are_timed(workflow) -> None:
    [outcome] = send_all(workflow("react_agent"), ["what time is it?"])
    assert (outcome.failure, outcome.answer) == (None, "forty-two")
    first, second = outcome.llm_calls
    assert first.ended_unix_s <= second.started_unix_s
    for call in (first, second):
        assert call.ttft_s is not None
        assert DELAY_S <= call.ttft_s < call.latency_s


def test_prompts_run_at_once_and_keep_their_own_calls(workflow, llm) -> None:
    outcomes = send_all(workflow("react_agent"), [f"question {each}" for each in range(8)])
    assert [len(outcome.llm_calls) for outcome in outcomes] == [2] * 8
    assert len({call.id for outcome in outcomes for call in outcome.llm_calls}) == 16
    assert llm.most_in_flight > 1


def test_an_apology_for_a_failed_call_is_a_failed_prompt(workflow, capfd) -> None:
    good, bad = send_all(workflow("chat_completion"), ["fine", "refuse this"])
    assert good.failure is None
    assert bad.answer.startswith("I apologize")
    assert bad.failure == "workflow"
    assert bad.error.startswith("1 of 1 LLM calls of the workflow failed: ")
    assert "refused as asked" in bad.error
    assert [call.failure for call in bad.llm_calls] == ["workflow"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_workflow_that_raises_is_a_failed_prompt(workflow) -> None:
    [outcome] = send_all(workflow("react_agent"), ["refuse this"])
    assert outcome.failure == "workflow"
    assert "refused as asked" in outcome.error
    assert "\n" not in outcome.error
    assert [call.failure for call in outcome.llm_calls] == ["workflow"]


def test_a_workflow_that_takes_too_long_is_given_up(workflow) -> None:
    [outcome] = send_all(workflow("chat_completion"), ["slowly"], timeout_s=DELAY_S / 2)
    assert outcome.failure == "timeout"


def test_a_configuration_the_toolkit_refuses_is_named(tmp_path) -> None:
    config = tmp_path / "wrong.yml"
    config.write_text("workflow:\n  _type: no_such_workflow\n")
    handlers = list(logging.getLogger("nat").handlers)
    with pytest.raises(InputError, match="no_such_workflow") as raised:
        send_all(config, ["x"])
    assert str(config) in str(raised.value)
    assert logging.getLogger("nat").handlers == handlers


def test_a_configuration_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        send_all(tmp_path / "none.yml", ["x"])
