"""Study -> Plan. Read me first: the whole tool, without arithmetic.

    a study (YAML, flags, six answers)
      └─ study      told and assumed inputs, every step of the demand     -> Question
          └─ fleet  every GPU kind × TP × PP × EP × dtypes
              ├─ performance   what one replica holds, how long its steps take
              ├─ queueing      step times × load -> latency percentiles
              ├─ search, scenarios, rejections, alerts                    -> Plan
              └─ proof   the same, each fleet simulated, also with losses -> Plan
                  └─ report    text, JSON, Markdown

    a study and a fleet, or a trace
      └─ fleet    replicas and requests                                   -> Scene
          └─ queueing.simulation   every step of every engine             -> SimulationAnswer

    a study and load tests
      └─ measurement  levels -> the curve of one copy                     -> LatencyCurve
          └─ fleet    the best level, and how many copies                 -> MeasuredPlan

Follow the imports down: each names the stage that does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tonnage.catalog.loader import Catalog, user_catalog_paths
from tonnage.errors import InputError, InputErrors, TonnageError, UsageError
from tonnage.evidence import Evidence
from tonnage.fleet import (
    BatchDone,
    Candidate,
    Capacity,
    Plan,
    ProofProgress,
    Question,
    Replication,
    Sensitivity,
    SimulationAnswer,
    SimulationOptions,
    StatedFleet,
    StatedInput,
)
from tonnage.fleet.capacity import capacity_of
from tonnage.fleet.measured import MeasuredPlan, plan_measured
from tonnage.fleet.plan import plan_fleet, recommended_gpus
from tonnage.hardware import ServerSpec
from tonnage.measurement import Run
from tonnage.study.loader import Study, load_study, study_from_mapping
from tonnage.study.measured import ask_of_copies
from tonnage.units import format_fraction, format_number, format_time

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from tonnage.queueing.simulation import Simulated
    from tonnage.queueing.simulation.simulate import Progress

HALF, HALF_MORE = 0.5, 1.5  # what every assumed figure is tried at


def open_catalog(study: Study | None = None) -> Catalog:
    """The packaged catalog, the user's own files on top, those the study names last."""
    return Catalog.load((*user_catalog_paths(), *(study.overlays if study else ())))


def size(
    asked: Study | Question | Path | str | Mapping[str, object], catalog: Catalog | None = None
) -> Plan:
    """The smallest or cheapest fleet that keeps the promises, with reasons.

    `asked` is a study, the path of one, a mapping with a study's keys, or a question built by hand.
    Raises TonnageError for a mistake in it; a question that nothing can answer is a Plan with
    `infeasible` set.
    """
    if isinstance(asked, Path | str):
        asked = load_study(Path(asked))
    elif isinstance(asked, Mapping):
        asked = study_from_mapping(asked)
    if isinstance(asked, Question):
        return plan_fleet(asked)
    catalog = catalog or open_catalog(asked)
    plan = plan_fleet(asked.question(catalog))
    return replace(plan, sensitivities=sensitivities_of(asked, plan, catalog))


def prove(
    asked: Study | Question,
    catalog: Catalog | None = None,
    *,
    requests: int | None = None,
    seed: int = 0,
    compiled: bool | None = None,
    executor: Executor | None = None,
    progress: Callable[[ProofProgress], None] | None = None,
) -> Plan:
    """As `size`, but every number of replicas is decided by simulation, as is what failures leave.

    `requests` count in each simulation, 20,000 unless told. Independent ones are spread over
    `executor`; the answer is the same. `progress` is told how far it is.
    """
    from tonnage.fleet.proof import prove as prove_plan  # noqa: PLC0415 — sizing does without

    proven = partial(
        prove_plan,
        requests=requests,
        seed=seed,
        compiled=compiled,
        executor=executor,
        progress=progress,
    )
    if isinstance(asked, Question):
        return proven(asked)
    catalog = catalog or open_catalog(asked)
    plan = proven(asked.question(catalog), poisson_peak=_peak_is_poisson(asked))
    return replace(plan, sensitivities=sensitivities_of(asked, plan, catalog))


def size_measured(
    asked: Study, runs: Mapping[str, Run], catalog: Catalog | None = None
) -> MeasuredPlan:
    """The smallest or cheapest fleet of copies of what was measured, with reasons.

    `runs` maps where each was read to the run, whose `gpus` are one copy. Lengths that the study
    does not state are those of the first run. Raises TonnageError for a mistake in it.
    """
    question, copies = ask_of_copies(asked, runs, catalog or open_catalog(asked))
    daily = asked.document.workload.daily_users
    return plan_measured(
        question,
        copies,
        requests_per_user_per_day=daily.requests_per_user if daily else None,
        active_s_per_day=asked.document.workload.active_hours,
    )


def capacity(asked: Study, fleet: StatedFleet, catalog: Catalog | None = None) -> Capacity:
    """The question turned round: what `fleet` carries of the study's calls, promises kept."""
    catalog = catalog or open_catalog(asked)
    question = asked.question(catalog)
    if len(question.models) > 1:
        raise UsageError(
            "capacity answers for one model at a time; the study has several.",
            hint="Give one with --model, or size the chain with tonnage size.",
        )
    daily, peak = asked.document.workload.daily_users, asked.document.workload.peak
    return capacity_of(
        question,
        _owned(fleet, catalog),
        fleet,
        requests_per_user_per_day=daily.requests_per_user if daily else None,
        active_s_per_day=asked.document.workload.active_hours,
        peak_factor=peak.factor if peak else None,
    )


def _owned(fleet: StatedFleet, catalog: Catalog) -> Candidate:
    """The hardware a stated fleet is made of: servers by name, else GPUs one by one."""
    server: ServerSpec | None = None
    whole = True
    try:
        server = catalog.server(fleet.name)
        gpu = catalog.gpu(server.gpu)
    except TonnageError:
        gpu = catalog.gpu(fleet.name)
        server, whole = catalog.default_server(gpu.name), False
    return Candidate(
        gpu=gpu, server=server, calibration=catalog.calibration(gpu), whole_servers=whole
    )


def simulate(
    asked: Study,
    options: SimulationOptions,
    catalog: Catalog | None = None,
    *,
    executor: Executor | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SimulationAnswer:
    """What every request of the study's load, or of a trace, would have felt on a fleet.

    The fleet is `options.fleet`, or what `size` recommends. Seeds, and replicas that do not depend
    on each other, are spread over `executor`; the answer is the same. `progress` is told how far it
    is. Raises TonnageError for what cannot be asked or does not fit.
    """
    from tonnage.fleet.batches import batch_done, batch_of  # noqa: PLC0415 — sizing does without
    from tonnage.fleet.simulated import replicated, scene_of  # noqa: PLC0415 — sizing does without
    from tonnage.queueing.simulation.shards import Run, simulate_all  # noqa: PLC0415 — as above
    from tonnage.queueing.simulation.statistics import summarise_together  # noqa: PLC0415 — as above

    catalog = catalog or open_catalog(asked)
    question = asked.question(catalog)
    poisson_peak = _peak_is_poisson(asked)
    scene = scene_of(
        question,
        options,
        owned=_owned(options.fleet, catalog) if options.fleet is not None else None,
        poisson_peak=poisson_peak,
    )
    scenes = replicated(scene, question, options, poisson_peak=poisson_peak)
    runs = simulate_all(
        [
            Run(fleet=each.fleet, requests=each.requests, clients=each.clients, seed=each.seed)
            for each in scenes
        ],
        executor,
        compiled=options.compiled,
        progress=progress,
    )
    told_of = partial(
        summarise_together,
        promises=scene.promises,
        counted=scene.counted,
        network_s=question.workload.network_s,
        recorded=scene.recorded,
        cyclic=scene.cyclic,
    )
    batch = batch_of(question, options)

    def done(*runs: Simulated) -> BatchDone | None:
        return batch_done(runs, batch) if batch is not None else None

    replications = tuple(
        Replication(seed=each.seed, simulated=run, summary=told_of((run,)), done=done(run))
        for each, run in zip(scenes, runs, strict=True)
    )
    return SimulationAnswer(
        scene=scenes[0],
        simulated=runs[0],
        summary=told_of(runs),
        done=done(*runs),
        replications=replications if options.seeds > 1 else (),
    )


def _peak_is_poisson(asked: Study) -> bool:
    """Whether the peak of the load is derived as a percentile of a Poisson stream of its mean."""
    workload = asked.document.workload
    if workload.peak_request_rate is not None:
        return False
    return workload.peak is None or workload.peak.factor is None


def sensitivities_of(study: Study, plan: Plan, catalog: Catalog) -> tuple[Sensitivity, ...]:
    """Every assumed figure at half and at one and a half, those that move the answer most first.

    All of it in closed form. The chosen arrangement is kept, so that the answer moves for one
    reason only.
    """
    if plan.deployment is None:
        return ()
    base = plan.scenario("recommended").gpus if plan.scenarios else None
    if plan.proof is not None:  # what moves is the closed form's answer
        base = recommended_gpus(plan.question, plan)
    assumed = [
        told
        for told in plan.question.inputs
        if told.evidence is Evidence.ASSUMED and told.value is not None
    ]
    found = [_tried(study, told, plan, catalog, base) for told in assumed]
    return tuple(sorted(found, key=lambda s: -_swing(s)))


def _tried(
    study: Study, told: StatedInput, plan: Plan, catalog: Catalog, base: int | None
) -> Sensitivity:
    answers: list[tuple[int | None, str]] = []
    for factor in (HALF, HALF_MORE):
        value = study.nearest_value(told.key, (told.value or 0.0) * factor)
        try:
            question = study.with_value(told.key, value).question(catalog)
        except (InputError, InputErrors):
            answers.append((None, "not allowed"))
            continue
        answers.append((recommended_gpus(question, plan), _said(told, value)))
    (low, low_text), (high, high_text) = answers
    return Sensitivity(
        key=told.key,
        text=told.text,
        gpus_low=low,
        gpus_base=base,
        gpus_high=high,
        low_text=low_text,
        high_text=high_text,
    )


def _said(told: StatedInput, value: float) -> str:
    """`value` of an input in the words it was told in."""
    if told.unit == "s":
        return format_time(value)
    if told.text.endswith("%"):
        return format_fraction(value)
    return f"{format_number(value)} {told.unit}".strip()


def _swing(sensitivity: Sensitivity) -> float:
    """How far the answer moves; an input that makes it impossible moves it most."""
    if sensitivity.gpus_base is None:
        return 0.0
    return max(
        abs(gpus - sensitivity.gpus_base) if gpus is not None else float("inf")
        for gpus in (sensitivity.gpus_low, sensitivity.gpus_high)
    )
