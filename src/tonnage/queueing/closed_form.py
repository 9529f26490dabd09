"""One replica's step times -> percentiles of TTFT, TPOT and end-to-end, without simulating.

A continuous-batching engine is a processor-sharing server whose speed depends on how many calls it
runs. With k calls running it completes

    mu(k) = 1 / (prefill(k) + output * D(k) / k)

calls per second: each costs its share of k-wide decode steps D(k) and what its prompt adds to the
steps it is in. The number of calls present is then a birth-death chain with product-form
probabilities pi(n) ~ prod(lambda / mu(i)), exact for exponential and, in processor sharing,
insensitive to the distribution of work; beyond the `max_running` calls the engine admits, further
calls queue and the tail is geometric with ratio lambda / mu(max_running).

Closed loads replace lambda by (clients - n) / think time, or hold n = clients when nobody thinks.

Where it stops being true: arrivals burstier than Poisson; loads above about 90 % of capacity, where
the geometric tail understates rare long waits; engines that pre-empt; outputs so short that a
request sees only a handful of steps. `LatencyFigures.regime` says so.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from tonnage.queueing import LatencyFigures, TrafficClass
from tonnage.queueing.equilibrium import Equilibrium
from tonnage.workload import PERCENTILES, ClosedLoad, Lengths, OpenLoad, Promise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tonnage.performance import StepTable

# Edges of the bins that stand for a length distribution: fine where percentiles are read.
_EDGES = np.array([0, 0.15, 0.35, 0.6, 0.8, 0.9, 0.94, 0.96, 0.98, 0.985, 0.995, 1.0])
_STABLE = 1 - 1e-9
HIGH_LOAD = 0.9
NOTICEABLE_LOAD = 0.75  # TTFT p95 is 22-28 % low at 0.8 against a step-by-step simulation
ALIKE = 0.1  # coefficient of variation of answers below which clients stay in step
PLANNED_LOAD = 0.95  # of saturation: nearer to it, waits grow without bound; never planned for
LONG_PROMPT = 0.1  # prefill over the answer's own decode time, beyond which TPOT p95 is 10 % low


@dataclass(frozen=True, slots=True)
class Nodes:
    """Weighted representative lengths of one traffic class (arrays of equal shape)."""

    prompt: NDArray[np.float64]
    prompt_weight: NDArray[np.float64]
    output: NDArray[np.float64]
    output_weight: NDArray[np.float64]


@cache
def _nodes(lengths: Lengths) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if lengths.kind == "constant" or lengths.standard_deviation_tokens == 0:
        return np.array([lengths.mean_tokens]), np.array([1.0])
    weights = np.diff(_EDGES)
    middles = (_EDGES[1:] + _EDGES[:-1]) / 2
    values = np.array([lengths.percentile_tokens(100 * float(p)) for p in middles])
    return np.maximum(values * (lengths.mean_tokens / float(values @ weights)), 1.0), weights


_SIZES = np.unique(np.geomspace(1, 4096, 72).round())  # batch sizes where steps are tabulated


@cache
def _batch_sizes(largest: int) -> NDArray[np.float64]:
    """The tabulated batch sizes up to the first that is at least `largest`.

    The same sizes whatever the largest, so that a curve with fewer calls is the beginning of one
    with more.
    """
    if largest > _SIZES[-1]:
        return np.append(_SIZES, float(largest))
    return np.asarray(_SIZES[: int(np.searchsorted(_SIZES, largest)) + 1])


class ClosedForm:
    """`LatencyCurve` by queueing theory for one replica.

    `max_running` is the most calls that run at once: the engine's sequence limit or what the KV
    budget holds, whichever is less; `kv_limit` is the latter alone, for occupancy.
    """

    def __init__(
        self,
        table: StepTable,
        traffic: tuple[TrafficClass, ...],
        *,
        max_running: int,
        kv_limit: float,
        network_s: float = 0.0,
    ) -> None:
        self.table = table
        self.traffic = traffic
        self.max_running = max_running
        self.kv_limit = kv_limit
        self.network_s = network_s
        self.calls_per_request = sum(kind.weight for kind in traffic)
        self.mix_weights = [kind.weight / self.calls_per_request for kind in traffic]
        self.nodes = [Nodes(*_nodes(kind.mix.prompt), *_nodes(kind.mix.output)) for kind in traffic]
        self._alike = all(
            kind.mix.output.standard_deviation_tokens < ALIKE * kind.mix.output.mean_tokens
            for kind in traffic
        )
        self._tabulate()

    def _tabulate(self) -> None:
        """Step time, prefill cost and completion rate for every number of running calls."""
        k = np.arange(1, self.max_running + 1, dtype=float)
        # a few hundred sizes at most: interpolate between them, the table is linear there anyway
        sizes = _batch_sizes(self.max_running)
        output = context = windowed = 0.0
        window = self.table.window_tokens
        for weight, kind in zip(self.mix_weights, self.traffic, strict=True):
            mean_output = max(kind.mix.output.mean_tokens, 1.0)
            output += weight * mean_output
            # calls present are weighted by how long they stay: by their output
            context += weight * mean_output * kind.mix.resident_tokens_mean
            kept = kind.mix.resident_tokens_mean
            windowed += weight * mean_output * (min(kept, window) if window else 0.0)
        self.output_tokens = output
        self.context_tokens = context / output
        self.windowed_tokens = windowed / output
        decode = self.step(sizes, 0.0, 0.0)
        prompts_per_step = np.maximum(1.0, sizes / output)
        prefill = np.zeros_like(sizes)
        for weight, kind in zip(self.mix_weights, self.traffic, strict=True):
            todo = max(kind.mix.prefill_tokens_mean, 1.0)
            cached = kind.mix.prompt.mean_tokens - todo
            room = np.maximum(self.table.max_batched_tokens - sizes, 1.0)
            together = prompts_per_step * todo
            chunks = np.ceil(together / room)
            one = self.step(sizes, together / chunks, max(cached, 0.0) + todo / 2)
            prefill += weight * chunks * (one - decode) / prompts_per_step
        self.decode_s = np.interp(k, sizes, decode)
        self.prefill_s = np.interp(k, sizes, prefill)
        self.completions_per_s = 1 / (self.prefill_s + output * self.decode_s / k)
        self._log_completions = np.log(self.completions_per_s)
        self._saturate()

    def _saturate(self) -> None:
        """The rates at the largest batch, and the one that is planned for at most."""
        self.saturation_per_s = float(self.completions_per_s[-1])
        self.planned_per_s = PLANNED_LOAD * self.saturation_per_s

    def step(
        self,
        sequences: NDArray[np.float64] | float,
        prefill_tokens: NDArray[np.float64] | float,
        prefill_context: float,
    ) -> NDArray[np.float64]:
        """Seconds of a step in which `sequences` calls of mean context decode beside a chunk."""
        return np.asarray(
            self.table.step_s(
                prefill_tokens=prefill_tokens,
                prefill_context_tokens=prefill_context,
                sequences=sequences,
                kv_tokens=sequences * self.context_tokens,
                windowed_kv_tokens=sequences * self.windowed_tokens,
            )
        )

    def limited(self, max_running: int, kv_limit: float) -> ClosedForm:
        """The same replica running at most `max_running` calls (no more than it does now)."""
        fewer = copy(self)
        fewer.max_running, fewer.kv_limit = max_running, kv_limit
        fewer.decode_s = self.decode_s[:max_running]
        fewer.prefill_s = self.prefill_s[:max_running]
        fewer.completions_per_s = self.completions_per_s[:max_running]
        fewer._log_completions = self._log_completions[:max_running]  # noqa: SLF001 — itself
        fewer._saturate()  # noqa: SLF001 — itself
        return fewer

    def capacity_requests_per_s(self) -> float:
        """The largest stable rate of user requests, promises aside."""
        return self.saturation_per_s / self.calls_per_request

    def at(self, load: OpenLoad | ClosedLoad) -> LatencyFigures:
        """Percentiles p50–p99 of every metric when this replica carries `load`.

        An open load at or beyond capacity has no steady state: its percentiles are None.
        """
        state = self._state(load)
        if state is None:
            rate = load.requests_per_s_peak if isinstance(load, OpenLoad) else 0.0
            return LatencyFigures(
                percentiles={
                    f"{metric}_p{p:g}_s": None
                    for metric in ("ttft", "tpot", "e2e")
                    for p in PERCENTILES
                },
                utilisation=rate / self.capacity_requests_per_s(),
                running=float(self.max_running),
                waiting=math.inf,
                requests_per_s=rate,
                kv_fraction=min(self.max_running / self.kv_limit, 1.0),
                evidence=self.table.evidence,
                regime="unstable: requests arrive faster than they can be answered",
            )
        percentiles: dict[str, float | None] = {}
        for p in PERCENTILES:
            percentiles[f"ttft_p{p:g}_s"] = self._chain_s(state, p, last="ttft")
            percentiles[f"tpot_p{p:g}_s"] = state.tpot_s(p)
            percentiles[f"e2e_p{p:g}_s"] = self._chain_s(state, p, last="e2e")
        utilisation = state.calls_per_s / self.saturation_per_s
        return LatencyFigures(
            percentiles=percentiles,
            utilisation=utilisation,
            running=state.running,
            waiting=state.waiting,
            requests_per_s=state.calls_per_s / self.calls_per_request,
            kv_fraction=min(state.running / self.kv_limit, 1.0),
            evidence=self.table.evidence,
            regime=self._regime(load, utilisation),
        )

    def percentile_s(self, load: OpenLoad | ClosedLoad, metric: str, percentile: float) -> float:
        """One percentile of "ttft", "tpot" or "e2e" under `load`; infinite when unstable.

        The TPOT of one-token answers is zero here: it breaks no promise.
        """
        state = self._state(load)
        if state is None:
            return math.inf
        if metric == "tpot":
            return state.tpot_s(percentile) or 0.0
        return self._chain_s(state, percentile, last=metric)

    def chain_s(self, load: OpenLoad | ClosedLoad, percentile: float, *, last: str) -> float:
        """Percentile of this pool's calls in a row, the last one to its "ttft" or "e2e".

        Infinite when the load has no steady state.
        """
        state = self._state(load)
        return math.inf if state is None else self._chain_s(state, percentile, last=last)

    def keeps(self, load: OpenLoad | ClosedLoad, promises: tuple[Promise, ...]) -> str | None:
        """The metric of the first promise that breaks under `load`, or None when all are kept.

        "capacity" stands for an open load too near to saturation or beyond. Cheaper than `at`: a
        promise on a single call is checked by one look at the distribution, not by inverting it.
        """
        state = self._state(load)
        if state is None:
            return "capacity"
        if isinstance(load, OpenLoad) and state.calls_per_s > self.planned_per_s * (1 + 1e-9):
            return "capacity"
        single = len(self.traffic) == 1 and self.traffic[0].weight == 1
        for promise in promises:
            if promise.metric == "tpot":
                kept = state.tpot_cdf(promise.limit_s) * 100 >= promise.percentile - 1e-9
            elif single:
                share = self._cdf(state, 0, promise.metric, promise.limit_s)
                kept = share * 100 >= promise.percentile - 1e-9
            else:
                kept = (
                    self._chain_s(state, promise.percentile, last=promise.metric) <= promise.limit_s
                )
            if not kept:
                return promise.metric
        return None

    def _regime(self, load: OpenLoad | ClosedLoad, utilisation: float) -> str:
        if isinstance(load, OpenLoad) and utilisation > HIGH_LOAD:
            return (
                f"load is {utilisation:.0%} of capacity: above {HIGH_LOAD:.0%} the closed form "
                "understates rare long waits"
            )
        decode_s = self.output_tokens * float(self.decode_s[0])
        if float(self.prefill_s[0]) > LONG_PROMPT * decode_s:
            return (
                "one prompt takes long next to a whole answer: where several prompts meet one "
                "answer, every percentile is understated by up to a third"
            )
        if isinstance(load, OpenLoad) and utilisation > NOTICEABLE_LOAD:
            return (
                f"load is {utilisation:.0%} of capacity: above {NOTICEABLE_LOAD:.0%} TTFT p95 is "
                "understated, by up to a quarter"
            )
        if self.output_tokens < 8:  # noqa: PLR2004 — a handful of steps, see the module
            return "answers of a few tokens: TPOT varies more than the closed form shows"
        if isinstance(load, ClosedLoad) and load.think_time_s == 0 and self._alike:
            return (
                "clients that never think and get answers of one length move in step: first tokens "
                "come in waves, which the closed form spreads evenly"
            )
        return ""

    # ── the state of the queue ────────────────────────────────────────────────────────────────

    def _state(self, load: OpenLoad | ClosedLoad) -> Equilibrium | None:
        if isinstance(load, OpenLoad):
            return self._open(load.requests_per_s_peak * self.calls_per_request)
        return self._closed(load)

    def _open(self, calls_per_s: float) -> Equilibrium | None:
        ratio = calls_per_s / self.saturation_per_s
        if ratio >= _STABLE:
            return None
        if calls_per_s <= 0:
            calls_per_s = 1e-12
        n = np.arange(self.max_running + 1, dtype=float)
        logs = np.concatenate([[0.0], np.cumsum(math.log(calls_per_s) - self._log_completions)])
        weights = np.exp(logs - logs.max())
        beyond = weights[-1] * ratio / (1 - ratio)  # all states with somebody waiting for a slot
        total = float(weights.sum() + beyond)
        probability = weights / total
        queued = float(beyond / total)
        probability[-1] += queued  # a queueing replica runs max_running calls
        running = float(n @ probability)
        variance = float(((n - running) ** 2) @ probability)
        # an arrival finds every slot taken with P(n >= max_running), then waits exponentially
        return Equilibrium(
            curve=self,
            calls_per_s=calls_per_s,
            running=running,
            running_sd=math.sqrt(variance),
            waiting=queued / (1 - ratio),
            slot_wait_probability=float(weights[-1] / total + queued),
            slot_wait_s=1 / (self.saturation_per_s - calls_per_s),
            population=math.inf,
        )

    def _closed(self, load: ClosedLoad) -> Equilibrium:
        # every client has one user request under way or thinks; calls of a chain follow each other
        clients = load.clients
        think_s = load.think_time_s / self.calls_per_request
        n = np.arange(clients + 1, dtype=float)
        busy = np.minimum(n[1:], self.max_running).astype(int)
        completions = self.completions_per_s[busy - 1]
        if think_s <= 0:
            probability = np.zeros(clients + 1)
            probability[-1] = 1.0
        else:
            births = (clients - n[:-1]) / think_s
            logs = np.concatenate([[0.0], np.cumsum(np.log(births) - np.log(completions))])
            probability = np.exp(logs - logs.max())
            probability /= probability.sum()
        calls_per_s = float(probability[1:] @ completions)
        running = np.minimum(n, self.max_running)
        mean_running = float(running @ probability)
        variance = float(((running - mean_running) ** 2) @ probability)
        waiting = float((n - running) @ probability)
        waits = float(probability[self.max_running :].sum()) if clients > self.max_running else 0.0
        return Equilibrium(
            curve=self,
            calls_per_s=calls_per_s,
            running=mean_running,
            running_sd=math.sqrt(variance),
            waiting=waiting,
            slot_wait_probability=waits,
            slot_wait_s=waiting / calls_per_s / waits if waits else 0.0,
            population=float(clients),
        )

    # ── from the state to seconds ─────────────────────────────────────────────────────────────

    def _chain_s(self, state: Equilibrium, percentile: float, *, last: str) -> float:
        """Percentile over a chain of calls: the calls' own percentiles added up.

        Adding percentiles is exact when calls are slow together and an upper bound otherwise.
        """
        total = 0.0
        for index, kind in enumerate(self.traffic):
            final = index == len(self.traffic) - 1
            whole = kind.weight - (1 if final and last == "ttft" else 0)
            if whole > 0:
                total += whole * self.call_percentile_s(state, index, "e2e", percentile)
            if final and last == "ttft":
                total += self.call_percentile_s(state, index, "ttft", percentile)
        return total

    def call_percentile_s(
        self, state: Equilibrium, index: int, metric: str, percentile: float
    ) -> float:
        """The time below which `percentile` % of the calls of class `index` stay."""
        low, high = 0.0, 1.0
        target = percentile / 100 - 1e-12
        while self._cdf(state, index, metric, high) < target:
            low, high = high, high * 2
            if high > 1e9:  # noqa: PLR2004 — thirty years: the queue does not move
                return math.inf
        for _ in range(40):
            middle = (low + high) / 2
            if self._cdf(state, index, metric, middle) < target:
                low = middle
            else:
                high = middle
            if high - low < 1e-4 * high:
                break
        return high

    def _cdf(self, state: Equilibrium, index: int, metric: str, seconds: float) -> float:
        """P(metric of class `index` <= seconds)."""
        fixed, weights = state.fixed(index, metric)
        return float(weights @ state.wait_cdf(seconds - self.network_s - fixed))
