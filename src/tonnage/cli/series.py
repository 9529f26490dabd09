"""A series as people write it -> its numbers: "1,2,4,…,128"."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator
from itertools import pairwise

from tonnage.cli.flags import read_quantity
from tonnage.errors import UsageError

MOST_LEVELS = 1000
_ELLIPSES = frozenset({"…", "..."})


def parse_series(text: str, *, flag: str, parse: Callable[[str], float]) -> tuple[float, ...]:
    """The numbers of `text`, separated by commas; `…` goes on as the numbers before it do.

    Raises UsageError for what is no number, not above 0, there twice, or could go on in two ways.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    values: list[float] = []
    for index, part in enumerate(parts):
        if part not in _ELLIPSES:
            values.append(read_quantity(part, flag=flag, parse=parse))
            continue
        if index != len(parts) - 2 or index < 2:  # noqa: PLR2004 — two numbers begin a series
            raise UsageError(
                f'{flag} "{text}": … stands between two or more numbers and the last one,',
                hint="for example 1,2,4,…,128.",
            )
        last = read_quantity(parts[-1], flag=flag, parse=parse)
        values += list(_between(values, last, text=text, flag=flag))
    if not values:
        raise UsageError(f"{flag} names no level,", hint="for example 1,2,4,…,128.")
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"{flag} has {value:g} twice.")
    if len(values) > MOST_LEVELS:
        raise UsageError(f"{flag} has {len(values)} levels, more than {MOST_LEVELS}.")
    return tuple(values)


def _between(start: list[float], last: float, *, text: str, flag: str) -> Iterator[float]:
    """The numbers strictly between the end of `start` and `last`."""
    steps = {round(b - a, 9) for a, b in pairwise(start)}
    factors = {round(b / a, 9) for a, b in pairwise(start)}
    tried = []
    if len(steps) == 1:
        tried.append(_reach(start[-1], last, functools.partial(operator.add, steps.pop())))
    if len(factors) == 1:
        tried.append(_reach(start[-1], last, functools.partial(operator.mul, factors.pop())))
    ways = [numbers for numbers in tried if numbers is not None]
    if not ways:
        raise UsageError(
            f'{flag} "{text}": going on like this never meets {last:g},',
            hint="as 1,2,3,…,10 or 1,2,4,…,128 do.",
        )
    if len(ways) > 1 and ways[0] != ways[1]:
        raise UsageError(
            f'{flag} "{text}" can go on in two ways: write three numbers before the …,',
            hint="1,2,3,…,16 or 1,2,4,…,16.",
        )
    yield from ways[0]


def _reach(at: float, last: float, step: Callable[[float], float]) -> list[float] | None:
    """The numbers on the way from `at` to `last`; None when the way misses it."""
    numbers: list[float] = []
    for _ in range(MOST_LEVELS):
        following = step(at)
        if following <= at:
            return None
        if math.isclose(following, last, rel_tol=1e-6):
            return numbers
        if following > last:
            return None
        numbers.append(following)
        at = following
    return None
