"""A figure and its unit -> the words people read; the one place where reports choose a format."""

from __future__ import annotations

import math
from collections.abc import Callable

from tonnage import units
from tonnage.fleet import Alert, Plan, PoolPlan, Scenario
from tonnage.hardware import ServerSpec
from tonnage.queueing import LatencyFigures
from tonnage.workload import Metric, Promise

UNKNOWN = "–"
NO_REQUEST = 0.01  # a smaller mean number of requests is nobody
METRICS: tuple[Metric, ...] = ("ttft", "tpot", "e2e")
METRIC_NAMES: dict[str, str] = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
METRIC_MEANINGS: dict[str, str] = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "e2e": "whole answer",
}


def _usd_per_hour(value: float) -> str:
    return f"{units.format_usd(value)} usd/h"


_FORMATS: dict[str, Callable[[float], str]] = {
    "s": units.format_time,
    "bytes": units.format_bytes,
    "fraction": units.format_fraction,
    "usd_per_hour": _usd_per_hour,
    "usd/h": _usd_per_hour,
    "watts": units.format_watts,
}


def format_figure(value: float | None, unit: str) -> str:
    """2.4e9 in "bytes" -> "2.24 GiB", 0.0214 in "s" -> "21.4 ms", 1 in "GPUs" -> "1 GPU"."""
    if value is None:
        return UNKNOWN
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "unbounded"
    if unit in _FORMATS:
        return _FORMATS[unit](value)
    shown = unit.replace("_per_", "/")
    return units.format_amount(value, shown) if unit else units.format_number(value)


def percentile_key(metric: str, percentile: float) -> str:
    """The key of `LatencyFigures.percentiles`: ("ttft", 95) -> "ttft_p95_s"."""
    return f"{metric}_p{percentile:g}_s"


def format_mean_count(value: float) -> str:
    """A mean number of requests: 11.4, 0.35; below a hundredth it is 0."""
    return units.format_number(value if value >= NO_REQUEST else 0)


def latency_s(figures: LatencyFigures | None, metric: str, percentile: float = 95) -> float | None:
    """One percentile in seconds, None when it is not known."""
    return figures.percentiles.get(percentile_key(metric, percentile)) if figures else None


def kept(promise: Promise, figures: LatencyFigures | None) -> bool | None:
    """Whether `promise` holds at this operating point; None when that is not known."""
    value = latency_s(figures, promise.metric, promise.percentile)
    return None if value is None else value <= promise.limit_s * (1 + 1e-9)  # round-off


def promise_words(promise: Promise) -> str:
    """In the manner of "TTFT p95 ≤ 1.5 s"."""
    return (
        f"{METRIC_NAMES[promise.metric]} p{promise.percentile:g}"
        f" ≤ {units.format_time(promise.limit_s)}"
    )


def plural(count: float, thing: str, things: str = "") -> str:
    """(1, "server") -> "1 server", (3, "server") -> "3 servers"."""
    return f"{units.format_number(count)} {thing if count == 1 else things or thing + 's'}"


def arrangement(pool: PoolPlan) -> str:
    """In the manner of "12 × TP2 fp8"."""
    return f"{pool.replicas} × {pool.deployment.describe()}"


def server_of(plan: Plan) -> ServerSpec | None:
    """The server the plan buys; None when GPUs are rented one by one."""
    if plan.candidate is not None:
        return plan.candidate.server if plan.candidate.whole_servers else None
    if plan.deployment is None:
        return None
    for candidate in plan.question.candidates:
        if candidate.gpu == plan.deployment.gpu and candidate.whole_servers:
            return candidate.server
    return None


def fleet_words(plan: Plan, scenario: Scenario) -> str:
    """As "3 × DGX-H200 (24 GPUs)"; as "6 × L40S" when GPUs are bought one by one."""
    server = server_of(plan)
    if scenario.servers is not None and server is not None:
        return f"{scenario.servers} × {server.name} ({plural(scenario.gpus, 'GPU')})"
    if plan.deployment is None:
        return plural(scenario.gpus, "GPU")
    return f"{scenario.gpus} × {plan.deployment.gpu.name}"


def survival_words(scenario: Scenario) -> str:
    """What may be lost with every promise kept."""
    if scenario.survives_servers:
        return f"survives {plural(scenario.survives_servers, 'server')}"
    if scenario.survives_replicas:
        return f"survives {plural(scenario.survives_replicas, 'replica')}"
    return "survives no failure"


def all_alerts(plan: Plan) -> list[Alert]:
    """The plan's alerts and those of its scenarios, most severe first, each once."""
    every = [*plan.alerts, *(alert for scenario in plan.scenarios for alert in scenario.alerts)]
    order = {"critical": 0, "warning": 1, "info": 2}
    return sorted(dict.fromkeys(every), key=lambda alert: order[alert.severity])
