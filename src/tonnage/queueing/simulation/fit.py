"""A run's requests and when their tokens came -> the times of its engine's step.

Least squares through the simulator: trial constants serve the very requests of the run, and the
latencies that come out are held against those seen. What no formula knows, how each request's
latency depends on who else was there, the simulator does.

Arrivals and lengths are the load, an input, and all of them are used: an answer is slowed by those
who come after it. Outcomes are used only where they are given, so a run can be fitted on some of
its requests and judged on the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tonnage.engine import StepModel
from tonnage.errors import TonnageError
from tonnage.queueing.simulation.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tonnage.queueing.simulation import Requests, SimulatedFleet

    Floats: TypeAlias = NDArray[np.float64]
    Integers: TypeAlias = NDArray[np.int64]
    Residuals: TypeAlias = Callable[[Floats], Floats]  # by the constants' logarithms

CONSTANTS = (
    "base_s",
    "per_prefill_token_s",
    "per_sequence_s",
    "per_kv_token_s",
    "request_overhead_s",
)
LEAST_REQUESTS = 20  # four for each constant
BLOCKS = 10  # of neighbouring requests; they fare alike, so their residuals count as one draw
ITERATIONS = 40
SETTLED = 1e-3  # relative change below which the constants are found
DIFFERENCE = 0.03  # relative; smaller ones would differentiate who comes first, which jumps
LARGEST_STEP = 1.0  # of a logarithm in one iteration
PRIOR_SD = 3.0  # of a logarithm; keeps near its start what the run says nothing about
LEAST_SCALE = 1e-3  # relative; no engine repeats itself more closely
OUTLIER = 2.0  # scales beyond which a residual weighs less (Huber 1964, Ann. Math. Stat. 35)
MAD_TO_SD = 1.4826  # of a normal distribution, median absolute deviation to standard deviation
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-7, 1e4
DAMPING_FACTOR = 5.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepFit:
    """The constants of a run's engine, how well they are known, and how well they tell the run.

    `log_covariance` is of the natural logarithms of `CONSTANTS`, in their order. The residuals are
    ln(simulated / seen) of each request, NaN where nothing was seen. `converged` is False when the
    constants were still moving when the iterations were over.
    """

    step_model: StepModel
    request_overhead_s: float
    log_covariance: Floats
    ttft_residuals: Floats
    tpot_residuals: Floats
    converged: bool

    @property
    def relative_errors(self) -> dict[str, float]:
        """Standard error of each constant's logarithm: 0.1 is about 10 %, beyond 1 is unknown."""
        return dict(zip(CONSTANTS, np.sqrt(np.diag(self.log_covariance)).tolist(), strict=True))


def with_step_model(
    fleet: SimulatedFleet, model: StepModel, request_overhead_s: float
) -> SimulatedFleet:
    """The same fleet with these step times."""
    engine = fleet.engine
    tokens = np.array([0.0, max(engine.max_num_batched_tokens, engine.max_num_seqs)])
    table = replace(
        engine.table,
        tokens=tokens,
        token_s=model.base_s + tokens * model.per_prefill_token_s,
        sequence_s=tokens * model.per_sequence_s,
        # decoding sequences pass through token_s too: take their share off again
        decoding_s=-model.per_prefill_token_s,
        kv_token_s=model.per_kv_token_s,
        windowed_kv_token_s=0.0,
        chunk_context_s=0.0,
        windowed_chunk_context_s=0.0,
        window_tokens=None,
        stages=1,
        request_overhead_s=request_overhead_s,
        evidence=model.evidence,
    )
    return replace(fleet, engine=replace(engine, table=table))


def fit_step_model(
    fleet: SimulatedFleet,
    requests: Requests,
    first_token_s: Floats,
    last_token_s: Floats,
    *,
    source: str = "",
) -> StepFit:
    """Find the step times with which `fleet` would have served `requests` as it did.

    `fleet` is what served the run: limits, cache, replicas, router. Its step times are what is
    sought; those it has are not looked at. `first_token_s` and `last_token_s` are on the clock of
    the arrivals, one each request, NaN where not known. Of a closed loop, the arrivals are those
    that happened.

    The sum of squares of ln(simulated / seen) of TTFT and TPOT, each in units of its own scatter
    and outliers weighing less, is minimised by Levenberg and Marquardt's method over the logarithms
    of the constants, which keeps these positive. Wrong where a step is not affine in what it holds.

    Raises TonnageError where too little was seen, times go back, or `fleet` refuses what it served.
    """
    seen = _latencies(requests, first_token_s, last_token_s)
    _check(seen)
    known = ~np.isnan(seen)

    def constants(logs: Floats) -> tuple[StepModel, float]:
        *times, request_overhead_s = np.exp(logs).tolist()
        named = dict(zip(CONSTANTS, times, strict=False))
        return StepModel(**named, source=source), request_overhead_s

    def residuals(logs: Floats) -> Floats:
        records = simulate(with_step_model(fleet, *constants(logs)), requests).records
        simulated = _latencies(requests, records.first_token_s, records.last_token_s)
        refused = np.isnan(simulated) & known
        if refused.any():
            raise TonnageError(
                f"{int(refused.any(axis=0).sum())} requests that were served do not fit the engine"
                " as it is described.",
                hint="Give it the KV cache and the context that it had.",
            )
        return np.asarray(np.log(simulated[known] / seen[known]))

    metric, request = np.nonzero(known)
    logs, converged = _minimise(residuals, _start(requests, seen), metric)
    at_end = residuals(logs)
    apart = np.full(seen.shape, np.nan)
    apart[known] = at_end
    step_model, request_overhead_s = constants(logs)
    return StepFit(
        step_model=step_model,
        request_overhead_s=request_overhead_s,
        log_covariance=_covariance(at_end, _slopes(residuals, logs), metric, request),
        ttft_residuals=apart[0],
        tpot_residuals=apart[1],
        converged=converged,
    )


# ── what was seen ───────────────────────────────────────────────────────────────────────────────


def _latencies(requests: Requests, first_token_s: Floats, last_token_s: Floats) -> Floats:
    """TTFT and TPOT in two rows, NaN where not known or, for one token, not defined."""
    gaps = requests.output_tokens - 1.0
    tpot_s = (last_token_s - first_token_s) / np.where(gaps > 0, gaps, np.nan)
    return np.stack([first_token_s - requests.arrival_s, tpot_s])


def _check(seen: Floats) -> None:
    known = int((~np.isnan(seen)).all(axis=0).sum())
    if known < LEAST_REQUESTS:
        raise TonnageError(
            f"{known} requests of several tokens were seen from arrival to end, fewer than the"
            f" {LEAST_REQUESTS} a fit needs.",
            hint="Measure more of them.",
        )
    if (seen <= 0).any():
        raise TonnageError(
            "a first token came before its request, or a last before the first.",
            hint="Take all times from one clock.",
        )


def _start(requests: Requests, seen: Floats) -> Floats:
    """Logarithms of constants of the right order of magnitude.

    Half of the median TPOT is the base, a quarter each the sequences and their caches at the mean
    number of these; a tenth of the prompts was computed at once, with a tenth of that for overhead.
    """
    known = ~np.isnan(seen).any(axis=0)
    ttft_s, tpot_s = seen[:, known]
    prompt_tokens, output_tokens = requests.prompt_tokens[known], requests.output_tokens[known]
    begin_s = requests.arrival_s[known]
    decoding_s = tpot_s * (output_tokens - 1)
    span_s = float((begin_s + ttft_s + decoding_s).max() - begin_s.min())
    sequences = max(float(decoding_s.sum()) / span_s, 1.0)
    context_tokens = float(np.mean(prompt_tokens + output_tokens / 2))
    step_s = float(np.median(tpot_s))
    return np.log(
        [
            step_s / 2,
            float(np.quantile(ttft_s / prompt_tokens, 0.1)),
            step_s / 4 / sequences,
            step_s / 4 / (sequences * context_tokens),
            float(np.quantile(ttft_s, 0.1)) / 10,
        ]
    )


# ── least squares ───────────────────────────────────────────────────────────────────────────────


def _scales(residuals: Floats, metric: Integers) -> Floats:
    """The scatter of each residual's metric: a standard deviation that outliers do not move.

    About its median: what all residuals of a metric share is no scatter, and is to be fitted away.
    """
    scatter = np.zeros(len(residuals))
    for row in np.unique(metric):
        each = residuals[metric == row]
        scatter[metric == row] = MAD_TO_SD * np.median(np.abs(each - np.median(each)))
    return np.maximum(scatter, LEAST_SCALE)


def _weights(residuals: Floats, scales: Floats) -> Floats:
    """What the square of each residual counts."""
    return np.asarray(1 / np.maximum(np.abs(residuals) / (OUTLIER * scales), 1.0) / scales**2)


def _loss(residuals: Floats, scales: Floats) -> float:
    """Half the squares of small residuals, the absolute values of large ones (Huber's)."""
    size = np.abs(residuals) / scales
    return float(np.where(size < OUTLIER, size**2 / 2, OUTLIER * (size - OUTLIER / 2)).sum())


def _slopes(residuals: Residuals, at: Floats) -> Floats:
    """Derivatives of the residuals by each constant's logarithm, one a column."""
    steps = DIFFERENCE * np.eye(len(at))
    columns = [(residuals(at + step) - residuals(at - step)) / (2 * DIFFERENCE) for step in steps]
    return np.stack(columns, axis=1)


def _minimise(residuals: Residuals, start: Floats, metric: Integers) -> tuple[Floats, bool]:
    """Where the loss is least, and whether the search came to rest there."""
    at, now = start, residuals(start)
    damping = FIRST_DAMPING
    for _ in range(ITERATIONS):
        scales = _scales(now, metric)
        weights, slopes = _weights(now, scales), _slopes(residuals, at)
        loss = _loss(now, scales) + _prior_loss(at - start)
        downhill = -slopes.T @ (weights * now) - (at - start) / PRIOR_SD**2
        curvature = slopes.T @ (weights[:, None] * slopes) + np.eye(len(at)) / PRIOR_SD**2
        while damping < MOST_DAMPING:
            step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), downhill)
            step = np.clip(step, -LARGEST_STEP, LARGEST_STEP)
            there = residuals(at + step)
            if _loss(there, scales) + _prior_loss(at + step - start) < loss:
                break
            damping *= DAMPING_FACTOR
        else:
            return at, True  # no step leads further down
        at, now = at + step, there
        damping = max(damping / DAMPING_FACTOR, LEAST_DAMPING)
        if np.abs(step).max() < SETTLED and damping < 1:
            return at, True
    return at, False


def _prior_loss(moved: Floats) -> float:
    return float((moved**2).sum()) / (2 * PRIOR_SD**2)


def _covariance(residuals: Floats, slopes: Floats, metric: Integers, request: Integers) -> Floats:
    """Of the logarithms, by how far blocks of neighbouring requests pull them apart.

    H^-1 (B/(B-1) * sum over B blocks of g g' + P) H^-1, with g each block's gradient, P the
    precision of the prior and H the curvature with it (Liang and Zeger 1986, Biometrika 73).
    """
    weights = _weights(residuals, _scales(residuals, metric))
    prior = np.eye(slopes.shape[1]) / PRIOR_SD**2
    curvature = slopes.T @ (weights[:, None] * slopes) + prior
    pulls = slopes * (weights * residuals)[:, None]
    parts = np.array_split(np.unique(request), BLOCKS)
    gradients = np.array([pulls[np.isin(request, part)].sum(axis=0) for part in parts])
    spread = BLOCKS / (BLOCKS - 1) * gradients.T @ gradients + prior
    inverse = np.linalg.inv(curvature)
    return np.asarray(inverse @ spread @ inverse)
