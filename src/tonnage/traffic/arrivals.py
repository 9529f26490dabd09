"""An arrival process and a seed -> when requests arrive, without end.

Gaps between arrivals are independent draws of one gamma distribution, whose shape 1 / cv^2 makes
the exponential of a Poisson process at cv 1 and bursts above. The first request comes after the
first gap, never at 0, so that every process of one rate brings as many in the same time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import numpy as np

from tonnage.errors import InputError
from tonnage.traffic import Arrivals

_BLOCK = 1024  # gaps drawn at once
_STEADY_CV = 1e-6  # below, gaps differ by less than any clock shows
_MAX_CV = 1e3  # above, almost every gap of a gamma is zero in floating point


def arrival_times_s(arrivals: Arrivals, *, seed: int) -> Iterator[float]:
    """Seconds from the start of the load, endless and never decreasing; same seed, same times.

    Raises InputError for a rate or a cv that no process has.
    """
    rate_per_s = arrivals.rate_per_s
    cv = {"constant": 0.0, "poisson": 1.0, "gamma": arrivals.cv}[arrivals.kind]
    if not (0 < rate_per_s < math.inf):
        raise InputError(
            f"is {rate_per_s:g}, and must be above 0.",
            hint="For example 2.5 requests/s.",
            key="rate_per_s",
        )
    if not (0 <= cv <= _MAX_CV):
        raise InputError(
            f"is {cv:g}, and must lie between 0 (constant) and {_MAX_CV:g}.",
            hint="1 is Poisson, 3 is bursty.",
            key="cv",
        )
    if cv < _STEADY_CV:
        return (number / rate_per_s for number in count(1))
    return _gamma_times_s(rate_per_s, cv, seed)


def _gamma_times_s(rate_per_s: float, cv: float, seed: int) -> Iterator[float]:
    shape = cv**-2
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    now_s = 0.0
    while True:
        gaps_s = generator.gamma(shape, 1 / (shape * rate_per_s), _BLOCK)
        times_s = (now_s + np.cumsum(gaps_s)).tolist()
        yield from times_s
        now_s = times_s[-1]
