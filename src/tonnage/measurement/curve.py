"""A load test's levels -> the latency curve of one copy of what was tested.

Behind the `LatencyCurve` seam this is the curve that was seen: between two levels it is
interpolated, below the lightest it stays what it was there, and beyond the largest sound level
there is no figure. Nothing is fitted and nothing extrapolated.

Of several levels the *front* counts: those at which more load brought more answers. On a level past
saturation fewer requests are answered and each takes longer; a load that arrives by itself never
settles there.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from tonnage.evidence import Evidence
from tonnage.measurement import Point
from tonnage.queueing import LatencyFigures
from tonnage.units import format_amount
from tonnage.workload import PERCENTILES, Batch, ClosedLoad, Metric, OpenLoad, Promise

_METRICS: tuple[Metric, ...] = ("ttft", "tpot", "e2e")
_ROUND_OFF = 1e-9


class MeasuredCurve:
    """`LatencyCurve` from the levels of a run.

    `points` are the sound levels by rising load, `front` those of them with a rate that no lighter
    level reaches, `unused` the others with what is wrong with each.
    """

    def __init__(self, points: Iterable[Point]) -> None:
        sound, unused = [], []
        for point in points:
            why = fault(point)
            if why:
                unused.append((point, why))
            else:
                sound.append(point)
        self.points: tuple[Point, ...] = tuple(sorted(sound, key=_offered))
        self.unused: tuple[tuple[Point, str], ...] = tuple(unused)
        self.front = tuple(
            point for _, point in _rising((p.requests_per_s, p) for p in self.points)
        )

    def capacity_requests_per_s(self) -> float:
        """The largest rate that was measured; not a number when no level has a rate."""
        return max((p.requests_per_s or 0.0 for p in self.front), default=math.nan)

    def at(self, load: OpenLoad | ClosedLoad) -> LatencyFigures:
        """The figures when one copy carries `load`, in between the two levels around it.

        An open load is looked up by its peak rate, a closed one by its clients. Beyond the largest
        level every percentile is None and `regime` says "not measured".
        """
        levels = _rising((carried(point, load), point) for point in self.points)
        if isinstance(load, OpenLoad):
            wanted, unit = load.requests_per_s_peak, "requests/s"
        else:
            wanted, unit = float(load.clients), "clients"
        if not levels or wanted > levels[-1][0] * (1 + _ROUND_OFF):
            ends = f" beyond {format_amount(levels[-1][0], unit)}" if levels else ""
            rate = wanted if isinstance(load, OpenLoad) else math.nan
            return self._figures({}, rate, f"not measured{ends}")
        keys = [key for key, _ in levels]
        above = min(bisect_left(keys, wanted), len(levels) - 1)
        below = max(above - 1, 0)
        low, high = levels[below][1], levels[above][1]
        share = 0.0
        if above > below:
            share = min((wanted - keys[below]) / (keys[above] - keys[below]), 1.0)
        percentiles = {
            f"{metric}_p{p:g}_s": _between(
                percentile_s(low, metric, p), percentile_s(high, metric, p), share
            )
            for metric in _METRICS
            for p in PERCENTILES
        }
        rate = wanted
        if isinstance(load, ClosedLoad):
            found = _between(low.requests_per_s, high.requests_per_s, share)
            rate = math.nan if found is None else found
        lighter = wanted < keys[0] * (1 - _ROUND_OFF)
        words = f"lighter than any level; the figures are those at {format_amount(keys[0], unit)}"
        return self._figures(percentiles, rate, words if lighter else "")

    def _figures(
        self, percentiles: dict[str, float | None], rate: float, regime: str
    ) -> LatencyFigures:
        """A load test sees requests in flight, not which of them run or wait, nor the cache."""
        return LatencyFigures(
            percentiles=percentiles
            or {f"{metric}_p{p:g}_s": None for metric in _METRICS for p in PERCENTILES},
            utilisation=rate / self.capacity_requests_per_s(),
            running=math.nan,
            waiting=math.nan,
            requests_per_s=rate,
            kv_fraction=math.nan,
            evidence=Evidence.MEASURED,
            regime=regime,
        )


def fault(point: Point) -> str:
    """Why nothing can be concluded from `point`; "" when it is sound."""
    if point.failed:
        return f"interrupted: {point.failed} failed"
    for broken, why in (
        (point.stopped, "stopped before its end"),
        (point.interrupted, "interrupted"),
        (point.client_bound, "client-bound"),
        (point.overloaded, "overloaded"),
        (point.stable is False, "unstable"),
        (
            not point.requests_per_s and point.concurrency is None,
            "neither a rate nor a concurrency was measured",
        ),
    ):
        if broken:
            return why
    return ""


def percentile_s(point: Point, metric: str, percentile: float) -> float | None:
    """A percentile of "ttft", "tpot" or "e2e"; None when it was not measured.

    The runtime of a workflow's item is the end-to-end time of what its user asked.
    """
    found: float | None = getattr(point, f"{metric}_p{percentile:g}_s", None)
    if found is None and (metric, percentile) == ("e2e", 95.0):
        return point.workflow_runtime_p95_s
    return found


def promised_s(point: Point, promise: Promise) -> float | None:
    """The percentile that is promised; None when it was not measured."""
    return percentile_s(point, promise.metric, promise.percentile)


def keeps(point: Point, promise: Promise) -> bool:
    """Whether `promise` was measured at `point`, and kept."""
    value_s = promised_s(point, promise)
    return value_s is not None and value_s <= promise.limit_s * (1 + _ROUND_OFF)


def carried(point: Point, load: OpenLoad | ClosedLoad | Batch) -> float | None:
    """What a copy carries at `point`, in the unit of `load`; None when the point does not say.

    Requests/s of an open load or a batch. Of a closed load its clients: those in flight, and by
    Little's law those that think, rate x think time.
    """
    rate = point.requests_per_s
    if not isinstance(load, ClosedLoad):
        return rate or None
    flying = in_flight(point)
    if flying is None or not load.think_time_s:
        return flying
    return flying + rate * load.think_time_s if rate else None


def in_flight(point: Point) -> float | None:
    """Mean requests in flight: a closed loop's concurrency, an open one's mean or rate x time."""
    if point.concurrency is not None:
        return float(point.concurrency)
    if point.in_flight_mean_requests is not None:
        return point.in_flight_mean_requests
    if point.requests_per_s and point.e2e_mean_s is not None:
        return point.requests_per_s * point.e2e_mean_s
    return None


def _offered(point: Point) -> float:
    """What levels are ordered by: requests in flight, else the rate."""
    flying = in_flight(point)
    if flying is not None:
        return flying
    return point.request_rate_target_per_s or point.requests_per_s or 0.0


def _rising(levels: Iterable[tuple[float | None, Point]]) -> Sequence[tuple[float, Point]]:
    """Those whose key is above every key before."""
    kept: list[tuple[float, Point]] = []
    for key, point in levels:
        if key and (not kept or key > kept[-1][0]):
            kept.append((key, point))
    return kept


def _between(low: float | None, high: float | None, share: float) -> float | None:
    """`share` of the way from `low` to `high`; None unless what it takes is known."""
    if share in (0.0, 1.0):
        return low if share == 0.0 else high
    if low is None or high is None:
        return None
    return low + (high - low) * share
