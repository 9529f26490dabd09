"""Question -> Plan: search, choose, size the scenarios, explain what was turned down."""

from __future__ import annotations

from dataclasses import replace

from tonnage.fleet import (
    Alert,
    Constraint,
    Infeasible,
    Plan,
    Question,
    Rejection,
    Scenario,
    ScenarioPolicy,
)
from tonnage.fleet.alerts import plan_alerts, scenario_alerts
from tonnage.fleet.chain import best_pools
from tonnage.fleet.rejections import rejections_of
from tonnage.fleet.relaxations import infeasible_of
from tonnage.fleet.replica import Replica, build_replica, calls_of
from tonnage.fleet.scenarios import constraints_of, first_complete, under_policy
from tonnage.fleet.search import Design, Option, Outcome, evaluate, objective_of, search, survey
from tonnage.fleet.standing import standing_of


def plan_fleet(question: Question) -> Plan:
    """The whole answer to `question`; pure and deterministic."""
    design = design_of(question)
    ground = survey(question, design.policy)
    outcome = search(design, ground)
    chosen, scenarios = first_complete(question, shortlist(design, outcome))
    if chosen is None:
        return unanswered(design, outcome, infeasible_of(design, outcome, ground))
    sized = under_policy(question, chosen, design.policy) or chosen
    return answered(
        design, outcome, chosen, scenarios, constraints_of(question, sized, design.policy)
    )


def design_of(question: Question) -> Design:
    """What is searched for: the recommended scenario, least in the objective."""
    objective, _ = objective_of(question)
    return Design(question=question, policy=design_policy(question), objective=objective)


def shortlist(design: Design, outcome: Outcome) -> list[Option]:
    """The options by rank; without those that have no price, where others have one."""
    ranked = sorted(outcome.options.values(), key=lambda option: option.key)
    if design.objective != "cost":
        return ranked
    return [o for o in ranked if o.purchase.usd_per_hour is not None] or ranked


def unanswered(design: Design, outcome: Outcome, infeasible: Infeasible) -> Plan:
    """The plan that there is none."""
    return Plan(
        question=design.question,
        objective=design.objective,
        objective_reason=objective_of(design.question)[1],
        deployment=None,
        scenarios=(),
        constraints=(),
        rejections=rejections_of(design, outcome, None),
        unpriced=(),
        infeasible=infeasible,
        considered=dict(outcome.considered),
        alerts=_no_fit_alerts(outcome),
    )


def answered(
    design: Design,
    outcome: Outcome,
    chosen: Option,
    scenarios: tuple[Scenario, ...],
    constraints: tuple[Constraint, ...],
    *,
    listed: Option | None = None,
) -> Plan:
    """The plan around the chosen option: the others turned down, what to know, today's fleet.

    `listed` is the option as the closed form has it, where the chosen one differs.
    """
    question = design.question
    rejections = rejections_of(design, outcome, chosen)
    unpriced: tuple[Rejection, ...] = ()
    if design.objective == "cost":
        unpriced = tuple(r for r in rejections if not r.priced and r.gpus is not None)
        rejections = tuple(r for r in rejections if r.priced or r.gpus is None)
    scenarios = tuple(
        replace(scenario, alerts=scenario_alerts(question, scenario)) for scenario in scenarios
    )
    return Plan(
        question=question,
        objective=design.objective,
        objective_reason=objective_of(question)[1],
        deployment=chosen.deployment,
        candidate=chosen.candidate,
        scenarios=scenarios,
        constraints=constraints,
        rejections=rejections,
        unpriced=unpriced,
        infeasible=None,
        considered=dict(outcome.considered),
        alerts=plan_alerts(question, chosen.deployment, scenarios)
        + _requantised(design, listed or chosen)
        + _missing_scenarios(question, scenarios),
        standing=standing_of(question, outcome, chosen, scenarios),
    )


def recommended_gpus(question: Question, plan: Plan) -> int | None:
    """GPUs of the recommended scenario when `question` is answered with the plan's deployments.

    None when they cannot serve it, or when the plan has no recommended scenario.
    """
    policy = design_policy(question)
    scenario = next((s for s in plan.scenarios if s.name == policy.name), None)
    candidate = next(
        (c for c in question.candidates if plan.deployment and c.gpu == plan.deployment.gpu), None
    )
    if scenario is None or candidate is None:
        return None
    replicas = []
    for pool in scenario.pools:
        replica = build_replica(
            question,
            candidate,
            pool.deployment,
            calls_of(question, pool.model),
            kv_budget_fraction=policy.kv_budget_fraction,
        )
        if not isinstance(replica, Replica):
            return None
        replicas.append(replica)
    if len(replicas) > 1:
        chosen = best_pools(
            question, policy, plan.objective, candidate, [[replica] for replica in replicas]
        )
        return None if chosen is None else chosen[2].gpus
    design = Design(question=question, policy=policy, objective=plan.objective)
    option = evaluate(design, replicas[0])
    return None if option is None else option.purchase.gpus


def design_policy(question: Question) -> ScenarioPolicy:
    """The policy the search optimises for: the recommended one."""
    return next(
        (policy for policy in question.policies if policy.name == "recommended"),
        question.policies[0],
    )


def _missing_scenarios(question: Question, scenarios: tuple[Scenario, ...]) -> tuple[Alert, ...]:
    built = {scenario.name for scenario in scenarios}
    return tuple(
        Alert(
            id="scenario_impossible",
            severity="warning",
            scenario=policy.name,
            cause=f"no option carries the load with {policy.kv_budget_fraction:.0%} of the memory "
            "for KV cache",
            impact=f"there is no {policy.name} scenario",
            action=f"raise scenarios.{policy.name}.kv_budget_fraction or allow more GPUs a replica",
        )
        for policy in question.policies
        if policy.name not in built
    )


def _requantised(design: Design, chosen: Option) -> tuple[Alert, ...]:
    """An alert when the weights are loaded in a dtype nobody asked for, with the price of not."""
    deployment = chosen.deployment
    native = deployment.model.native_weight_dtype
    if deployment.weight_dtype == native or design.question.weight_dtypes:
        return ()
    same_gpu = tuple(c for c in design.question.candidates if c.gpu.name == deployment.gpu.name)
    published = replace(design.question, candidates=same_gpu, weight_dtypes=(native,))
    best = search(design.asking(published)).best()
    if best is None:
        price = f"in {native} it does not fit or is too slow on {deployment.gpu.name}"
    else:
        arranged = f"{best.deployment.describe()} with KV cache {best.deployment.kv_dtype}"
        many = best.purchase.gpus
        count = "as many" if many == chosen.purchase.gpus else f"{many}"
        price = f"in {native} it would take {count} {deployment.gpu.name}, as {arranged}"
    return (
        Alert(
            id="weights_requantised",
            severity="info",
            scenario="all",
            cause=f"the plan loads {deployment.model.name} in {deployment.weight_dtype}; it is "
            f"published in {native}",
            impact=f"answers may differ slightly from the published weights; {price}",
            action=f"check quality, or state weight_dtype {native}",
        ),
    )


def _no_fit_alerts(outcome: Outcome) -> tuple[Alert, ...]:
    if set(outcome.considered) - {"memory", "arrangement"} or not outcome.considered["memory"]:
        return ()
    return (
        Alert(
            id="no_session_fits",
            severity="critical",
            scenario="all",
            cause="not even one session fits any arrangement of the candidates",
            impact="nothing can be served",
            action="shorten the context, use an 8-bit cache or smaller weights, lower the stated "
            "overhead, or take GPUs with more memory",
        ),
    )
