"""Requests × fleet of engines -> what every request would have felt, one record each.

The vocabulary of the simulator. A `SimulatedFleet` of replicas, each an `EngineModel`, serves
`Requests` under a `Clients` loop or at the times they arrive; `Records` are what came of it, one
row a request, and `Totals` what each replica counted. Every statistic is derived from these
(`statistics`). `kernel` is the engine itself, `world` builds what it works on, `compiled` makes
machine code of it.

Words are those of the engines: a step is one forward pass; *running* sequences hold KV blocks,
*waiting* ones do not; a preempted sequence loses its blocks and is computed anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tonnage.engine import Policy as Policy
from tonnage.performance import KvPool as KvPool
from tonnage.traffic import Requests as Requests
from tonnage.workload import Promise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tonnage.performance import StepTable

Router = Literal["round-robin", "random", "least-outstanding", "kv-aware"]
Status = Literal["finished", "rejected", "unfinished", "lost"]

POLICIES: tuple[Policy, ...] = ("vllm", "trtllm-no-evict", "trtllm-max-utilisation", "sglang")
ROUTERS: tuple[Router, ...] = ("round-robin", "random", "least-outstanding", "kv-aware")
STATUSES: tuple[Status, ...] = ("finished", "rejected", "unfinished", "lost")  # by number


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineModel:
    """One replica as the simulator sees it: step times, limits and KV pool.

    `max_num_seqs` sequences run at once, a step computes at most `max_num_batched_tokens`; at least
    as many tokens as sequences. Without `chunked_prefill` a prompt is computed in one step. With
    `whole_prompt_fits` a prompt is admitted only when all of it fits the pool, not just its first
    chunk. `max_context_tokens` bounds prompt and output together.
    """

    table: StepTable
    kv: KvPool
    max_num_seqs: int
    max_num_batched_tokens: int
    policy: Policy = "vllm"
    chunked_prefill: bool = True
    whole_prompt_fits: bool = True
    prefix_cache: bool = False
    max_context_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """A closed loop: `count` clients that each send, wait for the whole answer, think, send again.

    They take the requests in order. The think time is exponential with mean `think_time_s`, or
    always that long when `steady_think`. All send first at 0 (`together`, as benchmarks do), or
    spread evenly over `spread_s`.
    """

    count: int
    think_time_s: float = 0.0
    steady_think: bool = False
    spread_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Replica number `replica` stops at `down_s` with all it holds and is back at `up_s`.

    `up_s` includes the start: detection, a new server, loading the weights.
    """

    replica: int
    down_s: float
    up_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaler:
    """Replicas between `least` and all of them, kept at about `outstanding` requests each.

    Looked at every `interval_s`; a replica that is asked for serves `startup_s` later. One that is
    let go takes no more requests and finishes those it has.
    """

    least: int
    outstanding: float
    interval_s: float
    startup_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disaggregation:
    """Prompts are computed by the fleet's replicas, answers by `replicas` others (`engine`).

    The KV cache of a prompt reaches the decoding replica `latency_s + tokens * token_s` after its
    first token.
    """

    engine: EngineModel
    replicas: int
    token_s: float
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedFleet:
    """`replicas` equal replicas behind a router.

    `router_lag_s` is how old the KV-aware router's knowledge of caches is; `overlap_weight` what a
    prompt block to compute weighs there against a block in use. Requests on a replica that stops
    are sent again at once (`retry`), or lost.
    """

    engine: EngineModel
    replicas: int = 1
    router: Router = "round-robin"
    router_lag_s: float = 0.0
    overlap_weight: float = 1.0
    outages: tuple[Outage, ...] = ()
    retry: bool = True
    autoscaler: Autoscaler | None = None
    disaggregation: Disaggregation | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Records:
    """What came of each request, as columns; NaN and -1 where it never happened.

    `arrival_s` is when it was sent, `admitted_s` when its prompt was first worked on,
    `first_token_s` and `last_token_s` when these were produced (all in seconds from the start of
    the load). `cached_tokens` of its prompt were not computed. `status` numbers `STATUSES`.
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.integer]
    output_tokens: NDArray[np.integer]
    cached_tokens: NDArray[np.integer]
    admitted_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    last_token_s: NDArray[np.float64]
    replica: NDArray[np.integer]
    preemptions: NDArray[np.integer]
    status: NDArray[np.integer]

    def __len__(self) -> int:
        """How many requests."""
        return len(self.arrival_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What one replica counted: steps, preemptions, and steps in which a limit held someone back.

    `kv_peak_fraction` is of its pool; `busy_s` the time spent in steps; `blocked_by_seqs`,
    `_tokens`, `_kv` the steps that began with a request waiting and that limit in its way.
    `prefix_hit_tokens` were found in the prefix cache.
    """

    steps: int
    preemptions: int
    kv_peak_fraction: float
    busy_s: float
    blocked_by_seqs: int
    blocked_by_tokens: int
    blocked_by_kv: int
    prefix_hit_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """The state of the fleet at even times, as columns of length T and, for KV, T x replicas."""

    at_s: NDArray[np.float64]
    running: NDArray[np.int64]
    waiting: NDArray[np.int64]
    kv_fraction: NDArray[np.float64]
    replicas_up: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulated:
    """One run: its records, what each replica counted, its course, and until when it ran."""

    records: Records
    totals: tuple[Totals, ...]
    timeline: Timeline
    until_s: float
    notes: tuple[str, ...] = field(default=())


# ── what is told of a run ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure of a run with the 90 % interval of its ten batch means; None where there are none.

    The interval says how much of the figure is luck of the draw, not how good the model is.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Mean and percentiles of one metric over the requests of the steady window, in seconds.

    `percentiles` maps 50.0, 90.0, 95.0, 99.0 to their estimates; `count` requests have the metric.
    """

    mean: Estimate
    percentiles: Mapping[float, Estimate]
    count: int


Verdict = Literal["kept", "missed", "unresolved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attainment:
    """One promise: the share of requests that kept it, and the percentile it is about.

    Rejected, lost and unfinished requests miss every promise; one that was answered with a single
    token has no time per token, and no part in a promise of one. `reached` is the promised
    percentile over all others (None when too many never answered), `verdict` compares its interval
    with the limit: "unresolved" when that straddles it.
    """

    promise: Promise
    share: Estimate
    reached: Estimate | None
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """Whether the fleet keeps up: unfinished requests that grow by more than chance do not.

    `growth_requests_per_s` is by how much more arrives than is finished; 0 when stable.
    """

    stable: bool
    growth_requests_per_s: float
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is told of a run. Counts are of the whole run, everything else of its steady window.

    `goodput_share` of the requests kept all promises together, `goodput_requests_per_s` of them a
    second. `unjudged` are promises on what none of them has, as a time per token where every answer
    is one token. `window_s` is from the first arrival that counts to the last. A metric that no
    request has is None, and so are rates where too few are counted to tell one. `limits_hit` maps
    "max_num_seqs", "max_num_batched_tokens" and "kv" to the share of steps in which that limit kept
    somebody waiting.
    """

    arrived: int
    finished: int
    rejected: int
    lost: int
    unfinished: int
    counted: int
    window_s: tuple[float, float]
    ttft: Distribution | None
    tpot: Distribution | None
    e2e: Distribution | None
    attainments: tuple[Attainment, ...]
    unjudged: tuple[Promise, ...] = ()
    goodput_share: Estimate | None
    goodput_requests_per_s: float | None
    offered_requests_per_s: float | None
    requests_per_s: float | None
    output_tokens_per_s: float | None
    stability: Stability
    kv_peak_fraction: float
    preemptions: int
    prefix_hit_share: float
    limits_hit: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def distributions(self) -> dict[str, Distribution | None]:
        """The three latencies by name."""
        return {"ttft": self.ttft, "tpot": self.tpot, "e2e": self.e2e}
