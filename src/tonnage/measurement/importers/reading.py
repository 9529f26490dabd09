"""A file another tool wrote -> values with the place they stand at, or an InputError naming it.

Every importer reads through `Place`, so that a wrong type, a negative time or a number that is
none is refused in one manner: file, key and what is expected there. A missing value is None all
the way down. Only the standard library's `json` is needed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from tonnage import units
from tonnage.errors import InputError

MAX_BYTES = 10**9  # a larger result holds the texts of every request; its summary does not
MAX_RECORD_BYTES = 2**24  # one line of a .jsonl; a longer first line is a whole document
LAST_EPOCH_S = 253_402_300_799  # the end of the year 9999, where dates end

_PER_SECOND = {
    "ns": 1e9,
    "us": 1e6,
    "µs": 1e6,
    "ms": 1e3,
    "s": 1.0,
    "sec": 1.0,
    "seconds": 1.0,
}
_STRING_OR_NONFINITE = re.compile(r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """A value of a document, with the file, the line and the key it stands at."""

    value: object
    file: str
    key: str = ""
    line: int | None = None

    def refuse(self, message: str, *, hint: str = "") -> NoReturn:
        """Raise the InputError that names this place."""
        raise InputError(message, hint=hint, file=self.file, line=self.line, key=self.key or None)

    def get(self, *keys: str) -> Place:
        """The value under `keys`, one inside the other; None when any is missing."""
        place = self
        for key in keys:
            inside = place.value
            if inside is not None and not isinstance(inside, dict):
                place.refuse("must be an object.", hint=f"It should hold {key}.")
            shown = printable(key)
            path = f"{place.key}.{shown}" if place.key else shown
            value = inside.get(key) if isinstance(inside, dict) else None
            place = Place(value, place.file, path, place.line)
        return place

    def entries(self) -> list[Place]:
        """The elements of a list; empty when there is none."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            self.refuse("must be a list.")
        return [
            Place(value, self.file, f"{self.key}[{index}]", self.line)
            for index, value in enumerate(self.value)
        ]

    def members(self) -> list[tuple[str, Place]]:
        """The keys and values of an object; empty when there is none."""
        if self.value is None:
            return []
        if not isinstance(self.value, dict):
            self.refuse("must be an object.")
        return [(key, self.get(key)) for key in self.value]

    def number(self) -> float | None:
        """A finite number within what is real."""
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.refuse("must be a number.")
        if not abs(self.value) <= units.MAX_NUMBER:
            self.refuse("is not a number that can be measured.")
        return float(self.value)

    def amount(self) -> float | None:
        """A number that is not negative."""
        number = self.number()
        if number is not None and number < 0:
            self.refuse("must not be negative.")
        return number

    def seconds(self, unit: str = "s") -> float | None:
        """A duration written in `unit`, in seconds; never negative."""
        amount = self.amount()
        return None if amount is None else amount / _PER_SECOND[unit]

    def count(self) -> int | None:
        """A whole number, not negative, to its last digit; 24.0 is 24."""
        amount = self.amount()
        if amount is None or isinstance(self.value, int):
            return self.value if isinstance(self.value, int) else None
        if amount != int(amount):
            self.refuse("must be a whole number.")
        return int(amount)

    def flag(self) -> bool:
        """Whether it is true; a missing one is not."""
        if self.value is None:
            return False
        if not isinstance(self.value, bool):
            self.refuse("must be true or false.")
        return self.value

    def text(self) -> str | None:
        """A text that can be written and shown on a terminal; None when missing or empty."""
        if self.value is None:
            return None
        if not isinstance(self.value, str):
            self.refuse("must be a text.")
        return printable(self.value).strip() or None

    def time_unit(self) -> str:
        """The text as one of the units a duration may have."""
        unit = self.text()
        if unit not in _PER_SECOND:
            self.refuse("is not a unit of time.", hint="Expected ms, s, us or ns.")
        return unit

    def is_object_with(self, *keys: str) -> bool:
        """Whether this is an object that has all of `keys`."""
        return isinstance(self.value, dict) and all(key in self.value for key in keys)


def read_documents(path: Path) -> list[Place]:
    """The JSON document of `path`, or one for each line where several were appended."""
    text = _read_text(path)
    try:
        return [Place(_parse(text, path), str(path))]
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" or "\n" not in text.strip():
            raise _not_json(path, error, error.lineno) from None
    return list(read_lines(path))


def read_lines(path: Path) -> Iterator[Place]:
    """The JSON values of `path`, one to a line, never more than a line in memory."""
    refuse_huge(path)
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8")
                if not line.strip():
                    continue
                try:
                    yield Place(_parse(line, path, number), str(path), line=number)
                except json.JSONDecodeError as error:
                    raise _not_json(path, error, number) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text.", file=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}.", file=str(path)) from None


def first_record(path: Path) -> Place | None:
    """The object that stands alone on the first line of `path`, when there is one."""
    try:
        with path.open("rb") as file:
            raw = file.readline(MAX_RECORD_BYTES)
            value = json.loads(raw) if raw.strip().startswith(b"{") else None
    except (ValueError, RecursionError):  # a document over several lines, or not JSON at all
        return None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}.", file=str(path)) from None
    return Place(value, str(path), line=1) if isinstance(value, dict) else None


def refuse_huge(path: Path) -> None:
    """Raise InputError for a file that is missing or larger than any result needs to be."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(
            "does not exist.", hint="Name the file or folder the tool wrote.", file=str(path)
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}.", file=str(path)) from None
    if size > MAX_BYTES:
        raise InputError(
            f"is {units.format_bytes(size, binary=False)} large, more than the"
            f" {units.format_bytes(MAX_BYTES, binary=False)} that is read.",
            hint="Export it without the texts of requests and answers.",
            file=str(path),
        )


def printable(text: str) -> str:
    """`text` with ? for what UTF-8 or a terminal cannot show: half characters, control codes."""
    return "".join(each if each.isprintable() else "?" for each in text)


def without_credentials(url: str | None) -> str | None:
    """The scheme, host, port and path of `url`: no user, password, query or fragment."""
    if url is None:
        return None
    scheme, mark, rest = url.partition("://")
    try:
        parts = urlsplit(f"//{rest if mark else url}")
    except ValueError:  # brackets that hold no address
        return None
    host = parts.netloc.rpartition("@")[2]
    return f"{scheme}{mark}{host}{parts.path}" if mark else f"{host}{parts.path}"


def instant(epoch_s: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601 in UTC."""
    if epoch_s is None or not 0 < epoch_s < LAST_EPOCH_S:
        return None
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="seconds")


def _read_text(path: Path) -> str:
    refuse_huge(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(
            "is not UTF-8 text.", hint="Give the JSON the tool wrote.", file=str(path)
        ) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}.", file=str(path)) from None


def _parse(text: str, path: Path, line: int | None = None) -> object:
    """The value of `text`. Raises JSONDecodeError for bad JSON, InputError for the rest."""

    def refuse_nonfinite(name: str) -> NoReturn:
        raise InputError(
            f"holds {name}, which is no measurement.",
            hint="Run the benchmark again, or take the level that failed out of the file.",
            file=str(path),
            line=line or _line_of_nonfinite(text),
        )

    try:
        value: object = json.loads(text, parse_constant=refuse_nonfinite)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise InputError("is nested too deeply.", file=str(path), line=line) from None
    except ValueError:  # an integer of thousands of digits
        raise InputError(
            "holds a number that cannot be measured.", file=str(path), line=line
        ) from None
    return value


def _line_of_nonfinite(text: str) -> int | None:
    for match in _STRING_OR_NONFINITE.finditer(text):
        if match[1]:
            return text.count("\n", 0, match.start()) + 1
    return None


def _not_json(path: Path, error: json.JSONDecodeError, line: int) -> InputError:
    cut_off = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
    what = "is cut off" if cut_off and error.doc.strip() else "is not JSON"
    if not error.doc.strip():
        what = "is empty"
    return InputError(
        f"{what}.",
        hint="Copy it again once the tool has finished, or run the benchmark again.",
        file=str(path),
        line=line,
    )


def finite(number: float) -> float | None:
    """`number`, or None when arithmetic left what can be measured."""
    return number if math.isfinite(number) and abs(number) <= units.MAX_NUMBER else None
