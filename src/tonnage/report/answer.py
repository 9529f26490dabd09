"""What was asked and the answer: title, headline, today's fleet, what would have to change."""

from __future__ import annotations

from tonnage import units
from tonnage.evidence import Evidence
from tonnage.fleet import (
    Change,
    Plan,
    Scenario,
)
from tonnage.report import (
    Block,
    Cell,
    Column,
    Headline,
    Prose,
    Section,
    Table,
)
from tonnage.report.figures import (
    METRIC_NAMES,
    METRICS,
    UNKNOWN,
    all_alerts,
    arrangement,
    fleet_words,
    format_figure,
    latency_s,
    plural,
    promise_words,
    survival_words,
)
from tonnage.report.proof import proof_words
from tonnage.workload import Batch, ClosedLoad, OpenLoad


def title(plan: Plan) -> str:
    """The study's name and the models it serves."""
    models = " + ".join(dict.fromkeys(model.name for model in plan.question.models.values()))
    return " · ".join(dict.fromkeys(part for part in (plan.question.name, models) if part))


def asked(plan: Plan) -> tuple[str, ...]:
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


def headline(plan: Plan) -> Headline:
    """The recommended fleet in one line, or that there is none."""
    if plan.infeasible is not None:
        unproven = proof_words(plan) if plan.proof and plan.proof.verdict is None else ()
        return Headline(
            label="No answer", answer=plan.infeasible.reason, notes=unproven, tone="bad"
        )
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
        notes=(*proof_words(plan), *_how_sure(plan, scenario), *_critical(plan)),
    )


def _critical(plan: Plan) -> tuple[str, ...]:
    """What may not be missed: the cause of every critical alert."""
    causes = [alert.cause for alert in all_alerts(plan) if alert.severity == "critical"]
    return tuple(f"‼ {cause}" for cause in dict.fromkeys(causes))


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
    if scenario.proof is not None:
        sure += " step times, simulated"
    if counts and min(counts) != max(counts):
        sure += (
            f" · {min(counts)} – {max(counts)} GPUs{_by_closed_form(plan)} if one assumed input is"
            " off by half · measure to get an interval"
        )
    elif scenario.latency is not None and scenario.latency.evidence < Evidence.MEASURED:
        sure += " · no interval until it is measured"
    return (f"{chosen} · chosen by {plan.objective}: {plan.objective_reason}", sure)


def _by_closed_form(plan: Plan) -> str:
    """To be said of what a proof did not look at."""
    return " by the closed form" if plan.proof is not None and plan.proof.verdict else ""


def scenario_evidence(scenario: Scenario) -> Evidence:
    """What the GPU count rests on: the latency where there is one, else the count of replicas."""
    if scenario.latency is not None:
        return scenario.latency.evidence
    counted = (each.evidence for each in scenario.rationale if each.figure == "replicas")
    return next(counted, Evidence.MODELLED)


def standing_section(plan: Plan) -> Section | None:
    """Where today's fleet stands; None when none is stated."""
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


def _tried_words(change: Change) -> str:
    if change.simulated:
        return "works, simulated"
    return "works" if change.verified else "not tried"


def infeasible_section(plan: Plan) -> Section | None:
    """What would have to change; None when there is an answer."""
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
                        Cell(_tried_words(change), "quiet"),
                    )
                    for change in no.relaxations
                ),
            )
        )
    else:
        blocks.append(Prose("No single change was found that makes it possible: several must."))
    return Section(id="infeasible", title="What would have to change", blocks=tuple(blocks))
