"""A load in periods: the queue may grow by day, and must be gone by the next."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.queueing.test_kernel import served_engine
from tonnage.queueing.simulation import Requests, SimulatedFleet
from tonnage.queueing.simulation.simulate import simulate
from tonnage.queueing.simulation.statistics import summarise

DAY_S = 1000.0
WARM_UP = 500


def requests_at(arrival_s: NDArray[np.float64]) -> Requests:
    n = len(arrival_s)
    return Requests(
        arrival_s=arrival_s, prompt_tokens=np.full(n, 200), output_tokens=np.full(n, 50)
    )


def days_of(rate_per_s: float, *, days: int) -> Requests:
    """Evenly spaced at twice the rate for three tenths of a day, at 4/7 of it for the rest."""
    night = np.array([0.3, 1.0]) * DAY_S
    sent = np.array([0.6, 1.0]) * rate_per_s * DAY_S
    turns = np.arange(days) * DAY_S
    at_s = np.concatenate([[0.0], (turns[:, None] + night).ravel()])
    count = np.concatenate([[0.0], (turns[:, None] * rate_per_s + sent).ravel()])
    n = int(count[-1])
    return requests_at(np.interp(np.arange(n) + 0.5, count, at_s))


@pytest.mark.parametrize(("load", "stable"), [(0.6, True), (0.9, True), (1.1, False), (1.5, False)])
def test_a_queue_may_grow_by_day_and_not_from_day_to_day(load, stable):
    fleet = SimulatedFleet(engine=served_engine(max_num_seqs=4))
    alone = simulate(fleet, requests_at(np.zeros(2000)))
    capacity_per_s = 2000 / np.nanmax(alone.records.last_token_s)
    rate_per_s = load * capacity_per_s
    requests = days_of(rate_per_s, days=3)
    counted = int(rate_per_s * DAY_S)
    run = simulate(fleet, requests)
    told = summarise(run, (), counted=(WARM_UP, WARM_UP + counted), cyclic=True).stability
    assert told.stable == stable
    if not stable:
        assert told.growth_requests_per_s == pytest.approx(rate_per_s - capacity_per_s, rel=0.1)
