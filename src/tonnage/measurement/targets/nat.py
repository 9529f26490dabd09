"""A server of NeMo Agent Toolkit -> a Target that also knows the LLM calls inside its workflow.

`POST /generate/full` answers in lines: `intermediate_data:` an event, `data:` a part of the answer,
and a bare JSON object with a code when the workflow raised. That comes with status 200. Times of
events are the server's, so that runtime and calls leave out the network and the wait before the
workflow begins, as the toolkit's own measuring does. Nothing is asked twice.
"""

from __future__ import annotations

import json
from typing import Any

from tonnage.measurement.load import Outcome, Prompt, TargetSpec
from tonnage.measurement.targets.events import (
    Event,
    calls_of,
    describe_failed,
    event_of,
    runtime_s_of,
)
from tonnage.measurement.targets.http import HttpClient, MalformedError
from tonnage.measurement.targets.workflow import refuse_absent

PATH = "/generate/full"


class NatTarget:
    """The toolkit's own web server, at the URL that has /generate/full below it."""

    def __init__(self, spec: TargetSpec) -> None:
        self._address = spec.address
        self._client = HttpClient.of(spec)
        self._model: str | None = None

    @property
    def model(self) -> str | None:
        """The model of the last LLM call seen."""
        return self._model

    async def open(self) -> None:
        """See that somebody listens."""
        await refuse_absent(self._address)

    async def send(self, prompt: Prompt) -> Outcome:
        """Ask once."""
        answer = _Answer()
        body = json.dumps({"input_message": prompt.text}).encode()
        exchange = await self._client.exchange("POST", PATH, body, answer.read)
        calls = calls_of(answer.events)
        outcome = exchange.outcome(
            token_s=answer.token_s,
            answer="".join(answer.pieces),
            runtime_s=runtime_s_of(answer.events),
            llm_calls=calls,
        )
        if outcome.failure is None:
            answer.conclude(outcome)
            outcome.error = self._client.shown(outcome.error)
        self._model = next((call.model for call in calls if call.model), self._model)
        return outcome

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


class _Answer:
    """The lines of one answer, read while they come."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.pieces: list[str] = []
        self.token_s: list[float] = []
        self._rest = b""  # the beginning of a line whose end has not come
        self._answered = False
        self._error: str | None = None

    def read(self, data: bytes, at_s: float) -> None:
        """Part of the body."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._read_line(line, at_s)

    def conclude(self, outcome: Outcome) -> None:
        """What the whole says of itself, once it came without an error of the network."""
        try:
            self._read_line(self._rest, outcome.end_s)
        except MalformedError as error:  # a line cut short
            outcome.failure, outcome.error = "truncated", str(error)
            return
        if self._error is not None:
            outcome.failure, outcome.error = "rejected", self._error
        elif not self._answered:
            outcome.failure, outcome.error = "truncated", "the answer ended without a data: line"
        elif failed := describe_failed(outcome.llm_calls):
            outcome.failure, outcome.error = "workflow", failed

    def _read_line(self, line: bytes, at_s: float) -> None:
        kind, colon, value = line.partition(b": ")
        if line.startswith(b"{"):  # how the server says that the workflow raised
            self._refuse(_parse(line))
        elif kind == b"intermediate_data" and colon:
            self._note(_parse(value))
        elif kind == b"data" and colon:
            self._answer(_parse(value), at_s)

    def _note(self, step: Any) -> None:  # noqa: ANN401 — whatever JSON holds
        try:
            self.events.append(event_of(_parse(step["payload"])))
        except (ValueError, TypeError, KeyError) as error:
            raise MalformedError(f"an intermediate_data line without an event: {error}") from None

    def _answer(self, part: Any, at_s: float) -> None:  # noqa: ANN401 — as above
        if not isinstance(part, dict) or "value" not in part:
            self._refuse(part)
            return
        self._answered = True
        value = part["value"]
        piece = value if isinstance(value, str) else json.dumps(value)
        if piece:
            self.pieces.append(piece)
            self.token_s.append(at_s)

    def _refuse(self, said: Any) -> None:  # noqa: ANN401 — as above
        """An object that is no answer: an error, or nothing of this protocol."""
        if not isinstance(said, dict) or not said.keys() & {"error", "code", "message"}:
            raise MalformedError("a data line with neither a value nor an error")
        error = said.get("error") or said
        if isinstance(error, dict):
            parts = (error.get("details"), error.get("message") or error.get("code"))
            self._error = ": ".join(str(each) for each in parts if each) or json.dumps(error)
        else:
            self._error = str(error)


def _parse(text: str | bytes) -> Any:  # noqa: ANN401 — as above
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedError("a line that is not JSON") from None
