"""Another tool's result files -> one Run: recognised by what they hold, never by their name.

The vocabulary: a *document* is a parsed file, a *record* one line of a .jsonl. A file is offered to
every format of `FORMATS`; one that is none of them is refused with what was seen in it. Several
files become one Run when they are of one sweep: one tool, one model, a point for each file's level.

`requests` of an imported point are those that finished, the sample behind its statistics; `failed`
come on top of them. Nothing is carried over but what is named: no keys, headers or command lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path

from tonnage.errors import InputError, UsageError
from tonnage.measurement import Point, Run
from tonnage.measurement.importers import aiperf, guidellm, inference_perf, nemo, own, vllm
from tonnage.measurement.importers.reading import (
    Place,
    first_record,
    printable,
    read_documents,
    read_lines,
    refuse_huge,
)
from tonnage.measurement.run import RUN_FILE, first_difference

_SHOWN_KEYS = 8
_DEPTH = 3  # of folders in folders: trials of a sweep of levels


@dataclass(frozen=True, slots=True)
class Format:
    """A format of result files: how it is told from others, and what reads it."""

    name: str
    recognises: Callable[[Place], bool]
    read: Callable[[Place, str], Run]


SUMMARY = "AIPerf or GenAI-Perf summary"
RECORDS = "AIPerf records (.jsonl)"
FORMATS = (
    Format("tonnage run", own.recognises, lambda document, _: own.read(document)),
    Format("GuideLLM", guidellm.recognises, guidellm.read),
    Format(SUMMARY, aiperf.recognises, aiperf.read_summary),
    Format("vllm bench serve", vllm.recognises, vllm.read),
    Format("inference-perf", inference_perf.recognises, inference_perf.read),
    Format("NeMo calc_runner_output", nemo.recognises, nemo.read),
)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one file gave; `pooled`: the sum of other files."""

    path: Path
    format: str
    run: Run
    pooled: bool = False


def import_run(paths: Sequence[Path]) -> Run:
    """One Run of everything in `paths`, files or folders.

    Raises InputError for a file that cannot be read, is none of `FORMATS` or is of another sweep.
    """
    if not paths:
        raise UsageError("which files?", hint="For example tonnage import benchmarks.json.")
    parts = list(chain.from_iterable(map(_read, _distinct(paths))))
    run = _combine(_pair_records(_without_pooled(parts)))
    if len(paths) == 1 and paths[0].is_dir() and not (paths[0] / RUN_FILE).is_file():
        return replace(run, name=printable(paths[0].resolve().name))
    return run


def _distinct(paths: Iterable[Path]) -> list[Path]:
    """Each file once, however often and under whatever name it is given."""
    return list({path.resolve(): path for path in paths}.values())


def _read(path: Path) -> list[_Part]:
    """The parts of a file, or of what is recognised in a folder, else in the folders in it."""
    if not path.is_dir():
        parts = _read_file(path)
        if not parts:
            raise _unrecognised(path)
        return parts
    if (path / RUN_FILE).is_file():
        return _read_file(path / RUN_FILE) or _read(path / RUN_FILE)
    for depth in range(_DEPTH + 1):
        files = sorted(
            file
            for ending in (".json", ".jsonl")
            for file in path.glob(f"{'*/' * depth}*{ending}")
            if file.is_file()
        )
        parts = list(chain.from_iterable(map(_read_file, files)))
        if parts:
            return parts
    raise InputError(
        "holds no result that is recognised.",
        hint=f"Looked for {_tried()} in its .json and .jsonl files.",
        file=str(path),
    )


def _read_file(path: Path) -> list[_Part]:
    """The runs of one file; none when it is in no format known here."""
    refuse_huge(path)
    name = printable(path.resolve().parent.name if path.name == RUN_FILE else path.stem)
    first = first_record(path)
    if first is not None and aiperf.recognises_record(first):
        return [_Part(path, RECORDS, aiperf.read_records(read_lines(path), name))]
    parts = []
    for document in read_documents(path):
        found = _format_of(document)
        if found is None:
            return []
        pooled = found.name == inference_perf.TOOL and not inference_perf.is_stage(document)
        parts.append(_Part(path, found.name, found.read(document, name), pooled))
    return parts


def _format_of(document: Place) -> Format | None:
    """The format of `document`; None for none. A wrong type where a format looks is no match."""
    for each in FORMATS:
        try:
            if each.recognises(document):
                return each
        except InputError:
            continue
    return None


def _without_pooled(parts: list[_Part]) -> list[_Part]:
    """Without the sums of stages that are there themselves."""
    staged = any(part.format == inference_perf.TOOL and not part.pooled for part in parts)
    return [part for part in parts if not (staged and part.pooled)]


def _pair_records(parts: list[_Part]) -> list[_Part]:
    """The parts, AIPerf's records put to the summary that lies in the same folder."""
    paired = []
    for part in parts:
        beside = [
            other
            for other in parts
            if {part.format, other.format} <= {SUMMARY, RECORDS}
            and other.path.resolve().parent == part.path.resolve().parent
        ]
        records = [other for other in beside if other.format == RECORDS]
        summaries = [other for other in beside if other.format == SUMMARY]
        if not records or not summaries:
            paired.append(part)
        elif len(records) > 1 or len(summaries) > 1:
            raise InputError(
                "lies with other results of AIPerf: which records belong to which summary?",
                hint="Give each level its own folder.",
                file=str(part.path),
            )
        elif part.format == SUMMARY:
            paired.append(replace(part, run=aiperf.merge(part.run, records[0].run)))
    return paired


def _combine(parts: Sequence[_Part]) -> Run:
    """One Run of the points of all, in the order of their load."""
    runs = [part.run for part in parts]
    first = runs[0]
    if differs := first_difference(runs, ("tool", "model", "gpu", "gpus")):
        index, noun, found, before = differs
        raise InputError(
            f"is of another system: {noun} is {found}, of the files before {before}.",
            hint="Import each system by itself.",
            file=str(parts[index].path),
        )
    points = tuple(sorted(chain.from_iterable(run.points for run in runs), key=attrgetter("load")))
    return replace(
        first,
        model=_first(run.model for run in runs),
        target=_first(run.target for run in runs),
        gpu=_first(run.gpu for run in runs),
        gpus=next((run.gpus for run in runs if run.gpus is not None), None),
        tool_version=_joined(run.tool_version for run in runs),
        created=min((run.created for run in runs if run.created), default=None),
        points=points,
        facts={
            key: _joined(run.facts.get(key) for run in runs) or ""
            for key in dict.fromkeys(chain.from_iterable(run.facts for run in runs))
        },
        notes=(*dict.fromkeys(chain.from_iterable(run.notes for run in runs)), *_repeated(points)),
    )


def _repeated(points: Sequence[Point]) -> list[str]:
    """A note for each level that was measured more than once."""
    levels = [point.concurrency for point in points if point.concurrency is not None]
    return [
        f"concurrency {level} was measured {levels.count(level)} times"
        for level in dict.fromkeys(levels)
        if levels.count(level) > 1
    ]


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value is not None), None)


def _joined(values: Iterable[str | None]) -> str | None:
    return ", ".join(dict.fromkeys(value for value in values if value is not None)) or None


def _unrecognised(path: Path) -> InputError:
    document = read_documents(path)[0]
    if isinstance(document.value, dict):
        keys = list(document.value)
        shown = ", ".join(printable(key) for key in keys[:_SHOWN_KEYS])
        seen = f"It has the keys {shown}{', …' if len(keys) > _SHOWN_KEYS else ''}."
        if not keys:
            seen = "It is an empty object."
        if "experiments" in keys:
            seen += " It looks like Perf Analyzer's raw profile: give GenAI-Perf's own export."
        if "aggregation_type" in keys or {"aiperf_version", "metrics"} <= document.value.keys():
            seen += " It looks like AIPerf's aggregate of runs: give the folder of them all."
    else:
        kind = {list: "list", str: "text", type(None): "null"}.get(type(document.value), "number")
        seen = f"It holds a {kind}, not an object."
    return InputError(
        "is no result that is recognised.", hint=f"{seen} Tried: {_tried()}.", file=str(path)
    )


def _tried() -> str:
    return ", ".join((*(each.name for each in FORMATS), RECORDS))
