"""NeMo Agent Toolkit's calc_runner_output.json -> a Run, one point for each concurrency.

Today's files keep the levels under `calc_data`, older ones under `per_concurrency_data` with the
interrupted flag in `out_of_range_runs`. Times stand in seconds. An item is one run of the workflow;
its `requests` here are the items that finished. Items that failed are not in the file, only that
the workflow was interrupted. A p95 of 0 means no sample (a workflow without LLM calls): None. A
missing p95 of the runtime is interpolated from the items, which hold it; one of the LLM latency is
not, because an item may call the LLM several times. The file names neither model, GPUs nor version,
unless `tonnage sizing calc` wrote it: that one says so under `tonnage`, with the items that failed
and the time that clients saw.
"""

from __future__ import annotations

from tonnage.measurement import Point, Run
from tonnage.measurement.importers.reading import Place
from tonnage.measurement.importers.samples import ratio
from tonnage.measurement.statistics import spread

TOOL = "NeMo Agent Toolkit"
_LEVELS = ("calc_data", "per_concurrency_data")
_LOST_ITEMS = "the workflow was interrupted: items failed and are in no statistic"


def recognises(document: Place) -> bool:
    """Levels under one of the two names they had."""
    return document.is_object_with("gpu_estimates") and any(
        document.is_object_with(key) for key in _LEVELS
    )


def read(document: Place, name: str) -> Run:
    """The run of a recognised document. Raises InputError for what cannot be one."""
    levels = document.get(next(key for key in _LEVELS if document.is_object_with(key)))
    told = document.get("tonnage")
    points = tuple(
        _point(level, place, told.get("levels", level)) for level, place in levels.members()
    )
    if not points:
        levels.refuse("is empty.", hint="No concurrency was measured: run the sweep again.")
    version = told.get("versions", "tonnage").text()
    return Run(
        name=name,
        tool=TOOL if version is None else "tonnage sizing calc",
        tool_version=version,
        created=told.get("created").text(),
        model=told.get("model").text(),
        target=told.get("target").text(),
        gpus=told.get("test_gpu_count").count() or None,
        points=points,
    )


def _point(level: str, place: Place, told: Place) -> Point:
    if not (level.isascii() and level.isdigit() and len(level) < 10 and int(level) > 0):  # noqa: PLR2004 — digits
        place.refuse("is not a concurrency.", hint="A positive whole number is expected.")
    metrics = place.get("sizing_metrics")
    interrupted = (
        metrics.get("alerts", "workflow_interrupted").flag()
        or place.get("out_of_range_runs", "workflow_interrupted").flag()
    )
    items = [item for _, item in metrics.get("per_item_metrics").members()]
    runtimes = [item.get("workflow_runtime").seconds() for item in items]
    runtime_p95_s = metrics.get("workflow_runtime_p95").seconds()
    notes = [_LOST_ITEMS] if interrupted else []
    if runtime_p95_s is None and runtimes:
        runtime_p95_s = spread([each for each in runtimes if each]).p95_s
        notes.append("the p95 of the runtime is interpolated from the items")
    llm_p95_s = metrics.get("llm_latency_p95").seconds() or None
    if llm_p95_s is None:
        notes.append("no LLM latency: no LLM call was recorded")
    failed = sum(kind.count() or 0 for _, kind in told.get("failures").members())
    total_s = metrics.get("total_runtime").seconds() or None
    return Point(
        concurrency=int(level),
        requests=len(items) or None,  # a level without its items still has its p95s
        failed=failed,
        interrupted=interrupted,
        duration_s=total_s,
        total_runtime_s=total_s,
        requests_per_s=ratio(len(items) or None, total_s),
        llm_latency_p95_s=llm_p95_s,
        workflow_runtime_p95_s=runtime_p95_s or None,
        e2e_p95_s=told.get("client_e2e_p95").seconds() or None,
        notes=tuple(notes),
    )
