"""Six answers -> a study: the questions that a sizing starts from, in the order people ask them.

Pure: the command line asks, this module knows what to ask and how to read the answers. An empty
answer leaves the default, which the plan then lists as assumed. The six are those of the NVIDIA
DLI course on sizing inference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tonnage.errors import InputError, InputErrors, TonnageError
from tonnage.study.loader import Study, study_from_overrides
from tonnage.units import parse_count, parse_rate, parse_time_s, parse_tokens

Topic = Literal["model", "prompt", "answer", "load", "latency", "gpus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryQuestion:
    """One question: what to ask, what to say about it, and how to read the answer.

    `default` is what an empty answer means, in words; "" when an answer is needed. `read` turns a
    non-empty answer into dotted keys and values, and raises a TonnageError that says how to put it.
    """

    topic: Topic
    ask: str
    help: str
    example: str
    default: str
    read: Callable[[str], Mapping[str, object]]


def _read_model(text: str) -> Mapping[str, object]:
    return {"model": text}


def _read_length(key: str) -> Callable[[str], Mapping[str, object]]:
    def read(text: str) -> Mapping[str, object]:
        if parse_tokens(text) < 1:
            raise InputError("must be at least one token.", key=key)
        return {key: f"{text} tokens" if re.fullmatch(r"[\d.,_ ]+", text) else text}

    return read


_LOAD = re.compile(
    r"^(?P<number>.*?)\s*(?P<what>"
    r"(?:registered )?users|people|concurrent(?: requests)?|in flight|clients|sessions|"
    r"(?:people|users) (?:a|per) day|on average)$"
)


def _read_load(text: str) -> Mapping[str, object]:
    match = _LOAD.match(text)
    if match is None:
        return {"workload.peak_request_rate": _rate(text)}
    number, what = match["number"], match["what"]
    if what == "on average":
        return {"workload.request_rate": _rate(number)}
    count = number if parse_count(number) > 0 else None
    if count is None:
        raise InputError(f'"{text}" asks for nothing: give a number above zero.')
    if what.endswith(" day"):
        return {"workload.daily_users.count": count}
    key = {
        "users": "workload.users.registered",
        "registered users": "workload.users.registered",
        "people": "workload.users.registered",
        "clients": "workload.clients.count",
        "sessions": "workload.sessions",
    }.get(what, "workload.concurrency")
    return {key: count}


def _rate(text: str) -> str:
    if parse_rate(text) <= 0:
        raise InputError(f'"{text}" asks for nothing: give a rate above zero.')
    return text


_METRICS = {
    "": "ttft",
    "first": "ttft",
    "first token": "ttft",
    "ttft": "ttft",
    "last": "e2e",
    "last token": "e2e",
    "whole answer": "e2e",
    "e2e": "e2e",
    "token": "tpot",
    "each token": "tpot",
    "tpot": "tpot",
}


def _read_latency(text: str) -> Mapping[str, object]:
    promises: dict[str, object] = {}
    for part in text.split(","):
        match = re.match(r"^\s*(?P<metric>[A-Za-z2 ]*?)\s*(?P<time>[\d.].*?)\s*$", part)
        metric = _METRICS.get(match["metric"].lower()) if match else None
        if match is None or metric is None:
            raise InputError(
                f'"{part.strip()}" cannot be read as a promise:',
                hint='say which token and how long, for example "first 1.5 s, token 50 ms" '
                'or "last 12 s".',
            )
        if parse_time_s(match["time"]) <= 0:
            raise InputError(f'"{part.strip()}" promises no time at all.')
        promises[f"promises.{metric}.p95"] = match["time"]
    return promises


def _read_gpus(text: str) -> Mapping[str, object]:
    return {"hardware.gpus": [name.strip() for name in text.split(",") if name.strip()]}


DISCOVERY: tuple[DiscoveryQuestion, ...] = (
    DiscoveryQuestion(
        topic="model",
        ask="Which model will be served?",
        help="A catalog name, a hub id, or a path to a config.json.",
        example="meta-llama/Llama-3.3-70B-Instruct",
        default="",
        read=_read_model,
    ),
    DiscoveryQuestion(
        topic="prompt",
        ask="How long is the prompt on average?",
        help="Everything that is sent: system prompt, retrieved documents, history and question. "
        "An English token is about 0.75 of a word.",
        example="3500 tokens, or 2600 words",
        default="1,000 tokens",
        read=_read_length("workload.prompt"),
    ),
    DiscoveryQuestion(
        topic="answer",
        ask="How long is the answer on average?",
        help="Everything that is generated, reasoning included.",
        example="350 tokens",
        default="250 tokens",
        read=_read_length("workload.answer"),
    ),
    DiscoveryQuestion(
        topic="load",
        ask="How much is asked at peak?",
        help="Requests per second at peak; or an average, users, clients or sessions, from which "
        "the peak is derived.",
        example="31/s, 7/s on average, 20000 users, or 100 concurrent",
        default="",
        read=_read_load,
    ),
    DiscoveryQuestion(
        topic="latency",
        ask="How long may people wait?",
        help="For the first token (streaming), for each token after it, or for the last one "
        "(the whole answer). Each is kept for 95 % of the requests.",
        example="first 1.5 s, token 50 ms",
        default="text as fast as people read",
        read=_read_latency,
    ),
    DiscoveryQuestion(
        topic="gpus",
        ask="Which GPUs are considered?",
        help="Catalog names, or all.",
        example="H100-SXM, H200-SXM",
        default="all",
        read=_read_gpus,
    ),
)


def study_from_answers(answers: Mapping[Topic, str]) -> Study:
    """Answers by topic -> the study they describe. Raises InputErrors with every mistake."""
    values: dict[str, object] = {}
    errors: list[InputError] = []
    for question in DISCOVERY:
        text = answers.get(question.topic, "").strip()
        if not text:
            continue
        try:
            values |= question.read(text)
        except TonnageError as error:
            errors.append(InputError(error.message, hint=error.hint, key=question.topic))
    if errors:
        raise InputErrors(errors)
    return study_from_overrides(values)
