"""A run folder holds what was measured whenever it is looked at, and each level once."""

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.measurement.load.parts import (
    FailingTarget,
    LawDriver,
    LawTarget,
    Seen,
    TimelessDriver,
    known,
)
from tests.servers.timed import timed_server
from tonnage.errors import InputError, UsageError
from tonnage.measurement.importers import import_run
from tonnage.measurement.load import Level, PromptSpec, Record, TargetSpec
from tonnage.measurement.load.campaign import (
    Campaign,
    Search,
    measure_levels,
    search_highest_load,
)
from tonnage.measurement.load.journal import read_records
from tonnage.measurement.load.local import LocalDriver, prompts_of
from tonnage.measurement.load.points import point_of
from tonnage.measurement.loop import run as run_on_loop
from tonnage.measurement.run import load_run
from tonnage.measurement.sweep import join_runs, usable_points

ROOT = Path(__file__).resolve().parents[3]
PROMPTS = PromptSpec(kind="synthetic", prompt_tokens=10, output_tokens=4)
LEVELS = tuple(
    Level(name=f"c{clients}", concurrency=clients, requests=4 * clients, warmup_requests=1)
    for clients in (1, 2, 4)
)
CAMPAIGN = Campaign(
    name="a run",
    target="an agent",
    prompts=PROMPTS,
    levels=LEVELS,
    model="m",
    gpus=8,
    facts={"dataset": "1234"},
)


class Interrupting(LawTarget):
    """Sets `stop` at its n-th prompt, which is then in flight."""

    def __init__(self, at):
        super().__init__()
        self.at = at
        self.stop = asyncio.Event()

    async def send(self, prompt):
        if len(self.prompts) + 1 == self.at:
            self.stop.set()
            self.prompts.append(prompt)
            await asyncio.sleep(3600)
        return await super().send(prompt)


def measure(folder, target=None, campaign=CAMPAIGN, **options):
    async def measuring():
        stop = getattr(target, "stop", asyncio.Event())
        driver = LawDriver(target or LawTarget())
        return await measure_levels(campaign, driver, folder, Seen(), stop, **options)

    return asyncio.run(measuring())


def search(folder, driver, start, limits, **options):
    campaign = replace(CAMPAIGN, levels=(), search=Search(start=start, limits=limits))

    async def searching():
        return await search_highest_load(campaign, driver, folder, Seen(), driver.stop, **options)

    return asyncio.run(searching())


def read_by_level(folder):
    """The points as whoever has only the records would make them."""
    by_level: dict[str, list[Record]] = {}
    for record in read_records(folder / "requests.jsonl"):
        by_level.setdefault(record.level, []).append(record)
    return by_level


# ── levels ──────────────────────────────────────────────────────────────────────────────────────


def test_every_level_is_measured_and_read_back_everywhere(tmp_path):
    target = LawTarget(lambda in_flight: 0.001 * in_flight)
    run = measure(tmp_path / "a" / "run", target)
    folder = tmp_path / "a" / "run"
    assert target.opened == 0
    assert [point.concurrency for point in run.points] == [1, 2, 4]
    assert [point.requests for point in run.points] == [4, 8, 16]
    assert (run.model, run.gpus, run.facts["dataset"]) == ("m", 8, "1234")
    assert load_run(folder) == import_run([folder]) == run
    levels = read_by_level(folder)
    for level, point in zip(CAMPAIGN.levels, run.points, strict=True):
        assert point_of(level, levels[point.level]) == point
    used, left_out = usable_points(join_runs([run], files=["run"]), "e2e_p95_s")
    assert [level for level, _ in used] == [1, 2, 4]
    assert left_out == ()


def test_a_finished_run_is_not_measured_again(tmp_path):
    first = measure(tmp_path)
    target = LawTarget()
    assert measure(tmp_path, target) == first
    assert target.prompts == []


@pytest.mark.parametrize("at", [1, 3, 6, 12, 20, 31])
def test_interrupted_anywhere_a_run_goes_on_and_counts_nothing_twice(tmp_path, at):
    first = measure(tmp_path, Interrupting(at))
    last = first.points[-1]
    assert last.stopped
    assert last.interrupted
    assert any("stopped before its end" in note for note in last.notes)
    assert load_run(tmp_path) == first
    done = [point for point in first.points if not point.stopped]
    second = measure(tmp_path)
    assert list(second.points[: len(done)]) == done
    assert [point.concurrency for point in second.points] == [1, 2, 4]
    assert [point.requests for point in second.points] == [4, 8, 16]
    assert not any(point.interrupted for point in second.points)
    assert second.created == first.created
    levels = read_by_level(tmp_path)
    assert len(levels) == 4
    for point in second.points:
        assert point.level in levels
        measured = Counter(each.phase for each in levels[point.level])
        assert measured == {"warmup": 1, "measured": point.requests}


def test_a_run_that_was_killed_between_two_levels_goes_on(tmp_path):
    """Killed inside a level there is an attempt, half of its records, and no point."""
    whole = measure(tmp_path, Interrupting(9))
    body = json.loads((tmp_path / "run.json").read_text())
    body["points"] = body["points"][:-1]
    (tmp_path / "run.json").write_text(json.dumps(body))
    with (tmp_path / "requests.jsonl").open("ab") as file:
        file.write(b'{"level":"c2","pha')
    run = measure(tmp_path)
    assert [point.level for point in run.points] == ["c1", "c2 again 1", "c4"]
    assert run.points[0] == whole.points[0]
    (tmp_path / "run.json").unlink()
    again = measure(tmp_path)
    assert [point.level for point in again.points] == ["c1 again 1", "c2 again 2", "c4 again 1"]


MEASURING = """
import sys
from pathlib import Path
from tests.measurement.load.parts import LawTarget
from tests.measurement.load.test_campaign import measure

measure(Path(sys.argv[1]), LawTarget(lambda _: 0.02))
"""


def test_killed_for_real_in_the_middle_a_run_goes_on(tmp_path):
    records = tmp_path / "requests.jsonl"
    command = [sys.executable, "-c", MEASURING, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            if records.exists() and records.read_bytes().count(b"\n") >= 8:  # 5 are all of c1
                process.kill()
    assert process.returncode == -signal.SIGKILL
    before = load_run(tmp_path).points
    run = measure(tmp_path)
    assert run.points[: len(before)] == before
    assert [point.requests for point in run.points] == [4, 8, 16]
    assert any("again" in str(point.level) for point in run.points)


def test_a_level_with_failures_is_measured_and_in_no_fit(tmp_path):
    target = FailingTarget("http", fails=lambda prompt: prompt.item == "8")
    run = measure(tmp_path, target)
    assert [point.interrupted for point in run.points] == [False, True, True]
    assert [point.failed for point in run.points] == [0, 1, 1]
    assert not any(point.stopped for point in run.points)
    assert measure(tmp_path, LawTarget()) == run
    used, left_out = usable_points(join_runs([run], files=["run"]), "e2e_p95_s")
    assert [level for level, _ in used] == [1]
    assert len(left_out) == 2


def test_where_nobody_listens_any_more_the_run_waits(tmp_path):
    target = FailingTarget("refused")
    target.fails = lambda _: len(target.prompts) > 5
    run = measure(tmp_path, target)
    assert [(point.concurrency, point.stopped) for point in run.points] == [(1, False), (2, True)]
    assert any("nobody listens" in note for note in run.points[-1].notes)
    assert [point.failed for point in measure(tmp_path).points] == [0, 0, 0]


def test_what_a_driver_raises_ends_the_run_with_what_there_is(tmp_path):
    class Lost(LawDriver):
        async def run(self, level, keeper, watch, stop):
            await super().run(level, keeper, watch, stop)
            if level.concurrency == 2:
                raise InputError("worker 2 is gone.")

    target = LawTarget()
    with pytest.raises(InputError, match="worker 2"):
        asyncio.run(measure_levels(CAMPAIGN, Lost(target), tmp_path, Seen(), asyncio.Event()))
    assert target.opened == 0
    points = load_run(tmp_path).points
    assert [(each.concurrency, each.requests, each.stopped) for each in points] == [
        (1, 4, False),
        (2, 8, True),
    ]


def test_the_model_is_the_one_that_answered(tmp_path):
    class Served(Interrupting):
        served = "a"

        @property
        def model(self):
            return self.served

    class ServesAnother(Served):
        served = "b"

    unstated = replace(CAMPAIGN, model=None)
    assert measure(tmp_path, Served(at=8), unstated).model == "a"
    with pytest.raises(InputError, match="model was a, is b"):
        measure(tmp_path, ServesAnother(at=0), unstated)
    assert load_run(tmp_path).model == "a"
    assert measure(tmp_path, Served(at=0), unstated).model == "a"


@pytest.mark.parametrize(("tokens", "told"), [(4, False), (90, True)])
def test_lengths_that_nobody_asked_for_are_told(tmp_path, tokens, told):
    """Answers of 4 tokens are asked for."""
    run = measure(tmp_path, LawTarget(tokens=tokens))
    said = f"answers have {tokens} tokens, where 4 were asked for"
    assert [said in point.notes for point in run.points] == [told] * 3


class CannotOpen(LawDriver):
    """A target that is not there."""

    async def open(self):
        raise InputError("does not exist.", file="agent.py")


def test_a_measurement_that_cannot_begin_leaves_no_folder(tmp_path):
    async def measuring(folder):
        driver = CannotOpen(LawTarget())
        return await measure_levels(CAMPAIGN, driver, folder, Seen(), driver.stop)

    with pytest.raises(InputError, match=r"agent\.py"):
        asyncio.run(measuring(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").touch()
    with pytest.raises(InputError, match=r"agent\.py"):
        asyncio.run(measuring(tmp_path / "mine"))
    assert (tmp_path / "mine" / "note").exists()


class NeverOpen(LawDriver):
    """Waits for a server that does not come."""

    async def open(self):
        await super().open()
        self.stop.set()
        await asyncio.sleep(3600)


def test_whoever_waits_for_the_target_can_be_stopped(tmp_path):
    driver = NeverOpen(LawTarget())

    async def measuring():
        return await measure_levels(CAMPAIGN, driver, tmp_path, Seen(), driver.stop)

    assert asyncio.run(asyncio.wait_for(measuring(), 10)).points == ()
    assert driver.target.opened == 0
    assert len(measure(tmp_path).points) == 3


# ── another campaign ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "n"}, 'model was "m", is "n"'),
        ({"gpus": None}, "gpus was 8, is not stated"),
        ({"facts": {"dataset": "9"}}, 'facts.dataset was "1234", is "9"'),
        ({"prompts": replace(PROMPTS, seed=1)}, "prompts.seed was 0, is 1"),
        (
            {"levels": (replace(CAMPAIGN.levels[0], requests=5), *CAMPAIGN.levels[1:])},
            "levels.c1.requests was 4, is 5",
        ),
    ],
)
def test_a_folder_of_another_campaign_is_refused_unless_forced(tmp_path, change, said):
    first = measure(tmp_path)
    before = (tmp_path / "run.json").read_text()
    other = replace(CAMPAIGN, **change)
    with pytest.raises(InputError, match="--force") as refused:
        measure(tmp_path, LawTarget(), other)
    assert said in str(refused.value)
    assert (tmp_path / "run.json").read_text() == before
    forced = measure(tmp_path, LawTarget(), other, force=True)
    assert forced.points == first.points
    assert f"mixed by force: {said}" in forced.notes
    assert measure(tmp_path, LawTarget(), other) == forced


def test_levels_may_be_added_and_those_that_are_there_stay(tmp_path):
    few, others = (replace(CAMPAIGN, levels=levels) for levels in (LEVELS[::2], LEVELS[1:]))
    first = measure(tmp_path, campaign=few)
    target = LawTarget()
    run = measure(tmp_path, target, others)
    assert [point.concurrency for point in run.points] == [1, 4, 2]
    assert run.points[:2] == first.points
    assert len(target.prompts) == 8 + 1
    assert measure(tmp_path, campaign=few) == measure(tmp_path) == run
    with pytest.raises(InputError, match=r"levels\.c1\.requests was 4, is 5"):
        measure(tmp_path, campaign=replace(CAMPAIGN, levels=(replace(LEVELS[0], requests=5),)))


def test_clients_and_rates_are_no_levels_of_one_run(tmp_path):
    first = measure(tmp_path)
    rates = replace(CAMPAIGN, levels=(Level(name="r9", rate_per_s=9.0, requests=5),))
    with pytest.raises(InputError, match="levels would be of a rate and of clients"):
        measure(tmp_path, campaign=rates)
    assert load_run(tmp_path) == first


def test_notes_need_not_agree_and_each_is_told_once(tmp_path):
    measure(tmp_path, LawTarget(), replace(CAMPAIGN, notes=("one",)))
    run = measure(tmp_path, LawTarget(), replace(CAMPAIGN, notes=("one", "two")))
    assert run.notes == ("one", "two")


@pytest.mark.parametrize("name", ["run.json", "requests.jsonl"])
def test_what_was_not_measured_here_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="not measured here"):
        measure(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 9999,
        '{"format": "tonnage-campaign/1", "attempts": [1], "levels": {}}',
        '{"format": "tonnage-campaign/1", "attempts": [], "levels": []}',
    ],
)
def test_a_campaign_that_cannot_be_read_is_said_to_be(tmp_path, text):
    (tmp_path / "campaign.json").write_text(text)
    with pytest.raises(InputError, match=r"campaign\.json"):
        measure(tmp_path)


def test_a_folder_cannot_be_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        measure(tmp_path / "run")


# ── the highest load ────────────────────────────────────────────────────────────────────────────

PROBE = Level(name="probe", concurrency=4, requests=40)
LIMITS = {"e2e_p50_s": 0.1}


def linear(clients):
    """4 ms for each client: 100 ms are kept up to 25 of them."""
    return 0.004 * clients


def test_the_highest_number_of_clients_is_found_and_every_probe_is_kept(tmp_path):
    run, found = search(tmp_path, TimelessDriver(linear), PROBE, LIMITS)
    assert (found.kept, found.broken, found.finished) == (25, 26, True)
    assert found.reason == "E2E p50 is 104 ms, the limit 100 ms"
    assert [point.concurrency for point in run.points][:4] == [4, 8, 16, 32]
    assert len(run.points) == len(found.probes) == len(read_by_level(tmp_path))
    driver = TimelessDriver(linear)
    assert search(tmp_path, driver, PROBE, LIMITS) == (run, found)
    assert driver.levels == []


def test_every_probe_warms_up_each_of_its_clients(tmp_path):
    driver = TimelessDriver(linear)
    search(tmp_path, driver, replace(PROBE, warmup_requests=8), LIMITS)
    assert len(driver.levels) > 4
    assert all(each.warmup_requests == 2 * known(each.concurrency) for each in driver.levels)


@pytest.mark.parametrize("stops_in", [1, 2, 5])
def test_a_search_that_was_stopped_goes_on_where_it_was(tmp_path, stops_in):
    run, found = search(tmp_path, TimelessDriver(linear, stops_in=stops_in), PROBE, LIMITS)
    assert not found.finished
    assert run.points[-1].stopped
    assert len(found.probes) == stops_in - 1
    driver = TimelessDriver(linear)
    run, found = search(tmp_path, driver, PROBE, LIMITS)
    assert (found.kept, found.broken, found.finished) == (25, 26, True)
    assert len(driver.levels) == len(found.probes) - stops_in + 1
    assert not any(point.stopped for point in run.points)


def test_the_highest_rate_is_below_where_requests_fail(tmp_path):
    start = Level(name="probe", rate_per_s=3.0, arrivals="constant", requests=60)
    driver = TimelessDriver(lambda _: 0.1, breaks_at=70)
    run, found = search(tmp_path, driver, start, {"e2e_p95_s": 9.0})
    assert found.kept < 70 <= found.broken <= found.kept * 1.05
    assert {each.reason for each in found.probes} == {"", "30 failed (http)"}
    assert [point.request_rate_target_per_s for point in run.points] == [
        each.load for each in found.probes
    ]
    assert {each.name for each in driver.levels} >= {"r3", "r6", "r12"}


def test_the_highest_load_of_a_real_client_is_where_the_law_says(tmp_path):
    """Delays of a busy machine can only make it lower."""
    driver = LawDriver(LawTarget(lambda in_flight: 0.01 * in_flight))
    start = Level(name="probe", concurrency=4, requests=24)
    _, found = search(tmp_path, driver, start, {"e2e_p50_s": 0.1})
    assert found.finished
    assert found.kept <= 11


def test_a_recording_or_a_search_without_limits_is_wrong_use(tmp_path):
    driver = TimelessDriver(linear)
    with pytest.raises(UsageError, match="one load"):
        search(tmp_path, driver, Level(name="t", arrivals="trace"), {})
    with pytest.raises(UsageError, match="limits"):
        asyncio.run(search_highest_load(CAMPAIGN, driver, tmp_path, Seen(), driver.stop))


# ── the real client ─────────────────────────────────────────────────────────────────────────────


def test_a_server_of_known_timing_is_measured_for_what_it_is(tmp_path):
    levels = (
        Level(name="c8", concurrency=8, requests=80, warmup_requests=8),
        Level(name="r50", rate_per_s=50.0, requests=50, warmup_requests=10),
    )
    campaign = replace(CAMPAIGN, levels=levels)
    with timed_server(ttft_s=0.05, itl_s=0.01, output_tokens=5) as address:
        target = TargetSpec(kind="chat", address=address)
        driver = LocalDriver(target, PROMPTS)
        run = run_on_loop(measure_levels(campaign, driver, tmp_path, Seen(), asyncio.Event()))
    assert driver.model == "timed"
    closed, open_ = run.points
    assert (closed.requests, open_.requests) == (80, 50)
    assert closed.interrupted is open_.interrupted is False
    for point in run.points:
        assert 0.05 <= known(point.ttft_p50_s) < 0.08
        assert 0.009 < known(point.tpot_mean_s) < 0.02
        assert 0.08 <= known(point.e2e_p50_s) < 0.12
        assert point.output_tokens_mean == 4
        assert point.itl_samples == 3 * known(point.requests)
    assert 4 < known(closed.in_flight_mean_requests) <= 8.01


def test_levels_have_texts_of_their_own():
    first, second = (prompts_of(level, PROMPTS) for level in CAMPAIGN.levels[:2])
    assert first.seed != second.seed
    assert replace(first, seed=0) == PROMPTS
    assert prompts_of(CAMPAIGN.levels[0], PROMPTS) == first
