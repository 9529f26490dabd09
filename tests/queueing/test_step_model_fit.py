"""A known engine's run: its constants are found again, and what is not known is said to be so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tonnage.engine import StepModel
from tonnage.errors import TonnageError
from tonnage.evidence import Evidence
from tonnage.performance import StepTable
from tonnage.queueing.simulation import EngineModel, KvPool, Requests, SimulatedFleet
from tonnage.queueing.simulation.fit import (
    CONSTANTS,
    LEAST_REQUESTS,
    StepFit,
    fit_step_model,
    with_step_model,
)
from tonnage.queueing.simulation.simulate import simulate

TABLE = StepTable(
    tokens=np.array([0.0, 1.0]),
    token_s=np.ones(2),
    sequence_s=np.ones(2),
    kv_token_s=1.0,
    windowed_kv_token_s=1.0,
    chunk_context_s=1.0,
    windowed_chunk_context_s=1.0,
    window_tokens=64,
    stages=4,
    max_batched_tokens=2048,
    request_overhead_s=1.0,
    evidence=Evidence.ASSUMED,
)
ENGINE = EngineModel(
    table=TABLE,
    kv=KvPool(units=30_000, block_tokens=16),
    max_num_seqs=64,
    max_num_batched_tokens=2048,
)
FLEET = SimulatedFleet(engine=ENGINE)
TRUTH = StepModel(base_s=0.012, per_prefill_token_s=4e-5, per_sequence_s=6e-5, per_kv_token_s=6e-8)
OVERHEAD_S = 0.02

Floats = NDArray[np.float64]


def load_of(requests: int, rate_per_s: float, seed: int) -> Requests:
    rng = np.random.default_rng(seed)
    return Requests(
        arrival_s=np.cumsum(rng.exponential(1 / rate_per_s, requests)),
        prompt_tokens=np.clip(rng.lognormal(6.5, 0.8, requests), 10, 6000).astype(np.int64),
        output_tokens=np.clip(rng.lognormal(5.5, 0.7, requests), 2, 3000).astype(np.int64),
    )


def served(
    requests: Requests, model: StepModel = TRUTH, overhead_s: float = OVERHEAD_S
) -> tuple[Floats, Floats]:
    records = simulate(with_step_model(FLEET, model, overhead_s), requests).records
    return records.first_token_s, records.last_token_s


def found(fit: StepFit) -> Floats:
    return np.array(
        [
            *(getattr(fit.step_model, name) for name in CONSTANTS[:-1]),
            fit.request_overhead_s,
        ]
    )


def true_constants(model: StepModel = TRUTH, overhead_s: float = OVERHEAD_S) -> Floats:
    return np.array([*(getattr(model, name) for name in CONSTANTS[:-1]), overhead_s])


@given(
    speed=st.sampled_from([0.1, 1.0, 5.0]),
    prefill=st.sampled_from([0.3, 1.0, 2.0]),
    rate_per_s=st.sampled_from([2.0, 4.0, 8.0]),
    seed=st.integers(0, 100),
)
@settings(max_examples=3, deadline=None, derandomize=True)
def test_known_constants_are_found_again(*, speed, prefill, rate_per_s, seed):
    model = replace(
        TRUTH,
        base_s=TRUTH.base_s * speed,
        per_prefill_token_s=TRUTH.per_prefill_token_s * prefill * speed,
        per_sequence_s=TRUTH.per_sequence_s * speed,
        per_kv_token_s=TRUTH.per_kv_token_s * speed,
    )
    requests = load_of(100, rate_per_s / speed, seed)
    fit = fit_step_model(FLEET, requests, *served(requests, model, OVERHEAD_S * speed))
    error = np.abs(found(fit) / true_constants(model, OVERHEAD_S * speed) - 1)
    assert fit.converged
    # sequences and their caches come together: what one takes from the other is seen least
    assert (error < [0.01, 0.05, 0.2, 0.2, 0.4]).all(), dict(zip(CONSTANTS, error, strict=True))


def test_noise_widens_the_errors_that_are_told():
    requests = load_of(100, 8.0, seed=3)
    first_s, last_s = served(requests)
    rng = np.random.default_rng(0)
    noisy_first_s = requests.arrival_s + (first_s - requests.arrival_s) * np.exp(
        0.1 * rng.standard_normal(100)
    )
    noisy_last_s = noisy_first_s + (last_s - first_s) * np.exp(0.02 * rng.standard_normal(100))
    fit = fit_step_model(FLEET, requests, noisy_first_s, noisy_last_s, source="a run")
    told = np.array([fit.standard_errors_s[name] for name in CONSTANTS])
    error = np.abs(found(fit) - true_constants())
    assert (error < 4 * told).all()
    assert (error[:2] < 0.06 * true_constants()[:2]).all()
    assert (told < true_constants()).all()
    assert np.nanstd(fit.tpot_residuals) == pytest.approx(0.02, rel=0.3)
    # a step of 40 sequences with 900 tokens each is known far better than what it consists of
    step = np.array([1.0, 0.0, 40.0, 36_000.0, 0.0])
    assert found(fit) @ step == pytest.approx(true_constants() @ step, rel=0.02)
    assert np.sqrt(step @ fit.covariance @ step) < 0.02 * (true_constants() @ step)
    assert fit.step_model.source == "a run"


def test_a_cost_that_is_not_there_is_not_found():
    model = replace(TRUTH, per_kv_token_s=0.0)
    requests = load_of(100, 4.0, seed=1)
    fit = fit_step_model(FLEET, requests, *served(requests, model))
    assert 0 <= fit.step_model.per_kv_token_s * 36_000 < 0.05 * model.base_s
    assert fit.step_model.base_s == pytest.approx(model.base_s, rel=0.02)


def test_outcomes_that_are_hidden_are_not_needed_but_their_load_is():
    requests = load_of(120, 8.0, seed=2)
    shown = np.arange(120) < 60
    first_s, last_s = (np.where(shown, each, np.nan) for each in served(requests))
    fit = fit_step_model(FLEET, requests, first_s, last_s)
    assert fit.step_model.base_s == pytest.approx(TRUTH.base_s, rel=0.02)
    assert np.isnan(fit.ttft_residuals[60:]).all()
    assert not np.isnan(fit.ttft_residuals[:60]).any()


# ── runs that cannot be fitted ──────────────────────────────────────────────────────────────────


def test_too_few_requests_are_refused():
    requests = load_of(LEAST_REQUESTS - 1, 4.0, seed=0)
    with pytest.raises(TonnageError, match=r"19 requests .* were seen"):
        fit_step_model(FLEET, requests, *served(requests))


def test_times_that_go_back_are_refused():
    requests = load_of(30, 4.0, seed=0)
    first_s, last_s = served(requests)
    with pytest.raises(TonnageError, match="one clock"):
        fit_step_model(FLEET, requests, first_s - 1e3, last_s)


def test_an_engine_that_could_not_have_served_the_run_is_refused():
    requests = load_of(30, 4.0, seed=0)
    small = replace(FLEET, engine=replace(ENGINE, kv=KvPool(units=20, block_tokens=16)))
    with pytest.raises(TonnageError, match="do not fit the engine"):
        fit_step_model(small, requests, *served(requests))
