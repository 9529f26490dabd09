"""The pictures of a run: real files, with what was measured in them and nothing else."""

from dataclasses import replace

import pytest

from tonnage.measurement import Point, Run
from tonnage.measurement.load import Record
from tonnage.measurement.load.journal import RECORDS_FILE, record_line
from tonnage.report import run_plots
from tonnage.report.chart import new_figure
from tonnage.report.run_plots import LEVELS_PLOT, TIMELINE_PLOT, write_run_plots

pytest.importorskip("matplotlib")

PNG = b"\x89PNG\r\n\x1a\n"


def point(clients, **fields):
    seen = {
        "concurrency": clients, "requests": 10, "requests_per_s": 2.0 * clients,
        "ttft_p50_s": 0.1, "ttft_p95_s": 0.2, "ttft_p99_s": 0.3, "e2e_p50_s": 1.0, "e2e_p95_s": 2.0,
    }  # fmt: skip
    return Point(**(seen | fields))


def run(*points):
    return Run(name="r", tool="tonnage", points=points)


def record(number, **fields):
    return Record(
        **{
            "level": "c1", "phase": "measured", "item": str(number), "lateness_s": 0.0,
            "scheduled_unix_s": 1000.0 + number, "e2e_s": 0.5, **fields,
        }
    )  # fmt: skip


def keep(folder, records):
    (folder / RECORDS_FILE).write_bytes(b"".join(map(record_line, records)))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, as matplotlib holds them."""
    figures = []

    def remember(*size):
        figures.append(new_figure(*size))
        return figures[-1]

    monkeypatch.setattr(run_plots, "new_figure", remember)
    return figures


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}


def test_levels_and_requests_are_drawn_into_the_folder(tmp_path):
    keep(tmp_path, [record(number) for number in range(5)])
    written = write_run_plots(run(point(1), point(4)), tmp_path)
    assert [each.name for each in written] == [LEVELS_PLOT, TIMELINE_PLOT]
    assert all(each.read_bytes().startswith(PNG) for each in written)


def test_one_level_has_no_curve_and_no_requests_no_timeline(tmp_path):
    keep(tmp_path, [])
    assert write_run_plots(run(point(4)), tmp_path) == ()
    assert write_run_plots(run(), tmp_path) == ()
    assert write_run_plots(run(point(4), point(8, requests=0)), tmp_path) == ()
    assert [each.name for each in tmp_path.iterdir()] == [RECORDS_FILE]


def test_an_imported_run_has_no_timeline(tmp_path):
    assert [each.name for each in write_run_plots(run(point(1), point(4)), tmp_path)] == [
        LEVELS_PLOT
    ]


def test_only_what_was_measured_has_a_panel(tmp_path, drawn):
    write_run_plots(run(point(2), point(1)), tmp_path)
    (figure,) = drawn
    found = panels(figure)
    assert list(found) == ["Time to first token", "Whole answer", "Answered"]
    p50 = found["Time to first token"].lines[0]
    assert list(p50.get_xdata()) == [1, 2]  # in order, however they were measured
    assert list(p50.get_ydata()) == [0.1, 0.1]
    assert {each.get_ylim()[0] for each in found.values()} == {0.0}
    assert list(found["Answered"].get_xticks()) == [1, 2]  # there is no client and a half


def test_a_workflow_has_a_panel_of_its_own(tmp_path, drawn):
    levels = [
        point(
            each, workflow_runtime_p95_s=2.0, llm_latency_p95_s=0.5,
            ttft_p50_s=None, ttft_p95_s=None, ttft_p99_s=None,
        )
        for each in (1, 2)
    ]  # fmt: skip
    write_run_plots(run(*levels), tmp_path)
    assert list(panels(drawn[0])) == ["Workflow and its LLM calls", "Whole answer", "Answered"]


@pytest.mark.parametrize(("loads", "scale"), [((1, 2, 4, 8), "linear"), ((1, 4, 16), "log")])
def test_a_wide_range_of_loads_stands_at_equal_distances(tmp_path, drawn, loads, scale):
    write_run_plots(run(*map(point, loads)), tmp_path)
    axes = panels(drawn[0])["Answered"]
    assert axes.get_xscale() == scale
    assert list(axes.get_xticks()) == list(loads)


def test_an_open_load_is_drawn_beside_what_was_asked(tmp_path, drawn):
    levels = [
        replace(point(rate, requests_per_s=min(rate, 5.0)), concurrency=None,
                request_rate_target_per_s=float(rate))
        for rate in (2, 4, 8)
    ]  # fmt: skip
    write_run_plots(run(*levels), tmp_path)
    answered, asked = panels(drawn[0])["Answered"].lines
    assert list(answered.get_ydata()) == [2, 4, 5]
    assert list(asked.get_ydata()) == [2, 4, 8]


def test_levels_with_failures_are_marked(tmp_path, drawn):
    write_run_plots(run(point(1), point(2, failed=1, interrupted=True)), tmp_path)
    marked = [
        line
        for line in panels(drawn[0])["Whole answer"].lines
        if line.get_label() == "with failures"
    ]
    assert [list(line.get_xdata()) for line in marked] == [[2]]


def test_the_timeline_has_every_failure_however_many_requests_there_are(
    tmp_path, drawn, monkeypatch
):
    monkeypatch.setattr(run_plots, "MOST_DOTS", 10)
    keep(
        tmp_path,
        [record(number, failure="http" if number % 7 == 3 else None) for number in range(100)],
    )
    write_run_plots(run(), tmp_path)
    (axes,) = drawn[0].axes
    good, failed = axes.collections
    assert {float(x) for x, _ in failed.get_offsets()} == set(range(3, 100, 7))
    assert 5 <= len(good.get_offsets()) <= 10
