"""A fitted sweep -> a Report: the line or law of each metric, and the GPUs that it asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tonnage import units
from tonnage.measurement import Point
from tonnage.measurement.curve import fault
from tonnage.measurement.fits import (
    Fit,
    LineFit,
    NoFit,
    Range,
    Reachable,
    Unreachable,
    UslFit,
    gpu_estimate,
    gpu_range,
    intercept_range,
    slope_range,
)
from tonnage.measurement.statistics import metric_words
from tonnage.measurement.sweep import FittedMetric, Sweep
from tonnage.report import (
    Block,
    Cell,
    Column,
    Commands,
    Headline,
    Notice,
    Prose,
    Report,
    Section,
    Table,
)
from tonnage.report.figures import UNKNOWN, plural
from tonnage.report.json import SCHEMA_VERSION, Json, with_explanations

POINT_KEYS = (
    "concurrency",
    "llm_latency_p95_s",
    "workflow_runtime_p95_s",
    "ttft_p50_s",
    "ttft_p95_s",
    "tpot_mean_s",
    "e2e_p50_s",
    "e2e_p95_s",
    "requests",
    "failed",
    "output_tokens_per_s",
    "interrupted",
)
MISSED_ALONE = "by this fit one request alone already misses the target"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitQuestion:
    """What was asked of the fits; without a target only the fits themselves are told."""

    target_s: float | None = None
    users: float | None = None
    test_gpus: int | None = None


def report_fits(
    sweep: Sweep,
    fitted: Sequence[FittedMetric],
    question: FitQuestion,
    *,
    command: str = "tonnage fit",
) -> Report:
    """The report of `fitted`; `command` is what was typed, to suggest the next one."""
    sections = (
        _levels(sweep, fitted),
        _fits(fitted),
        _estimates(fitted, question),
        _notices(sweep, fitted, question),
        Section(
            id="next",
            title="Next",
            blocks=(Commands(((f"{command} -o fit.json", "the same answer for a program"),)),),
        ),
    )
    return Report(
        title=" · ".join(dict.fromkeys(sweep.names)),
        subtitle=_measured_on(sweep),
        headline=_headline(fitted, question),
        sections=tuple(section for section in sections if section is not None),
        data=fits_data(sweep, fitted, question),
    )


def _measured_on(sweep: Sweep) -> tuple[str, ...]:
    hardware = sweep.gpu
    if sweep.gpus is not None:
        hardware = f"{sweep.gpus} × {sweep.gpu}" if sweep.gpu else plural(sweep.gpus, "GPU")
    parts = [part for part in (sweep.model, hardware) if part]
    return (f"Measured: {', '.join(parts)}",) if parts else ()


# ── the answer ──────────────────────────────────────────────────────────────────────────────────


def _headline(fitted: Sequence[FittedMetric], question: FitQuestion) -> Headline:
    sound = [each for each in fitted if not isinstance(each.fit, NoFit)]
    if not sound:
        reasons = (f"{metric_words(each.metric)}: {_no(each)}" for each in fitted)
        return Headline(label="No fit", answer="; ".join(reasons), tone="bad")
    if question.target_s is None:
        best = sound[0]
        assert not isinstance(best.fit, NoFit)  # noqa: S101 — these are the sound ones
        return Headline(label=metric_words(best.metric), answer=_formula(best.fit))
    reached = [
        (each.answer.concurrency, each, each.answer)
        for each in sound
        if isinstance(each.answer, Reachable)
    ]
    target = units.format_time(question.target_s)
    if not reached:
        return Headline(
            label="Not reachable",
            answer=f"{target} at any GPU count by this fit",
            notes=tuple(f"{metric_words(each.metric)}: {_no(each)}." for each in sound),
            tone="bad",
        )
    _, governing, answer = min(reached, key=lambda each: each[0])
    words = f"{metric_words(governing.metric)} ≤ {target}"
    if answer.below_one:
        return Headline(label="Not reachable", answer=f"{words}: {MISSED_ALONE}", tone="bad")
    told = answer.range
    notes = [f"{metric_words(each.metric)}: {_no(each)}." for each in fitted if _no(each)]
    if told is not None:
        holds = f"if the {_kind(governing.fit)} holds and scatter grows with latency"
        notes.insert(0, f"The range is at 90 % confidence, {holds}.")
    if answer.extrapolated and not isinstance(governing.fit, NoFit):
        notes.insert(0, f"Extrapolated: no level above {governing.fit.levels[-1]} is in the fit.")
    if question.users is None or question.test_gpus is None:
        return Headline(
            label="It carries",
            answer=f"{units.format_number(answer.concurrency)} requests in flight",
            facts=(words, *_with_range(told)),
            notes=tuple(notes),
        )
    gpus = gpu_estimate(question.users, answer.concurrency, question.test_gpus)
    span = gpu_range(question.users, told, question.test_gpus) if told else None
    return Headline(
        label="GPUs",
        answer=_figure(gpus),
        facts=(
            f"{plural(math.ceil(gpus), 'whole GPU')}",
            *_with_range(span),
            f"{units.format_number(question.users)} users",
            words,
        ),
        notes=tuple(notes),
    )


def _with_range(span: Range | None) -> tuple[str, ...]:
    return () if span is None else (f"range {_span(span)}",)


def _no(fitted: FittedMetric) -> str:
    """Why there is no figure: no fit, or a target out of reach."""
    found = fitted.fit if isinstance(fitted.fit, NoFit) else fitted.answer
    return found.reason if isinstance(found, NoFit | Unreachable) else ""


# ── levels, fits, estimates ─────────────────────────────────────────────────────────────────────


def _levels(sweep: Sweep, fitted: Sequence[FittedMetric]) -> Section | None:
    if not sweep.points:
        return None
    table = Table(
        columns=(
            Column("in flight", "right"),
            *(Column(metric_words(each.metric), "right") for each in fitted),
            Column("requests", "right"),
            Column("output tokens/s", "right"),
            Column(""),
        ),
        rows=tuple(_level_row(point, fitted) for point in sweep.points),
    )
    return Section(id="levels", title="What was measured", blocks=(table,))


def _level_row(point: Point, fitted: Sequence[FittedMetric]) -> tuple[Cell, ...]:
    values = [(each, getattr(point, each.metric)) for each in fitted]
    dropped = [
        metric_words(each.metric)
        for each in fitted
        if not isinstance(each.fit, NoFit) and point.concurrency in each.fit.outliers
    ]
    remark = "interrupted" if point.interrupted or point.failed else ""
    if dropped and not remark:
        remark = "outlier" if len(dropped) == len(fitted) else f"outlier: {', '.join(dropped)}"
    return (
        Cell(UNKNOWN if point.concurrency is None else str(point.concurrency)),
        *(Cell(units.format_time(value), "", value) for _, value in values),
        Cell(units.format_number(point.requests)),
        Cell(units.format_number(point.output_tokens_per_s), "", point.output_tokens_per_s),
        Cell(remark, "bad" if remark == "interrupted" else "quiet"),
    )


def _fits(fitted: Sequence[FittedMetric]) -> Section:
    rows = [row for each in fitted for row in _fit_rows(each)]
    blocks: list[Block] = []
    if rows:
        table = Table(
            columns=(
                Column("metric"),
                Column("figure"),
                Column("value", "right"),
                Column("90 % range", "right"),
            ),
            rows=tuple(rows),
        )
        blocks.append(table)
    blocks += [
        Prose(f"{metric_words(each.metric)}: no fit, {each.fit.reason}.", "bad")
        for each in fitted
        if isinstance(each.fit, NoFit)
    ]
    blocks += [Prose(_chosen(each), "quiet") for each in fitted if each.line_error_s is not None]
    return Section(id="fits", title="Latency against requests in flight", blocks=tuple(blocks))


def _fit_rows(fitted: FittedMetric) -> Iterable[tuple[Cell, ...]]:
    fit = fitted.fit
    figures: list[tuple[str, str, float | None, Range | None]]
    match fit:
        case NoFit():
            return
        case LineFit():
            figures = [
                ("slope", f"{_time(fit.slope)} per request", fit.slope, slope_range(fit)),
                ("intercept", _time(fit.intercept), fit.intercept, intercept_range(fit)),
            ]
        case UslFit():
            alone = 1 / fit.rate_alone_per_s
            knee = "none" if fit.knee is None else units.format_number(fit.knee)
            figures = [
                ("one request alone", _time(alone), alone, None),
                ("contention (sigma)", f"{fit.contention:.4g}", fit.contention, None),
                ("coherency (kappa)", f"{fit.coherency:.3g}", fit.coherency, None),
                ("knee, in flight", knee, fit.knee, None),
            ]
    figures.append(("R²", f"{fit.r_squared:.4f}", fit.r_squared, None))
    for position, (name, text, value, span) in enumerate(figures):
        yield (
            Cell("" if position else metric_words(fitted.metric)),
            Cell(name),
            Cell(text, "strong", value),
            Cell(_span(span, time=True) if span else "", "quiet"),
        )


def _chosen(fitted: FittedMetric) -> str:
    line, usl = (_error(each) for each in (fitted.line_error_s, fitted.usl_error_s))
    return (
        f"{metric_words(fitted.metric)}: the {_kind(fitted.fit)} was chosen. Predicting each level"
        f" from the others, the line is off by {line}, the scalability law by {usl}."
    )


def _error(error_s: float | None) -> str:
    return units.format_time(error_s) if error_s is not None and error_s < math.inf else UNKNOWN


def _estimates(fitted: Sequence[FittedMetric], question: FitQuestion) -> Section | None:
    reached = [(each, each.answer) for each in fitted if isinstance(each.answer, Reachable)]
    if question.target_s is None or not reached:
        return None
    with_gpus = question.users is not None and question.test_gpus is not None
    table = Table(
        columns=(
            Column("by"),
            Column("in flight", "right"),
            Column("90 % range", "right"),
            *((Column("GPUs", "right"), Column("90 % range", "right")) if with_gpus else ()),
        ),
        rows=tuple(_estimate_row(each, answer, question) for each, answer in reached),
    )
    blocks: list[Block] = [table]
    if with_gpus:
        blocks.append(
            Prose(
                f"GPUs = {units.format_number(question.users)} users / in flight ×"
                f" {plural(question.test_gpus or 0, 'GPU')} tested; round up to buy.",
                "quiet",
            )
        )
    title = f"For {units.format_time(question.target_s)}"
    return Section(id="estimates", title=title, blocks=tuple(blocks))


def _estimate_row(
    fitted: FittedMetric, answer: Reachable, question: FitQuestion
) -> tuple[Cell, ...]:
    cells = [
        Cell(metric_words(fitted.metric)),
        Cell(_figure(answer.concurrency), "strong", answer.concurrency),
        Cell(_span(answer.range), "quiet"),
    ]
    if question.users is not None and question.test_gpus is not None:
        gpus = gpu_estimate(question.users, answer.concurrency, question.test_gpus)
        span = gpu_range(question.users, answer.range, question.test_gpus) if answer.range else None
        cells += [Cell(_figure(gpus), "strong", gpus), Cell(_span(span), "quiet")]
    return tuple(cells)


# ── what to know ────────────────────────────────────────────────────────────────────────────────


def _notices(sweep: Sweep, fitted: Sequence[FittedMetric], question: FitQuestion) -> Section | None:
    blocks = [notice for each in fitted for notice in _warnings(each, question)]
    blocks += _doubts(sweep, fitted)
    reasons: dict[str, list[str]] = {}
    for each in fitted:
        for left in each.left_out:
            level = "a level" if left.concurrency is None else f"level {left.concurrency}"
            reasons.setdefault(f"{level} ({left.reason})", []).append(metric_words(each.metric))
    blocks += [
        Notice(
            severity="info",
            cause=f"{told} is left out of the fit",
            impact="",
            action="",
            scope="" if len(metrics) == len(fitted) else ", ".join(metrics),
        )
        for told, metrics in reasons.items()
    ]
    return Section(id="alerts", title="To know", blocks=tuple(blocks)) if blocks else None


def _doubts(sweep: Sweep, fitted: Sequence[FittedMetric]) -> Iterable[Notice]:
    """A warning where levels are fitted that prove little by themselves."""
    fits = [each.fit for each in fitted if not isinstance(each.fit, NoFit)]
    levels = {level for fit in fits for level in fit.levels}
    found: dict[str, list[int]] = {}
    for point in sweep.points:
        if point.concurrency in levels and (why := fault(point)):
            found.setdefault(why, []).append(point.concurrency)
    for why, doubtful in found.items():
        were = "were" if doubtful[1:] else "was"
        yield Notice(
            severity="warning",
            cause=f"{_list(doubtful)} in flight {were} {why} as measured",
            impact="The fit rests on it all the same.",
            action="Measure again, for longer: --duration.",
        )


def _warnings(fitted: FittedMetric, question: FitQuestion) -> Iterable[Notice]:
    scope = metric_words(fitted.metric)
    fit, answer = fitted.fit, fitted.answer
    if isinstance(fit, NoFit):
        return
    if fit.outliers:
        yield Notice(
            severity="info",
            scope=scope,
            cause=f"{_list(fit.outliers)} in flight dropped as outliers",
            impact="A level where the system saturates looks like one.",
            action="Compare with --kind best, which drops nothing.",
        )
    if isinstance(answer, Unreachable) and question.target_s is not None:
        yield Notice(
            severity="warning",
            scope=scope,
            cause=f"{units.format_time(question.target_s)} is {answer.reason}",
            impact="",
            action="Loosen the target, or make one request alone faster.",
        )
    if isinstance(answer, Reachable) and answer.extrapolated:
        yield Notice(
            severity="warning",
            scope=scope,
            cause=f"{units.format_number(answer.concurrency)} in flight is beyond the largest level"
            f" fitted, {fit.levels[-1]}",
            impact="Nothing measured says that latency goes on like this; a saturating system does"
            " not, and needs more GPUs.",
            action=f"Measure up to {math.ceil(answer.concurrency)} in flight.",
        )
    if isinstance(answer, Reachable) and answer.below_one:
        yield Notice(
            severity="warning",
            scope=scope,
            cause=MISSED_ALONE,
            impact="More GPUs of this kind then cannot meet it.",
            action="Loosen the target, or measure a faster deployment.",
        )


# ── words ───────────────────────────────────────────────────────────────────────────────────────


def _kind(fit: Fit | NoFit) -> str:
    return "scalability law" if isinstance(fit, UslFit) else "line"


def _formula(fit: Fit) -> str:
    if isinstance(fit, LineFit):
        sign = "-" if fit.slope < 0 else "+"
        return f"{_time(fit.intercept)} {sign} {_time(abs(fit.slope))} per request in flight"
    knee = "no knee" if fit.knee is None else f"knee at {units.format_number(fit.knee)} in flight"
    return f"scalability law, {knee}"


def _time(seconds: float) -> str:
    return units.format_time(seconds)


def _figure(value: float) -> str:
    """Two decimals, as far as a fraction of a GPU says anything."""
    return f"{value:,.2f}"


def _span(span: Range | None, *, time: bool = False) -> str:
    if span is None:
        return UNKNOWN
    if span.low is None and span.high is None:
        return "unbounded"
    show = _time if time else units.format_number
    if span.low is None:
        return f"up to {show(span.high or 0.0)}"
    if span.high is None:
        return f"from {show(span.low)}, unbounded"
    return f"{show(span.low)} to {show(span.high)}"


def _list(levels: Iterable[int]) -> str:
    return ", ".join(str(level) for level in levels)


# ── for programs ────────────────────────────────────────────────────────────────────────────────


def fits_data(sweep: Sweep, fitted: Sequence[FittedMetric], question: FitQuestion) -> Json:
    """The whole answer, ready for `json.dumps`; an unbounded side of an interval is null."""
    data: Json = {
        "schema_version": SCHEMA_VERSION,
        "runs": list(sweep.names),
        "model": sweep.model,
        "gpu": sweep.gpu,
        "gpus": sweep.gpus,
        "target_s": question.target_s,
        "users": question.users,
        "test_gpus": question.test_gpus,
        "points": [{key: getattr(point, key) for key in POINT_KEYS} for point in sweep.points],
        "fits": [_fit_data(each) for each in fitted],
        "estimates": [
            _estimate_data(each, question)
            for each in fitted
            if question.target_s is not None
        ],
        "left_out": [
            {"metric": each.metric, "concurrency": left.concurrency, "reason": left.reason}
            for each in fitted
            for left in each.left_out
        ],
    }  # fmt: skip
    return with_explanations(data, {})


def _fit_data(fitted: FittedMetric) -> Json:
    """Every key for every kind; what a kind does not have is null."""
    fit = fitted.fit
    line = fit if isinstance(fit, LineFit) else None
    usl = fit if isinstance(fit, UslFit) else None
    sound = line or usl
    asked = None if fitted.kind == "best" else fitted.kind
    return {
        "metric": fitted.metric,
        "kind": "line" if line else "usl" if usl else asked,
        "reason": fit.reason if isinstance(fit, NoFit) else None,
        "slope": line.slope if line else None,
        "intercept": line.intercept if line else None,
        "rate_alone_per_s": usl.rate_alone_per_s if usl else None,
        "contention": usl.contention if usl else None,
        "coherency": usl.coherency if usl else None,
        "knee_concurrency": usl.knee if usl else None,
        "r_squared": sound.r_squared if sound else None,
        "outliers": list(sound.outliers) if sound else [],
        "levels": list(sound.levels) if sound else [],
        "interval_90": {
            "slope": _range_data(slope_range(line)),
            "intercept": _range_data(intercept_range(line)),
        }
        if line
        else None,
        "line_error_s": fitted.line_error_s,
        "usl_error_s": fitted.usl_error_s,
    }


def _estimate_data(fitted: FittedMetric, question: FitQuestion) -> Json:
    answer = fitted.answer if isinstance(fitted.answer, Reachable) else None
    gpus: float | None = None
    span: Range | None = None
    if answer and question.users is not None and question.test_gpus is not None:
        gpus = gpu_estimate(question.users, answer.concurrency, question.test_gpus)
        span = gpu_range(question.users, answer.range, question.test_gpus) if answer.range else None
    return {
        "metric": fitted.metric,
        "target_s": question.target_s,
        "reachable": answer is not None and not answer.below_one,
        "reason": (MISSED_ALONE if answer.below_one else None) if answer else _no(fitted),
        "concurrency": answer.concurrency if answer else None,
        "gpus": gpus,
        "interval_90": {
            "concurrency": _range_data(answer.range if answer else None),
            "gpus": _range_data(span),
        },
        "extrapolated": answer.extrapolated if answer else None,
        "below_one_request": answer.below_one if answer else None,
    }


def _range_data(span: Range | None) -> list[float | None] | None:
    return None if span is None else [span.low, span.high]
