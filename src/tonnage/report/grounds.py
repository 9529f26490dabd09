"""What the answer rests on: assumptions, demand steps, memory, latency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tonnage import units
from tonnage.evidence import Evidence
from tonnage.fleet import (
    MemoryFigures,
    Plan,
    Scenario,
    Sensitivity,
    StatedInput,
)
from tonnage.queueing import LatencyFigures
from tonnage.report import (
    Block,
    Cell,
    Column,
    Prose,
    Section,
    Table,
)
from tonnage.report.figures import (
    METRIC_NAMES,
    METRICS,
    UNKNOWN,
    format_figure,
    format_mean_count,
    kept,
    latency_s,
    plural,
    promise_words,
)
from tonnage.workload import Promise

BAR_CELLS = 20


def _moves(sensitivity: Sensitivity) -> bool:
    return {sensitivity.gpus_low, sensitivity.gpus_high} != {sensitivity.gpus_base}


def assumed_section(plan: Plan) -> Section | None:
    """Inputs nobody stated: first those that move the answer, then the rest."""
    moving = [each for each in plan.sensitivities if _moves(each)]
    named = {each.key for each in moving}
    others = [
        each
        for each in plan.question.inputs
        if each.evidence is Evidence.ASSUMED and each.key not in named
    ]
    blocks: list[Block] = []
    if moving:
        blocks.append(
            Table(
                title=f"Not told, and {_gpus(moving[0].gpus_base)} depend on it"
                + (" (by the closed form):" if _proven(plan) else ":"),
                columns=(
                    Column("input"),
                    Column("at half"),
                    Column("as assumed"),
                    Column("half as much again"),
                ),
                rows=tuple(
                    (
                        Cell(each.key, "strong"),
                        Cell(f"{each.low_text}\n{_gpus(each.gpus_low)}"),
                        Cell(f"{each.text}\n{_gpus(each.gpus_base)}"),
                        Cell(f"{each.high_text}\n{_gpus(each.gpus_high)}"),
                    )
                    for each in moving
                ),
            )
        )
    tried = {each.key for each in plan.sensitivities} - named
    still = [each for each in others if each.key in tried]
    if still:
        base = _gpus(plan.sensitivities[0].gpus_base)
        if _proven(plan):
            base += " by the closed form"
        blocks.append(Prose(f"{base} at half and at half as much again of: {_listed(still)}."))
    rest = [each for each in others if each.key not in tried]
    if rest:
        blocks.append(Prose(f"Taken without being told: {_listed(rest)}.", "quiet"))
    return Section(id="assumed", title="Assumed", blocks=tuple(blocks)) if blocks else None


def _proven(plan: Plan) -> bool:
    return plan.proof is not None and plan.proof.verdict is not None


def _listed(inputs: Sequence[StatedInput]) -> str:
    return " · ".join(f"{each.key} {each.text}" for each in inputs)


def _gpus(count: int | None) -> str:
    return "none fits" if count is None else plural(count, "GPU")


def demand_section(plan: Plan) -> Section | None:
    """The arithmetic from what was told to the load; None without steps."""
    steps = plan.question.workload.steps
    if not steps:
        return None
    table = Table(
        columns=(
            Column("step"),
            Column("arithmetic", prose=True),
            Column("result", "right"),
            Column("evidence"),
        ),
        rows=tuple(
            (
                Cell(step.name),
                Cell(step.formula),
                Cell(format_figure(step.value, step.unit), "strong", step.value),
                Cell(step.evidence.label, "quiet"),
            )
            for step in steps
        ),
    )
    return Section(id="demand", title="From what you told to the load", blocks=(table,))


def memory_section(plan: Plan) -> Section | None:
    """What is on one GPU, and what a session takes."""
    scenario = plan.scenario("recommended")
    memory = scenario.memory
    whole = memory.gpu_memory_bytes
    parts = (
        ("weights", memory.weights_bytes_per_gpu, "the model itself"),
        ("activations", memory.activations_bytes_per_gpu, "working space of one step"),
        ("runtime", memory.runtime_bytes_per_gpu, "context, buffers, graphs"),
        ("KV cache", memory.kv_pool_bytes_per_gpu, "where sessions live"),
    )
    free = whole - sum(size for _, size, _ in parts)
    rows = [*parts, ("left free", max(free, 0.0), "not the engine's")]
    table = Table(
        title=(
            f"One {plan.deployment.gpu.name if plan.deployment else 'GPU'}"
            f" with {units.format_bytes(whole)}, recommended scenario:"
        ),
        columns=(
            Column("part"),
            Column("size", "right"),
            Column("share", "right"),
            Column(""),
            Column("what it is", prose=True),
        ),
        rows=tuple(
            (
                Cell(name),
                Cell(units.format_bytes(size), "", size),
                Cell(units.format_fraction(size / whole if whole else None)),
                Cell(_bar(size / whole if whole else 0)),
                Cell(what, "quiet"),
            )
            for name, size, what in rows
        ),
    )
    return Section(id="memory", title="Memory", blocks=(table, _sessions_table(memory, scenario)))


def _bar(share: float) -> str:
    eighths = round(min(max(share, 0), 1) * BAR_CELLS * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + " ▏▎▍▌▋▊▉"[part]).strip()


def _sessions_table(memory: MemoryFigures, scenario: Scenario) -> Table:
    share = units.format_fraction(scenario.policy.kv_budget_fraction)
    rows: list[tuple[str, float | None, str, str]] = [
        ("kv_bytes_per_session", memory.kv_bytes_per_session, "bytes",
         f"KV cache of one session of {plural(round(memory.session_tokens), 'token')}"),
        ("kv_bytes_total", memory.kv_bytes_total, "bytes", "KV cache of all sessions at once"),
        ("kv_budget_bytes_per_server", memory.kv_budget_bytes_per_server, "bytes",
         f"KV cache the plan may fill on one server: {share} of what is left"),
        ("sessions_per_server", memory.sessions_per_server, "", "such sessions on one server"),
    ]  # fmt: skip
    return Table(
        title="Sessions and their cache:",
        columns=(Column("figure"), Column("value", "right"), Column("meaning", prose=True)),
        rows=tuple(
            (Cell(name), Cell(format_figure(value, unit), "strong", value), Cell(meaning, "quiet"))
            for name, value, unit, meaning in rows
        ),
    )


def latency_table(figures: LatencyFigures, promises: Sequence[Promise]) -> Table:
    """p50, p95 and p99 of every metric that has one, beside its promise."""
    shown = sorted({50.0, 95.0, 99.0, *(promise.percentile for promise in promises)})
    rows = []
    for metric in METRICS:
        values = [latency_s(figures, metric, percentile) for percentile in shown]
        if all(value is None for value in values):
            continue
        promised = [promise for promise in promises if promise.metric == metric]
        rows.append(
            (
                Cell(METRIC_NAMES[metric]),
                *(Cell(units.format_time(value), "", value) for value in values),
                Cell(
                    ", ".join(promise_words(promise).split(" ", 1)[1] for promise in promised)
                    or UNKNOWN
                ),
                _kept_cell(promised, figures),
            )
        )
    return Table(
        columns=(
            Column(""),
            *(Column(f"p{percentile:g}", "right") for percentile in shown),
            Column("promise", "right"),
            Column("slack", "right"),
        ),
        rows=tuple(rows),
    )


def _kept_cell(promised: Iterable[Promise], figures: LatencyFigures) -> Cell:
    """The least slack among the promises of one metric."""
    slacks = [
        1 - value / promise.limit_s
        for promise in promised
        if (value := latency_s(figures, promise.metric, promise.percentile)) is not None
    ]
    if not slacks:
        return Cell("")
    slack = min(slacks)
    broken = any(kept(promise, figures) is False for promise in promised)
    return Cell(
        units.format_fraction(slack) + (" ✗" if broken else ""), "bad" if broken else "good"
    )


def latency_section(plan: Plan) -> Section | None:
    """Percentiles against promises; None when only memory was sized."""
    figures = plan.scenario("recommended").latency
    if figures is None:
        return None
    busy, running, waiting = (
        units.format_fraction(figures.utilisation),
        format_mean_count(figures.running),
        format_mean_count(figures.waiting),
    )
    told = (
        f"Recommended scenario, all replicas up; each {busy} busy, with {running} requests running"
        f" and {waiting} waiting on average. Evidence: {figures.evidence.label}"
        + (" step times, simulated." if _proven(plan) else ".")
    )
    blocks: list[Block] = [
        latency_table(figures, plan.question.workload.promises),
        Prose(told, "quiet"),
    ]
    if figures.regime:
        blocks.append(Prose(f"Outside the formula's range: {figures.regime}"))
    return Section(id="latency", title="Latency", blocks=tuple(blocks))
