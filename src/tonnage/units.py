"""What people write -> SI values, and SI values -> what people read.

The only conversions, parsers and formatters in the tree. Inside tonnage everything is in seconds,
bytes, FLOP, tokens, requests, US dollars, watts and plain fractions; ms, GB and % exist only here.
GB is 10^9 bytes and GiB is 2^30 bytes, always.
"""

from __future__ import annotations

import math
import re
from typing import Literal

from tonnage.errors import UnitError

Dimension = Literal[
    "time",
    "bytes",
    "bandwidth",
    "tokens",
    "words",
    "rate",
    "token_rate",
    "fraction",
    "price",
    "power",
    "count",
]

GIB = 2**30
TERA = 4  # powers of 1,000 (or 1,024) in a tera (or tebi)
HOURS_PER_MONTH = 730  # 365 * 24 / 12
SECONDS_PER_HOUR = 3600
SECONDS_PER_DAY = 86400
MAX_NUMBER = 1e30  # far beyond any quantity here, far below where arithmetic overflows
WORDS_PER_TOKEN = 0.75  # English: one token is about 0.75 of a word (NVIDIA DLI sizing course)

_SI = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}

_TIME_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "min": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "days": 86400.0,
    "week": 604800.0,
    "weeks": 604800.0,
}
_BYTES = {
    "B": 1.0,
    "bytes": 1.0,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
    "PB": 1e15,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
    "TiB": 2.0**40,
    "PiB": 2.0**50,
}
_BITS = {"Mbit": 1e6, "Gbit": 1e9, "Tbit": 1e12}
_PER_TIME = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "min": 1 / 60,
    "minute": 1 / 60,
    "h": 1 / 3600,
    "hour": 1 / 3600,
    "d": 1 / 86400,
    "day": 1 / 86400,
    "week": 1 / 604800,
    "month": 1 / (HOURS_PER_MONTH * 3600),
}
_WATTS = {"W": 1.0, "kW": 1e3, "MW": 1e6}

_NUMBER = re.compile(r"^\s*([-+]?(?:\d[\d_,  ]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*$")

EXAMPLES: dict[str, str] = {
    "time": '"1.5 s", "200 ms" or "8 h"',
    "bytes": '"80 GB" or "120 GiB"',
    "bandwidth": '"50 GB/s" or "400 Gbit/s"',
    "tokens": '"3500 tokens", "128 k tokens" or "600 words"',
    "words": '"600 words"',
    "rate": '"31/s", "7 requests/s" or "2 M requests/day"',
    "token_rate": '"4 B tokens/day" or "12000 tokens/s"',
    "fraction": '"10 %" or 0.1',
    "price": '"3.40 usd/h"',
    "power": '"14.3 kW"',
    "count": '20000 or "2.5 M"',
}
_NAMES = {
    "time": "a time",
    "bytes": "an amount of memory",
    "bandwidth": "a bandwidth",
    "tokens": "a length",
    "words": "a length in words",
    "rate": "a rate of requests",
    "token_rate": "a rate of tokens",
    "fraction": "a share",
    "price": "a price",
    "power": "a power",
    "count": "a count",
}


def _split(text: str | float, dimension: Dimension) -> tuple[float, str]:
    """Number and unit of `text`; thousands may be grouped with , _ or spaces."""
    if isinstance(text, bool):
        raise _not_a(dimension, text)
    if isinstance(text, int | float):
        if not abs(text) < math.inf:  # infinite, or not a number
            raise _not_a(dimension, text)
        if abs(text) > MAX_NUMBER:
            raise _not_a(dimension, text, why="is beyond anything real")
        return float(text), ""
    match = _NUMBER.match(text)
    if match is None:
        raise _not_a(dimension, text)
    digits, unit = match.groups()
    if re.search(r",\d{1,2}(?!\d)", digits):
        raise UnitError(f'"{text}" is ambiguous: write a decimal point, not a comma.')
    try:
        value = float(re.sub(r"[_,  ]", "", digits))
    except ValueError:
        raise _not_a(dimension, text) from None
    if not math.isfinite(value):
        raise _not_a(dimension, text)
    if abs(value) > MAX_NUMBER:
        raise _not_a(dimension, text, why="is beyond anything real")
    return value, unit


def _not_a(dimension: Dimension, text: object, *, why: str = "") -> UnitError:
    shown = text if isinstance(text, str) else repr(text)
    return UnitError(
        f'"{shown}" {why or "cannot be read"}: {_NAMES[dimension]} is expected,',
        hint=f"for example {EXAMPLES[dimension]}.",
    )


def _si_prefixed(unit: str) -> tuple[float, str]:
    """Take a leading k, M, B or T off a counting unit ("k tokens", "M requests")."""
    match = re.match(r"^([kKMGBT])(?=$|\s|tokens?\b|requests?\b|words?\b|/)\s*(.*)$", unit)
    return (_SI[match.group(1)], match.group(2)) if match else (1.0, unit)


def parse_time_s(text: str | float) -> float:
    """Text like "1.5 s", "200 ms", "8 h" -> seconds. A bare number has no unit and is refused."""
    value, unit = _split(text, "time")
    if not unit:
        raise _not_a("time", text, why="has no unit")
    if unit not in _TIME_S:
        raise _not_a("time", text, why=f"has an unknown unit “{unit}”")
    return value * _TIME_S[unit]


def parse_bytes(text: str | float) -> float:
    """Text like "80 GB" (10^9), "120 GiB" (2^30) -> bytes."""
    value, unit = _split(text, "bytes")
    if not unit:
        raise _not_a("bytes", text, why="has no unit")
    if unit not in _BYTES:
        raise _not_a("bytes", text, why=f"has an unknown unit “{unit}”")
    return value * _BYTES[unit]


def parse_bytes_per_s(text: str) -> float:
    """Text like "50 GB/s" or, as networks are sold, "400 Gbit/s" -> bytes per second."""
    value, unit = _split(text, "bandwidth")
    amount, slash, time = unit.partition("/")
    amount = amount.strip()
    if not (slash and time.strip() in {"s", "sec", "second"}):
        raise _not_a("bandwidth", text, why="is not per second" if unit else "has no unit")
    if amount in _BITS:
        return value * _BITS[amount] / 8
    if amount not in _BYTES:
        raise _not_a("bandwidth", text, why=f"has an unknown unit “{unit}”")
    return value * _BYTES[amount]


def parse_length(text: str | float) -> tuple[float, Literal["tokens", "words"]]:
    """Text like "3500 tokens" or "600 words", or a number of tokens -> how many, and of what."""
    value, unit = _split(text, "tokens")
    factor, rest = _si_prefixed(unit)
    if rest in {"", "token", "tokens", "tok"}:
        return value * factor, "tokens"
    if rest in {"word", "words"}:
        return value * factor, "words"
    raise _not_a("tokens", text, why=f"has an unknown unit “{unit}”")


def parse_tokens(text: str | float, *, words_per_token: float = WORDS_PER_TOKEN) -> float:
    """Text like "3500 tokens", "600 words", "128 k" or a bare number of tokens -> tokens.

    Words are divided by `words_per_token`.
    """
    value, what = parse_length(text)
    return value / words_per_token if what == "words" else value


def _parse_per_time(text: str | float, dimension: Dimension, things: frozenset[str]) -> float:
    value, unit = _split(text, dimension)
    factor, rest = _si_prefixed(unit)
    if not rest:
        return value * factor  # requests and tokens are counted per second where nothing is said
    match = re.match(r"^(?P<thing>[A-Za-z]*)\s*(?:/|per\s+|\s+a\s+)\s*(?P<time>[A-Za-z]+)$", rest)
    if rest in {"rps", "req/s"} and dimension == "rate":
        return value * factor
    if match is None or match["thing"] not in things or match["time"] not in _PER_TIME:
        raise _not_a(dimension, text, why=f"has an unknown unit “{unit}”")
    return value * factor * _PER_TIME[match["time"]]


def parse_rate(text: str | float) -> float:
    """Requests per second from "31/s" or "2 M requests/day"; a bare number is per second."""
    return _parse_per_time(
        text, "rate", frozenset({"", "request", "requests", "req", "prompts", "prompt"})
    )


def parse_token_rate(text: str | float) -> float:
    """Text like "4 B tokens/day" -> tokens per second; a bare number is per second."""
    return _parse_per_time(text, "token_rate", frozenset({"", "token", "tokens", "tok"}))


def parse_fraction(text: str | float) -> float:
    """Either "10 %" or 0.1 -> 0.1."""
    value, unit = _split(text, "fraction")
    if unit in {"%", "percent"}:
        return value / 100
    if unit:
        raise _not_a("fraction", text, why=f"has an unknown unit “{unit}”")
    return value


def parse_price_usd_per_hour(text: str | float) -> float:
    """Text like "3.40 usd/h" or "2500 usd/month" -> US dollars per hour, which a number is in."""
    cleaned = re.sub(r"^\s*\$\s*(.*?)\s*$", r"\1", text) if isinstance(text, str) else text
    value, unit = _split(cleaned, "price")
    if not unit:
        return value
    match = re.match(r"^(?:usd|USD|dollars?|\$)?\s*(?:/|per\s+|an?\s+)\s*([A-Za-z]+)$", unit)
    if match is None or match[1] not in _PER_TIME:
        raise _not_a("price", text, why=f"has an unknown unit “{unit}”")
    return value * _PER_TIME[match[1]] * SECONDS_PER_HOUR


def parse_watts(text: str | float) -> float:
    """Text like "14.3 kW" -> watts."""
    value, unit = _split(text, "power")
    if unit not in _WATTS:
        raise _not_a(
            "power", text, why="has no unit" if not unit else f"has an unknown unit “{unit}”"
        )
    return value * _WATTS[unit]


def parse_count(text: str | float) -> float:
    """20000, "20,000", "2.5 M" -> a number."""
    value, unit = _split(text, "count")
    factor, rest = _si_prefixed(unit)
    if rest:
        raise _not_a("count", text, why=f"has an unexpected unit “{unit}”")
    return value * factor


def _significant(value: float, digits: int = 3) -> str:
    """`value` with about `digits` significant digits, never in exponent form, no trailing zeros."""
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    decimals = max(digits - 1 - magnitude, 0)
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_time(seconds: float | None) -> str:
    """0.0214 -> "21.4 ms", 1.5 -> "1.5 s", 7200 -> "2 h"; None -> "–"."""
    if seconds is None:
        return "–"
    if not math.isfinite(seconds):
        return "∞"
    for limit, unit, scale in (
        (1e-3, "µs", 1e6),
        (0.9995, "ms", 1e3),
        (600, "s", 1.0),
        (2 * 3600, "min", 1 / 60),
        (4 * 86400, "h", 1 / 3600),
    ):
        if abs(seconds) < limit:
            return f"{_significant(seconds * scale)} {unit}"
    return f"{_significant(seconds / 86400)} days"


def format_bytes(size: float | None, *, binary: bool = True) -> str:
    """2.4e9 -> "2.24 GiB", or "2.4 GB" when `binary` is false; None -> "–"."""
    if size is None:
        return "–"
    base, names = (1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    if not binary:
        base, names = (1000, ("B", "kB", "MB", "GB", "TB", "PB"))
    power = 0 if size == 0 else min(int(math.log(abs(size), base) + 1e-9), len(names) - 1)
    power = max(power, 0)
    if power >= TERA and size < 2 * base**power:
        power -= 1  # 1,418 GiB says more than 1.38 TiB
    value = size / base**power
    return f"{value:,.2f} {names[power]}" if power else f"{value:,.0f} {names[power]}"


def format_number(value: float | None, digits: int = 3) -> str:
    """31.0 -> "31", 6.6667 -> "6.67", 2036160 -> "2,036,160"; None -> "–"."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "∞"
    if value == int(value) and abs(value) < 1e15:  # noqa: PLR2004 (where floats stop being exact)
        return f"{int(value):,}"
    return _significant(value, digits)


def format_amount(value: float | None, unit: str) -> str:
    """7.2 of "requests/s" -> "7.2 requests/s", 1 -> "1 request/s"; `unit` is in the plural."""
    number = format_number(value)
    return f"{number} {singular(unit) if number == '1' else unit}"


def singular(unit: str) -> str:
    """One of it: "requests/s" -> "request/s", "GPUs" -> "GPU"; units that have no plural stay."""
    return re.sub(r"(?<=\w\w)s(?=/|$)", "", unit, count=1)


def format_fraction(value: float | None) -> str:
    """0.083 -> "8.3 %"; None -> "–"."""
    if value is None:
        return "–"
    return f"{_significant(value * 100, 2 if abs(value) * 10 < 1 else 3)} %"


def format_usd(value: float | None) -> str:
    """81.6 -> "81.60"; thousands grouped; None -> "–"."""
    return "–" if value is None else f"{value:,.2f}"


def format_watts(value: float | None) -> str:
    """14300 -> "14.3 kW"; None -> "–"."""
    if value is None:
        return "–"
    kilowatts = value / _WATTS["kW"]
    return f"{_significant(kilowatts)} kW" if kilowatts >= 1 else f"{_significant(value)} W"
