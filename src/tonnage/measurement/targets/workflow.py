"""Any HTTP workflow that speaks JSON -> a Target: a template for asking, a path for reading.

The template is a JSON text whose strings may hold `$prompt`, `$item` and `$field.NAME`, the last
from the row of the dataset; `$$` is a dollar sign. They are put in after parsing, so that no prompt
can break the JSON; a string that is nothing but a field keeps that field's type.
The path is dotted, with indexes: `choices.0.message.content`. Of an event stream it is read in
every event, and pieces are timed. What is one its beginning tells, as servers send streams under
any Content-Type, and anything under a stream's; but only one that says so begins with a comment.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from tonnage.errors import InputError, TonnageError, UsageError
from tonnage.measurement.load import Outcome, Prompt, TargetSpec
from tonnage.measurement.targets.http import PORTS, HttpClient, MalformedError
from tonnage.measurement.targets.sse import BYTE_ORDER_MARK, EventStream
from tonnage.spelling import nearest

DEFAULT_TEMPLATE = '{"input_message": "$prompt"}'
PLACEHOLDER = re.compile(r"\$(?:(?P<dollar>\$)|field\.(?P<field>\w+)|(?P<name>[A-Za-z_]\w*))")
EVENT_STREAM = "text/event-stream"
SHOWN_KEYS = 8  # of a body without an answer
EVENT_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")  # what an event stream begins with
PLAIN_EVENT_FIELDS = (b"data:", b"event:")  # what a text that is none does not begin with
MOST_NEEDED_BYTES = max(map(len, EVENT_FIELDS))  # to tell one

Fill = Callable[[Prompt], Any]


class JsonTarget:
    """A server asked with POST at its address."""

    def __init__(self, spec: TargetSpec) -> None:
        self._fill = compile_template(spec.request_template or DEFAULT_TEMPLATE)
        self._path = tuple(spec.answer_path.split(".")) if spec.answer_path else ()
        self._address = spec.address
        self._client = HttpClient.of(spec)

    @property
    def model(self) -> str | None:
        """Not known: the workflow may ask any model."""
        return None

    async def open(self) -> None:
        """See that somebody listens; asking an unknown workflow anything may set off anything."""
        await refuse_absent(self._address)

    async def send(self, prompt: Prompt) -> Outcome:
        """Ask once, and find the answer in what comes."""
        answer = _Answer(self._path)
        body = json.dumps(self._fill(prompt)).encode()
        exchange = await self._client.exchange("POST", "", body, answer.read, answer.tell)
        outcome = exchange.outcome()
        answer.conclude(outcome)
        outcome.error = self._client.shown(outcome.error)
        return outcome

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


class _Answer:
    """The body of one answer, read while it comes."""

    def __init__(self, path: tuple[str, ...]) -> None:
        self._path = path
        self._whole = bytearray()
        self._events = EventStream()
        self._fields: tuple[bytes, ...] = EVENT_FIELDS
        self._streams: bool | None = None  # not known before the beginning has come
        self._refusal = ""
        self._pieces: list[str] = []
        self._token_s: list[float] = []

    def tell(self, content_type: str) -> None:
        """What it says it is, which comes before any of it."""
        if content_type.partition(";")[0].strip().lower() != EVENT_STREAM:
            self._fields = PLAIN_EVENT_FIELDS

    def read(self, data: bytes, at_s: float) -> None:
        """Part of the body."""
        if self._streams:
            self._read_events(data, at_s)
            return
        self._whole += data
        if self._streams is None:
            beginning = self._whole.removeprefix(BYTE_ORDER_MARK).lstrip()
            if len(beginning) >= MOST_NEEDED_BYTES:
                self._streams = beginning.startswith(self._fields)
                if self._streams:
                    self._read_events(bytes(self._whole), at_s)

    def conclude(self, outcome: Outcome) -> None:
        """Put what came into `outcome`, which may turn out to hold no answer.

        An error the server told goes before a broken end.
        """
        outcome.answer = "".join(self._pieces)
        outcome.token_s = self._token_s
        if self._refusal:
            outcome.failure, outcome.error = "rejected", self._refusal
        if outcome.failure is not None:
            return
        if self._streams:
            if not self._pieces:
                where = f" at {'.'.join(self._path)}" if self._path else ""
                outcome.failure, outcome.error = "rejected", f"no event with an answer{where}"
        elif not self._path:
            outcome.answer = self._whole.decode(errors="replace")
        else:
            try:
                outcome.answer = _text(_at(self._path, json.loads(self._whole)))
            except (ValueError, RecursionError):
                outcome.failure, outcome.error = "malformed", "the body is not JSON"
            except LookupError as error:
                outcome.failure, outcome.error = "rejected", str(error.args[0])

    def _read_events(self, data: bytes, at_s: float) -> None:
        for event in self._events.feed(data):
            if event.kind == "error":
                self._refusal = event.data or "an error event that says no more"
                continue
            if event.data == "[DONE]":
                continue
            piece = event.data
            if self._path:
                try:
                    piece = _text(_at(self._path, json.loads(piece)))
                except (ValueError, RecursionError):
                    raise MalformedError("an event that is not JSON") from None
                except LookupError:  # an event about something else: a role, a count of tokens
                    continue
            if piece:
                self._pieces.append(piece)
                self._token_s.append(at_s)


async def refuse_absent(address: str) -> None:
    """Find out, without asking for anything, that nobody takes connections at `address`."""
    url = urlsplit(address)
    port = url.port or PORTS[url.scheme]
    try:
        _, writer = await asyncio.open_connection(url.hostname, port)
    except OSError as error:
        raise TonnageError(
            f"nobody takes connections on port {port} of {url.hostname}: "
            f"{error.strerror or error}.",
            hint="Start the server, or mend the address.",
        ) from None
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def compile_template(text: str) -> Fill:
    """A request template -> the body for a prompt; UsageError says what is wrong, and where."""
    try:
        template = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"the request template is not JSON at line {error.lineno}, column {error.colno}: "
            f"{error.msg}.",
            hint=f"For example {DEFAULT_TEMPLATE}.",
        ) from None
    return _compile(template, ())


def _compile(value: Any, path: tuple[str, ...]) -> Fill:  # noqa: ANN401 — whatever JSON holds
    if isinstance(value, str):
        return _compile_text(value, ".".join(path))
    if isinstance(value, dict):
        fills = {key: _compile(each, (*path, key)) for key, each in value.items()}
        return lambda prompt: {key: fill(prompt) for key, fill in fills.items()}
    if isinstance(value, list):
        parts = [_compile(each, (*path, str(index))) for index, each in enumerate(value)]
        return lambda prompt: [fill(prompt) for fill in parts]
    return lambda prompt: value  # noqa: ARG005 — a Fill


def _compile_text(text: str, where: str) -> Fill:
    for match in PLACEHOLDER.finditer(text):
        if (name := match["name"]) and name not in ("prompt", "item"):
            alike = ["field.NAME"] if name == "field" else nearest(name, ("prompt", "item"))
            raise UsageError(
                f"the request template has ${name}{f' at {where}' if where else ''}, which stands "
                "for nothing.",
                hint=(f"Did you mean ${alike[0]}? " if alike else "") + "A dollar sign is $$.",
            )
    if (whole := PLACEHOLDER.fullmatch(text)) and (field := whole["field"]):
        return lambda prompt: _field(prompt, field)
    return lambda prompt: PLACEHOLDER.sub(lambda match: _replacement(match, prompt), text)


def _replacement(match: re.Match[str], prompt: Prompt) -> str:
    if match["dollar"]:
        return "$"
    if match["field"]:
        return _text(_field(prompt, match["field"]))
    return prompt.text if match["name"] == "prompt" else prompt.item


def _field(prompt: Prompt, name: str) -> Any:  # noqa: ANN401 — as above
    try:
        return prompt.fields[name]
    except KeyError:
        raise InputError(
            f"has no field {name}, which the request template asks for.",
            hint=f"It has {', '.join(prompt.fields) or 'none'}.",
            key=f"row {prompt.item}",
        ) from None


def _at(path: tuple[str, ...], value: Any) -> Any:  # noqa: ANN401 — as above
    """What stands at `path`; LookupError says how far it leads, and what there is instead."""
    for depth, step in enumerate(path):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            place = ".".join(path[:depth]) or "the answer"
            if isinstance(value, dict):
                keys = ", ".join(list(value)[:SHOWN_KEYS])
                there = f"{place} has the keys {keys}" if keys else f"{place} is empty"
            elif isinstance(value, list):
                there = f"{place} is a list of {len(value)}"
            else:
                there = f"{place} is {_text(value)!r}"
            raise LookupError(f"nothing at {'.'.join(path)}: {there}")
    return value


def _text(value: Any) -> str:  # noqa: ANN401 — as above
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
