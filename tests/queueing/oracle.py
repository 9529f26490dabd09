"""A step table and lengths -> what every request saw, one engine step at a time.

The simulator that the closed form is held against. It follows one engine: first come, first
served; what runs goes before what waits; a step holds at most `max_batched_tokens`, one for every
decoding sequence and the rest in chunks of prompts; prompts and decoding share one pass. Nothing of
the closed form is used, only the step table.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tonnage.performance import StepTable
from tonnage.workload import ClosedLoad, Lengths, OpenLoad, TokenMix

WARM_UP, WIND_DOWN = 0.1, 0.05  # shares of the requests left out at either end


@dataclass(slots=True, kw_only=True)
class Request:
    """One sequence: `todo` prompt tokens still to compute, `context` tokens in the cache.

    Once it decodes, `context` is what it held at its first token and is not counted on.
    """

    arrived_s: float
    todo: int
    context: int
    output: int
    chunk: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a run saw in its steady window: seconds of each request, and means over time."""

    ttft_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    e2e_s: NDArray[np.float64]
    requests_per_s: float
    running: float
    waiting: float

    def percentile_s(self, metric: str, percentile: float) -> float:
        """A percentile of "ttft", "tpot" or "e2e"."""
        seconds = {"ttft": self.ttft_s, "tpot": self.tpot_s, "e2e": self.e2e_s}[metric]
        return float(np.percentile(seconds, percentile))


@dataclass(kw_only=True)
class Engine:
    """One replica between two steps.

    All decoding sequences gain a token in every step, so `cached_tokens`, their contexts together,
    grows by their number, and the step at which each ends is known when it begins.
    """

    table: StepTable
    max_running: int
    waiting: deque[Request] = field(default_factory=deque)
    prefilling: list[Request] = field(default_factory=list)
    decoding: int = 0
    cached_tokens: int = 0
    steps: int = 0
    ending: defaultdict[int, list[Request]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        assert self.table.window_tokens is None, "windowed layers are not simulated"
        sizes = np.arange(self.table.max_batched_tokens + self.max_running + 1) / self.table.stages
        self._token_s = np.interp(sizes, self.table.tokens, self.table.token_s).tolist()
        self._sequence_s = np.interp(sizes, self.table.tokens, self.table.sequence_s).tolist()

    @property
    def running(self) -> int:
        """Sequences admitted and unfinished."""
        return len(self.prefilling) + self.decoding

    def admit(self) -> None:
        """Deal the token budget of the next step: prompts under way first, then who waits."""
        budget = self.table.max_batched_tokens - self.decoding
        for request in self.prefilling:
            request.chunk = min(request.todo, max(budget, 0))
            budget -= request.chunk
        while self.waiting and budget > 0 and self.running < self.max_running:
            request = self.waiting.popleft()
            request.chunk = min(request.todo, budget)
            budget -= request.chunk
            self.prefilling.append(request)

    def step_s(self) -> float:
        """Seconds of the step that was dealt."""
        table, tokens, emitting = self.table, self.decoding, self.decoding
        attention_s = self.cached_tokens * table.kv_token_s
        for request in self.prefilling:
            tokens += request.chunk
            emitting += request.chunk == request.todo
            looked_at = request.context + request.chunk / 2
            attention_s += request.chunk * looked_at * table.chunk_context_s
        seconds: float = self._token_s[tokens] + self._sequence_s[emitting]
        return seconds + attention_s / table.stages

    def advance(self, now_s: float) -> int:
        """The step is over: chunks are cached, finished prompts and decoders have a token more."""
        self.steps += 1
        self.cached_tokens += self.decoding
        ended = self.ending.pop(self.steps, [])
        for request in ended:
            self.cached_tokens -= request.context + request.output - 1
            self.decoding -= 1
        started = []
        for request in self.prefilling:
            request.todo -= request.chunk
            request.context += request.chunk
            if request.todo == 0:
                started.append(request)
        self.prefilling = [request for request in self.prefilling if request.todo]
        for request in started:
            request.first_s = now_s
            if request.output == 1:
                ended.append(request)
            else:
                self.decoding += 1
                self.cached_tokens += request.context
                self.ending[self.steps + request.output - 1].append(request)
        for request in ended:
            request.last_s = now_s
        return len(ended)


def simulate(
    table: StepTable,
    mix: TokenMix,
    load: OpenLoad | ClosedLoad,
    *,
    max_running: int,
    requests: int = 12_000,
    seed: int = 1,
) -> Seen:
    """Serve `requests` requests of `mix` under `load` and report those of the steady window."""
    rng = np.random.default_rng(seed)
    prompts, outputs = (_draw(rng, side, requests) for side in (mix.prompt, mix.output))
    if isinstance(load, OpenLoad):
        arrivals = np.cumsum(rng.exponential(1 / load.requests_per_s_peak, requests)).tolist()
    else:
        arrivals = sorted(rng.uniform(0, load.think_time_s, load.clients).tolist())
    engine = Engine(table=table, max_running=max_running)
    served: list[Request] = []
    marks: list[tuple[float, int, int]] = []
    now_s, finished = 0.0, 0
    while finished < requests:
        while arrivals and arrivals[0] <= now_s and len(served) < requests:
            prompt, output = prompts[len(served)], outputs[len(served)]
            cached = int(prompt * mix.cached_share)
            request = Request(
                arrived_s=heapq.heappop(arrivals),
                todo=max(prompt - cached, 1),
                context=cached,
                output=output,
            )
            served.append(request)
            engine.waiting.append(request)
        engine.admit()
        marks.append((now_s, engine.running, len(engine.waiting)))
        if not engine.running:
            now_s = arrivals[0]
            continue
        now_s += engine.step_s()
        ended = engine.advance(now_s)
        finished += ended
        if isinstance(load, ClosedLoad):
            for _ in range(ended):
                heapq.heappush(arrivals, now_s + rng.exponential(load.think_time_s))
    return _seen(served, np.array(marks), table.request_overhead_s)


def _draw(rng: np.random.Generator, lengths: Lengths, count: int) -> list[int]:
    if lengths.kind == "constant":
        return [round(lengths.mean_tokens)] * count
    if lengths.kind == "exponential":
        drawn = rng.exponential(lengths.mean_tokens, count)
    else:
        assert lengths.kind == "lognormal"
        variance = math.log1p(lengths.cv**2)
        middle = math.log(lengths.mean_tokens) - variance / 2
        drawn = rng.lognormal(middle, math.sqrt(variance), count)
    return [max(round(tokens), 1) for tokens in drawn.tolist()]


def _seen(served: list[Request], marks: NDArray[np.float64], overhead_s: float) -> Seen:
    window = served[int(len(served) * WARM_UP) : int(len(served) * (1 - WIND_DOWN))]
    rows = [(r.arrived_s, r.first_s, r.last_s, r.output) for r in window]
    arrived, first, last, output = np.array(rows, dtype=float).T
    begin, end = np.searchsorted(marks[:, 0], (arrived[0], arrived[-1]))
    step_s = np.diff(marks[begin : end + 1, 0])
    running, waiting = step_s @ marks[begin:end, 1:] / step_s.sum()
    several = output > 1
    return Seen(
        ttft_s=first - arrived + overhead_s,
        tpot_s=(last - first)[several] / (output[several] - 1),
        e2e_s=last - arrived + overhead_s,
        requests_per_s=(len(window) - 1) / float(arrived[-1] - arrived[0]),
        running=float(running),
        waiting=float(waiting),
    )
