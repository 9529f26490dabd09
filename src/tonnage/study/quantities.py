"""One value as people write it -> a checked value; the leaves of the study document.

A `Quantity` is put on a field of the document with `Annotated`; it reads "1.5 s" with its unit,
checks the range, and writes a number back as text so that it can be read again.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, GetCoreSchemaHandler, PlainValidator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from tonnage import units
from tonnage.errors import UnitError

MAX_TEXT_CHARACTERS = 1000
MAX_QUANTITY_CHARACTERS = 80
LARGEST = 1e15  # of anything a study counts; more is a slip of the keyboard
SECONDS_NOT_MS = 30  # a time without its unit below this was surely meant in seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAmount:
    """A length as stated: words stay words until `words_per_token` is known."""

    amount: float
    unit: Literal["tokens", "words"] = "tokens"

    def tokens(self, words_per_token: float) -> float:
        """The length in tokens."""
        return self.amount / words_per_token if self.unit == "words" else self.amount


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPart:
    """The part of a prompt in the prefix cache: a length, or a share of the prompt (0–1)."""

    amount: TokenAmount | None = None
    share: float | None = None


def wrong(message: str, hint: str = "") -> PydanticCustomError:
    """A complaint about a value; "{key}" in the message becomes the key's full name."""
    return PydanticCustomError("wrong", "{message}", {"message": message, "hint": hint})


_PARSERS: dict[str, Callable[[str | float], float]] = {
    "time": units.parse_time_s,
    "bytes": units.parse_bytes,
    "rate": units.parse_rate,
    "token_rate": units.parse_token_rate,
    "fraction": units.parse_fraction,
    "price": units.parse_price_usd_per_hour,
    "count": units.parse_count,
}
SI_UNITS: dict[str, str] = {
    "time": "s",
    "bytes": "bytes",
    "tokens": "tokens",
    "rate": "requests/s",
    "token_rate": "tokens/s",
    "fraction": "",
    "price": "usd/h",
    "count": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number of one dimension between `minimum` and `maximum`, in SI units.

    `above` excludes the minimum itself; `whole` asks for an integer.
    """

    dimension: units.Dimension
    minimum: float = 0.0
    maximum: float = LARGEST
    above: bool = False
    whole: bool = False

    def __get_pydantic_core_schema__(
        self, _source: object, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Read the value with `read`, whatever type is annotated."""
        return core_schema.no_info_plain_validator_function(self.read)

    def read(self, value: object) -> float | TokenAmount:
        """What was written -> an SI value (a `TokenAmount` for lengths)."""
        if not isinstance(value, str | int | float):
            raise wrong("must be a single value,", f"for example {units.EXAMPLES[self.dimension]}.")
        if isinstance(value, str) and len(value) > MAX_QUANTITY_CHARACTERS:
            raise wrong("is far too long to be a number with a unit.")
        if isinstance(value, bool):
            value = str(value).lower()  # as YAML writes it; no number, whatever the dimension
        try:
            if self.dimension == "tokens":
                amount, unit = units.parse_length(value)
                self._check_range(amount, value)
                return TokenAmount(amount=amount, unit=unit)
            number = _PARSERS[self.dimension](value)
        except UnitError as error:
            raise self._unreadable(error, value) from None
        self._check_range(number, value)
        if self.whole:
            if number != round(number):
                raise wrong(f"must be a whole number, not {value}.")
            return round(number)
        return number

    def write(self, value: float) -> str | float:
        """An SI value -> text that `read` understands, to the last digit."""
        if self.whole:
            return round(value)
        unit = SI_UNITS[self.dimension]
        return f"{value!r} {unit}" if unit else value

    def _check_range(self, number: float, value: object) -> None:
        low, high = self._show(self.minimum), self._show(self.maximum)
        if self.above and number <= self.minimum:
            raise wrong(f"must be more than {low}, not {value}.")
        if number < self.minimum:
            raise wrong(f"must be at least {low}, not {value}.")
        if number > self.maximum:
            percent = self.dimension == "fraction" and isinstance(value, int | float)
            raise wrong(
                f"must be at most {high}, not {value}.",
                f'Did you mean "{value} %"?' if percent else "",
            )

    def _show(self, number: float) -> str:
        match self.dimension:
            case "fraction":
                return units.format_fraction(number)
            case "time":
                return units.format_time(number) if number else "0"
            case dimension:
                return f"{units.format_number(number)} {SI_UNITS[dimension]}".strip()

    def _unreadable(self, error: UnitError, value: object) -> PydanticCustomError:
        """The unit parser's complaint, with "{key} is a time" for its "a time is expected"."""
        problem, _, expected = error.message.rpartition(": ")
        kind = expected.removesuffix(" is expected,")
        if not problem or kind == expected:
            return wrong(error.message, error.hint)
        hint = error.hint
        if self.dimension == "time" and "no unit" in problem:
            hint = _time_suggestion(float(str(value).replace("_", "").replace(",", "")))
        return wrong(f"{problem}: {{key}} is {kind},", hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedQuantity(Quantity):
    """A length, or a share of the prompt; a number written back is a share up to 1."""

    dimension: units.Dimension = "tokens"

    def __get_pydantic_core_schema__(
        self, _source: object, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Read the value with `read_part`."""
        return core_schema.no_info_plain_validator_function(self.read_part)

    def read_part(self, value: object) -> CachedPart:
        """Text like "300 tokens" or "40 %" -> the cached part."""
        if isinstance(value, str) and value.rstrip().endswith(("%", "percent")):
            share = _SHARE.read(value)
            return CachedPart(share=share if isinstance(share, float) else None)
        if isinstance(value, float) and 0 < value < 1:
            raise wrong(f"is {value:g} of a token:", f'write a share as "{value * 100:g} %".')
        amount = self.read(value)
        return CachedPart(amount=amount if isinstance(amount, TokenAmount) else None)

    def write(self, value: float) -> str | float:
        """A share up to 1, tokens beyond."""
        return f"{value * 100!r} %" if value <= 1 else f"{value!r} tokens"


_SHARE = Quantity(dimension="fraction", maximum=1)


def _time_suggestion(number: float) -> str:
    seconds, milliseconds = f'"{number:g} s"', f'"{number:g} ms"'
    if abs(number) <= SECONDS_NOT_MS:
        return f'for example {seconds} or "{number * 1000:g} ms".'
    return f'for example {milliseconds} or "{number / 1000:g} s".'


def _read_text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise wrong("must be a text.")
    text = str(value).strip()
    if not text:
        raise wrong("is empty.", "Remove it or give it a value.")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise wrong(f"is longer than {MAX_TEXT_CHARACTERS} characters.")
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text):
        raise wrong("holds a control character or a line break.")
    return text


def _read_switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise wrong(f'must be true or false, not "{value}".')
    return value


def _listed(value: object) -> object:
    """One value stands for a list of one."""
    if value in ([], ()):
        raise wrong("is empty.", "Remove it or name at least one.")
    return value if isinstance(value, list | tuple) else [value]


Text = Annotated[str, PlainValidator(_read_text)]
Switch = Annotated[bool, PlainValidator(_read_switch)]
OneOrMany = BeforeValidator(_listed)

Time = Annotated[float, Quantity(dimension="time")]
PositiveTime = Annotated[float, Quantity(dimension="time", above=True)]
HoursOfDay = Annotated[
    float, Quantity(dimension="time", above=True, maximum=float(units.SECONDS_PER_DAY))
]
Size = Annotated[float, Quantity(dimension="bytes")]
Length = Annotated[TokenAmount, Quantity(dimension="tokens")]
PositiveLength = Annotated[TokenAmount, Quantity(dimension="tokens", above=True)]
Cached = Annotated[CachedPart, CachedQuantity()]
Rate = Annotated[float, Quantity(dimension="rate", above=True)]
TokenSpeed = Annotated[float, Quantity(dimension="token_rate", above=True)]
Share = Annotated[float, Quantity(dimension="fraction", above=True, maximum=1)]
Headroom = Annotated[float, Quantity(dimension="fraction", maximum=10)]
Variation = Annotated[float, Quantity(dimension="fraction", maximum=20)]
Money = Annotated[float, Quantity(dimension="price", above=True)]
Amount = Annotated[float, Quantity(dimension="count")]
PositiveAmount = Annotated[float, Quantity(dimension="count", above=True)]
Factor = Annotated[float, Quantity(dimension="count", minimum=1, maximum=1000)]
Percentile = Annotated[float, Quantity(dimension="count", minimum=50, maximum=99.9999)]
WordsPerToken = Annotated[float, Quantity(dimension="count", minimum=0.05, maximum=5)]
Count = Annotated[int, Quantity(dimension="count", whole=True)]
PositiveCount = Annotated[int, Quantity(dimension="count", minimum=1, whole=True)]
Counts = Annotated[tuple[PositiveCount, ...], OneOrMany]
Texts = Annotated[tuple[Text, ...], OneOrMany]
