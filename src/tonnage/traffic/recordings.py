"""A file of recorded traffic -> a Recording: its requests as columns of numbers, by arrival.

Values that are none, times that are none and times that go back are refused with the place they
stand at. Lengths that were not recorded are kept as such: who needs them refuses them.
"""

from __future__ import annotations

import gzip
import math
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tonnage.errors import InputError
from tonnage.traffic import MAX_TOKENS
from tonnage.traffic.forms import FORMS_HINT, Form, Part, Where, left_out, open_text, read_parts

NOT_RECORDED = -1  # in a column of tokens

_MAX_S = 1e11  # three thousand years: no time a clock shows
_NO_NUMBER = (ValueError, TypeError, OverflowError, AttributeError)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """The requests of a file as columns of one length, by arrival.

    `row` is what `where` knows each by. Lengths are whole numbers, or NOT_RECORDED. `block_ids`
    holds the prefix blocks of all, one after the other, `block_count` how many each has. `notes`
    say what was left out.
    """

    form: Form
    where: Where
    row: NDArray[np.int64]
    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    cached_tokens: NDArray[np.int64]
    block_ids: NDArray[np.int64]
    block_count: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def refuse(self, index: int, column: str, message: str, hint: str) -> InputError:
        """The mistake of one request in one column."""
        return self.where.refuse(int(self.row[index]), column, message, hint)


def read_recording(path: Path, *, output_needed: bool) -> Recording:
    """The requests of `path`; with `output_needed` a file without output lengths is refused.

    Raises InputError for what is no recording, for values that are none, and for times that go
    back.
    """
    try:
        with open_text(path) as stream:
            recording = _join(read_parts(stream, path), path, output_needed=output_needed)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError("is damaged gzip.", hint="Copy it again.", file=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text.", hint="Save it as UTF-8.", file=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}.", file=str(path)) from None
    return _in_order(_without_failures(recording))


def first(wrong: NDArray[np.bool_]) -> int | None:
    """The index of the first that is wrong."""
    found = np.flatnonzero(wrong)
    return int(found[0]) if len(found) else None


# ── values -> numbers ──


def _join(parts: Iterable[Part], path: Path, *, output_needed: bool) -> Recording:
    """All parts, converted one by one so that only one is held as text."""
    converted = []
    for part in parts:
        form = part.form
        missing = [
            name
            for name in form.columns
            if name not in part.columns and (output_needed or name != form.output)
        ]
        if missing:
            raise InputError(
                f"{'is' if len(missing) == 1 else 'are'} missing from the columns of {form.name}.",
                hint=form.remedy.format(", ".join(form.columns)),
                file=str(path),
                line=1 if form.tabular else None,
                key=", ".join(missing),
            )
        converted.append(_numbers(part))
    if not converted or not sum(len(each["row"]) for each in converted):
        raise InputError("holds no requests.", hint=FORMS_HINT, file=str(path))
    return Recording(
        form=part.form,
        where=part.where,
        notes=part.notes,
        **{name: np.concatenate([each[name] for each in converted]) for name in converted[0]},
    )


def _numbers(part: Part) -> dict[str, NDArray[Any]]:
    """The columns of a Recording."""
    form = part.form
    ids, counts = _blocks(part, form.blocks)
    return {
        "row": np.asarray(part.row, np.int64),
        "arrival_s": _times(part, form.arrival),
        "prompt_tokens": _tokens(part, form.prompt),
        "output_tokens": _tokens(part, form.output),
        "cached_tokens": _tokens(part, form.cached),
        "block_ids": ids,
        "block_count": counts,
    }


def _times(part: Part, column: str) -> NDArray[np.float64]:
    """Seconds, by the form's clock."""
    values = part.columns[column]
    times_s = _read(values, part.form.arrival_s)
    if (index := first(~((times_s >= 0) & (times_s <= _MAX_S)))) is not None:
        raise part.where.refuse(
            part.row[index],
            column,
            f"is {str(values[index])[:40]!r}, which is no time.",
            "Give every request the time it arrived, none of them negative.",
        )
    return times_s


def _tokens(part: Part, column: str) -> NDArray[np.int64]:
    """Whole numbers of tokens; NOT_RECORDED where there is nothing."""
    if column not in part.columns:
        return np.full(len(part.row), NOT_RECORDED)
    values = part.columns[column]
    tokens = _read(values, float)
    whole = (tokens >= 0) & (tokens <= MAX_TOKENS) & (tokens == np.floor(tokens))
    for index in np.flatnonzero(~whole).tolist():
        if values[index] not in (None, ""):
            raise part.where.refuse(
                part.row[index],
                column,
                f"is {str(values[index])[:40]!r}.",
                f"It must be a whole number of tokens up to {MAX_TOKENS:,}.",
            )
    return np.where(whole, tokens, NOT_RECORDED).astype(np.int64)


def _read(values: Sequence[Any], read: Callable[[Any], float]) -> NDArray[np.float64]:
    """Each value as a number; NaN for what is none."""
    plain = {*map(type, values)} <= {str, int, float}
    with suppress(*_NO_NUMBER):
        if plain:
            return np.fromiter(map(read, values), np.float64, len(values))
    return np.array([_number(value, read) for value in values])


def _number(value: Any, read: Callable[[Any], float]) -> float:  # noqa: ANN401 — as in the file
    try:
        return math.nan if value is None or isinstance(value, bool) else read(value)
    except _NO_NUMBER:
        return math.nan


def _blocks(part: Part, column: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of all blocks, and how many each row has: a list, or in CSV with spaces between them."""
    ids = array("q")
    if column not in part.columns:
        return np.array(ids, np.int64), np.zeros(len(part.row), np.int64)
    counts = []
    for index, value in enumerate(part.columns[column]):
        before = len(ids)
        try:
            ids.extend(map(int, value.split()) if isinstance(value, str) else value or ())
        except (TypeError, ValueError, OverflowError):
            raise part.where.refuse(
                part.row[index],
                column,
                f"is {str(value)[:40]!r}.",
                "It must hold whole numbers below 2^63, one for each block.",
            ) from None
        counts.append(len(ids) - before)
    return np.array(ids, np.int64), np.array(counts, np.int64)


# ── what is left out, and the order ──


def _without_failures(recording: Recording) -> Recording:
    if not recording.form.zero_is_failure:
        return recording
    answered = np.flatnonzero(recording.output_tokens != 0)
    failed = len(recording.row) - len(answered)
    if not failed:
        return recording
    if not len(answered):
        raise InputError(
            "holds only requests that failed.",
            hint="Its outputs are all of 0 tokens.",
            file=str(recording.where.path),
        )
    return replace(
        _chosen(recording, answered),
        notes=(*recording.notes, left_out(failed, len(recording.row))),
    )


def _in_order(recording: Recording) -> Recording:
    if not recording.form.tabular:
        return _chosen(recording, np.argsort(recording.arrival_s, kind="stable"))
    steps_s = np.diff(recording.arrival_s, prepend=0.0)
    if (index := first(steps_s < 0)) is not None:
        raise recording.refuse(
            index,
            recording.form.arrival,
            "is earlier than in the row before.",
            "Sort the rows by it: many servers log a request when it ends.",
        )
    return recording


def _chosen(recording: Recording, chosen: NDArray[np.intp]) -> Recording:
    """The requests of these indices; of a form without prefix blocks."""
    return replace(
        recording,
        row=recording.row[chosen],
        arrival_s=recording.arrival_s[chosen],
        prompt_tokens=recording.prompt_tokens[chosen],
        output_tokens=recording.output_tokens[chosen],
        cached_tokens=recording.cached_tokens[chosen],
        block_count=recording.block_count[chosen],
    )
