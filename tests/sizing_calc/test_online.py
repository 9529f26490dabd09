"""Measuring through the programmatic interface, on real servers."""

import asyncio
import json
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.sizing_calc.workflow_server import STEADY_S, WorkflowServer
from tonnage.errors import InputError, TonnageError, UsageError
from tonnage.measurement.importers import import_run
from tonnage.measurement.load.journal import Journal, read_records
from tonnage.measurement.statistics import percentile
from tonnage.sizing_calc import CalcRunner, CalcRunnerConfig, CalcRunnerOutput, ConfigError
from tonnage.sizing_calc.plan import prepare

LEVELS = [1, 2, 4]


def configured(config_file, server, /, **changes):
    asked = {
        "config_file": config_file,
        "endpoint": server.url,
        "concurrencies": LEVELS,
        "output_dir": config_file.parent / "out",
        "plot_data": False,
        "test_gpu_count": 8,
    }
    return CalcRunnerConfig.model_validate(asked | changes)


def measured(config_file, server, **changes):
    runner = CalcRunner(configured(config_file, server, **changes))
    return runner, asyncio.run(runner.run())


def run_until(asked, server, runner):
    """Run, and stop when the server was asked so often."""

    async def stop_early():
        running = asyncio.create_task(runner.run())
        while len(server.asked) < asked:  # noqa: ASYNC110 — the server is in another thread
            await asyncio.sleep(0.001)
        runner.stop()
        return await running

    return asyncio.run(stop_early())


def folder_of(runner):
    assert runner.folder is not None
    return runner.folder


def saved(runner):
    text = (folder_of(runner) / "calc_runner_output.json").read_text()
    return CalcRunnerOutput.model_validate_json(text)


def jobs(config_file, mode="online"):
    return sorted(each.name for each in (config_file.parent / "out" / mode).iterdir())


# ── what is measured ────────────────────────────────────────────────────────────────────────────


def test_levels_are_measured_fitted_and_sized_in_one_go(config_file):
    with WorkflowServer(hold_s=STEADY_S) as server:
        runner, output = measured(
            config_file, server, target_workflow_runtime=4, target_llm_latency=0.75,
            target_users=100,
        )  # fmt: skip
    assert server.peak == 4
    fit = output.fit_results.wf_runtime_fit
    assert (fit.slope, fit.intercept) == (pytest.approx(0.5, abs=1e-5), pytest.approx(1, abs=1e-5))
    fit = output.fit_results.llm_latency_fit
    assert (fit.slope, fit.intercept) == (
        pytest.approx(0.125, abs=1e-5),
        pytest.approx(0.25, abs=1e-5),
    )
    assert output.gpu_estimates.gpu_estimate_by_wf_runtime == pytest.approx(100 / 6 * 8, rel=1e-4)
    assert output.gpu_estimates.gpu_estimate_by_llm_latency == pytest.approx(200, rel=1e-4)
    assert output.tonnage.gpu_estimate == pytest.approx(200, rel=1e-4)
    assert saved(runner) == output
    assert output.tonnage.model == "some-model"
    assert output.tonnage.target == f"nat {server.url}"
    assert runner.folder is not None
    assert {each.name for each in folder_of(runner).iterdir()} == {
        "calc_runner_output.json",
        "requests.jsonl",
    }


@pytest.mark.parametrize(
    ("changes", "samples"),
    [
        ({}, {1: 20, 2: 20, 4: 20}),
        ({"min_samples": 3}, {1: 3, 2: 4, 4: 4}),
        ({"min_samples": 0}, {1: 2, 2: 2, 4: 4}),
        ({"num_passes": 3}, {1: 3, 2: 6, 4: 12}),
    ],
)
def test_a_level_takes_so_many_items(config_file, changes, samples):
    with WorkflowServer(hold_s=0) as server:
        runner, output = measured(config_file, server, **changes)
    found = {level: facts.samples for level, facts in output.tonnage.levels.items()}
    assert found == samples
    assert len(server.asked) == sum(samples.values()) + sum(samples)  # and each client's warm-up
    records = list(read_records(folder_of(runner) / "requests.jsonl"))
    for level, count in samples.items():
        items = output.calc_data[level].sizing_metrics.per_item_metrics
        assert len(items) == count
        assert list(items).count("1_rep1") == (count > 2)
        of_level = [each for each in records if each.level == str(level)]
        assert sum(each.phase == "warmup" for each in of_level) == level
        assert sum(each.phase == "measured" for each in of_level) == count
    few = [warning for warning in output.tonnage.warnings if "fewer than 20 samples" in warning]
    assert bool(few) == (min(samples.values()) < 20)


def test_percentiles_are_of_the_records(config_file):
    with WorkflowServer() as server:
        runner, output = measured(config_file, server, warm_up=False)
    assert len(server.asked) == 60
    records = list(read_records(folder_of(runner) / "requests.jsonl"))
    for level in LEVELS:
        of_level = [each for each in records if each.level == str(level)]
        metrics = output.calc_data[level].sizing_metrics
        runtimes = sorted(each.runtime_s or 0 for each in of_level)
        assert metrics.workflow_runtime_p95 == percentile(runtimes, 95)
        latencies = sorted(call.latency_s for each in of_level for call in each.llm_calls)
        assert metrics.llm_latency_p95 == percentile(latencies, 95)
        starts = [each.sent_unix_s for each in of_level]
        ends = [each.sent_unix_s + each.e2e_s for each in of_level]
        assert metrics.total_runtime == pytest.approx(max(ends) - min(starts))
        seen = sorted(each.e2e_s for each in of_level)
        assert output.tonnage.levels[level].client_e2e_p95 == percentile(seen, 95)


def test_a_workflow_without_llm_calls_is_sized_by_its_runtime(config_file):
    with WorkflowServer(hold_s=STEADY_S, with_llm_call=False) as server:
        _, output = measured(config_file, server, target_workflow_runtime=4, target_users=100)
    assert output.gpu_estimates.gpu_estimate_by_wf_runtime == pytest.approx(100 / 6 * 8, rel=1e-4)
    assert output.fit_results.llm_latency_fit is None


def test_requests_that_wait_in_front_of_the_workflow_are_noticed(config_file):
    with WorkflowServer(hold_s=0) as server:
        _, quick = measured(config_file, server)
    assert not [each for each in quick.tonnage.warnings if "in front of it" in each]
    with WorkflowServer(hold_s=0.2, base_s=0.01) as server:
        _, slow = measured(config_file, server, concurrencies=[1, 2], num_passes=1)
    (said,) = (each for each in slow.tonnage.warnings if "in front of it" in each)
    assert said.startswith("concurrency 1, 2: ")


def test_any_server_that_answers_in_json_can_be_measured(config_file):
    with WorkflowServer(plain=True) as server:
        _, output = measured(
            config_file, server, request_template='{"query": "$prompt"}',
            answer_path="result.text",
        )  # fmt: skip
    assert set(server.asked) == {"one", "two"}
    for level, data in output.calc_data.items():
        assert data.sizing_metrics.workflow_runtime_p95 > 0
        assert not output.tonnage.levels[level].workflow_timed
    assert [each for each in output.tonnage.warnings if "no times of the workflow" in each]


def test_what_was_measured_can_be_sized_offline(config_file):
    asked = {"target_workflow_runtime": 4, "target_users": 100}
    with WorkflowServer(hold_s=STEADY_S) as server:
        runner, online = measured(config_file, server)
    assert online.gpu_estimates.gpu_estimate_by_wf_runtime is None
    offline = CalcRunner(configured(config_file, server, offline_mode=True, **asked))
    output = asyncio.run(offline.run())
    assert output.gpu_estimates.gpu_estimate_by_wf_runtime == pytest.approx(100 / 6 * 8, rel=1e-4)
    assert output.tonnage.jobs == {folder_of(runner).name: LEVELS}
    assert output.tonnage.levels == online.tonnage.levels
    assert output.tonnage.dataset == online.tonnage.dataset


def test_both_pictures_are_drawn_beside_the_records(config_file):
    pytest.importorskip("matplotlib")
    with WorkflowServer() as server:
        runner, _ = measured(config_file, server, plot_data=True)
    assert {each.name for each in folder_of(runner).glob("*.png")} == {
        "concurrency_vs_p95_simple.png",
        "concurrency_vs_p95_analysis.png",
    }


# ── failures ────────────────────────────────────────────────────────────────────────────────────


def test_failed_items_are_counted_and_in_no_time(config_file):
    # 21 + 22 requests are two levels, 4 more warm up the third
    with WorkflowServer(status_of=lambda asked: 429 if asked in {50, 51} else 200) as server:
        runner, output = measured(config_file, server, concurrencies=[1, 2, 4, 5])
    facts = output.tonnage.levels
    assert [facts[level].failures for level in (1, 2, 4, 5)] == [{}, {}, {"http": 2}, {}]
    metrics = output.calc_data[4].sizing_metrics
    assert metrics.alerts.workflow_interrupted
    assert len(metrics.per_item_metrics) == facts[4].samples == 18
    assert metrics.total_runtime < 60
    assert output.tonnage.wf_runtime.levels == [1, 2, 5]
    assert "concurrency 4: 2 of 20 items failed (2 × http" in "".join(output.tonnage.warnings)
    assert runner.halted is None


def test_a_level_that_fails_whole_does_not_end_the_sweep(config_file):
    levels = [1, 4, 2]
    with WorkflowServer(status_of=lambda asked: 500 if 21 < asked <= 45 else 200) as server:
        runner, output = measured(config_file, server, concurrencies=levels)
    assert list(output.calc_data) == [1, 2, 4]
    assert output.tonnage.levels[4].failures == {"http": 20}
    assert output.calc_data[4].sizing_metrics.workflow_runtime_p95 == 0
    assert output.tonnage.wf_runtime.levels == [1, 2]
    assert runner.halted is None


def test_a_server_that_goes_away_ends_the_sweep_and_costs_nothing(config_file):
    with WorkflowServer(lives_for=50) as server:
        runner, output = measured(config_file, server, concurrencies=[1, 2, 3, 4, 5])
        port = server.port
    # levels 1 and 2 took 21 + 22 requests; 3 broke in the middle, 4 found nobody
    assert runner.halted.startswith(f"nat {server.url} is gone: nobody listens")
    assert not runner.interrupted
    assert list(output.calc_data) == [1, 2, 3, 4]
    assert output.tonnage.wf_runtime.levels == [1, 2]
    assert saved(runner).calc_data.keys() == {1, 2, 3, 4}
    again = WorkflowServer()
    again.port = port
    with again:
        later, whole = measured(config_file, again, concurrencies=[1, 2, 3, 4, 5])
    assert later.folder == runner.folder
    assert later.halted is None
    # what was finished stays as it was; levels that met nobody, one in the middle, start over
    assert whole.calc_data[1] == output.calc_data[1]
    assert [facts.samples for facts in whole.tonnage.levels.values()] == [20, 20, 21, 20, 20]
    assert len(again.asked) == 21 + 20 + 20 + 3 + 4 + 5


def test_nobody_at_the_endpoint_is_an_error(config_file):
    with WorkflowServer() as server:
        pass
    with pytest.raises(TonnageError, match="nobody takes connections"):
        measured(config_file, server, num_passes=3)


def test_an_answer_that_takes_too_long_fails_alone(config_file):
    with WorkflowServer(hold_s=1.5) as server:
        _, output = measured(
            config_file,
            server,
            endpoint_timeout=1,
            concurrencies=[1, 2],
            num_passes=1,
            warm_up=False,
        )
    assert {level: facts.failures for level, facts in output.tonnage.levels.items()} == {
        1: {"timeout": 1},
        2: {"timeout": 2},
    }


# ── jobs ────────────────────────────────────────────────────────────────────────────────────────


def test_stopping_keeps_what_there_is_and_the_same_run_goes_on(config_file):
    with WorkflowServer() as server:
        config = configured(config_file, server, concurrencies=[1, 2, 4, 8])
        runner = CalcRunner(config)
        output = run_until(50, server, runner)  # 21 + 22 are two levels, and into the third
        assert runner.interrupted
        assert list(output.calc_data) == [1, 2]
        assert saved(runner) == output
        before = len(server.asked)
        kept = len(list(read_records(folder_of(runner) / "requests.jsonl")))
        assert kept >= 50 - 4
        later = CalcRunner(config)
        whole = asyncio.run(later.run())
    assert later.folder == runner.folder
    assert [facts.samples for facts in whole.tonnage.levels.values()] == [20, 20, 20, 24]
    assert len(server.asked) - before == 20 + 4 + 24 + 8
    assert whole.calc_data[1].sizing_metrics == output.calc_data[1].sizing_metrics
    assert len(list(read_records(folder_of(runner) / "requests.jsonl"))) == kept + 20 + 4 + 24 + 8
    assert jobs(config_file) == [folder_of(runner).name]


def stopped_early(config_file, server, **changes):
    """A runner that was stopped within its second level."""
    asked = len(server.asked)
    runner = CalcRunner(configured(config_file, server, **changes))
    run_until(asked + 25, server, runner)
    assert runner.interrupted
    return runner


def test_a_fresh_run_replaces_the_unfinished_one_when_it_is_done(config_file):
    with WorkflowServer() as server:
        first = stopped_early(config_file, server)
        second, _ = measured(config_file, server, fresh=True)
    assert second.folder != first.folder
    assert jobs(config_file) == [folder_of(second).name]


def test_other_levels_are_another_job(config_file):
    with WorkflowServer() as server:
        first = stopped_early(config_file, server)
        second, output = measured(config_file, server, concurrencies=[2, 3])
    assert list(output.calc_data) == [2, 3]
    assert second.folder != first.folder
    assert jobs(config_file) == [folder_of(second).name]


def test_an_unfinished_job_of_another_config_is_refused_unless_forced(config_file):
    with WorkflowServer() as server:
        first = stopped_early(config_file, server)
        config_file.write_text(config_file.read_text() + "llms: {}\n")
        with pytest.raises(InputError, match="different configs") as refused:
            measured(config_file, server)
        assert "--fresh" in str(refused.value)
        forced, output = measured(config_file, server, force=True)
        assert forced.folder == first.folder
    assert [each for each in output.tonnage.warnings if each.startswith("mixed by force")]


def test_comments_do_not_make_another_config(config_file):
    with WorkflowServer() as server:
        first = stopped_early(config_file, server)
        config_file.write_text(f"# more said\n{config_file.read_text()}")
        assert measured(config_file, server)[0].folder == first.folder


def test_appended_jobs_survive_and_must_be_of_the_same_thing(config_file):
    with WorkflowServer() as server:
        appended, _ = measured(config_file, server, append_job=True)
        timed, _ = measured(config_file, server)
        later, _ = measured(config_file, server)
        assert jobs(config_file) == sorted([folder_of(appended).name, folder_of(later).name])
        assert later.folder != timed.folder
        dataset = config_file.parent / "questions.json"
        dataset.write_text('[{"id": 1, "question": "another"}]')
        for append_job in (True, False):
            with pytest.raises(InputError, match="different datasets"):
                measured(config_file, server, append_job=append_job)
        with pytest.raises(InputError, match="different GPUs"):
            measured(config_file, server, append_job=True, test_gpu_count=4)
        assert len(jobs(config_file)) == 2
        measured(config_file, server, append_job=True, force=True, concurrencies=[3, 5])
    assert len(jobs(config_file)) == 3
    with pytest.raises(InputError, match="different datasets"):
        measured(config_file, server, offline_mode=True, target_users=9, target_workflow_runtime=4)


def test_the_other_job_stays_until_the_new_one_is_done(config_file):
    with WorkflowServer() as server:
        first, _ = measured(config_file, server)
        second = stopped_early(config_file, server)
        assert jobs(config_file) == sorted([folder_of(first).name, folder_of(second).name])
        third, _ = measured(config_file, server)
    assert third.folder == second.folder
    assert jobs(config_file) == [folder_of(second).name]


def test_two_processes_do_not_work_on_one_job(config_file):
    with WorkflowServer() as server:
        first = stopped_early(config_file, server)
        with closing(Journal(folder_of(first) / "requests.jsonl")):
            with pytest.raises(InputError, match="another measurement"):
                measured(config_file, server)
            finished, _ = measured(config_file, server, fresh=True)
            assert jobs(config_file) == sorted([folder_of(first).name, folder_of(finished).name])


def test_no_secret_of_the_endpoint_is_written(config_file):
    with WorkflowServer(plain=True) as server:
        runner, output = measured(
            config_file, server, endpoint=f"{server.url}/ask?key=hush", answer_path="result.text"
        )
        with pytest.raises(UsageError, match="password") as refused:
            measured(config_file, server, endpoint=server.url.replace("//", "//me:hush@"))
    assert "hush" not in str(refused.value)
    assert output.tonnage.target == f"json {server.url}/ask"
    assert all("hush" not in each.read_text() for each in folder_of(runner).iterdir())


def test_headers_reach_the_endpoint_and_no_repr_dump_or_error(config_file):
    headers = {"Authorization": "Bearer hush-hush"}
    with WorkflowServer() as server:
        config = configured(config_file, server, headers=headers, num_passes=1)
        asyncio.run(CalcRunner(config).run())
    assert {each["authorization"] for each in server.headers} == {"Bearer hush-hush"}
    assert "hush" not in f"{config!r} {config.model_dump()} {config.model_dump_json()}"
    for wrong in ({"headers": {"Authorization": ["hush-hush"]}}, {"header": headers}):
        with pytest.raises(ValidationError) as refused:
            configured(config_file, server, **wrong)
        assert "hush" not in str(refused.value)


def test_headers_are_for_an_endpoint():
    with pytest.raises(ConfigError, match="headers can only go with a server"):
        CalcRunner(CalcRunnerConfig(config_file=Path("any"), headers={"X-Key": "hush"}))


def test_a_summary_is_written_while_the_sweep_runs(config_file):
    with WorkflowServer() as server:
        runner = CalcRunner(configured(config_file, server))
        seen = []

        class Looks:
            def begin(self, job, notes):
                assert not notes
                assert json.loads((job.folder / "unfinished.json").read_text())

            def progress(self, progress):
                pass

            def end_level(self, concurrency, swept, *, before):
                assert concurrency in swept.facts
                seen.append((concurrency, list(saved(runner).calc_data), before))

        runner = CalcRunner(configured(config_file, server), Looks())
        asyncio.run(runner.run())
    assert seen == [(1, [1], False), (2, [1, 2], False), (4, [1, 2, 4], False)]


# ── before the first request ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("missing", ["target_users", "test_gpu_count"])
def test_a_target_that_gives_no_estimate_is_warned_of_before(config_file, missing):
    asked = {"target_users": 9, "test_gpu_count": 8, "target_llm_latency": 1} | {missing: 0}
    with WorkflowServer() as server:
        config = configured(config_file, server, **asked)
        assert any(missing in each for each in prepare(config).warnings)
        whole = configured(config_file, server, **asked | {missing: 7})
    assert not prepare(whole).warnings


@pytest.mark.parametrize(
    ("endpoint", "public"),
    [("http://8.8.8.8:8000", True), ("http://[2600::1]", True), ("http://10.1.2.3", False)],
)
def test_a_public_host_is_warned_of(config_file, endpoint, public):
    config = CalcRunnerConfig(config_file=config_file, endpoint=endpoint)
    assert any("is a public host" in each for each in prepare(config).warnings) == public


def test_llms_on_public_hosts_are_warned_of_where_the_workflow_runs_here(config_file):
    llms = "llms: {one: {_type: nim, model_name: a, base_url: 'http://8.8.8.8/v1'}}\nworkflow: {}\n"
    config_file.write_text(llms + config_file.read_text())
    found = prepare(CalcRunnerConfig(config_file=config_file))
    assert any("8.8.8.8 is a public host" in each for each in found.warnings)
    assert found.plan.subject.model == "a"
    elsewhere = CalcRunnerConfig(config_file=config_file, endpoint="http://10.1.2.3")
    assert not any("public" in each for each in prepare(elsewhere).warnings)
    assert prepare(elsewhere).plan.subject.model is None


def test_an_import_knows_what_was_measured(config_file):
    with WorkflowServer(status_of=lambda asked: 500 if asked == 30 else 200) as server:
        runner, output = measured(config_file, server)
    run = import_run([folder_of(runner) / "calc_runner_output.json"])
    assert (run.model, run.gpus) == ("some-model", 8)
    assert [point.failed for point in run.points] == [0, 1, 0]
    assert run.points[0].e2e_p95_s == output.tonnage.levels[1].client_e2e_p95


# ── mistakes ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"config_file": None}, "config_file"),
        ({"endpoint": "localhost:8000"}, "endpoint"),
        ({"endpoint": "http://"}, "endpoint"),
        ({"endpoint": "http://host:99999"}, "endpoint"),
        ({"endpoint": None, "request_template": "{}"}, "request_template"),
        ({"endpoint": None, "answer_path": "a"}, "answer_path"),
        ({"endpoint_timeout": 0}, "endpoint_timeout"),
        ({"min_samples": -1}, "min_samples"),
        ({"num_passes": -1}, "num_passes"),
        ({"num_passes": 10**6}, "concurrencies"),
        ({"concurrencies": [1]}, "concurrencies"),
        ({"concurrencies": [0, 1]}, "concurrencies"),
        ({"concurrencies": [2, 2]}, "concurrencies"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(config_file, changes, field):
    with pytest.raises(ConfigError) as refused:
        CalcRunner(configured(config_file, WorkflowServer(), **changes))
    assert refused.value.field == field
    assert not (config_file.parent / "out").exists()
