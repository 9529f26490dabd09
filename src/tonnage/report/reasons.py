"""What binds, why not the others, alerts, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tonnage import units
from tonnage.fleet import (
    Alert,
    Constraint,
    Plan,
    Rejection,
    Severity,
)
from tonnage.report import (
    Block,
    Cell,
    Column,
    Commands,
    Notice,
    Prose,
    Section,
    Table,
)
from tonnage.report.figures import format_figure
from tonnage.report.proof_commands import PROVE, capacity_command, simulate_command

MANY_REJECTIONS = 12  # above this, one per kind of GPU in words; all of them in JSON
FAR_SLACK = 0.5  # a constraint with more slack than this is not worth a sentence
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


def binding_section(plan: Plan) -> Section | None:
    """The four constraints, least slack first; None when there are none."""
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
    per_server = units.format_amount(scenario.requests_per_s_per_server, "requests/s")
    per_gpu = units.format_number(scenario.requests_per_s_per_gpu)
    return (
        Prose(
            f"Promises kept, one {server.name if server else 'group of 8 GPUs'} carries at most "
            f"{per_server} at peak: {per_gpu} per GPU.",
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
    shared = units.singular(unit) == units.singular(available.partition(" ")[2])
    return f"{number if unit and shared else used} of {available}"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def rejected_section(plan: Plan) -> Section | None:
    """Why not the others, those without a price apart; None when nothing else was tried."""
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
        blocks.append(
            Prose(f"{considered:,} arrangements and batch limits considered: {told}.", "quiet")
        )
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


def alerts_section(alerts: Iterable[Alert]) -> Section | None:
    """Alerts that say the same of several scenarios are told once."""
    scopes: dict[tuple[str, str, str, str], list[str]] = {}
    severities: dict[tuple[str, str, str, str], Severity] = {}
    for alert in alerts:
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
            scope=", ".join(scope for scope in dict.fromkeys(names) if scope != "all"),
        )
        for key, names in scopes.items()
    )
    return Section(id="alerts", title="Alerts", blocks=notices) if notices else None


def next_section(plan: Plan, command: str) -> Section:
    """Commands that lead on from here."""
    again = command if len(command) <= LONG_COMMAND else "tonnage size (the same)"
    rows = []
    if plan.infeasible is None:
        figures = [each.figure for each in plan.scenario("recommended").rationale]
        if figures:
            figure = "kv_bytes_per_session" if "kv_bytes_per_session" in figures else figures[0]
            rows.append((f"{again} --explain {figure}", "how that figure came about"))
        if plan.question.workload.load is not None:
            turned = capacity_command(plan, command)
            rows += [(turned, "the most that fleet carries")] if turned else []
        if simulated := simulate_command(plan, command):
            rows.append((simulated, "that fleet simulated again, to the same figures"))
    if plan.proof is None and plan.question.workload.load is not None:
        rows.append((f"{again} {PROVE}", "simulate it, also with servers lost"))
    rows.append((f"{again} -o plan.json", "the same answer for a program"))
    rows.append((f"{again} -o plan.md", "with every input and its derivation"))
    return Section(id="next", title="Next", blocks=(Commands(tuple(rows)),))
