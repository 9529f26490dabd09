"""A scaled recording comes so many times as often, and is as bursty as is said of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.errors import InputError
from tonnage.traffic import Arrivals, Requests
from tonnage.traffic.arrivals import draw_arrivals_s
from tonnage.traffic.scaling import scale_trace
from tonnage.traffic.traces import load_trace_requests

SAMPLES = Path(__file__).parent / "samples"


def sample(name: str) -> Requests:
    return load_trace_requests(SAMPLES / name).requests


def bursts(cv: float, count: int) -> Requests:
    arrival_s = draw_arrivals_s(Arrivals(kind="gamma", rate_per_s=1.0, cv=cv), count, seed=1)
    ones = np.ones(count, np.int64)
    return Requests(arrival_s=arrival_s, prompt_tokens=np.arange(1, count + 1), output_tokens=ones)


def prefixes(requests: Requests) -> list[list[int]]:
    assert requests.prefix_ids is not None
    assert requests.prefix_start is not None
    return [each.tolist() for each in np.split(requests.prefix_ids, requests.prefix_start[1:-1])]


def variation(requests: Requests) -> float:
    gaps_s = np.diff(requests.arrival_s)
    return float(gaps_s.std() / gaps_s.mean())


@pytest.mark.parametrize(
    "name", ["azure2023_code.csv", "azure2023_conv.csv", "mooncake_conversation.csv"]
)
@given(factor=st.floats(1e-2, 1e2))
def test_dividing_gaps_keeps_all_but_the_rate(name, factor):
    requests = sample(name)
    scaled = scale_trace(requests, factor)
    assert scaled.arrival_s[-1] * factor == pytest.approx(requests.arrival_s[-1])
    assert variation(scaled) == pytest.approx(variation(requests))
    assert scaled.prompt_tokens is requests.prompt_tokens
    assert scaled.prefix_ids is requests.prefix_ids
    assert (np.diff(scaled.arrival_s) >= 0).all()


@pytest.mark.parametrize("factor", [0.1, 0.5])
@pytest.mark.parametrize("cv", [0.0, 1.0, 3.0])
def test_thinning_keeps_the_clock_and_dilutes_bursts_as_said(cv, factor):
    requests = bursts(cv, 200_000)
    thinned = scale_trace(requests, factor, by="thinning", seed=5)
    kept = len(thinned) / len(requests)
    assert kept == pytest.approx(factor, abs=5 * math.sqrt(factor * (1 - factor) / 200_000))
    assert thinned.arrival_s[-1] == pytest.approx(requests.arrival_s[-1], rel=1e-3)
    # squared variation of the gaps, which is the index of dispersion of a renewal process
    assert variation(thinned) ** 2 == pytest.approx(1 + factor * (cv**2 - 1), rel=0.1)


@given(st.floats(0.05, 1), st.integers(0, 2**32))
def test_thinning_keeps_whole_requests_with_the_prefixes_they_share(factor, seed):
    requests = sample("mooncake_conversation.csv")
    thinned = scale_trace(requests, factor, by="thinning", seed=seed)
    again = scale_trace(requests, factor, by="thinning", seed=seed)
    assert thinned.arrival_s.tolist() == again.arrival_s.tolist()
    rows = [
        *zip(
            requests.arrival_s.tolist(),
            requests.prompt_tokens.tolist(),
            requests.output_tokens.tolist(),
            strict=True,
        )
    ]
    kept = [
        *zip(
            thinned.arrival_s.tolist(),
            thinned.prompt_tokens.tolist(),
            thinned.output_tokens.tolist(),
            strict=True,
        )
    ]
    assert {*kept} <= {*rows}
    chosen = [rows.index(row) for row in kept]
    before, after = prefixes(requests), prefixes(thinned) if kept else []
    renamed = dict(
        pair
        for index, ids in zip(chosen, after, strict=True)
        for pair in zip(before[index], ids, strict=True)
    )
    assert [[renamed[each] for each in before[index]] for index in chosen] == after
    assert sorted(renamed.values()) == [*range(len(renamed))]


@pytest.mark.parametrize(
    ("factor", "by"),
    [(0.0, "gaps"), (-1.0, "gaps"), (math.nan, "gaps"), (math.inf, "gaps"), (1.1, "thinning")],
)
def test_a_factor_that_cannot_be_is_refused(factor, by):
    with pytest.raises(InputError, match="factor is"):
        scale_trace(bursts(1.0, 10), factor, by=by)
