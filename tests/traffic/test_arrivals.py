"""Arrivals are what they are called, come at the rate that is stated and never go back."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.errors import InputError
from tonnage.traffic import Arrivals
from tonnage.traffic.arrivals import arrival_times_s

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
