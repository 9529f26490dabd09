"""Parts of a simulation -> the words and figures that its report and its pictures say of them."""

from __future__ import annotations

import math
from collections.abc import Callable

from tonnage import units
from tonnage.fleet import BatchDone, Scene
from tonnage.queueing.simulation import Autoscaler, EngineModel, Estimate, Outage
from tonnage.report.figures import METRIC_MEANINGS, plural, promise_words
from tonnage.workload import Promise

SMALLEST_OFF = 0.001  # of a figure: a narrower interval is told as this wide
NO_RATE = "too few requests count to tell a rate"


def fleet_words(scene: Scene) -> str:
    """As "4 × TP2 fp8 on H200-SXM (8 GPUs)"."""
    deployment, split = scene.deployment, scene.fleet.disaggregation
    replicas = f"{scene.fleet.replicas} × {deployment.describe()}"
    if split is not None:
        replicas += f" for prompts and {split.replicas} for answers"
    return f"{replicas} on {deployment.gpu.name} ({plural(scene.gpus, 'GPU')})"


def engine_words(name: str, engine: EngineModel) -> str:
    """As "vLLM, policy vllm, prefix cache on, step times modelled"."""
    parts = [
        f"{name}, policy {engine.policy}",
        f"prefix cache {'on' if engine.prefix_cache else 'off'}",
        f"step times {engine.table.evidence.label}",
    ]
    return ", ".join(parts)


def outage_words(outage: Outage, *, retry: bool) -> str:
    """As "replica 0 stops at 300 s, until 480 s; what it held is sent again"."""
    fate = "sent again" if retry else "lost"
    down, up = units.format_time(outage.down_s), units.format_time(outage.up_s)
    back = f"until {up}" if up != down else f"for {units.format_time(outage.up_s - outage.down_s)}"
    if math.isinf(outage.up_s):
        back = "for good"
    return f"replica {outage.replica} stops at {down}, {back}; what it held is {fate}"


def autoscaler_words(scaler: Autoscaler, replicas: int) -> str:
    """As "1 to 4 replicas at about 16 requests each, …"."""
    each = units.format_number(scaler.outstanding)
    return (
        f"{scaler.least} to {replicas} replicas at about {each} requests each, looked at every"
        f" {units.format_time(scaler.interval_s)}, up after {units.format_time(scaler.startup_s)}"
    )


def requests_words(count: float) -> str:
    """As "1 request" or "1,294 requests"."""
    return units.format_amount(count, "requests")


def batch_words(done: BatchDone) -> str:
    """As "1,000,000 requests done ≤ 8 h"."""
    limit = units.format_time(done.batch.deadline_s)
    return f"{requests_words(math.ceil(done.batch.requests))} done ≤ {limit}"


def unjudged_words(promise: Promise) -> str:
    """As "TPOT p95 ≤ 50 ms is not judged: no request that counts has a time per output token"."""
    without = f"no request that counts has a {METRIC_MEANINGS[promise.metric]}"
    return f"{promise_words(promise)} is not judged: {without}, being answered with one token"


def share_words(share: float | None) -> str:
    """As a percentage that is 100 % only when it is all of them."""
    shown = units.format_fraction(share)
    if share is None or share >= 1 or shown != units.format_fraction(1.0):
        return shown
    return f"{math.floor(share * 1e4) / 100:g} %"


def with_interval(estimate: Estimate) -> str:
    """As "0.91 s (0.88–0.95 s)"."""
    interval = interval_words(estimate, units.format_time)
    return units.format_time(estimate.value) + (f" ({interval})" if interval else "")


def interval_words(
    estimate: Estimate, shown: Callable[[float | None], str], *, unit_told: bool = False
) -> str:
    """As "0.88–0.95 s", "926 ms–1.02 s" or "± 0.1 %"; empty where there is none.

    With `unit_told` it stands beside its figure, and "0.88–0.95" will do where all three have one
    unit.
    """
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return ""
    low, high = shown(estimate.low), shown(estimate.high)
    if low == high:
        off = (estimate.high - estimate.low) / 2 / estimate.high
        return f"± {units.format_fraction(max(off, SMALLEST_OFF))}"
    number, _, unit = low.rpartition(" ")
    if not high.endswith(f" {unit}"):
        return f"{low}–{high}"
    alike = unit_told and shown(estimate.value).endswith(f" {unit}")
    return f"{number}–{high.removesuffix(f' {unit}') if alike else high}"


def sentence(note: str) -> str:
    """The note with a capital and a full stop, however it came."""
    return note[:1].upper() + note[1:].removesuffix(".") + "."
