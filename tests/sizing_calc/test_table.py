"""The summary, to the character where scripts look."""

from hypothesis import given
from hypothesis import strategies as st

from tests.sizing_calc.conftest import DOCUMENTED
from tonnage.sizing_calc import CalcRunnerConfig
from tonnage.sizing_calc.estimate import estimate_gpus
from tonnage.sizing_calc.models import SizingMetricsAlerts, SizingMetricsPerConcurrency
from tonnage.sizing_calc.table import render_summary, render_table


def summary(*, interrupted=(), **asked):
    measured = {
        level: SizingMetricsPerConcurrency(
            alerts=SizingMetricsAlerts(workflow_interrupted=level in interrupted),
            llm_latency_p95=latency,
            workflow_runtime_p95=runtime,
            total_runtime=total,
        )
        for level, (latency, runtime, total) in DOCUMENTED.items()
    }
    return render_summary(estimate_gpus(measured, CalcRunnerConfig.model_validate(asked)))


def test_without_targets_it_is_the_plain_table():
    lines = summary(fit_config={"remove_outliers": False}).splitlines()
    assert lines[:6] == [
        "Targets: LLM Latency ≤ 0.0s, Workflow Runtime ≤ 0.0s, Users = 0",
        "Test parameters: GPUs = 0",
        "Per concurrency results:",
        "|   Concurrency |   p95 LLM Latency |   p95 WF Runtime |   Total Runtime |",
        "|---------------|-------------------|------------------|-----------------|",
        "|             1 |           1.14981 |          4.03488 |         8.06977 |",
    ]
    assert lines[9] == "|            16 |           3.30196 |         12.677   |        25.3173  |"
    assert not any("GPU ESTIMATES" in line for line in lines)


def test_alerts_have_a_legend_and_a_column():
    lines = summary(interrupted=(4,)).splitlines()
    assert lines[3].startswith("Alerts!: W = Workflow interrupted, L = LLM latency outlier")
    assert lines[4].startswith("| Alerts   |   Concurrency |")
    assert lines[8].startswith("| !W       |             4 |")


def test_items_that_are_not_known_are_not_counted():
    lines = summary(target_workflow_runtime=10, fit_config={"remove_outliers": False}).splitlines()
    assert lines[3].endswith("| Total Runtime |   Runtime OOR |".replace("| T", "|   T"))
    assert lines[9].endswith("|               |")


def test_the_estimates_end_in_the_larger_one():
    asked = {"target_users": 100, "test_gpu_count": 8}
    both = summary(target_workflow_runtime=10, target_llm_latency=3, **asked)
    assert both.endswith(
        "\n=== GPU ESTIMATES ===\n"
        "Estimated GPU count (Workflow Runtime): 75.4\n"
        "Estimated GPU count (LLM Latency): 57.0\n"
        "GPUs to plan: 75.4 (the larger estimate; 76 whole GPUs)\n"
    )
    one = summary(target_workflow_runtime=3, target_llm_latency=3, **asked).splitlines()
    assert "not reachable at any GPU count by this fit" in one[-3]
    assert one[-1] == "GPUs to plan: none, because a target has no estimate"


def test_points_stand_in_line():
    assert render_table(
        [("C", [1, 2]), ("A", [1e-7, 12345678.5]), ("B", [3.0, None]), ("T", ["a", ""])]
    ) == [
        "|   C |           A |   B | T   |",
        "|-----|-------------|-----|-----|",
        "|   1 | 1e-07       |   3 | a   |",
        "|   2 | 1.23457e+07 |     |     |",
    ]


cells = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9)


@given(st.lists(st.tuples(st.text("ABC xyz", max_size=12), cells, cells), min_size=1, max_size=5))
def test_all_lines_of_a_table_are_of_one_width(columns):
    lines = render_table([(heading, [first, second]) for heading, first, second in columns])
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 4
