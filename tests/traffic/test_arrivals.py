"""Arrivals are what they are called, come at the rate that is stated and never go back."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.errors import InputError
from tonnage.traffic import Arrivals, RateProfile
from tonnage.traffic.arrivals import arrival_times_s, draw_arrivals_s

ARRIVALS = 40_000
STANDARD_ERRORS = 5  # beyond five, one run in two million fails by chance; the seeds are fixed

processes = st.builds(
    Arrivals,
    kind=st.sampled_from(["constant", "poisson", "gamma"]),
    rate_per_s=st.floats(1e-3, 1e5),
    cv=st.floats(0, 20),
)


def gaps_s(arrivals: Arrivals, seed: int) -> np.ndarray:
    times_s = np.fromiter(islice(arrival_times_s(arrivals, seed=seed), ARRIVALS), float)
    return np.diff(times_s, prepend=0.0)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("cv", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("rate_per_s", [0.5, 200.0])
def test_rate_and_variation_are_those_stated(rate_per_s, cv, seed):
    arrivals = Arrivals(kind="gamma", rate_per_s=rate_per_s, cv=cv)
    if cv == 1.0:
        arrivals = Arrivals(kind="poisson", rate_per_s=rate_per_s)
    gaps = gaps_s(arrivals, seed)
    shape = cv**-2
    mean_error = cv / math.sqrt(ARRIVALS)
    # Var(s^2) = sigma^4 (kurtosis - 1) / n, kurtosis of a gamma 3 + 6 / shape; s moves by half that
    deviation_error = math.sqrt((2 + 6 / shape) / ARRIVALS) / 2
    assert gaps.mean() * rate_per_s == pytest.approx(1, abs=STANDARD_ERRORS * mean_error)
    assert gaps.std() * rate_per_s / cv == pytest.approx(1, abs=STANDARD_ERRORS * deviation_error)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_poisson_gaps_are_exponential_and_do_not_remember(seed):
    gaps = gaps_s(Arrivals(kind="poisson", rate_per_s=4.0), seed) * 4.0
    # Kolmogorov and Smirnov: sup |F_n - F| sqrt(n) exceeds 2.2 once in 8,000
    expected = 1 - np.exp(-np.sort(gaps))
    distance = np.max(np.abs(expected - (np.arange(ARRIVALS) + 0.5) / ARRIVALS))
    assert distance * math.sqrt(ARRIVALS) < 2.2
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < STANDARD_ERRORS / math.sqrt(ARRIVALS)


@given(st.floats(1e-3, 1e5), st.integers(0, 2**32))
def test_a_constant_process_keeps_its_beat(rate_per_s, seed):
    times_s = list(
        islice(arrival_times_s(Arrivals(kind="constant", rate_per_s=rate_per_s), seed=seed), 5000)
    )
    assert times_s == [number / rate_per_s for number in range(1, 5001)]
    steady = Arrivals(kind="gamma", rate_per_s=rate_per_s, cv=0.0)
    assert times_s == list(islice(arrival_times_s(steady, seed=seed), 5000))


@given(processes, st.integers(0, 2**64), st.integers(1, 3000))
def test_times_are_finite_never_go_back_and_follow_from_the_seed(arrivals, seed, count):
    times_s = list(islice(arrival_times_s(arrivals, seed=seed), count))
    assert all(math.isfinite(time_s) and time_s >= 0 for time_s in times_s)
    assert times_s == sorted(times_s)
    assert times_s == list(islice(arrival_times_s(arrivals, seed=seed), count))


@given(st.floats(0.01, 20), st.integers(0, 2**64))
def test_another_seed_gives_other_times(cv, seed):
    bursts = Arrivals(kind="gamma", rate_per_s=1.0, cv=cv)
    times_s, others_s = (
        list(islice(arrival_times_s(bursts, seed=each), 100)) for each in (seed, seed + 1)
    )
    assert times_s != others_s


@given(st.floats(0.01, 1000), st.integers(0, 1000))
def test_the_rate_only_stretches_time(rate_per_s, seed):
    at_one = np.array(
        list(islice(arrival_times_s(Arrivals(kind="poisson", rate_per_s=1.0), seed=seed), 100))
    )
    at_rate = list(
        islice(arrival_times_s(Arrivals(kind="poisson", rate_per_s=rate_per_s), seed=seed), 100)
    )
    assert at_rate == pytest.approx(at_one / rate_per_s)


@pytest.mark.parametrize("rate_per_s", [0.0, -1.0, math.inf, math.nan])
def test_a_rate_that_none_has_is_refused(rate_per_s):
    with pytest.raises(InputError, match="rate_per_s"):
        arrival_times_s(Arrivals(kind="poisson", rate_per_s=rate_per_s), seed=0)


@pytest.mark.parametrize("cv", [-0.1, math.inf, math.nan])
def test_a_variation_that_none_has_is_refused(cv):
    with pytest.raises(InputError, match="cv"):
        arrival_times_s(Arrivals(kind="gamma", rate_per_s=1.0, cv=cv), seed=0)


# ── so many at once, and by the time of day ──


@given(processes, st.integers(0, 2**64), st.integers(0, 3000))
def test_so_many_times_are_the_first_of_the_endless_ones(arrivals, seed, count):
    endless = list(islice(arrival_times_s(arrivals, seed=seed), count))
    assert draw_arrivals_s(arrivals, count, seed=seed).tolist() == endless


def hourly(*factors: float) -> RateProfile:
    return RateProfile(
        offset_s=tuple(3600.0 * hour for hour in range(len(factors))),
        factor=factors,
        period_s=3600.0 * len(factors),
    )


profiles = (
    st.lists(st.floats(0, 1e3), min_size=1, max_size=24)
    .filter(any)
    .map(lambda factors: hourly(*factors))
)


@given(processes, profiles, st.integers(0, 2**32), st.integers(1, 2000))
def test_a_time_of_day_keeps_times_in_order_and_every_period_full(arrivals, profile, seed, count):
    steady_s = draw_arrivals_s(arrivals, count, seed=seed)
    times_s = draw_arrivals_s(arrivals, count, seed=seed, profile=profile)
    assert np.isfinite(times_s).all()
    assert (np.diff(times_s, prepend=0.0) >= 0).all()
    # as much of the load has gone by at the end of each period as without a profile
    inside = np.abs(steady_s % profile.period_s / profile.period_s - 0.5) < 0.4999
    periods = (times_s // profile.period_s)[inside]
    assert periods.tolist() == (steady_s // profile.period_s)[inside].tolist()


@given(processes, st.floats(1e-3, 1e3), st.integers(0, 2**32))
def test_an_even_profile_changes_nothing_whatever_its_unit(arrivals, factor, seed):
    even = draw_arrivals_s(arrivals, 500, seed=seed, profile=hourly(factor, factor, factor))
    assert even == pytest.approx(draw_arrivals_s(arrivals, 500, seed=seed), rel=1e-9)


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_a_piece_has_its_share_of_the_load_and_the_variation_of_the_process(cv):
    factors = (0.5, 2.0, 0.0, 1.5)
    rate_per_s = 5.0
    arrivals = Arrivals(kind="gamma", rate_per_s=rate_per_s, cv=cv)
    times_s = draw_arrivals_s(arrivals, 400_000, seed=3, profile=hourly(*factors))
    piece = (times_s // 3600).astype(int)
    whole_days = piece < piece[-1] // 4 * 4
    days = piece[-1] // 4
    for number, factor in enumerate(factors):
        mine = times_s[whole_days & (piece % 4 == number)]
        expected = rate_per_s * factor * 3600 * days
        # the count of a renewal process has a variance of cv^2 times its mean, for long times
        assert len(mine) == pytest.approx(expected, abs=5 * cv * math.sqrt(expected) + 5)
        if factor:
            gaps_s = np.diff(mine)
            gaps_s = gaps_s[gaps_s < 3600]  # those within a piece
            assert gaps_s.mean() * rate_per_s * factor == pytest.approx(1, rel=0.05)
            assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.05)
