"""A SimulationAnswer -> pictures: its course over time, its distributions, and which limit was hit.

On one page, or each in a file of its own.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tonnage import units
from tonnage.errors import InputError, MissingExtraError, UsageError
from tonnage.files import refuse_unwritable, write_atomically
from tonnage.fleet import SimulationAnswer
from tonnage.queueing.simulation import STATUSES, Attainment
from tonnage.report.chart import (
    BAD,
    DPI,
    GRID,
    INK,
    QUIET,
    SERIES,
    dress,
    new_figure,
    refuse_undrawable,
)
from tonnage.report.figures import METRIC_MEANINGS, METRIC_NAMES, METRICS, promise_words
from tonnage.report.simulation_records import metric_s
from tonnage.report.simulation_words import fleet_words
from tonnage.workload import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

GOOD = SERIES[2]
MOST_LINES = 4  # replicas drawn one by one; of more, the band they lie in
MOST_POINTS = 2_000  # of a distribution's curve
MOST_BINS = 60  # of a rate over time
BIN_REQUESTS = 20  # at least, on average, so that a rate is not all noise
WIDE = 20  # times the smallest: a wider distribution has a logarithmic axis
ROOM = 0.12  # above the highest mark
PANEL_INCHES = (6.5, 4.0)
PAGE_INCHES = (13.0, 3.6)  # width of the page, height of a row
NEARLY_ALL = 99.8  # percentile at which a distribution's axis ends
UNSURE = "#8a6d00"
_COLOURS = {"kept": GOOD, "missed": BAD, "unresolved": UNSURE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture: the name of its file, and what draws it."""

    name: str
    draw: Callable[[Axes, SimulationAnswer], None]


def refuse_undrawable_plots(path: Path) -> None:
    """Find out before the work that nothing can be drawn to `path`.

    Raises UsageError, or MissingExtraError without matplotlib.
    """
    if path.suffix and not path.is_dir():
        refuse_undrawable(path)
        refuse_unwritable(path)
    elif path.is_file():
        raise UsageError(
            f"{path} is a file without a kind of picture.", hint="For example --plot run.svg."
        )
    elif not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent} to make {path.name} in.")
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "no plots without matplotlib:", hint='pip install "tonnage[plots]".'
        )


def write_simulation_plots(answer: SimulationAnswer, path: Path) -> tuple[Path, ...]:
    """Draw every panel on one page (a path that ends as a picture does), or each into a folder.

    Returns the files that were written. Raises MissingExtraError without matplotlib, InputError
    for a path that cannot be written.
    """
    refuse_undrawable_plots(path)
    rows = [row for row in _rows(answer) if row]
    if path.suffix and not path.is_dir():
        width, height = PAGE_INCHES
        figure = new_figure(width, height * len(rows))
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for row, part in zip(rows, parts, strict=True):
            for panel, axes in zip(row, part.subplots(1, len(row), squeeze=False)[0], strict=True):
                panel.draw(axes, answer)
        title = f"{_what(answer)}\n{answer.scene.load}"
        figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12)
        _save(figure, path)
        return (path,)
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}.", file=str(path)) from error
    written = []
    for panel in (panel for row in rows for panel in row):
        figure = new_figure(*PANEL_INCHES)
        panel.draw(figure.add_subplot(), answer)
        figure.suptitle(_what(answer), x=0.01, ha="left", color=QUIET, fontsize=8)
        written.append(path / f"{panel.name}.png")
        _save(figure, written[-1])
    return tuple(written)


def _what(answer: SimulationAnswer) -> str:
    """The study and the fleet."""
    return f"{answer.scene.name} · {fleet_words(answer.scene)}"


def _save(figure: Figure, path: Path) -> None:
    """Whole or not at all, and the same bytes for the same answer."""
    from matplotlib import rc_context  # noqa: PLC0415 — a second, and optional

    stream = io.BytesIO()
    kind = path.suffix.removeprefix(".").lower()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with rc_context({"svg.hashsalt": "tonnage"}):
        figure.savefig(stream, format=kind, dpi=DPI, metadata=undated)
    write_atomically(path, stream.getvalue())


def _rows(answer: SimulationAnswer) -> Iterator[list[Panel]]:
    """The page, row by row; what there is nothing to draw of is left out."""
    up = answer.simulated.timeline.replicas_up
    yield [
        Panel(name="requests", draw=_draw_requests),
        Panel(name="kv-cache", draw=_draw_kv),
    ]
    changing = [Panel(name="replicas", draw=_draw_replicas)] if len(np.unique(up)) > 1 else []
    yield [
        Panel(name="throughput", draw=_draw_throughput),
        Panel(name="limits", draw=_draw_limits),
        *changing,
    ]
    yield [
        Panel(name=metric, draw=_distribution(metric))
        for metric in METRICS
        if np.isfinite(_counted_s(answer, metric)).any()
    ]


# ── over time ───────────────────────────────────────────────────────────────────────────────────


def _draw_requests(axes: Axes, answer: SimulationAnswer) -> None:
    timeline = answer.simulated.timeline
    scale, _ = _clock(answer)
    at = timeline.at_s / scale
    for values, label, colour in (
        (timeline.running, "running", SERIES[0]),
        (timeline.waiting, "waiting", SERIES[1]),
    ):
        axes.fill_between(at, values, color=colour, alpha=0.15, linewidth=0)
        axes.plot(at, values, color=colour, linewidth=1.4, label=label)
    _dress_over_time(axes, answer, title="Requests in the fleet", y="requests")


def _draw_kv(axes: Axes, answer: SimulationAnswer) -> None:
    timeline = answer.simulated.timeline
    scale, _ = _clock(answer)
    at = timeline.at_s / scale
    percent = 100 * timeline.kv_fraction.reshape(len(at), -1)
    replicas = percent.shape[1]
    prompts = answer.scene.fleet.replicas
    if replicas <= MOST_LINES:
        for number in range(replicas):
            label = f"replica {number}" if replicas > 1 else None
            axes.plot(at, percent[:, number], color=SERIES[number], linewidth=1.2, label=label)
    elif replicas == prompts:
        _draw_band(axes, at, percent, f"all {replicas} replicas, and the middle", SERIES[0])
    else:
        _draw_band(axes, at, percent[:, :prompts], "replicas for prompts", SERIES[0])
        _draw_band(axes, at, percent[:, prompts:], "for answers", SERIES[1])
    _dress_over_time(axes, answer, title="KV cache in use", y="% of the pool")


def _draw_band(
    axes: Axes,
    at: NDArray[np.float64],
    values: NDArray[np.float64],
    label: str,
    colour: str,
) -> None:
    """From the lowest column to the highest, and the line of the median."""
    axes.fill_between(
        at, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2, linewidth=0
    )
    axes.plot(at, np.median(values, axis=1), color=colour, linewidth=1.4, label=label)


def _draw_replicas(axes: Axes, answer: SimulationAnswer) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 — a second, and optional

    timeline = answer.simulated.timeline
    scale, _ = _clock(answer)
    axes.step(
        timeline.at_s / scale, timeline.replicas_up, where="post", color=SERIES[3], linewidth=1.6
    )
    _dress_over_time(axes, answer, title="Replicas that serve", y="replicas")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_throughput(axes: Axes, answer: SimulationAnswer) -> None:
    records = answer.simulated.records
    scale, _ = _clock(answer)
    ended_s = records.last_token_s[records.status == STATUSES.index("finished")]
    bins = min(max(len(records) // BIN_REQUESTS, 1), MOST_BINS)
    edges_s = np.linspace(0, answer.simulated.until_s or 1.0, bins + 1)
    for times_s, label, colour in (
        (records.arrival_s, "arriving", SERIES[1]),
        (ended_s, "answered", SERIES[0]),
    ):
        rate = np.histogram(times_s[np.isfinite(times_s)], edges_s)[0] / np.diff(edges_s)
        axes.stairs(rate, edges_s / scale, baseline=None, color=colour, linewidth=1.4, label=label)
    _dress_over_time(axes, answer, title="Throughput", y="requests/s")


def _dress_over_time(axes: Axes, answer: SimulationAnswer, *, title: str, y: str) -> None:
    """Time from 0 on, what is not counted in grey, outages in red."""
    scale, unit = _clock(answer)
    until = answer.simulated.until_s / scale
    start, end = (at_s / scale for at_s in answer.summary.window_s)
    for left, right in ((0.0, start), (end, until)):
        if right > left:
            axes.axvspan(left, right, color=GRID, alpha=0.6, linewidth=0, zorder=0)
    for outage in answer.scene.fleet.outages:
        back = min(outage.up_s / scale, until)
        if outage.down_s / scale < until:
            axes.axvspan(outage.down_s / scale, back, color=BAD, alpha=0.1, linewidth=0, zorder=0)
    many = len(answer.runs)
    which = f"; the first of {many} seeds" if many > 1 else ""
    dress(axes, title=title, x=f"{unit} (grey: not counted{which})", y=y)
    axes.set_xlim(0, until or 1)
    axes.set_ylim(0, (1 + ROOM) * axes.dataLim.ymax or 1)
    axes.yaxis.set_major_formatter(lambda value, _: units.format_number(value))
    _legend(axes, columns=MOST_LINES)


def _legend(axes: Axes, *, columns: int) -> None:
    """What the lines are, beside the title, where there is never a line."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            frameon=False, labelcolor=INK, fontsize=8, loc="lower right", ncols=columns,
            bbox_to_anchor=(1, 1), borderaxespad=0.2,
        )  # fmt: skip


def _clock(answer: SimulationAnswer) -> tuple[float, str]:
    """Seconds in the unit of the time axes, and its name."""
    until_s = answer.simulated.until_s
    if until_s > 2 * units.SECONDS_PER_HOUR:
        return units.SECONDS_PER_HOUR, "hours"
    return (60, "minutes") if until_s > 600 else (1, "seconds")  # noqa: PLR2004 — ten minutes


# ── distributions and limits ────────────────────────────────────────────────────────────────────


def _distribution(metric: Metric) -> Callable[[Axes, SimulationAnswer], None]:
    def draw(axes: Axes, answer: SimulationAnswer) -> None:
        _draw_distribution(axes, answer, metric)

    return draw


def _counted_s(answer: SimulationAnswer, metric: Metric) -> NDArray[np.float64]:
    """The metric of every request of the steady window, of all runs; NaN where it never was."""
    counted = slice(*answer.scene.counted)
    return np.concatenate([metric_s(answer, run, metric)[counted] for run in answer.runs])


def _draw_distribution(axes: Axes, answer: SimulationAnswer, metric: Metric) -> None:
    """The share of all requests that took at most so long; it ends below 100 % where some failed.

    TPOT is of the requests that have one.
    """
    from matplotlib.ticker import LogLocator  # noqa: PLC0415 — a second, and optional

    every_s = _counted_s(answer, metric)
    values_s = np.sort(every_s[np.isfinite(every_s)])
    whole = len(values_s) if metric == "tpot" else len(every_s)
    share = 100 * np.arange(1, len(values_s) + 1) / whole
    chosen = np.unique(np.linspace(0, len(values_s) - 1, MOST_POINTS).astype(int))
    promised = [each for each in answer.summary.attainments if each.promise.metric == metric]
    largest_s = max(np.percentile(values_s, NEARLY_ALL), *(p.promise.limit_s for p in promised), 0)
    scale, unit = (1e-3, "milliseconds") if largest_s < 1 else (1.0, "seconds")
    axes.plot(values_s[chosen] / scale, share[chosen], color=SERIES[0], linewidth=1.8, zorder=3)
    for each in promised:
        _draw_promise(axes, each, scale)
    smallest_s = float(np.percentile(values_s, 1))
    wide = smallest_s > 0 and largest_s > WIDE * smallest_s
    x = f"{METRIC_MEANINGS[metric]}, {unit}{' (log)' if wide else ''}"
    dress(axes, title=METRIC_NAMES[metric], x=x, y="% of requests within")
    if wide:
        axes.set_xscale("log")
        axes.set_xlim(smallest_s / 2 / scale, 1.5 * largest_s / scale)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.minorticks_off()
    else:
        axes.set_xlim(0, 1.08 * largest_s / scale or 1)
    axes.xaxis.set_major_formatter(lambda value, _: units.format_number(value))
    axes.set_ylim(0, 103)
    _legend(axes, columns=1)


def _draw_promise(axes: Axes, each: Attainment, scale: float) -> None:
    """A corner that the curve must pass above."""
    limit, percentile = each.promise.limit_s / scale, each.promise.percentile
    colour = _COLOURS[each.verdict]
    label = f"{promise_words(each.promise).split(' ', 1)[1]}: {each.verdict}"
    axes.plot(
        [limit, limit], [0, percentile], color=colour, linestyle="--", linewidth=1.4, label=label
    )
    axes.plot([limit], [percentile], color=colour, marker="o", markersize=5, zorder=4)


def _draw_limits(axes: Axes, answer: SimulationAnswer) -> None:
    names = {"kv": "KV cache", "max_num_batched_tokens": "max_num_\nbatched_tokens"}
    limits = list(answer.summary.limits_hit.items())[::-1]
    percent = [100 * share for _, share in limits]
    places = range(len(limits))
    axes.barh(places, percent, color=SERIES[0], height=0.5)
    for place, value in zip(places, percent, strict=True):
        shown = units.format_fraction(value / 100)
        axes.annotate(
            shown, (value, place), xytext=(5, 0), textcoords="offset points", va="center",
            fontsize=9, color=QUIET,
        )  # fmt: skip
    dress(axes, title="Limits that held requests back", x="% of steps", y="")
    axes.set_yticks(places, [names.get(name, name) for name, _ in limits])
    axes.grid(visible=False, axis="y")
    highest = max(percent, default=0.0)
    axes.set_xlim(0, math.ceil(1.25 * highest) if highest else 1)
    axes.xaxis.set_major_formatter(lambda value, _: units.format_number(value))
    axes.set_ylim(-0.6, len(limits) - 0.4)
