"""A Capacity -> a Report: what a given fleet carries with every promise kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from tonnage import units
from tonnage.fleet import Capacity, CapacityAlternative
from tonnage.report import (
    Block,
    Cell,
    Column,
    Commands,
    Headline,
    Prose,
    Report,
    Section,
    Table,
)
from tonnage.report.detail import derivations_section
from tonnage.report.figures import format_figure, plural, promise_words
from tonnage.report.grounds import latency_table
from tonnage.report.json import (
    SCHEMA_VERSION,
    Json,
    latency_data,
    memory_data,
    rationale_data,
    with_explanations,
)
from tonnage.report.reasons import LONG_COMMAND, alerts_section


def report_capacity(capacity: Capacity, *, command: str = "tonnage capacity") -> Report:
    """The report of `capacity`; `command` is what was typed, to suggest the next one."""
    sections = (
        _carries(capacity),
        _latency(capacity),
        _alternatives(capacity),
        alerts_section(capacity.alerts),
        derivations_section(capacity.rationale),
    )
    return Report(
        title=" · ".join(part for part in (capacity.name, capacity.fleet) if part),
        subtitle=_promised(capacity),
        headline=_headline(capacity),
        sections=(*(section for section in sections if section is not None), _next(command)),
        data=capacity_data(capacity),
    )


def _promised(capacity: Capacity) -> tuple[str, ...]:
    words = ", ".join(promise_words(promise) for promise in capacity.promises)
    return (f"With these promises kept: {words}",) if words else ()


def _headline(capacity: Capacity) -> Headline:
    if not capacity.starts:
        return Headline(label="It will not start", answer=capacity.reason, tone="bad")
    arranged = (
        f"{capacity.replicas} × {capacity.deployment.describe()}"
        f", KV cache {capacity.deployment.kv_dtype}"
        if capacity.deployment
        else plural(capacity.replicas, "replica")
    )
    facts = [f"{plural(capacity.gpus, 'GPU')} as {arranged}"]
    if capacity.requests_per_s is not None:
        answer = f"{format_figure(capacity.requests_per_s, 'requests/s')} at peak"
        if capacity.requests_per_s_mean is not None:
            mean = format_figure(capacity.requests_per_s_mean, "requests/s")
            facts.insert(0, f"{mean} on average")
    elif capacity.sessions is not None:
        answer = plural(capacity.sessions, "session")
    else:
        answer = "it starts"
    notes = [f"What stops it: {capacity.binding}"] if capacity.binding else []
    if capacity.reason:
        notes.append(capacity.reason)
    if capacity.latency is not None:
        notes.append(f"Evidence: {capacity.latency.evidence.label}")
    return Headline(label="It carries", answer=answer, facts=tuple(facts), notes=tuple(notes))


def _carries(capacity: Capacity) -> Section | None:
    if not capacity.starts:
        return None
    day = units.format_time(capacity.active_s_per_day) if capacity.active_s_per_day else "a day"
    per_user = units.format_number(capacity.requests_per_user_per_day)
    rows: list[tuple[str, float | None, str, str]] = [
        ("peak rate", capacity.requests_per_s, "requests/s", "the most that keeps every promise"),
        (
            "mean rate",
            capacity.requests_per_s_mean,
            "requests/s",
            "whose Poisson peak is that rate",
        ),
        ("output", capacity.output_tokens_per_s, "tokens/s", "over all replicas, at the peak rate"),
        ("concurrency", capacity.concurrency, "", "requests in flight at the peak rate"),
        ("requests of a day", capacity.daily_requests, "", f"that peak rate kept up for {day}"),
        ("users of a day", capacity.daily_users, "", f"at {per_user} requests per person and day"),
        ("sessions", capacity.sessions, "", "contexts resident in GPU memory at once"),
        (
            "largest context",
            capacity.largest_context_tokens,
            "tokens",
            "one request, alone on a replica",
        ),
        ("largest batch", capacity.largest_batch, "requests", "running at once on one replica"),
    ]
    table = Table(
        columns=(Column("what"), Column("at most", "right"), Column("which is", prose=True)),
        rows=tuple(
            (Cell(what), Cell(format_figure(value, unit), "strong", value), Cell(which, "quiet"))
            for what, value, unit, which in rows
            if value is not None
        ),
    )
    return Section(id="carries", title="What it carries", blocks=(table,))


def _latency(capacity: Capacity) -> Section | None:
    if capacity.latency is None:
        return None
    told = f"All replicas up, each {units.format_fraction(capacity.latency.utilisation)} busy."
    blocks: tuple[Block, ...] = (
        latency_table(capacity.latency, capacity.promises),
        Prose(told, "quiet"),
    )
    return Section(id="latency", title="Latency at that load", blocks=blocks)


def _alternatives(capacity: Capacity) -> Section | None:
    if not capacity.alternatives:
        return None
    table = Table(
        columns=(
            Column("arrangement"),
            Column("requests/s", "right"),
            Column("tokens/s", "right"),
            Column("sessions", "right"),
            Column("largest context", "right"),
            Column("", prose=True),
        ),
        rows=tuple(map(_alternative_row, capacity.alternatives)),
    )
    return Section(id="alternatives", title="Arranged otherwise", blocks=(table,))


def _alternative_row(each: CapacityAlternative) -> tuple[Cell, ...]:
    return (
        Cell(f"{each.replicas} × {each.deployment.describe()}"),
        Cell(units.format_number(each.requests_per_s), "", each.requests_per_s),
        Cell(units.format_number(each.output_tokens_per_s), "", each.output_tokens_per_s),
        Cell(units.format_number(each.sessions), "", each.sessions),
        Cell(format_figure(each.largest_context_tokens, "tokens"), "", each.largest_context_tokens),
        Cell(each.reason if each.starts else f"will not start: {each.reason}", "quiet"),
    )


def _next(command: str) -> Section:
    again = command if len(command) <= LONG_COMMAND else "tonnage capacity (the same)"
    rows = ((f"{again} -o capacity.json", "the same answer for a program"),)
    return Section(id="next", title="Next", blocks=(Commands(rows),))


def capacity_data(capacity: Capacity) -> Json:
    """The whole answer, ready for `json.dumps`."""
    data: Json = {
        "schema_version": SCHEMA_VERSION,
        "name": capacity.name,
        "fleet": capacity.fleet,
        "starts": capacity.starts,
        "reason": capacity.reason,
        "arrangement": capacity.deployment.describe() if capacity.deployment else None,
        "gpu": capacity.deployment.gpu.name if capacity.deployment else None,
        "tensor_parallel": capacity.deployment.tensor_parallel if capacity.deployment else None,
        "pipeline_parallel": capacity.deployment.pipeline_parallel if capacity.deployment else None,
        "replicas": capacity.replicas,
        "gpus": capacity.gpus,
        "servers": capacity.servers,
        "requests_per_s": capacity.requests_per_s,
        "requests_per_s_mean": capacity.requests_per_s_mean,
        "output_tokens_per_s": capacity.output_tokens_per_s,
        "concurrency": capacity.concurrency,
        "sessions": capacity.sessions,
        "daily_requests": capacity.daily_requests,
        "daily_users": capacity.daily_users,
        "requests_per_user_per_day": capacity.requests_per_user_per_day,
        "active_s_per_day": capacity.active_s_per_day,
        "largest_context_tokens": capacity.largest_context_tokens,
        "largest_batch": capacity.largest_batch,
        "binding": capacity.binding,
        "latency": latency_data(capacity.latency),
        "memory": memory_data(capacity.memory) if capacity.memory else None,
        "promises": [
            {"metric": each.metric, "percentile": each.percentile, "limit_s": each.limit_s}
            for each in capacity.promises
        ],
        "rationale": rationale_data(capacity.rationale),
        "alternatives": _alternatives_data(capacity.alternatives),
        "alerts": [asdict(each) for each in capacity.alerts],
    }
    return with_explanations(data, {})


def _alternatives_data(alternatives: Sequence[CapacityAlternative]) -> list[Json]:
    return [
        {
            "arrangement": each.deployment.describe(),
            "tensor_parallel": each.deployment.tensor_parallel,
            "replicas": each.replicas,
            "gpus": each.gpus,
            "starts": each.starts,
            "reason": each.reason,
            "requests_per_s": each.requests_per_s,
            "output_tokens_per_s": each.output_tokens_per_s,
            "sessions": each.sessions,
            "largest_context_tokens": each.largest_context_tokens,
        }
        for each in alternatives
    ]
