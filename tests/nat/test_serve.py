"""The toolkit's own web server as a target: the wire as it really is."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec

import pytest

from tests.nat.conftest import nat_serve
from tests.nat.llm import DELAY_S, FINAL
from tonnage.measurement.load import Outcome, Prompt, TargetSpec
from tonnage.measurement.loop import run
from tonnage.measurement.targets.nat import NatTarget

pytestmark = pytest.mark.skipif(find_spec("nat") is None, reason="needs nvidia-nat: make test-nat")


def send_all(address, texts) -> list[Outcome]:
    async def send() -> list[Outcome]:
        target = NatTarget(TargetSpec(kind="nat", address=address))
        await target.open()
        try:
            return await asyncio.gather(
                *(target.send(Prompt(item=text, text=text)) for text in texts)
            )
        finally:
            await target.close()

    return run(send())


def test_a_chat_workflow_answers_and_its_apology_is_a_failure(workflow) -> None:
    with nat_serve(workflow("chat_completion")) as address:
        good, bad, again = send_all(address, ["fine", "refuse this", "fine again"])
    assert (good.failure, good.answer, good.status) == (None, FINAL, 200)
    [call] = good.llm_calls
    assert good.runtime_s is not None
    assert DELAY_S <= call.latency_s <= good.runtime_s <= good.end_s - good.sent_s
    assert (bad.failure, bad.error) == ("workflow", "1 of 1 LLM calls of the workflow failed")
    assert bad.answer.startswith("I apologize")
    assert again.failure is None


def test_an_agent_streams_its_answer_and_what_it_raises_is_a_refusal(workflow) -> None:
    with nat_serve(workflow("react_agent")) as address:
        good, bad = send_all(address, ["what time is it?", "refuse this"])
    assert (good.failure, good.answer.strip()) == (None, "forty-two")
    assert len(good.llm_calls) == 2
    assert len(good.token_s) == 1
    assert (bad.failure, bad.status) == ("rejected", 200)
    assert bad.error.startswith("OpenAIInvalidRequestError: ")
    assert [call.failure for call in bad.llm_calls] == ["workflow"]
