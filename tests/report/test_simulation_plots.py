"""The pictures of a simulation: real files, with what was simulated in them."""

from dataclasses import replace

import numpy as np
import pytest

from tests.report.simulated import COUNTED, PROMISES, attainment, simulation, some_rejected
from tonnage.errors import UsageError
from tonnage.queueing.simulation import Outage
from tonnage.report import simulation_plots
from tonnage.report.chart import new_figure
from tonnage.report.simulation_plots import refuse_undrawable_plots, write_simulation_plots

pytest.importorskip("matplotlib")

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = ["requests", "kv-cache", "throughput", "limits", "ttft", "tpot", "e2e"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, as matplotlib holds them."""
    figures = []

    def remember(*size):
        figures.append(new_figure(*size))
        return figures[-1]

    monkeypatch.setattr(simulation_plots, "new_figure", remember)
    return figures


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_a_folder_gets_a_file_for_each_panel(tmp_path):
    written = write_simulation_plots(simulation(), tmp_path / "plots")
    assert [path.name for path in written] == [f"{name}.png" for name in NAMES]
    assert all(path.read_bytes().startswith(PNG) for path in written)
    assert sorted(tmp_path.joinpath("plots").iterdir()) == sorted(written)


@pytest.mark.parametrize("name", ["page.svg", "page.png", "page.pdf"])
def test_a_page_holds_them_all_and_is_the_same_each_time(tmp_path, name):
    (page,) = write_simulation_plots(simulation(), tmp_path / name)
    first = page.read_bytes()
    write_simulation_plots(simulation(), tmp_path / name)
    assert page.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_curve_passes_the_promise_where_the_statistics_say(tmp_path, drawn):
    answer = simulation(attainments=(attainment(PROMISES[0], "missed", 2.1),))
    write_simulation_plots(answer, tmp_path / "p.svg")
    curve, limit, corner = panels(drawn[0])["TTFT"].lines
    records = answer.simulated.records
    ttft_s = (records.first_token_s - records.arrival_s)[slice(*COUNTED)]
    for percentile in (50, 95):
        at = np.interp(percentile, curve.get_ydata(), curve.get_xdata())
        assert at == pytest.approx(np.percentile(ttft_s, percentile), rel=0.01)
    assert list(limit.get_xdata()) == [1.5, 1.5]
    assert limit.get_label() == "p95 ≤ 1.5 s: missed"
    assert (corner.get_xdata()[0], corner.get_ydata()[0]) == (1.5, 95.0)


def test_an_axis_that_is_logarithmic_says_so(tmp_path, drawn):
    write_simulation_plots(simulation(), tmp_path / "p.svg")
    for name in ("TTFT", "TPOT", "E2E"):
        axes = panels(drawn[0])[name]
        assert axes.get_xlabel().endswith("(log)") == (axes.get_xscale() == "log")
    assert panels(drawn[0])["E2E"].get_xscale() == "log"


def test_every_picture_of_a_folder_names_the_study_and_the_fleet(tmp_path, drawn):
    write_simulation_plots(simulation(), tmp_path / "plots")
    titles = {figure.get_suptitle() for figure in drawn}
    assert titles == {"Support chatbot · 2 × TP2 fp8 on H200-SXM (4 GPUs)"}


def test_requests_without_an_answer_keep_the_curve_from_the_top(tmp_path, drawn):
    write_simulation_plots(some_rejected(simulation(), 4), tmp_path / "p.svg")
    curve = panels(drawn[0])["TTFT"].lines[0]
    assert max(curve.get_ydata()) == pytest.approx(75.0, abs=0.1)


def test_what_there_is_none_of_has_no_panel(tmp_path, drawn):
    answer = simulation()
    found = answer.simulated.records
    short = replace(
        found, output_tokens=np.ones_like(found.output_tokens), last_token_s=found.first_token_s
    )
    answer = replace(answer, simulated=replace(answer.simulated, records=short))
    write_simulation_plots(answer, tmp_path / "p.svg")
    assert "TPOT" not in panels(drawn[0])
    assert "Replicas that serve" not in panels(drawn[0])


def test_replicas_that_come_and_go_have_a_panel(tmp_path, drawn):
    answer = simulation()
    up = answer.simulated.timeline.replicas_up.copy()
    up[50:100] = 1
    answer = replace(
        answer,
        scene=replace(
            answer.scene,
            fleet=replace(
                answer.scene.fleet, outages=(Outage(replica=0, down_s=60.0, up_s=120.0),)
            ),
        ),
        simulated=replace(
            answer.simulated, timeline=replace(answer.simulated.timeline, replicas_up=up)
        ),
    )
    write_simulation_plots(answer, tmp_path / "p.svg")
    (line,) = panels(drawn[0])["Replicas that serve"].lines
    assert set(line.get_ydata()) == {1, 2}


@pytest.mark.parametrize(("replicas", "lines"), [(1, 1), (4, 4), (5, 1), (40, 1)])
def test_many_replicas_are_a_band(tmp_path, drawn, replicas, lines):
    write_simulation_plots(simulation(replicas=replicas), tmp_path / "p.svg")
    axes = panels(drawn[0])["KV cache in use"]
    assert len(axes.lines) == lines
    highest = max(float(np.max(line.get_ydata())) for line in axes.lines)
    assert 0 < highest <= 100 * simulation(replicas=replicas).simulated.timeline.kv_fraction.max()


def test_every_limit_has_its_bar(tmp_path, drawn):
    write_simulation_plots(simulation(), tmp_path / "p.svg")
    axes = panels(drawn[0])["Limits that held requests back"]
    assert [bar.get_width() for bar in axes.patches] == [0.0, pytest.approx(2.1), 0.0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "KV cache", "max_num_\nbatched_tokens", "max_num_seqs",
    ]  # fmt: skip


def test_what_cannot_be_drawn_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("x.gif", "nowhere/x.png", "nowhere/folder", "file"):
        with pytest.raises(UsageError):
            refuse_undrawable_plots(tmp_path / name)
    refuse_undrawable_plots(tmp_path / "x.png")
    refuse_undrawable_plots(tmp_path / "folder")
    refuse_undrawable_plots(tmp_path)
