"""A load test, ours or another tool's -> a Run: what was seen, level by level.

The vocabulary. A *level* is one concurrency (closed loop) or one rate (open loop); a `Point` holds
its statistics, a `Run` the points with what they were measured on. A statistic that a source does
not give is None, never zero and never derived from another definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What was seen at one level. Times in seconds; percentiles over finished requests.

    TTFT counts from sending to the first non-empty token; TPOT is (e2e - ttft) / (output tokens -
    1) per request, its mean over requests; ITL is over every gap between two tokens.
    `llm_latency_p95_s` is over every LLM call of every workflow item, `workflow_runtime_p95_s` over
    items. `failed` requests are in no percentile; a level with failures is `interrupted`.
    `total_runtime_s` is from first start to last end.

    What only our own measurement knows: `level` names the records a point is made of. A `stopped`
    level did not come to its end and is measured again. `failures` counts by kind.
    `in_flight_mean_requests` is over the steady window, which is `duration_s` long. Verdicts are
    None where nothing can be said: `stable` when batch means of E2E hardly differ
    (`e2e_batch_means_cv`), `client_bound` when requests left too late (`lateness_p99_s`),
    `overloaded` when latency grew for as long as an open load lasted.
    """

    level: str | None = None
    concurrency: int | None = None
    requests_per_s: float | None = None
    requests: int | None = None
    failed: int = 0
    interrupted: bool = False
    stopped: bool = False
    failures: Mapping[str, int] = field(default_factory=dict)
    stale_retries: int = 0
    duration_s: float | None = None
    total_runtime_s: float | None = None
    llm_latency_p95_s: float | None = None
    workflow_runtime_p95_s: float | None = None
    ttft_mean_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p90_s: float | None = None
    ttft_p95_s: float | None = None
    ttft_p99_s: float | None = None
    tpot_mean_s: float | None = None
    tpot_p50_s: float | None = None
    tpot_p90_s: float | None = None
    tpot_p95_s: float | None = None
    tpot_p99_s: float | None = None
    itl_mean_s: float | None = None
    itl_p50_s: float | None = None
    itl_p90_s: float | None = None
    itl_p95_s: float | None = None
    itl_p99_s: float | None = None
    e2e_mean_s: float | None = None
    e2e_p50_s: float | None = None
    e2e_p90_s: float | None = None
    e2e_p95_s: float | None = None
    e2e_p99_s: float | None = None
    input_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    output_tokens_per_s: float | None = None
    request_rate_target_per_s: float | None = None
    ttft_samples: int | None = None
    tpot_samples: int | None = None
    itl_samples: int | None = None
    llm_calls: int | None = None
    in_flight_mean_requests: float | None = None
    lateness_p99_s: float | None = None
    e2e_batch_means_cv: float | None = None
    stable: bool | None = None
    client_bound: bool | None = None
    overloaded: bool | None = None
    notes: tuple[str, ...] = ()

    @property
    def load(self) -> tuple[float, float]:
        """What levels are shown in the order of: requests in flight, then the rate."""
        return (self.concurrency or 0, self.request_rate_target_per_s or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Points measured in one go, and on what. `facts` holds what else the source says."""

    name: str
    tool: str
    tool_version: str | None = None
    created: str | None = None
    model: str | None = None
    target: str | None = None
    gpu: str | None = None
    gpus: int | None = None
    points: tuple[Point, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
