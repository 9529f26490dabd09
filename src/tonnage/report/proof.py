"""A proven plan -> what the simulations say: counts, promises, what is left when units fail.

Closed form and simulation stand side by side: where they differ, the difference is the news.
"""

from __future__ import annotations

from collections.abc import Sequence

from tonnage import units
from tonnage.fleet import Plan, Proof, Scenario, ScenarioProof, Trial
from tonnage.queueing.simulation import Attainment, Verdict
from tonnage.report import Block, Cell, Column, Prose, Section, Table, Tone
from tonnage.report.figures import METRIC_NAMES, METRICS, latency_s, plural, promise_words
from tonnage.report.simulation_words import sentence, with_interval
from tonnage.workload import Batch, ClosedLoad, OpenLoad

VERDICT_TONES: dict[Verdict, Tone] = {"kept": "good", "missed": "bad", "unresolved": "strong"}


def proof_words(plan: Plan) -> tuple[str, ...]:
    """The headline's line on the proof; none for a plan that was not to be proven."""
    proof = plan.proof
    if proof is None:
        return ()
    if proof.verdict is None:
        return (f"Not proven: {proof.unproven}. This is the closed form's answer.",)
    scenario = plan.scenario("recommended").proof
    if scenario is None:
        return ()
    reached = "; ".join(
        _reached_words(scenario.design, each) for each in scenario.design.summary.attainments
    )
    reached = reached or _finish_words(scenario.design)
    told = {
        "kept": "Proven by simulation, every promise kept",
        "unresolved": "Unresolved by simulation, so nothing is proven",
        "missed": "Missed in simulation",
    }[proof.verdict]
    headroom = units.format_fraction(plan.scenario("recommended").policy.headroom_fraction)
    at = f"at {_load_words(scenario.design)}, {headroom} headroom included"
    return (f"{told}: {reached}, {at}", *((proof.advice,) if proof.advice else ()))


def _load_words(trial: Trial) -> str:
    match trial.load:
        case OpenLoad() as load:
            return units.format_amount(load.requests_per_s_peak, "requests/s")
        case ClosedLoad() as load:
            return plural(load.clients, "client")
        case Batch() as load:
            return plural(load.requests, "request")


def _reached_words(trial: Trial, each: Attainment) -> str:
    label = promise_words(each.promise).partition(" ≤ ")[0]
    if each.reached is None or not trial.summary.stability.stable:
        return f"{label} overload"
    return f"{label} {with_interval(each.reached)} of {units.format_time(each.promise.limit_s)}"


def _finish_words(trial: Trial) -> str:
    if trial.finish_s is None or not isinstance(trial.load, Batch):
        return "it keeps up"
    return f"done in {with_interval(trial.finish_s)} of {units.format_time(trial.load.deadline_s)}"


def proof_section(plan: Plan) -> Section | None:
    """What was simulated; None when nothing was."""
    proof = plan.proof
    if proof is None or proof.verdict is None:
        return None
    proven = [(s, s.proof) for s in plan.scenarios if s.proof is not None]
    blocks: list[Block] = []
    if proven:
        blocks += [_counts(proven), _losses(proven)]
    blocks.append(Prose(_effort(proof), "quiet"))
    return Section(id="proof", title="What the simulation says", blocks=tuple(blocks))


def _counts(proven: Sequence[tuple[Scenario, ScenarioProof]]) -> Table:
    """How many replicas each scenario needs, by closed form and by simulation, and why."""
    promises = [each.promise for each in proven[0][1].design.summary.attainments]
    columns = [Column(promise_words(promise), "right") for promise in promises]
    if not promises:
        columns = [Column("done in" if proven[0][1].design.finish_s else "keeps up", "right")]
    return Table(
        title="Replicas for the load with headroom (simulated: in units that are bought whole), "
        "and what is bought:",
        columns=(
            Column("scenario"),
            Column("closed form", "right"),
            Column("simulation", "right"),
            *columns,
            Column("verdict"),
        ),
        rows=tuple(
            (
                Cell(scenario.name, "strong" if scenario.name == "recommended" else ""),
                _count_cell(proof.closed_form_replicas, proof.closed_form_gpus, ""),
                _count_cell(proof.design.replicas, scenario.gpus, "strong"),
                *_reached_cells(proof.design),
                _verdict_cell(proof.design),
            )
            for scenario, proof in proven
        ),
        turns=True,
    )


def _count_cell(replicas: int | None, gpus: int | None, tone: Tone) -> Cell:
    if replicas is None or gpus is None:
        return Cell("none", tone)
    return Cell(f"{replicas}: {plural(gpus, 'GPU')}", tone, gpus)


def _reached_cells(trial: Trial) -> list[Cell]:
    """What every promise came to, or when a batch was done."""
    if not trial.summary.attainments:
        return [Cell("–" if trial.finish_s is None else with_interval(trial.finish_s))]
    return [
        Cell("overload")
        if each.reached is None or not trial.summary.stability.stable
        else Cell(with_interval(each.reached), "", each.reached.value)
        for each in trial.summary.attainments
    ]


def _verdict_cell(trial: Trial) -> Cell:
    return Cell(trial.verdict, VERDICT_TONES[trial.verdict])


def _losses(proven: Sequence[tuple[Scenario, ScenarioProof]]) -> Table:
    """What p95 becomes when units are lost, at the load as stated."""
    unit = proven[0][1].unit
    columns = [Column(f"{METRIC_NAMES[metric]} p95", "right") for metric in METRICS]
    if isinstance(proven[0][1].stated.load, Batch):
        columns = [Column("done in", "right")]
    rows = []
    for scenario, proof in proven:
        trials = (proof.stated, *proof.lost)
        names = ("all up", f"1 {unit} lost", f"2 {unit}s lost")
        for name, trial in zip(names, trials, strict=True):
            tone: Tone = "strong" if scenario.name == "recommended" else ""
            if trial is None:
                rows.append(
                    (Cell(scenario.name, tone), Cell(name), Cell("none left", "bad"))
                    + (Cell("–"),) * len(columns)
                    + (Cell("missed", "bad"),)
                )
                continue
            rows.append(
                (
                    Cell(scenario.name, tone),
                    Cell(name),
                    Cell(str(trial.replicas), "", trial.replicas),
                    *(
                        _reached_cells(trial)
                        if isinstance(trial.load, Batch)
                        else _latency_cells(trial)
                    ),
                    _verdict_cell(trial),
                )
            )
    return Table(
        title="The load as stated, when units fail:",
        columns=(
            Column("scenario"),
            Column("state"),
            Column("replicas", "right"),
            *columns,
            Column("verdict"),
        ),
        rows=tuple(rows),
    )


def _latency_cells(trial: Trial) -> list[Cell]:
    if not trial.summary.stability.stable:
        growth = units.format_number(trial.growth_requests_per_s)
        return [Cell("overload", "bad"), Cell(f"+{growth}/s", "bad"), Cell("–")]
    values = [latency_s(trial.latency, metric) for metric in METRICS]
    return [Cell(units.format_time(value), "", value) for value in values]


def _effort(proof: Proof) -> str:
    """How many simulations, and what they took for granted."""
    effort = (
        f"{plural(proof.simulations, 'simulation')} of {proof.requests:,} requests that count, "
        f"seed {proof.seed}; more requests where that left a promise unresolved."
    )
    return " ".join((effort, *(sentence(note) for note in proof.notes)))


def options_section(plan: Plan) -> Section | None:
    """Every option of the shortlist with what was tried; None when nothing was proven."""
    if plan.proof is None or not plan.proof.options:
        return None
    table = Table(
        columns=(
            Column("option"),
            Column("closed form", "right"),
            Column("simulation", "right"),
            Column("what was simulated", prose=True),
        ),
        rows=tuple(
            (
                Cell(each.option),
                Cell(plural(each.closed_form_gpus, "GPU"), "", each.closed_form_gpus),
                Cell("–" if each.gpus is None else plural(each.gpus, "GPU"), "", each.gpus),
                Cell(each.outcome),
            )
            for each in plan.proof.options
        ),
    )
    return Section(id="proof_options", title="Every option simulated", blocks=(table,), detail=True)
