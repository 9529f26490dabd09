"""The records of one level -> its metrics, by the definitions of `nat sizing calc`.

A failed item is in no time at all: it is counted, and the level is interrupted.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence

from tonnage.measurement.load import Record
from tonnage.measurement.statistics import percentile
from tonnage.sizing_calc.models import (
    LevelFacts,
    SizingMetricPerItem,
    SizingMetricsAlerts,
    SizingMetricsPerConcurrency,
)


def level_metrics(records: Sequence[Record]) -> tuple[SizingMetricsPerConcurrency, LevelFacts]:
    """What the fits need of a level, and what else was seen of it."""
    failures = Counter(each.failure for each in records if each.failure is not None)
    answered = [each for each in records if each.failure is None]
    latencies_s = [each.llm_latencies_s for each in answered]
    metrics = SizingMetricsPerConcurrency(
        alerts=SizingMetricsAlerts(workflow_interrupted=bool(failures)),
        llm_latency_p95=_p95([latency_s for item in latencies_s for latency_s in item]),
        workflow_runtime_p95=_p95([each.workflow_runtime_s for each in answered]),
        total_runtime=_span_s(answered),
        per_item_metrics={
            each.item: SizingMetricPerItem(
                llm_latency=_p95(item), workflow_runtime=each.workflow_runtime_s
            )
            for each, item in zip(answered, latencies_s, strict=True)
        },
    )
    facts = LevelFacts(
        samples=len(answered),
        failures={str(kind): failures[kind] for kind in sorted(failures)},
        first_error=next((each.error for each in records if each.error), ""),
        llm_calls=sum(len(item) for item in latencies_s),
        workflow_timed=any(each.runtime_s is not None for each in answered),
        client_e2e_p95=_p95([each.e2e_s for each in answered]),
        started=_moment(min(each.sent_unix_s for each in records)),
        ended=_moment(max(each.sent_unix_s + each.e2e_s for each in records)),
    )
    return metrics, facts


def _p95(samples_s: list[float]) -> float:
    """0 of nothing, which is how the file says that nothing was measured."""
    return percentile(sorted(samples_s), 95) or 0.0


def _span_s(records: Sequence[Record]) -> float:
    """From the first one sent to the last one answered."""
    if not records:
        return 0.0
    last = max(each.sent_unix_s + each.e2e_s for each in records)
    return last - min(each.sent_unix_s for each in records)


def _moment(unix_s: float) -> str:
    return dt.datetime.fromtimestamp(unix_s, tz=dt.UTC).isoformat(timespec="milliseconds")
