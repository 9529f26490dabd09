"""A Plan -> a Report: the answer first, then what it rests on, then why not the others.

One short function per section, in the order they are read. Nothing is computed here that the plan
does not state, except sums over pools and what a promise says about a percentile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tonnage import units
from tonnage.evidence import Evidence
from tonnage.fleet import (
    Alert,
    Constraint,
    MemoryFigures,
    Plan,
    PoolPlan,
    Rejection,
    Scenario,
    Sensitivity,
    Severity,
    StatedInput,
)
from tonnage.queueing import LatencyFigures
from tonnage.report import (
    Block,
    Cell,
    Column,
    Commands,
    Headline,
    Notice,
    Prose,
    Report,
    Section,
    Table,
    Tone,
    dictionary,
)
from tonnage.report.figures import (
    METRIC_NAMES,
    METRICS,
    UNKNOWN,
    arrangement,
    fleet_words,
    format_figure,
    format_mean_count,
    kept,
    latency_s,
    plural,
    promise_words,
    server_of,
    survival_words,
)
from tonnage.report.json import plan_data
from tonnage.workload import Batch, ClosedLoad, OpenLoad, Promise

MANY_REJECTIONS = 12  # above this, one per kind of GPU in words; all of them in JSON
FAR_SLACK = 0.5  # a constraint with more slack than this is not worth a sentence
BAR_CELLS = 20
LONG_COMMAND = 60  # characters; a longer one is not repeated in every suggestion
TOLD_ABOVE = "assumed_inputs"  # an alert that a section of its own says in full

_FATES = {
    "memory": "too large for their GPUs",
    "arrangement": "not possible",
    "promises": "unable to keep the promises at any load",
    "bounded": "ruled out by a bound",
    "evaluated": "evaluated in full",
    "limits": "over a limit",
}


def report_plan(plan: Plan, *, command: str = "tonnage size study.yaml") -> Report:
    """The report of `plan`; `command` is what was typed, to suggest the next one."""
    if plan.infeasible is not None:
        sections = [_unreachable(plan), _assumed(plan), _demand(plan), _rejected(plan)]
    else:
        sections = [
            _standing(plan),
            _assumed(plan),
            _demand(plan),
            _scenarios(plan),
            _pools(plan),
            _memory(plan),
            _latency(plan),
            _binding(plan),
            _rejected(plan),
        ]
    sections += [_alerts(plan), _next(plan, command), _inputs(plan), _derivations(plan)]
    sections.append(dictionary_section())
    return Report(
        title=_title(plan),
        subtitle=_asked(plan),
        headline=_headline(plan),
        sections=tuple(section for section in sections if section is not None),
        data=plan_data(plan),
    )


# ── what was asked, and the answer ──────────────────────────────────────────────────────────────


def _title(plan: Plan) -> str:
    models = " + ".join(dict.fromkeys(model.name for model in plan.question.models.values()))
    return " · ".join(dict.fromkeys(part for part in (plan.question.name, models) if part))


def _asked(plan: Plan) -> tuple[str, ...]:
    """The load and the promises, in one line each."""
    workload = plan.question.workload
    promises = ", ".join(promise_words(promise) for promise in workload.promises)
    return tuple(line for line in (_load_words(plan), promises and f"Promises: {promises}") if line)


def _load_words(plan: Plan) -> str:
    workload = plan.question.workload
    match workload.load:
        case OpenLoad() as load:
            mean, peak = load.requests_per_s_mean, load.requests_per_s_peak
            if mean == peak:
                return f"Load: {format_figure(peak, 'requests/s')}"
            return (
                f"Load: {format_figure(mean, 'requests/s')} on average,"
                f" {format_figure(peak, 'requests/s')} at peak"
            )
        case ClosedLoad() as load:
            think = units.format_time(load.think_time_s)
            wait = f", each thinking {think} between answers" if load.think_time_s else ""
            return f"Load: {plural(load.clients, 'client')} waiting for their answers{wait}"
        case Batch() as load:
            deadline = units.format_time(load.deadline_s)
            return f"Load: {plural(load.requests, 'request')} within {deadline}"
    context = plural(workload.context_tokens or 0, "token")
    return f"Load: {plural(workload.sessions or 0, 'resident session')} of {context}; memory only"


def _headline(plan: Plan) -> Headline:
    if plan.infeasible is not None:
        return Headline(label="No answer", answer=plan.infeasible.reason, tone="bad")
    scenario = plan.scenario("recommended")
    cost = (
        UNKNOWN if scenario.usd_per_hour is None else format_figure(scenario.usd_per_hour, "usd/h")
    )
    facts = ["no price known" if cost == UNKNOWN else cost]
    facts += [
        f"{METRIC_NAMES[metric]} p95 {units.format_time(value)}"
        for metric in METRICS
        if (value := latency_s(scenario.latency, metric)) is not None
    ]
    facts.append(survival_words(scenario))
    return Headline(
        label="Recommended",
        answer=fleet_words(plan, scenario),
        facts=tuple(facts),
        notes=_how_sure(plan, scenario),
    )


def _how_sure(plan: Plan, scenario: Scenario) -> tuple[str, ...]:
    """What the answer is made of, what it rests on, and how far it may move."""
    chosen = "; ".join(
        f"{arrangement(pool)}, KV cache {pool.deployment.kv_dtype}"
        + (f", {pool.model}" if len(scenario.pools) > 1 else "")
        for pool in scenario.pools
    )
    counts = [
        count
        for each in plan.sensitivities
        for count in (each.gpus_low, each.gpus_base, each.gpus_high)
        if count is not None
    ]
    sure = f"Evidence: {scenario_evidence(scenario).label}"
    if counts and min(counts) != max(counts):
        sure += (
            f" · {min(counts)} – {max(counts)} GPUs if one assumed input is off by half"
            " · measure to get an interval"
        )
    elif scenario.latency is not None and scenario.latency.evidence < Evidence.MEASURED:
        sure += " · no interval until it is measured"
    return (f"{chosen} · chosen by {plan.objective}: {plan.objective_reason}", sure)


def scenario_evidence(scenario: Scenario) -> Evidence:
    """What the GPU count rests on: the latency when there is one, else the weakest derivation."""
    if scenario.latency is not None:
        return scenario.latency.evidence
    return min((each.evidence for each in scenario.rationale), default=Evidence.MODELLED)


def _standing(plan: Plan) -> Section | None:
    standing = plan.standing
    if standing is None:
        return None
    sentence = standing.sentence[:1].upper() + standing.sentence[1:]
    blocks: list[Block] = [Prose(sentence, "strong")]
    missing = (
        plural(standing.add_servers, "server")
        if standing.add_servers
        else plural(standing.add_gpus, "GPU")
        if standing.add_gpus
        else ""
    )
    if missing and f"add {missing}" not in sentence:
        blocks.append(Prose(f"To reach the recommended scenario, add {missing}."))
    return Section(id="standing", title="What you have today", blocks=tuple(blocks))


def _unreachable(plan: Plan) -> Section | None:
    no = plan.infeasible
    if no is None:
        return None
    blocks: list[Block] = [Prose(f"Closest: {no.closest}")] if no.closest else []
    if no.relaxations:
        blocks.append(
            Table(
                title="The smallest single change that works:",
                columns=(Column("change", prose=True), Column("in the study"), Column("tried")),
                rows=tuple(
                    (
                        Cell(change.description, "strong"),
                        Cell(
                            f"{change.key}: {change.value}"
                            if isinstance(change.value, str)
                            and change.value not in change.description
                            else change.key
                        ),
                        Cell("works" if change.verified else "not tried", "quiet"),
                    )
                    for change in no.relaxations
                ),
            )
        )
    else:
        blocks.append(Prose("No single change was found that makes it possible: several must."))
    return Section(id="infeasible", title="What would have to change", blocks=tuple(blocks))


# ── what it rests on ────────────────────────────────────────────────────────────────────────────


def _moves(sensitivity: Sensitivity) -> bool:
    return {sensitivity.gpus_low, sensitivity.gpus_high} != {sensitivity.gpus_base}


def _assumed(plan: Plan) -> Section | None:
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
                title=f"Not told, and {_gpus(moving[0].gpus_base)} depend on it:",
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
        blocks.append(Prose(f"{base} at half and at half as much again of: {_listed(still)}."))
    rest = [each for each in others if each.key not in tried]
    if rest:
        blocks.append(Prose(f"Taken without being told: {_listed(rest)}.", "quiet"))
    return Section(id="assumed", title="Assumed", blocks=tuple(blocks)) if blocks else None


def _listed(inputs: Sequence[StatedInput]) -> str:
    return " · ".join(f"{each.key} {each.text}" for each in inputs)


def _gpus(count: int | None) -> str:
    return "none fits" if count is None else plural(count, "GPU")


def _demand(plan: Plan) -> Section | None:
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


def _memory(plan: Plan) -> Section | None:
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


# ── the scenarios ───────────────────────────────────────────────────────────────────────────────


def _scenarios(plan: Plan) -> Section | None:
    timed = any(scenario.latency is not None for scenario in plan.scenarios)
    metrics = _shown_metrics(plan)
    unit_lost = "server" if server_of(plan) is not None else "replica"
    columns = [Column("scenario")]
    if unit_lost == "server":
        columns.append(Column("servers", "right"))
    columns += [Column("GPUs", "right"), Column("replicas", "right")]
    if timed:
        columns += [Column(f"{METRIC_NAMES[metric]} p95", "right") for metric in metrics]
        columns += [Column("with 1 lost", "right"), Column("with 2 lost", "right")]
    columns += [
        Column("survives", "right"),
        Column("usd/h", "right"),
        *([Column("usd/M output tokens", "right")] if timed else []),
        Column("power", "right"),
        Column("rack units", "right"),
    ]
    rows = tuple(
        _scenario_row(plan, scenario, unit_lost=unit_lost, timed=timed)
        for scenario in plan.scenarios
    )
    blocks: list[Block] = [Table(columns=tuple(columns), rows=rows, turns=True)]
    if timed and len(plan.scenarios[0].pools) == 1:
        blocks.append(
            Prose(
                f"With {unit_lost}s lost: the {METRIC_NAMES[metrics[0]]} p95 that is left;"
                " ✗ where a promise breaks.",
                "quiet",
            )
        )
    return Section(id="scenarios", title="Scenarios side by side", blocks=tuple(blocks))


def _shown_metrics(plan: Plan) -> tuple[str, ...]:
    """TTFT and TPOT when answers are streamed, else the whole answer."""
    return (
        ("e2e",) if plan.question.workload.mode in {"sequential", "offline"} else ("ttft", "tpot")
    )


def _scenario_row(
    plan: Plan, scenario: Scenario, *, unit_lost: str, timed: bool
) -> tuple[Cell, ...]:
    tone: Tone = "strong" if scenario.name == "recommended" else ""
    cells = [Cell(scenario.name, tone)]
    if unit_lost == "server":
        cells.append(Cell(units.format_number(scenario.servers), tone, scenario.servers))
    cells.append(Cell(units.format_number(scenario.gpus), tone, scenario.gpus))
    several = len(scenario.pools) > 1
    cells.append(Cell(str(scenario.replicas) if several else arrangement(scenario.pools[0])))
    if timed:
        for metric in _shown_metrics(plan):
            value = latency_s(scenario.latency, metric)
            cells.append(Cell(units.format_time(value), "", value))
        cells += [_lost(plan, scenario, lost, unit_lost) for lost in (1, 2)]
    cells.append(Cell(_survives(scenario)))
    cells.append(Cell(units.format_usd(scenario.usd_per_hour), tone, scenario.usd_per_hour))
    if timed:
        per_million = scenario.usd_per_million_output_tokens
        cells.append(Cell(units.format_usd(per_million), "", per_million))
    cells.append(Cell(units.format_watts(scenario.power_watts), "", scenario.power_watts))
    cells.append(Cell(units.format_number(scenario.rack_units), "", scenario.rack_units))
    return tuple(cells)


def _survives(scenario: Scenario) -> str:
    if scenario.survives_servers:
        return plural(scenario.survives_servers, "server")
    return (
        plural(scenario.survives_replicas, "replica") if scenario.survives_replicas else "nothing"
    )


def _lost(plan: Plan, scenario: Scenario, lost: int, unit_lost: str) -> Cell:
    """What is left of the first shown metric with `lost` units gone."""
    survived = scenario.survives_servers if unit_lost == "server" else scenario.survives_replicas
    holds = (survived or 0) >= lost
    if len(scenario.pools) > 1:
        return Cell("kept" if holds else "✗", "" if holds else "bad")
    pool = scenario.pools[0]
    figures = pool.latency_one_lost if lost == 1 else pool.latency_two_lost
    if figures is None:
        return Cell("kept" if holds else "none left ✗", "" if holds else "bad")
    value = latency_s(figures, _shown_metrics(plan)[0])
    text = "overload" if value is None else units.format_time(value)
    return Cell(text if holds else f"{text} ✗", "" if holds else "bad", value)


def _pools(plan: Plan) -> Section | None:
    """One table per pool when a chain of calls uses several models."""
    if len(plan.scenario("recommended").pools) < 2:  # noqa: PLR2004 — several
        return None
    names = [pool.model for pool in plan.scenario("recommended").pools]
    tables = tuple(_pool_table(plan, name, position) for position, name in enumerate(names))
    return Section(id="pools", title="The pools of the chain", blocks=tables)


def _pool_table(plan: Plan, name: str, position: int) -> Table:
    pools: list[tuple[str, PoolPlan]] = [
        (scenario.name, scenario.pools[position]) for scenario in plan.scenarios
    ]
    return Table(
        title=name,
        turns=True,
        columns=(
            Column("scenario"),
            Column("replicas", "right"),
            Column("for the load", "right"),
            Column("GPUs", "right"),
            *(Column(f"{METRIC_NAMES[metric]} p95", "right") for metric in METRICS),
            Column("utilisation", "right"),
        ),
        rows=tuple(
            (
                Cell(scenario, "strong" if scenario == "recommended" else ""),
                Cell(arrangement(pool)),
                Cell(units.format_number(pool.replicas_for_load)),
                Cell(units.format_number(pool.replicas * pool.deployment.gpus)),
                *(Cell(units.format_time(latency_s(pool.latency, metric))) for metric in METRICS),
                Cell(units.format_fraction(pool.latency.utilisation if pool.latency else None)),
            )
            for scenario, pool in pools
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


def _latency(plan: Plan) -> Section | None:
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
        f" and {waiting} waiting on average. Evidence: {figures.evidence.label}."
    )
    blocks: list[Block] = [
        latency_table(figures, plan.question.workload.promises),
        Prose(told, "quiet"),
    ]
    if figures.regime:
        blocks.append(Prose(f"Outside the formula's range: {figures.regime}"))
    return Section(id="latency", title="Latency", blocks=tuple(blocks))


# ── what binds, and why not the others ──────────────────────────────────────────────────────────


def _binding(plan: Plan) -> Section | None:
    constraints = sorted(plan.constraints, key=_slack)
    if not constraints:
        return None
    table = Table(
        columns=(
            Column("constraint"),
            Column("used", "right"),
            Column("slack", "right"),
            Column("what it says", prose=True),
        ),
        rows=tuple(
            (
                Cell(each.name + (" ←" if each.binding else ""), "strong" if each.binding else ""),
                Cell(_used_words(each), "", each.used),
                Cell(
                    units.format_fraction(each.slack), "bad" if _slack(each) < 0 else "", each.slack
                ),
                Cell(each.explanation, "quiet"),
            )
            for each in constraints
        ),
    )
    return Section(
        id="binding",
        title="What binds",
        blocks=(Prose(_binding_words(constraints)), table, *_carries(plan)),
    )


def _carries(plan: Plan) -> tuple[Prose, ...]:
    """What one server and one GPU carry within the promises, to compare hardware by."""
    scenario = plan.scenario("recommended") if plan.scenarios else None
    if scenario is None or scenario.requests_per_s_per_server is None:
        return ()
    server = plan.candidate.server if plan.candidate else None
    per_server = units.format_number(scenario.requests_per_s_per_server)
    per_gpu = units.format_number(scenario.requests_per_s_per_gpu)
    return (
        Prose(
            f"Promises kept, one {server.name if server else 'group of 8 GPUs'} carries at most "
            f"{per_server} requests/s at peak: {per_gpu} per GPU.",
            "quiet",
        ),
    )


def _slack(constraint: Constraint) -> float:
    """Slack to sort by; what nothing is promised about is slackest."""
    return math.inf if constraint.slack is None else constraint.slack


def _binding_words(constraints: Sequence[Constraint]) -> str:
    """As "Memory binds (slack 8 %), then wait (slack 21 %). Throughput and capacity are far."."""

    def told(each: Constraint) -> str:
        return f"{each.name} (slack {units.format_fraction(each.slack)})"

    first, *rest = constraints
    near = [each for each in rest if _slack(each) <= FAR_SLACK]
    far = [each.name for each in rest if FAR_SLACK < _slack(each) < math.inf]
    words = f"{first.name.capitalize()} binds (slack {units.format_fraction(first.slack)})"
    if near:
        words += ", then " + ", ".join(told(each) for each in near)
    words += "."
    if far:
        verb = "is" if len(far) == 1 else "are"
        words += f" {_and(far).capitalize()} {verb} far."
    return words


def _used_words(each: Constraint) -> str:
    """As "2.6 of 6.1 requests/s": the unit once where both share it."""
    used, available = (format_figure(value, each.unit) for value in (each.used, each.available))
    if each.available is None:
        return used
    number, _, unit = used.partition(" ")
    return f"{number if unit and available.endswith(f' {unit}') else used} of {available}"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _rejected(plan: Plan) -> Section | None:
    blocks: list[Block] = []
    if plan.rejections:
        shown, hidden = _worth_telling(plan.rejections)
        blocks.append(_rejection_table(shown))
        if hidden:
            blocks.append(
                Prose(
                    f"The best arrangement of each GPU; {hidden} more are in the JSON report.",
                    "quiet",
                )
            )
    if plan.unpriced:
        shown, _ = _worth_telling(plan.unpriced)
        title = "No price is known for these, so they could not be compared by cost:"
        blocks.append(_rejection_table(shown, title))
    considered = sum(plan.considered.values())
    if considered:
        told = ", ".join(
            f"{count:,} {_FATES.get(fate, fate)}"
            for fate, count in plan.considered.items()
            if count
        )
        blocks.append(Prose(f"{considered:,} arrangements considered: {told}.", "quiet"))
    return (
        Section(id="rejections", title="Why not the others", blocks=tuple(blocks))
        if blocks
        else None
    )


def _worth_telling(rejections: Sequence[Rejection]) -> tuple[list[Rejection], int]:
    """All of a few; of many, the first of each kind of GPU. Second: how many are left out."""
    if len(rejections) <= MANY_REJECTIONS:
        return list(rejections), 0
    first_of_gpu = list({each.gpu: each for each in reversed(rejections)}.values())[::-1]
    return first_of_gpu, len(rejections) - len(first_of_gpu)


def _rejection_table(rejections: Sequence[Rejection], title: str = "") -> Table:
    return Table(
        title=title,
        columns=(
            Column("option"),
            Column("GPUs", "right"),
            Column("usd/h", "right"),
            Column("why not", prose=True),
        ),
        rows=tuple(
            (
                Cell(each.option),
                Cell(units.format_number(each.gpus), "", each.gpus),
                Cell(units.format_usd(each.usd_per_hour), "", each.usd_per_hour),
                Cell(each.reason + (f"\n→ {each.change.description}" if each.change else "")),
            )
            for each in rejections
        ),
    )


def all_alerts(plan: Plan) -> list[Alert]:
    """The plan's alerts and those of its scenarios, most severe first, each once."""
    every = [*plan.alerts, *(alert for scenario in plan.scenarios for alert in scenario.alerts)]
    order = {"critical": 0, "warning": 1, "info": 2}
    return sorted(dict.fromkeys(every), key=lambda alert: order[alert.severity])


def _alerts(plan: Plan) -> Section | None:
    """Alerts that say the same of several scenarios are told once."""
    scopes: dict[tuple[str, str, str, str], list[str]] = {}
    severities: dict[tuple[str, str, str, str], Severity] = {}
    for alert in all_alerts(plan):
        if alert.id == TOLD_ABOVE:
            continue
        key = (alert.id, alert.cause, alert.impact, alert.action)
        scopes.setdefault(key, []).append(alert.scenario)
        severities.setdefault(key, alert.severity)
    notices = tuple(
        Notice(
            severity=severities[key],
            cause=key[1],
            impact=key[2],
            action=key[3],
            scope=", ".join(scope for scope in dict.fromkeys(names) if scope not in {"", "all"}),
        )
        for key, names in scopes.items()
    )
    return Section(id="alerts", title="Alerts", blocks=notices) if notices else None


def _next(plan: Plan, command: str) -> Section:
    again = command if len(command) <= LONG_COMMAND else "tonnage size (the same)"
    rows = []
    if plan.infeasible is None:
        figures = [each.figure for each in plan.scenario("recommended").rationale]
        if figures:
            figure = "kv_bytes_per_session" if "kv_bytes_per_session" in figures else figures[0]
            rows.append((f"{again} --explain {figure}", "how that figure came about"))
        fleet = _fleet_argument(plan)
        if fleet and plan.question.workload.load is not None:
            turned = again.replace("tonnage size", "tonnage capacity", 1)
            rows.append((f'{turned} --fleet "{fleet}"', "the most that fleet carries"))
    rows.append((f"{again} -o plan.json", "the same answer for a program"))
    rows.append((f"{again} -o plan.md", "with every input and its derivation"))
    return Section(id="next", title="Next", blocks=(Commands(tuple(rows)),))


def _fleet_argument(plan: Plan) -> str:
    scenario, server = plan.scenario("recommended"), server_of(plan)
    if plan.deployment is None or len(scenario.pools) > 1:
        return ""
    name = server.name if server and scenario.servers else plan.deployment.gpu.name
    count = scenario.servers if server and scenario.servers else scenario.gpus
    return f"{count} x {name}:tp{plan.deployment.tensor_parallel}"


# ── detail: in documents, not on the screen ─────────────────────────────────────────────────────


def _inputs(plan: Plan) -> Section | None:
    if not plan.question.inputs:
        return None
    table = Table(
        columns=(
            Column("input"),
            Column("value", prose=True),
            Column("evidence"),
            Column("note", prose=True),
        ),
        rows=tuple(
            (Cell(each.key), Cell(each.text), Cell(each.evidence.label), Cell(each.note))
            for each in plan.question.inputs
        ),
    )
    return Section(id="inputs", title="Every input", blocks=(table,), detail=True)


def _derivations(plan: Plan) -> Section | None:
    if not plan.scenarios:
        return None
    rows = tuple(
        (
            Cell(each.figure),
            Cell(format_figure(each.value, each.unit), "strong", each.value),
            Cell(each.formula),
            Cell(", ".join(f"{symbol} = {value}" for symbol, value in each.inputs.items())),
            Cell(each.explanation),
            Cell(each.evidence.label),
        )
        for each in plan.scenario("recommended").rationale
    )
    columns = (
        Column("figure"),
        Column("value", "right"),
        Column("formula", prose=True),
        Column("inputs", prose=True),
        Column("meaning", prose=True),
        Column("evidence"),
    )
    table = Table(columns=columns, rows=rows)
    return Section(
        id="derivations", title="How each figure came about", blocks=(table,), detail=True
    )


def dictionary_section() -> Section:
    """The meaning of every input a study can state."""
    table = Table(
        columns=(
            Column("parameter"),
            Column("what it is", prose=True),
            Column("where to get it", prose=True),
            Column("why it matters", prose=True),
            Column("common errors", prose=True),
        ),
        rows=tuple(
            (
                Cell(name),
                Cell(entry.description),
                Cell(entry.source),
                Cell(entry.importance),
                Cell(entry.common_errors),
            )
            for name, entry in dictionary.PARAMETERS.items()
        ),
    )
    return Section(id="parameters", title="What the parameters mean", blocks=(table,), detail=True)
