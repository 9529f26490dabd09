"""What another tool saw request by request -> the statistics of a Point.

What a tool computed itself is carried over, never recomputed by guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tonnage.measurement.importers.reading import Place, finite
from tonnage.measurement.statistics import mean, spread
from tonnage.units import format_number

NO_TPOT = "no TPOT: it was computed with the other count"
OFF_FRACTION = 0.05  # chat templates and tokens of a stop make counts differ by less


@dataclass(slots=True)
class Samples:
    """What was seen request by request: one entry for each finished one, times in seconds."""

    ttft_s: list[float] = field(default_factory=list)
    tpot_s: list[float] = field(default_factory=list)
    itl_s: list[float] = field(default_factory=list)
    e2e_s: list[float] = field(default_factory=list)
    input_tokens: list[float] = field(default_factory=list)
    output_tokens: list[float] = field(default_factory=list)

    def add(
        self,
        place: Place,
        *,
        ttft_s: float | None,
        e2e_s: float | None,
        input_tokens: float | None,
        output_tokens: float | None,
        gaps_s: Sequence[float] = (),
    ) -> None:
        """Take in the finished request at `place`; TPOT = (e2e - ttft) / (output tokens - 1).

        TPOT is undefined for one token. A TTFT of zero is a request that was not streamed: it
        counts as missing. Raises InputError for an answer that ends before it begins.
        """
        if ttft_s and e2e_s is not None and e2e_s < ttft_s:
            place.refuse("ends before its first token.", hint="Was the file changed?")
        if ttft_s:
            self.ttft_s.append(ttft_s)
            self.itl_s += gaps_s
            if e2e_s is not None and output_tokens is not None and output_tokens > 1:
                self.tpot_s.append((e2e_s - ttft_s) / (output_tokens - 1))
        for values, value in (
            (self.e2e_s, e2e_s),
            (self.input_tokens, input_tokens),
            (self.output_tokens, output_tokens),
        ):
            if value is not None:
                values.append(value)

    def fields(self) -> dict[str, Any]:
        """The fields of a Point that follow from single requests."""
        return {
            **spread(self.ttft_s).fields("ttft"),
            **spread(self.tpot_s).fields("tpot"),
            **spread(self.itl_s).fields("itl"),
            **spread(self.e2e_s).fields("e2e"),
            "input_tokens_mean": mean(self.input_tokens),
            "output_tokens_mean": mean(self.output_tokens),
        }


def miscounted(tool: str, own: float | None, server: float | None) -> str:
    """What to say of a tool that counted the tokens of an answer by another tokenizer; else ""."""
    if own is None or not server or abs(own - server) <= OFF_FRACTION * server:
        return ""
    return (
        f"{tool} counted {format_number(own)} tokens an answer, the server {format_number(server)}:"
        " the server is believed"
    )


def ratio(amount: float | None, of: float | None) -> float | None:
    """`amount` / `of`, as tokens over a duration; None when either is not known or `of` is 0."""
    if amount is None or not of:
        return None
    return finite(amount / of)
