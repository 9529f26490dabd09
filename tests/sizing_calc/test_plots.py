"""The two pictures, drawn for real."""

import asyncio
import struct
import sys

import pytest

from tests.sizing_calc.conftest import body_of, line
from tonnage.sizing_calc import CalcRunner, CalcRunnerConfig

PNGS = ("concurrency_vs_p95_analysis.png", "concurrency_vs_p95_simple.png")


def run(output_dir, **changes):
    asked = {"offline_mode": True, "output_dir": output_dir, "target_workflow_runtime": 10}
    counts = {"target_users": 100, "test_gpu_count": 8}
    runner = CalcRunner(CalcRunnerConfig.model_validate(asked | counts | changes))
    asyncio.run(runner.run())
    return runner


def size_of(png):
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_both_pictures_are_drawn(documented):
    pytest.importorskip("matplotlib")
    runner = run(documented)
    assert [size_of(runner.folder / name) for name in PNGS] == [(3600, 1500), (1200, 750)]
    assert runner.notes == []


def test_the_analysis_is_drawn_without_a_latency_fit(add_job, tmp_path):
    pytest.importorskip("matplotlib")
    scatter = dict(zip((1, 2, 3, 4), (2, 5, 1, 4), strict=True))
    levels = {c: (scatter[c], runtime, 9) for c, (_, runtime, _) in line(1, 1, scatter).items()}
    add_job(body_of(levels))
    runner = run(tmp_path)
    assert runner.folder is not None
    assert all(size_of(runner.folder / name) for name in PNGS)


def test_a_metric_that_was_never_measured_has_no_panel(add_job, tmp_path):
    pytest.importorskip("matplotlib")
    add_job(body_of({c: (0, runtime, 9) for c, (_, runtime, _) in line(1, 1, (1, 2, 4)).items()}))
    runner = run(tmp_path)
    assert [size_of(runner.folder / name) for name in PNGS] == [(1800, 1500), (1200, 750)]


@pytest.mark.parametrize("target_s", [0.5, 1e9])
def test_a_line_that_meets_no_target_is_drawn_too(documented, target_s):
    pytest.importorskip("matplotlib")
    assert size_of(run(documented, target_workflow_runtime=target_s).folder / PNGS[0])


def test_no_usable_level_draws_nothing(add_job, tmp_path):
    add_job(body_of(line(1, 1, (1, 2)), interrupted=(1, 2)))
    runner = run(tmp_path)
    assert [each.name for each in runner.folder.iterdir()] == ["calc_runner_output.json"]


def test_without_matplotlib_one_line_names_the_extra(documented, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if not installed
    runner = run(documented)
    (note,) = runner.notes
    assert "tonnage[plots]" in note
    assert [each.name for each in runner.folder.iterdir()] == ["calc_runner_output.json"]
