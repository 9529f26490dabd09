"""An arrival process and a seed -> when requests arrive: so many, or without end.

Gaps between arrivals are independent draws of one gamma distribution, whose shape 1 / cv^2 makes
the exponential of a Poisson process at cv 1 and bursts above. The first request comes after the
first gap, never at 0, so that every process of one rate brings as many in the same time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from tonnage.errors import InputError
from tonnage.traffic import Arrivals, RateProfile
from tonnage.traffic.streams import stream

_BLOCK = 1024  # times drawn at once by the iterator
_STEADY_CV = 1e-6  # below, gaps differ by less than any clock shows
_MAX_CV = 1e3  # above, almost every gap of a gamma is zero in floating point


def arrival_times_s(arrivals: Arrivals, *, seed: int) -> Iterator[float]:
    """Seconds from the start of the load, endless and never decreasing; same seed, same times.

    Raises InputError for a rate or a cv that no process has.
    """
    draw = _drawing(arrivals, seed)
    return chain.from_iterable(draw(count).tolist() for count in repeat(_BLOCK))


def draw_arrivals_s(
    arrivals: Arrivals, count: int, *, seed: int, profile: RateProfile | None = None
) -> NDArray[np.float64]:
    """The first `count` of `arrival_times_s`, bent to `profile` when there is one.

    Raises InputError for a rate or a cv that no process has.
    """
    times_s = _drawing(arrivals, seed)(count)
    return times_s if profile is None else _bend(times_s, profile)


def _drawing(arrivals: Arrivals, seed: int) -> Callable[[int], NDArray[np.float64]]:
    """What gives the next so many times at each call; how they are split changes none of them."""
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
    drawn, last_s = 0, 0.0
    generator = np.random.default_rng(stream(seed, "arrivals"))

    def steady(count: int) -> NDArray[np.float64]:
        nonlocal drawn
        drawn += count
        return np.arange(drawn - count + 1, drawn + 1) / rate_per_s

    def varied(count: int) -> NDArray[np.float64]:
        nonlocal last_s
        gaps_s = generator.gamma(cv**-2, cv**2 / rate_per_s, count)
        times_s = np.cumsum(np.concatenate(([last_s], gaps_s)))[1:]
        last_s = times_s[-1] if count else last_s
        return times_s

    return steady if cv < _STEADY_CV else varied


def _bend(times_s: NDArray[np.float64], profile: RateProfile) -> NDArray[np.float64]:
    """Times of a steady rate -> times of a rate that follows `profile`, of the same mean.

    t = F^-1(s), where F(t) is the integral from 0 to t of factor / its mean. Within a piece all
    gaps are divided by its factor, so they keep their variation; a piece of factor 0 has none.
    """
    period_s = profile.period_s
    offsets_s = np.append(profile.offset_s, period_s)
    shares = np.asarray(profile.factor) / max(profile.factor)
    through_s = np.concatenate(([0.0], np.cumsum(np.diff(offsets_s) * shares)))
    through_s *= period_s / through_s[-1]
    periods, within_s = np.divmod(times_s, period_s)
    bent_s = periods * period_s + np.interp(within_s, through_s, offsets_s)
    return np.maximum.accumulate(bent_s)  # rounding may step back where two pieces meet
