"""What queueing theory says of the closed form where it has an answer of its own."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.laws.parts import (
    CALIBRATION,
    closed_loads,
    deployment,
    deployments,
    mix,
    mixes,
    p95,
    rate,
)
from tonnage.engine import StepModel
from tonnage.performance.roofline import tabulate
from tonnage.queueing import TrafficClass
from tonnage.queueing.closed_form import ClosedForm
from tonnage.workload import PERCENTILES, ClosedLoad, TokenMix

shares = st.floats(0.01, 0.97)


def curve_of(replica, mix: TokenMix, *, max_running: int | None = None) -> ClosedForm:
    return ClosedForm(
        tabulate(replica, CALIBRATION),
        (TrafficClass(name="answer", weight=1, mix=mix),),
        max_running=max_running or replica.max_batch_size,
        kv_limit=1e9,
    )


def constant_steps(
    step_s: float, mix: TokenMix, *, max_running: int, budget: int = 8192, per_token_s: float = 0.0
) -> ClosedForm:
    """A replica whose steps take `step_s`, and `per_token_s` more for each token of a prompt."""
    own = StepModel(
        base_s=step_s, per_prefill_token_s=per_token_s, per_sequence_s=0.0, per_kv_token_s=0.0
    )
    table = tabulate(deployment(max_batched_tokens=budget), CALIBRATION, step_model=own)
    return ClosedForm(
        table,
        (TrafficClass(name="answer", weight=1, mix=mix),),
        max_running=max_running,
        kv_limit=1e9,
    )


# ── one server ──────────────────────────────────────────────────────────────────────────────────


@given(share=shares, output=st.integers(1, 500))
def test_one_slot_is_m_m_1(share, output):
    """Mean numbers rho and rho²/(1 − rho), P(wait) = rho, waits of mean 1/(mu − lambda)."""
    curve = constant_steps(0.01, mix(1, output), max_running=1)
    mu = 1 / (0.01 * output)
    assert curve.capacity_requests_per_s() == pytest.approx(mu)
    figures = curve.at(rate(share * mu))
    assert figures.utilisation == pytest.approx(share)
    assert figures.running == pytest.approx(share)
    assert figures.waiting == pytest.approx(share**2 / (1 - share))
    state = curve._open(share * mu)
    assert state is not None
    assert state.slot_wait_probability == pytest.approx(share)
    assert state.slot_wait_s == pytest.approx(1 / (mu - share * mu))


@given(share=shares, servers=st.integers(2, 60))
def test_slots_that_do_not_slow_each_other_are_m_m_c(share, servers):
    """Erlang's C: steps of one length however many decode make k slots k servers."""
    curve = constant_steps(0.01, mix(1, 100), max_running=servers)
    offered = share * servers
    partial = [1.0]
    for k in range(1, servers + 1):
        partial.append(partial[-1] * offered / k)
    queueing = partial[-1] / (1 - share)
    erlang_c = queueing / (sum(partial[:-1]) + queueing)
    state = curve._open(offered)  # each server answers one call per second
    assert state is not None
    # at most 48 batch sizes are tabulated, the rest lie on the lines between
    assert state.slot_wait_probability == pytest.approx(erlang_c, rel=0.02)
    assert state.waiting == pytest.approx(erlang_c * share / (1 - share), rel=0.02)
    assert state.running == pytest.approx(offered, rel=0.01)


@given(share=st.floats(0.05, 0.9))
def test_prompts_of_one_length_wait_as_in_m_d_1(share):
    """Pollaczek and Khinchine: lambda T² / 2(1 − rho), each prompt filling one step of T."""
    step_s = 0.2
    # answers of one token: the engine does nothing but prompts, one to a step of the budget
    curve = constant_steps(0.0, mix(1000, 1), max_running=64, budget=1064, per_token_s=step_s / 1e3)
    arrivals = share / step_s
    assume(arrivals < curve.capacity_requests_per_s())
    state = curve._open(arrivals)
    assert state is not None
    expected = arrivals * step_s**2 / (2 * (1 - share))
    assert state.prefill_wait_probability == pytest.approx(share, rel=0.02)
    assert state.prefill_wait_probability * state.prefill_wait_s == pytest.approx(
        expected, rel=0.02 + 0.06 * share / (1 - share)
    )


# ── closed loads ────────────────────────────────────────────────────────────────────────────────


@given(replica=deployments(), mix=mixes, load=closed_loads)
def test_clients_are_conserved(replica, mix, load):
    """Running + waiting + thinking = clients; without thinking, everyone is present."""
    figures = curve_of(replica, mix).at(load)
    thinking = figures.requests_per_s * load.think_time_s
    assert figures.running + figures.waiting + thinking == pytest.approx(load.clients, rel=1e-6)
    assert figures.running <= replica.max_batch_size * (1 + 1e-12)


@given(replica=deployments(), mix=mixes, clients=st.integers(1, 500))
def test_more_clients_get_more_done_each_of_them_less(replica, mix, clients):
    curve = curve_of(replica, mix)
    few, many = (curve.at(ClosedLoad(clients=n, think_time_s=1.0)) for n in (clients, clients + 10))
    assert many.requests_per_s / (clients + 10) <= few.requests_per_s / clients * (1 + 1e-9)


# ── percentiles ─────────────────────────────────────────────────────────────────────────────────


@given(replica=deployments(), mix=mixes, share=shares)
def test_percentiles_are_ordered_and_the_first_token_comes_before_the_last(replica, mix, share):
    curve = curve_of(replica, mix)
    load = rate(share * curve.capacity_requests_per_s())
    found = curve.at(load).percentiles
    for metric in ("ttft", "tpot", "e2e"):
        values = [found[f"{metric}_p{p:g}_s"] for p in PERCENTILES]
        assert None not in values
        assert all(a <= b * (1 + 1e-3) for a, b in pairwise(values))  # type: ignore[operator]
        assert all(math.isfinite(v) and v > 0 for v in values if v is not None)
    for p in PERCENTILES:
        first, last = found[f"ttft_p{p:g}_s"], found[f"e2e_p{p:g}_s"]
        assert first is not None
        assert last is not None
        assert first <= last * (1 + 1e-3)


@given(replica=deployments(), mix=mixes, low=shares, high=shares)
def test_more_load_is_never_faster(replica, mix, low, high):
    """But for 3 %: with a few slots, a full engine varies less, and p95 can dip as it fills.

    p99 of TPOT, which no lognormal with the right variance gets right there, dips by up to 11 %.
    """
    low, high = sorted((low, high))
    curve = curve_of(replica, mix)
    most = curve.capacity_requests_per_s()
    calm, busy = (curve.at(rate(share * most)).percentiles for share in (low, high))
    for key, value in calm.items():
        later = busy[key]
        assert value is not None
        assert later is not None
        assert value <= later * (1.15 if key == "tpot_p99_s" else 1.03), key


@given(
    replica=deployments(),
    mix=mixes,
    share=st.floats(0.01, 0.94),
    metric=st.sampled_from(["ttft", "tpot"]),
)
def test_keeps_and_percentile_s_and_at_agree(replica, mix, share, metric):
    curve = curve_of(replica, mix)
    load = rate(share * curve.capacity_requests_per_s())
    value = curve.at(load).percentiles[f"{metric}_p95_s"]
    assert value is not None
    assert curve.percentile_s(load, metric, 95) == value
    assert curve.keeps(load, p95(**{metric: value * 1.001})) is None
    assert curve.keeps(load, p95(**{metric: value * 0.998})) == metric


@given(replica=deployments(), mix=mixes, share=shares)
def test_nothing_is_faster_than_an_empty_engine(replica, mix, share):
    """TPOT never beats the decode step of a single call, nor TTFT the prompt alone."""
    curve = curve_of(replica, mix)
    load = rate(share * curve.capacity_requests_per_s())
    found = curve.at(load).percentiles
    assert found["tpot_p50_s"] is not None
    assert found["tpot_p50_s"] >= float(curve.decode_s[0]) * (1 - 1e-6)
    assert found["ttft_p50_s"] is not None
    assert found["ttft_p50_s"] >= replica.engine.request_overhead_s
