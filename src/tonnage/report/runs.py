"""A Run -> a Report: one row for each level, what to know about it, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from operator import attrgetter

from tonnage import units
from tonnage.measurement import Point, Run
from tonnage.measurement.load.search import Found
from tonnage.measurement.run import FORMAT
from tonnage.measurement.statistics import metric_words
from tonnage.report import Block, Cell, Column, Commands, Headline, Prose, Report, Section, Table
from tonnage.report.figures import UNKNOWN

RUN_PLACEHOLDER = "RUN"


def report_run(
    run: Run,
    *,
    folder: str | None = None,
    found: Found | None = None,
    limits: Mapping[str, float] | None = None,
) -> Report:
    """The points of `run`; `folder` is where it was written, None when it was not.

    `limits` are promises, as "ttft_p95_s" and seconds: the levels that keep them are marked.
    `found` is what a search for the highest such load came to.
    """
    limits = limits or {}
    data = run_data(run) | ({} if found is None else {"search": asdict(found)})
    run = replace(run, points=tuple(sorted(run.points, key=attrgetter("load"))))  # for people
    blocks: list[Block] = [_points(run, limits)]
    blocks += [Prose(note) for note in _notes(run)]
    sections = [Section(id="points", title="Levels", blocks=tuple(blocks))]
    if following := _next(run, folder):
        sections.append(Section(id="next", title="Next", blocks=(Commands(following),)))
    on = f"{run.gpus or ''} {run.gpu or 'GPUs'}".strip() if run.gpus or run.gpu else None
    where = run.target if run.target != run.name else None
    tool = f"measured by {run.tool} {run.tool_version or ''}".rstrip()
    return Report(
        title=run.name,
        subtitle=tuple(each for each in (run.model, on, where, tool, run.created) if each),
        headline=_headline(run, found, limits),
        sections=tuple(sections),
        data=data,
    )


def _headline(run: Run, found: Found | None, limits: Mapping[str, float]) -> Headline:
    promises = " and ".join(map(_promise, limits.items()))
    if found is None:
        keeping = [point for point in run.points if limits and keeps(point, limits)]
        if not keeping:
            none = (f"none keeps {promises}",) if limits else ()
            return Headline(
                label="Run",
                answer=units.format_amount(len(run.points), "levels"),
                facts=(*_totals(run), *none),
            )
        best = max(keeping, key=lambda point: point.requests_per_s or 0.0)
        return Headline(
            label="Keeps",
            answer=f"{_level(best)} within {promises}",
            facts=(_speed(best), *_totals(run)),
        )
    if found.kept is None:
        if not found.finished:
            unfinished = "the search was not finished: the same command goes on from here"
            return Headline(label="Found", answer="nothing yet", notes=(*found.notes, unfinished))
        return Headline(label="Found", answer=f"no load keeps {promises}", tone="bad")
    closed = any(point.concurrency is not None for point in run.points)
    unit = "clients" if closed else "requests/s"
    facts = [f"highest load that keeps {promises}"]
    if found.broken is not None:
        facts.append(f"at {units.format_amount(found.broken, unit)}: {found.reason}")
    return Headline(
        label="Found",
        answer=units.format_amount(found.kept, unit),
        facts=tuple(facts),
        notes=found.notes + (() if found.finished else ("the search was not finished",)),
    )


def keeps(point: Point, limits: Mapping[str, float]) -> bool:
    """Whether every promise was kept at the level; what was not measured was not kept."""
    values = {metric: getattr(point, metric) for metric in limits}
    return not (point.interrupted or point.overloaded) and all(
        value is not None and value <= limits[metric] for metric, value in values.items()
    )


def _promise(limit: tuple[str, float]) -> str:
    """As "TTFT p95 ≤ 500 ms"."""
    return f"{metric_words(limit[0])} ≤ {units.format_time(limit[1])}"


def _speed(point: Point) -> str:
    return "" if point.requests_per_s is None else _rate(point.requests_per_s, "requests/s").text


def run_data(run: Run) -> dict[str, object]:
    """The run in SI units; what is not known is null."""
    return {"format": FORMAT, **asdict(run)}


def _totals(run: Run) -> tuple[str, ...]:
    requests = sum(point.requests or 0 for point in run.points)
    failed = sum(map(_failed, run.points))
    facts = [units.format_amount(requests, "requests")] if requests else []
    if failed:
        facts.append(f"{failed} failed")
    return tuple(facts)


def _failed(point: Point) -> int:
    """Requests that failed; those in flight when the measurement was stopped did not."""
    return point.failed - point.failures.get("stopped", 0)


def _points(run: Run, limits: Mapping[str, float]) -> Table:
    """One row for each level; workflows have two columns of their own."""
    open_loop = any(point.request_rate_target_per_s is not None for point in run.points)
    workflows = any(
        point.workflow_runtime_p95_s is not None or point.llm_latency_p95_s is not None
        for point in run.points
    )
    titles = ["rate"] if open_loop else ["concurrency"]
    titles += ["requests", "failed", "answered"]
    titles += ["LLM p95", "runtime p95"] if workflows else []
    titles += [] if workflows else ["TTFT p50", "TTFT p95", "TPOT mean", "E2E p95", "output"]
    titles += ["kept"] if limits else []
    columns = [Column(title, "right") for title in titles]
    rows = [_row(point, limits, open_loop=open_loop, workflows=workflows) for point in run.points]
    known = [index for index in range(len(columns)) if _is_known(rows, index)]
    return Table(
        columns=tuple(columns[index] for index in known),
        rows=tuple(tuple(row[index] for index in known) for row in rows),
        turns=True,
    )


def _is_known(rows: list[tuple[Cell, ...]], index: int) -> bool:
    """Whether a column says anything; the first three always do."""
    return index < 3 or any(row[index].text != UNKNOWN for row in rows)  # noqa: PLR2004


def _row(
    point: Point, limits: Mapping[str, float], *, open_loop: bool, workflows: bool
) -> tuple[Cell, ...]:
    if open_loop:
        cells = [_rate(point.request_rate_target_per_s, "requests/s")]
    else:
        cells = [Cell(units.format_number(point.concurrency), "", point.concurrency)]
    failed = units.format_number(_failed(point))
    if point.interrupted and not _failed(point):
        failed = "stopped" if point.stopped else "interrupted"
    cells.append(Cell(units.format_number(point.requests), "", point.requests))
    cells.append(Cell(failed, "bad" if point.interrupted else "", point.failed))
    cells.append(_rate(point.requests_per_s, "requests/s"))
    if workflows:
        cells += map(_time, (point.llm_latency_p95_s, point.workflow_runtime_p95_s))
    else:
        times = (point.ttft_p50_s, point.ttft_p95_s, point.tpot_mean_s, point.e2e_p95_s)
        cells += [*map(_time, times), _rate(point.output_tokens_per_s, "tokens/s")]
    if limits:
        kept = keeps(point, limits)
        cells.append(Cell("yes" if kept else "no", "good" if kept else "bad"))
    return tuple(cells)


def _time(value: float | None) -> Cell:
    return Cell(units.format_time(value), "", value)


def _rate(value: float | None, unit: str) -> Cell:
    return Cell(UNKNOWN if value is None else units.format_amount(value, unit), "", value)


def _notes(run: Run) -> list[str]:
    """The notes of the run, and those of levels with the levels they are about."""
    about: dict[str, list[Point]] = {}
    for point in run.points:
        for note in point.notes:
            about.setdefault(note, []).append(point)
    return [
        *run.notes,
        *(
            note if len(points) == len(run.points) else f"{_levels(points)}: {note}"
            for note, points in about.items()
        ),
    ]


def _levels(points: list[Point]) -> str:
    """As "concurrency 2, 4, 8"."""
    named: dict[tuple[str, str], list[str]] = {}
    for point in points:
        before, load, after = _parts(point)
        named.setdefault((before, after), []).append(load)
    return ", ".join(
        f"{before}{', '.join(dict.fromkeys(loads))}{after}"
        for (before, after), loads in named.items()
    )


def _level(point: Point) -> str:
    return "".join(_parts(point))


def _parts(point: Point) -> tuple[str, str, str]:
    """What stands before the load, the load, what stands after it."""
    if point.concurrency is not None:
        return "concurrency ", str(point.concurrency), ""
    if point.request_rate_target_per_s is not None:
        return "", units.format_number(point.request_rate_target_per_s), "/s"
    return "", point.level or "a level", ""


def _next(run: Run, folder: str | None) -> tuple[tuple[str, str], ...]:
    """Commands that make sense now, each with what it is for."""
    at = shlex.quote(folder or RUN_PLACEHOLDER)
    whole = [point for point in run.points if point.requests and not point.stopped]
    rows = []
    if folder is None:
        rows.append((f"tonnage import … -o {RUN_PLACEHOLDER}", "keep this run"))
    elif any(point.stopped for point in run.points):
        rows.append((f"tonnage measure … -o {at}", "the same again: measures what is missing"))
    if whole:
        rows.append(
            (f"tonnage fit {at}", "the load this deployment carries, and the GPUs that takes")
        )
    if any(point.ttft_p95_s is not None or point.e2e_p95_s is not None for point in whole):
        rows.append((f"tonnage size --measured {at} …", "the fleet for your load and promises"))
    return tuple(rows)
