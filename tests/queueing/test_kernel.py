"""The kernel against the naive simulator: the same times, blocks and counts for every request."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.queueing.naive import simulate_naive
from tests.queueing.test_naive import GRID, PRICED, SECOND_STEPS, engine, fleets, loads
from tonnage.queueing.simulation import (
    POLICIES,
    Autoscaler,
    Clients,
    Disaggregation,
    EngineModel,
    KvPool,
    Outage,
    Records,
    Requests,
    SimulatedFleet,
    kernel,
)
from tonnage.queueing.simulation.compiled import can_compile, source
from tonnage.queueing.simulation.world import Simulation
from tonnage.traffic import Arrivals
from tonnage.traffic.draws import draw_requests
from tonnage.workload import Lengths, TokenMix

WINDOWED = replace(
    PRICED, window_tokens=8, windowed_kv_token_s=0.003, windowed_chunk_context_s=0.0002
)
UNEVEN = replace(PRICED, token_s=PRICED.token_s / 7, request_overhead_s=0.3, kv_token_s=0.0013)
TABLES = (PRICED, WINDOWED, UNEVEN, replace(WINDOWED, stages=2))


def well_formed(requests: Requests) -> Requests:
    """The same, but an id that covers fewer tokens of a prompt than a block is an id of its own."""
    assert requests.prefix_ids is not None
    assert requests.prefix_start is not None
    counts = np.diff(requests.prefix_start)
    place = np.arange(len(requests.prefix_ids)) - np.repeat(requests.prefix_start[:-1], counts)
    block = requests.prefix_block_tokens
    covers = np.minimum(np.repeat(requests.prompt_tokens, counts) - place * block, block)
    _, ids = np.unique(requests.prefix_ids * (block + 1) + covers, return_inverse=True)
    return replace(requests, prefix_ids=ids)


@st.composite
def served(draw: st.DrawFn) -> tuple[SimulatedFleet, Requests, Clients | None]:
    fleet, requests = draw(fleets()), well_formed(draw(loads()))
    table = draw(st.sampled_from(TABLES))
    engine = replace(
        fleet.engine, table=table, chunked_prefill=draw(st.sampled_from([True, True, False]))
    )
    if engine.prefix_cache:
        engine = replace(engine, table=draw(st.sampled_from([PRICED, UNEVEN])))
    elif table.window_tokens and draw(st.booleans()):
        blocks = -(-table.window_tokens // engine.kv.block_tokens)
        kv = replace(
            engine.kv,
            block_units=2,
            window_block_units=draw(st.integers(1, 3)),
            window_blocks=blocks,
            sequence_units=draw(st.integers(0, 2)),
            units=engine.kv.units * 3,
        )
        engine = replace(engine, kv=kv)
    if not engine.prefix_cache:
        shares = draw(st.sampled_from([None, 0.5]))
        if shares is not None:
            cached = (requests.prompt_tokens * shares).astype(np.int64)
            requests = replace(requests, cached_tokens=cached)
    clients = draw(
        st.none()
        | st.builds(
            Clients,
            count=st.integers(1, 6),
            think_time_s=st.sampled_from([0.0, 0.0, 3.7]),
            steady_think=st.just(True),  # noqa: FBT003 — a strategy
            spread_s=st.sampled_from([0.0, 5.0]),
        )
    )
    return replace(fleet, engine=engine), requests, clients


def crowded(seed: int) -> tuple[SimulatedFleet, Requests, Clients | None]:
    """Some hundred requests in want of blocks, tokens and places; many are preempted."""
    rng = np.random.default_rng(seed)
    n, block, places = (
        int(rng.integers(100, 300)),
        int(rng.choice([1, 4, 16])),
        int(rng.integers(2, 40)),
    )
    policy = POLICIES[int(rng.integers(len(POLICIES)))]
    prefix = policy == "vllm" and bool(rng.random() < 0.5)
    table = TABLES[int(rng.integers(2 if prefix else len(TABLES)))]
    table = replace(
        table,
        token_s=table.token_s * (0.01 + rng.random()),
        decoding_s=0.01,
        sequence_s=table.sequence_s * 0.03,
    )
    model = engine(
        units=int(rng.integers(140 // block + 2, 400 // block + 30)),
        block_tokens=block,
        table=table,
        policy=policy,
        max_num_seqs=places,
        max_num_batched_tokens=places + int(rng.integers(0, 100)),
        whole_prompt_fits=bool(rng.integers(2)),
        chunked_prefill=bool(rng.random() < 0.7),
        prefix_cache=prefix,
    )
    requests = Requests(
        arrival_s=np.cumsum(rng.exponential(float(rng.choice([0.1, 1, 5])), n)),
        prompt_tokens=rng.integers(1, 80, n),
        output_tokens=rng.integers(1, 60, n),
    )
    if prefix:
        width = block * int(rng.choice([1, 2, 4]))
        depths = [int(rng.integers(1, -(-int(p) // width) + 1)) for p in requests.prompt_tokens]
        families = rng.integers(0, 4, n).tolist()
        ids = [
            f * 1000 + k for f, depth in zip(families, depths, strict=True) for k in range(depth)
        ]
        requests = replace(
            requests,
            prefix_ids=np.array(ids),
            prefix_start=np.cumsum([0, *depths]),
            prefix_block_tokens=width,
        )
        requests = well_formed(requests)
    fleet = SimulatedFleet(
        engine=model,
        replicas=int(rng.integers(1, 4)),
        router=("round-robin", "least-outstanding")[int(rng.integers(2))],
    )
    clients = Clients(
        count=int(rng.integers(2, 50)),
        think_time_s=float(rng.choice([0, 0.77])),
        steady_think=True,
        spread_s=float(rng.choice([0, 9.1])),
    )
    return fleet, requests, clients if rng.random() < 0.4 else None


def assert_same(fleet: SimulatedFleet, requests: Requests, clients: Clients | None) -> Simulation:
    truth = simulate_naive(fleet, requests, clients)
    run = Simulation(fleet, requests, clients)
    run.step(1e300)
    seen = run.records()
    assert run.done
    assert seen.status.tolist() == truth.records.status.tolist()
    for name in ("arrival_s", "admitted_s", "first_token_s", "last_token_s"):
        np.testing.assert_allclose(
            getattr(seen, name), getattr(truth.records, name), rtol=0, atol=1e-9, err_msg=name
        )
    assert seen.replica.tolist() == truth.records.replica.tolist()
    assert seen.preemptions.tolist() == truth.records.preemptions.tolist()
    finished = seen.status == 0
    assert seen.cached_tokens[finished].tolist() == truth.records.cached_tokens[finished].tolist()
    for total, count in zip(run.totals(), truth.counts, strict=True):
        assert total.steps == count.steps
        assert total.preemptions == count.preemptions
        assert total.prefix_hit_tokens == count.prefix_hit_tokens
        assert total.busy_s == pytest.approx(count.busy_s, abs=1e-9)
        assert total.kv_peak_fraction == pytest.approx(
            count.peak_units / fleet.engine.kv.units, abs=1e-12
        )

    return run


@settings(max_examples=400, deadline=None)
@given(case=served())
def test_the_kernel_is_the_naive_simulator(case):
    assert_same(*case)


def test_crowded_replicas_preempt_thousands_of_times_alike():
    runs = [assert_same(*crowded(seed)) for seed in range(60)]
    assert sum(total.preemptions for run in runs for total in run.totals()) > 2000


# ── what the naive simulator does not know: compiled code, routers, replicas that come and go ───


LOGNORMAL = Lengths(kind="lognormal", mean_tokens=300, cv=1.0)


def offered(n: int = 2000, rate_per_s: float = 12.0, *, shared: bool = False) -> Requests:
    requests = draw_requests(
        [(TokenMix(prompt=LOGNORMAL, output=Lengths(kind="exponential", mean_tokens=60)), 1.0)],
        n,
        seed=3,
        arrivals=Arrivals(kind="poisson", rate_per_s=rate_per_s),
    ).requests
    if not shared:
        return requests
    rng = np.random.default_rng(1)
    counts = requests.prompt_tokens // 64
    families = rng.integers(0, 40, n)
    ids = np.concatenate(
        [f * 100 + np.arange(c) % 100 for f, c in zip(families, counts, strict=True)]
    )
    start = np.concatenate([[0], np.cumsum(counts)])
    return replace(requests, prefix_ids=ids, prefix_start=start, prefix_block_tokens=64)


def served_engine(**changes: Any) -> EngineModel:
    table = replace(
        SECOND_STEPS,
        token_s=0.01 + 2e-5 * GRID,
        sequence_s=1e-5 * GRID,
        kv_token_s=1e-7,
        chunk_context_s=1e-9,
    )
    model = EngineModel(
        table=table,
        kv=KvPool(units=800, block_tokens=16),
        max_num_seqs=48,
        max_num_batched_tokens=512,
    )
    return replace(model, **changes)


PLAIN = SimulatedFleet(engine=served_engine(), replicas=3)
CACHED = replace(PLAIN, engine=served_engine(prefix_cache=True))
FLEETS = {
    "tight": (replace(PLAIN, engine=served_engine(kv=KvPool(units=120, block_tokens=16))), False),
    "random": (replace(PLAIN, router="random"), False),
    "least outstanding": (replace(PLAIN, router="least-outstanding"), False),
    "kv-aware": (replace(CACHED, router="kv-aware"), True),
    "kv-aware, late": (replace(CACHED, router="kv-aware", router_lag_s=2.0), True),
    "sglang": (replace(PLAIN, engine=served_engine(policy="sglang")), False),
    "outages": (
        replace(
            CACHED,
            outages=(Outage(replica=0, down_s=20, up_s=60), Outage(replica=1, down_s=30, up_s=50)),
        ),
        True,
    ),
    "outages that lose requests": (
        replace(PLAIN, outages=(Outage(replica=1, down_s=20, up_s=60),), retry=False),
        False,
    ),
    "random outages": (
        replace(PLAIN, router="random", outages=(Outage(replica=0, down_s=20, up_s=60),)),
        False,
    ),
    "autoscaled in turn": (
        replace(
            PLAIN,
            autoscaler=Autoscaler(least=1, outstanding=10, interval_s=5, startup_s=12),
        ),
        False,
    ),
    "autoscaled": (
        replace(
            PLAIN,
            router="least-outstanding",
            autoscaler=Autoscaler(least=1, outstanding=10, interval_s=5, startup_s=12),
        ),
        False,
    ),
    "disaggregated": (
        replace(
            PLAIN,
            disaggregation=Disaggregation(
                engine=served_engine(), replicas=2, token_s=1e-5, latency_s=0.02
            ),
        ),
        False,
    ),
}


@pytest.mark.skipif(not can_compile(), reason="numba is not installed")
@pytest.mark.parametrize("name", FLEETS)
@pytest.mark.parametrize(
    "clients", [None, Clients(count=60, think_time_s=1.5)], ids=["open", "closed"]
)
def test_compiled_is_plain_to_the_last_bit(name, clients):
    fleet, shared = FLEETS[name]
    runs = []
    for compiled in (False, True):
        run = Simulation(fleet, offered(shared=shared), clients, seed=5, compiled=compiled)
        for until_s in (10.0, 33.3, 1e300):
            run.step(until_s)
        assert run.done
        runs.append(run)
    for column in fields(Records):
        one, other = (getattr(run.records(), column.name) for run in runs)
        np.testing.assert_array_equal(one, other, err_msg=column.name)
    assert runs[0].totals() == runs[1].totals()


@pytest.mark.skipif(not can_compile(), reason="numba is not installed")
@pytest.mark.parametrize("seed", range(100, 130))
def test_compiled_and_crowded_is_plain_to_the_last_bit(seed):
    fleet, requests, clients = crowded(seed)
    runs = [Simulation(fleet, requests, clients, compiled=compiled) for compiled in (False, True)]
    for run in runs:
        run.step(1e300)
    plain, compiled = (run.records() for run in runs)
    np.testing.assert_array_equal(plain.last_token_s, compiled.last_token_s)
    assert runs[0].totals() == runs[1].totals()


@pytest.mark.skipif(not can_compile(), reason="numba is not installed")
@pytest.mark.parametrize("seed", range(100, 130))
def test_a_heap_full_of_what_is_not_due_any_more_is_tidied(seed):
    fleet, requests, clients = crowded(seed)
    plain, compiled = (
        Simulation(fleet, requests, clients, compiled=compiled) for compiled in (False, True)
    )
    # hardly more than can be due at once: an end and a full window of each
    compiled.world.replica["heap_room"] = 2 * compiled.world.engine["max_num_seqs"].max() + 1
    for run in (plain, compiled):
        run.step(1e300)
    one, other = (run.records().last_token_s for run in (plain, compiled))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


def test_what_is_compiled_into_its_caller_has_one():
    text = source()
    marked = re.findall(r"@called_once\ndef (\w+)", text)
    assert len(marked) > 10
    for name in marked:
        assert len(re.findall(rf"\b{name}\(", text)) == 2, name  # where it is defined and called


@pytest.mark.parametrize("name", FLEETS)
def test_requests_and_blocks_are_conserved_and_clocks_go_forward(name):
    fleet, shared = FLEETS[name]
    requests = offered(600, shared=shared)
    run = Simulation(fleet, requests)
    clocks = [-1.0] * len(run.world.replica)
    for until_s in [*range(1, 80), 1e300]:
        run.step(until_s)
        states = [r.state for r in run.world.request]
        for replica in run.world.replica:
            inside = [r for r in run.world.request if r.replica == replica.index]
            assert replica.waiting == sum(r.state == kernel.WAITING for r in inside)
            running = [r for r in inside if r.state in (kernel.PROMPTING, kernel.DECODING)]
            assert replica.running == len(running)
            model = run.world.engine[replica.engine]
            if not model.prefix_cache:
                held = [kernel.units_of(model, kernel.context_of(replica, r)) for r in running]
                assert replica.free + sum(held) == replica.pool
            assert 0 <= replica.free <= replica.pool
            assert replica.clock >= clocks[replica.index]
            clocks[replica.index] = replica.clock
        over = (kernel.FINISHED, kernel.REJECTED, kernel.LOST)
        assert run.world.clock[0].over == sum(state in over for state in states)
    assert run.done


def test_a_replica_that_stops_sends_its_requests_again_or_loses_them():
    outage = (Outage(replica=0, down_s=20, up_s=60),)
    whole, again, lost = (
        Simulation(fleet, offered(600))
        for fleet in (
            PLAIN,
            replace(PLAIN, outages=outage),
            replace(PLAIN, outages=outage, retry=False),
        )
    )
    for run in (whole, again, lost):
        run.step(1e300)
    assert (again.records().status == 0).all()
    missing = (lost.records().status == 3).sum()
    assert 0 < missing < 40
    assert again.records().last_token_s.mean() > whole.records().last_token_s.mean()
    down = (again.records().admitted_s > 20.1) & (again.records().last_token_s < 60)
    assert not (again.records().replica[down] == 0).any()


@pytest.mark.parametrize(("router", "most_apart"), [("round-robin", 1), ("random", 100)])
@pytest.mark.parametrize("stopped", [(0,), (1, 2), (4, 0)])
def test_the_others_share_evenly_what_a_stopped_replica_would_get(router, most_apart, stopped):
    outages = tuple(Outage(replica=r, down_s=0.0, up_s=float("inf")) for r in stopped)
    run = Simulation(replace(PLAIN, replicas=5, router=router, outages=outages), offered(1500))
    run.step(1e300)
    shares = np.bincount(run.records().replica, minlength=5)
    serving = np.delete(shares, stopped)
    assert shares.sum() == 1500
    assert np.ptp(serving) <= most_apart  # of 375 to 500 drawn for each: five sigma


def test_a_fleet_that_is_gone_keeps_its_requests_unfinished():
    outages = tuple(Outage(replica=r, down_s=5, up_s=float("inf")) for r in range(3))
    run = Simulation(replace(PLAIN, outages=outages), offered(200))
    run.step(1e6)
    assert run.stranded
    assert set(run.records().status.tolist()) == {0, 2}


def test_an_autoscaler_starts_what_the_load_needs_and_lets_go():
    scaler = Autoscaler(least=1, outstanding=10, interval_s=5, startup_s=12)
    fleet = replace(PLAIN, replicas=6, router="least-outstanding", autoscaler=scaler)
    run = Simulation(fleet, offered(1500, 12.0))
    serving = []
    for until_s in range(5, 120, 5):
        run.step(until_s)
        serving.append(sum(r.taking for r in run.world.replica))
    assert serving[0] == 1
    assert 2 <= max(serving) <= 6
    assert serving[-1] < max(serving)
    # nothing serves before it has been asked for and has started
    assert all(count == 1 for at, count in zip(range(5, 120, 5), serving, strict=True) if at < 17)


def test_a_cache_of_prompts_travels_at_the_speed_of_its_link():
    split = Disaggregation(engine=served_engine(), replicas=1, token_s=1e-3, latency_s=0.5)
    fleet = SimulatedFleet(engine=served_engine(), disaggregation=split)
    requests = Requests(
        arrival_s=np.zeros(1), prompt_tokens=np.array([200]), output_tokens=np.array([2])
    )
    run = Simulation(fleet, requests)
    run.step(1e300)
    records = run.records()
    step_s = 0.01 + 1e-5 + 2e-5 + 200 * 1e-7
    assert records.last_token_s - records.first_token_s == pytest.approx(0.5 + 0.2 + step_s)
    assert records.replica[0] == 1


def test_a_router_that_knows_caches_finds_more_of_them():
    requests = offered(shared=True)
    found = {}
    for router in ("round-robin", "kv-aware"):
        run = Simulation(replace(CACHED, router=router), requests)
        run.step(1e300)
        found[router] = sum(total.prefix_hit_tokens for total in run.totals())
    assert found["kv-aware"] > 1.1 * found["round-robin"]


def test_a_block_is_shared_only_after_the_same_blocks():
    requests = Requests(
        arrival_s=np.array([0.0, 10.0, 20.0]),
        prompt_tokens=np.array([1025, 513, 1025]),
        output_tokens=np.ones(3, dtype=np.int64),
        prefix_ids=np.array([1, 2, 2, 1, 2]),
        prefix_start=np.array([0, 2, 3, 5]),
    )
    run = Simulation(replace(CACHED, replicas=1), requests)
    run.step(1e300)
    assert run.records().cached_tokens.tolist() == [0, 0, 1024]


def test_same_seed_same_bytes_and_another_seed_another_run():
    fleet = replace(PLAIN, router="random")
    seen = []
    for seed in (1, 1, 2):
        run = Simulation(fleet, offered(300), seed=seed)
        run.step(1e300)
        seen.append(run.records().last_token_s.tobytes())
    assert seen[0] == seen[1] != seen[2]
