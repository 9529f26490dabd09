"""An OpenAI-compatible API -> a Target: chat or completions, streamed or not.

A token arrives with a piece of the answer that is not empty: content, reasoning or part of a tool
call. How many there were the server knows best (`usage`); one piece may hold several.

An output length is asked for with `max_tokens`, which vLLM, SGLang, TGI, llama.cpp and OpenAI all
take, and forced with `ignore_eos` and `min_tokens`, which engines take or pass over and OpenAI
itself refuses. What a server refuses by name it is not sent: `open` finds out, once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tonnage.errors import TonnageError, UsageError
from tonnage.measurement.load import Outcome, Prompt, TargetSpec
from tonnage.measurement.targets.events import whole_number
from tonnage.measurement.targets.http import Exchange, HttpClient, MalformedError
from tonnage.measurement.targets.sse import Event, EventStream
from tonnage.tokenizer import load_tokenizer

MAX_WHOLE_BYTES = 67_108_864  # of an answer that is not streamed
ENDPOINTS = {"chat": "/chat/completions", "completions": "/completions"}
STREAM_BEGINS = b"deir:\xef"  # data, event, id, retry, a comment or a byte order mark
DROPPABLE = ("ignore_eos", "min_tokens", "stream_options")
MAX_MODELS_SHOWN = 5
UNAUTHORISED = (401, 403)
NOT_FOUND = 404
TOO_MANY = 429
REFUSED = (400, 422)


class OpenAiTarget:
    """One model behind the base URL of an OpenAI-compatible API, with or without its /v1."""

    def __init__(self, spec: TargetSpec) -> None:
        address, _, query = spec.address.partition("?")
        address = address.rstrip("/")
        for path in ENDPOINTS.values():  # the whole URL of an endpoint, pasted
            address = address.removesuffix(path)
        if address.count("/") <= 2:  # noqa: PLR2004 — http://host, no path
            address += "/v1"
        self._client = HttpClient.of(spec, f"{address}?{query}" if query else address)
        self._address = address
        self._chat = spec.kind == "chat"
        self._path = ENDPOINTS[spec.kind]
        self._body = dict(spec.body)
        self._stream = spec.stream
        self._model = spec.model
        self._length = "max_tokens"
        self._dropped: set[str] = set()
        self._tokenizer = load_tokenizer(Path(spec.tokenizer)) if spec.tokenizer else None

    @property
    def model(self) -> str | None:
        """The model that is asked."""
        return self._model

    async def open(self) -> None:
        """Find the model, then ask it for one token, leaving out what it refuses to be sent."""
        if self._model is None:
            self._model = await self._only_model()
        while True:
            outcome = await self.send(Prompt(item="probe", text="Hello", output_tokens=1))
            if outcome.failure is None or outcome.status == TOO_MANY:
                return
            if outcome.status not in REFUSED or not self._drop_refused(outcome.error):
                raise self._no_use(outcome)

    async def send(self, prompt: Prompt) -> Outcome:
        """Ask, and note when each piece of the answer came."""
        answer = _Answer()
        exchange = await self._client.exchange(
            "POST", self._path, self._encode(prompt), answer.read
        )
        outcome = exchange.outcome(token_s=answer.token_s)
        outcome.error = _told(outcome.error)
        self._judge(outcome, answer)
        outcome.answer = "".join(answer.content)
        self._count(outcome, answer)
        return outcome

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    def _encode(self, prompt: Prompt) -> bytes:
        request: dict[str, Any] = {"model": self._model, "stream": self._stream}
        if self._stream:
            request["stream_options"] = {"include_usage": True}
        if prompt.output_tokens is not None:
            request |= {"ignore_eos": True, "min_tokens": prompt.output_tokens}
        for name in self._dropped:
            request.pop(name, None)
        request |= self._body
        if prompt.output_tokens is not None:
            request[self._length] = prompt.output_tokens
        if self._chat:
            messages = [{"role": each.role, "content": each.content} for each in prompt.history]
            request["messages"] = [*messages, {"role": "user", "content": prompt.text}]
        else:
            request["prompt"] = "\n".join([*(each.content for each in prompt.history), prompt.text])
        return json.dumps(request).encode()

    def _judge(self, outcome: Outcome, answer: _Answer) -> None:
        """Whether what came is an answer. An error the server told goes before a broken end."""
        if outcome.failure is None:
            try:
                answer.end()
            except MalformedError as error:
                outcome.failure, outcome.error = "malformed", self._client.shown(str(error))
        if answer.refusal:
            outcome.failure, outcome.error = "rejected", self._client.shown(answer.refusal)
        elif outcome.failure is None and not answer.finished:
            outcome.failure = "truncated"
            outcome.error = "the stream ended without a finish_reason and without [DONE]"

    def _count(self, outcome: Outcome, answer: _Answer) -> None:
        """How many tokens went in and came out, as far as anybody knows."""
        outcome.prompt_tokens = whole_number(answer.usage.get("prompt_tokens"))
        outcome.output_tokens = whole_number(answer.usage.get("completion_tokens"))
        if outcome.output_tokens is not None:
            outcome.tokens_from = "usage"
        elif not answer.streamed and outcome.failure is not None:
            return
        elif self._tokenizer is not None:
            pieces = "".join(answer.pieces).encode("utf-16", "surrogatepass")  # halves meet
            text = pieces.decode("utf-16", "replace")
            outcome.output_tokens = len(self._tokenizer.encode(text, add_special_tokens=False).ids)
            outcome.tokens_from = "tokenizer"
        elif answer.streamed:
            outcome.output_tokens = len(answer.token_s)
            outcome.tokens_from = "events"

    async def _only_model(self) -> str:
        """The model that the server has; TonnageError unless there is exactly one."""
        body = bytearray()
        exchange = await self._client.exchange(
            "GET", "/models", None, lambda piece, _: body.extend(piece)
        )
        if exchange.status == NOT_FOUND:
            raise UsageError(
                f"{self._address} does not say which models it has.", hint="Name one with --model."
            )
        if exchange.failure is not None:
            raise self._no_use(exchange)
        try:
            models = [str(each["id"]) for each in json.loads(bytes(body))["data"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(
                f"{self._address}/models is no list of models.",
                hint="Is it the base URL of an OpenAI-compatible API? Else name one with --model.",
            ) from None
        if len(models) != 1:
            some = ", ".join(models[:MAX_MODELS_SHOWN] + ["…"] * (len(models) > MAX_MODELS_SHOWN))
            listed = f": {self._client.shown(some)}" if models else ""
            raise UsageError(
                f"{self._address} has {len(models)} models{listed}.", hint="Name one with --model."
            )
        return models[0]

    def _drop_refused(self, error: str) -> bool:
        """Leave out from now on what `error` names; False when that is nothing more."""
        refused = {name for name in DROPPABLE if name in error} - self._dropped
        self._dropped |= refused
        if "max_completion_tokens" in error and self._length == "max_tokens":
            self._length = "max_completion_tokens"  # OpenAI's reasoning models
            return True
        return bool(refused)

    def _no_use(self, seen: Exchange | Outcome) -> TonnageError:
        """Why nothing should be sent to this server, and what would help."""
        said = f"{self._address}: {seen.error}."
        if seen.failure != "http":
            hints = {
                "refused": "Start the server, or mend the address.",
                "unreachable": "Mend the address, or the way to it.",
                "timeout": "Is the server ready? Allow more with --timeout.",
            }
            return TonnageError(said, hint=hints.get(seen.failure or "", ""))
        said = f"{self._address} answers {seen.status}: {seen.error.rstrip('.')}."
        if seen.status in UNAUTHORISED:
            hint = "Name the environment variable that holds its key with --api-key."
        elif seen.status == NOT_FOUND:
            hint = f"Is its base URL another, or its model not {self._model}?"
        else:
            hint = ""
        return TonnageError(said, hint=hint)


class _Answer:
    """The body of one answer as it arrives: a stream of events, or a whole JSON object."""

    def __init__(self) -> None:
        self.token_s: list[float] = []
        self.pieces: list[str] = []  # all that was generated, for a count
        self.content: list[str] = []  # what belongs in a history
        self.usage: dict[str, Any] = {}
        self.refusal = ""
        self.finished = False
        self.streamed = False
        self._whole = bytearray()
        self._events: EventStream | None = None

    def read(self, data: bytes, now_s: float) -> None:
        """Take a piece of the body. Raises MalformedError."""
        if self._events is None:
            if not self._whole:
                data = data.lstrip()
            if not data:
                return
            if self._whole or data[0] not in STREAM_BEGINS:
                self._whole += data
                if len(self._whole) > MAX_WHOLE_BYTES:
                    raise MalformedError(f"more than {MAX_WHOLE_BYTES // 2**20} MiB of answer")
                return
            self.streamed = True
            self._events = EventStream()
        for event in self._events.feed(data):
            self._take_event(event, now_s)

    def end(self) -> None:
        """The body is complete. Raises MalformedError."""
        if self._events is None:
            self._take(self._whole.decode(errors="replace"), None)
            self.finished = True

    def _take_event(self, event: Event, now_s: float) -> None:
        if event.kind == "error":
            self.refusal = event.data
        elif event.data == "[DONE]":
            self.finished = True
        else:
            self._take(event.data, now_s)

    def _take(self, text: str, now_s: float | None) -> None:
        """A chunk of a stream, or without a time the whole answer."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise MalformedError(f"not JSON: {text or 'nothing'}") from None
        try:
            if (error := document.get("error")) or document.get("object") == "error":
                self.refusal = _message_of(error or document)
                return
            self.usage = dict(document.get("usage") or self.usage)
            for choice in document["choices"] if now_s is None else document.get("choices") or ():
                self._take_choice(choice, now_s)
        except (AttributeError, KeyError, TypeError, ValueError):  # an object is something else
            raise MalformedError(f"not an answer: {text}") from None

    def _take_choice(self, choice: dict[str, Any], now_s: float | None) -> None:
        said = choice.get("delta") or choice.get("message") or choice
        content = _text_of(said.get("content") or said.get("text"))
        piece = content or _text_of(said.get("reasoning_content") or said.get("reasoning"))
        if not piece and (calls := said.get("tool_calls")):
            piece = "".join(map(_call_text, calls))
        if piece:
            self.pieces.append(piece)
            if content:
                self.content.append(content)
            if now_s is not None:
                self.token_s.append(now_s)
        if choice.get("finish_reason"):
            self.finished = True


def _text_of(content: Any) -> str:  # noqa: ANN401 — whatever JSON holds
    """A text, or the texts of a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(_text_of(part.get("text")) for part in content or ())


def _call_text(call: dict[str, Any]) -> str:
    function = call.get("function") or {}
    return str(function.get("name") or "") + str(function.get("arguments") or "")


def _message_of(error: object) -> str:
    if isinstance(error, dict):
        error = error.get("message") or json.dumps(error)
    return str(error)


def _told(error: str) -> str:
    """What the body of an HTTP error says, without the JSON around it."""
    try:
        body = json.loads(error)
    except (ValueError, RecursionError):
        return error
    inner = body.get("error") if isinstance(body, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(message, str) or not message:
        return error
    about = inner.get("param")
    return f"{message} ({about})" if about and str(about) not in message else message
