"""A document of well-formed values -> what contradicts itself or is missing in it.

Rules about what is there look at the plain values, so that a value that cannot be read still
counts as given; rules about how much look at the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tonnage.dtypes import DTYPES, KV_DTYPES
from tonnage.study.document import (
    LOAD_FORMS,
    OPTIONAL_SECTIONS,
    PEAK_DERIVED_FORMS,
    PER_DAY_FORMS,
    AnswerSection,
    Document,
    Key,
    LengthSection,
    PromptSection,
    Section,
)
from tonnage.study.lengths import ImpossibleLengthError, Reckoner
from tonnage.study.mistakes import MIG_IN_A_NAME, Finding, did_you_mean, value_at

LATENCIES = ("ttft", "wait", "tpot", "tokens_per_second", "e2e")


def without_empty_sections(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without sections whose every key is commented out."""
    return {
        key: value
        for key, value in tree.items()
        if value is not None or key not in OPTIONAL_SECTIONS
    }


def find_empty(tree: object, key: Key = ()) -> Iterator[Finding]:
    """Keys with nothing behind them."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            if value is None:
                none = ' Write "none" for no peak.' if (*key, name) == ("workload", "peak") else ""
                hint = f"Remove the key or give it a value.{none}"
                yield Finding((*key, str(name)), "has no value.", hint)
            else:
                yield from find_empty(value, (*key, str(name)))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            if value is None:
                yield Finding((*key, index), "has no value.", "Remove it or give it a value.")
            else:
                yield from find_empty(value, (*key, index))


def find_contradictions(tree: Mapping[str, Any]) -> Iterator[Finding]:
    """What is there and may not be, or is not there and must be."""
    given = _keys(tree, "workload")
    promised = _keys(tree, "promises")
    yield from _model(tree)
    yield from _load(given, promised)
    yield from _promises(given, promised, value_at(tree, ("promises", "mode")))
    yield from _batch(value_at(tree, ("workload", "batch")), promised)
    for one, other in (("ttft", "wait"), ("tpot", "tokens_per_second")):
        if {one, other} <= promised:
            yield Finding(
                ("promises", other), f"says the same as promises.{one}.", "Keep one of the two."
            )
    peak = value_at(tree, ("workload", "peak"))
    if isinstance(peak, Mapping) and len(peak) != 1:
        yield Finding(
            ("workload", "peak"), "must hold one of poisson_percentile, factor.", 'Or write "none".'
        )
    daily = value_at(tree, ("workload", "tokens_per_day"))
    if isinstance(daily, Mapping) and ("total" in daily) == bool(
        daily.keys() & {"input", "output"}
    ):
        yield Finding(("workload", "tokens_per_day"), "must hold input and output, or one total.")
    existing = value_at(tree, ("existing",))
    if isinstance(existing, Mapping) and ("server" in existing) == ("gpu" in existing):
        yield Finding(("existing",), "must name a server or a gpu, and not both.")
    sized_by = {"context", "prompt", "answer", "calls", *LOAD_FORMS}
    if "sessions" in given and not given & sized_by:
        yield Finding(
            ("workload", "context"),
            "is missing: how long is the context each session holds?",
            'For example "131072 tokens" or "8 k tokens".',
        )


def find_impossible(document: Document, reckoner: Reckoner) -> Iterator[Finding]:
    """Values that are well formed and cannot be."""
    workload = document.workload
    rate, peak = workload.request_rate, workload.peak_request_rate
    if rate is not None and peak is not None and peak < rate:
        yield Finding(
            ("workload", "peak_request_rate"), "is below workload.request_rate, the mean."
        )
    yield from _lengths(document, reckoner)
    for index, name in enumerate(document.hardware.gpus or ()):
        if ":" in name:
            yield Finding(("hardware", "gpus", index), *MIG_IN_A_NAME)
    if (
        document.hardware.gpus
        and "all" in document.hardware.gpus
        and len(document.hardware.gpus) > 1
    ):
        yield Finding(("hardware", "gpus"), 'names GPUs beside "all".', "Keep one of the two.")
    for field, known in (("weight_dtype", tuple(DTYPES)), ("kv_dtype", KV_DTYPES)):
        for index, name in enumerate(getattr(document.engine, field) or ()):
            if name not in (*known, "native"):
                yield Finding(
                    ("engine", field, index),
                    f'"{name}" is not a number format here.',
                    did_you_mean(name, (*known, "native")),
                )


def _keys(tree: Mapping[str, Any], section: str) -> set[str]:
    value = tree.get(section)
    return set(map(str, value)) if isinstance(value, Mapping) else set()


def _model(tree: Mapping[str, Any]) -> Iterator[Finding]:
    calls = value_at(tree, ("workload", "calls"))
    listed = calls if isinstance(calls, list | tuple) else [calls] if calls is not None else []
    named = [isinstance(call, Mapping) and "model" in call for call in listed]
    if "model" not in tree and not (named and all(named)):
        yield Finding(
            ("model",),
            "is missing: which model is served?",
            "Give a catalog name, a hub id, or a path to a config.json.",
        )


def _load(given: set[str], promised: set[str]) -> Iterator[Finding]:
    forms = [form for form in LOAD_FORMS if form in given]
    together = {"request_rate", "peak_request_rate"}
    if not forms and "sessions" not in given and "throughput" not in promised:
        yield Finding(
            ("workload",),
            "does not say how much is asked.",
            f"Give one of {', '.join(LOAD_FORMS)}; or sessions, to size memory alone.",
        )
    if len(forms) > 1 and set(forms) != together:
        for form in forms[1:]:
            yield Finding(
                ("workload", form),
                f"states the load a second time, beside workload.{forms[0]}.",
                "Keep one of them.",
            )
    if "peak" in given and not (set(forms) <= set(PEAK_DERIVED_FORMS) and forms):
        reason = {
            "peak_request_rate": "is the peak already, and is not inflated again",
            "concurrency": "is a fixed number of requests and has no peak beyond it",
            "clients": "is a fixed number of clients and has no peak beyond it",
            "batch": "has a deadline and no peak",
        }.get(forms[-1] if forms else "", "is not given: there is no load to have a peak")
        subject = f"workload.{forms[-1]}" if forms else "a load"
        yield Finding(("workload", "peak"), f"does not apply: {subject} {reason}.", "Remove it.")
    if "active_hours" in given and forms and not set(forms) & set(PER_DAY_FORMS):
        yield Finding(
            ("workload", "active_hours"),
            f"does not apply: workload.{forms[0]} is not per day.",
            "Remove it.",
        )


def _batch(batch: object, promised: set[str]) -> Iterator[Finding]:
    if not isinstance(batch, Mapping):
        return
    if "deadline" in batch and "requests" not in batch:
        yield Finding(
            ("workload", "batch", "requests"),
            "is missing: how much must be done by the deadline?",
            "For example 1 M.",
        )
    if "deadline" not in batch and "throughput" not in promised:
        yield Finding(
            ("workload", "batch", "deadline"),
            "is missing: by when must it be done?",
            'For example "8 h", or promise a throughput of "12,000 tokens/s".',
        )


def _promises(given: set[str], promised: set[str], mode: object) -> Iterator[Finding]:
    latencies = [name for name in LATENCIES if name in promised]
    offline = "batch" in given
    if "throughput" in promised and not offline and given & set(LOAD_FORMS):
        yield Finding(
            ("promises", "throughput"),
            "is promised of offline work: output tokens per second of the whole fleet.",
            "Leave the load out, or promise tokens_per_second of each answer.",
        )
    no_load = "sessions" in given and not given & set(LOAD_FORMS)
    if mode == "offline" and not offline and given & set(LOAD_FORMS):
        yield Finding(
            ("promises", "mode"),
            "is offline, which means work with a deadline.",
            'Give workload.batch, for example {requests: 1 M, deadline: "8 h"}.',
        )
    if offline and mode in {"streaming", "sequential"}:
        yield Finding(("promises", "mode"), f"is {mode}, but workload.batch is offline work.")
    for name in latencies:
        if offline or mode == "offline":
            yield Finding(
                ("promises", name),
                "does not apply: offline work has a deadline or a throughput.",
                "Remove it.",
            )
        elif no_load:
            yield Finding(
                ("promises", name),
                "does not apply: sessions alone are sized by memory.",
                "Say how much is asked, for example workload.request_rate, or remove it.",
            )
        elif mode == "sequential" and name != "e2e":
            yield Finding(
                ("promises", name),
                "does not apply: in sequential mode people wait for the whole answer.",
                "Promise e2e, or set promises.mode to streaming.",
            )
    if mode == "sequential" and "e2e" not in promised and not no_load:
        yield Finding(
            ("promises", "e2e"),
            "is missing: sequential mode promises the whole answer.",
            'For example {p95: "12 s"}.',
        )


def _lengths(document: Document, reckoner: Reckoner) -> Iterator[Finding]:
    workload = document.workload
    places: list[tuple[Key, Section | None]] = [
        (("workload", "prompt"), workload.prompt),
        (("workload", "answer"), workload.answer),
    ]
    for index, call in enumerate(workload.calls or ()):
        places.append((("workload", "calls", index, "prompt"), call.prompt))
        places.append((("workload", "calls", index, "answer"), call.answer))
    for key, section in places:
        if not isinstance(section, LengthSection):
            continue
        try:
            if isinstance(section, PromptSection):
                reckoner.prompt(section)
            elif isinstance(section, AnswerSection):
                reckoner.answer(section)
        except ImpossibleLengthError as error:
            below = tuple(part for part in error.field.split(".") if part)
            yield Finding((*key, *below), error.message, error.hint)
