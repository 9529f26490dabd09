"""A recording of real traffic, in one of the forms people publish -> its requests in order.

Recognised by its columns, plain or gzip: tonnage's own CSV, Azure's published CSV, and the JSON
lines of Mooncake, which AIPerf reads too.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from tonnage.errors import InputError
from tonnage.traffic import TracedRequest

BLOCK_TOKENS = 512  # of one prefix block, in Mooncake's published traces and in ours
MAX_TOKENS = 10**8  # of one request; more is a mistake, such as a time in the wrong column
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """What a form of recording calls its columns; output and prefix blocks may be missing."""

    arrival: str
    arrival_s: Callable[[Any], float]  # raises ValueError or TypeError for what is no time
    prompt: str
    output: str
    blocks: str | None = None

    def recognise(self, names: Mapping[str, Any]) -> bool:
        """Whether a row with these columns is of this form."""
        return self.arrival in names and self.prompt in names


def _unix_s(value: str) -> float:
    moment = datetime.fromisoformat(value.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


_FORMS = (
    _Columns(
        arrival="arrival_s",
        arrival_s=float,
        prompt="input_tokens",
        output="output_tokens",
        blocks="prefix_hash_ids",
    ),
    _Columns(
        arrival="timestamp",
        arrival_s=lambda value: float(value) / 1000,  # Mooncake counts milliseconds
        prompt="input_length",
        output="output_length",
        blocks="hash_ids",
    ),
    _Columns(
        arrival="TIMESTAMP",
        arrival_s=_unix_s,
        prompt="ContextTokens",
        output="GeneratedTokens",
    ),
)
_FORMS_HINT = "Expected " + ", or ".join(
    f"{form.arrival}, {form.prompt}, {form.output}" for form in _FORMS
)


def load_trace(path: Path) -> tuple[TracedRequest, ...]:
    """The requests of `path` by arrival, the first at 0.

    Rows may stand in any order: many servers log a request when it ends. Raises InputError.
    """
    requests: list[TracedRequest] = []
    try:
        with _open_text(path) as stream:
            form = None
            for line, row in _rows(stream, path):
                form = form or _recognise(row, path, line)
                requests.append(_request(_Row(row, path, line), form))
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError("is damaged gzip.", hint="Copy it again.", file=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text.", file=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}.", file=str(path)) from None
    if not requests:
        raise InputError("holds no requests.", hint=f"{_FORMS_HINT}.", file=str(path))
    requests.sort(key=lambda request: request.arrival_s)
    first_s = requests[0].arrival_s
    return tuple(replace(each, arrival_s=each.arrival_s - first_s) for each in requests)


def _open_text(path: Path) -> TextIO:
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP_MAGIC
    opener: Any = gzip.open if packed else open
    stream_of_text: TextIO = opener(path, "rt", encoding="utf-8-sig", newline="")
    return stream_of_text


def _rows(stream: TextIO, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each row by column, with its line: JSON lines where the first begins so, else CSV."""
    is_json = stream.read(1) == "{"
    stream.seek(0)
    if is_json:
        for line, text in enumerate(stream, start=1):
            if text.strip():
                yield line, _parse_object(text, path, line)
        return
    reader = csv.reader(stream)
    try:
        header = [name.strip() for name in next(reader, [])]
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise InputError(
                    f"has {len(values)} values for {len(header)} columns.",
                    hint="Give each row a value, or nothing between two commas, for each column.",
                    file=str(path),
                    line=reader.line_num,
                )
            yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise InputError(f"is not CSV: {error}.", file=str(path), line=reader.line_num) from None


def _parse_object(text: str, path: Path, line: int) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(
            "is not a JSON object on one line.",
            hint="Write one request on each line.",
            file=str(path),
            line=line,
        )
    return value


def _recognise(row: Mapping[str, Any], path: Path, line: int) -> _Columns:
    for form in _FORMS:
        if form.recognise(row):
            return form
    raise InputError(
        f"has the columns {', '.join(row)}, which are none of a recording.",
        hint=f"{_FORMS_HINT}.",
        file=str(path),
        line=line,
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """The values of one row, with the place they stand at."""

    values: Mapping[str, Any]
    path: Path
    line: int

    def refuse(self, key: str, message: str, hint: str) -> InputError:
        """The mistake at `key` of this row."""
        return InputError(message, hint=hint, file=str(self.path), line=self.line, key=key)

    def tokens(self, key: str) -> int | None:
        """A number of tokens; None where nothing is recorded."""
        value = self.values.get(key)
        if value is None or value == "":
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, bool) or not (0 <= number <= MAX_TOKENS and number == int(number)):
            raise self.refuse(
                key,
                f"is {str(value)[:40]!r}.",
                f"It must be a whole number of tokens up to {MAX_TOKENS:,}.",
            )
        return int(number)

    def blocks(self, key: str) -> tuple[int, ...]:
        """Ids of blocks: a list, or in CSV a text with spaces between them."""
        value = self.values.get(key) or ()
        try:
            parts = value.split() if isinstance(value, str) else list(value)
            return tuple(int(part) for part in parts)
        except (TypeError, ValueError, OverflowError):
            raise self.refuse(
                key, f"is {str(value)[:40]!r}.", "It must hold whole numbers, one for each block."
            ) from None


def _request(row: _Row, form: _Columns) -> TracedRequest:
    value = row.values.get(form.arrival)
    try:
        arrival_s = form.arrival_s(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        arrival_s = math.nan
    if not math.isfinite(arrival_s):
        raise row.refuse(
            form.arrival,
            f"is {str(value)[:40]!r}, which is no time.",
            "Give every request the time it arrived.",
        )
    return TracedRequest(
        arrival_s=arrival_s,
        prompt_tokens=row.tokens(form.prompt),
        output_tokens=row.tokens(form.output),
        prefix_blocks=row.blocks(form.blocks) if form.blocks else (),
    )
