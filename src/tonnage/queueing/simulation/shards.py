"""Runs -> Simulated each, computed in parts wherever an Executor has room.

Runs of different seeds, fleets or loads are parts by themselves. Where the router looks at nothing
but whose turn it is, so are the replicas of one run: who serves which request is known beforehand,
and a replica does what it would do among the others, sampled at the same moments. The answer is
that of the whole run to the last bit, however many parts it was cut into.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tonnage.queueing.simulation import Clients, Records, Requests, Simulated, SimulatedFleet
from tonnage.queueing.simulation.compiled import can_compile
from tonnage.queueing.simulation.simulate import (
    WORTH_COMPILING_REQUESTS,
    Course,
    Progress,
    Samples,
    first_spacing_s,
    simulated_of,
    take_course,
)
from tonnage.queueing.simulation.world import routing_draws
from tonnage.spread import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

PART_REQUESTS = 25_000  # at least: 0.3 s plain, many times what it costs to send them


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What `simulate` is asked."""

    fleet: SimulatedFleet
    requests: Requests
    clients: Clients | None = None
    seed: int = 0


def simulate_all(
    runs: Sequence[Run],
    executor: Executor | None = None,
    *,
    compiled: bool | None = None,
    part_requests: int = PART_REQUESTS,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Simulated, ...]:
    """What `simulate` says of each run; `executor` computes what can be computed apart.

    Without it, or with nothing to divide, this process does everything. A run is not cut finer than
    `part_requests`. Unless told, kernels are compiled where numba is installed and the requests of
    all runs repay it.
    """
    requests = sum(len(run.requests) for run in runs)
    if compiled is None and requests < WORTH_COMPILING_REQUESTS:
        compiled = False
    parts = [
        part
        for number, run in enumerate(runs)
        for part in _parts(
            run,
            number,
            compiled=compiled,
            most=1 if executor is None else len(run.requests) // part_requests,
        )
    ]
    courses: list[list[_ReplicaCourse]] = [[] for _ in runs]
    over = 0
    if executor is None or len(parts) == 1:
        for part in parts:
            courses[part.number] += _take(part, progress=_beyond(over, requests, progress))
            over += part.requests
    else:
        for number, taken in spread(executor, _take, parts):
            courses[parts[number].number] += taken
            over += parts[number].requests
            if progress is not None:
                progress(Progress(over=over, requests=requests, at_s=None))
    return tuple(
        simulated_of(run.fleet, _joined(taken)) for run, taken in zip(runs, courses, strict=True)
    )


def _beyond(
    over: int, requests: int, progress: Callable[[Progress], None] | None
) -> Callable[[Progress], None] | None:
    """Tells of all runs what it is told of one, `over` requests being over before."""
    if progress is None:
        return None
    return lambda now: progress(Progress(over=over + now.over, requests=requests, at_s=now.at_s))


# ── a run in parts ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """Some replicas of run `number`, or the whole of it."""

    number: int
    runs: tuple[_ReplicaRun, ...]
    spacing_s: float
    compiled: bool | None

    @property
    def requests(self) -> int:
        return sum(len(each.run.requests) for each in self.runs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _ReplicaRun:
    """What one replica of a run serves: the requests at `places`. Without `replica`, the whole."""

    run: Run
    replica: int | None = None
    places: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _ReplicaCourse:
    course: Course
    replica: int | None
    places: NDArray[np.int64] | None


def _parts(run: Run, number: int, *, compiled: bool | None, most: int) -> list[_Part]:
    spacing_s = first_spacing_s(run.fleet, run.requests, run.clients)
    count = min(run.fleet.replicas, most)
    if count <= 1 or not _independent(run):
        whole: tuple[_ReplicaRun, ...] = (_ReplicaRun(run=run),)
        return [_Part(number=number, runs=whole, spacing_s=spacing_s, compiled=compiled)]
    served_by = _served_by(run)
    alone = replace(run.fleet, replicas=1)
    parts = []
    for replicas in np.array_split(np.arange(run.fleet.replicas), count):
        runs = []
        for replica in replicas.tolist():
            places = np.flatnonzero(served_by == replica)
            served = replace(run, fleet=alone, requests=_only(run.requests, places))
            runs.append(_ReplicaRun(run=served, replica=replica, places=places))
        parts.append(_Part(number=number, runs=tuple(runs), spacing_s=spacing_s, compiled=compiled))
    return parts


def _independent(run: Run) -> bool:
    """Whether no replica's work depends on another's: no router that looks, nothing that changes.

    What prompts share is numbered over all of them, so that a prefix cache of some is not as that
    of all.
    """
    fleet = run.fleet
    return (
        fleet.router in {"round-robin", "random"}
        and run.clients is None
        and not fleet.outages
        and fleet.autoscaler is None
        and fleet.disaggregation is None
        and run.requests.prefix_ids is None
    )


def _served_by(run: Run) -> NDArray[np.int64]:
    """The replica whose turn each request is; one that is rejected takes its turn too."""
    turns = np.arange(len(run.requests))
    if run.fleet.router == "round-robin":
        return turns % run.fleet.replicas
    return (routing_draws(len(turns), run.seed) * run.fleet.replicas).astype(np.int64)


def _only(requests: Requests, places: NDArray[np.int64]) -> Requests:
    cached = requests.cached_tokens
    return Requests(
        arrival_s=requests.arrival_s[places],
        prompt_tokens=requests.prompt_tokens[places],
        output_tokens=requests.output_tokens[places],
        cached_tokens=None if cached is None else cached[places],
    )


def _take(
    part: _Part, progress: Callable[[Progress], None] | None = None
) -> tuple[_ReplicaCourse, ...]:
    """The course of each run of a part, in whichever process."""
    compiled = can_compile() if part.compiled is None else part.compiled
    return tuple(
        _ReplicaCourse(
            course=take_course(
                each.run.fleet,
                each.run.requests,
                each.run.clients,
                seed=each.run.seed,
                compiled=compiled,
                spacing_s=part.spacing_s,
                progress=progress,
            ),
            replica=each.replica,
            places=each.places,
        )
        for each in part.runs
    )


# ── parts together ──────────────────────────────────────────────────────────────────────────────


def _joined(taken: Sequence[_ReplicaCourse]) -> Course:
    """The course of the whole run."""
    if taken[0].places is None:
        return taken[0].course
    ordered = sorted(taken, key=lambda each: each.replica or 0)
    courses = [each.course for each in ordered]
    places = np.concatenate([each.places for each in ordered if each.places is not None])
    columns = {
        name: np.concatenate([getattr(course.records, name) for course in courses])
        for name in Records.__slots__
    }
    served = np.repeat(np.arange(len(courses)), [len(course.records) for course in courses])
    replica = columns["replica"]
    columns["replica"] = np.where(replica >= 0, served, replica).astype(replica.dtype)
    back = np.argsort(places)
    return Course(
        records=Records(**{name: column[back] for name, column in columns.items()}),
        totals=tuple(total for course in courses for total in course.totals),
        samples=_joined_samples([course.samples for course in courses]),
        done=all(course.done for course in courses),
    )


def _joined_samples(each: Sequence[Samples]) -> Samples:
    """At the times of the longest course: those of the others are among them, as far as they go.

    A replica that is done stays as it is, and its cache is empty when its last step is over.
    """
    at_s = max((samples.at_s for samples in each), key=lambda column: float(column[-1]))
    rows = [
        np.minimum(np.searchsorted(samples.at_s, at_s), len(samples.at_s) - 1) for samples in each
    ]
    found = list(zip(each, rows, strict=True))
    return Samples(
        at_s=at_s,
        over=np.sum([samples.over[row] for samples, row in found], axis=0),
        running=np.sum([samples.running[row] for samples, row in found], axis=0),
        steps_end_s=np.hstack([samples.steps_end_s[row] for samples, row in found]),
        kv_fraction=np.hstack(
            [
                np.where(
                    (at_s[:, None] > samples.at_s[-1])
                    & (at_s[:, None] >= samples.steps_end_s[row]),
                    0.0,
                    samples.kv_fraction[row],
                )
                for samples, row in found
            ]
        ),
        replicas_up=np.sum([samples.replicas_up[row] for samples, row in found], axis=0),
    )
