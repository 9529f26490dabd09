"""Runs of a batch -> when all of it is done, and whether that is by its deadline.

What is not simulated goes on at the rate that was reached, once that is steady.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tonnage.evidence import student_t
from tonnage.fleet import BatchDone
from tonnage.fleet.replica import scaled_load
from tonnage.queueing.simulation import STATUSES, Estimate
from tonnage.queueing.simulation.statistics import BATCHES, CONFIDENCE, LEAST_RUNS
from tonnage.workload import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tonnage.fleet import Question, SimulationOptions
    from tonnage.queueing.simulation import Records, Simulated, Verdict

FINISHED = STATUSES.index("finished")
STEADY = (0.1, 0.9)  # of a batch: between these shares of its answers it runs at an even rate
STEADY_TURNS = 8  # as many requests as run at once: of fewer, start and end are most of the run


def batch_of(question: Question, options: SimulationOptions) -> Batch | None:
    """The batch that is simulated, in calls; None where the load is another, or a recording."""
    load = scaled_load(question.workload.load, options.rate_factor)
    if options.trace is not None or not isinstance(load, Batch):
        return None
    calls = sum(call.repeats for call in question.workload.calls)
    return Batch(requests=load.requests * calls, deadline_s=load.deadline_s)


def batch_done(runs: Sequence[Simulated], batch: Batch) -> BatchDone:
    """When the batch is done, on average over runs of different seeds, and if that is in time.

    It misses its deadline when a request was not answered, and is unresolved where it goes on at a
    rate that was not steady yet. Its luck is how long the answers happen to be: ten batch means of
    their tokens, of each run; where the rest is reckoned from the rate, how long each tenth of the
    steady part took; from five runs on, how far these are apart.
    """
    each_s = [_finish_s(run.records, batch) for run in runs]
    finish = Estimate(value=sum(each_s) / len(each_s))
    figures = each_s
    if len(runs) < LEAST_RUNS:
        whole = all(len(run.records) >= batch.requests for run in runs)
        figures = _token_means(runs) if whole else _tenths_s(runs)
    if figures and math.isfinite(finish.value):
        off = student_t(len(figures) - 1, CONFIDENCE) * float(np.std(figures, ddof=1))
        half = finish.value * off / math.sqrt(len(figures)) / float(np.mean(figures))
        finish = Estimate(
            value=finish.value, low=max(finish.value - half, 0.0), high=finish.value + half
        )
    steady = all(_steady(run, batch) for run in runs)
    verdict: Verdict = "missed"
    if all((run.records.status == FINISHED).all() for run in runs):
        verdict = _in_time(finish, batch) if steady else "unresolved"
    return BatchDone(batch=batch, finish=finish, steady=steady, verdict=verdict)


def _in_time(finish: Estimate, batch: Batch) -> Verdict:
    low, high = finish.low or finish.value, finish.high or finish.value
    if low > batch.deadline_s:
        return "missed"
    return "kept" if high <= batch.deadline_s else "unresolved"


def _steady(run: Simulated, batch: Batch) -> bool:
    """Whether all is simulated, or enough for the rest to go on like it."""
    simulated = len(run.records)
    at_once = int(run.timeline.running.max(initial=0))
    return simulated >= min(batch.requests, STEADY_TURNS * at_once)


def _finish_s(records: Records, batch: Batch) -> float:
    """When a run has answered all; infinite without any answer."""
    ends_s = _ends_s(records)
    if not len(ends_s):
        return math.inf
    left = max(batch.requests - len(records), 0.0)
    first, last = (int(share * (len(ends_s) - 1)) for share in STEADY)
    seconds = ends_s[last] - ends_s[first]
    return float(ends_s[-1] + (left * seconds / (last - first) if last > first else 0.0))


def _ends_s(records: Records) -> NDArray[np.float64]:
    """When each answer was whole, in order."""
    return np.sort(records.last_token_s[records.status == FINISHED])


def _tenths_s(runs: Sequence[Simulated]) -> list[float]:
    """How long each tenth of the steady answers took, in each run."""
    tenths: list[float] = []
    for ends_s in (_ends_s(run.records) for run in runs):
        first, last = (int(share * (len(ends_s) - 1)) for share in STEADY)
        if last - first >= BATCHES:
            marks = np.linspace(first, last, BATCHES + 1).astype(int)
            tenths += np.diff(ends_s[marks]).tolist()
    return tenths


def _token_means(runs: Sequence[Simulated]) -> list[float]:
    """Mean tokens of an answer, in ten batches of each run."""
    tokens = [run.records.output_tokens for run in runs]
    whole = [each[: len(each) // BATCHES * BATCHES].reshape(BATCHES, -1) for each in tokens]
    return [float(mean) for each in whole if each.size for mean in each.mean(axis=1)]
