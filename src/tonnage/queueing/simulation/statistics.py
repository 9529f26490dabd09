"""Simulated × promises -> Summary: what is told of a run, and how far chance may have made it.

Everything is derived from the records of the counted requests, a steady window that leaves out the
warm-up and the drain. A figure's 90 % interval comes from ten batches of that window in order of
arrival: batches long enough to be independent differ by chance alone. For a percentile the batches
are asked for the share of requests within it, and the interval of that share is read off the whole
window as latencies (Woodruff 1952, J. Am. Stat. Assoc. 47). Percentiles of batches would be biased
and too much alike: on M/M/1 at 85 % load, 20,000 requests, they cover the true p95 in 84 % of the
runs and p99 in 60 %; this covers p95 in 89 %, and p99 in 69 % of the half of runs that get one.

Runs of several seeds are independent of each other whatever happens within them: five and more take
the place of the batches, fewer give ten batches each. On M/M/1 five runs of 20,000 requests always
get an interval of p95 up to 90 % load, which covers the true one in 90 %; at 95 % load two thirds
of them do, and cover it in 86 %.

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
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tonnage.evidence import student_t
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
from tonnage.units import format_amount, format_number
from tonnage.workload import PERCENTILES, Metric, Promise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Sized

    from numpy.typing import NDArray

BATCHES = 10
LEAST_RUNS = 5  # of different seeds, that are batches themselves: of fewer t is above 2.3
CONFIDENCE = 0.9  # of every interval
GROWTH_CONFIDENCE = 0.98  # two-sided: growth is called chance in 99 % of the runs that are stable
# two-sided, of the normal distribution (NIST/SEMATECH e-Handbook, section 1.3.6.7.1)
NORMAL_90_PERCENT = 1.645

LEAST_PER_BATCH = 100  # requests; with fewer, an M/M/1 at 50 % load is misjudged twice as often
LEAST_BEYOND = 50  # requests slower than a percentile that is given an interval
STRETCHES = 100  # parts of the window whose means must not be alike
MOST_ALIKE = 0.5  # correlation of neighbouring stretches beyond which batches are alike too
LEAST_INDEPENDENT = 2  # requests; one alone decides nothing
LEAST_FOR_STABILITY = 20  # requests
LEAST_FOR_RATES = 20  # requests of a window that is part of a run
# waiting more at the end of a period than at its beginning: beyond what a stable queue scatters by
LEAST_LEFT, LEAST_LEFT_SHARE = 100, 0.01
_ROUNDING = 1e-9  # relative; a metric that varies less than this does not vary


def summarise(
    simulated: Simulated,
    promises: Sequence[Promise],
    *,
    counted: tuple[int, int],
    network_s: float = 0.0,
    recorded: bool = False,
    cyclic: bool = False,
) -> Summary:
    """What is told of a run, from its requests number `counted[0]` up to before `counted[1]`.

    The requests stand for others like them, unless `recorded`: then they are what is asked about,
    and chance has no part in it. They are of whole periods of the load when `cyclic`: the queue may
    grow within a period, and not from one to the next. `network_s` is added to TTFT and E2E.
    Latencies are those of finished requests; a promise is held against all that are counted, those
    without an answer being infinitely late.
    """
    return summarise_together(
        (simulated,),
        promises,
        counted=counted,
        network_s=network_s,
        recorded=recorded,
        cyclic=cyclic,
    )


def summarise_together(
    runs: Sequence[Simulated],
    promises: Sequence[Promise],
    *,
    counted: tuple[int, int],
    network_s: float = 0.0,
    recorded: bool = False,
    cyclic: bool = False,
) -> Summary:
    """What is told of equal runs of different seeds as of one: `counted` requests of each.

    Counts are summed, percentiles are of the counted requests of all, rates are per second of all
    windows; `window_s` is the first one's. Otherwise as `summarise`.
    """
    windows = [_window(run, counted) for run in runs]
    metrics = _metrics(windows, network_s, recorded=recorded)
    distributions = {name: _distribution(metric) for name, metric in metrics.items()}
    stability = _stability(windows, [run.timeline for run in runs], cyclic=cyclic)
    kept = [metrics[promise.metric].within(promise.limit_s) for promise in promises]
    goodput_share = None
    requests = sum(map(len, windows))
    concerned = [metrics[p.metric] for p in promises if metrics[p.metric].concerned]
    if concerned:
        settled = all(metric.settled for metric in concerned)
        together = [np.logical_and.reduce(each) for each in zip(*kept, strict=True)]
        goodput_share = _share(together, settled=settled)
    offered, achieved, tokens = _rates_per_s(windows, [run.records for run in runs])
    status = _fates(runs)
    totals = [total for run in runs for total in run.totals]
    steps = sum(total.steps for total in totals)
    limits_hit = {
        "max_num_seqs": sum(total.blocked_by_seqs for total in totals),
        "max_num_batched_tokens": sum(total.blocked_by_tokens for total in totals),
        "kv": sum(total.blocked_by_kv for total in totals),
    }
    prompt_tokens, cached_tokens = _prompt_tokens(windows)
    return Summary(
        arrived=sum(status.values()),
        finished=status["finished"],
        rejected=status["rejected"],
        lost=status["lost"],
        unfinished=status["unfinished"],
        counted=requests,
        window_s=_window_s(windows[0]),
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
                recorded=recorded,
            )
            for promise, each in zip(promises, kept, strict=True)
            if metrics[promise.metric].concerned
        ),
        unjudged=tuple(p for p in promises if requests and not metrics[p.metric].concerned),
        goodput_share=goodput_share,
        goodput_requests_per_s=(
            None
            if goodput_share is None or achieved is None
            else goodput_share.value * min(offered or achieved, achieved)
        ),
        offered_requests_per_s=offered,
        requests_per_s=achieved,
        output_tokens_per_s=tokens,
        stability=stability,
        kv_peak_fraction=max((total.kv_peak_fraction for total in totals), default=0.0),
        preemptions=sum(total.preemptions for total in totals),
        prefix_hit_share=cached_tokens / max(prompt_tokens, 1),
        limits_hit={name: blocked / max(steps, 1) for name, blocked in limits_hit.items()},
        notes=tuple(
            _notes(
                runs,
                windows,
                counted,
                status,
                metrics,
                stable=stability.stable,
                recorded=recorded,
            )
        ),
    )


def _arrived(records: Records) -> int:
    """Requests that were sent; what a closed loop did not send is last."""
    return int((~np.isnan(records.arrival_s)).sum())


def _window(run: Simulated, counted: tuple[int, int]) -> Records:
    first, end = counted[0], min(counted[1], _arrived(run.records))
    columns = {name: getattr(run.records, name)[first:end] for name in Records.__slots__}
    return Records(**columns)


def _fates(runs: Sequence[Simulated]) -> dict[Status, int]:
    """How many requests of all runs ended so."""
    seen = [run.records.status[: _arrived(run.records)] for run in runs]
    return {
        name: sum(int((status == number).sum()) for status in seen)
        for number, name in enumerate(STATUSES)
    }


def _prompt_tokens(windows: Sequence[Records]) -> tuple[int, int]:
    """Prompt tokens of the requests that were worked on, and how many of them were cached."""
    tokens = cached = 0
    for window in windows:
        admitted = ~np.isnan(window.admitted_s)
        tokens += int(window.prompt_tokens[admitted].sum())
        cached += int(window.cached_tokens[admitted].sum())
    return tokens, cached


def _window_s(window: Records) -> tuple[float, float]:
    arrival_s = window.arrival_s
    return (float(arrival_s[0]), float(arrival_s[-1])) if len(arrival_s) else (0.0, 0.0)


# ── latencies ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class _Metric:
    """One latency, in order of arrival, a column for each run.

    `values_s` are of the finished requests that have it. `felt_s` also holds those without an
    answer, as infinite: all but answers that have no such latency (the rate of a single token),
    which `has` leaves out of the counted requests. `settled` says that its batches, or the runs,
    can be taken for independent.
    """

    values_s: tuple[NDArray[np.float64], ...]
    felt_s: tuple[NDArray[np.float64], ...]
    has: tuple[NDArray[np.bool_], ...]
    settled: bool

    @property
    def count(self) -> int:
        """How many requests have it."""
        return sum(map(len, self.values_s))

    @property
    def concerned(self) -> int:
        """How many requests a promise of it is about: these, and those without an answer."""
        return sum(map(len, self.felt_s))

    def within(self, limit_s: float) -> list[NDArray[np.bool_]]:
        """Which of all counted requests do not break a promise."""
        kept = [~has for has in self.has]
        for each, has, felt_s in zip(kept, self.has, self.felt_s, strict=True):
            each[has] = felt_s <= limit_s
        return kept


def _metrics(
    windows: Sequence[Records], network_s: float, *, recorded: bool
) -> dict[Metric, _Metric]:
    columns: dict[Metric, list[_Column]] = {"ttft": [], "tpot": [], "e2e": []}
    for window in windows:
        finished = window.status == STATUSES.index("finished")
        gaps = window.output_tokens - 1
        tpot_s = (window.last_token_s - window.first_token_s) / np.maximum(gaps, 1)
        ttft_s = window.first_token_s - window.arrival_s + network_s
        e2e_s = window.last_token_s - window.arrival_s + network_s
        columns["ttft"].append(_column(ttft_s, finished, finished))
        columns["tpot"].append(_column(tpot_s, finished, gaps > 0))
        columns["e2e"].append(_column(e2e_s, finished, finished))
    return {name: _metric(each, recorded=recorded) for name, each in columns.items()}


# values, the same as felt, and who they are of
_Column: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]"


def _column(
    seconds: NDArray[np.float64], finished: NDArray[np.bool_], defined: NDArray[np.bool_]
) -> _Column:
    values = finished & defined
    if values.all():
        return seconds, seconds, values
    has = defined | ~finished
    return seconds[values], np.where(finished, seconds, np.inf)[has], has


def _metric(columns: Sequence[_Column], *, recorded: bool) -> _Metric:
    values_s, felt_s, has = zip(*columns, strict=True)
    settled = _enough(values_s) and not recorded
    if len(values_s) < LEAST_RUNS:
        settled = settled and all(map(_settled, values_s))
    return _Metric(
        values_s=values_s,
        felt_s=felt_s,
        has=has,
        settled=settled,
    )


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


def _groups(columns: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """The parts of all runs that are taken for independent: themselves, or batches of each."""
    if len(columns) >= LEAST_RUNS:
        return list(columns)
    return [batch for values in columns for batch in _batches(values)]


def _half_width(figures: Sequence[float]) -> float:
    """Half of the 90 % interval of a figure that independent groups have so."""
    count = len(figures)
    return student_t(count - 1, CONFIDENCE) * float(np.std(figures, ddof=1)) / math.sqrt(count)


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
    columns: Sequence[NDArray[np.float64]], percentiles: Sequence[float], *, settled: bool
) -> dict[float, Estimate]:
    """Percentiles with the intervals that can be trusted."""
    values = _joined(columns)
    centres = _quantiles(values, [percentile / 100 for percentile in percentiles])
    estimates = {p: Estimate(value=c) for p, c in zip(percentiles, centres, strict=True)}
    groups = _groups(columns) if settled else []
    shares: dict[float, tuple[float, float]] = {}  # by percentile, the interval of those within it
    for percentile, estimate in estimates.items():
        share, centre = percentile / 100, estimate.value
        if settled and len(values) * (1 - share) >= LEAST_BEYOND and math.isfinite(centre):
            half = _half_width([float((group <= centre).mean()) for group in groups])
            if share - half >= 0 and share + half < 1:
                shares[percentile] = (share - half, share + half)
    if shares:
        ends = _quantiles(values, [end for interval in shares.values() for end in interval])
        for percentile, low, high in zip(shares, ends[::2], ends[1::2], strict=True):
            if math.isfinite(high):
                estimates[percentile] = replace(estimates[percentile], low=low, high=high)
    return estimates


def _joined(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _distribution(metric: _Metric) -> Distribution | None:
    if not metric.count:
        return None
    mean = float(_joined(metric.values_s).mean())
    estimate = Estimate(value=mean)
    if metric.settled:
        half = _half_width([float(group.mean()) for group in _groups(metric.values_s)])
        estimate = Estimate(value=mean, low=max(mean - half, 0.0), high=mean + half)
    return Distribution(
        mean=estimate,
        percentiles=_percentiles(metric.values_s, PERCENTILES, settled=metric.settled),
        count=metric.count,
    )


# ── promises ────────────────────────────────────────────────────────────────────────────────────


def _share(kept: Sequence[NDArray[np.bool_]], *, settled: bool) -> Estimate:
    share = float(np.concatenate(kept).mean())
    if not settled or not _enough(kept):
        return Estimate(value=share)
    groups = _groups([each.astype(float) for each in kept])
    half = _half_width([float(group.mean()) for group in groups])
    return Estimate(value=share, low=max(share - half, 0.0), high=min(share + half, 1.0))


def _attainment(
    promise: Promise,
    metric: _Metric,
    distribution: Distribution | None,
    *,
    kept: Sequence[NDArray[np.bool_]],
    stable: bool,
    recorded: bool,
) -> Attainment:
    if (
        distribution is not None
        and metric.count == metric.concerned
        and promise.percentile in distribution.percentiles
    ):
        felt = distribution.percentiles[promise.percentile]
    else:
        each = (promise.percentile,)
        felt = _percentiles(metric.felt_s, each, settled=metric.settled)[promise.percentile]
    reached = felt if math.isfinite(felt.value) else None
    kept = [each[has] for each, has in zip(kept, metric.has, strict=True)]
    return Attainment(
        promise=promise,
        share=_share(kept, settled=metric.settled),
        reached=reached,
        verdict=_verdict(promise, metric, reached, kept=kept, stable=stable, recorded=recorded),
    )


def _verdict(
    promise: Promise,
    metric: _Metric,
    reached: Estimate | None,
    *,
    kept: Sequence[NDArray[np.bool_]],
    stable: bool,
    recorded: bool,
) -> Verdict:
    """What can be said of a promise: "unresolved" where that is nothing.

    In an unstable run latencies grow as long as it lasts: what is missed by now stays missed, what
    is kept by now says nothing. Without an interval the share that kept the promise is held against
    the share promised, as if of only so many requests as were independent.
    """
    if not stable:
        late = reached is None or reached.value > promise.limit_s
        return "missed" if late else "unresolved"
    if recorded:
        return "kept" if reached is not None and reached.value <= promise.limit_s else "missed"
    if reached is not None and reached.low is not None and reached.high is not None:
        if reached.high <= promise.limit_s:
            return "kept"
        return "missed" if reached.low > promise.limit_s else "unresolved"
    independent = sum(map(_independent, metric.values_s, map(len, kept)))
    low, high = _share_interval(float(np.concatenate(kept).mean()), independent)
    if low >= promise.percentile / 100:
        return "kept"
    if high < promise.percentile / 100:
        return "missed"
    return _verdict_by_margin(promise, metric, reached)


def _verdict_by_margin(promise: Promise, metric: _Metric, reached: Estimate | None) -> Verdict:
    """Whether the limit is so far off that even batches which are alike do not doubt it.

    Twice the interval of the batches' own percentiles, in logarithms, around what is reached: they
    scatter by factors, and differ less than they would if they were independent.
    """
    groups = _groups(metric.felt_s)
    share = promise.percentile / 100
    if reached is None or min(map(len, groups)) * (1 - share) < 1 - _ROUNDING:
        return "unresolved"  # batches that small have no such percentile
    each = [_quantiles(group, (share,))[0] for group in groups]
    if not (min(each) > 0 and max(each) < math.inf and reached.value > 0):
        return "unresolved"
    factor = math.exp(2 * _half_width([math.log(figure) for figure in each]))
    if reached.value * factor <= promise.limit_s:
        return "kept"
    return "missed" if reached.value / factor > promise.limit_s else "unresolved"


def _independent(values: NDArray[np.float64], requests: int) -> float:
    """How many independent requests tell as much as these of a run do: n (1 - r) / (1 + r).

    That is exact for the mean of a process whose correlation r of neighbours fades geometrically.
    Where whole stretches of requests are alike, the stretches are what is counted.
    """
    if len(values) <= 1:
        return float(requests)
    alike = max(_alike(values), 0.0)
    independent = requests * (1 - alike) / (1 + alike)
    if len(values) >= BATCHES * LEAST_PER_BATCH and not _settled(values):
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


def _stability(
    windows: Sequence[Records], timelines: Sequence[Timeline], *, cyclic: bool
) -> Stability:
    """Whether the queue grows throughout the window, by a t test of its growth in ten parts.

    Of those that run already there may be more and more until the fleet has warmed up, so only the
    waiting are counted. Growth in a few parts only (an outage, a rush hour, replicas that are still
    starting) widens the test along with the mean: what grows for less than about half of the window
    is no trend. The growth told is the median part's. A closed loop has no more waiting than
    clients. Of several runs the parts of all are tested together. Of whole periods of a load
    (`cyclic`) the parts are not alike, and what is left waiting at the end tells.

    On M/M/1 (1,000 runs each) it calls none of 2,000 requests or more unstable up to 95 % load, and
    7 of 1,000 runs of 100 requests at 90 %. At 120 % it finds 98 % of the runs of 2,000; at 105 %
    15 % of these, and 95 % of those of 20,000.
    """
    parts, rates_per_s = [], []
    for window, timeline in zip(windows, timelines, strict=True):
        first_s, last_s = _window_s(window)
        if len(window) < LEAST_FOR_STABILITY or last_s <= first_s:
            told = "Too few arrivals to tell whether the fleet keeps up with them."
            return Stability(stable=True, growth_requests_per_s=0.0, explanation=told)
        ends_s = np.linspace(first_s, last_s, BATCHES + 1)
        grown = np.diff(_waiting(window, timeline, ends_s))
        parts.append(grown)
        rates_per_s.append(grown * BATCHES / (last_s - first_s))
    every, rates = np.concatenate(parts), np.concatenate(rates_per_s)
    if cyclic:
        left, growth = float(every.sum()), float(rates.mean())
        stable = left <= len(windows) * max(LEAST_LEFT, LEAST_LEFT_SHARE * len(windows[0]))
    else:
        t = student_t(len(every) - 1, GROWTH_CONFIDENCE)
        growth = float(np.median(rates))
        chance = t * float(every.std(ddof=1)) / math.sqrt(len(every))
        stable = every.mean() <= chance or growth <= 0
    if stable:
        told = "The queue does not grow by more than chance: the fleet keeps up."
        return Stability(stable=True, growth_requests_per_s=0.0, explanation=told)
    through = ", from one period of the profile to the next," if cyclic else ""
    return Stability(
        stable=False,
        growth_requests_per_s=growth,
        explanation=f"The backlog grows{through} by {format_number(growth)} requests/s: add"
        " replicas or lower the load. Latencies grow for as long as the load lasts.",
    )


def _waiting(window: Records, timeline: Timeline, at_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many wait at these times; from the records where the timeline is too coarse to tell."""
    if np.diff(timeline.at_s).max(initial=0.0) <= at_s[1] - at_s[0]:
        return np.interp(at_s, timeline.at_s, timeline.waiting)
    begun = np.sort(window.admitted_s[~np.isnan(window.admitted_s)])
    come = np.searchsorted(window.arrival_s, at_s, side="right")
    return np.asarray(come - np.searchsorted(begun, at_s, side="right"), dtype=float)


_Rates: TypeAlias = "tuple[float | None, float | None, float | None]"


def _rates_per_s(windows: Sequence[Records], every: Sequence[Records]) -> _Rates:
    """Requests offered, requests finished and output tokens of these, per second of the windows.

    Where nothing comes after a window that keeps the load on, what is finished is counted until the
    last answer. Of a few requests amid others there is no rate, and one alone does not arrive at
    one.
    """
    offered_s = finished_s = 0.0
    offered = finished = tokens = 0
    for window, records in zip(windows, every, strict=True):
        begin_s, last_s = _window_s(window)
        end_s = last_s
        if len(window) and last_s >= np.nanmax(records.arrival_s):
            end_s = max(float(np.nanmax(records.last_token_s, initial=begin_s)), last_s)
        within = (records.last_token_s > begin_s) & (records.last_token_s <= end_s)
        offered_s += (last_s if last_s > begin_s else end_s) - begin_s
        finished_s += end_s - begin_s
        offered += max(len(window) - 1, 0)
        finished += int(within.sum())
        tokens += int(records.output_tokens[within].sum())
    counted = sum(map(len, windows))
    amid_others = counted < sum(map(_arrived, every))
    if not finished_s or (amid_others and counted < LEAST_FOR_RATES):
        return None, None, None
    return offered / offered_s if offered else None, finished / finished_s, tokens / finished_s


def _notes(
    runs: Sequence[Simulated],
    windows: Sequence[Records],
    counted: tuple[int, int],
    status: Mapping[Status, int],
    metrics: Mapping[Metric, _Metric],
    *,
    stable: bool,
    recorded: bool,
) -> Iterator[str]:
    said = next((run.notes for run in runs if run.notes), ())
    yield from said if len(runs) == 1 else (f"In one of {len(runs)} runs: {note}" for note in said)
    if not counted[0]:
        yield "The fleet starts empty and its first requests are counted."
    for count, told in (
        (status["lost"], "lost with a replica that stopped"),
        (status["unfinished"], "unfinished at the end"),
    ):
        if count:
            yield f"{format_amount(count, 'requests')} {'was' if count == 1 else 'were'} {told}."
    if recorded:
        yield "These very requests are asked about, not others like them: there are no intervals."
        return
    if not _enough(windows):
        least = LEAST_PER_BATCH * (1 if len(runs) >= LEAST_RUNS else BATCHES)
        yield f"Too few requests for intervals: count at least {least:,}."
    alike = [
        name.upper()
        for name, metric in metrics.items()
        if _enough(metric.values_s) and not metric.settled
    ]
    if alike and stable:
        yield (
            f"No intervals for {', '.join(alike)}: long stretches of requests fare alike, as near"
            " capacity or under a load that drifts. Simulate more requests, or several seeds."
        )


def _enough(columns: Sequence[Sized]) -> bool:
    """Whether each run has so many that its groups can be told apart from chance."""
    least = LEAST_PER_BATCH * (1 if len(columns) >= LEAST_RUNS else BATCHES)
    return all(len(column) >= least for column in columns)
