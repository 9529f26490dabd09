"""What a load is, whatever it is put on: clients are conserved, arrivals come, nothing is lost."""

import asyncio
from dataclasses import replace
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.measurement.load.parts import (
    FailingTarget,
    Kept,
    LawTarget,
    Seen,
    hold,
    single_prompts,
)
from tonnage.errors import InputError, UsageError
from tonnage.measurement.load import Conversation, Level, Message, Prompt, Record
from tonnage.measurement.load.loops import (
    PAUSE_AFTER_FAILURE_S,
    _of_clients,
    arrivals,
    drive,
    share,
)

CLOSED = Level(name="c", concurrency=2, requests=99)
OPEN = Level(name="r", rate_per_s=2000.0, requests=100)


def phases(records, phase):
    return [each for each in records if each.phase == phase]


# ── closed ──────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None, max_examples=40)
@given(
    concurrency=st.integers(1, 12),
    requests=st.integers(1, 60),
    warmups=st.integers(0, 20),
    shards=st.integers(1, 4),
)
def test_shards_of_a_closed_load_are_exactly_the_load(concurrency, requests, warmups, shards):
    level = Level(name="c", concurrency=concurrency, requests=requests, warmup_requests=warmups)
    records: list[Record] = []
    items: list[str] = []
    clients = 0
    for shard in range(shards):
        target = LawTarget()
        kept = hold(level, target, shard=shard, shards=shards)
        assert target.most_in_flight <= share(concurrency, shard, shards)
        assert len(target.prompts) == len(kept)
        clients += target.most_in_flight
        items += [each.item for each in target.prompts]
        records += kept
    assert len(phases(records, "measured")) == requests
    assert len(phases(records, "warmup")) == warmups
    assert clients <= concurrency
    assert len(set(items)) == len(items)


def test_every_client_is_busy_until_there_is_nothing_left_to_send():
    target = LawTarget(lambda _: 0.005)
    records = hold(Level(name="c", concurrency=7, requests=35), target)
    assert target.most_in_flight == 7
    assert len(records) == len(target.prompts) == 35


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 300), st.integers(1, 20))
def test_shares_add_up_and_follow_the_clients(requests, clients, shards):
    parts = [_of_clients(requests, shard, shards, clients) for shard in range(shards)]
    assert sum(parts) == requests
    for shard, part in enumerate(parts):
        mine = share(clients, shard, shards)
        assert abs(part - requests * mine / clients) <= mine


def test_a_client_is_due_when_it_has_its_answer_and_has_thought():
    level = Level(name="c", concurrency=1, requests=6, think_time_s=0.01)
    records = hold(level, LawTarget(lambda _: 0.002))
    for before, after in pairwise(records):
        end_s = before.sent_unix_s + before.e2e_s
        assert after.scheduled_unix_s == pytest.approx(end_s + 0.01, abs=1e-5)
        assert after.lateness_s >= 0


class ThoughtAlready(LawTarget):
    """Says of its first answer that it came an hour ago."""

    def outcome(self, prompt, sent_s, end_s):
        outcome = super().outcome(prompt, sent_s, end_s)
        outcome.end_s -= 3600.0 if prompt.item == "0" else 0.0
        return outcome


def test_clients_that_still_think_do_not_hold_up_the_end():
    level = Level(name="c", concurrency=2, requests=3, think_time_s=3600.0)
    slow_at_first = ThoughtAlready(lambda in_flight: 0.05 if in_flight == 1 else 0.0)
    assert [each.item for each in hold(level, slow_at_first)] == ["1", "0", "2"]
    briefly = Level(name="c", concurrency=2, duration_s=0.05, think_time_s=3600.0)
    assert len(hold(briefly, LawTarget())) == 2


def test_seconds_of_warm_up_and_ramp_are_in_no_measurement():
    level = Level(name="c", concurrency=4, duration_s=0.1, warmup_s=0.02, ramp_s=0.08)
    records = hold(level, LawTarget(lambda _: 0.005))
    warm, measured = phases(records, "warmup"), phases(records, "measured")
    begin_s = warm[0].scheduled_unix_s
    assert min(each.sent_unix_s for each in measured) >= begin_s + 0.08
    span_s = measured[-1].sent_unix_s - measured[0].sent_unix_s
    assert 0.03 < span_s <= 0.1 + 0.005
    firsts = sorted(each.scheduled_unix_s for each in records)[:1]
    assert firsts[0] == begin_s


def test_clients_start_one_after_the_other_over_a_ramp():
    target = LawTarget(lambda _: 3600.0)
    level = Level(name="c", concurrency=4, requests=99, ramp_s=0.2)
    records = hold(level, target, stop_after=lambda: target.in_flight == 4)
    starts = sorted(each.scheduled_unix_s for each in records)
    assert [start - starts[0] for start in starts] == pytest.approx([0, 0.05, 0.1, 0.15], abs=1e-6)


def test_a_server_that_refuses_is_not_asked_without_a_pause():
    level = Level(name="c", concurrency=1, requests=2)
    first, second = hold(level, FailingTarget("refused"))
    free_s = first.sent_unix_s + first.e2e_s + PAUSE_AFTER_FAILURE_S
    assert second.scheduled_unix_s == pytest.approx(free_s, abs=1e-5)


def test_prompts_that_end_end_the_load():
    level = Level(name="c", concurrency=3, requests=100)
    assert len(hold(level, LawTarget(), conversations=islice(single_prompts(), 10))) == 10


# ── conversations ───────────────────────────────────────────────────────────────────────────────


def talks(number, turns):
    return iter(
        [
            Conversation(
                turns=tuple(
                    Prompt(item=f"{talk}.{turn}", text=f"q{turn}", session=str(talk), turn=turn)
                    for turn in range(turns)
                )
            )
            for talk in range(number)
        ]
    )


@pytest.mark.parametrize("level", [replace(CLOSED, concurrency=2), OPEN])
def test_later_turns_come_after_what_was_really_answered(level):
    target = LawTarget()
    records = hold(level, target, conversations=talks(3, 3))
    assert len(records) == 9
    last = next(each for each in target.prompts if each.item == "1.2")
    assert last.history == (
        Message(role="user", content="q0"),
        Message(role="assistant", content="answer to q0"),
        Message(role="user", content="q1"),
        Message(role="assistant", content="answer to q1"),
    )
    assert {(each.session, each.turn) for each in records} == {
        (str(talk), turn) for talk in range(3) for turn in range(3)
    }


@pytest.mark.parametrize("level", [replace(CLOSED, concurrency=1), OPEN])
def test_a_turn_that_fails_ends_its_conversation(level):
    target = FailingTarget("timeout", fails=lambda prompt: prompt.item == "0.1")
    records = hold(level, target, conversations=talks(2, 3))
    assert sorted(each.item for each in records) == ["0.0", "0.1", "1.0", "1.1", "1.2"]


# ── open ────────────────────────────────────────────────────────────────────────────────────────


LEVELS = st.builds(
    Level,
    name=st.just("r"),
    rate_per_s=st.floats(0.5, 500),
    arrivals=st.sampled_from(["constant", "poisson", "gamma"]),
    cv=st.floats(0.3, 3),
    requests=st.none() | st.integers(1, 200),
    duration_s=st.floats(0.1, 5),
    warmup_requests=st.integers(0, 30),
    warmup_s=st.floats(0, 3),
    ramp_s=st.floats(0, 3),
    seed=st.integers(0, 2**32),
)


@settings(deadline=None)
@given(level=LEVELS, shards=st.integers(1, 5))
def test_shards_of_an_open_load_merge_to_the_one_process(level, shards):
    whole = list(arrivals(level, single_prompts()))
    merged = [
        arrival
        for shard in range(shards)
        for arrival in arrivals(level, single_prompts(shard, shards), shard=shard, shards=shards)
    ]
    assert sorted(merged, key=lambda each: int(each[2].turns[0].item)) == whole
    times_s = [time_s for time_s, _, _ in whole]
    assert times_s == sorted(times_s)
    measured = [time_s for time_s, phase, _ in whole if phase == "measured"]
    if measured:
        assert measured[0] >= max(level.warmup_s, level.ramp_s)
        assert measured[-1] - measured[0] <= level.duration_s + 1e-9
        assert len(measured) <= (level.requests or len(measured))
    assert len(whole) - len(measured) >= min(level.warmup_requests, len(whole))


def test_a_duration_counts_from_the_end_of_the_warm_up():
    level = Level(
        name="r", rate_per_s=10.0, arrivals="constant", warmup_requests=20, duration_s=1.05
    )
    times_s = [each for each, phase, _ in arrivals(level, single_prompts()) if phase == "measured"]
    assert times_s == pytest.approx([2.1 + number / 10 for number in range(10)])


@settings(deadline=None, max_examples=50)
@given(st.floats(1, 20), st.integers(20, 200))
def test_over_a_ramp_the_rate_rises_linearly(ramp_s, rate_per_s):
    level = Level(
        name="r",
        rate_per_s=rate_per_s,
        arrivals="constant",
        ramp_s=ramp_s,
        duration_s=ramp_s,
    )
    times_s = [time_s for time_s, _, _ in arrivals(level, single_prompts())]
    for part in (0.25, 0.5, 1.0):
        came = sum(time_s <= part * ramp_s for time_s in times_s)
        assert came == pytest.approx(rate_per_s * ramp_s * part**2 / 2, abs=1.01)
    after = sum(time_s > ramp_s for time_s in times_s)
    assert after == pytest.approx(rate_per_s * ramp_s, abs=1.01)


@pytest.mark.parametrize("target", [LawTarget(lambda _: 0.3), FailingTarget("timeout")])
def test_arrivals_come_whatever_became_of_earlier_ones(target):
    level = Level(name="r", rate_per_s=1000.0, requests=100, seed=3)
    records = hold(level, target)
    assert len(records) == len(target.prompts) == 100
    due_s = sorted(each.scheduled_unix_s for each in records)
    planned_s = [time_s for time_s, _, _ in arrivals(level, single_prompts())]
    gaps_s = [each - due_s[0] for each in due_s]
    assert gaps_s == pytest.approx([each - planned_s[0] for each in planned_s], abs=1e-5)
    assert all(each.lateness_s >= 0 for each in records)


def test_all_of_an_open_load_is_in_flight_when_nothing_is_answered():
    target = LawTarget(lambda _: 3600.0)
    records = hold(OPEN, target, stop_after=lambda: target.most_in_flight == 100)
    assert len(records) == 100


def test_a_client_that_is_behind_still_reads_answers():
    level = Level(name="r", rate_per_s=1e6, arrivals="constant", requests=2000)
    target = LawTarget()
    assert len(hold(level, target)) == 2000
    assert target.most_in_flight < 2000


def test_a_recording_is_replayed_as_it_was():
    times_s = [0.0, 0.01, 0.01, 0.05]

    def recording():
        return iter(
            [
                Conversation(turns=(Prompt(item=str(i), text="q"),), arrival_s=time_s)
                for i, time_s in enumerate(times_s)
            ]
        )

    level = Level(name="trace", arrivals="trace")
    records = hold(level, LawTarget(), conversations=recording())
    due_s = [each.scheduled_unix_s for each in records]
    assert [each - due_s[0] for each in due_s] == pytest.approx(times_s, abs=1e-5)
    with pytest.raises(UsageError, match="no recording"):
        hold(level, LawTarget())


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50), st.integers(0, 20), st.integers(0, 20), st.integers(1, 4))
def test_shards_of_a_recording_measure_what_is_asked_for(length, warmups, requests, shards):
    level = Level(name="t", arrivals="trace", warmup_requests=warmups, requests=requests)
    found = []
    for shard in range(shards):
        mine = iter(
            [
                Conversation(turns=(Prompt(item=str(i), text=""),), arrival_s=i / 10)
                for i in range(shard, length, shards)
            ]
        )
        found += list(arrivals(level, mine, shard=shard, shards=shards))
    assert sorted(int(each.turns[0].item) for _, phase, each in found if phase == "warmup") == (
        list(range(min(warmups, length)))
    )
    if length >= warmups + requests + shards:
        assert sum(phase == "measured" for _, phase, _ in found) == requests


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(InputError, match="above 0"):
        hold(Level(name="r", requests=3), LawTarget())


# ── stopping, bugs, watching ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("level", [replace(CLOSED, concurrency=5), OPEN])
def test_stopped_what_is_in_flight_is_kept_as_stopped(level):
    target = LawTarget(lambda in_flight: 0.0 if in_flight < 5 else 3600.0)
    records = hold(level, target, stop_after=lambda: target.in_flight >= 5)
    stopped = [each for each in records if each.failure == "stopped"]
    assert stopped
    assert target.in_flight == 0
    assert len(records) == len(target.prompts)


def test_stopped_before_it_begins_nothing_is_sent():
    async def holding():
        stop = asyncio.Event()
        stop.set()
        target, level = LawTarget(), Level(name="c", concurrency=3, requests=9)
        await drive(level, target, single_prompts(), Kept(), Seen(), stop)
        assert target.prompts == []

    asyncio.run(holding())


class BuggyTarget(LawTarget):
    def outcome(self, prompt, sent_s, end_s):
        if prompt.item == "20":
            raise ZeroDivisionError
        return super().outcome(prompt, sent_s, end_s)


@pytest.mark.parametrize("level", [replace(CLOSED, concurrency=4), OPEN])
def test_a_bug_surfaces_after_what_had_finished_is_kept(level):
    target, kept = BuggyTarget(), Kept()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(drive(level, target, single_prompts(), kept, Seen(), asyncio.Event()))
    assert {str(number) for number in range(20)} <= {each.item for each in kept}
    assert len(kept) == len(target.prompts) - 1


def test_a_keeper_that_cannot_keep_ends_the_load():
    class Full(Kept):
        def keep(self, record):
            if len(self) == 5:
                raise InputError("cannot be written: no space left.")
            super().keep(record)

    level = Level(name="c", concurrency=1, requests=99)
    target = LawTarget()
    with pytest.raises(InputError, match="no space left"):
        asyncio.run(drive(level, target, single_prompts(), Full(), Seen(), asyncio.Event()))
    assert len(target.prompts) == 6


def test_a_watch_is_told_a_few_times_a_second_and_at_the_end():
    async def holding():
        seen, level = Seen(), Level(name="c", concurrency=2, duration_s=0.6, warmup_requests=2)
        target = FailingTarget("http", fails=lambda p: p.item == "4", law=lambda _: 0.01)
        kept = Kept()
        await drive(level, target, single_prompts(), kept, seen, asyncio.Event())
        return seen, phases(kept, "measured")

    seen, measured = asyncio.run(holding())
    assert 2 <= len(seen) <= 4
    last = seen[-1]
    assert (last.phase, last.in_flight, last.failed) == ("measured", 0, 1)
    assert last.finished == len(measured) - 1
    assert 0.6 <= last.elapsed_s < 5
    assert last.e2e_s
    assert last.requests_per_s > 0


# ── cool-down ───────────────────────────────────────────────────────────────────────────────────


def end_of(record):
    return record.sent_unix_s + record.e2e_s


class SlowAtFirst(LawTarget):
    """Takes `first_s` for its first prompt, and 5 ms for any other."""

    def __init__(self, first_s):
        super().__init__()
        self.first_s = first_s

    async def send(self, prompt):
        seconds = 0.005 if self.prompts else self.first_s
        self.law = lambda _: seconds
        return await super().send(prompt)


@pytest.mark.parametrize(
    "level",
    [
        Level(name="c", concurrency=4, requests=40, cooldown=True),
        Level(name="r", rate_per_s=200.0, arrivals="constant", requests=20, cooldown=True),
    ],
)
def test_the_load_goes_on_until_what_is_measured_has_ended(level):
    records = hold(level, SlowAtFirst(0.12))
    measured, cooled = phases(records, "measured"), phases(records, "cooldown")
    assert len(measured) == level.requests
    assert cooled
    last_s = max(map(end_of, measured))
    # the clocks of the two are read one after the other
    assert max(each.sent_unix_s for each in cooled) < last_s + 0.01
    assert min(each.sent_unix_s for each in cooled) > max(each.sent_unix_s for each in measured)
    if level.concurrency:
        at_s = last_s - 0.001
        assert sum(each.sent_unix_s < at_s < end_of(each) for each in records) == 4
    assert not phases(hold(replace(level, cooldown=False), SlowAtFirst(0.12)), "cooldown")


@pytest.mark.parametrize(
    "level",
    [
        Level(name="c", concurrency=4, requests=8, cooldown=True),
        Level(name="r", rate_per_s=400.0, arrivals="constant", requests=8, cooldown=True),
    ],
)
def test_one_answer_that_does_not_come_prolongs_no_load_for_long(level):
    records = hold(level, SlowAtFirst(0.6))
    sent = [each.sent_unix_s for each in records]
    assert max(map(end_of, records)) - min(sent) > 0.5
    assert max(sent) - min(sent) < 0.3


def test_whoever_thinks_after_the_end_does_so_in_vain():
    level = Level(name="c", concurrency=3, duration_s=0.05, think_time_s=3600.0, cooldown=True)
    assert len(hold(level, LawTarget())) == 3
