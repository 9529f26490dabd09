"""A run's requests and when their tokens came -> the times of its engine's step.

Least squares through the simulator: trial constants serve the very requests of the run, and the
latencies that come out are held against those seen. What no formula knows, how each request's
latency depends on who else was there, the simulator does.

Arrivals and lengths are the load, an input, and all of them are used: an answer is slowed by those
who come after it. Outcomes are used only where they are given, so a run can be fitted on some of
its requests and judged on the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tonnage.engine import StepModel
from tonnage.errors import TonnageError
from tonnage.performance import StepTable
from tonnage.queueing.simulation.world import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tonnage.queueing.simulation import Requests, SimulatedFleet

    Floats: TypeAlias = NDArray[np.float64]
    Integers: TypeAlias = NDArray[np.int64]
    Residuals: TypeAlias = Callable[[Floats], Floats]  # by the constants, in units

CONSTANTS = (
    "base_s",
    "per_prefill_token_s",
    "per_sequence_s",
    "per_kv_token_s",
    "request_overhead_s",
)
LEAST_REQUESTS = 20  # four for each constant
FOREVER_S = 1e30

# Latencies jump when a request just misses a step, so nothing is learned from one run. Of 16 runs
# whose constants change by these signs, every effect is apart from all products of two (Box and
# Hunter 1961, Technometrics 3), and the luck of a step averages out.
DESIGN = np.array([(*signs, math.prod(signs)) for signs in product((-1.0, 1.0), repeat=4)])
RUNS = len(DESIGN)
NEAR = 0.02  # relative: changes who just misses a step, and little else
FAR = 0.2  # units: slopes of nearer runs would drown in that luck

ITERATIONS = 40
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING, DAMPING_FACTOR = 1e-2, 1e-3, 10.0, 5.0
LEAST = 1e-3  # units; less is nothing, and no step takes no time
AT_REST = 0.02  # units; a shorter step is within the luck
SETTLING = 10  # steps; the result is the mean of their latter half
PRIOR_SD = 3.0  # units: keeps near its start what the run says nothing about

BLOCKS = 10  # of neighbouring requests; they fare alike, so their residuals count as one draw
LEAST_SCALE = 1e-3  # relative; no engine repeats itself more closely
OUTLIER = 2.0  # scales beyond which a residual weighs less (Huber 1964, Ann. Math. Stat. 35)
MAD_TO_SD = 1.4826  # of a normal distribution, median absolute deviation to standard deviation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepFit:
    """The constants of a run's engine, how well they are known, and how well they tell the run.

    `covariance` is of `CONSTANTS` in their order, in s². The residuals are ln(simulated / seen) of
    each request, NaN where nothing was seen. `converged` is False when the constants were still
    moving when the iterations were over.
    """

    step_model: StepModel
    request_overhead_s: float
    covariance: Floats
    ttft_residuals: Floats
    tpot_residuals: Floats
    converged: bool

    @property
    def standard_errors_s(self) -> dict[str, float]:
        """Of each constant; one as large as the constant itself says that the run hides it."""
        return dict(zip(CONSTANTS, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))


def with_step_model(
    fleet: SimulatedFleet, model: StepModel, request_overhead_s: float
) -> SimulatedFleet:
    """The same fleet with these step times."""
    table = StepTable.from_step_model(
        model,
        max_batched_tokens=fleet.engine.max_num_batched_tokens,
        request_overhead_s=request_overhead_s,
    )
    return replace(fleet, engine=replace(fleet.engine, table=table))


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
    that happened. Replicas that compute prompts only are not fitted.

    The sum of squares of ln(simulated / seen) of TTFT and TPOT, each in units of its own scatter
    and outliers weighing less, is minimised over constants that are not negative. Base, sequences
    and cached tokens can be told apart only as far as they varied apart in the run; their sum in
    steps like those of the run is known best. Wrong where a step is not affine in what it holds.

    Raises TonnageError where too little was seen, times go back, or `fleet` refuses what it served.
    """
    seen = _latencies(requests, first_token_s, last_token_s)
    _check(seen)
    known = ~np.isnan(seen)
    units_s = _units_s(requests, seen)

    def constants(shares: Floats) -> tuple[StepModel, float]:
        *times, request_overhead_s = (shares * units_s).tolist()
        named = dict(zip(CONSTANTS, times, strict=False))
        return StepModel(**named, source=source), request_overhead_s

    def residuals(shares: Floats) -> Floats:
        simulation = Simulation(with_step_model(fleet, *constants(shares)), requests)
        simulation.step(FOREVER_S)
        records = simulation.records()
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
    nearby, converged = _descend(residuals, metric)
    shares, slopes = _settle(residuals, nearby, metric)
    near = _near(residuals, shares)
    told = np.full(seen.shape, np.nan)
    told[known] = near.mean(axis=0)
    step_model, request_overhead_s = constants(shares)
    return StepFit(
        step_model=step_model,
        request_overhead_s=request_overhead_s,
        covariance=_covariance(near, slopes, metric, request) * np.outer(units_s, units_s),
        ttft_residuals=told[0],
        tpot_residuals=told[1],
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


def _units_s(requests: Requests, seen: Floats) -> Floats:
    """Constants of the right order of magnitude, to begin with and to count in.

    Half of the median TPOT is the base, a quarter each the sequences and their caches at the mean
    number of these; a tenth of the prompts were computed at once, or waited for nothing else.
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
    return np.array(
        [
            step_s / 2,
            float(np.quantile(ttft_s / prompt_tokens, 0.1)),
            step_s / 4 / sequences,
            step_s / 4 / (sequences * context_tokens),
            float(np.quantile(ttft_s, 0.1)),
        ]
    )


# ── least squares ───────────────────────────────────────────────────────────────────────────────


def _near(residuals: Residuals, at: Floats) -> Floats:
    """The residuals of runs that differ from `at` by little but luck, one run a row."""
    return np.stack([residuals(at * (1 + NEAR * signs)) for signs in DESIGN])


def _smooth(residuals: Residuals, at: Floats) -> Floats:
    """The residuals, averaged over where in a step requests happen to come."""
    return np.asarray(_near(residuals, at).mean(axis=0))


def _slopes(residuals: Residuals, at: Floats) -> Floats:
    """Derivatives of the residuals by each constant, one a column."""
    around = np.stack([residuals(np.maximum(at, FAR + LEAST) + FAR * signs) for signs in DESIGN])
    return np.asarray(around.T @ DESIGN / (FAR * RUNS))


def _descend(residuals: Residuals, metric: Integers) -> tuple[Floats, bool]:
    """Close to where the loss is least, and whether the search came to rest (by Marquardt)."""
    at = np.ones(len(CONSTANTS))
    now = _smooth(residuals, at)
    damping = FIRST_DAMPING
    for _ in range(ITERATIONS):
        scales = _scales(now, metric)
        loss = _loss(now, at, scales)
        downhill, curvature = _normal_equations(
            now, _slopes(residuals, at), at, _weights(now, scales)
        )
        while damping < MOST_DAMPING:
            damped = curvature + damping * np.diag(np.diag(curvature))
            there = _solve(damped, downhill, at)
            then = _smooth(residuals, there)
            if _loss(then, there, scales) < loss:
                break
            damping *= DAMPING_FACTOR
        else:
            return at, True  # no step leads further down
        moved = np.abs(there - at).max()
        at, now = there, then
        damping = max(damping / DAMPING_FACTOR, LEAST_DAMPING)
        if moved < AT_REST:
            return at, True
    return at, False


def _settle(residuals: Residuals, at: Floats, metric: Integers) -> tuple[Floats, Floats]:
    """The mean of where Gauss and Newton's steps lead from nearby, and the mean slopes there.

    So near the end chance blurs a look at the loss by more than a step gains: two of them cannot
    be compared, but many steps can be averaged.
    """
    visited, slopes = np.zeros((SETTLING, len(at))), np.zeros((len(metric), len(at)))
    for count in range(SETTLING):
        slopes += (_slopes(residuals, at) - slopes) / (count + 1)
        now = _smooth(residuals, at)
        weights = _weights(now, _scales(now, metric))
        downhill, curvature = _normal_equations(now, slopes, at, weights)
        at = visited[count] = _solve(curvature, downhill, at)
    return visited[SETTLING // 2 :].mean(axis=0), slopes


def _solve(curvature: Floats, downhill: Floats, at: Floats) -> Floats:
    """Where a Newton step leads; constants that it would make negative stop at `LEAST`."""
    step = np.linalg.solve(curvature, downhill)
    stops = at + step < LEAST
    step[stops] = LEAST - at[stops]
    goes = ~stops
    rest = downhill[goes] - curvature[np.ix_(goes, stops)] @ step[stops]
    step[goes] = np.linalg.solve(curvature[np.ix_(goes, goes)], rest)
    return np.maximum(at + step, LEAST)


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


def _loss(residuals: Floats, at: Floats, scales: Floats) -> float:
    """Half the squares of small residuals, absolute values of large ones, and of the prior."""
    size = np.abs(residuals) / scales
    each = np.where(size < OUTLIER, size**2 / 2, OUTLIER * (size - OUTLIER / 2))
    return float(each.sum() + ((at - 1) ** 2).sum() / (2 * PRIOR_SD**2))


def _normal_equations(
    residuals: Floats, slopes: Floats, at: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """The direction downhill and the curvature of the loss."""
    prior = np.eye(len(at)) / PRIOR_SD**2
    weighted = slopes.T * weights
    return -weighted @ residuals - prior @ (at - 1), weighted @ slopes + prior


def _covariance(near: Floats, slopes: Floats, metric: Integers, request: Integers) -> Floats:
    """Of the constants: H^-1 S H^-1, H the curvature and S how the gradient scatters.

    S sums what pulls blocks of neighbouring requests apart (Liang and Zeger 1986, Biometrika 73),
    what the runs `near` the end differ by beyond the effects of their constants, which is luck that
    all requests share, and the prior.
    """
    residuals = near.mean(axis=0)
    weights = _weights(residuals, _scales(residuals, metric))
    pulls = slopes * (weights * residuals)[:, None]
    blocks = np.array_split(np.unique(request), BLOCKS)
    apart = np.stack([pulls[np.isin(request, block)].sum(axis=0) for block in blocks])
    chance = near - residuals - DESIGN @ (DESIGN.T @ near) / RUNS
    luck = chance @ (slopes * weights[:, None])
    prior = np.eye(slopes.shape[1]) / PRIOR_SD**2
    scatter = (
        BLOCKS / (BLOCKS - 1) * apart.T @ apart
        + luck.T @ luck / (RUNS - 1 - slopes.shape[1])
        + prior
    )
    inverse = np.linalg.inv((slopes.T * weights) @ slopes + prior)
    return np.asarray(inverse @ scatter @ inverse)
