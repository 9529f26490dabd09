"""The load benchmark judges what it measured, and a real load passes through it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.load import Load, LoadGoal, LoadRow, Seen, format_loads, measure_here

GOAL = LoadGoal(ttft_error_p50_s=0.001, ttft_error_p99_s=0.01, cores=0.5, requests_per_s=100)
SEEN = Seen(
    requests=1000,
    failed=0,
    requests_per_s=100.0,
    ttft_error_p50_s=0.001,
    ttft_error_p99_s=0.01,
    cores=0.5,
    cpu_s_per_request=0.001,
)


@pytest.mark.parametrize(
    ("change", "met"),
    [
        ({}, True),
        ({"failed": 1}, False),
        ({"requests_per_s": 99.0}, False),
        ({"ttft_error_p50_s": 0.0011}, False),
        ({"ttft_error_p50_s": -0.0011}, False),  # too early is as wrong as too late
        ({"ttft_error_p99_s": 0.02}, False),
        ({"cores": 0.51}, False),
    ],
)
def test_a_goal_is_met_within_every_bound_and_without_failures(change, met):
    assert GOAL.met_by(replace(SEEN, **change)) is met


def test_what_was_not_measured_is_not_met_and_says_why():
    row = LoadRow(name="load", goal=GOAL, seen=None, problem="no server")
    assert not row.met
    assert "not measured: no server" in format_loads([row])


def test_a_small_load_is_measured():
    seen = measure_here(Load(clients=2, tokens=3, ttft_s=0.02, itl_s=0.01, duration_s=0.5))
    assert seen.failed == 0
    assert 2 <= seen.requests <= 2 * 0.5 / 0.04 + 4
    assert -1e-4 < seen.ttft_error_p50_s < 0.5
    assert 0 < seen.cpu_s_per_request < 1
