"""Flags as they were typed -> values with their units, every mistake named after its flag."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tonnage.cli.flags import Told, read_quantity
from tonnage.errors import UsageError
from tonnage.spelling import nearest
from tonnage.units import parse_count, parse_fraction, parse_time_s, parse_tokens

Parser = Callable[[str], float]


class Asked:
    """What was told, read by the name of its flag; None where nothing was."""

    def __init__(self, told: Told) -> None:
        self._told = {flag.name: value for flag, value in told.items()}

    def __contains__(self, name: str) -> bool:
        """Whether the flag was given."""
        return name in self._told

    def text(self, name: str) -> str | None:
        """The value as it was typed."""
        value = self._told.get(name)
        return value if isinstance(value, str) else None

    def texts(self, name: str) -> tuple[str, ...]:
        """The values of a flag that may be repeated."""
        return tuple(self._told.get(name, ()))

    def choice(self, name: str, among: Sequence[str]) -> str | None:
        """One of `among`."""
        text = self.text(name)
        if text is None or text in among:
            return text
        meant = nearest(text, among) or among
        raise UsageError(f'{name} "{text}" is not one.', hint=f"Did you mean {' or '.join(meant)}?")

    def time_s(self, name: str, *, zero: bool = False) -> float | None:
        """A time above 0, or also 0, in seconds."""
        return self.quantity(name, parse_time_s, zero=zero)

    def share(self, name: str) -> float | None:
        """A number from 0 up."""
        return self.quantity(name, parse_fraction, zero=True)

    def count(self, name: str, *, zero: bool = False) -> int | None:
        """A whole number above 0, or also 0."""
        return self._whole(name, self.quantity(name, parse_count, zero=zero))

    def tokens(self, name: str) -> int | None:
        """A whole number of tokens above 0."""
        return self._whole(name, self.quantity(name, parse_tokens))

    def quantity(self, name: str, parse: Parser, *, zero: bool = False) -> float | None:
        """What `parse` makes of it: a finite number above 0, or also 0."""
        text = self.text(name)
        if text is None:
            return None
        return read_quantity(text, flag=name, parse=parse, zero=zero)

    def _whole(self, name: str, value: float | None) -> int | None:
        if value is not None and value != int(value):
            raise UsageError(f"{name} must be a whole number, not {self.text(name)}.")
        return None if value is None else int(value)
