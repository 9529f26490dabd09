"""Statistics of records: what is counted, what is left out, and when a level is to be doubted."""

import math
import re
from dataclasses import replace
from heapq import heappop, heappush

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.measurement.load.parts import LawTarget, hold, known
from tonnage.measurement.load import Level, LlmCall, Record
from tonnage.measurement.load.points import point_of
from tonnage.units import format_time

CLOSED = Level(name="c", concurrency=4, requests=100)
OPEN = Level(name="r", rate_per_s=10.0, requests=100)


def record(sent_s=0.0, e2e_s=1.0, *, tokens=None, **fields):
    """A request; its `tokens` come evenly, the last one at its end."""
    token_s = tuple(e2e_s * (each + 1) / tokens for each in range(tokens)) if tokens else ()
    return Record(
        **{
            "level": "x",
            "phase": "measured",
            "item": "1",
            "scheduled_unix_s": sent_s,
            "lateness_s": 0.0,
            "e2e_s": e2e_s,
            "token_s": token_s,
            "output_tokens": tokens,
            **fields,
        }
    )


def lockstep(clients, rounds, *, e2e_s=2.0, **fields):
    return [
        record(number * e2e_s, e2e_s, **fields) for number in range(rounds) for _ in range(clients)
    ]


# ── latencies ───────────────────────────────────────────────────────────────────────────────────


def test_latencies_are_what_they_are_called():
    token_s = (0.5, 0.7, 1.1)
    seen = record(0.0, 1.5, token_s=token_s, output_tokens=6, prompt_tokens=10)
    point = point_of(CLOSED, [seen])
    assert point.ttft_p50_s == 0.5
    assert point.tpot_mean_s == pytest.approx((1.5 - 0.5) / 5)
    assert point.itl_mean_s == pytest.approx(0.3)
    assert point.e2e_p99_s == 1.5
    assert (point.input_tokens_mean, point.output_tokens_mean) == (10, 6)
    assert (point.requests, point.ttft_samples, point.tpot_samples, point.itl_samples) == (
        *(1, 1, 1),
        2,
    )


def test_there_is_no_pace_in_one_token_or_one_piece():
    for seen in (record(tokens=1), record(token_s=(0.9,), output_tokens=50), record()):
        point = point_of(CLOSED, [seen])
        assert (point.tpot_mean_s, point.tpot_samples, point.itl_mean_s) == (None, 0, None)
    assert point.ttft_mean_s is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=80), st.randoms(), st.integers(1, 4))
def test_percentiles_are_of_all_requests_however_they_were_shared_out(times_s, random, shards):
    records = [
        record(index, each, tokens=2, shard=index % shards) for index, each in enumerate(times_s)
    ]
    mixed = sorted(records, key=lambda _: random.random())
    point = point_of(CLOSED, mixed)
    for each in (50, 90, 95, 99):
        expected = float(np.percentile(times_s, each))
        assert getattr(point, f"e2e_p{each}_s") == pytest.approx(expected)
    in_order = point_of(CLOSED, records)
    assert point.requests == in_order.requests == len(times_s)
    assert point.output_tokens_per_s == pytest.approx(in_order.output_tokens_per_s)


def test_warm_up_and_failed_requests_are_in_no_latency():
    records = [
        record(0, 50.0, tokens=9, phase="warmup"),
        record(50, 1.0, tokens=5),
        record(51, 70.0, tokens=3, failure="timeout"),
        record(52, 0.1, failure="http", status=503),
        record(53, 0.1, failure="http", status=500, stale_retries=2),
    ]
    point = point_of(CLOSED, records)
    assert (point.requests, point.failed, point.interrupted) == (1, 3, True)
    assert point.failures == {"http": 2, "timeout": 1}
    assert point.stale_retries == 2
    assert (point.e2e_p99_s, point.ttft_samples) == (1.0, 1)
    assert "3 of 4 failed (2 http, 1 timeout); in no percentile" in point.notes
    assert point.total_runtime_s == pytest.approx(71.0)


def test_of_nothing_there_are_no_statistics():
    for records in ([], [record(phase="warmup")], [record(failure="refused")]):
        point = point_of(CLOSED, records)
        assert (point.requests, point.interrupted, point.e2e_mean_s) == (0, True, None)
        assert point.notes


def test_a_workflow_has_its_own_runtime_and_calls():
    def call(latency_s, **fields):
        return LlmCall(id="a", started_unix_s=5.0, ended_unix_s=5.0 + latency_s, **fields)

    records = [
        record(0, 3.0, runtime_s=2.5, llm_calls=(call(1.0), call(2.0))),
        record(1, 9.0, llm_calls=(call(3.0), call(90.0, failure="timeout"))),
        record(2, 50.0, failure="workflow", llm_calls=(call(50.0),)),
    ]
    point = point_of(CLOSED, records)
    assert point.llm_calls == 3
    assert point.llm_latency_p95_s == pytest.approx(np.percentile([1, 2, 3], 95))
    assert point.workflow_runtime_p95_s == pytest.approx(np.percentile([2.5, 9], 95))
    plain = [record(0, 3.0)]
    assert point_of(CLOSED, plain).workflow_runtime_p95_s is None
    assert point_of(CLOSED, plain, workflow=True).workflow_runtime_p95_s == 3.0


# ── the steady window ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("phase", ["measured", "warmup"])
def test_throughput_is_of_the_window_in_which_the_load_was_held(phase):
    records = lockstep(4, 5, tokens=10)
    records[:4] = [replace(each, phase=phase) for each in records[:4]]
    point = point_of(CLOSED, records)
    assert point.output_tokens_per_s == pytest.approx(4 * 10 / 2.0)
    assert point.requests_per_s == pytest.approx(4 / 2.0)
    assert point.in_flight_mean_requests == pytest.approx(4)
    assert point.duration_s == pytest.approx(8.0 if phase == "measured" else 6.0)


def test_what_failed_is_no_throughput_but_was_in_flight():
    records = lockstep(4, 5, tokens=10)
    records[::4] = [replace(each, failure="truncated") for each in records[::4]]
    point = point_of(CLOSED, records)
    assert point.output_tokens_per_s == pytest.approx(3 * 10 / 2.0)
    assert point.requests_per_s == pytest.approx(3 / 2.0)
    assert point.in_flight_mean_requests == pytest.approx(4)


def test_a_level_shorter_than_an_answer_is_counted_whole():
    point = point_of(CLOSED, lockstep(4, 1, tokens=10))
    assert point.duration_s == point.total_runtime_s == 2.0
    assert point.output_tokens_per_s == pytest.approx(20.0)


def test_tokens_of_answers_that_are_not_streamed_come_at_their_end():
    point = point_of(CLOSED, lockstep(1, 3, output_tokens=7))
    assert point.output_tokens_per_s == pytest.approx(7 / 2.0)
    assert point_of(CLOSED, lockstep(1, 3)).output_tokens_per_s is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0.01, 20)), min_size=2, max_size=60))
def test_littles_law_holds_for_what_began_and_ended_in_the_window(times):
    inside = [record(10 + sent_s, e2e_s) for sent_s, e2e_s in times]
    first, last = record(10 - 1e-3, 1e-3), record(200, 1e-3)
    point = point_of(OPEN, [first, *inside, last])
    mean_s = math.fsum(each.e2e_s for each in [first, *inside]) / (len(inside) + 1)
    assert point.requests_per_s is not None
    assert point.in_flight_mean_requests == pytest.approx(point.requests_per_s * mean_s, rel=1e-6)


def test_a_real_closed_load_holds_as_many_requests_as_it_has_clients():
    level = Level(name="c", concurrency=5, requests=200, warmup_requests=10)
    target = LawTarget(lambda _: 0.005, tokens=3)
    point = point_of(level, hold(level, target))
    assert point.requests == 200
    assert 4.0 < known(point.in_flight_mean_requests) <= 5.0
    assert known(point.requests_per_s) * known(point.e2e_mean_s) == pytest.approx(
        point.in_flight_mean_requests, rel=0.1
    )


# ── verdicts ────────────────────────────────────────────────────────────────────────────────────


def test_a_steady_level_is_stable_and_one_that_wanders_is_not():
    steady = point_of(CLOSED, [record(each, 1 + 0.1 * (each % 2)) for each in range(200)])
    assert steady.stable is True
    assert steady.notes == ()
    wanders = point_of(CLOSED, [record(each, 1 + (each // 50) % 2) for each in range(200)])
    assert wanders.stable is False
    means_s = [1, 1, 1.5, 2, 2, 1, 1, 1.5, 2, 2]
    assert wanders.e2e_batch_means_cv == pytest.approx(np.std(means_s, ddof=1) / np.mean(means_s))
    (note,) = wanders.notes
    assert note == (
        "the standard deviation of 10 batch means of E2E is 31 % of their mean:"
        " raise --duration or --requests"
    )
    assert point_of(CLOSED, [record(each) for each in range(19)]).stable is None


def test_a_backlog_that_grows_is_overload():
    """One server of 0.11 s, ten arrivals a second: each waits 10 ms longer than the last."""
    queue = [record(each / 10, 0.11 + each * 0.01) for each in range(100)]
    point = point_of(OPEN, queue)
    assert point.overloaded is True
    assert "not stable at this rate: latency grows for as long as it lasts" in point.notes
    assert point_of(CLOSED, queue).overloaded is None
    assert point_of(OPEN, [record(each / 10, 0.09) for each in range(100)]).overloaded is False


def test_chance_is_rarely_taken_for_overload():
    rng = np.random.default_rng(1)
    found = [
        point_of(OPEN, [record(i, each) for i, each in enumerate(rng.exponential(1, 40))])
        for _ in range(200)
    ]
    assert sum(point.overloaded is True for point in found) <= 5


@pytest.mark.parametrize(
    ("late_s", "ttft_s", "bound"),
    [(0.004, 0.01, False), (0.006, 0.01, True), (0.006, 0.2, False), (0.011, 0.2, True)],
)
def test_a_client_that_was_late_is_said_to_be(late_s, ttft_s, bound):
    seen = [record(each, 1.0, lateness_s=late_s, token_s=(ttft_s, 1.0)) for each in range(100)]
    point = point_of(OPEN, seen)
    assert point.client_bound is bound
    assert any(f"late by {format_time(late_s)}" in note for note in point.notes) is bound


@pytest.mark.parametrize(("late", "bound"), [(1, False), (2, False), (4, True), (40, True)])
def test_a_single_late_request_does_not_speak_for_a_level(late, bound):
    seen = [
        record(each, 1.0, lateness_s=0.05 if each < late else 0.0, token_s=(0.1, 1.0))
        for each in range(40)
    ]
    point = point_of(OPEN, seen)
    assert point.client_bound is bound
    assert any("late by 50 ms at p95" in note for note in point.notes) is bound
    assert point.lateness_p99_s is not None
    assert point.lateness_p99_s > 0.02


@pytest.mark.parametrize(
    ("requests", "few"),
    [(9, "p90, p95 and p99"), (10, "p95 and p99"), (38, "p99"), (99, "p99"), (100, None)],
)
def test_a_percentile_of_too_few_requests_is_kept_and_said_to_be_an_extreme(requests, few):
    point = point_of(CLOSED, [record(each) for each in range(requests)])
    assert point.e2e_p99_s == 1.0
    said = [note for note in point.notes if "extreme" in note]
    assert len(said) == (few is not None)
    assert not few or re.search(f"requests: {few} (are extremes|is an extreme), not", said[0])


def test_clients_in_step_are_not_counted_one_round_too_many():
    """Ten rounds of 16 that all end a little after the others begin: 160 in ten times 0.2 s."""
    records = [
        replace(
            record(16 * turn + client),
            phase="warmup" if turn == 0 else "measured",
            scheduled_unix_s=1000.0 + 0.2 * turn + 0.0001 * client,
            lateness_s=0.0,
            e2e_s=0.2,
        )
        for turn in range(12)
        for client in range(16)
    ]
    assert point_of(CLOSED, records).requests_per_s == pytest.approx(80, rel=0.01)


def test_what_the_server_said_is_told_the_commonest_first():
    said = ["no room"] * 3 + ["bad key"] * 2 + ["odd"]
    records = [
        replace(record(index), failure="http", status=503, error=error)
        for index, error in enumerate(reversed(said))
    ]
    notes = point_of(CLOSED, records).notes
    assert notes == (
        "6 of 6 failed (6 http); in no percentile",
        "failed with: no room",
        "failed with: bad key",
    )


# ── the steady window ───────────────────────────────────────────────────────────────────────────


def queue(arrivals_s, *, slots, service_s, **fields):
    """Records of a queue that is served first come first served, in the order of arrival."""
    free_s = [0.0] * slots
    found = []
    for at_s in arrivals_s:
        begin_s = max(heappop(free_s), at_s)
        heappush(free_s, begin_s + service_s)
        found.append(record(at_s, begin_s + service_s - at_s, **fields))
    return found


def closed_queue(clients, seconds, *, slots, service_s):
    """Records of clients that ask again at once; the first of each is its warm-up."""
    due = [(0.0, client) for client in range(clients)]
    free_s = [0.0] * slots
    found: list[Record] = []
    while due[0][0] < seconds:
        at_s, client = heappop(due)
        end_s = max(heappop(free_s), at_s) + service_s
        heappush(free_s, end_s)
        heappush(due, (end_s, client))
        phase = "warmup" if len(found) < clients else "measured"
        found.append(record(at_s, end_s - at_s, phase=phase, tokens=1))
    return found


@settings(deadline=None, max_examples=30)
@given(clients=st.integers(2, 64), slots=st.integers(1, 4), rounds=st.integers(2, 6))
def test_no_server_answers_more_than_it_can(clients, slots, rounds):
    """A waiting request is not half an answer, however many of them there are."""
    round_s = max(clients, slots) * 0.1 / slots
    level = replace(CLOSED, concurrency=clients)
    records = closed_queue(clients, (rounds + 1) * round_s, slots=slots, service_s=0.1)
    capacity = min(clients, slots) / 0.1
    assert known(point_of(level, records).requests_per_s) <= capacity * 1.01 + 0.5


def test_what_waits_in_a_backlog_is_not_answered():
    records = queue([each / 35 for each in range(350)], slots=2, service_s=0.1)
    point = point_of(OPEN, records)
    assert point.overloaded is True
    assert point.requests_per_s == pytest.approx(20, rel=0.03)


def test_later_turns_do_not_prolong_an_open_load():
    """Conversations of eight turns begin five times a second, for four seconds and a warm-up."""
    records = [
        record(
            begin / 5 + turn / 2,
            0.5,
            tokens=2,
            turn=turn,
            phase="warmup" if begin < 25 else "measured",
        )
        for begin in range(45)
        for turn in range(8)
    ]
    point = point_of(replace(OPEN, rate_per_s=5.0), records)
    assert point.duration_s == pytest.approx(3.8)
    assert point.requests_per_s == pytest.approx(40, rel=0.03)
    assert point.in_flight_mean_requests == pytest.approx(20, rel=0.03)


def test_a_warm_up_that_counts_no_tokens_does_not_hide_those_of_others():
    seen = [record(each / 10, 0.1, tokens=2) for each in range(10, 60)]
    before = record(0.0, 0.1, phase="warmup")
    assert point_of(CLOSED, [before, *seen]).output_tokens_per_s == pytest.approx(20, rel=0.05)
