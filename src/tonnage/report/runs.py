"""A Run -> a Report: one row for each level, what to know about it, and what to do next."""

from __future__ import annotations

import shlex
from dataclasses import asdict

from tonnage import units
from tonnage.measurement import Point, Run
from tonnage.measurement.run import FORMAT
from tonnage.report import Block, Cell, Column, Commands, Headline, Prose, Report, Section, Table
from tonnage.report.figures import UNKNOWN, plural

RUN_PLACEHOLDER = "RUN"


def report_run(run: Run, *, folder: str | None = None) -> Report:
    """The points of `run`; `folder` is where it was written, None when it was not."""
    blocks: list[Block] = [_points(run)]
    blocks += [Prose(note) for note in _notes(run)]
    sections = [
        Section(id="points", title="Levels", blocks=tuple(blocks)),
        Section(id="next", title="Next", blocks=(_next(folder),)),
    ]
    version = f" {run.tool_version}" if run.tool_version else ""
    on = f"{run.gpus or ''} {run.gpu or 'GPUs'}".strip() if run.gpus or run.gpu else None
    return Report(
        title=f"{run.name}: {run.tool}{version}",
        subtitle=tuple(each for each in (run.model, on, run.target, run.created) if each),
        headline=Headline(label="Run", answer=plural(len(run.points), "level"), facts=_totals(run)),
        sections=tuple(sections),
        data=run_data(run),
    )


def run_data(run: Run) -> dict[str, object]:
    """The run in SI units; what is not known is null."""
    return {"format": FORMAT, **asdict(run)}


def _totals(run: Run) -> tuple[str, ...]:
    requests = sum(point.requests or 0 for point in run.points)
    failed = sum(point.failed for point in run.points)
    facts = [units.format_amount(requests, "requests")] if requests else []
    if failed:
        facts.append(f"{failed} failed")
    return tuple(facts)


def _points(run: Run) -> Table:
    """One row for each level; workflows have two columns of their own."""
    open_loop = any(point.request_rate_target_per_s is not None for point in run.points)
    workflows = any(
        point.workflow_runtime_p95_s is not None or point.llm_latency_p95_s is not None
        for point in run.points
    )
    titles = ["concurrency"]
    titles += ["rate"] if open_loop else []
    titles += ["requests", "failed"]
    titles += ["LLM p95", "runtime p95"] if workflows else []
    titles += [] if workflows else ["TTFT p50", "TTFT p95", "TPOT mean", "E2E p95", "output"]
    return Table(
        columns=tuple(Column(title, "right") for title in titles),
        rows=tuple(_row(point, open_loop=open_loop, workflows=workflows) for point in run.points),
        turns=True,
    )


def _row(point: Point, *, open_loop: bool, workflows: bool) -> tuple[Cell, ...]:
    cells = [Cell(units.format_number(point.concurrency), "", point.concurrency)]
    if open_loop:
        cells.append(_rate(point.request_rate_target_per_s, "requests/s"))
    failed = units.format_number(point.failed)
    if point.interrupted and not point.failed:
        failed = "interrupted"
    cells.append(Cell(units.format_number(point.requests), "", point.requests))
    cells.append(Cell(failed, "bad" if point.interrupted else "", point.failed))
    if workflows:
        return (*cells, *map(_time, (point.llm_latency_p95_s, point.workflow_runtime_p95_s)))
    times = (point.ttft_p50_s, point.ttft_p95_s, point.tpot_mean_s, point.e2e_p95_s)
    return (*cells, *map(_time, times), _rate(point.output_tokens_per_s, "tokens/s"))


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
    def level(point: Point) -> str:
        if point.concurrency is not None:
            return f"concurrency {point.concurrency}"
        if point.request_rate_target_per_s is not None:
            return f"{units.format_number(point.request_rate_target_per_s)}/s"
        return "a level"

    return ", ".join(dict.fromkeys(map(level, points)))


def _next(folder: str | None) -> Commands:
    fit = f"tonnage fit {shlex.quote(folder or RUN_PLACEHOLDER)}"
    purpose = "the load this deployment carries, and the GPUs that takes"
    if folder is not None:
        return Commands(((fit, purpose),))
    return Commands(((f"tonnage import … -o {RUN_PLACEHOLDER}", "keep this run"), (fit, purpose)))
