"""A seed, or a trace -> when requests arrive and how long they are.

Shared by the load generator and the simulator, so that both feed a server the same traffic. The
vocabulary: `Arrivals` is a process of an open load, a `TracedRequest` one row of a recording.
`arrivals` draws times, `traces` reads recordings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Requests that come without waiting for answers, `rate_per_s` of them on average.

    `cv` is the standard deviation of the gap between two arrivals over its mean: 0 for "constant",
    1 for "poisson", what is stated for "gamma" (above 1: bursts).
    """

    kind: Literal["constant", "poisson", "gamma"]
    rate_per_s: float
    cv: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRequest:
    """One request of a recording: when it came, counted from the first, and how long it was.

    `prefix_blocks` are ids of the leading blocks of its prompt, all full but the last; two requests
    that share leading ids share that much of their prompts. A length that is None was not recorded.
    """

    arrival_s: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    prefix_blocks: tuple[int, ...] = ()
