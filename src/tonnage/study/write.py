"""Plain values -> YAML that a newcomer can read: short mappings on one line, and comments.

Reading the text again gives the same values. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tonnage.study.document import Document, Key, format_key

INDENT = "  "
LINE_CHARACTERS = 96

COMMENTS: Mapping[str, str] = {
    "model": "a catalog name, a hub id, or a path to a config.json",
    "workload": "who asks, how often, how long",
    "workload.users": "registered × active share × requests an hour = load",
    "workload.request_rate": "a mean; the peak is derived from it",
    "workload.peak_request_rate": "already the peak; never inflated again",
    "workload.tokens_per_day": "spread over active_hours",
    "workload.requests_per_day": "spread over active_hours",
    "workload.daily_users": "spread over active_hours",
    "workload.active_hours": "the hours in which the requests of a day arrive",
    "workload.concurrency": "requests always in flight, without a pause",
    "workload.clients": "each sends, waits for the whole answer, then thinks",
    "workload.batch": "work with a deadline; nobody waits",
    "workload.sessions": "contexts held in memory at once",
    "workload.context": "what each session holds; also the longest context to admit",
    "workload.peak": "how the peak follows from the mean",
    "workload.prompt": "everything sent: system prompt, documents, history, question",
    "workload.answer": "everything generated, reasoning included",
    "workload.words_per_token": "0.75 in English; less in most other languages",
    "workload.network": "added to every time to first token",
    "workload.calls": "one request is this chain of calls, in order",
    "promises": "each holds for its percentile of the requests, at peak",
    "promises.ttft": "time to first token",
    "promises.wait": "time before the answer begins, queueing included",
    "promises.tpot": "time per token after the first",
    "promises.tokens_per_second": "speed of one answer",
    "promises.e2e": "time to the last token",
    "hardware": "what may be bought",
    "hardware.prices": "per GPU and hour, in place of the catalog's",
    "memory.kv_budget_fraction": "how full the KV memory may get",
    "memory.runtime_overhead": "per server, in place of computed weights and buffers",
    "scenarios": "what each level holds back",
    "objective": "what to make small",
    "limits": "of the recommended fleet",
    "existing": "what is owned today",
}


def format_study(tree: Mapping[str, Any]) -> str:
    """The tree as YAML, its sections in the order of the document."""
    order = list(Document.model_fields)
    known = sorted(tree, key=lambda name: order.index(name) if name in order else len(order))
    lines = [line for name in known for line in _entry((name,), tree[name], depth=0)]
    return "\n".join(lines) + "\n"


def _entry(key: Key, value: Any, *, depth: int) -> Iterator[str]:  # noqa: ANN401 — any YAML value
    """The lines of one key and what lies below it."""
    start = f"{INDENT * depth}{_flow(key[-1])}:"
    comment = COMMENTS.get(format_key(key))
    remark = f"  # {comment}" if comment else ""
    short = f"{start} {_flow(value)}"
    nested = _below(value)
    if depth and (not nested or len(short) <= LINE_CHARACTERS) and not _holds_mappings(value):
        yield short + remark
    elif isinstance(value, Mapping) and value:
        yield start + remark
        for name, inner in value.items():
            yield from _entry((*key, name), inner, depth=depth + 1)
    elif isinstance(value, list | tuple) and nested:
        yield start + remark
        for item in value:
            yield from _item(key, item, depth=depth + 1)
    else:
        yield short + remark


def _item(key: Key, value: Any, *, depth: int) -> Iterator[str]:  # noqa: ANN401 — any YAML value
    """The lines of one item of a list, a dash before the first."""
    dash = f"{INDENT * depth}- "
    if not isinstance(value, Mapping) or not value:
        yield dash + _flow(value)
        return
    inner = [
        line
        for name, below in value.items()
        for line in _entry((*key, name), below, depth=depth + 1)
    ]
    yield dash + inner[0].lstrip()
    yield from inner[1:]


def _below(value: Any) -> bool:  # noqa: ANN401 — any YAML value
    return isinstance(value, Mapping) or (
        isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)
    )


def _holds_mappings(value: Any) -> bool:  # noqa: ANN401 — any YAML value
    if isinstance(value, Mapping):
        return any(isinstance(inner, Mapping) and len(inner) > 1 for inner in value.values())
    return _below(value) and isinstance(value, list | tuple)


def _flow(value: Any) -> str:  # noqa: ANN401 — any YAML value
    """One value on one line."""
    text = yaml.safe_dump(
        _plain(value), default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False
    )
    # only what YAML itself adds: a value may begin or end with a no-break space
    return text.removesuffix("\n").removesuffix("\n...").strip(" \n")


def _plain(value: Any) -> Any:  # noqa: ANN401 — any YAML value
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
