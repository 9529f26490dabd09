"""The measured curve: what is sound, what lies between two levels, and that nothing lies beyond."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tonnage.evidence import Evidence
from tonnage.measurement import Point
from tonnage.measurement.curve import MeasuredCurve, carried, fault, keeps, percentile_s
from tonnage.queueing import LatencyCurve
from tonnage.workload import Batch, ClosedLoad, OpenLoad, Promise

CLOSED = (
    Point(concurrency=8, requests_per_s=4.0, ttft_p95_s=0.8, e2e_mean_s=2.0),
    Point(concurrency=1, requests_per_s=1.0, ttft_p95_s=0.2, e2e_mean_s=1.0),
    Point(concurrency=4, requests_per_s=3.0, ttft_p95_s=0.4, e2e_mean_s=1.3),
)


def at_rate(rate: float) -> OpenLoad:
    return OpenLoad(requests_per_s_mean=rate, requests_per_s_peak=rate)


def test_a_measured_curve_is_a_latency_curve():
    curve: LatencyCurve = MeasuredCurve(CLOSED)
    assert curve.capacity_requests_per_s() == 4.0
    assert curve.at(at_rate(3.0)).evidence is Evidence.MEASURED


@pytest.mark.parametrize(
    ("rate", "ttft_p95_s"), [(1.0, 0.2), (2.0, 0.3), (3.0, 0.4), (3.5, 0.6), (4.0, 0.8), (0.1, 0.2)]
)
def test_between_two_levels_it_is_interpolated_and_below_the_lightest_it_stays(rate, ttft_p95_s):
    found = MeasuredCurve(CLOSED).at(at_rate(rate))
    assert found.percentiles["ttft_p95_s"] == pytest.approx(ttft_p95_s)
    assert found.percentiles["tpot_p95_s"] is None
    assert found.requests_per_s == rate
    assert ("lighter than any level" in found.regime) == (rate < 1)


def test_a_percentile_that_one_level_lacks_is_known_at_the_other_alone():
    curve = MeasuredCurve((CLOSED[1], Point(concurrency=2, requests_per_s=2.0, ttft_p99_s=0.5)))
    found = [curve.at(at_rate(rate)).percentiles for rate in (1.0, 1.5, 2.0)]
    assert [each["ttft_p95_s"] for each in found] == [0.2, None, None]
    assert [each["ttft_p99_s"] for each in found] == [None, None, 0.5]


def test_beyond_the_largest_sound_level_nothing_is_known():
    found = MeasuredCurve(CLOSED).at(at_rate(4.01))
    assert set(found.percentiles.values()) == {None}
    assert found.regime == "not measured beyond 4 requests/s"
    heavier = Point(concurrency=16, requests_per_s=6.0, ttft_p95_s=1.0, failed=3)
    assert MeasuredCurve((*CLOSED, heavier)).at(at_rate(5)).regime.startswith("not measured")


def test_clients_that_think_are_more_than_those_in_flight():
    curve = MeasuredCurve(CLOSED)
    four = CLOSED[2]
    assert carried(four, ClosedLoad(clients=1)) == 4
    assert carried(four, ClosedLoad(clients=1, think_time_s=10)) == 4 + 3.0 * 10
    assert carried(four, Batch(requests=1, deadline_s=1)) == 3.0
    found = curve.at(ClosedLoad(clients=34, think_time_s=10))
    assert found.percentiles["ttft_p95_s"] == pytest.approx(0.4)
    assert found.requests_per_s == pytest.approx(3.0)


def test_of_an_open_loop_the_clients_follow_from_rate_and_time():
    level = Point(request_rate_target_per_s=2.0, requests_per_s=1.9, e2e_mean_s=3.0)
    assert carried(level, ClosedLoad(clients=1)) == pytest.approx(1.9 * 3.0)
    assert carried(Point(requests_per_s=1.9), ClosedLoad(clients=1)) is None
    assert carried(Point(concurrency=4), ClosedLoad(clients=1, think_time_s=1)) is None


def test_past_saturation_a_level_is_no_part_of_the_front():
    over = Point(concurrency=32, requests_per_s=3.5, ttft_p95_s=9.0)
    curve = MeasuredCurve((*CLOSED, over))
    assert curve.points[-1] is over
    assert all(point is not over for point in curve.front)
    assert curve.at(at_rate(3.5)).percentiles["ttft_p95_s"] == pytest.approx(0.6)
    assert curve.at(ClosedLoad(clients=32)).percentiles["ttft_p95_s"] == 9.0


@pytest.mark.parametrize(
    ("point", "why"),
    [
        (Point(concurrency=1, failed=2, interrupted=True), "interrupted: 2 failed"),
        (Point(concurrency=1, interrupted=True), "interrupted"),
        (Point(concurrency=1, interrupted=True, stopped=True), "stopped"),
        (Point(concurrency=1, client_bound=True), "client-bound"),
        (Point(requests_per_s=1.0, overloaded=True), "overloaded"),
        (Point(concurrency=1, stable=False), "unstable"),
        (Point(request_rate_target_per_s=1.0), "neither a rate"),
    ],
)
def test_a_level_that_is_not_sound_is_set_aside_with_its_reason(point, why):
    assert fault(point).startswith(why)
    curve = MeasuredCurve((*CLOSED, point))
    assert [reason for _, reason in curve.unused] == [fault(point)]
    assert len(curve.points) == len(CLOSED)


def test_verdicts_that_nobody_gave_are_no_faults():
    told = {"stable": True, "client_bound": False, "overloaded": False}
    assert fault(Point(concurrency=1)) == fault(Point(concurrency=1, **told)) == ""  # type: ignore[arg-type]


def test_the_runtime_of_a_workflow_is_its_end_to_end_time():
    item = Point(concurrency=1, workflow_runtime_p95_s=7.0)
    assert percentile_s(item, "e2e", 95) == 7.0
    assert percentile_s(item, "e2e", 99) is None
    assert keeps(item, Promise(metric="e2e", percentile=95, limit_s=7.0))
    assert not keeps(item, Promise(metric="ttft", percentile=95, limit_s=99.0))


def test_of_no_sound_level_there_is_no_curve():
    curve = MeasuredCurve(())
    assert math.isnan(curve.capacity_requests_per_s())
    assert curve.at(at_rate(1)).regime == "not measured"


LEVELS = st.lists(
    st.builds(
        Point,
        concurrency=st.integers(1, 512),
        requests_per_s=st.floats(0.01, 1e3),
        ttft_p95_s=st.floats(0.001, 100),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda point: point.concurrency,
)


@given(LEVELS, st.floats(0.001, 1.2))
def test_a_figure_lies_between_those_of_two_levels_of_the_front(levels, share):
    curve = MeasuredCurve(levels)
    capacity = curve.capacity_requests_per_s()
    found = curve.at(at_rate(capacity * share)).percentiles["ttft_p95_s"]
    assert (found is None) == (share > 1 + 1e-9)
    if found is not None:
        seen = [point.ttft_p95_s or math.nan for point in curve.front]
        assert min(seen) - 1e-9 <= found <= max(seen) + 1e-9


@given(LEVELS)
def test_at_a_level_the_figure_is_the_one_measured(levels):
    curve = MeasuredCurve(levels)
    for point in curve.front:
        assert point.requests_per_s is not None
        found = curve.at(at_rate(point.requests_per_s))
        assert found.percentiles["ttft_p95_s"] == pytest.approx(point.ttft_p95_s)
        alone = curve.at(ClosedLoad(clients=point.concurrency or 0))
        assert alone.percentiles["ttft_p95_s"] == pytest.approx(point.ttft_p95_s)


@given(LEVELS)
def test_the_front_rises_in_load_and_in_rate(levels):
    front = MeasuredCurve(levels).front
    assume(len(front) > 1)
    rates = [point.requests_per_s or 0 for point in front]
    loads = [point.concurrency or 0 for point in front]
    assert rates == sorted(set(rates))
    assert loads == sorted(set(loads))
