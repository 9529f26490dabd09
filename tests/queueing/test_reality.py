"""Real vLLM runs: fitted on the first hundred requests, the simulator foretells the others.

Only the first hundred requests' tokens are shown to the fit, and the clocks are set by these. The
arrivals and lengths of all three hundred are the load, and known. The others fare quite unlike the
first: most of Llama's wait seconds for a place in the batch, which none of the first did.

Waits dominate these figures of TTFT. The TTFT of those not shown who did not wait is told too low
on average, by 12 % (Llama, 28 requests) and 20 % (Qwen, 157): likely because vLLM plans a step
while the one before still runs, which costs a newcomer a step, not the constant that is fitted.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tonnage.evidence import Evidence
from tonnage.performance import StepTable
from tonnage.queueing.simulation import EngineModel, KvPool, Requests, SimulatedFleet
from tonnage.queueing.simulation.fit import StepFit, fit_step_model, with_step_model
from tonnage.queueing.simulation.simulate import simulate

SAMPLES = Path(__file__).parent / "samples"
SHOWN = 100
WITHIN = 0.1

# Two ranks of data parallelism that share their experts step together: one replica of twice the
# size. (The fit itself tells: as two replicas apart it leaves 1.6 times the scatter of TPOT.)
RANKS = {"llama-3.1-8b": 1, "qwen3-30b-a3b": 2}
# GPU memory of 96 GB x 0.9 without the weights holds about three times what 128 sequences take
BLOCKS_PER_RANK = 30_000


@dataclass(frozen=True, eq=False)
class Run:
    requests: Requests
    first_token_s: NDArray[np.float64]
    last_token_s: NDArray[np.float64]

    def figures(self) -> dict[str, float]:
        """Mean and p99 of TTFT and TPOT of the requests that were not shown."""
        ttft_s = (self.first_token_s - self.requests.arrival_s)[SHOWN:]
        tpot_s = (self.last_token_s - self.first_token_s)[SHOWN:] / (
            self.requests.output_tokens[SHOWN:] - 1
        )
        return {
            "ttft_mean": float(ttft_s.mean()),
            "ttft_p99": float(np.quantile(ttft_s, 0.99)),
            "tpot_mean": float(tpot_s.mean()),
            "tpot_p99": float(np.quantile(tpot_s, 0.99)),
        }


@cache
def measured(name: str) -> Run:
    with gzip.open(SAMPLES / f"{name}.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    column = {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}
    offset_s = (column["queued_s"] - column["arrival_s"])[:SHOWN].min()
    requests = Requests(
        arrival_s=column["arrival_s"],
        prompt_tokens=column["input_tokens"].astype(np.int64),
        output_tokens=column["output_tokens"].astype(np.int64),
    )
    return Run(requests, column["first_token_s"] - offset_s, column["last_token_s"] - offset_s)


def fleet_of(name: str) -> SimulatedFleet:
    ranks = RANKS[name]
    unknown = np.zeros(2)
    table = StepTable(
        tokens=np.array([0.0, 1.0]),
        token_s=unknown,
        sequence_s=unknown,
        kv_token_s=0.0,
        windowed_kv_token_s=0.0,
        chunk_context_s=0.0,
        windowed_chunk_context_s=0.0,
        window_tokens=None,
        stages=1,
        max_batched_tokens=ranks * 2048,
        request_overhead_s=0.0,
        evidence=Evidence.ASSUMED,
    )
    engine = EngineModel(
        table=table,
        kv=KvPool(units=ranks * BLOCKS_PER_RANK, block_tokens=16),
        max_num_seqs=ranks * 128,
        max_num_batched_tokens=ranks * 2048,
    )
    return SimulatedFleet(engine=engine)


def fitted(name: str) -> StepFit:
    run = measured(name)
    shown = np.arange(len(run.requests)) < SHOWN
    return fit_step_model(
        fleet_of(name),
        run.requests,
        np.where(shown, run.first_token_s, np.nan),
        np.where(shown, run.last_token_s, np.nan),
    )


def errors(name: str, fit: StepFit, *, slower: float = 1.0) -> dict[str, float]:
    """Simulated over measured - 1, of what was not shown; with a base `slower` than fitted."""
    run = measured(name)
    model = replace(fit.step_model, base_s=fit.step_model.base_s * slower)
    fleet = with_step_model(fleet_of(name), model, fit.request_overhead_s)
    records = simulate(fleet, run.requests).records
    told = Run(run.requests, records.first_token_s, records.last_token_s).figures()
    return {figure: told[figure] / value - 1 for figure, value in run.figures().items()}


@pytest.mark.parametrize("name", RANKS)
def test_what_was_not_shown_is_foretold(name):
    fit = fitted(name)
    assert fit.converged
    assert np.isnan(fit.tpot_residuals[SHOWN:]).all()
    wrong = {figure: error for figure, error in errors(name, fit).items() if abs(error) > WITHIN}
    assert wrong == {}
    # what was shown is told too
    assert np.nanstd(fit.tpot_residuals) < 0.01
    assert abs(np.nanmean(fit.tpot_residuals)) < 0.005
    assert abs(np.nanmedian(fit.ttft_residuals)) < WITHIN
    # and this run does notice an engine whose base is a quarter slower
    assert any(abs(error) > WITHIN for error in errors(name, fit, slower=1.25).values())
