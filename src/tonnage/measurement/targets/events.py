"""Events of a NeMo Agent Toolkit workflow -> its LLM calls, its runtime, whether a call failed.

The toolkit tells what a workflow does as events, each with a type, a time and the id of what it is
about. A call is a start and an end of one id, however many calls overlap. A failed call has no
event of its own: it is a start without an end. Some workflows catch the error and answer with an
apology; that is why an item with such a call is a failed item, whatever it answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tonnage.measurement.load import LlmCall

BOUND = 2**53  # of numbers somebody else states: below it a float holds every whole one
# what is read of an event; anything else in it may be large (whole conversations)
READ = {
    "event_type": True,
    "event_timestamp": True,
    "UUID": True,
    "name": True,
    "data": {"chunk"},
    "usage_info": {"token_usage"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event; `has_text` says of a new token that it is not empty."""

    kind: str
    id: str
    unix_s: float
    name: str | None = None
    has_text: bool = False
    prompt_tokens: int | None = None
    output_tokens: int | None = None


def event_of(payload: Any) -> Event:  # noqa: ANN401 — whatever JSON holds
    """An event from the fields of `READ`, as JSON has them; ValueError when it is not one."""
    match payload:
        case {
            "event_type": str(kind),
            "UUID": str(id_),
            "event_timestamp": int() | float() as at,
        } if 0 <= at < BOUND:  # neither NaN nor infinite
            name = payload.get("name")
            usage = _mapping(_mapping(payload, "usage_info"), "token_usage")
            return Event(
                kind=kind,
                id=id_,
                unix_s=float(at),
                name=name if isinstance(name, str) and name else None,
                has_text=bool(_mapping(payload, "data").get("chunk")),
                # the toolkit's zero is "not known": no call has an empty prompt and answer
                prompt_tokens=whole_number(usage.get("prompt_tokens")) or None,
                output_tokens=whole_number(usage.get("completion_tokens")) or None,
            )
        case _:
            raise ValueError("an event without event_type, UUID or a possible event_timestamp")


def whole_number(value: object) -> int | None:
    """`value`, a count that somebody else states; None for what cannot be one."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < BOUND:
        return value
    return None


def calls_of(events: Sequence[Event]) -> tuple[LlmCall, ...]:
    """Every LLM call, by the time it started, paired by id in whatever order events came."""
    starts = {event.id: event for event in events if event.kind == "LLM_START"}
    ends = {event.id: event for event in events if event.kind == "LLM_END"}
    first_text_s: dict[str, float] = {}
    for event in events:
        if event.kind == "LLM_NEW_TOKEN" and event.has_text:
            first_text_s[event.id] = min(event.unix_s, first_text_s.get(event.id, event.unix_s))
    calls = []
    for start in starts.values():
        end = ends.get(start.id)
        first_s = first_text_s.get(start.id)
        calls.append(
            LlmCall(
                id=start.id,
                started_unix_s=start.unix_s,
                ended_unix_s=end.unix_s if end else max(event.unix_s for event in events),
                model=end.name if end and end.name else start.name,
                ttft_s=None if first_s is None else first_s - start.unix_s,
                prompt_tokens=end.prompt_tokens if end else None,
                output_tokens=end.output_tokens if end else None,
                failure=None if end else "workflow",
            )
        )
    return tuple(sorted(calls, key=lambda call: call.started_unix_s))


def runtime_s_of(events: Iterable[Event]) -> float | None:
    """From the first event to the last, by the clock of whoever ran the workflow."""
    times_s = [event.unix_s for event in events]
    return max(times_s) - min(times_s) if times_s else None


def describe_failed(calls: Sequence[LlmCall]) -> str:
    """What to say of an item's failed LLM calls, "" when none failed.

    A call that was given up by the workflow itself ("stopped") did not fail.
    """
    failed = [call.failure for call in calls if call.failure not in {None, "stopped"}]
    if not failed:
        return ""
    kinds = ", ".join(sorted({str(failure) for failure in failed} - {"workflow"}))
    return (
        f"{len(failed)} of {len(calls)} LLM calls of the workflow failed{kinds and f' ({kinds})'}"
    )


def _mapping(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = holder.get(key)
    return value if isinstance(value, Mapping) else {}
