"""An answer -> the summary that a terminal shows: levels, fits, estimates.

Heading, columns and estimate lines read as those of `nat sizing calc`, for scripts that look for
them; the fits and the last line are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tonnage.measurement.fits import CONFIDENCE
from tonnage.sizing_calc.estimate import LATENCY, RUNTIME
from tonnage.sizing_calc.models import (
    CalcData,
    CalcRunnerOutput,
    FitFacts,
    LinearFitResult,
    TonnageFacts,
)

_HEADING_SPACE = 2  # a column is at least this much wider than its heading

Cell = str | int | float | None


def render_summary(output: CalcRunnerOutput) -> str:
    """The whole summary, ending in a line break."""
    facts = output.tonnage
    runtime_s, latency_s = facts.target_workflow_runtime_p95, facts.target_llm_latency_p95
    alerts = {level: _alerts(data) for level, data in output.calc_data.items()}
    legend = (
        "Alerts!: W = Workflow interrupted, L = LLM latency outlier, R = Workflow runtime outlier"
    )
    gpus = output.gpu_estimates
    asked = [
        (RUNTIME.label, runtime_s, facts.wf_runtime, gpus.gpu_estimate_by_wf_runtime),
        (LATENCY.label, latency_s, facts.llm_latency, gpus.gpu_estimate_by_llm_latency),
    ]
    asked = [each for each in asked if each[1] > 0]
    times = f"LLM Latency ≤ {latency_s}s, Workflow Runtime ≤ {runtime_s}s"
    lines = [
        f"Targets: {times}, Users = {facts.target_users}",
        f"Test parameters: GPUs = {facts.test_gpu_count}",
        "Per concurrency results:",
        *([legend] if any(alerts.values()) else []),
        *_table(output, facts, alerts),
        "",
        _fit_line(RUNTIME.label, output.fit_results.wf_runtime_fit, facts.wf_runtime),
        _fit_line(LATENCY.label, output.fit_results.llm_latency_fit, facts.llm_latency),
    ]
    if asked:
        lines += ["", "=== GPU ESTIMATES ==="]
        lines += [
            f"Estimated GPU count ({label}): {_estimate(found, fit)}"
            for label, _, fit, found in asked
        ]
        lines.append(_last_line(facts, several=len(asked) > 1))
    return "".join(f"{line}\n" for line in lines)


def _alerts(data: CalcData) -> str:
    raised = (
        "W" * data.sizing_metrics.alerts.workflow_interrupted
        + "L" * data.alerts.outlier_llm_latency
        + "R" * data.alerts.outlier_workflow_runtime
    )
    return f"!{raised}" if raised else ""


def _fit_line(label: str, fit: LinearFitResult | None, facts: FitFacts) -> str:
    """The line; or the law, where that is what the estimate rests on."""
    if facts.kind == "usl" and facts.law is not None:
        law = facts.law
        knee = f"knee at concurrency {law.knee:.3g}" if law.knee else "no knee"
        said = (
            f"Fit ({label}): scalability law, {1 / law.rate_alone_per_s:.4g} s alone, contention"
            f" {law.contention:.3g}, coherency {law.coherency:.3g}, {knee}"
        )
    elif fit is None:
        return f"Fit ({label}): none: {facts.no_fit}"
    else:
        said = (
            f"Fit ({label}): slope {fit.slope:.6f}, intercept {fit.intercept:.6f},"
            f" R² {fit.r_squared:.4f}, concurrency {', '.join(map(str, facts.levels))}"
        )
    if facts.concurrency_at_target is not None:
        said += f"; target met at concurrency {facts.concurrency_at_target:.4g}{_range(facts)}"
    return said


def _estimate(gpus: float | None, facts: FitFacts) -> str:
    if gpus is not None:
        return f"{gpus:.1f}"
    return (
        facts.not_reachable or f"none: {facts.no_fit or 'it takes target_users and test_gpu_count'}"
    )


def _range(facts: FitFacts) -> str:
    if facts.gpu_range is None:
        return ""
    low, high = facts.gpu_range
    to = "no upper bound" if high is None else f"{high:.1f}"
    return f" ({CONFIDENCE * 100:g} % range of GPUs: {low or 0:.1f} to {to})"


def _last_line(facts: TonnageFacts, *, several: bool) -> str:
    gpus = facts.gpu_estimate
    if gpus is None:
        return "GPUs to plan: none, because a target has no estimate"
    which = "the larger estimate" if several else "the estimate"
    whole = max(1, math.ceil(gpus))
    return f"GPUs to plan: {gpus:.1f} ({which}; {whole} whole GPU{'s' * (whole > 1)})"


# ── the table ───────────────────────────────────────────────────────────────────────────────────


def _table(output: CalcRunnerOutput, facts: TonnageFacts, alerts: dict[int, str]) -> list[str]:
    data = output.calc_data
    columns: list[tuple[str, list[Cell]]] = [
        ("Concurrency", list(data)),
        ("p95 LLM Latency", [each.sizing_metrics.llm_latency_p95 for each in data.values()]),
        ("p95 WF Runtime", [each.sizing_metrics.workflow_runtime_p95 for each in data.values()]),
        ("Total Runtime", [each.sizing_metrics.total_runtime for each in data.values()]),
    ]
    if any(alerts.values()):
        columns.insert(0, ("Alerts", list(alerts.values())))
    if facts.target_workflow_runtime_p95 > 0:
        columns.append(
            (
                "Runtime OOR",
                [
                    each.alerts.num_items_greater_than_target_runtime
                    if each.sizing_metrics.per_item_metrics and level not in facts.unusable_levels
                    else None
                    for level, each in data.items()
                ],
            )
        )
    latency = [each.gpu_estimates.gpu_estimate_by_llm_latency for each in data.values()]
    runtime = [each.gpu_estimates.gpu_estimate_by_wf_runtime for each in data.values()]
    if any(each is not None for each in latency):
        columns.append(("GPUs (LLM Latency, Rough)", list(latency)))
    if any(each is not None for each in runtime):
        columns.append(("GPUs (WF Runtime, Rough)", list(runtime)))
    return render_table(columns)


def render_table(columns: Sequence[tuple[str, Sequence[Cell]]]) -> list[str]:
    """Lines of a pipe table: text to the left, numbers of six digits with their points in line."""
    drawn = [_column(heading, cells) for heading, cells in columns]
    rule = "|".join("-" * (len(column[0]) + 2) for column in drawn)
    heading, *rows = (f"| {' | '.join(row)} |" for row in zip(*drawn, strict=True))
    return [heading, f"|{rule}|", *rows]


def _column(heading: str, cells: Sequence[Cell]) -> list[str]:
    """Heading and cells, all of one width."""
    width = len(heading) + _HEADING_SPACE
    if any(isinstance(cell, str) for cell in cells):
        texts = [str(cell) for cell in cells]
        width = max(width, *map(len, texts))
        return [text.ljust(width) for text in (heading, *texts)]
    decimal = any(isinstance(cell, float) for cell in cells)
    texts = ["" if cell is None else f"{cell:g}" if decimal else f"{cell}" for cell in cells]
    behind = [_behind_the_point(text) for text in texts]
    most = max(behind, default=0)
    texts = [
        text + " " * (most - digits) if text else text
        for text, digits in zip(texts, behind, strict=True)
    ]
    width = max(width, *map(len, texts))
    return [text.rjust(width) for text in (heading, *texts)]


def _behind_the_point(text: str) -> int:
    """Characters from the decimal point, or from the exponent, to the end; 0 for a whole number."""
    for sign in (".", "e"):
        if sign in text:
            return len(text) - text.index(sign)
    return 0
