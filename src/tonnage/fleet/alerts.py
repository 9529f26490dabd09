"""Plan so far -> what a reader must know before buying, each with cause, impact and action."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tonnage.dtypes import KV_BYTES_PER_VALUE
from tonnage.evidence import Evidence
from tonnage.fleet import Alert, Question, Scenario
from tonnage.units import format_bytes, format_fraction, format_number
from tonnage.workload import OpenLoad

if TYPE_CHECKING:
    from tonnage.deployment import Deployment

AGGRESSIVE_KV_BUDGET = 0.75  # above: fragmentation and longer contexts evict (calculadora seed)
FEW_SESSIONS = 50  # per server: long contexts or a wasteful dtype (calculadora seed)
MANY_SERVERS = 20  # in one scenario: question the requirement or the model (calculadora seed)
SMALL_GAP = 0.20  # minimum -> recommended: light load, spare dominates (calculadora seed)


def scenario_alerts(question: Question, scenario: Scenario) -> tuple[Alert, ...]:
    """Alerts about one scenario."""
    name = scenario.name
    deployment = scenario.pools[-1].deployment
    alerts = []
    fraction = scenario.policy.kv_budget_fraction
    if fraction > AGGRESSIVE_KV_BUDGET:
        alerts.append(
            Alert(
                id="kv_budget_aggressive",
                severity="warning",
                scenario=name,
                cause=f"the KV budget is {format_fraction(fraction)} of the memory left",
                impact="fragmentation and contexts longer than the mean evict running requests",
                action="lower memory.kv_budget_fraction to 70 % or less",
            )
        )
    sessions = scenario.memory.sessions_per_server
    if sessions is not None and 0 < sessions < FEW_SESSIONS:
        alerts.append(
            Alert(
                id="few_sessions_per_server",
                severity="warning",
                scenario=name,
                cause=f"only {sessions} contexts of "
                f"{format_number(scenario.memory.session_tokens)} tokens fit a server",
                impact="cost per session is high, and one lost server takes a large share",
                action="shorten the context, use an 8-bit KV cache, or take GPUs with more memory",
            )
        )
    if scenario.servers is not None and scenario.servers > MANY_SERVERS:
        alerts.append(
            Alert(
                id="many_servers",
                severity="warning",
                scenario=name,
                cause=f"{scenario.servers} servers in one scenario",
                impact="at this size a small error in an input is worth whole servers",
                action="measure one replica before buying; consider a smaller model or looser "
                "promises",
            )
        )
    if scenario.latency is not None and scenario.latency.regime:
        alerts.append(
            Alert(
                id="closed_form_limit",
                severity="warning",
                scenario=name,
                cause=scenario.latency.regime,
                impact="the real p95 may lie above the one shown",
                action="add headroom, or prove the plan with a load test",
            )
        )
    stated = question.runtime_overhead_bytes
    server = _server_gpus(question, scenario)
    weights = scenario.memory.weights_bytes_per_gpu * server
    if stated is not None and stated < weights:
        alerts.append(
            Alert(
                id="overhead_below_weights",
                severity="critical",
                scenario=name,
                cause=f"the stated overhead of {format_bytes(stated)} a server is less than the "
                f"weights alone, {format_bytes(weights)}",
                impact="the sessions shown do not fit",
                action="raise memory.runtime_overhead, or leave it out to have it computed",
            )
        )
    if scenario.usd_per_hour is None and question.objective == "cost":
        alerts.append(
            Alert(
                id="no_price",
                severity="info",
                scenario=name,
                cause=f"no price is known for {deployment.gpu.name}",
                impact="the scenario has no cost",
                action="state one under hardware.prices",
            )
        )
    return tuple(alerts)


def plan_alerts(
    question: Question, deployment: Deployment, scenarios: tuple[Scenario, ...]
) -> tuple[Alert, ...]:
    """Alerts about the plan as a whole."""
    alerts = []
    alerts += context_alerts(question, deployment)
    workload = question.workload
    if KV_BYTES_PER_VALUE[deployment.kv_dtype] > 1:
        alerts.append(
            Alert(
                id="kv_sixteen_bit",
                severity="info",
                scenario="all",
                cause=f"the KV cache is kept in {deployment.kv_dtype}",
                impact="it takes twice the memory of an 8-bit cache",
                action="try kv_dtype fp8 where the GPU and your quality tests allow it",
            )
        )
    if isinstance(workload.load, OpenLoad) and any(
        "poisson" in step.name.lower() or "Poisson" in step.formula for step in workload.steps
    ):
        alerts.append(
            Alert(
                id="poisson_counted_twice",
                severity="info",
                scenario="all",
                cause="the peak is a Poisson percentile, and queueing assumes Poisson arrivals at "
                "that peak",
                impact="the same randomness is counted twice: the plan is on the safe side",
                action="set workload.peak: none to size for the mean rate with random arrivals",
            )
        )
    by_name = {scenario.name: scenario for scenario in scenarios}
    if {"minimum", "recommended"} <= by_name.keys():
        low, high = by_name["minimum"].gpus, by_name["recommended"].gpus
        if high < low * (1 + SMALL_GAP):
            alerts.append(
                Alert(
                    id="small_scenario_gap",
                    severity="info",
                    scenario="all",
                    cause=f"minimum ({low} GPUs) and recommended ({high} GPUs) are less than "
                    f"{format_fraction(SMALL_GAP)} apart",
                    impact="resilience costs little here",
                    action="prefer the recommended scenario, or review whether the load is right",
                )
            )
    assumed = [item for item in question.inputs if item.evidence is Evidence.ASSUMED]
    if assumed:
        alerts.append(
            Alert(
                id="assumed_inputs",
                severity="warning" if any(item.value is not None for item in assumed) else "info",
                scenario="all",
                cause="assumed, not told: "
                + "; ".join(f"{item.key} = {item.text}" for item in assumed),
                impact="the answer moves with them: see what each does at ± 50 %",
                action="state those that move it most",
            )
        )
    return tuple(alerts)


def context_alerts(question: Question, deployment: Deployment) -> list[Alert]:
    """An alert when contexts outgrow the model: they are never cut in silence."""
    alerts = []
    model, workload = deployment.model, question.workload
    longest = max(
        (workload.context_tokens or 0.0),
        *(
            call.mix.context_tokens_max
            for call in workload.calls
            if workload.load is not None and call.model == workload.calls[-1].model
        ),
        0.0,
    )
    if longest > model.max_context_tokens:
        alerts.append(
            Alert(
                id="context_exceeds_model",
                severity="critical",
                scenario="all",
                cause=f"contexts reach {format_number(longest)} tokens, "
                f"{model.name} is made for {format_number(float(model.max_context_tokens))}",
                impact="memory is sized for the model's limit; longer requests are cut or refused",
                action="shorten the context or choose a model with a longer one",
            )
        )
    return alerts


def _server_gpus(question: Question, scenario: Scenario) -> int:
    name = scenario.pools[-1].deployment.gpu.name
    for candidate in question.candidates:
        if candidate.gpu.name == name and candidate.server is not None:
            return candidate.server.gpus
    return scenario.pools[-1].deployment.gpus
