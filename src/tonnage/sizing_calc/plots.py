"""An answer -> two pictures of p95 against concurrency.

Drawn with matplotlib, which is the extra `plots`; imported only when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tonnage.report.chart import BAD, DPI, INK, SERIES, dress, new_figure
from tonnage.sizing_calc.estimate import LATENCY, RUNTIME, Metric
from tonnage.sizing_calc.jobs import ANALYSIS_PLOT, SIMPLE_PLOT
from tonnage.sizing_calc.models import (
    CalcRunnerOutput,
    FitFacts,
    LawFacts,
    LinearFitResult,
    SizingMetricsPerConcurrency,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANALYSIS_DPI = 300
SMOOTH = 64  # pieces of a curve
FARTHEST_DRAWN = 3  # times the largest level; an estimate farther out would squeeze the points

# Points from the mark to its label, on the side where a rising line does not run
_RIGHT_BELOW, _LEFT_ABOVE = (7, -13), (-7, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """One metric as it is drawn: the points of usable levels, its line, its target."""

    label: str
    colour: str
    points: list[tuple[int, float]]
    fit: LinearFitResult | None
    facts: FitFacts
    target_s: float


def write_plots(output: CalcRunnerOutput, folder: Path) -> None:
    """Write both pictures into `folder`, of what was measured; none when nothing was.

    Raises MissingExtraError without matplotlib.
    """
    series = [each for each in _series(output) if each.points]
    if not series:
        return
    simple = new_figure(8, 5)
    _draw_both(simple.add_subplot(), series)
    simple.savefig(folder / SIMPLE_PLOT, dpi=DPI)

    analysis = new_figure(6 * len(series), 5)
    panels = analysis.subplots(1, len(series), squeeze=False)[0]
    for axes, each in zip(panels, series, strict=True):
        _draw_analysis(axes, each)
    analysis.savefig(folder / ANALYSIS_PLOT, dpi=ANALYSIS_DPI)


def _series(output: CalcRunnerOutput) -> list[_Series]:
    facts = output.tonnage
    usable = {
        level: data.sizing_metrics
        for level, data in output.calc_data.items()
        if level not in facts.unusable_levels
    }
    return [
        _Series(
            label=LATENCY.label,
            colour=SERIES[0],
            points=_points(LATENCY, usable),
            fit=output.fit_results.llm_latency_fit,
            facts=facts.llm_latency,
            target_s=facts.target_llm_latency_p95,
        ),
        _Series(
            label=RUNTIME.label,
            colour=SERIES[1],
            points=_points(RUNTIME, usable),
            fit=output.fit_results.wf_runtime_fit,
            facts=facts.wf_runtime,
            target_s=facts.target_workflow_runtime_p95,
        ),
    ]


def _points(
    metric: Metric, usable: Mapping[int, SizingMetricsPerConcurrency]
) -> list[tuple[int, float]]:
    """Level and p95; zero is how the format says that nothing was measured."""
    p95_s = {level: metric.p95_s(metrics) for level, metrics in usable.items()}
    return [(level, seconds) for level, seconds in p95_s.items() if seconds > 0]


def _draw_both(axes: Axes, series: list[_Series]) -> None:
    """Both metrics over concurrency, as measured."""
    for each in series:
        levels, times = zip(*each.points, strict=True)
        axes.plot(
            levels, times, color=each.colour, marker="o", markersize=6, linewidth=2,
            label=f"p95 {each.label}",
        )  # fmt: skip
    _dress(axes, "p95 against concurrency")
    axes.legend(frameon=False, labelcolor=INK, loc="upper left")


def _draw_analysis(axes: Axes, series: _Series) -> None:
    """One metric: points, what was left out, the line as far as it is used, the target."""
    line = series.fit if series.facts.kind == "line" else None
    left_out = set(line.outliers_removed) if line is not None else set()
    for kept, colour, marker, name in (
        (True, series.colour, "o", "measured"),
        (False, BAD, "x", "left out as outlier"),
    ):
        points = [point for point in series.points if (point[0] not in left_out) == kept]
        if points:
            levels, times = zip(*points, strict=True)
            axes.scatter(
                levels, times, color=colour, marker=marker, s=45, zorder=3, label=name
            )  # fmt: skip
    if series.facts.kind == "usl" and series.facts.law is not None:
        law = series.facts.law
        _draw_curve(axes, series, lambda at: _law_s(law, at), "scalability law")
    elif series.fit is not None:
        fit = series.fit
        _draw_curve(axes, series, lambda at: fit.intercept + fit.slope * at, "line")
    if series.target_s > 0:
        axes.axhline(series.target_s, color=INK, linestyle=":", linewidth=1.5, label="target")
    _dress(axes, _title(series))
    axes.legend(frameon=False, labelcolor=INK, loc="best")


def _law_s(law: LawFacts, at: float) -> float:
    pairs = law.contention * (at - 1) + law.coherency * at * (at - 1)
    return (1 + pairs) / law.rate_alone_per_s


def _draw_curve(axes: Axes, series: _Series, seconds: Callable[[float], float], name: str) -> None:
    """Whole within the levels it rests on, dashed on to the point that the estimate uses."""

    def stretch(start: float, end: float, style: str, label: str) -> None:
        places = [start + (end - start) * each / SMOOTH for each in range(SMOOTH + 1)]
        axes.plot(
            places, [seconds(at) for at in places],
            color=series.colour, linewidth=1.8, linestyle=style, label=label,
        )  # fmt: skip

    levels = series.facts.levels or [level for level, _ in series.points]
    first, last = levels[0], levels[-1]
    stretch(first, last, "-", name)
    at = series.facts.concurrency_at_target
    if at is None or at > FARTHEST_DRAWN * last:
        return
    if at > last:
        stretch(last, at, "--", f"{name}, extrapolated")
    axes.plot([at], [series.target_s], marker="D", markersize=7, color=INK, linestyle="none")
    room = at < last / 2
    axes.annotate(
        f"{at:.3g} in flight", (at, series.target_s), textcoords="offset points",
        xytext=_RIGHT_BELOW if room else _LEFT_ABOVE, ha="left" if room else "right", color=INK,
    )  # fmt: skip


def _title(series: _Series) -> str:
    law = series.facts.law
    if series.facts.kind == "usl" and law is not None:
        knee = f", knee at {law.knee:.3g} in flight" if law.knee else ""
        return f"p95 {series.label}\nscalability law, {1 / law.rate_alone_per_s:.3g} s alone{knee}"
    if series.fit is None:
        return f"p95 {series.label}\nno line: {series.facts.no_fit}"
    fit = series.fit
    return (
        f"p95 {series.label}\n{fit.intercept:.3g} s {'+' if fit.slope >= 0 else '−'}"
        f" {abs(fit.slope):.3g} s × concurrency, R² {fit.r_squared:.3f}"
    )


def _dress(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 — a second, and optional

    dress(axes, title=title, x="Concurrency", y="Seconds")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
