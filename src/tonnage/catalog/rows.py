"""A catalog file -> its rows, each of which knows where it stands.

People write these files. Their keys carry the unit (`memory_gb`, `power_kw`), and a mistake is
answered with the file, the line, the key and what to write instead.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from tonnage.errors import InputError
from tonnage.spelling import nearest

PACKAGED = Path(__file__).parent

TABLES: dict[str, tuple[str, ...]] = {
    "gpus": (
        "title",
        "vendor",
        "architecture",
        "memory_gb",
        "usable_memory_mib",
        "hbm_gb_per_s",
        "dense_tflops",
        "link",
        "link_gb_per_s",
        "link_switched",
        "host_gb_per_s",
        "nic_gb_per_s",
        "board",
        "power_w",
        "release_year",
        "aliases",
        "source",
        "date",
        "notes",
    ),
    "servers": (
        "title",
        "vendor",
        "gpu",
        "gpus",
        "nvlink_domain_gpus",
        "rack_units",
        "power_kw",
        "host_memory_gb",
        "local_storage_tb",
        "default_for_gpu",
        "aliases",
        "source",
        "date",
        "notes",
    ),
    "storage": (
        "kind",
        "capacity_tb",
        "usable_tb",
        "read_mb_per_s",
        "write_mb_per_s",
        "read_iops",
        "write_iops",
        "read_block_kib",
        "write_block_kib",
        "read_latency_p50_ms",
        "read_latency_p99_ms",
        "write_latency_p50_ms",
        "write_latency_p99_ms",
        "rack_units",
        "power_kw",
        "aliases",
        "source",
        "date",
        "notes",
    ),
    "models": (
        "aliases",
        "source",
        "date",
        "licence",
        "published_parameters",
        "published_source",
        "notes",
        "config",
    ),
    "prices": (
        "gpu",
        "server",
        "rent_usd_per_gpu_hour",
        "purchase_usd",
        "kind",
        "default",
        "source",
        "date",
    ),
}
# what the abbreviations in `source` stand for, and tables that other readers take from the file
_BESIDE_TABLES = ("sources", "engines", "calibrations")

# the unit at the end of a key -> SI
_SI = {
    "_gb_per_s": 1e9,
    "_mb_per_s": 1e6,
    "_tb": 1e12,
    "_gb": 1e9,
    "_mib": 2.0**20,
    "_kib": 2.0**10,
    "_ms": 1e-3,
    "_kw": 1e3,
    "_w": 1.0,
    "_iops": 1.0,
    "_units": 1.0,
    "_parameters": 1.0,
}


def folded(name: str) -> str:
    """`name` as it is compared: without spaces, hyphens and underscores, and in one case."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def did_you_mean(word: str, among: Collection[str] | Mapping[str, str]) -> str:
    """The question "Did you mean x?" with the nearest names of `among`; "" when none is near.

    `among` is the names, or a mapping from each folded way to write a name to the name.
    """
    index = among if isinstance(among, Mapping) else {folded(name): name for name in among}
    near = nearest(folded(word), index, most=6, cutoff=0.5)
    names = list(dict.fromkeys(index[fold] for fold in near))[:3]
    return f"Did you mean {' or '.join(names)}?" if names else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One TOML file, parsed; the text is kept to find lines in."""

    path: Path
    text: str
    tables: Mapping[str, Any]
    packaged: bool

    def rows(self, table: str) -> Iterator[Row]:
        """The rows of `table`; those of `prices`, which have no name, are numbered from 1."""
        content = self.tables.get(table, [] if table == "prices" else {})
        if table == "prices":
            if not isinstance(content, list):
                raise self.error("is a list: write [[prices]].", table, key=table)
            named = [(str(number), values) for number, values in enumerate(content, start=1)]
        else:
            if not isinstance(content, dict):
                raise self.error(f"holds named rows: write [{table}.NAME].", table, key=table)
            named = list(content.items())
        for name, values in named:
            if not isinstance(values, dict):
                raise self.error(f"is not a row: write [{table}.{name}].", table, name, key=name)
            yield Row(document=self, table=table, name=name, values=values)

    def error(
        self,
        message: str,
        table: str | None = None,
        row: str | None = None,
        *,
        key: str | None = None,
        hint: str = "",
    ) -> InputError:
        """An InputError that points at the file and, as near as can be told, the line."""
        line = None if table is None else _line_of(self.text, table, row, key)
        return InputError(message, hint=hint, file=str(self.path), line=line, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, read key by key; each reading method raises InputError for a value that is wrong."""

    document: Document
    table: str
    name: str
    values: Mapping[str, Any]

    def error(self, message: str, *, key: str | None = None, hint: str = "") -> InputError:
        """An InputError that points at `key` of this row, or at the row."""
        return self.document.error(message, self.table, self.name, key=key, hint=hint)

    def refuse_unknown_keys(self) -> None:
        """Raise InputError for a key that this table does not have."""
        known = TABLES[self.table]
        for key in self.values:
            if key not in known:
                hint = did_you_mean(key, known) or f"Its keys are {', '.join(known)}."
                raise self.error(f"is not a key of [{self.table}].", key=key, hint=hint)

    def text(self, key: str, default: str | None = None) -> str:
        """The text at `key`; `default` when there is none, InputError without a default."""
        value = self.values.get(key, default)
        if value is None:
            self._missing(key, f'Write {key} = "…".')
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise self.error(f"is {value!r}, not a text.", key=key, hint=f'Write {key} = "…".')
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """The list of texts at `key`, empty when there is none."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            hint = f'Write {key} = ["…", "…"].'
            raise self.error(f"is {value!r}, not a list of texts.", key=key, hint=hint)
        return tuple(value)

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """The true or false at `key`."""
        value = self.values.get(key, default)
        if value is None:
            self._missing(key, f"Write {key} = true or {key} = false.")
        if not isinstance(value, bool):
            hint = f"Write {key} = true or {key} = false."
            raise self.error(f"is {value!r}.", key=key, hint=hint)
        return value

    def si(self, key: str, *, zero: bool = False) -> float:
        """The number at `key` in SI units, by the unit its name ends in."""
        if key not in self.values:
            self._missing(key, f"Write {key} = a number.")
        factor = next(factor for unit, factor in _SI.items() if key.endswith(unit))
        return self._number(key, self.values[key], zero=zero) * factor

    def si_if_known(self, key: str) -> float | None:
        """As `si`, None when the key is left out."""
        return self.si(key) if key in self.values else None

    def count(self, key: str) -> int:
        """The whole number, 1 or more, at `key`."""
        if key not in self.values:
            self._missing(key, f"Write {key} = a whole number.")
        value = self._number(key, self.values[key])
        if value != int(value):
            raise self.error(f"is {value}, not a whole number.", key=key)
        return int(value)

    def range_usd(self, key: str) -> tuple[float, float]:
        """The [low, high] at `key`; one number stands for both ends."""
        value = self.values[key]
        ends = value if isinstance(value, list) else [value, value]
        if len(ends) != 2:  # noqa: PLR2004 (a range has two ends)
            raise self.error(f"is {value!r}.", key=key, hint=f"Write {key} = [low, high].")
        low, high = (self._number(key, end) for end in ends)
        if low > high:
            raise self.error(f"starts at {low} and ends at {high}.", key=key, hint="Swap them.")
        return low, high

    def numbers(self, key: str, allowed: Collection[str], required: str) -> dict[str, float]:
        """The inline table of numbers at `key`: keys of `allowed`, `required` among them."""
        value = self.values.get(key)
        if value is None:
            self._missing(key, f"Write {key} = {{ {required} = a number }}.")
        if not isinstance(value, dict) or required not in value:
            hint = f"Write {key} = {{ {required} = a number }}."
            raise self.error(f'has no "{required}".', key=key, hint=hint)
        for name in value:
            if name not in allowed:
                hint = f"Its keys are {', '.join(sorted(allowed))}."
                raise self.error(f'has an unknown key "{name}".', key=key, hint=hint)
        return {name: self._number(key, number) for name, number in value.items()}

    def _number(self, key: str, value: object, *, zero: bool = False) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            value = math.nan
        if not math.isfinite(value):
            hint = f"Write {key} = 1.5, without a unit: the key carries it."
            raise self.error(f"is {self.values[key]!r}, not a number.", key=key, hint=hint)
        if value < 0 or (value == 0 and not zero):
            hint = "Leave the key out when the figure is not known."
            raise self.error(f"is {value}, but must be more than 0.", key=key, hint=hint)
        return float(value)

    def _missing(self, key: str, hint: str) -> NoReturn:
        raise self.error(f"is missing in [{self.table}.{self.name}].", key=key, hint=hint)


@cache
def packaged_document(table: str) -> Document:
    """The packaged file that holds `table`; each file is read once."""
    return _parse(PACKAGED / f"{table}.toml", packaged=True)


def overlay_document(path: Path) -> Document:
    """A user's catalog file. Raises InputError when it cannot be read or holds an unknown table."""
    document = _parse(path, packaged=False)
    known = (*TABLES, *_BESIDE_TABLES)
    for table in document.tables:
        if table not in known:
            hint = did_you_mean(table, known) or f"The tables are {', '.join(TABLES)}."
            raise document.error("is not a table of a catalog.", table, key=table, hint=hint)
    return document


def _parse(path: Path, *, packaged: bool) -> Document:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "Give the path of a catalog file."
        raise InputError(f"cannot be read: {reason}.", hint=hint, file=str(path)) from error
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8 text.", hint="Save it as UTF-8.", file=str(path)) from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column \d+\)", str(error))
        raise InputError(
            f"is not valid TOML: {error}.",
            hint="See https://toml.io/en/v1.0.0.",
            file=str(path),
            line=int(place[1]) if place else None,
        ) from error
    return Document(path=path, text=text, tables=tables, packaged=packaged)


_HEADER = re.compile(r"\s*\[\[?(?P<path>[^\]]+)\]")
_HEADER_PART = re.compile(r"""\"([^\"]*)\"|'([^']*)'|([\w-]+)""")


def _line_of(text: str, table: str, row: str | None, key: str | None) -> int | None:
    """The line of `key` in a row; of the row's header when the row has no such key, else None."""
    lines = text.splitlines()
    wanted = [table] if row is None or table == "prices" else [table, row]
    written_key = re.compile(rf"\s*[\"']?{re.escape(key or '')}[\"']?\s*[=.]")
    header_line: int | None = None
    inside, headers_seen = False, 0
    for number, line in enumerate(lines, start=1):
        if header := _HEADER.match(line):
            parts = ["".join(part) for part in _HEADER_PART.findall(header["path"])]
            inside = parts[: len(wanted)] == wanted
            if inside and table == "prices" and row is not None:
                headers_seen += 1
                inside = str(headers_seen) == row
            if inside:
                header_line = header_line or number
                if parts[len(wanted) :] == [key]:  # [gpus.NAME.dense_tflops]
                    return number
        elif inside and key is not None and written_key.match(line):
            return number
    if header_line is None:  # rows written as inline tables have no header
        shown = table if row is None or table == "prices" else row
        return next((n for n, line in enumerate(lines, start=1) if shown in line), None)
    return header_line
