"""An arrangement, a load and a number of replicas -> a Trial; a range of numbers -> the fewest.

What a proof is made of. A `TrialAsked` and a `Hunt` say all there is to know and can be pickled, so
that any executor may run them. One seed gives every number of replicas the same requests: fleets
are compared under the same luck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tonnage.fleet import ProofProgress, SimulationOptions, Trial
from tonnage.fleet.batches import batch_done
from tonnage.fleet.replica import scaled_load, stated_overhead_bytes_per_gpu
from tonnage.fleet.simulated import scene_on
from tonnage.performance.memory import engine_pool_bytes, memory_budget
from tonnage.queueing import LatencyFigures
from tonnage.queueing.simulation.simulate import simulate
from tonnage.queueing.simulation.statistics import summarise
from tonnage.spread import spread
from tonnage.workload import PERCENTILES, Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from tonnage.deployment import Deployment
    from tonnage.fleet import Candidate, Question, Scene
    from tonnage.queueing.simulation import EngineModel, Simulated, Summary, Verdict

PART_REPLICAS = 16  # simulated of a larger fleet: round robin feeds each of them nearly evenly
AGAIN = (4, 16)  # times as many requests where a promise is unresolved: a half, a quarter as wide


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialAsked:
    """One arrangement under the load of `question`, which stands for the whole fleet's.

    `kv_budget_fraction` is the share of the memory left that cache may fill, as in a scenario; None
    lets the engine use all that it takes.
    """

    question: Question
    candidate: Candidate
    deployment: Deployment
    kv_budget_fraction: float | None
    requests: int
    seed: int
    compiled: bool

    def __str__(self) -> str:
        """Like "H200-SXM TP2 fp8"."""
        return f"{self.deployment.gpu.name} {self.deployment.describe()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunt:
    """The fewest replicas, `step` by `step`, that keep every promise: from `start`, within bounds.

    `least` and `most` are multiples of `step` too; all that are above 0.
    """

    asked: TrialAsked
    start: int
    least: int
    most: int
    step: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunted:
    """What a hunt found, and all it tried, by replicas.

    `found` keeps every promise; or is the fewest of which that is unresolved; or None.
    """

    found: Trial | None
    tried: tuple[Trial, ...]


def hunt_fewest(hunt: Hunt, tell: Callable[[str], None] | None = None) -> Hunted:
    """Gallop from the start, down while promises are kept or up until they are, then bisect.

    More replicas are taken to be never worse.
    """
    tried: dict[int, Trial] = {}

    def kept(steps: int) -> bool:
        count = steps * hunt.step
        if count not in tried:
            tried[count] = run_trial(hunt.asked, count, tell)
        return tried[count].verdict == "kept"

    least, most = hunt.least // hunt.step, hunt.most // hunt.step
    start = min(max(hunt.start // hunt.step, least), most)
    low, high, stride = least - 1, most + 1, 1
    if kept(start):
        high = start
        while high > least:
            below = max(high - stride, least)
            if not kept(below):
                low = below
                break
            high, stride = below, stride * 2
    else:
        low = start
        while low < most:
            above = min(low + stride, most)
            if kept(above):
                high = above
                break
            low, stride = above, stride * 2
    while low < most and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if kept(middle) else (middle, high)
    trials = tuple(tried[count] for count in sorted(tried))
    good = [trial for trial in trials if trial.verdict == "kept"]
    open_ = [trial for trial in trials if trial.verdict == "unresolved"]
    return Hunted(found=next(iter(good or open_), None), tried=trials)


def run_trial(asked: TrialAsked, replicas: int, tell: Callable[[str], None] | None = None) -> Trial:
    """Simulate so many replicas, or a part of them with its share of the load.

    Where that leaves a promise unresolved, it is simulated again over more requests: they cost less
    than a replica.
    """
    if tell is not None:
        tell(f"{replicas} × {asked}")
    trial = _trial(asked, replicas, asked.requests)
    for times in AGAIN:
        if trial.verdict != "unresolved" or trial.finish_s is not None:
            break
        trial = _trial(asked, replicas, asked.requests * times)
    return trial


def _trial(asked: TrialAsked, replicas: int, requests: int) -> Trial:
    load = asked.question.workload.load
    assert load is not None  # noqa: S101 — without a load nothing is asked to be proven
    part = min(replicas, PART_REPLICAS)
    if isinstance(load, Batch):
        part = min(part, max(round(requests * replicas / load.requests), 1))
        requests = min(requests, math.ceil(load.requests * part / replicas))
    of_part = scaled_load(load, part / replicas)
    workload = replace(asked.question.workload, load=of_part)
    scene = scene_on(
        replace(asked.question, workload=workload),
        SimulationOptions(requests=requests, seed=asked.seed),
        candidate=asked.candidate,
        deployment=asked.deployment,
        replicas=part,
    )
    if asked.kv_budget_fraction is not None:
        scene = _within_budget(scene, asked)
    simulated = simulate(
        scene.fleet, scene.requests, scene.clients, seed=scene.seed, compiled=asked.compiled
    )
    summary = summarise(
        simulated,
        () if isinstance(load, Batch) else scene.promises,
        counted=scene.counted,
        network_s=workload.network_s,
    )
    finish_s = None
    if isinstance(of_part, Batch):
        done = batch_done((simulated,), of_part)
        finish_s, verdict = done.finish, done.verdict
    else:
        verdict = _worst(summary)
    return Trial(
        replicas=replicas,
        simulated_replicas=part,
        load=load,
        verdict=verdict,
        summary=summary,
        latency=_figures(simulated, summary, scene.fleet.engine, part),
        finish_s=finish_s,
    )


def _within_budget(scene: Scene, asked: TrialAsked) -> Scene:
    """The scene with no more cache than the share of the memory that the scenario may fill."""
    assert asked.kv_budget_fraction is not None  # noqa: S101 — the caller looked
    overhead = stated_overhead_bytes_per_gpu(asked.question, asked.candidate)
    offered = engine_pool_bytes(asked.deployment, runtime_overhead_bytes_per_gpu=overhead)
    budget = memory_budget(
        asked.deployment,
        kv_budget_fraction=asked.kv_budget_fraction,
        runtime_overhead_bytes_per_gpu=overhead,
    )
    share = min(budget.kv_bytes / offered, 1.0)
    pool = scene.fleet.engine.kv
    engine = replace(
        scene.fleet.engine, kv=replace(pool, units=max(math.floor(pool.units * share), 1))
    )
    return replace(scene, fleet=replace(scene.fleet, engine=engine))


# ── verdicts ────────────────────────────────────────────────────────────────────────────────────


def _worst(summary: Summary) -> Verdict:
    """The worst of all promises; a fleet that does not keep up misses them."""
    verdicts = {each.verdict for each in summary.attainments}
    if not summary.stability.stable or "missed" in verdicts:
        return "missed"
    return "unresolved" if "unresolved" in verdicts else "kept"


# ── figures ─────────────────────────────────────────────────────────────────────────────────────


def _figures(
    simulated: Simulated, summary: Summary, engine: EngineModel, replicas: int
) -> LatencyFigures:
    """The run as an operating point of one replica; its utilisation is not known here.

    Without a steady state there are no percentiles.
    """
    stable = summary.stability.stable
    percentiles: dict[str, float | None] = {}
    for name, found in summary.distributions.items():
        known = found.percentiles if found is not None and stable else None
        for p in PERCENTILES:
            percentiles[f"{name}_p{p:g}_s"] = known[p].value if known is not None else None
    offered = summary.offered_requests_per_s
    begin_s, end_s = summary.window_s
    at_s = simulated.timeline.at_s
    steady = (at_s >= begin_s) & (at_s <= max(end_s, begin_s))
    if not steady.any():
        steady = np.ones(len(at_s), dtype=bool)
    return LatencyFigures(
        percentiles=percentiles,
        utilisation=math.nan,
        running=float(simulated.timeline.running[steady].mean()) / replicas,
        waiting=float(simulated.timeline.waiting[steady].mean()) / replicas,
        requests_per_s=math.nan if offered is None else offered / replicas,
        kv_fraction=float(simulated.timeline.kv_fraction[steady].mean()),
        evidence=engine.table.evidence,
        regime="" if stable else summary.stability.explanation,
    )


# ── many at once ────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True, kw_only=True)
class Runner:
    """Runs independent tasks in an executor, or here one after the other, and counts simulations.

    `progress` is told before each simulation, or after each task that came back from elsewhere.
    """

    executor: Executor | None = None
    progress: Callable[[ProofProgress], None] | None = None
    simulations: int = 0

    def hunts(self, hunts: Sequence[Hunt]) -> list[Hunted]:
        """What each hunt finds, in their order."""
        if self.executor is None:
            return [hunt_fewest(hunt, self._tell) for hunt in hunts]
        found: dict[int, Hunted] = {}
        for number, hunted in spread(self.executor, hunt_fewest, hunts):
            found[number] = hunted
            self._tell(str(hunts[number].asked), len(hunted.tried))
        return [found[number] for number in range(len(hunts))]

    def trials(self, asked: TrialAsked, counts: Sequence[int]) -> list[Trial]:
        """A trial of each number of replicas, in their order."""
        trial = partial(run_trial, asked)
        if self.executor is None:
            return [trial(count, self._tell) for count in counts]
        found: dict[int, Trial] = {}
        for number, each in spread(self.executor, trial, counts):
            found[number] = each
            self._tell(f"{each.replicas} × {asked}")
        return [found[number] for number in range(len(counts))]

    def _tell(self, now: str, simulations: int = 1) -> None:
        if self.progress is not None:
            self.progress(ProofProgress(simulations=self.simulations, now=now))
        self.simulations += simulations
