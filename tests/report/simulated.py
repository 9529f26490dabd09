"""A simulation's answer, made by hand: every figure is known, and any of them can be changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tonnage.catalog.loader import Catalog
from tonnage.catalog.profiles import calibration, engine
from tonnage.deployment import Deployment
from tonnage.evidence import Evidence
from tonnage.fleet import Candidate, Scene, SimulationAnswer, StatedInput
from tonnage.performance import StepTable
from tonnage.queueing.simulation import (
    STATUSES,
    Attainment,
    Distribution,
    EngineModel,
    Estimate,
    KvPool,
    Records,
    Simulated,
    SimulatedFleet,
    Stability,
    Summary,
    Timeline,
    Totals,
    Verdict,
)
from tonnage.traffic import Requests
from tonnage.workload import Promise

REQUESTS, COUNTED = 2_000, (200, 1_900)
RATE_PER_S = 4.0
PROMISES = (
    Promise(metric="ttft", percentile=95.0, limit_s=1.5),
    Promise(metric="tpot", percentile=95.0, limit_s=0.05),
)
TABLE = StepTable(
    tokens=np.array([1.0, 32768.0]),
    token_s=np.array([0.009, 1.3]),
    sequence_s=np.array([2e-5, 0.6]),
    kv_token_s=2.5e-9,
    windowed_kv_token_s=0.0,
    chunk_context_s=0.0,
    windowed_chunk_context_s=0.0,
    window_tokens=None,
    stages=1,
    max_batched_tokens=8192,
    request_overhead_s=0.0,
    evidence=Evidence.CALIBRATED,
)
ENGINE = EngineModel(
    table=TABLE,
    kv=KvPool(units=20_000, block_tokens=16),
    max_num_seqs=256,
    max_num_batched_tokens=8192,
)


def records(number: int = REQUESTS, *, replicas: int = 2) -> Records:
    """Requests that all finish, each replica in turn."""
    draw = np.random.default_rng(7)
    arrival_s = np.cumsum(draw.exponential(1 / RATE_PER_S, number))
    ttft_s = draw.lognormal(-1.2, 0.5, number)
    output = draw.integers(2, 500, number)
    tpot_s = draw.normal(0.03, 0.004, number)
    return Records(
        arrival_s=arrival_s,
        prompt_tokens=draw.integers(100, 4000, number),
        output_tokens=output,
        cached_tokens=np.zeros(number, dtype=np.int64),
        admitted_s=arrival_s + ttft_s / 2,
        first_token_s=arrival_s + ttft_s,
        last_token_s=arrival_s + ttft_s + (output - 1) * tpot_s,
        replica=np.arange(number) % replicas,
        preemptions=np.zeros(number, dtype=np.int64),
        status=np.zeros(number, dtype=np.int64),
    )


def some_rejected(answer: SimulationAnswer, every: int) -> SimulationAnswer:
    """The same where every n-th request was too large for a replica."""
    found = answer.simulated.records
    gone = np.arange(len(found)) % every == 0
    changed = replace(
        found,
        **{
            name: np.where(gone, np.nan, getattr(found, name))
            for name in ("admitted_s", "first_token_s", "last_token_s")
        },
        replica=np.where(gone, -1, found.replica),
        status=np.where(gone, STATUSES.index("rejected"), found.status),
    )
    rejected = int(gone.sum())
    return replace(
        answer,
        simulated=replace(answer.simulated, records=changed),
        summary=replace(answer.summary, rejected=rejected, finished=len(found) - rejected),
    )


def timeline(of: Records, until_s: float, *, replicas: int) -> Timeline:
    """How many of the records were under way, and a cache that fills with them."""
    at_s = np.linspace(0, until_s, 400)
    begun = np.searchsorted(of.arrival_s, at_s)
    admitted = np.searchsorted(np.sort(of.admitted_s), at_s)
    ended = np.searchsorted(np.sort(of.last_token_s), at_s)
    running = admitted - ended
    share = running[:, None] * (1 + np.arange(replicas) / 10) / 200
    return Timeline(
        at_s=at_s,
        running=running,
        waiting=begun - admitted,
        kv_fraction=share,
        replicas_up=np.full(len(at_s), replicas),
    )


def distribution(values_s: Any) -> Distribution:
    """Its statistics, each 5 % either way."""
    return Distribution(
        mean=around(values_s.mean()),
        percentiles={p: around(np.percentile(values_s, p)) for p in (50.0, 90.0, 95.0, 99.0)},
        count=len(values_s),
    )


def around(value: float) -> Estimate:
    """An estimate that is 5 % off at most."""
    value = float(value)
    return Estimate(value=value, low=0.95 * value, high=1.05 * value)


def attainment(promise: Promise, verdict: Verdict, reached_s: float) -> Attainment:
    """A promise of which this came."""
    return Attainment(
        promise=promise, share=around(0.93), reached=around(reached_s), verdict=verdict
    )


def simulation(*, replicas: int = 2, **changes: Any) -> SimulationAnswer:
    """The answer of a fleet that keeps its promises; `changes` are of its summary."""
    catalog = Catalog.load()
    gpu = catalog.gpu("H200-SXM")
    found = records(replicas=replicas)
    until_s = float(found.last_token_s.max())
    first, after = COUNTED
    counted = slice(first, after)
    ttft_s = (found.first_token_s - found.arrival_s)[counted]
    e2e_s = (found.last_token_s - found.arrival_s)[counted]
    tpot_s = (e2e_s - ttft_s) / (found.output_tokens[counted] - 1)
    summary = Summary(
        arrived=REQUESTS,
        finished=REQUESTS,
        rejected=0,
        lost=0,
        unfinished=0,
        counted=after - first,
        window_s=(float(found.arrival_s[first]), float(found.arrival_s[after - 1])),
        ttft=distribution(ttft_s),
        tpot=distribution(tpot_s),
        e2e=distribution(e2e_s),
        attainments=(
            attainment(PROMISES[0], "kept", 0.71),
            attainment(PROMISES[1], "kept", 0.037),
        ),
        goodput_share=around(0.9),
        goodput_requests_per_s=3.7,
        offered_requests_per_s=4.0,
        requests_per_s=3.98,
        output_tokens_per_s=1001.0,
        stability=Stability(stable=True, growth_requests_per_s=0.0, explanation="It keeps up."),
        kv_peak_fraction=0.42,
        preemptions=3,
        prefix_hit_share=0.0,
        limits_hit={"max_num_seqs": 0.0, "max_num_batched_tokens": 0.021, "kv": 0.0},
        notes=("Ten batches of 170 requests.",),
    )
    scene = Scene(
        name="Support chatbot",
        load="4 requests/s, Poisson arrivals",
        candidate=Candidate(
            gpu=gpu, server=None, calibration=calibration(gpu), whole_servers=False
        ),
        deployment=Deployment(
            model=catalog.model("Llama-3.3-70B-Instruct"),
            gpu=gpu,
            engine=engine("vLLM"),
            weight_dtype="fp8",
            kv_dtype="fp8",
            tensor_parallel=2,
            max_batch_size=256,
            max_batched_tokens=8192,
        ),
        fleet=SimulatedFleet(engine=ENGINE, replicas=replicas),
        requests=Requests(
            arrival_s=found.arrival_s,
            prompt_tokens=found.prompt_tokens.astype(np.int64),
            output_tokens=found.output_tokens.astype(np.int64),
        ),
        clients=None,
        counted=COUNTED,
        promises=PROMISES,
        seed=0,
        inputs=(
            StatedInput(key="workload.prompt", text="2050 tokens", evidence=Evidence.DATASHEET),
            StatedInput(key="engine.kv_dtype", text="fp8", evidence=Evidence.ASSUMED),
        ),
        notes=("2 replicas of 2 H200-SXM.",),
    )
    totals = tuple(
        Totals(
            steps=10_000,
            preemptions=number,
            kv_peak_fraction=0.4 + number / 100,
            busy_s=0.8 * until_s,
            blocked_by_seqs=0,
            blocked_by_tokens=210,
            blocked_by_kv=0,
            prefix_hit_tokens=0,
        )
        for number in range(replicas)
    )
    return SimulationAnswer(
        scene=scene,
        simulated=Simulated(
            records=found,
            totals=totals,
            timeline=timeline(found, until_s, replicas=replicas),
            until_s=until_s,
        ),
        summary=replace(summary, **changes),
    )
