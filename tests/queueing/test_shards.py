"""A run in parts is the run as a whole, to the last bit."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.queueing.test_kernel import TABLES
from tests.queueing.test_simulate import ENGINE, load_of
from tonnage.queueing.simulation import (
    POLICIES,
    Autoscaler,
    Clients,
    Disaggregation,
    KvPool,
    Outage,
    Policy,
    Records,
    Requests,
    Router,
    Simulated,
    SimulatedFleet,
    Timeline,
)
from tonnage.queueing.simulation.compiled import can_compile
from tonnage.queueing.simulation.shards import Run, simulate_all
from tonnage.queueing.simulation.simulate import Progress, simulate
from tonnage.spread import open_executor

KINDS = [False, pytest.param(True, marks=pytest.mark.skipif(not can_compile(), reason="numba"))]


class Counting(ThreadPoolExecutor):
    """Counts what it is given."""

    def __init__(self) -> None:
        super().__init__(1)
        self.given = 0

    def submit(self, *args, **kwargs):
        self.given += 1
        return super().submit(*args, **kwargs)


@pytest.fixture(scope="module")
def processes():
    with open_executor(workers=2) as executor:
        yield executor


def assert_the_same(found: Simulated, expected: Simulated) -> None:
    for noun in ("records", "timeline"):
        columns = fields(Records if noun == "records" else Timeline)
        for column in columns:
            got = getattr(getattr(found, noun), column.name)
            wanted = getattr(getattr(expected, noun), column.name)
            assert got.dtype == wanted.dtype, column.name
            assert got.shape == wanted.shape, column.name
            assert got.tobytes() == wanted.tobytes(), column.name
    assert found.totals == expected.totals
    assert (found.until_s, found.notes) == (expected.until_s, expected.notes)


def run_of(
    *,
    seed: int = 0,
    requests: int = 60,
    rate_per_s: float = 20.0,
    replicas: int = 3,
    router: Router = "round-robin",
    policy: Policy = "vllm",
    units: int = 40,
    table: int = 0,
) -> Run:
    """Some are larger than the pool and are rejected."""
    engine = replace(
        ENGINE,
        policy=policy,
        kv=KvPool(units=units, block_tokens=16),
        table=TABLES[table],
        max_context_tokens=300,
    )
    fleet = SimulatedFleet(engine=engine, replicas=replicas, router=router)
    return Run(fleet=fleet, requests=load_of(requests, rate_per_s, seed), seed=seed)


@pytest.mark.parametrize("compiled", KINDS)
@given(
    seed=st.integers(0, 10**6),
    requests=st.integers(1, 80),
    rate_per_s=st.sampled_from([0.05, 2.0, 20.0, 500.0]),
    replicas=st.integers(2, 5),
    router=st.sampled_from(["round-robin", "random"]),
    policy=st.sampled_from(POLICIES),
    units=st.sampled_from([15, 40, 400]),
    table=st.sampled_from(range(len(TABLES))),
    part_requests=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_replicas_apart_are_replicas_together(
    *, compiled: bool, part_requests: int, **told
) -> None:
    run = run_of(**told)
    whole = simulate(run.fleet, run.requests, seed=run.seed, compiled=compiled)
    with Counting() as executor:
        (parts,) = simulate_all([run], executor, compiled=compiled, part_requests=part_requests)
    count = min(run.fleet.replicas, len(run.requests) // part_requests)
    assert executor.given == (count if count > 1 else 0)
    assert_the_same(parts, whole)


def prefixed(requests: Requests) -> Requests:
    many = len(requests)
    return replace(requests, prefix_ids=np.arange(many) % 7, prefix_start=np.arange(many + 1))


RUN = run_of()
OUTAGE = Outage(replica=0, down_s=1.0, up_s=2.0)
SCALER = Autoscaler(least=1, outstanding=2.0, interval_s=1.0, startup_s=1.0)
SPLIT = Disaggregation(engine=RUN.fleet.engine, replicas=2, token_s=1e-5)
TIED = (
    replace(RUN, fleet=replace(RUN.fleet, router="least-outstanding")),
    replace(RUN, fleet=replace(RUN.fleet, router="kv-aware")),
    replace(RUN, fleet=replace(RUN.fleet, outages=(OUTAGE,))),
    replace(RUN, fleet=replace(RUN.fleet, autoscaler=SCALER)),
    replace(RUN, fleet=replace(RUN.fleet, disaggregation=SPLIT)),
    replace(RUN, clients=Clients(count=5)),
    replace(RUN, requests=prefixed(RUN.requests)),
)


@pytest.mark.parametrize("run", TIED)
def test_replicas_that_depend_on_each_other_stay_together(run: Run) -> None:
    with Counting() as executor:
        found = simulate_all([run, run], executor, part_requests=1)
    assert executor.given == 2
    for each in found:
        assert_the_same(each, simulate(run.fleet, run.requests, run.clients, seed=run.seed))


def test_processes_say_what_this_one_says(processes: Executor) -> None:
    runs = [run_of(seed=seed, requests=300) for seed in range(3)] + [TIED[5]]
    told: list[Progress] = []
    spread = simulate_all(runs, processes, part_requests=100, progress=told.append)
    for found, expected in zip(spread, simulate_all(runs), strict=True):
        assert_the_same(found, expected)
    requests = sum(len(run.requests) for run in runs)
    over = [now.over for now in told]
    assert over == sorted(over)
    assert (over[-1], {now.requests for now in told}) == (requests, {requests})
    assert len(over) == 3 * 3 + 1


def test_progress_in_one_process_is_of_all_runs() -> None:
    told: list[Progress] = []
    runs = [run_of(seed=seed, requests=50) for seed in range(3)]
    simulate_all(runs, progress=told.append)
    assert [now.over for now in told if now.over % 50 == 0] == [50, 100, 150]
    assert {now.requests for now in told} == {150}
