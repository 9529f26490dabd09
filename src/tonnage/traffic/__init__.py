"""A seed, or a trace -> when requests arrive and how long they are.

Shared by the load generator and the simulator, so that both feed a server the same traffic. The
vocabulary: `Arrivals` is a process of an open load, which a `RateProfile` bends to the time of day;
a `TracedRequest` is one row of a recording, `Requests` many requests as columns, and `Traffic` such
columns with what is to be said of them. `arrivals` draws times, `profiles` reads a time of day,
`draws` draws whole requests, `traces` reads recordings and writes one, `forms` knows how each tool
writes them, `scaling` makes more or less of a recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_TOKENS = 10**8  # of one request: far beyond any context, far below where integers overflow


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
class RateProfile:
    """The rate over its mean, in pieces that repeat every `period_s`.

    Piece i begins `offset_s[i]` after the period does and lasts until the next; the first begins at
    0. `factor` is dimensionless, not negative, and of any mean above zero: only its ratios count.
    """

    offset_s: tuple[float, ...]
    factor: tuple[float, ...]
    period_s: float


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requests:
    """Requests in the order they come, as columns of one length n.

    `arrival_s` never decreases (f8; ignored under `Clients`); `prompt_tokens` and `output_tokens`
    are at least 1 (i8). `cached_tokens` of each prompt skip prefill without any prefix cache
    (assumed hits; they occupy KV). With prefixes, prompt i begins with the blocks
    `prefix_ids[prefix_start[i]:prefix_start[i + 1]]` of `prefix_block_tokens` each, the last one
    perhaps shorter; ids number the distinct blocks from 0.
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    cached_tokens: NDArray[np.int64] | None = None
    prefix_ids: NDArray[np.int64] | None = None
    prefix_start: NDArray[np.int64] | None = None
    prefix_block_tokens: int = 512

    def __len__(self) -> int:
        """How many requests."""
        return len(self.arrival_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traffic:
    """Requests, and in words what was done to them: cut to a context, left out as failed."""

    requests: Requests
    notes: tuple[str, ...] = ()
