"""A Plan and the name of one figure -> its derivation: formula, inputs, result, meaning."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Mapping

from tonnage.errors import UsageError
from tonnage.evidence import Rationale
from tonnage.fleet import Plan, Scenario
from tonnage.report.figures import METRIC_MEANINGS, format_figure, format_mean_count
from tonnage.workload import Metric

_LABEL_WIDTH = 12


def render_explanation(plan: Plan, figure: str, *, width: int = 100) -> str:
    """How `figure` came about, in lines of at most `width` characters.

    Raises UsageError naming the nearest figures, and all of them, when there is none of that name.
    """
    figures = explainable(plan)
    name = slug(figure)
    if name not in figures:
        raise _unknown(figure, figures)
    rationale = figures[name]
    value = format_figure(rationale.value, rationale.unit)
    exact = (
        f" = {rationale.value!r} {rationale.unit}".rstrip() if _rounded(rationale, value) else ""
    )
    rows = [
        ("result", f"{value}{exact}"),
        ("formula", rationale.formula),
        *_inputs(rationale.inputs),
        ("evidence", rationale.evidence.label),
        ("meaning", rationale.explanation),
        *_elsewhere(plan, name, rationale),
    ]
    lines = [name, *(line for label, text in rows if text for line in _row(label, text, width))]
    return "\n".join(lines) + "\n"


def explainable(plan: Plan) -> dict[str, Rationale]:
    """Every figure that `--explain` knows, in the order in which it is derived."""
    found: dict[str, Rationale] = {}
    for step in plan.question.workload.steps:
        found[slug(step.name)] = Rationale(
            figure=slug(step.name),
            value=step.value,
            unit=step.unit,
            formula=step.formula,
            explanation="a step from what was told to the load",
            evidence=step.evidence,
        )
    if not plan.scenarios:
        return found
    recommended = plan.scenario("recommended")
    for rationale in recommended.rationale:
        found.setdefault(slug(rationale.figure), rationale)
    for rationale in _percentiles(recommended):
        found.setdefault(rationale.figure, rationale)
    for constraint in plan.constraints:
        name = f"{constraint.name}_slack"
        used, of = (
            format_figure(each, constraint.unit) for each in (constraint.used, constraint.available)
        )
        found.setdefault(
            name,
            Rationale(
                figure=name,
                value=constraint.slack,
                unit="fraction",
                formula="1 - used / available",
                inputs={"used": used, "available": of},
                explanation=constraint.explanation,
                evidence=recommended.latency.evidence
                if recommended.latency
                else min(each.evidence for each in plan.question.inputs),
            ),
        )
    return found


def slug(name: str) -> str:
    """The name `--explain` takes: "Active users" is "active_users"."""
    return "_".join(name.lower().replace("-", " ").replace("_", " ").split())


def _percentiles(scenario: Scenario) -> list[Rationale]:
    """Latency percentiles that came without a derivation of their own."""
    figures = scenario.latency
    if figures is None:
        return []
    operating_point = {
        "requests/s per replica": format_figure(figures.requests_per_s, ""),
        "utilisation": format_figure(figures.utilisation, "fraction"),
        "running": format_mean_count(figures.running),
        "waiting": format_mean_count(figures.waiting),
    }
    found = []
    for key, value in figures.percentiles.items():
        metric: Metric | str = key.split("_", 1)[0]
        found.append(
            Rationale(
                figure=key,
                value=value,
                unit="s",
                formula="latency curve of the deployment at its operating point",
                inputs=operating_point,
                explanation=f"{METRIC_MEANINGS.get(metric, metric)}, all replicas up, at peak load",
                evidence=figures.evidence,
            )
        )
    return found


def _rounded(rationale: Rationale, shown: str) -> bool:
    """Whether the shown value hides digits worth giving."""
    value = rationale.value
    return value is not None and shown.replace(",", "").split(" ")[0] != f"{value:g}"


def _inputs(inputs: Mapping[str, str]) -> list[tuple[str, str]]:
    lines = [f"{symbol} = {value}" for symbol, value in inputs.items()]
    return [("with" if position == 0 else "", line) for position, line in enumerate(lines)]


def _elsewhere(plan: Plan, name: str, rationale: Rationale) -> list[tuple[str, str]]:
    """The same figure in the other scenarios, where it differs."""
    others = [
        f"{scenario.name} {format_figure(each.value, each.unit)}"
        for scenario in plan.scenarios
        for each in scenario.rationale
        if slug(each.figure) == name and each.value != rationale.value
    ]
    return [("elsewhere", ", ".join(others))] if others else []


def _row(label: str, text: str, width: int) -> list[str]:
    indent = " " * (2 + _LABEL_WIDTH)
    lines: list[str] = []
    for paragraph in text.splitlines():
        lines += textwrap.wrap(
            paragraph,
            width,
            initial_indent=indent if lines else f"  {label:<{_LABEL_WIDTH}}",
            subsequent_indent=indent + "  " if label in {"with", ""} else indent,
            break_on_hyphens=False,
        )
    return lines


def _unknown(figure: str, figures: Mapping[str, Rationale]) -> UsageError:
    near = difflib.get_close_matches(slug(figure), figures, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}?\n" if near else ""
    listed = textwrap.fill(", ".join(figures), 96, initial_indent="  ", subsequent_indent="  ")
    return UsageError(
        f"there is no figure “{figure}” in this plan.", hint=f"{hint}It can explain:\n{listed}"
    )
