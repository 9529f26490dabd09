"""A dataset, in one of the forms people keep them -> its rows.

JSON, JSON lines, CSV, Parquet, ShareGPT and OpenAI messages, or a prompt on each line. The rules
are those of NeMo Agent Toolkit: of rows with one id the first is kept, a row without a question is
left out, a dataset that is too short is repeated whole.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

from tonnage.errors import InputError, MissingExtraError
from tonnage.files import load_text
from tonnage.measurement.load import Message

MAX_DATASET_BYTES = 2 * 10**9  # ShareGPT as published is 0.7 GB

_ASKING = {"user", "human"}
_SETTING = {"system", "developer"}
_STRING_OR_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[\]}])', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a dataset.

    `questions` are asked one after the other in one conversation, mostly a single one, after
    `history`: its system message. What the dataset answers in between is not kept, as the target
    answers for itself. `fields` is the row as it stands.
    """

    id: str
    questions: tuple[str, ...]
    history: tuple[Message, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The first question."""
        return self.questions[0]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row as it was read, with the place it stands at."""

    fields: Mapping[str, Any]
    file: str
    at: str = ""
    line: int | None = None

    def refuse(self, key: str, message: str, hint: str) -> InputError:
        """The mistake at `key` of this row."""
        place = f"{self.at}.{key}".strip(".")
        return InputError(message, hint=hint, file=self.file, line=self.line, key=place)


def load_dataset(path: Path, *, id_key: str = "id", text_key: str = "question") -> tuple[Row, ...]:
    """The rows of `path`; never none.

    A row asks what `text_key` holds, or else what the user says in its `messages` (OpenAI) or
    `conversations` (ShareGPT). Without a column `id_key` rows are numbered from 1. Raises
    InputError, or MissingExtraError for Parquet without pyarrow.
    """
    entries = list(_read(path, text_key))
    if not entries:
        raise InputError("holds no rows.", file=str(path))
    _refuse_columns(entries, text_key)
    numbered = not any(id_key in entry.fields for entry in entries)
    rows: dict[str, Row | None] = {}
    for number, entry in enumerate(entries, start=1):
        name = str(number) if numbered else _id(entry, id_key)
        if name not in rows:
            rows[name] = _row(entry, name, text_key)
    asked = tuple(row for row in rows.values() if row is not None)
    if not asked:
        raise InputError("asks nothing in any row.", file=str(path), key=text_key)
    return asked


def repeat_items(rows: Sequence[Row], count: int) -> tuple[Row, ...]:
    """`count` rows: the first of them, or all again and again with ids that end in _rep1, _rep2."""
    return tuple(repeated_item(rows, index) for index in range(count))


def repeated_item(rows: Sequence[Row], index: int) -> Row:
    """The row at `index` of all rows followed by their repetitions, without end."""
    repetition, index = divmod(index, len(rows))
    row = rows[index]
    return replace(row, id=f"{row.id}_rep{repetition}") if repetition else row


def _read(path: Path, text_key: str) -> Iterable[_Entry]:
    """Every row, by the ending of the file's name and, failing that, by what it holds."""
    ending = path.suffix.lower()
    if ending in {".parquet", ".pq"}:
        return _read_parquet(path)
    text = load_text(path, limit_bytes=MAX_DATASET_BYTES)
    if ending == ".txt":
        return [
            _Entry({text_key: line.strip()}, str(path), line=number)
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    if ending in {".jsonl", ".ndjson"}:
        return _read_lines(text, path)
    if ending == ".json" or text.lstrip()[:1] in {"[", "{"}:
        return _read_json(text, path)
    if ending == ".csv" or text_key in text.partition("\n")[0]:
        return _read_csv(text, path)
    raise InputError(
        "is no dataset.", hint="Expected .json, .jsonl, .csv, .parquet or .txt.", file=str(path)
    )


def _read_json(text: str, path: Path) -> Iterable[_Entry]:
    try:
        value = _parse_leniently(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object after the other
            return _read_lines(text, path)
        raise _not_json(path, error.lineno) from None
    except (ValueError, RecursionError):
        raise _not_json(path, None) from None
    if isinstance(value, dict):
        value = _from_columns(value, path)
    if not isinstance(value, list):
        raise _not_json(path, 1)
    for index, each in enumerate(value):
        if not isinstance(each, dict):
            raise InputError(
                "is not an object.",
                hint='Write each row as {"id": …, "question": …}.',
                file=str(path),
                key=f"[{index}]",
            )
    return [_Entry(each, str(path), f"[{index}]") for index, each in enumerate(value)]


def _parse_leniently(text: str) -> Any:  # noqa: ANN401 — any JSON value
    """JSON, also with a comma before a closing bracket, as NeMo's documented dataset has."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise
        return json.loads(_STRING_OR_TRAILING_COMMA.sub(lambda match: match[1] or " ", text))


def _from_columns(columns: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Rows of `{column: [value, …]}` or `{column: {index: value}}`, the two that pandas writes."""
    by_index = [
        dict(enumerate(column)) if isinstance(column, list) else column
        for column in columns.values()
    ]
    if not all(isinstance(column, dict) for column in by_index):
        raise InputError(
            "is one object, not a dataset.",
            hint="Write a list of objects, or one object with a list for each column.",
            file=str(path),
            line=1,
        )
    indices = dict.fromkeys(index for column in by_index for index in column)
    return [
        {
            name: column[index]
            for name, column in zip(columns, by_index, strict=True)
            if index in column
        }
        for index in indices
    ]


def _read_lines(text: str, path: Path) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise _not_json(path, number) from None
        if not isinstance(value, dict):
            raise InputError(
                "is not an object.",
                hint='Write each row as {"id": …, "question": …}.',
                file=str(path),
                line=number,
            )
        yield _Entry(value, str(path), line=number)


def _read_csv(text: str, path: Path) -> Iterator[_Entry]:
    limit = csv.field_size_limit(len(text) + 1)  # a long prompt is no mistake
    try:
        reader = csv.DictReader(StringIO(text, newline=""), strict=True)
        for values in reader:
            if None in values or None in values.values():
                raise InputError(
                    "has more or fewer values than there are columns.",
                    hint='Put a text that holds a comma or a line break in "double quotes".',
                    file=str(path),
                    line=reader.line_num,
                )
            yield _Entry(values, str(path), line=reader.line_num)
    except csv.Error as error:
        raise InputError(f"is not CSV: {error}.", file=str(path), line=reader.line_num) from None
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path) -> Iterable[_Entry]:
    try:
        import pyarrow as pa  # noqa: PLC0415 — optional, and heavy
        from pyarrow import parquet  # noqa: PLC0415 — as above
    except ImportError:
        raise MissingExtraError(
            "Reading Parquet needs the pyarrow package.",
            hint='pip install "tonnage[parquet]", or save the dataset as JSON lines.',
        ) from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except FileNotFoundError:
        raise InputError("does not exist.", file=str(path)) from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot be read as Parquet: {reason}", file=str(path)) from None
    return [_Entry(row, str(path), f"[{index}]") for index, row in enumerate(rows)]


def _refuse_columns(entries: Iterable[_Entry], text_key: str) -> None:
    """Raise InputError when no row has anything to ask."""
    names = dict.fromkeys(name for entry in entries for name in entry.fields)
    if not names.keys() & {text_key, "messages", "conversations"}:
        raise InputError(
            "is in no row.",
            hint=f"Name the column that holds the question: {', '.join(names)}.",
            file=next(iter(entries)).file,
            key=text_key,
        )


def _id(entry: _Entry, key: str) -> str:
    value = entry.fields.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as a column of integers with a gap comes out of a spreadsheet
    if not isinstance(value, str | int | float) or value == "":
        raise entry.refuse(key, "is missing.", "Give every row an id, or none.")
    return str(value)


def _row(entry: _Entry, name: str, text_key: str) -> Row | None:
    """The row of `entry`, or None when it asks nothing."""
    value = entry.fields.get(text_key)
    history: tuple[Message, ...] = ()
    if value is not None:
        questions = [_text(entry, text_key, value)]
    else:
        history, questions = _conversation(entry)
    asked = tuple(question for question in questions if question.strip())
    return Row(id=name, questions=asked, history=history, fields=entry.fields) if asked else None


def _conversation(entry: _Entry) -> tuple[tuple[Message, ...], list[str]]:
    """The system messages and the questions of a recorded conversation, if it is one."""
    history: list[Message] = []
    questions: list[str] = []
    for column, role_key, text_key in (
        ("messages", "role", "content"),
        ("conversations", "from", "value"),
    ):
        messages = entry.fields.get(column) or ()
        if not isinstance(messages, list | tuple):
            raise entry.refuse(column, "is not a list.", "Write a list of messages.")
        for index, message in enumerate(messages):
            place = f"{column}[{index}]"
            if not isinstance(message, dict) or not isinstance(message.get(role_key), str):
                hint = f'Write {{"{role_key}": …, "{text_key}": …}}.'
                raise entry.refuse(place, f"has no {role_key}.", hint)
            role = message[role_key].lower()
            if role in _ASKING:
                questions.append(_text(entry, f"{place}.{text_key}", message.get(text_key)))
            elif role in _SETTING and not questions:
                text = _text(entry, f"{place}.{text_key}", message.get(text_key))
                history.append(Message(role=role, content=text))
    return tuple(history), questions


def _text(entry: _Entry, key: str, value: object) -> str:
    """A text, a number, or the text parts of an OpenAI message."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in value
    ):
        return "\n".join(part["text"] for part in value)
    raise entry.refuse(key, "is not a text.", "Images and other parts are not sent.")


def _not_json(path: Path, line: int | None) -> InputError:
    return InputError(
        "is not JSON.",
        hint="Write a list of objects, or one object on each line (.jsonl).",
        file=str(path),
        line=line,
    )
