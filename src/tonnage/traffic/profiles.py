"""A CSV file of times and factors -> the RateProfile it states."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

from tonnage.errors import InputError
from tonnage.files import load_text
from tonnage.traffic import RateProfile
from tonnage.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

_COLUMNS = ["at", "factor"]
_LONGEST_S = 366 * SECONDS_PER_DAY
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def load_profile(path: Path) -> RateProfile:
    """The pieces of a file with the columns `at` ("HH:MM", or seconds) and `factor`.

    Each piece holds until the next `at`, and the last one until the first again: the whole repeats
    after as many days as it takes to hold the last. Factors are relative to one another; the rate
    they multiply stays the mean. Raises InputError.
    """
    file = str(path)
    reader = csv.reader(load_text(path).splitlines())
    header = [name.strip() for name in next(reader, [])]
    if header != _COLUMNS:
        raise InputError(
            f"has the columns {', '.join(header) or '(none)'}.",
            hint="A profile has the columns at,factor: for example a line 09:00,1.4.",
            file=file,
        )
    offsets_s: list[float] = []
    factors: list[float] = []
    for row in filter(None, reader):
        line = reader.line_num
        if len(row) != len(_COLUMNS):
            raise InputError(
                f"has {len(row)} values for 2 columns.",
                hint="Write a time and a factor: for example 09:00,1.4.",
                file=file,
                line=line,
            )
        at, factor = (text.strip() for text in row)
        offset_s = _offset_s(at)
        if not 0 <= offset_s <= _LONGEST_S:
            raise InputError(
                f"is {at!r}, which is no time.",
                hint='Write "HH:MM", or seconds from the start, up to a year.',
                file=file,
                line=line,
                key="at",
            )
        if offsets_s and offset_s <= offsets_s[-1]:
            raise InputError(
                f"is {at!r}, which is not after the row before.",
                hint="Sort the rows by time, and give each time once.",
                file=file,
                line=line,
                key="at",
            )
        offsets_s.append(offset_s)
        factors.append(_factor(factor, file, line))
    if not any(factors):
        raise InputError(
            "has no value above 0.", hint="For example a line 09:00,1.4.", file=file, key="factor"
        )
    if offsets_s[0] > 0:  # the last piece goes on past midnight
        offsets_s, factors = [0.0, *offsets_s], [factors[-1], *factors]
    days = math.floor(offsets_s[-1] / SECONDS_PER_DAY) + 1
    return RateProfile(
        offset_s=tuple(offsets_s), factor=tuple(factors), period_s=float(days * SECONDS_PER_DAY)
    )


def _offset_s(at: str) -> float:
    """Seconds; NaN for what is no time."""
    if clock := _CLOCK.fullmatch(at):
        return int(clock[1]) * SECONDS_PER_HOUR + int(clock[2]) * 60.0
    try:
        return float(at)
    except ValueError:
        return math.nan


def _factor(text: str, file: str, line: int) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 <= factor < math.inf:
        raise InputError(
            f"is {text!r}, and must be a number that is not negative.",
            hint="1 is the mean, 0 is nobody.",
            file=file,
            line=line,
            key="factor",
        )
    return factor
