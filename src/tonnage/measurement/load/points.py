"""The records of one level -> its Point: statistics, and whether they are to be believed.

Only requests that were measured and finished are in a latency. Throughput and requests in flight
are those of the *steady window*, from the first measured request to the last one sent, and count
whatever the server did then, warm-up requests that were still running included.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from tonnage.measurement import Point
from tonnage.measurement.load import Level, Record
from tonnage.measurement.statistics import PERCENTILES, Spread, mean
from tonnage.units import format_fraction, format_time

BATCHES = 10  # batch means of a steady state are nearly independent (Law, Simulation, section 9.5)
STABLE_CV = 0.1
LATE_S = 0.005  # timers of event loops are up to a few milliseconds late without anything wrong
LATE_SHARE = 0.05  # of the median time to the first token
GROWING_TAU = 0.6  # Kendall's, of ten batch means against time; by chance in one level of 120
GROWN_FACTOR = 1.25
SHOWN_ERRORS = 2
MOST_ERRORS = 1000  # different texts that are counted: a server may put a number into each

Column = np.ndarray[tuple[int], np.dtype[np.float64]]
Window = tuple[float, float]


def point_of(
    level: Level, records: Iterable[Record], *, workflow: bool = False, stopped: bool = False
) -> Point:
    """The point of `level`, whose records these are; `stopped` when it did not come to its end.

    A `workflow` has a runtime, its own where it states one; so has whatever states one.
    """
    closed = level.concurrency is not None
    seen = _Seen()
    for record in records:
        seen.add(record)
    spreads = {
        "ttft": _spread(seen.ttft_s),
        "tpot": _spread(seen.tpot_s),
        "itl": _spread(seen.itl_s),
        "e2e": _spread(seen.e2e_s),
    }
    workflow = workflow or seen.is_workflow
    failed = seen.failures.total()
    lateness = _spread(seen.lateness_s)
    at = _highest_percentile(len(seen.lateness_s))
    late_s: float | None = getattr(lateness, f"p{at}_s")
    cv = _batch_means_cv(seen)
    fields: dict[str, Any] = {
        "level": level.name,
        "concurrency": level.concurrency,
        "request_rate_target_per_s": level.rate_per_s,
        "requests": len(seen.e2e_s),
        "failed": failed,
        "interrupted": failed > 0 or stopped or not seen.e2e_s,
        "stopped": stopped,
        "failures": dict(sorted(seen.failures.items())),
        "stale_retries": seen.stale_retries,
        "workflow_runtime_p95_s": _spread(seen.runtime_s).p95_s if workflow else None,
        "llm_latency_p95_s": _spread(seen.llm_latency_s).p95_s,
        "llm_calls": len(seen.llm_latency_s) if workflow else None,
        "input_tokens_mean": mean(seen.prompt_tokens),
        "output_tokens_mean": mean(seen.output_tokens),
        "ttft_samples": len(seen.ttft_s),
        "tpot_samples": len(seen.tpot_s),
        "itl_samples": len(seen.itl_s),
        "lateness_p99_s": lateness.p99_s,
        "e2e_batch_means_cv": cv,
        "stable": None if cv is None else cv <= STABLE_CV,
        "client_bound": None if late_s is None else late_s > _tolerated_s(spreads),
        "overloaded": None if closed else _grows(seen),
        **_steady_fields(seen, closed=closed),
    }
    for metric, spread in spreads.items():
        fields |= spread.fields(metric)
    del seen.errors[""]
    late = f"{format_time(late_s)} at p{at}"
    point = Point(**fields)
    notes = (*_losses(point, seen.errors), *_doubts(point, late), *_smallness(point))
    return replace(point, notes=notes)


# ── gathering ───────────────────────────────────────────────────────────────────────────────────


def _column() -> array[float]:
    return array("d")


@dataclass(slots=True)
class _Seen:
    """Columns of numbers: a level may have millions of requests, each with many tokens.

    Columns begin with those of every request of the level; of a failed one, no token counts.
    `first_s` is when the first token came, or the whole answer where tokens were not seen to come.
    """

    sent_s: array[float] = field(default_factory=_column)
    first_s: array[float] = field(default_factory=_column)
    end_s: array[float] = field(default_factory=_column)
    tokens: array[float] = field(default_factory=_column)  # NaN: not known
    failed: bytearray = field(default_factory=bytearray)
    warm_to_s: float = -math.inf
    # those that were measured
    from_s: float = math.inf
    last_sent_s: float = -math.inf
    last_arrival_s: float = -math.inf  # later turns of a conversation are none
    to_s: float = -math.inf
    lateness_s: array[float] = field(default_factory=_column)
    failures: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    stale_retries: int = 0
    # those of them that finished
    started_s: array[float] = field(default_factory=_column)
    e2e_s: array[float] = field(default_factory=_column)
    ttft_s: array[float] = field(default_factory=_column)
    tpot_s: array[float] = field(default_factory=_column)
    itl_s: array[float] = field(default_factory=lambda: array("f"))  # one for each token: no more
    runtime_s: array[float] = field(default_factory=_column)
    llm_latency_s: array[float] = field(default_factory=_column)
    prompt_tokens: array[float] = field(default_factory=_column)
    output_tokens: array[float] = field(default_factory=_column)
    is_workflow: bool = False

    def add(self, record: Record) -> None:
        """Take in one record."""
        sent_s = record.sent_unix_s
        failed = record.failure is not None
        self.sent_s.append(sent_s)
        self.first_s.append(sent_s + (record.token_s[0] if record.token_s else record.e2e_s))
        self.end_s.append(sent_s + record.e2e_s)
        self.failed.append(failed)
        tokens = 0 if failed else record.output_tokens
        self.tokens.append(math.nan if tokens is None else tokens)
        if record.phase == "warmup":
            self.warm_to_s = max(self.warm_to_s, sent_s + record.e2e_s)
        if record.phase == "measured":
            self.from_s = min(self.from_s, sent_s)
            self.last_sent_s = max(self.last_sent_s, sent_s)
            if record.turn == 0:
                self.last_arrival_s = max(self.last_arrival_s, sent_s)
            self.to_s = max(self.to_s, sent_s + record.e2e_s)
            self.lateness_s.append(record.lateness_s)
            self.stale_retries += record.stale_retries
            if record.failure is None:
                self._add_finished(record)
            else:
                self.failures[record.failure] += 1
                if record.error in self.errors or len(self.errors) < MOST_ERRORS:
                    self.errors[record.error] += 1

    def _add_finished(self, record: Record) -> None:
        self.started_s.append(record.sent_unix_s)
        self.e2e_s.append(record.e2e_s)
        self.runtime_s.append(record.workflow_runtime_s)
        self.llm_latency_s.extend(record.llm_latencies_s)
        if record.runtime_s is not None or record.llm_calls:
            self.is_workflow = True
        if record.prompt_tokens is not None:
            self.prompt_tokens.append(record.prompt_tokens)
        output_tokens = record.output_tokens or 0
        if record.output_tokens is not None:
            self.output_tokens.append(output_tokens)
        if token_s := record.token_s:
            self.ttft_s.append(token_s[0])
            self.itl_s.extend([after - before for before, after in pairwise(token_s)])
            if len(token_s) > 1 and output_tokens > 1:  # an answer in one piece has no pace
                self.tpot_s.append((record.e2e_s - token_s[0]) / (output_tokens - 1))


def _spread(samples: array[float]) -> Spread:
    """As `statistics.spread`, for millions of samples."""
    values = np.asarray(samples, dtype=np.float64)
    if not len(values):
        return Spread()
    found = np.percentile(values, PERCENTILES)
    return Spread(
        mean_s=float(values.mean()),
        **{f"p{each}_s": float(at) for each, at in zip(PERCENTILES, found, strict=True)},
    )


# ── the steady window ───────────────────────────────────────────────────────────────────────────


def _steady_fields(seen: _Seen, *, closed: bool) -> dict[str, float | None]:
    """What follows from when things happened; nothing when nothing was measured."""
    if not seen.lateness_s:
        return {}
    window = from_s, to_s = _window(seen, closed=closed)
    length_s = to_s - from_s
    fields: dict[str, float | None] = {
        "duration_s": length_s,
        "total_runtime_s": seen.to_s - seen.from_s,
    }
    if length_s > 0:
        sent_s, first_s, end_s = (
            np.asarray(column) for column in (seen.sent_s, seen.first_s, seen.end_s)
        )
        failed = np.frombuffer(bytes(seen.failed), dtype=np.uint8)
        # Clients in step would count one round more by whole requests. Where a backlog may grow,
        # what waits in it is not being answered.
        answered = _shares(sent_s if closed else first_s, end_s, window)
        tokens = _shares(first_s, end_s, window)
        within = tokens > 0
        came = float((tokens[within] * np.asarray(seen.tokens)[within]).sum())
        under_way_s = np.clip(end_s, *window) - np.clip(sent_s, *window)
        fields["requests_per_s"] = float(answered[failed == 0].sum()) / length_s
        fields["in_flight_mean_requests"] = float(under_way_s.sum()) / length_s
        fields["output_tokens_per_s"] = came / length_s if math.isfinite(came) else None
    return fields


def _window(seen: _Seen, *, closed: bool) -> Window:
    """The steady window; the whole level where that is shorter than an answer.

    A closed load is steady once every client is through its warm-up: until then those in flight
    are younger than they will be. An open one is as long as conversations come.
    """
    from_s = max(seen.from_s, seen.warm_to_s) if closed else seen.from_s
    to_s = seen.last_sent_s if closed else seen.last_arrival_s
    mean_s = mean(seen.e2e_s)
    for begin_s in (from_s, seen.from_s):
        if mean_s is not None and to_s - begin_s >= mean_s:
            return begin_s, to_s
    return seen.from_s, seen.to_s


def _shares(begin_s: Column, end_s: Column, window: Window) -> Column:
    """The part of each span that lies in `window`; of an instant, whether it does."""
    spans_s = end_s - begin_s
    inside_s = np.clip(end_s, *window) - np.clip(begin_s, *window)
    at_once = (end_s > window[0]) & (end_s <= window[1])
    return np.divide(inside_s, spans_s, out=at_once.astype(np.float64), where=spans_s > 0)


# ── verdicts ────────────────────────────────────────────────────────────────────────────────────


def _batch_means_cv(seen: _Seen) -> float | None:
    """Standard deviation over mean of ten means of E2E, batched in order of completion."""
    e2e_s, started_s = np.asarray(seen.e2e_s), np.asarray(seen.started_s)
    means_s = _batch_means_s(e2e_s, started_s + e2e_s)
    if means_s is None or not means_s.mean() > 0:
        return None
    return float(means_s.std(ddof=1) / means_s.mean())


def _grows(seen: _Seen) -> bool | None:
    """Whether E2E rises with the time of sending, steadily and by much, as a backlog makes it."""
    means_s = _batch_means_s(np.asarray(seen.e2e_s), np.asarray(seen.started_s))
    if means_s is None:
        return None
    signs = np.sign(means_s[None, :] - means_s[:, None])[np.triu_indices(BATCHES, 1)]
    grown = means_s[-2:].mean() > GROWN_FACTOR * means_s[:2].mean()
    return bool(signs.mean() >= GROWING_TAU and grown)


def _batch_means_s(samples_s: Column, by: Column) -> Column | None:
    """Means of ten equal parts of the samples in the order of `by`; None of fewer than twenty."""
    if len(samples_s) < 2 * BATCHES:
        return None
    parts = np.array_split(samples_s[np.argsort(by, kind="stable")], BATCHES)
    return np.array([part.mean() for part in parts])


def _tolerated_s(spreads: dict[str, Spread]) -> float:
    """Lateness that still leaves a level what it claims to be."""
    typical_s = spreads["ttft"].p50_s or spreads["e2e"].p50_s or 0.0
    return max(LATE_S, LATE_SHARE * typical_s)


def _highest_percentile(requests: int) -> int:
    """The highest that is one: an extreme would let a single late request speak for a level."""
    return next((each for each in reversed(PERCENTILES) if not _is_extreme(each, requests)), 50)


def _is_extreme(percentile: int, requests: int) -> bool:
    """Whether less than one of `requests` lies beyond."""
    return requests * (100 - percentile) < 100  # noqa: PLR2004 — %


def _losses(point: Point, errors: Counter[str]) -> Iterator[str]:
    """What did not come to its end, or not at once."""
    requests = point.requests or 0
    failed = point.failed - point.failures.get("stopped", 0)
    if point.stopped:
        yield "stopped before its end: in no fit, and measured again when the run goes on"
    if failed:
        kinds = ", ".join(
            f"{count} {kind}" for kind, count in point.failures.items() if kind != "stopped"
        )
        yield f"{failed} of {requests + failed} failed ({kinds}); in no percentile"
        for error, _ in errors.most_common(SHOWN_ERRORS):
            yield f"failed with: {error}"
    elif not requests:
        yield "no request was measured"
    if point.stale_retries:
        yield f"{point.stale_retries} sent again, their kept connection being closed"


def _doubts(point: Point, late: str) -> Iterator[str]:
    """Why the level may not be what it claims to be; `late` is how late the client was."""
    if point.overloaded:
        yield "not stable at this rate: latency grows for as long as it lasts"
    elif point.stable is False:
        deviation = format_fraction(round(point.e2e_batch_means_cv or 0, 2))
        yield (
            f"the standard deviation of {BATCHES} batch means of E2E is {deviation} of their mean:"
            " raise --duration or --requests"
        )
    if point.client_bound:
        remedy = (
            "close what else runs here, or measure from another machine"
            if point.concurrency == 1
            else "add --workers"
        )
        yield f"the client was late by {late}: {remedy} before trusting this level"


def _smallness(point: Point) -> Iterator[str]:
    """What too few requests do not say."""
    requests = point.requests or 0
    if requests > 1 and point.duration_s == point.total_runtime_s:
        yield "sending took less time than an answer: rates are those of the level as a whole"
    if 0 < requests + point.failed < (point.concurrency or 0):
        yield "fewer requests than clients: never were all of them measured at once"
    few = [each for each in PERCENTILES if requests and _is_extreme(each, requests)]
    if requests == 1:
        yield "one request has no percentiles: each is that request"
    elif few:
        names = [f"p{each}" for each in few]
        listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
        are = "are extremes, not percentiles" if names[1:] else "is an extreme, not a percentile"
        yield f"fewer than {100 // (100 - few[0])} requests: {listed} {are}"
