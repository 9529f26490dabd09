"""A Plan -> a Report: the answer first, then what it rests on, then why not the others.

One short function per section, in the order they are read. Nothing is computed here that the plan
does not state, except sums over pools and what a promise says about a percentile.
"""

from __future__ import annotations

from tonnage.fleet import Plan
from tonnage.report import Report
from tonnage.report.answer import asked, headline, infeasible_section, standing_section, title
from tonnage.report.detail import derivations_section, dictionary_section, inputs_section
from tonnage.report.figures import all_alerts
from tonnage.report.grounds import assumed_section, demand_section, latency_section, memory_section
from tonnage.report.json import plan_data
from tonnage.report.options import pools_section, scenarios_section
from tonnage.report.proof import options_section, proof_section
from tonnage.report.reasons import (
    alerts_section,
    binding_section,
    next_section,
    rejected_section,
)


def report_plan(plan: Plan, *, command: str = "tonnage size study.yaml") -> Report:
    """The report of `plan`; `command` is what was typed, to suggest the next one."""
    if plan.infeasible is not None:
        sections = [
            infeasible_section(plan),
            proof_section(plan),
            assumed_section(plan),
            demand_section(plan),
            rejected_section(plan),
        ]
    else:
        sections = [
            standing_section(plan),
            assumed_section(plan),
            demand_section(plan),
            scenarios_section(plan),
            proof_section(plan),
            pools_section(plan),
            memory_section(plan),
            latency_section(plan),
            binding_section(plan),
            rejected_section(plan),
        ]
    sections += [
        alerts_section(all_alerts(plan)),
        next_section(plan, command),
        options_section(plan),
        inputs_section(plan),
        derivations_section(plan.scenario("recommended").rationale if plan.scenarios else ()),
    ]
    sections.append(dictionary_section())
    return Report(
        title=title(plan),
        subtitle=asked(plan),
        headline=headline(plan),
        sections=tuple(section for section in sections if section is not None),
        data=plan_data(plan, command=command),
    )
