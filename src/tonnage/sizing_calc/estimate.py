"""Measured levels and targets -> fits, estimates, and what to think of them.

Which levels count, what a rough estimate is and when an item is out of range follow
`nat sizing calc` 1.9; so do the fits, by `FitRules`. Where that tool ends in a traceback or keeps
silent, the answer here carries the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tonnage.measurement.fits import (
    Choice,
    Fit,
    FitRules,
    LineFit,
    NoFit,
    Range,
    Unreachable,
    UslFit,
    choose_fit,
    concurrency_at,
    gpu_estimate,
    gpu_range,
    intercept_range,
    slope_range,
)
from tonnage.sizing_calc.models import (
    CalcAlerts,
    CalcData,
    CalcRunnerConfig,
    CalcRunnerOutput,
    FitFacts,
    FitResults,
    GPUEstimates,
    Kind,
    LawFacts,
    LinearFitResult,
    SizingMetricPerItem,
    SizingMetricsPerConcurrency,
    TonnageFacts,
)

ADVISED_LEVELS = 10  # as the guide of `nat sizing calc` recommends
CLEARLY_BETTER = 0.5  # of the line's error: a law with a third parameter wins easily by a little
STEEP_SLOPE_S = 1.0  # seconds more for each request in flight: there too

Measured = Mapping[int, SizingMetricsPerConcurrency]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One of the two times that are sized by."""

    label: str
    p95_s: Callable[[SizingMetricsPerConcurrency], float]
    of_item_s: Callable[[SizingMetricPerItem], float]
    target_s: Callable[[CalcRunnerConfig], float]


RUNTIME = Metric(
    label="Workflow Runtime",
    p95_s=lambda level: level.workflow_runtime_p95,
    of_item_s=lambda item: item.workflow_runtime,
    target_s=lambda config: config.target_workflow_runtime_p95,
)
LATENCY = Metric(
    label="LLM Latency",
    p95_s=lambda level: level.llm_latency_p95,
    of_item_s=lambda item: item.llm_latency,
    target_s=lambda config: config.target_llm_latency_p95,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sized:
    """One metric's line, which is shown whatever the estimate rests on, and its estimate."""

    facts: FitFacts
    fit: LineFit | None
    gpus: float | None

    @property
    def result(self) -> LinearFitResult | None:
        if self.fit is None:
            return None
        return LinearFitResult(
            slope=self.fit.slope,
            intercept=self.fit.intercept,
            r_squared=self.fit.r_squared,
            outliers_removed=list(self.fit.outliers),
        )

    def left_out(self, concurrency: int) -> bool:
        return self.fit is not None and concurrency in self.fit.outliers


def estimate_gpus(measured: Measured, config: CalcRunnerConfig) -> CalcRunnerOutput:
    """The answer for `measured` levels, without the facts that only a door knows (time, jobs)."""
    metrics = _metrics_of(measured)
    unusable = {
        concurrency: reason
        for concurrency, level in measured.items()
        if (reason := _why_unusable(level, metrics)) is not None
    }
    usable = {each: level for each, level in measured.items() if each not in unusable}
    runtime, latency = (_size(usable, metric, config) for metric in (RUNTIME, LATENCY))
    asked = [
        sized
        for sized, metric in ((runtime, RUNTIME), (latency, LATENCY))
        if metric.target_s(config) > 0
    ]
    found = [sized.gpus for sized in asked if sized.gpus is not None]
    return CalcRunnerOutput(
        gpu_estimates=GPUEstimates(
            gpu_estimate_by_wf_runtime=runtime.gpus, gpu_estimate_by_llm_latency=latency.gpus
        ),
        fit_results=FitResults(llm_latency_fit=latency.result, wf_runtime_fit=runtime.result),
        calc_data={
            each: CalcData(sizing_metrics=level)
            if each in unusable
            else CalcData(
                gpu_estimates=_rough_estimates(each, level, config),
                alerts=CalcAlerts(
                    outlier_workflow_runtime=runtime.left_out(each),
                    outlier_llm_latency=latency.left_out(each),
                    num_items_greater_than_target_latency=_out_of_range(level, LATENCY, config),
                    num_items_greater_than_target_runtime=_out_of_range(level, RUNTIME, config),
                ),
                sizing_metrics=level,
            )
            for each, level in sorted(measured.items())
        },
        tonnage=TonnageFacts(
            target_llm_latency_p95=config.target_llm_latency_p95,
            target_workflow_runtime_p95=config.target_workflow_runtime_p95,
            target_users=config.target_users,
            test_gpu_count=config.test_gpu_count,
            unusable_levels=unusable,
            wf_runtime=runtime.facts,
            llm_latency=latency.facts,
            gpu_estimate=max(found) if found and len(found) == len(asked) else None,
            warnings=[
                *_level_warnings(unusable, len(usable)),
                *_unmeasured_warnings(metrics),
                *_fit_warnings(RUNTIME, runtime),
                *_fit_warnings(LATENCY, latency),
            ],
        ),
    )


def _metrics_of(measured: Measured) -> list[Metric]:
    """The times that this workflow has: one that makes no LLM call has its runtime alone."""
    whole = [level for level in measured.values() if not level.alerts.workflow_interrupted]
    found = [each for each in (LATENCY, RUNTIME) if any(map(each.p95_s, whole))]
    return found or [LATENCY, RUNTIME]


def _why_unusable(level: SizingMetricsPerConcurrency, metrics: Sequence[Metric]) -> str | None:
    """Why a level is no point of any fit, as one where the LLM was dead and failed fast."""
    if level.alerts.workflow_interrupted:
        return "the workflow was interrupted"
    lacking = [metric.label for metric in metrics if metric.p95_s(level) == 0]
    return f"no p95 of {' and '.join(lacking)}" if lacking else None


def _size(usable: Measured, metric: Metric, config: CalcRunnerConfig) -> _Sized:
    points = [
        (concurrency, metric.p95_s(level))
        for concurrency, level in sorted(usable.items())
        if metric.p95_s(level) > 0
    ]
    choice = choose_fit(points, _rules(config))
    line = choice.line
    fit, facts = _chosen(choice, config.fit_config.kind)
    if isinstance(line, LineFit):
        facts.slope_range = _sides(slope_range(line))
        facts.intercept_range = _sides(intercept_range(line))
    drawn = line if isinstance(line, LineFit) else None
    if isinstance(fit, NoFit):
        facts.no_fit = fit.reason
        return _Sized(facts=facts, fit=drawn, gpus=None)
    facts.levels = list(fit.levels)
    target_s = metric.target_s(config)
    if not (target_s > 0 and config.target_users > 0 and config.test_gpu_count > 0):
        return _Sized(facts=facts, fit=drawn, gpus=None)
    reached = concurrency_at(fit, target_s)
    if isinstance(reached, Unreachable):
        facts.not_reachable = reached.reason
        return _Sized(facts=facts, fit=drawn, gpus=None)
    facts.concurrency_at_target = reached.concurrency
    facts.concurrency_range = _sides(reached.range)
    if reached.range is not None:
        gpus = gpu_range(config.target_users, reached.range, config.test_gpu_count)
        facts.gpu_range = _sides(gpus)
    facts.extrapolated_beyond = fit.levels[-1] if reached.extrapolated else None
    return _Sized(
        facts=facts,
        fit=drawn,
        gpus=gpu_estimate(config.target_users, reached.concurrency, config.test_gpu_count),
    )


def _chosen(choice: Choice, kind: Kind) -> tuple[Fit | NoFit, FitFacts]:
    """What the estimate rests on, with both kinds compared on levels that were left out."""
    usl = choice.usl
    fit = {"line": choice.line, "usl": usl, "best": choice.fit}[kind]
    facts = FitFacts(
        kind="usl" if isinstance(fit, UslFit) else "line",
        line_error=_finite(choice.line_error),
        law_error=_finite(choice.usl_error),
    )
    if isinstance(usl, UslFit):
        facts.law = LawFacts(
            rate_alone_per_s=usl.rate_alone_per_s,
            contention=usl.contention,
            coherency=usl.coherency,
            knee=usl.knee,
        )
    return fit, facts


def _finite(error: float | None) -> float | None:
    return error if error is not None and math.isfinite(error) else None


def _rules(config: CalcRunnerConfig) -> FitRules:
    rules = config.fit_config
    return FitRules(
        remove_outliers=rules.remove_outliers,
        small_range=rules.small_concurrency_range_threshold,
        extreme_iqrs=rules.extreme_outlier_threshold,
        residual_iqrs=rules.conservative_outlier_threshold,
        min_r_squared=rules.min_r_squared,
    )


def _sides(found: Range | None) -> tuple[float | None, float | None] | None:
    return None if found is None else (found.low, found.high)


def _rough_estimates(
    concurrency: int, level: SizingMetricsPerConcurrency, config: CalcRunnerConfig
) -> GPUEstimates:
    """Users / concurrency × (p95 / target) × GPUs tested; none where any target is exceeded.

    For information: it supposes that time is proportional to load, which a line with an intercept
    denies.
    """
    active = [metric for metric in (RUNTIME, LATENCY) if metric.target_s(config) > 0]
    if any(metric.p95_s(level) > metric.target_s(config) for metric in active):
        return GPUEstimates()

    def rough(metric: Metric) -> float | None:
        if metric not in active or not (config.target_users and config.test_gpu_count):
            return None
        share = metric.p95_s(level) / metric.target_s(config)
        if share == 0:
            return None  # not measured at this level
        return config.target_users / concurrency * share * config.test_gpu_count

    return GPUEstimates(
        gpu_estimate_by_wf_runtime=rough(RUNTIME), gpu_estimate_by_llm_latency=rough(LATENCY)
    )


def _out_of_range(
    level: SizingMetricsPerConcurrency, metric: Metric, config: CalcRunnerConfig
) -> int:
    """Items whose time is above the target."""
    target_s = metric.target_s(config)
    items = level.per_item_metrics.values()
    return sum(metric.of_item_s(item) > target_s for item in items) if target_s > 0 else 0


# ── what to think of it ─────────────────────────────────────────────────────────────────────────


def _level_warnings(unusable: Mapping[int, str], usable: int) -> list[str]:
    warnings = [
        f"concurrency {concurrency} is in no fit: {reason}."
        for concurrency, reason in sorted(unusable.items())
    ]
    if usable < ADVISED_LEVELS:
        warnings.append(
            f"{usable} usable concurrency level{'s' * (usable != 1)}: measure at least"
            f" {ADVISED_LEVELS} for a fit to rely on."
        )
    return warnings


def _unmeasured_warnings(metrics: Sequence[Metric]) -> list[str]:
    return [
        f"{metric.label}: not measured at any level."
        for metric in (LATENCY, RUNTIME)
        if metric not in metrics
    ]


def _fit_warnings(metric: Metric, sized: _Sized) -> list[str]:
    line, facts = sized.fit, sized.facts
    warnings = _bend_warnings(metric, facts)
    by = {"line": "line", "usl": "scalability law"}[facts.kind]
    if line is not None and line.outliers and facts.kind == "line":
        left_out = ", ".join(map(str, line.outliers))
        warnings.append(f"{metric.label}: concurrency {left_out} left out of the fit as outlier.")
    if line is not None and line.slope > STEEP_SLOPE_S:
        warnings.append(
            f"{metric.label}: the slope is {line.slope:.3g}, above 1: each further request in"
            " flight costs more than a second. Reduce the slope before buying GPUs for it."
        )
    at = facts.concurrency_at_target
    if at is not None and facts.extrapolated_beyond is not None:
        warnings.append(
            f"{metric.label}: the estimate rests on concurrency {at:.4g}, beyond the largest level"
            f" that worked and fits, {facts.extrapolated_beyond}; nothing shows that the {by} goes"
            " on. Measure there."
        )
    if at is not None and at < 1:
        warnings.append(
            f"{metric.label}: the {by} meets the target at concurrency {at:.2g}, below one request"
            " in flight: one request alone already misses the target, whatever the GPU count."
        )
    return warnings


def _bend_warnings(metric: Metric, facts: FitFacts) -> list[str]:
    """A line through levels that bend; said where it shows at levels that were left out."""
    law, line_error, law_error = facts.law, facts.line_error, facts.law_error
    if facts.kind == "usl" or law is None or line_error is None or law_error is None:
        return []
    if law_error >= CLEARLY_BETTER * line_error:
        return []
    knee = f", with most throughput at concurrency {law.knee:.3g}" if law.knee else ""
    said = f"{metric.label}: the levels bend{knee}."
    errors = f"the scalability law misses by {law_error:.3g} s, the line by {line_error:.3g} s"
    return [f"{said} Of levels left out, {errors}. --fit best estimates by the better one."]
