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
    1) per request, its mean over requests. `llm_latency_p95_s` is over every LLM call of every
    workflow item, `workflow_runtime_p95_s` over items. `failed` requests are in no percentile; a
    level with failures is `interrupted`. `total_runtime_s` is from first start to last end.
    """

    concurrency: int | None = None
    requests_per_s: float | None = None
    requests: int | None = None
    failed: int = 0
    interrupted: bool = False
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
    e2e_mean_s: float | None = None
    e2e_p50_s: float | None = None
    e2e_p90_s: float | None = None
    e2e_p95_s: float | None = None
    e2e_p99_s: float | None = None
    input_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    output_tokens_per_s: float | None = None
    request_rate_target_per_s: float | None = None
    notes: tuple[str, ...] = ()


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
