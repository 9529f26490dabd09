"""A whole run: its course, its end, and laws that hold for any server of its kind."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tonnage.evidence import Evidence
from tonnage.performance import StepTable
from tonnage.queueing.simulation import (
    POLICIES,
    ROUTERS,
    Autoscaler,
    Clients,
    Disaggregation,
    EngineModel,
    KvPool,
    Outage,
    Policy,
    Records,
    Requests,
    Router,
    Simulated,
    SimulatedFleet,
)
from tonnage.queueing.simulation.simulate import SLICES, Progress, simulate
from tonnage.queueing.simulation.statistics import summarise
from tonnage.queueing.simulation.world import Simulation

GRID = np.array([0.0, 32_768.0])
TABLE = StepTable(
    tokens=GRID,
    token_s=0.005 + 2e-4 * GRID,
    sequence_s=1e-4 * GRID,
    kv_token_s=1e-6,
    windowed_kv_token_s=0.0,
    chunk_context_s=1e-8,
    windowed_chunk_context_s=0.0,
    window_tokens=None,
    stages=1,
    max_batched_tokens=32_768,
    request_overhead_s=0.003,
    evidence=Evidence.ASSUMED,
)
ENGINE = EngineModel(
    table=TABLE,
    kv=KvPool(units=400, block_tokens=16),
    max_num_seqs=16,
    max_num_batched_tokens=512,
)
FLEET = SimulatedFleet(engine=ENGINE)
TOKEN_S = 1e-3  # of the single server below
SINGLE = replace(
    ENGINE,
    table=replace(
        TABLE,
        token_s=TOKEN_S * GRID,
        sequence_s=0 * GRID,
        kv_token_s=0.0,
        chunk_context_s=0.0,
        request_overhead_s=0.0,
    ),
    kv=KvPool(units=10_000, block_tokens=16),
    max_num_seqs=1,
    max_num_batched_tokens=32_768,
)


def load_of(requests: int, rate_per_s: float, seed: int = 0) -> Requests:
    rng = np.random.default_rng(seed)
    return Requests(
        arrival_s=np.cumsum(rng.exponential(1 / rate_per_s, requests)),
        prompt_tokens=rng.integers(1, 300, requests),
        output_tokens=rng.integers(1, 60, requests),
    )


def exponential_work(load: float, requests: int, seed: int = 0) -> Requests:
    """Prompts that take a single server an exponential time, 1 s on average; one token each."""
    rng = np.random.default_rng(seed)
    return Requests(
        arrival_s=np.cumsum(rng.exponential(1 / load, requests)),
        prompt_tokens=np.ceil(rng.exponential(1 / TOKEN_S, requests)).astype(np.int64),
        output_tokens=np.ones(requests, dtype=np.int64),
    )


def concurrency_by_hand(records: Records, at_s: float) -> int:
    served = records.status == 0
    return int((served & (records.arrival_s < at_s) & (records.last_token_s > at_s)).sum())


# ── the run and its slices ──────────────────────────────────────────────────────────────────────


@given(
    seed=st.integers(0, 10**6),
    policy=st.sampled_from(POLICIES),
    router=st.sampled_from(ROUTERS),
    replicas=st.integers(1, 3),
    rate_per_s=st.sampled_from([2.0, 20.0, 500.0]),
    clients=st.none() | st.builds(Clients, count=st.integers(1, 30), think_time_s=st.just(0.3)),
    units=st.sampled_from([40, 400]),
)
@settings(max_examples=40, deadline=None)
def test_slices_change_nothing(
    *,
    seed: int,
    policy: Policy,
    router: Router,
    replicas: int,
    rate_per_s: float,
    clients: Clients | None,
    units: int,
) -> None:
    engine = replace(ENGINE, policy=policy, kv=KvPool(units=units, block_tokens=16))
    fleet = SimulatedFleet(engine=engine, replicas=replicas, router=router)
    requests = load_of(60, rate_per_s, seed)

    sliced = simulate(fleet, requests, clients, seed=seed)

    whole = Simulation(fleet, requests, clients, seed=seed)
    whole.step(1e12)
    records = whole.records()
    for column in fields(Records):
        got, expected = getattr(sliced.records, column.name), getattr(records, column.name)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    for told, total in zip(sliced.totals, whole.totals(), strict=True):
        assert replace(told, busy_s=0.0) == replace(total, busy_s=0.0)


@given(
    seed=st.integers(0, 10**6),
    rate_per_s=st.sampled_from([2.0, 20.0, 500.0]),
    clients=st.none() | st.builds(Clients, count=st.integers(1, 30), spread_s=st.floats(0, 9)),
    units=st.sampled_from([15, 40, 400]),
    outages=st.sampled_from([(), (Outage(replica=1, down_s=1.0, up_s=4.0),)]),
    decoders=st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_the_course_agrees_with_the_records(
    *,
    seed: int,
    rate_per_s: float,
    clients: Clients | None,
    units: int,
    outages: tuple[Outage, ...],
    decoders: int,
) -> None:
    engine = replace(
        ENGINE, kv=KvPool(units=units, block_tokens=16), table=replace(TABLE, request_overhead_s=0)
    )
    fleet = SimulatedFleet(engine=engine, replicas=2, outages=outages)
    if decoders:
        split = Disaggregation(engine=engine, replicas=decoders, token_s=1e-4)
        fleet = replace(fleet, disaggregation=split)
    simulated = simulate(fleet, load_of(80, rate_per_s, seed), clients)
    course, records = simulated.timeline, simulated.records

    assert np.diff(course.at_s) == pytest.approx(course.at_s[1])
    assert len(course.at_s) <= 2 * SLICES
    together = [concurrency_by_hand(records, at_s) for at_s in course.at_s.tolist()]
    assert (course.running + course.waiting).tolist() == together
    assert (course.running >= 0).all()
    assert (course.waiting >= 0).all()
    assert course.running.max() <= (2 + decoders) * engine.max_num_seqs
    assert (course.kv_fraction >= 0).all()
    peaks = [total.kv_peak_fraction for total in simulated.totals]
    assert (course.kv_fraction.max(axis=0) <= np.array(peaks) + 1e-12).all()
    away = [any(o.down_s < at_s <= o.up_s for o in outages) for at_s in course.at_s.tolist()]
    assert (course.replicas_up == 2 + decoders - np.array(away)).all()
    assert simulated.until_s == np.nanmax([records.arrival_s, records.last_token_s])


@pytest.mark.parametrize("rate_per_s", [1.0, 20.0, 1e6])
@pytest.mark.parametrize("clients", [None, Clients(count=20), Clients(count=2, think_time_s=60)])
def test_a_course_is_fine_enough_and_no_finer(rate_per_s: float, clients: Clients | None) -> None:
    simulated = simulate(FLEET, load_of(300, rate_per_s), clients)
    rows_while_it_lasts = (simulated.timeline.at_s <= simulated.until_s).sum()
    assert 200 <= rows_while_it_lasts <= 2 * SLICES
    assert simulated.timeline.at_s[-1] >= simulated.until_s - 1  # a step may end after its slice


def test_progress_ends_with_everything_over() -> None:
    told: list[Progress] = []
    simulated = simulate(FLEET, load_of(3_000, 5.0), progress=told.append)
    assert told[-1] == Progress(over=3_000, requests=3_000, at_s=simulated.until_s)
    course = [(now.over, now.at_s or 0.0) for now in told]
    assert all(a <= c and b <= d for (a, b), (c, d) in pairwise(course))


# ── how it ends ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "autoscaler", [None, Autoscaler(least=1, outstanding=4.0, interval_s=1.0, startup_s=2.0)]
)
def test_a_fleet_that_is_gone_for_good_leaves_its_requests_unfinished(
    autoscaler: Autoscaler | None,
) -> None:
    fleet = replace(
        FLEET,
        replicas=2,
        outages=tuple(Outage(replica=r, down_s=3.0 + r, up_s=math.inf) for r in range(2)),
        autoscaler=autoscaler,
    )
    simulated = simulate(fleet, load_of(100, 10.0))
    unfinished = int((simulated.records.status == 2).sum())
    assert 0 < unfinished < 100
    assert simulated.notes == (
        f"No replica is left to serve: {unfinished} requests stay unfinished.",
    )
    assert math.isfinite(simulated.until_s)


def test_a_fleet_that_comes_back_finishes_them() -> None:
    fleet = replace(FLEET, outages=(Outage(replica=0, down_s=3.0, up_s=5_000.0),))
    simulated = simulate(fleet, load_of(100, 10.0))
    assert (simulated.records.status == 0).all()
    assert simulated.timeline.replicas_up.min() == 0
    assert simulated.until_s > 5_000


def test_rejections_are_told_by_their_reason() -> None:
    engine = replace(
        ENGINE,
        chunked_prefill=False,
        max_context_tokens=9_000,
        max_num_batched_tokens=8_000,
    )
    requests = Requests(
        arrival_s=np.arange(5.0),
        prompt_tokens=np.array([9_000, 8_500, 7_000, 100, 8_999]),
        output_tokens=np.array([1, 1, 1, 1, 2]),
    )
    simulated = simulate(SimulatedFleet(engine=engine), requests)
    assert simulated.records.status.tolist() == [1, 1, 1, 0, 1]
    (note,) = simulated.notes
    assert note == (
        "4 requests were rejected: 2 longer than the context of 9,000 tokens, 1 with a prompt"
        " longer than a step of 8,000 tokens, 1 larger than the KV cache."
    )


def test_no_requests_are_a_run_of_no_time() -> None:
    nothing = load_of(0, 1.0)
    simulated = simulate(FLEET, nothing)
    assert len(simulated.records) == 0
    assert simulated.until_s == 0.0
    assert summarise(simulated, [], counted=(0, 0)).arrived == 0


# ── laws of queues ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rate_per_s", "clients"), [(10.0, None), (14.0, None), (1.0, Clients(count=30))]
)
def test_littles_law(rate_per_s: float, clients: Clients | None) -> None:
    """Requests in the fleet = rate x time in the fleet, over any run that begins and ends empty."""
    simulated = simulate(FLEET, load_of(3_000, rate_per_s), clients)
    summary = summarise(simulated, [], counted=(0, 3_000))
    course = simulated.timeline
    together = (course.running + course.waiting)[course.at_s <= simulated.until_s].mean()
    assert summary.e2e is not None
    rate = summary.finished / simulated.until_s
    assert together == pytest.approx(rate * summary.e2e.mean.value, rel=0.05)


def test_one_sequence_at_a_time_is_an_mm1_queue() -> None:
    simulated = simulate(SimulatedFleet(engine=SINGLE), exponential_work(0.7, 20_000))
    summary = summarise(simulated, [], counted=(1_000, 20_000))
    assert summary.e2e is not None
    for percentile in (50.0, 90.0):
        told = summary.e2e.percentiles[percentile]
        assert told.value == pytest.approx(-math.log1p(-percentile / 100) / 0.3, rel=0.1)
    assert summary.stability.stable


@pytest.mark.parametrize("load", [1.2, 3.0])
def test_an_overload_ends_and_is_told_with_its_growth(load: float) -> None:
    simulated = simulate(SimulatedFleet(engine=SINGLE), exponential_work(load, 5_000))
    summary = summarise(simulated, [], counted=(0, 5_000))
    assert summary.finished == 5_000
    assert not summary.stability.stable
    assert summary.stability.growth_requests_per_s == pytest.approx(load - 1, rel=0.2)


def test_a_closed_loop_is_stable_however_many_its_clients() -> None:
    simulated = simulate(FLEET, load_of(1_000, 1.0), Clients(count=200))
    assert simulated.timeline.waiting.max() > 100
    assert summarise(simulated, [], counted=(200, 1_000)).stability.stable


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metric", ["ttft", "e2e"])
def test_more_replicas_are_never_worse(seed: int, metric: str) -> None:
    requests = load_of(1_000, 25.0, seed)

    def p95_s(simulated: Simulated) -> float:
        summary = summarise(simulated, [], counted=(0, len(requests)))
        value: float = getattr(summary, metric).percentiles[95.0].value
        return value

    fleets = [
        SimulatedFleet(engine=ENGINE, replicas=n, router="least-outstanding") for n in (1, 2, 4, 8)
    ]
    told = [p95_s(simulate(fleet, requests)) for fleet in fleets]
    assert told == sorted(told, reverse=True)
