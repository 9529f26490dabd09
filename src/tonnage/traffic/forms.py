"""A file in one of the forms in which people publish traffic -> the values of its columns.

Recognised by what it holds: tonnage's own CSV, Azure's CSV, BurstGPT's CSV, the JSON lines of
Mooncake (which AIPerf reads too), and the results of `vllm bench serve --save-detailed` and of
GuideLLM. Every value keeps the place it stands at, so that a mistake in it can be named.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from tonnage.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
_ROWS = 1 << 12  # read at once: as text they take ten times what their numbers do


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What one form of recording calls its columns, and how it means them.

    A `tabular` form has a line for each request, by arrival. `counts_from_start` says that its
    times are those of the load; otherwise they count from the first row. A request whose output is
    0 failed where `zero_is_failure`.
    """

    name: str
    arrival: str
    prompt: str
    output: str
    blocks: str = ""
    cached: str = ""
    arrival_s: Callable[[Any], float] = float  # raises ValueError or TypeError for what is no time
    tabular: bool = True
    counts_from_start: bool = False
    zero_is_failure: bool = False
    remedy: str = "Expected {}."

    @property
    def columns(self) -> tuple[str, str, str]:
        """The columns without which requests cannot be simulated."""
        return self.arrival, self.prompt, self.output


def _unix_s(value: str) -> float:
    moment = datetime.fromisoformat(value.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


OWN = Form(
    name="tonnage's CSV",
    arrival="arrival_s",
    prompt="input_tokens",
    output="output_tokens",
    blocks="prefix_hash_ids",
    cached="cached_tokens",
    counts_from_start=True,
)
_TABLES = (
    OWN,
    Form(
        name="Mooncake's JSON lines",
        arrival="timestamp",
        arrival_s=lambda value: float(value) / 1000,  # Mooncake counts milliseconds
        prompt="input_length",
        output="output_length",
        blocks="hash_ids",
    ),
    Form(
        name="Azure's CSV",
        arrival="TIMESTAMP",
        arrival_s=_unix_s,
        prompt="ContextTokens",
        output="GeneratedTokens",
    ),
    Form(
        name="BurstGPT's CSV",
        arrival="Timestamp",
        prompt="Request tokens",
        output="Response tokens",
        zero_is_failure=True,
    ),
)
_VLLM = Form(
    name="a result of vllm bench serve",
    arrival="start_times",
    prompt="input_lens",
    output="output_lens",
    tabular=False,
    zero_is_failure=True,
    remedy=(
        "Run the benchmark again with --save-result --save-detailed, in a vLLM recent enough to"
        " save {}."
    ),
)
_GUIDELLM = Form(
    name="a report of GuideLLM",
    arrival="request_start_time",
    prompt="prompt_tokens",
    output="output_tokens",
    tabular=False,
    remedy="Each request needs {}: run the benchmark again in a recent GuideLLM.",
)
FORMS_HINT = (
    "Expected "
    + ", or ".join(", ".join(form.columns) for form in _TABLES)
    + ", or the JSON file of vllm bench serve --save-detailed or of GuideLLM."
)


@dataclass(frozen=True, slots=True)
class Where:
    """A file, and where in it a column of a row stands: its line and its key."""

    path: Path
    at: Callable[[int, str], tuple[int | None, str]]

    def refuse(self, row: int, column: str, message: str, hint: str) -> InputError:
        """The mistake at that place."""
        line, key = self.at(row, column)
        return InputError(message, hint=hint, file=str(self.path), line=line, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some rows of a file: what `where` knows each by, and the values of each column."""

    form: Form
    where: Where
    row: Sequence[int]
    columns: Mapping[str, Sequence[Any]]
    notes: tuple[str, ...] = ()


def open_text(path: Path) -> TextIO:
    """The text of a file, unpacked where it is gzip."""
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == _GZIP_MAGIC
    except ValueError as error:  # a null byte in the name
        raise InputError(f"cannot be read: {error}.", file=str(path)) from None
    opener: Any = gzip.open if packed else open
    stream_of_text: TextIO = opener(path, "rt", encoding="utf-8-sig", newline="")
    return stream_of_text


def read_parts(stream: TextIO, path: Path) -> Iterable[Part]:
    """The rows of a file, in parts of one form, read as they are asked for.

    Raises InputError for what is no recording, and what `gzip` and the file itself raise.
    """
    return _document(stream, path) or _table(stream, path)


def _table(stream: TextIO, path: Path) -> Iterator[Part]:
    """CSV, or JSON lines where the first begins so, in parts of many rows."""
    is_json = stream.read(1) == "{"
    stream.seek(0)
    form = None
    where = Where(path, _at_line if is_json else partial(_at_row, path))
    for rows, columns in (_json_lines if is_json else _csv_rows)(stream, path):
        form = form or _recognise(list(columns), path)
        yield Part(form=form, where=where, row=rows, columns=columns)


_Rows = Iterator[tuple[Sequence[int], Mapping[str, Sequence[Any]]]]


def _csv_rows(stream: TextIO, path: Path) -> _Rows:
    reader = csv.reader(stream)
    try:
        header = [name.strip() for name in next(reader, [])]
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"{twice} is the name of two columns.",
                hint="Keep the one that is meant.",
                file=str(path),
                line=1,
            )
        rows = filter(None, reader)
        first = 0
        while part := list(islice(rows, _ROWS)):
            wrong = next((i for i, values in enumerate(part) if len(values) != len(header)), None)
            if wrong is not None:
                raise InputError(
                    f"has {len(part[wrong])} values for {len(header)} columns.",
                    hint="Give each row a value, or nothing between two commas, for each column.",
                    file=str(path),
                    line=_at_row(path, first + wrong, "")[0],
                )
            columns = dict(zip(header, zip(*part, strict=True), strict=True))
            yield range(first, first + len(part)), columns
            first += len(part)
    except csv.Error as error:
        raise InputError(f"is not CSV: {error}.", file=str(path), line=reader.line_num) from None


def _at_row(path: Path, row: int, column: str) -> tuple[int, str]:
    """The line of a CSV file in which a row stands: found by reading again what led up to it."""
    with open_text(path) as stream:
        reader = csv.reader(stream)
        next(reader)
        next(islice(filter(None, reader), row, None))
        return reader.line_num, column


def _at_line(line: int, column: str) -> tuple[int, str]:
    return line, column


def _json_lines(stream: TextIO, path: Path) -> _Rows:
    numbered = ((line, text) for line, text in enumerate(stream, start=1) if text.strip())
    names: dict[str, None] = {}
    while part := list(islice(numbered, _ROWS)):
        rows = []
        for line, text in part:
            row = _parsed(text)
            if not isinstance(row, dict):
                raise InputError(
                    "is not a JSON object on one line.",
                    hint="Write one request on each line.",
                    file=str(path),
                    line=line,
                )
            rows.append(row)
        names |= dict.fromkeys(chain.from_iterable(rows))
        yield [line for line, _ in part], {name: [row.get(name) for row in rows] for name in names}


def _parsed(text: str) -> object:
    """The value of a JSON text; None for what is none."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _recognise(names: Sequence[str], path: Path) -> Form:
    def shared(form: Form) -> int:
        return len({*form.columns}.intersection(names))

    form = max(_TABLES, key=shared)
    if not shared(form):
        raise InputError(
            f"has the columns {', '.join(names)}, which are none of a recording.",
            hint=FORMS_HINT,
            file=str(path),
            line=1,
        )
    return form


def _document(stream: TextIO, path: Path) -> list[Part]:
    """The requests of a benchmark's result; nothing where the file is a table."""
    if stream.read(1) != "{":
        stream.seek(0)
        return []
    stream.seek(0)
    first = stream.readline()
    document = _parsed(first)
    if document is None:  # laid out over many lines, or a table whose first row is wrong
        document = _parsed(first + stream.read())
    if not (isinstance(document, dict) and ("benchmarks" in document or "completed" in document)):
        stream.seek(0)
        return []
    if stream.read().strip():
        raise InputError(
            "holds several results.",
            hint="Each is a benchmark of its own: keep one, on one line.",
            file=str(path),
        )
    return [(_guidellm if "benchmarks" in document else _vllm)(document, path)]


def _vllm(document: Mapping[str, Any], path: Path) -> Part:
    columns = {name: document[name] for name in _VLLM.columns if name in document}
    lengths = {len(values) if isinstance(values, list) else -1 for values in columns.values()}
    if -1 in lengths or len(lengths) > 1:
        raise InputError(
            "must each be a list, with one entry for each request.",
            hint="Was the file changed?",
            file=str(path),
            key=", ".join(columns),
        )
    return Part(
        form=_VLLM,
        where=Where(path, lambda index, column: (None, f"{column}[{index}]")),
        row=range(max(lengths, default=0)),
        columns=columns,
    )


def _guidellm(document: Mapping[str, Any], path: Path) -> Part:
    """The requests that were answered in full, of every benchmark in the file."""
    records: list[Any] = []
    keys: list[str] = []
    failed = missing = 0
    for number, benchmark in enumerate(_list(document["benchmarks"])):
        found = _list(_inside(benchmark, "requests", "successful"))
        records += found
        keys += [f"benchmarks[{number}].requests.successful[{i}]" for i in range(len(found))]
        finished, errored, incomplete = (
            count if isinstance(count, int) else 0
            for count in (
                _inside(benchmark, "metrics", "request_totals", kind)
                for kind in ("successful", "errored", "incomplete")
            )
        )
        failed += errored + incomplete
        missing += max(finished - len(found), 0)
    columns = {name: [_inside(each, name) for each in records] for name in _GUIDELLM.columns}
    notes = []
    if failed:
        notes.append(left_out(failed, failed + missing + len(records)))
    if missing:
        notes.append(f"{missing:,} more requests were answered, and are not in the file")
    return Part(
        form=_GUIDELLM,
        where=Where(path, lambda index, column: (None, f"{keys[index]}.{column}")),
        row=range(len(records)),
        columns={
            name: values
            for name, values in columns.items()
            if not records or any(value is not None for value in values)
        },
        notes=tuple(notes),
    )


def left_out(failed: int, recorded: int) -> str:
    """The note that says how many of the recorded requests failed."""
    return f"{failed:,} of {recorded:,} recorded requests failed, and are left out"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _inside(value: object, *keys: str) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
