"""Fleet × requests -> Simulated: one run to its end, with its course over time.

The run is cut into slices of equal time. After each the state of the fleet is noted, progress is
told, and an interrupt gets through even where the kernel is compiled.

A run ends when every request is finished, rejected or lost. A load beyond capacity is therefore
served to its end too, however late: the work is bounded by the requests, whereas the percentiles
of a run cut short would be those of the lucky ones. Only a fleet that no replica will ever come
back to is left with its requests unfinished.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tonnage.queueing.simulation import (
    STATUSES,
    Clients,
    Records,
    Requests,
    Simulated,
    SimulatedFleet,
    Timeline,
    Totals,
)
from tonnage.queueing.simulation.compiled import can_compile
from tonnage.queueing.simulation.world import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

# plain about 3 s; compiled 0.1 s, and 0.5 s to load the machine code, or 5 s to make it
WORTH_COMPILING_REQUESTS = 200_000
SLICES = 256  # the timeline has between this and twice as many rows
PROGRESS_INTERVAL_S = 0.05
_FIRST_SPACING_S = 1e-3  # where nothing tells how long a run will take; doubled as needed
_ONE_AT_A_TIME = threading.Lock()  # a worker with several threads compiles once


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it is: `over` of `requests` are finished, rejected or lost at simulated `at_s`.

    Of runs that are spread over processes only whole parts are told of, and no time.
    """

    over: int
    requests: int
    at_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Course:
    """A run as it went, of a whole fleet or of one of its replicas that needs no other.

    `samples` are taken at even times from 0 on, the last when nothing was left to do.
    """

    records: Records
    totals: tuple[Totals, ...]
    samples: Samples
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """The state at T times, but that steps begun before are over already: columns of length T.

    `steps_end_s`, when they will be, and `kv_fraction` are T x replicas.
    """

    at_s: NDArray[np.float64]
    over: NDArray[np.int64]
    running: NDArray[np.int64]
    steps_end_s: NDArray[np.float64]
    kv_fraction: NDArray[np.float64]
    replicas_up: NDArray[np.int64]


def simulate(
    fleet: SimulatedFleet,
    requests: Requests,
    clients: Clients | None = None,
    *,
    seed: int = 0,
    compiled: bool | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Simulated:
    """Serve all of `requests`, at their arrivals or as `clients` send them.

    `seed` is of think times and random routing. Unless told, it compiles the kernel when numba is
    installed and the requests are many enough to repay it. `progress` is called some 20 times a
    second, and at the end.
    """
    if compiled is None:
        compiled = len(requests) >= WORTH_COMPILING_REQUESTS and can_compile()
    course = take_course(
        fleet,
        requests,
        clients,
        seed=seed,
        compiled=compiled,
        spacing_s=first_spacing_s(fleet, requests, clients),
        progress=progress,
    )
    return simulated_of(fleet, course)


def take_course(
    fleet: SimulatedFleet,
    requests: Requests,
    clients: Clients | None,
    *,
    seed: int,
    compiled: bool,
    spacing_s: float,
    progress: Callable[[Progress], None] | None = None,
) -> Course:
    """Serve all of `requests`, sampled every `spacing_s` at first."""
    with _ONE_AT_A_TIME:
        simulation = Simulation(fleet, requests, clients, seed=seed, compiled=compiled)
    samples = [_sample(simulation, 0.0)]
    told_s = time.monotonic()
    while not (simulation.done or simulation.stranded):
        at_s = len(samples) * spacing_s
        simulation.step(at_s)
        samples.append(_sample(simulation, at_s))
        if len(samples) > 2 * SLICES:
            samples = samples[::2]
            spacing_s *= 2
        if progress is not None and time.monotonic() - told_s >= PROGRESS_INTERVAL_S:
            told_s = time.monotonic()
            progress(Progress(over=samples[-1].over, requests=len(requests), at_s=at_s))
    course = Course(
        records=simulation.records(),
        totals=simulation.totals(),
        samples=Samples(
            **{
                name: np.array([getattr(sample, name) for sample in samples])
                for name in Samples.__slots__
            }
        ),
        done=simulation.done,
    )
    if progress is not None:
        over = samples[-1].over
        progress(Progress(over=over, requests=len(requests), at_s=_until_s(course)))
    return course


def simulated_of(fleet: SimulatedFleet, course: Course) -> Simulated:
    """What is known of a fleet whose run went so."""
    return Simulated(
        records=course.records,
        totals=course.totals,
        timeline=_timeline(course.samples, course.records),
        until_s=_until_s(course),
        notes=_notes(fleet, course.records),
    )


def first_spacing_s(fleet: SimulatedFleet, requests: Requests, clients: Clients | None) -> float:
    """Seconds between samples, until there are too many."""
    return _expected_s(fleet, requests, clients) / SLICES or _FIRST_SPACING_S


def _expected_s(fleet: SimulatedFleet, requests: Requests, clients: Clients | None) -> float:
    """The least that a run lasts: until the last arrival, or as full batches at full speed take."""
    together = fleet.replicas * fleet.engine.max_num_seqs
    step_s = fleet.engine.table.step_s(
        prefill_tokens=0.0,
        prefill_context_tokens=0.0,
        sequences=1.0,
        kv_tokens=0.0,
        windowed_kv_tokens=0.0,
    )
    if clients is not None:
        together = min(together, clients.count)
    served_s = float(requests.output_tokens.sum() / together * step_s)
    arrived_s = float(requests.arrival_s[-1]) if clients is None and len(requests) else 0.0
    return max(served_s, arrived_s)


def _until_s(course: Course) -> float:
    """When the last request came or was answered; or until when it was waited for in vain."""
    if not course.done:
        return float(course.samples.at_s[-1])
    times_s = (course.records.arrival_s, course.records.last_token_s)
    return max((float(np.nanmax(t)) for t in times_s if not np.isnan(t).all()), default=0.0)


# ── the course of a run ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """One row of `Samples`."""

    at_s: float
    over: int
    running: int
    steps_end_s: NDArray[np.float64]
    kv_fraction: NDArray[np.float64]
    replicas_up: int


def _sample(simulation: Simulation, at_s: float) -> _Sample:
    pool = np.maximum(_of_replicas(simulation, "pool"), 1)
    # a step that has begun gives back at its end what its last tokens free
    later = _of_replicas(simulation, "clock") > at_s
    under_way = np.where(later, _of_replicas(simulation, "just_freed"), 0)
    return _Sample(
        at_s=at_s,
        over=int(simulation.world.clock[0].over),
        running=int(_of_replicas(simulation, "running").sum()),
        steps_end_s=_of_replicas(simulation, "clock").copy(),
        kv_fraction=1 - (_of_replicas(simulation, "free") - under_way) / pool,
        replicas_up=int(_of_replicas(simulation, "taking").sum()),
    )


def _of_replicas(simulation: Simulation, name: str) -> NDArray[Any]:
    replicas = simulation.world.replica
    if isinstance(replicas, np.ndarray):
        return np.asarray(replicas[name])
    return np.array([getattr(replica, name) for replica in replicas])


def _timeline(samples: Samples, records: Records) -> Timeline:
    """What was sampled, with the answers that end in steps under way still running.

    Waiting are all that were sent, are not over and do not run: queued, preempted, or on their way.
    """
    ending = _ending(samples, records)
    running = samples.running + ending
    over = samples.over - ending
    sent = np.searchsorted(records.arrival_s[~np.isnan(records.arrival_s)], samples.at_s)
    return Timeline(
        at_s=samples.at_s,
        running=running,
        waiting=sent - over - running,
        kv_fraction=samples.kv_fraction,
        replicas_up=samples.replicas_up,
    )


def _ending(samples: Samples, records: Records) -> NDArray[np.int64]:
    """At each sample, the answers whose last step had begun and was not over."""
    finished = records.status == STATUSES.index("finished")
    last_s, replica = records.last_token_s[finished], records.replica[finished]
    rows = len(samples.at_s)
    before = np.searchsorted(samples.at_s, last_s) - 1  # the sample before each end, then earlier
    ending = np.zeros(rows, dtype=np.int64)
    while len(before):
        begun = (before >= 0) & (samples.steps_end_s[before, replica] >= last_s)
        before, last_s, replica = before[begun], last_s[begun], replica[begun]
        ending += np.bincount(before, minlength=rows)
        before = before - 1
    return ending


# ── what is to be said of a run ─────────────────────────────────────────────────────────────────


def _notes(fleet: SimulatedFleet, records: Records) -> tuple[str, ...]:
    notes = []
    rejected = records.status == STATUSES.index("rejected")
    if rejected.any():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in _reasons(fleet, records))
        notes.append(f"{rejected.sum():,} requests were rejected: {reasons}.")
    unfinished = int((records.status == STATUSES.index("unfinished")).sum())
    if unfinished:
        notes.append(f"No replica is left to serve: {unfinished:,} requests stay unfinished.")
    return tuple(notes)


def _reasons(fleet: SimulatedFleet, records: Records) -> list[tuple[str, int]]:
    """Why requests were rejected, the first reason that holds, and how many for each."""
    engines = [fleet.engine, *([fleet.disaggregation.engine] if fleet.disaggregation else [])]
    context_tokens = min((e.max_context_tokens or math.inf) for e in engines)
    step_tokens = min(
        (math.inf if e.chunked_prefill else e.max_num_batched_tokens) for e in engines
    )
    rejected = records.status == STATUSES.index("rejected")
    prompt_tokens = records.prompt_tokens[rejected]
    too_long = prompt_tokens + records.output_tokens[rejected] > context_tokens
    too_large = ~too_long & (prompt_tokens > step_tokens)
    counts = {
        f"longer than the context of {context_tokens:,} tokens": int(too_long.sum()),
        f"with a prompt longer than a step of {step_tokens:,} tokens": int(too_large.sum()),
        "larger than the KV cache": int((~too_long & ~too_large).sum()),
    }
    return [(reason, count) for reason, count in counts.items() if count]
