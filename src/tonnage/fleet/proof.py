"""Question -> a Plan that a simulation has decided: how many replicas, and what is left of them.

The closed form makes the shortlist, the simulator has the last word. Each option gets the fewest
replicas of which a simulation keeps every promise under the policy of the search, be that more or
fewer than the closed form says; the least in the objective wins. Its scenarios are simulated as
they are bought, and with one and two failure units lost.

There are two loads, as in the closed form. The design load has the scenario's headroom on it, and
only the scenario's share of the memory is filled. With units lost these reserves are what is used
up: the load is the stated one, and the engine takes all the memory it takes. A peak that is a
Poisson percentile of a mean is simulated as that mean with random arrivals, as chance is not to be
counted twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tonnage.fleet import Limits, OptionProof, Proof, Rejection, ScenarioProof
from tonnage.fleet.offered import COUNTED_REQUESTS
from tonnage.fleet.plan import answered, design_of, plan_fleet, shortlist, unanswered
from tonnage.fleet.proof_words import (
    advice_of,
    binding_of,
    notes_of,
    outcome_words,
    simulated_rationale,
)
from tonnage.fleet.proven_relaxations import nothing_proven, proven_relaxations
from tonnage.fleet.purchase import Need, buy, replicas_per_server
from tonnage.fleet.rationale import rationale_of
from tonnage.fleet.relaxations import infeasible_of
from tonnage.fleet.replica import Replica, build_replica, calls_of, least_replicas, scaled_load
from tonnage.fleet.scenarios import constraints_of, lost_replicas, scenario_of, under_policy
from tonnage.fleet.search import (
    Design,
    Group,
    Option,
    Outcome,
    Survey,
    evaluate,
    search,
    survey,
    within_limits,
)
from tonnage.fleet.trials import Hunt, Hunted, Runner, TrialAsked
from tonnage.queueing.simulation.compiled import can_compile
from tonnage.queueing.simulation.simulate import WORTH_COMPILING_REQUESTS
from tonnage.workload import Batch, ClosedLoad, OpenLoad

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from tonnage.fleet import Plan, ProofProgress, Question, Scenario, ScenarioPolicy, Trial
    from tonnage.queueing import LatencyFigures
    from tonnage.queueing.simulation import Verdict

FARTHEST = 4  # times the replicas of the closed form, beyond which no number is tried
RUNS_AN_OPTION, RUNS_AT_LEAST = 3, 12  # as a rule, to tell whether compiling pays
COUNTED_TWICE = "poisson_counted_twice"  # the alert that is not true of a proof
TWO = 2  # units whose loss is simulated


def prove(
    question: Question,
    *,
    poisson_peak: bool = False,
    requests: int | None = None,
    seed: int = 0,
    compiled: bool | None = None,
    executor: Executor | None = None,
    progress: Callable[[ProofProgress], None] | None = None,
) -> Plan:
    """The answer to `question` with every promise simulated, over `requests` that count each time.

    `poisson_peak` as in `scene_of`. Independent simulations run in `executor`, or here one after
    the other, with the same answer. `progress` is told as they go. Unless told, the simulator is
    compiled when that pays for the proof as a whole. What the simulator does not know (several
    models, chains of calls, no load) is answered in closed form; the plan's proof says so and why.
    """
    if (why := _unknown(question)) is not None:
        return replace(plan_fleet(question), proof=Proof(verdict=None, unproven=why))
    asked = _as_simulated(question, poisson_peak=poisson_peak)
    design = design_of(asked)
    ground = survey(asked, design.policy)
    free = replace(asked, limits=Limits())  # simulated, an option may take fewer GPUs than listed
    outcome = search(design.asking(free), ground)
    options = shortlist(design, outcome)
    requests = requests or COUNTED_REQUESTS
    if compiled is None:
        expected = requests * (RUNS_AN_OPTION * len(options) + RUNS_AT_LEAST)
        compiled = expected >= WORTH_COMPILING_REQUESTS and can_compile()
    prover = _Prover(
        question=question,
        design=design,
        requests=requests,
        seed=seed,
        compiled=compiled,
        runner=Runner(executor=executor, progress=progress),
    )
    decided = prover.decide(options)
    chosen, scenarios = prover.first_complete(_by_rank(asked, decided))
    if chosen is None:
        plan = _unanswered(prover, decided, outcome, ground)
        recommended = None
    else:
        plan = _answered(prover, decided, outcome, chosen, scenarios)
        recommended = next((s for s in scenarios if s.name == design.policy.name), scenarios[0])
    return replace(plan, question=question, proof=_proof(prover, decided, recommended))


def _unknown(question: Question) -> str | None:
    """What the simulator does not know of this question; None when it knows it all."""
    workload = question.workload
    if workload.load is None:
        return "only memory was asked, and without a load there is nothing to simulate"
    if len({call.model for call in workload.calls}) > 1:
        return "the chain has several models, and the simulator knows single calls of one"
    single = sum(call.repeats for call in workload.calls) == 1
    if not single and any(promise.metric != "tpot" for promise in workload.promises):
        return "promises hold for whole chains of calls, and the simulator knows single calls"
    return None


def _as_simulated(question: Question, *, poisson_peak: bool) -> Question:
    """The question at the rate that is simulated: the peak, or the mean where chance makes it."""
    load = question.workload.load
    if not poisson_peak or not isinstance(load, OpenLoad):
        return question
    mean = replace(load, requests_per_s_peak=load.requests_per_s_mean)
    return replace(question, workload=replace(question.workload, load=mean))


# ── what becomes of the options ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """An option as the closed form lists it, and with as many replicas as its hunt found."""

    listed: Option
    hunted: Hunted | None
    option: Option | None
    proof: OptionProof

    @property
    def kept(self) -> bool:
        """Whether every promise is kept."""
        return self.proof.verdict == "kept"


def _by_rank(question: Question, decided: Sequence[_Decided]) -> list[_Decided]:
    """Those within the limits: all that keep the promises, else all that are unresolved."""
    found = [
        (each.option.key, each.kept, each)
        for each in decided
        if each.option is not None and within_limits(question, each.option)
    ]
    ranked = sorted(found, key=lambda row: row[0])
    return [each for _, kept, each in ranked if kept] or [each for _, _, each in ranked]


@dataclass(slots=True, kw_only=True)
class _Prover:
    """What all simulations of one proof have in common.

    `question` is as it was asked; `design` has it at the load that is simulated.
    """

    question: Question
    design: Design
    requests: int
    seed: int
    compiled: bool
    runner: Runner

    def decide(self, options: Sequence[Option]) -> list[_Decided]:
        """What becomes of each: hunted one by one until one will do, then all others at once.

        The others are only hunted where they could be as good, and only so far.
        """
        decided: list[_Decided] = []
        best: Option | None = None
        for option in options:
            hunt = self._hunt(option)
            assert hunt is not None  # noqa: S101 — there is nothing to lose to
            (hunted,) = self.runner.hunts([hunt])
            decided.append(self._decided(option, hunted, None))
            found = decided[-1]
            if found.kept and found.option and within_limits(self.design.question, found.option):
                best = found.option
                break
        others = [(option, self._hunt(option, best)) for option in options[len(decided) :]]
        results = iter(self.runner.hunts([hunt for _, hunt in others if hunt is not None]))
        for option, hunt in others:
            decided.append(self._decided(option, next(results) if hunt else None, best))
        return decided

    def _hunt(self, option: Option, best: Option | None = None) -> Hunt | None:
        """The hunt for the fewest replicas of an option; None where they would lose to `best`."""
        hunt = self.hunt(option, self.design.policy)
        while (
            best is not None and _bought(option, hunt.most, self.design.policy).least > best.least
        ):
            if hunt.most <= hunt.least:
                return None
            hunt = replace(hunt, most=hunt.most - hunt.step)
        return hunt

    def hunt(self, option: Option, policy: ScenarioPolicy | None) -> Hunt:
        """The hunt under a policy, or at the load as it is; servers bought whole are filled."""
        step = _step(option) if policy else 1
        factor = 1 + policy.headroom_fraction if policy else 1.0
        workload = self.design.question.workload
        load, sessions = scaled_load(workload.load, factor), workload.sessions
        least = least_replicas(
            option.replicas[0],
            load,
            workload.promises,
            None if sessions is None else sessions * factor,
        )
        start = option.needs[0].with_headroom
        most = FARTHEST * (start + 1)
        if isinstance(load, ClosedLoad):
            most = min(most, load.clients)
        bounds = (least or 1, start, max(most, start, least or 1))
        least, start, most = (math.ceil(count / step) * step for count in bounds)
        return Hunt(
            asked=self.asked(option, policy), start=start, least=least, most=most, step=step
        )

    def asked(self, option: Option, policy: ScenarioPolicy | None) -> TrialAsked:
        """A trial with the reserves of a policy, or without any at the load as it is."""
        question = self.design.question
        headroom = policy.headroom_fraction if policy else 0.0
        load = scaled_load(question.workload.load, 1 + headroom)
        return TrialAsked(
            question=replace(question, workload=replace(question.workload, load=load)),
            candidate=option.candidate,
            deployment=option.deployment,
            kv_budget_fraction=policy.kv_budget_fraction if policy else None,
            requests=self.requests,
            seed=self.seed,
            compiled=self.compiled,
        )

    def _decided(self, option: Option, hunted: Hunted | None, best: Option | None) -> _Decided:
        policy, deployment = self.design.policy, option.deployment
        trial = hunted.found if hunted else None
        found = _bought(option, trial.replicas, policy) if trial else None
        listed = evaluate(self.design.asking(self.question), option.replicas[0]) or option
        proof = OptionProof(
            option=f"{deployment.gpu.name} {deployment.describe()}",
            gpu=deployment.gpu.name,
            tensor_parallel=deployment.tensor_parallel,
            closed_form_replicas=listed.needs[0].with_headroom,
            closed_form_gpus=listed.purchase.gpus,
            replicas=trial.replicas if trial else None,
            gpus=found.purchase.gpus if found else None,
            verdict=(trial.verdict if trial else "missed") if hunted else None,
            tried=hunted.tried if hunted else (),
            outcome=outcome_words(hunted, capped=best is not None),
        )
        return _Decided(listed=listed, hunted=hunted, option=found, proof=proof)

    # ── scenarios ─────────────────────────────────────────────────────────────────────────────

    def first_complete(
        self, decided: Sequence[_Decided]
    ) -> tuple[_Decided | None, tuple[Scenario, ...]]:
        """The best that has all scenarios; else the best one, with those it has."""
        fallback: tuple[_Decided | None, tuple[Scenario, ...]] = (None, ())
        for each in decided:
            scenarios = self._scenarios(each)
            if len(scenarios) == len(self.design.question.policies):
                return each, scenarios
            if fallback[0] is None and scenarios:
                fallback = each, scenarios
        return fallback

    def _scenarios(self, decided: _Decided) -> tuple[Scenario, ...]:
        """Every scenario of an option of which the simulation accepts some number of replicas."""
        option, question = decided.option, self.design.question
        assert option is not None  # noqa: S101 — it was ranked by it
        sized = {
            policy: replace(option, replicas=(built,))
            for policy in question.policies
            if isinstance(built := _rebuilt(question, option, policy), Replica)
        }
        others = [policy for policy in sized if policy != self.design.policy]
        hunts = [self.hunt(sized[policy], policy) for policy in others]
        whole = self.hunt(option, None)
        *found, at_load = self.runner.hunts([*hunts, whole])
        designs = dict(zip(others, found, strict=True))
        if decided.hunted is not None and self.design.policy in sized:
            designs[self.design.policy] = decided.hunted
        bought = {
            policy: _bought(sized[policy], trial.replicas, policy, at_load.found)
            for policy in question.policies
            if policy in designs and (trial := designs[policy].found) is not None
        }
        stated = {trial.replicas: trial for trial in at_load.tried}
        counts = {count for p, each in bought.items() for count in _left(each, p) if count > 0}
        wanted = sorted(counts - stated.keys())
        stated |= zip(wanted, self.runner.trials(whole.asked, wanted), strict=True)
        return tuple(
            self._scenario(each, policy, designs[policy], stated) for policy, each in bought.items()
        )

    def _scenario(
        self, sized: Option, policy: ScenarioPolicy, hunted: Hunted, stated: dict[int, Trial]
    ) -> Scenario:
        """The scenario of what is bought, in the figures of its simulations."""
        question = self.design.question
        up, one, two = (stated.get(count) for count in _left(sized, policy))
        assert up is not None  # noqa: S101 — nothing is lost
        assert hunted.found is not None  # noqa: S101 — it was bought by it
        closed = under_policy(self.question, sized, policy)
        scenario = scenario_of(question, sized, policy)
        replica = sized.replicas[0]
        pool = scenario.pools[0]
        if not isinstance(question.workload.load, Batch):
            pool = replace(
                pool,
                latency=_figures(up, replica),
                latency_one_lost=_figures(one, replica) if one else None,
                latency_two_lost=_figures(two, replica) if two else None,
            )
        replicas, servers = _survives(sized, policy, (one, two))
        scenario = replace(
            scenario,
            pools=(pool,),
            latency=pool.latency,
            survives_replicas=replicas,
            survives_servers=servers,
            proof=ScenarioProof(
                design=hunted.found,
                stated=up,
                lost=(one, two),
                unit="server" if sized.candidate.whole_servers else "replica",
                closed_form_replicas=closed.needs[0].with_headroom if closed else None,
                closed_form_gpus=closed.purchase.gpus if closed else None,
            ),
        )
        rows = rationale_of(question, sized, scenario)
        return replace(scenario, rationale=simulated_rationale(rows, scenario))

    # ── other questions ───────────────────────────────────────────────────────────────────────

    def keeps(self, question: Question) -> bool:
        """Whether what the closed form would buy for `question`, or more of it, keeps it."""
        policy = self.design.policy
        other = replace(self, design=self.design.asking(question))
        free = self.design.asking(replace(question, limits=Limits()))
        option = search(free).best()
        if option is None:
            return False
        hunt = other.hunt(option, policy)
        most = hunt.most
        while not within_limits(question, _bought(option, most, policy)):
            most -= hunt.step
            if most < hunt.least:
                return False
        start = min(hunt.start, most) if question.limits == Limits() else most
        (hunted,) = self.runner.hunts([replace(hunt, least=start, start=start, most=most)])
        return hunted.found is not None and hunted.found.verdict == "kept"


def _rebuilt(question: Question, option: Option, policy: ScenarioPolicy) -> object:
    """The replica of an option under another policy, if it fits."""
    return build_replica(
        question,
        option.candidate,
        option.deployment,
        calls_of(question, next(iter(question.models))),
        kv_budget_fraction=policy.kv_budget_fraction,
    )


def _step(option: Option) -> int:
    """Replicas that are bought together: a server bought whole is filled."""
    if not option.candidate.whole_servers:
        return 1
    return max(replicas_per_server(option.candidate, option.deployment), 1)


def _bought(
    option: Option, replicas: int, policy: ScenarioPolicy, at_load: Trial | None = None
) -> Option:
    """The option with so many replicas at the design load, and those that `at_load` found."""
    for_load = min(at_load.replicas, replicas) if at_load else replicas
    need = Need(deployment=option.deployment, for_load=for_load, with_headroom=replicas)
    return replace(
        option, needs=(need,), purchase=buy(option.candidate, (need,), policy.spare_units)
    )


def _left(option: Option, policy: ScenarioPolicy) -> tuple[int, ...]:
    """Replicas with none, one and two failure units lost; below 1 where none is left."""
    bought = option.purchase.replicas[0]
    return tuple(bought - lost_replicas(option, policy, 0, units) for units in range(TWO + 1))


def _survives(
    option: Option, policy: ScenarioPolicy, lost: tuple[Trial | None, Trial | None]
) -> tuple[int, int | None]:
    """Replicas and servers that may be lost: as simulated up to two units, as needed beyond."""
    each = lost_replicas(option, policy, 0, 1)
    units = 0
    while units < TWO and (trial := lost[units]) is not None and trial.verdict == "kept":
        units += 1
    free = option.purchase.replicas[0] - option.needs[0].for_load
    replicas = max(free, units * each)
    if units < TWO:
        replicas = min(replicas, (units + 1) * each - 1)
    if option.candidate.server is None:
        return replicas, None
    held = replicas_per_server(option.candidate, option.deployment)
    return replicas, replicas // max(held, 1)


def _figures(trial: Trial, replica: Replica) -> LatencyFigures:
    """The figures of a trial, its utilisation by what the closed form says one replica carries."""
    curve, figures = replica.curve, trial.latency
    assert curve is not None  # noqa: S101 — there is a load
    rate = figures.requests_per_s / curve.calls_per_request
    return replace(figures, requests_per_s=rate, utilisation=rate / curve.capacity_requests_per_s())


# ── the plan ────────────────────────────────────────────────────────────────────────────────────


def _answered(
    prover: _Prover,
    decided: Sequence[_Decided],
    outcome: Outcome,
    chosen: _Decided,
    scenarios: tuple[Scenario, ...],
) -> Plan:
    """The plan around the option that is chosen."""
    design, option, hunted = prover.design, chosen.option, chosen.hunted
    assert option is not None  # noqa: S101 — it was ranked by it
    assert hunted is not None  # noqa: S101 — as above
    assert hunted.found is not None  # noqa: S101 — as above
    figures = None
    if not isinstance(design.question.workload.load, Batch):
        figures = _figures(hunted.found, option.replicas[0])
    plan = answered(
        design,
        _proven(design, decided, outcome),
        option,
        scenarios,
        constraints_of(design.question, option, design.policy, figures),
        listed=chosen.listed,
    )
    return replace(
        plan,
        rejections=(*_turned_down(design, decided, chosen), *plan.rejections),
        alerts=tuple(alert for alert in plan.alerts if alert.id != COUNTED_TWICE),
    )


def _unanswered(
    prover: _Prover, decided: Sequence[_Decided], outcome: Outcome, ground: Survey
) -> Plan:
    """The plan that there is none: by the closed form, or by the simulation of what that allows."""
    design = prover.design
    if decided:
        infeasible = nothing_proven([each.proof for each in decided])
    else:
        outcome = search(design, ground)
        infeasible = infeasible_of(design, outcome, ground)
    changes = proven_relaxations(
        design.question,
        infeasible.relaxations,
        beyond=[each.option.purchase for each in decided if each.kept and each.option],
        tried=[trial for each in decided for trial in each.proof.tried],
        keeps=prover.keeps,
    )
    infeasible = replace(infeasible, relaxations=changes)
    plan = unanswered(design, _proven(design, decided, outcome), infeasible)
    return replace(plan, rejections=(*_turned_down(design, decided, None), *plan.rejections))


def _stands(design: Design, each: _Decided) -> bool:
    """Whether the simulation leaves an option standing."""
    return each.kept and each.option is not None and within_limits(design.question, each.option)


def _proven(design: Design, decided: Sequence[_Decided], outcome: Outcome) -> Outcome:
    """What the search found, with what was simulated in its place.

    What does not stand is left out, and its group too: `_turned_down` tells of it.
    """
    simulated = {
        Group(
            design.question.candidates.index(each.listed.candidate), each.proof.tensor_parallel
        ): each
        for each in decided
    }
    options = {g: o for g, o in outcome.options.items() if g not in simulated}
    for group, each in simulated.items():
        if each.option is not None and _stands(design, each):
            options[group] = each.option
    return Outcome(
        options=options,
        misses={g: misses for g, misses in outcome.misses.items() if g not in simulated},
        considered=outcome.considered,
    )


def _turned_down(
    design: Design, decided: Sequence[_Decided], chosen: _Decided | None
) -> tuple[Rejection, ...]:
    """The options that the simulation did not leave standing, or had no need to look at."""
    return tuple(
        _rejection(design, each)
        for each in decided
        if each is not chosen and not _stands(design, each)
    )


def _rejection(design: Design, each: _Decided) -> Rejection:
    option, proof = each.option or each.listed, each.proof
    bottleneck, reason = "limits", f"{proof.outcome}, but over the stated limit"
    if not each.kept:
        reason = proof.outcome
        bottleneck = binding_of(proof.tried[-1]) if proof.tried else design.objective
    return Rejection(
        option=proof.option,
        gpu=proof.gpu,
        tensor_parallel=proof.tensor_parallel,
        deployment=option.deployment,
        bottleneck=bottleneck,
        reason=reason,
        change=None,
        gpus=option.purchase.gpus,
        servers=option.purchase.servers,
        usd_per_hour=option.purchase.usd_per_hour,
        priced=option.purchase.usd_per_hour is not None,
    )


def _proof(prover: _Prover, decided: Sequence[_Decided], recommended: Scenario | None) -> Proof:
    verdict: Verdict = "missed"
    if recommended is not None and (scenario := recommended.proof) is not None:
        verdicts = {scenario.design.verdict, scenario.stated.verdict}
        verdict = next(v for v in ("missed", "unresolved", "kept") if v in verdicts)
    return Proof(
        verdict=verdict,
        advice=advice_of(verdict, prover.requests),
        requests=prover.requests,
        seed=prover.seed,
        simulations=prover.runner.simulations,
        options=tuple(each.proof for each in decided),
        notes=notes_of(prover.question, prover.design.question, recommended),
    )
