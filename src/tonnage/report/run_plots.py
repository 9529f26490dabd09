"""A run and its records -> two pictures: every level side by side, every request over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tonnage.measurement import Point, Run
from tonnage.measurement.load import Record
from tonnage.measurement.load.journal import RECORDS_FILE, read_records
from tonnage.report.chart import BAD, DPI, INK, QUIET, SERIES, dress, new_figure
from tonnage.units import format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS_PLOT = "levels.png"
TIMELINE_PLOT = "timeline.png"
MOST_DOTS = 20_000  # of a timeline; of more, every n-th is drawn
_WIDE = 8  # times the smallest load; a wider range is drawn on a logarithmic axis
_MOST_TICKS = 10  # of more loads, round numbers stand on the axis
_ROOM = 0.12  # above the highest mark

Reading = tuple[str, Callable[[Point], float | None]]

TTFT: tuple[Reading, ...] = (
    ("p50", lambda point: point.ttft_p50_s),
    ("p95", lambda point: point.ttft_p95_s),
    ("p99", lambda point: point.ttft_p99_s),
)
TPOT: tuple[Reading, ...] = (
    ("TPOT mean", lambda point: point.tpot_mean_s),
    ("TPOT p95", lambda point: point.tpot_p95_s),
    ("ITL p99", lambda point: point.itl_p99_s),
)
E2E: tuple[Reading, ...] = (
    ("p50", lambda point: point.e2e_p50_s),
    ("p95", lambda point: point.e2e_p95_s),
    ("p99", lambda point: point.e2e_p99_s),
)
WORKFLOW: tuple[Reading, ...] = (
    ("workflow runtime p95", lambda point: point.workflow_runtime_p95_s),
    ("LLM call p95", lambda point: point.llm_latency_p95_s),
)


def write_run_plots(run: Run, folder: Path) -> tuple[Path, ...]:
    """Draw what there is to draw into `folder`, and say which files that made.

    Raises MissingExtraError without matplotlib.
    """
    written = []
    points = [point for point in run.points if point.requests and _load(point) is not None]
    if len({_load(point) for point in points}) > 1:
        _draw_levels(points, folder / LEVELS_PLOT)
        written.append(folder / LEVELS_PLOT)
    if (folder / RECORDS_FILE).is_file() and _draw_timeline(folder):
        written.append(folder / TIMELINE_PLOT)
    return tuple(written)


def _load(point: Point) -> float | None:
    return point.concurrency or point.request_rate_target_per_s


# ── levels ──────────────────────────────────────────────────────────────────────────────────────


def _draw_levels(points: Sequence[Point], path: Path) -> None:
    points = sorted(points, key=lambda point: _load(point) or 0.0)
    closed = points[0].concurrency is not None
    x = "requests in flight" if closed else "requests/s asked"
    workflow = any(point.workflow_runtime_p95_s is not None for point in points)
    panels: list[tuple[str, tuple[Reading, ...]]] = [
        ("Workflow and its LLM calls", WORKFLOW),
        ("Time to first token", TTFT),
        ("Time per output token", TPOT),
        ("Whole answer", E2E),
    ]
    shown = [
        (title, readings)
        for title, readings in panels
        if (readings is not WORKFLOW or workflow)
        and any(read(point) is not None for point in points for _, read in readings)
    ]
    columns = min(len(shown) + 1, 2)
    rows = -(-(len(shown) + 1) // columns)
    figure = new_figure(6 * columns, 3.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (title, readings) in zip(axes, shown, strict=False):
        _draw_readings(panel, points, readings)
        dress(panel, title=title, x=x, y="seconds")
        _scale(panel, points)
    throughput = axes[len(shown)]
    _draw_throughput(throughput, points, closed=closed)
    dress(throughput, title="Answered", x=x, y="requests/s")
    _scale(throughput, points)
    for panel in axes[len(shown) + 1 :]:
        panel.set_visible(False)
    figure.savefig(path, dpi=DPI)


def _draw_readings(axes: Axes, points: Sequence[Point], readings: Sequence[Reading]) -> None:
    for (label, read), colour in zip(readings, SERIES, strict=False):
        known = [(_load(point), value) for point in points if (value := read(point)) is not None]
        if known:
            loads, values = zip(*known, strict=True)
            axes.plot(
                loads, values, color=colour, marker="o", markersize=5, linewidth=1.8, label=label
            )  # fmt: skip
    failed = [point for point in points if point.interrupted]
    first = readings[0][1]
    if marked := [(_load(point), first(point)) for point in failed if first(point) is not None]:
        loads, values = zip(*marked, strict=True)
        axes.plot(
            loads, values, color=BAD, marker="x", markersize=9, linestyle="none",
            label="with failures", zorder=4,
        )  # fmt: skip
    axes.legend(frameon=False, labelcolor=INK, loc="best")


def _draw_throughput(axes: Axes, points: Sequence[Point], *, closed: bool) -> None:
    known = [
        (_load(point), point.requests_per_s) for point in points if point.requests_per_s is not None
    ]
    if not known:
        return
    loads, rates = zip(*known, strict=True)
    axes.plot(loads, rates, color=SERIES[0], marker="o", markersize=5, linewidth=1.8)
    if not closed:
        axes.plot(loads, loads, color=QUIET, linestyle=":", linewidth=1.5, label="all of them")
        axes.legend(frameon=False, labelcolor=INK, loc="best")


def _scale(axes: Axes, points: Sequence[Point]) -> None:
    """From zero; loads that double each time stand at equal distances."""
    loads = sorted({load for point in points if (load := _load(point)) is not None})
    _from_zero(axes)
    if loads[-1] > _WIDE * loads[0]:
        axes.set_xscale("log", base=2)
    if len(loads) <= _MOST_TICKS:
        axes.set_xticks(loads)
        axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: format_number(value))


def _from_zero(axes: Axes) -> None:
    """From zero up to a little above the highest mark."""
    axes.set_ylim(0, (1 + _ROOM) * axes.dataLim.ymax or 1)


# ── timeline ────────────────────────────────────────────────────────────────────────────────────


def _draw_timeline(folder: Path) -> bool:
    """Every request where it was sent, as high as it took; False when there was none."""
    records = list(_thinned(folder / RECORDS_FILE))
    if not records:
        return False
    begun_s = min(record.sent_unix_s for record in records)
    figure = new_figure(12, 4.5)
    axes = figure.add_subplot()
    levels = list(dict.fromkeys(record.level for record in records))
    for index, level in enumerate(levels):
        colour = SERIES[index % len(SERIES)]
        for measured in (False, True):
            dots = [
                (record.sent_unix_s - begun_s, record.e2e_s)
                for record in records
                if record.level == level
                and record.failure is None
                and (record.phase == "measured") == measured
            ]
            _draw_dots(axes, dots, colour, alpha=0.8 if measured else 0.25)
        first_s = min(each.sent_unix_s for each in records if each.level == level) - begun_s
        axes.annotate(
            level, (first_s, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
            xytext=(3, -2), va="top", fontsize=8, color=colour,
        )  # fmt: skip
        if index:
            axes.axvline(first_s, color=QUIET, linewidth=0.6, alpha=0.5)
    failed = [
        (record.sent_unix_s - begun_s, record.e2e_s)
        for record in records
        if record.failure is not None
    ]
    if failed:
        sent, took = zip(*failed, strict=True)
        axes.scatter(sent, took, color=BAD, marker="x", s=22, label="failed", zorder=4)
        axes.legend(frameon=False, labelcolor=INK, loc="best")
    dress(
        axes, title="Every request: when it was sent, and how long its answer took (warm-up faint)",
        x="seconds since the first", y="seconds to the end of the answer",
    )  # fmt: skip
    _from_zero(axes)
    figure.savefig(folder / TIMELINE_PLOT, dpi=DPI)
    return True


def _draw_dots(
    axes: Axes, dots: Sequence[tuple[float, float]], colour: str, *, alpha: float
) -> None:
    if dots:
        sent, took = zip(*dots, strict=True)
        axes.scatter(sent, took, color=colour, s=9, alpha=alpha, linewidths=0, zorder=3)


def _thinned(path: Path) -> Iterator[Record]:
    """The records, or every n-th of very many; every failure in any case."""
    with path.open("rb") as file:
        every = -(-sum(1 for _ in file) // MOST_DOTS) or 1
    for index, record in enumerate(read_records(path)):
        if index % every == 0 or record.failure is not None:
            yield record
