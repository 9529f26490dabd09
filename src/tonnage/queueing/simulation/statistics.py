"""Simulated × promises -> Summary: what is told of a run, and how far chance may have made it.

Everything is derived from the records of the counted requests, a steady window that leaves out the
warm-up and the drain. A figure's 90 % interval comes from ten batches of that window in order of
arrival: batches long enough to be independent differ by chance alone. For a percentile the batches
are asked for the share of requests within it, and the interval of that share is read off the whole
window as latencies (Woodruff 1952, J. Am. Stat. Assoc. 47). Percentiles of batches would be biased
and too much alike: on M/M/1 at 85 % load, 20,000 requests, they cover the true p95 in 84 % of the
runs and p99 in 60 %; this covers p95 in 89 %, and p99 in 69 % of the half of runs that get one.

No interval is given where it could not be trusted: fewer than a hundred requests a batch, fewer
than fifty beyond the percentile, an upper end beyond the largest latency seen, or batches that are
still alike because neighbouring stretches of requests are (a load near capacity, or one that
drifts). On M/M/1 with 20,000 requests, 96 % of the runs get intervals of p95 at 85 % load, 71 % at
90 %, 7 % at 95 %. A promise whose limit is exactly what the server really reaches is called kept in
5-10 % of the runs at any load and missed in at most 6 % (of p99: 13 and 10 %), where 5 % is ideal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tonnage.queueing.simulation import (
    STATUSES,
    Attainment,
    Distribution,
    Estimate,
    Records,
    Simulated,
    Stability,
    Status,
    Summary,
    Timeline,
    Verdict,
)
from tonnage.workload import PERCENTILES, Metric, Promise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

BATCHES = 10
# quantiles of Student's t with 9 degrees of freedom (NIST/SEMATECH e-Handbook, section 1.3.6.7.2)
T_90_PERCENT = 1.833  # two-sided
T_99_PERCENT = 2.821  # one-sided
NORMAL_90_PERCENT = 1.645  # two-sided, of the normal distribution (as above, section 1.3.6.7.1)

LEAST_PER_BATCH = 100  # requests; with fewer, an M/M/1 at 50 % load is misjudged twice as often
LEAST_BEYOND = 50  # requests slower than a percentile that is given an interval
STRETCHES = 100  # parts of the window whose means must not be alike
MOST_ALIKE = 0.5  # correlation of neighbouring stretches beyond which batches are alike too
LEAST_INDEPENDENT = 2  # requests; one alone decides nothing
LEAST_FOR_STABILITY = 20  # requests
_ROUNDING = 1e-9  # relative; a metric that varies less than this does not vary


def summarise(
    simulated: Simulated,
    promises: Sequence[Promise],
    *,
    counted: tuple[int, int],
    network_s: float = 0.0,
) -> Summary:
    """What is told of a run, from its requests number `counted[0]` up to before `counted[1]`.

    `network_s` is added to TTFT and E2E. Latencies are those of finished requests; a promise is
    held against all that are counted, those without an answer being infinitely late.
    """
    records = simulated.records
    arrived = int((~np.isnan(records.arrival_s)).sum())  # what a closed loop did not send is last
    first, end = counted[0], min(counted[1], arrived)
    columns = {name: getattr(records, name)[first:end] for name in Records.__slots__}
    window = Records(**columns)
    metrics = _metrics(window, network_s)
    distributions = {name: _distribution(metric) for name, metric in metrics.items()}
    stability = _stability(window.arrival_s, simulated.timeline)
    kept = [metrics[p.metric].felt_s <= p.limit_s for p in promises]
    goodput_share = None
    if promises and len(window):
        settled = all(metrics[p.metric].settled for p in promises)
        goodput_share = _share(np.logical_and.reduce(kept), settled=settled)
    offered, achieved, tokens = _rates_per_s(window, records)
    status = {
        name: int((records.status[:arrived] == number).sum())
        for number, name in enumerate(STATUSES)
    }
    steps = sum(total.steps for total in simulated.totals)
    limits_hit = {
        "max_num_seqs": sum(total.blocked_by_seqs for total in simulated.totals),
        "max_num_batched_tokens": sum(total.blocked_by_tokens for total in simulated.totals),
        "kv": sum(total.blocked_by_kv for total in simulated.totals),
    }
    admitted = ~np.isnan(window.admitted_s)
    prompt_tokens = int(window.prompt_tokens[admitted].sum())
    return Summary(
        arrived=arrived,
        finished=status["finished"],
        rejected=status["rejected"],
        lost=status["lost"],
        unfinished=status["unfinished"],
        counted=len(window),
        window_s=_window_s(window),
        ttft=distributions["ttft"],
        tpot=distributions["tpot"],
        e2e=distributions["e2e"],
        attainments=tuple(
            _attainment(
                promise,
                metrics[promise.metric],
                distributions[promise.metric],
                kept=each,
                stable=stability.stable,
            )
            for promise, each in zip(promises, kept, strict=True)
            if len(window)
        ),
        goodput_share=goodput_share,
        goodput_requests_per_s=None if goodput_share is None else goodput_share.value * offered,
        offered_requests_per_s=offered,
        requests_per_s=achieved,
        output_tokens_per_s=tokens,
        stability=stability,
        kv_peak_fraction=max((total.kv_peak_fraction for total in simulated.totals), default=0.0),
        preemptions=sum(total.preemptions for total in simulated.totals),
        prefix_hit_share=int(window.cached_tokens[admitted].sum()) / max(prompt_tokens, 1),
        limits_hit={name: blocked / max(steps, 1) for name, blocked in limits_hit.items()},
        notes=tuple(_notes(simulated, (first, end), status, metrics, stable=stability.stable)),
    )


def _window_s(window: Records) -> tuple[float, float]:
    arrival_s = window.arrival_s
    return (float(arrival_s[0]), float(arrival_s[-1])) if len(arrival_s) else (0.0, 0.0)


# ── latencies ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class _Metric:
    """One latency, in order of arrival.

    `values_s` are of the finished requests that have it. `felt_s` is of every counted request:
    infinite without an answer, 0 where it is undefined (the rate of a single token); the same array
    when all have it. `settled` says that ten batches of it can be taken for independent.
    """

    values_s: NDArray[np.float64]
    felt_s: NDArray[np.float64]
    settled: bool


def _metrics(window: Records, network_s: float) -> dict[Metric, _Metric]:
    finished = window.status == STATUSES.index("finished")
    gaps = window.output_tokens - 1
    has_gaps = gaps > 0
    tpot_s = (window.last_token_s - window.first_token_s) / np.maximum(gaps, 1)
    return {
        "ttft": _metric(window.first_token_s - window.arrival_s + network_s, finished),
        "tpot": _metric(np.where(has_gaps, tpot_s, 0.0), finished, has_gaps),
        "e2e": _metric(window.last_token_s - window.arrival_s + network_s, finished),
    }


def _metric(
    seconds: NDArray[np.float64],
    finished: NDArray[np.bool_],
    defined: NDArray[np.bool_] | None = None,
) -> _Metric:
    has = finished if defined is None else finished & defined
    if has.all():
        return _Metric(values_s=seconds, felt_s=seconds, settled=_settled(seconds))
    values_s = seconds[has]
    felt_s = np.where(finished, seconds, np.inf)
    return _Metric(values_s=values_s, felt_s=felt_s, settled=_settled(values_s))


def _settled(values: NDArray[np.float64]) -> bool:
    """Whether there are enough values for ten batches, and batches of them are not alike."""
    enough = len(values) >= BATCHES * LEAST_PER_BATCH
    return enough and _alike(_batches(values, STRETCHES).mean(axis=1)) < MOST_ALIKE


def _alike(values: NDArray[np.float64]) -> float:
    """The correlation of each value with the next; 0 when they do not vary."""
    off = values - values.mean()
    squares = float((off * off).sum())
    if squares <= len(values) * (_ROUNDING * float(np.abs(values).max())) ** 2:
        return 0.0
    return float((off[1:] * off[:-1]).sum()) / squares


def _batches(values: NDArray[np.float64], batches: int = BATCHES) -> NDArray[np.float64]:
    """Equal batches in order, one a row; fewer than `batches` values at the end are left out."""
    size = len(values) // batches
    return values[: size * batches].reshape(batches, size)


def _half_width(batch_figures: NDArray[np.float64]) -> float:
    """Half of the 90 % interval of a figure that the ten batches have so."""
    return T_90_PERCENT * float(batch_figures.std(ddof=1)) / math.sqrt(BATCHES)


def _quantiles(values: NDArray[np.float64], shares: Sequence[float]) -> list[float]:
    """Values not exceeded by `shares`: linear between order statistics, as NumPy's `quantile`.

    Unlike that, values may be infinite.
    """
    ranks = [(len(values) - 1) * share for share in shares]
    kept = sorted({rank for each in ranks for rank in (math.floor(each), math.ceil(each))})
    ordered = np.partition(values, kept)
    quantiles = []
    for rank in ranks:
        low, high = float(ordered[math.floor(rank)]), float(ordered[math.ceil(rank)])
        quantiles.append(low if low == high else low + (rank - math.floor(rank)) * (high - low))
    return quantiles


def _percentiles(
    values: NDArray[np.float64], percentiles: Sequence[float], *, settled: bool
) -> dict[float, Estimate]:
    """Percentiles with the intervals that can be trusted."""
    centres = _quantiles(values, [percentile / 100 for percentile in percentiles])
    estimates = {p: Estimate(value=c) for p, c in zip(percentiles, centres, strict=True)}
    shares: dict[float, tuple[float, float]] = {}  # by percentile, the interval of those within it
    for percentile, estimate in estimates.items():
        share, centre = percentile / 100, estimate.value
        if settled and len(values) * (1 - share) >= LEAST_BEYOND and math.isfinite(centre):
            half = _half_width((_batches(values) <= centre).mean(axis=1))
            if share - half >= 0 and share + half < 1:
                shares[percentile] = (share - half, share + half)
    if shares:
        ends = _quantiles(values, [end for interval in shares.values() for end in interval])
        for percentile, low, high in zip(shares, ends[::2], ends[1::2], strict=True):
            if math.isfinite(high):
                estimates[percentile] = replace(estimates[percentile], low=low, high=high)
    return estimates


def _distribution(metric: _Metric) -> Distribution | None:
    values = metric.values_s
    if not len(values):
        return None
    mean = float(values.mean())
    estimate = Estimate(value=mean)
    if metric.settled:
        half = _half_width(_batches(values).mean(axis=1))
        estimate = Estimate(value=mean, low=max(mean - half, 0.0), high=mean + half)
    return Distribution(
        mean=estimate,
        percentiles=_percentiles(values, PERCENTILES, settled=metric.settled),
        count=len(values),
    )


# ── promises ────────────────────────────────────────────────────────────────────────────────────


def _share(kept: NDArray[np.bool_], *, settled: bool) -> Estimate:
    share = float(kept.mean())
    if not settled or len(kept) < BATCHES * LEAST_PER_BATCH:
        return Estimate(value=share)
    half = _half_width(_batches(kept.astype(float)).mean(axis=1))
    return Estimate(value=share, low=max(share - half, 0.0), high=min(share + half, 1.0))


def _attainment(
    promise: Promise,
    metric: _Metric,
    distribution: Distribution | None,
    *,
    kept: NDArray[np.bool_],
    stable: bool,
) -> Attainment:
    if (
        distribution is not None
        and metric.felt_s is metric.values_s
        and promise.percentile in distribution.percentiles
    ):
        felt = distribution.percentiles[promise.percentile]
    else:
        each = (promise.percentile,)
        felt = _percentiles(metric.felt_s, each, settled=metric.settled)[promise.percentile]
    reached = felt if math.isfinite(felt.value) else None
    return Attainment(
        promise=promise,
        share=_share(kept, settled=metric.settled),
        reached=reached,
        verdict=_verdict(promise, metric, reached, kept=kept, stable=stable),
    )


def _verdict(
    promise: Promise,
    metric: _Metric,
    reached: Estimate | None,
    *,
    kept: NDArray[np.bool_],
    stable: bool,
) -> Verdict:
    """What can be said of a promise: "unresolved" where that is nothing.

    In an unstable run latencies grow as long as it lasts: what is missed by now stays missed, what
    is kept by now says nothing. Without an interval the share that kept the promise is held against
    the share promised, as if of only so many requests as were independent.
    """
    if not stable:
        late = reached is None or reached.value > promise.limit_s
        return "missed" if late else "unresolved"
    if reached is not None and reached.low is not None and reached.high is not None:
        if reached.high <= promise.limit_s:
            return "kept"
        return "missed" if reached.low > promise.limit_s else "unresolved"
    low, high = _share_interval(float(kept.mean()), _independent(metric, len(kept)))
    if low >= promise.percentile / 100:
        return "kept"
    return "missed" if high < promise.percentile / 100 else "unresolved"


def _independent(metric: _Metric, requests: int) -> float:
    """How many independent requests tell as much as these do: n (1 - r) / (1 + r).

    That is exact for the mean of a process whose correlation r of neighbours fades geometrically.
    Where whole stretches of requests are alike, the stretches are what is counted.
    """
    values = metric.values_s
    if len(values) <= 1:
        return float(requests)
    alike = max(_alike(values), 0.0)
    independent = requests * (1 - alike) / (1 + alike)
    if len(values) >= BATCHES * LEAST_PER_BATCH and not metric.settled:
        alike = max(_alike(_batches(values, STRETCHES).mean(axis=1)), 0.0)
        independent = min(independent, STRETCHES * (1 - alike) / (1 + alike))
    return independent


def _share_interval(share: float, count: float) -> tuple[float, float]:
    """The 90 % interval of a share seen among `count` (Wilson 1927, J. Am. Stat. Assoc. 22)."""
    if count < LEAST_INDEPENDENT:
        return 0.0, 1.0
    z = NORMAL_90_PERCENT
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


# ── the run as a whole ──────────────────────────────────────────────────────────────────────────


def _stability(arrival_s: NDArray[np.float64], timeline: Timeline) -> Stability:
    """Whether the queue grows throughout the window, by a t test of its growth in ten parts.

    Of those that run already there may be more and more until the fleet has warmed up, so only the
    waiting are counted. Growth in a few parts only (an outage, a rush hour, replicas that are still
    starting) widens the test along with the mean: what grows for less than about half of the window
    is no trend. The growth told is the median part's. A closed loop has no more waiting than
    clients.

    On M/M/1 (1,000 runs each) it calls none of 2,000 requests or more unstable up to 95 % load, and
    7 of 1,000 runs of 100 requests at 90 %. At 120 % it finds 98 % of the runs of 2,000; at 105 %
    15 % of these, and 95 % of those of 20,000.
    """
    span_s = float(arrival_s[-1] - arrival_s[0]) if len(arrival_s) else 0.0
    if len(arrival_s) < LEAST_FOR_STABILITY or span_s <= 0:
        told = "Too few arrivals to tell whether the fleet keeps up with them."
        return Stability(stable=True, growth_requests_per_s=0.0, explanation=told)
    ends_s = np.linspace(arrival_s[0], arrival_s[-1], BATCHES + 1)
    grown = np.diff(np.interp(ends_s, timeline.at_s, timeline.waiting))
    chance = T_99_PERCENT * float(grown.std(ddof=1)) / math.sqrt(BATCHES)
    growth = float(np.median(grown)) * BATCHES / span_s
    if grown.mean() <= chance or growth <= 0:
        told = "The queue does not grow by more than chance: the fleet keeps up."
        return Stability(stable=True, growth_requests_per_s=0.0, explanation=told)
    return Stability(
        stable=False,
        growth_requests_per_s=growth,
        explanation=f"The backlog grows by {growth:.3g} requests/s: add replicas or lower the"
        " load. Latencies grow for as long as the load lasts.",
    )


def _rates_per_s(window: Records, records: Records) -> tuple[float, float, float]:
    """Requests offered, requests finished and output tokens of these, per second of the window.

    Requests that all come at once have no window: their seconds are those until the last answer.
    """
    if not len(window):
        return 0.0, 0.0, 0.0
    begin_s, end_s = _window_s(window)
    if end_s <= begin_s:
        end_s = max(float(np.nanmax(window.last_token_s, initial=begin_s)), begin_s)
    span_s = end_s - begin_s
    if span_s <= 0:
        return 0.0, 0.0, 0.0
    within = (records.last_token_s > begin_s) & (records.last_token_s <= end_s)
    tokens = int(records.output_tokens[within].sum())
    return (len(window) - 1) / span_s, int(within.sum()) / span_s, tokens / span_s


def _notes(
    simulated: Simulated,
    counted: tuple[int, int],
    status: Mapping[Status, int],
    metrics: Mapping[Metric, _Metric],
    *,
    stable: bool,
) -> Iterator[str]:
    yield from simulated.notes
    before, after = counted[0], len(simulated.records) - counted[1]
    if before or after:
        yield (
            f"{before:,} requests before the window and {after:,} after it are simulated,"
            " not counted."
        )
    if not before:
        yield "The fleet starts empty and its first requests are counted."
    if status["lost"]:
        yield f"{status['lost']:,} requests were lost with their replicas."
    if status["unfinished"]:
        yield f"{status['unfinished']:,} requests were unfinished at the end."
    if counted[1] - before < BATCHES * LEAST_PER_BATCH:
        yield f"Too few requests for intervals: count at least {BATCHES * LEAST_PER_BATCH:,}."
    alike = [
        name.upper()
        for name, metric in metrics.items()
        if len(metric.values_s) >= BATCHES * LEAST_PER_BATCH and not metric.settled
    ]
    if alike and stable:
        yield (
            f"No intervals for {', '.join(alike)}: long stretches of requests fare alike, as near"
            " capacity or under a load that drifts. Simulate more requests."
        )
