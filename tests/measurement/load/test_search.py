"""A search finds what a known law says, in few probes, and claims nothing it has not proved."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tonnage.measurement import Point
from tonnage.measurement.load.search import (
    MOST_STEPS,
    TRIES,
    Goal,
    Probe,
    Verdict,
    enclose,
    judge,
    next_load,
    result_of,
)

LIMITS = {"ttft_p95_s": 1.0}


def search(verdict_at, start, *, whole, tolerance_fraction=0.05):
    probes: list[Probe] = []
    how = Goal(start=start, whole=whole, tolerance_fraction=tolerance_fraction)
    while (load := next_load(probes, how)) is not None:
        assert load > 0
        assert len(probes) <= TRIES * (MOST_STEPS + 16)
        if whole:
            assert load == int(load)
        probes.append(Probe(load=load, verdict=verdict_at(load, len(probes)), reason="law"))
    return result_of(probes, how)


@settings(deadline=None)
@given(
    truth=st.floats(0.01, 1e4),
    start=st.floats(0.1, 1e3).map(lambda rate: float(f"{rate:.3g}")),
    tolerance_fraction=st.sampled_from([0.01, 0.05, 0.2]),
)
def test_the_highest_rate_is_found_within_the_tolerance(truth, start, tolerance_fraction):
    found = search(
        lambda load, _: "kept" if load <= truth else "broken",
        start,
        whole=False,
        tolerance_fraction=tolerance_fraction,
    )
    assert found.finished
    assert found.kept is not None
    assert found.broken is not None
    assert found.kept <= truth < found.broken
    assert found.broken <= found.kept * (1 + tolerance_fraction)
    steps = abs(math.log2(truth / start)) + math.log2(math.log(2) / math.log1p(tolerance_fraction))
    assert len(found.probes) <= steps + 4
    assert len({each.load for each in found.probes}) == len(found.probes)


@settings(deadline=None)
@given(truth=st.integers(0, 5000), start=st.integers(1, 500))
def test_the_highest_number_of_clients_is_found(truth, start):
    found = search(lambda load, _: "kept" if load <= truth else "broken", start, whole=True)
    assert found.finished
    if truth == 0:
        assert (found.kept, found.broken) == (None, 1)
        return
    assert found.kept is not None
    assert found.broken is not None
    assert found.kept <= truth < found.broken
    assert found.broken - found.kept <= max(1, 0.05 * found.kept)


def test_limits_that_are_never_reached_end_the_search_and_are_said_to_be():
    found = search(lambda *_: "kept", 8, whole=True)
    assert (found.broken, found.finished) == (None, True)
    assert found.notes == ("the limits were never reached: they may be looser than they look",)
    nothing = search(lambda *_: "broken", 8.0, whole=False)
    assert (nothing.kept, nothing.finished) == (None, True)


@settings(deadline=None)
@given(
    truth=st.floats(1, 1000),
    doubtful=st.sets(st.integers(0, 30)),
    start=st.floats(1, 100),
    answers=st.lists(st.booleans(), min_size=100, max_size=100),
)
def test_nothing_is_claimed_that_is_not_proved(truth, doubtful, start, answers):
    """Some probes prove nothing, others may even be wrong by chance."""

    def verdict(load, number):
        if number in doubtful:
            return "unclear"
        return "kept" if (load <= truth) is not answers[number] else "broken"

    found = search(verdict, float(f"{start:.3g}"), whole=False)
    kept = [each.load for each in found.probes if each.verdict == "kept"]
    broken = [each.load for each in found.probes if each.verdict == "broken"]
    if found.kept is not None:
        assert found.kept in kept
        assert all(each > found.kept for each in broken)
    for each in found.probes:
        assert [other.load for other in found.probes].count(each.load) <= TRIES


def test_an_unclear_load_is_tried_again_and_then_not_gone_beyond():
    how = Goal(start=8.0, whole=False)
    kept, unclear = (
        Probe(load=8.0, verdict="kept"),
        Probe(load=16.0, verdict="unclear", reason="the client was late by 30 ms at p99"),
    )
    assert next_load([kept, unclear], how) == 16.0
    assert next_load([kept, unclear, Probe(load=16.0, verdict="kept")], how) == 32.0
    following = next_load([kept, unclear, unclear], how)
    assert following is not None
    assert 8.0 < following < 16.0
    assert result_of([kept, unclear, unclear], how).notes == (
        "nothing is proved at 16: the client was late by 30 ms at p99",
    )


def test_a_limit_that_a_request_alone_breaks_is_sought_at_no_lower_load():
    how = Goal(start=8.0, whole=False)
    crowded = Probe(load=8.0, verdict="broken", reason="late")
    alone = replace(crowded, load=0.5, alone=True)
    assert next_load([crowded], how) == 4.0
    assert next_load([crowded, alone], how) is None
    found = result_of([crowded, alone], how)
    assert (found.kept, found.broken, found.finished) == (None, 0.5, True)
    for in_flight, by_itself in ((0.05, True), (0.5, False), (None, False)):
        point = Point(ttft_p95_s=2.0, in_flight_mean_requests=in_flight)
        assert judge(0.5, point, LIMITS).alone is by_itself


def test_what_was_only_doubted_when_a_search_was_stopped_is_not_called_broken():
    how = Goal(start=8.0, whole=False)
    doubted = Probe(load=8.0, verdict="unclear", reason="late")
    found = result_of([doubted], how)
    assert (found.kept, found.broken, found.finished) == (None, None, False)


def test_what_was_kept_above_a_broken_load_proves_nothing():
    verdicts: dict[float, Verdict] = {4: "kept", 8: "broken", 16: "kept"}
    probes = [Probe(load=load, verdict=verdict) for load, verdict in verdicts.items()]
    assert enclose(probes) == (4, 8)


# ── verdicts ────────────────────────────────────────────────────────────────────────────────────


def late_at_rate(lateness_p99_s):
    """A level of 50 s at a rate whose client was late."""
    return {
        "request_rate_target_per_s": 4.0,
        "duration_s": 50.0,
        "client_bound": True,
        "lateness_p99_s": lateness_p99_s,
    }


@pytest.mark.parametrize(
    ("point", "verdict", "reason"),
    [
        (Point(ttft_p95_s=1.0), "kept", ""),
        (Point(ttft_p95_s=1.01), "broken", "TTFT p95 is 1.01 s, the limit 1 s"),
        (Point(ttft_p95_s=0.1, failed=2, failures={"http": 2}), "broken", "2 failed (http)"),
        (Point(ttft_p95_s=0.1, overloaded=True), "broken", "latency grows"),
        (Point(ttft_p95_s=9.0, client_bound=True, lateness_p99_s=0.03), "unclear", "was late by"),
        (Point(**late_at_rate(0.94), ttft_p95_s=0.05), "kept", ""),
        (Point(**late_at_rate(0.94), ttft_p95_s=0.07), "unclear", "too near"),
        (Point(**late_at_rate(0.5), ttft_p95_s=1.4), "unclear", "too near"),
        (Point(**late_at_rate(0.5), ttft_p95_s=1.6), "broken", "the limit"),
        (Point(**late_at_rate(1.1), ttft_p95_s=0.05), "unclear", "was late by"),
        (Point(ttft_p95_s=0.95, stable=False, e2e_batch_means_cv=0.2), "unclear", "too near"),
        (Point(ttft_p95_s=1.15, stable=False, e2e_batch_means_cv=0.2), "unclear", "too near"),
        (Point(ttft_p95_s=0.8, stable=False, e2e_batch_means_cv=0.2), "kept", ""),
        (Point(ttft_p95_s=1.3, stable=False, e2e_batch_means_cv=0.2), "broken", "the limit"),
        (Point(ttft_p95_s=0.95, stable=True, e2e_batch_means_cv=0.09), "kept", ""),
        (Point(), "unclear", "TTFT p95 was not measured"),
    ],
)
def test_a_level_is_judged_by_what_it_proves(point, verdict, reason):
    probe = judge(4.0, point, LIMITS)
    assert probe.verdict == verdict
    assert reason in probe.reason
    assert bool(probe.reason) == bool(reason)
