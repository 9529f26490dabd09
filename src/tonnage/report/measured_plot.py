"""A MeasuredPlan -> its picture: throughput per server against the latency that limits it.

One colour for each run, a dot for each level with its requests in flight, the limit as a line, and
a ring around the level that is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tonnage import units
from tonnage.errors import UsageError
from tonnage.fleet.measured import MeasuredCopy, MeasuredPlan
from tonnage.measurement import Point
from tonnage.measurement.curve import fault, percentile_s
from tonnage.report.chart import (
    BAD,
    DPI,
    INK,
    QUIET,
    SERIES,
    SURFACE,
    dress,
    new_figure,
    place_labels,
)
from tonnage.report.figures import METRIC_MEANINGS, METRIC_NAMES
from tonnage.report.measured import limiting_promise

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE = 20  # times the smallest latency; a wider range is drawn on a logarithmic axis


@dataclass(frozen=True, slots=True)
class _Dot:
    """A level as it is drawn: requests/s per server, seconds, the colour of its run."""

    point: Point
    x: float
    y: float
    colour: str

    @property
    def label(self) -> str:
        """The load as briefly as can be: "32" in flight, "3/s"."""
        if self.point.concurrency is not None:
            return units.format_number(self.point.concurrency)
        rate = self.point.request_rate_target_per_s or self.point.requests_per_s
        return f"{units.format_number(rate)}/s"


def write_plot(plan: MeasuredPlan, path: Path) -> None:
    """Draw `plan` into `path`, whose ending says what kind of picture it is.

    Raises MissingExtraError without matplotlib, UsageError when no level can be drawn.
    """
    limit = limiting_promise(plan)
    metric, percentile = (limit.metric, limit.percentile) if limit else ("e2e", 95.0)
    drawn = [
        (copy, dots)
        for position, copy in enumerate(plan.copies)
        if (dots := _dots(copy, metric, percentile, SERIES[position % len(SERIES)]))
    ]
    every = [dot for _, dots in drawn for dot in dots]
    if not every:
        raise UsageError("there is nothing to draw: no level has both a rate and that latency.")
    figure = new_figure(9, 5.5)
    axes = figure.add_subplot()
    name = f"{METRIC_NAMES[metric]} p{percentile:g}"
    per = {copy.server_gpus for copy, _ in drawn}
    dress(
        axes,
        title=f"{name} against throughput, by requests in flight",
        x=f"requests/s per {f'{per.pop()} GPUs' if len(per) == 1 else 'server'}",
        y=f"{name}, {METRIC_MEANINGS[metric]} (s)",
    )
    for copy, dots in drawn:
        _draw_copy(axes, copy, dots)
    for dot in every:
        if plan.chosen is not None and dot.point is plan.chosen.best:
            axes.plot(
                [dot.x], [dot.y], marker="o", markersize=15, markerfacecolor="none",
                markeredgecolor=INK, markeredgewidth=1.8, linestyle="none", zorder=4,
                label="chosen",
            )  # fmt: skip
    if limit is not None:
        axes.axhline(limit.limit_s, color=INK, linestyle=":", linewidth=1.5)
        axes.annotate(
            f"limit {units.format_time(limit.limit_s)}", (1, limit.limit_s),
            xycoords=("axes fraction", "data"), textcoords="offset points", xytext=(0, 4),
            ha="right", color=INK, fontsize=9,
        )  # fmt: skip
    _scale(axes, [*([limit.limit_s] if limit else []), *(dot.y for dot in every)])
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # each name once
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, labelcolor=INK,
        facecolor=SURFACE, edgecolor="none",
    )  # fmt: skip
    place_labels(
        figure,
        axes,
        [(dot.x, dot.y, dot.label, QUIET if fault(dot.point) else dot.colour) for dot in every],
    )
    figure.savefig(path, dpi=DPI)


def _dots(copy: MeasuredCopy, metric: str, percentile: float, colour: str) -> list[_Dot]:
    """Every level with a rate and that latency, in the order it was measured in."""
    return [
        _Dot(point, point.requests_per_s * copy.per_server, seconds, colour)
        for point in copy.run.points
        if point.requests_per_s and (seconds := percentile_s(point, metric, percentile)) is not None
    ]


def _draw_copy(axes: Axes, copy: MeasuredCopy, dots: list[_Dot]) -> None:
    """The curve of one run through its sound levels; crosses for the others."""
    place = {id(point): index for index, point in enumerate(copy.curve.points)}
    sound = sorted(
        (dot for dot in dots if id(dot.point) in place), key=lambda dot: place[id(dot.point)]
    )
    broken = [dot for dot in dots if id(dot.point) not in place]
    axes.plot(
        [dot.x for dot in sound], [dot.y for dot in sound], color=dots[0].colour,
        marker="o", markersize=6, linewidth=1.8, label=copy.name, zorder=3,
    )  # fmt: skip
    if broken:
        axes.plot(
            [dot.x for dot in broken], [dot.y for dot in broken], color=BAD, marker="x",
            markersize=7, linestyle="none", zorder=3, label="not used",
        )  # fmt: skip


def _scale(axes: Axes, seconds: list[float]) -> None:
    """From zero where the range allows it; logarithmic where that would flatten the beginning."""
    axes.set_xlim(left=0)
    if max(seconds) > _WIDE * min(seconds):
        axes.set_yscale("log", subs=(2, 5))
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_ylim(bottom=0)
