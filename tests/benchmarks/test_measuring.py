"""The benchmark runner measures what it says, and does not praise what it did not measure."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import Goal, Row, format_table
from benchmarks.process import CommandFailedError, measure_processes
from benchmarks.sample import Sample

ROOT = Path(__file__).resolve().parents[2]


def measure(code: str, repeats: int = 2) -> Sample:
    return measure_processes([sys.executable, "-S", "-c", code], repeats=repeats)


def test_a_process_that_sleeps_takes_at_least_that_long():
    assert measure("import time; time.sleep(0.2)").best_s >= 0.2


def test_the_peak_holds_what_was_allocated_even_if_freed():
    """In a process as small as the runner: a large one counts in the peak of its children."""
    code = (
        "import sys\n"
        "from benchmarks.process import measure_processes\n"
        "for code in ('pass', 'block = bytes(300_000_000); block = block + block; del block'):\n"
        "    argv = [sys.executable, '-S', '-c', code]\n"
        "    print(measure_processes(argv, repeats=2).peak_rss_bytes)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    empty, filled = map(int, told.stdout.split())
    assert empty < 100_000_000
    assert filled >= 300_000_000


def test_a_command_that_fails_has_no_time():
    with pytest.raises(CommandFailedError, match="exit 4: no room"):
        measure("import sys; sys.stderr.write('first\\nno room'); sys.exit(4)")


def test_a_command_that_does_not_exist_has_no_time():
    with pytest.raises(CommandFailedError, match="No such file"):
        measure_processes(["./there-is-no-such-command"], repeats=2)


def test_spread_is_the_standard_deviation_over_the_mean():
    assert Sample(wall_s=[1.0, 2.0, 3.0]).spread_fraction == pytest.approx(0.5)
    assert not Sample(wall_s=[1.0, 2.0, 3.0]).steady
    assert Sample(wall_s=[2.0, 2.0, 2.0]).steady


@pytest.mark.parametrize(
    ("median_s", "peak_rss_bytes", "met"),
    [
        (0.9, 99_000_000, True),
        (1.0, 99_000_000, False),
        (0.9, 100_000_000, False),
        (0.9, None, False),
    ],
)
def test_a_goal_is_met_only_below_both_bounds(median_s, peak_rss_bytes, met):
    sample = Sample(wall_s=[median_s] * 3, peak_rss_bytes=peak_rss_bytes)
    assert Goal(wall_s=1.0, peak_rss_bytes=100e6).met_by(sample) is met


def test_what_was_not_measured_is_not_met():
    assert not Row(name="search", goal=Goal(wall_s=1.0), sample=None, problem="none").met


def test_the_table_warns_about_an_unsteady_measurement_only():
    steady = Row(name="calm", goal=Goal(wall_s=5.0), sample=Sample(wall_s=[1.0, 1.0, 1.0]))
    unsteady = Row(name="noisy", goal=Goal(wall_s=5.0), sample=Sample(wall_s=[1.0, 2.0, 3.0]))
    warnings = [line for line in format_table([steady, unsteady]).splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "noisy: the standard deviation is 50% of the mean" in warnings[0]
