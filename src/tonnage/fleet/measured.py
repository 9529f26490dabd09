"""A question and load tests of deployments -> a MeasuredPlan: which one to copy, and how often.

Each run measured one *copy*: so many GPUs that serve the model. Its best level is the one that
carries most with every promise kept; the fleet is as many copies as the load takes, and runs are
compared by what that costs. What decides was seen, not computed: neither the model's architecture
nor the GPU's datasheet is asked, and a copy on GPUs that the catalog does not know is counted too.

The scenarios hold back what they always do, and are bought as always (`purchase`). The search has
nothing to do here: a run is an arrangement, and there is no other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tonnage.errors import InputError, UsageError
from tonnage.evidence import Evidence, Rationale
from tonnage.fleet import (
    Candidate,
    Objective,
    Plan,
    Question,
    ScenarioName,
    ScenarioPolicy,
)
from tonnage.fleet.measured_reasons import (
    alerts_of,
    beaten,
    infeasible_of,
    measured_words,
    missed,
    over_limit,
    promise_words,
    rationale_of,
    refused,
)
from tonnage.fleet.plan import design_policy
from tonnage.fleet.purchase import Need, Purchase, buy, replicas_per_server
from tonnage.fleet.replica import NORMAL_SERVER_GPUS, scaled_load, share_of
from tonnage.fleet.scenarios import usd_per_million
from tonnage.fleet.search import objective_of
from tonnage.measurement.curve import MeasuredCurve, carried, keeps, promised_s
from tonnage.workload import Batch, ClosedLoad, Load, OpenLoad, Promise

if TYPE_CHECKING:
    from tonnage.measurement import Point, Run
    from tonnage.queueing import LatencyFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCopy:
    """What a run measured, as something that can be bought again: `gpus` GPUs and their curve.

    `candidate` is None where the catalog does not know the GPU, or nobody said which it is: copies
    are then counted, and nothing is priced. `file` is where the run was read.
    """

    run: Run
    file: str
    gpus: int
    candidate: Candidate | None
    curve: MeasuredCurve

    @property
    def gpu(self) -> str | None:
        """The GPU by its name in the catalog, else as the run says it."""
        return self.candidate.gpu.name if self.candidate else self.run.gpu

    @property
    def name(self) -> str:
        """The run and its hardware: "tp4 (4 × H100-SXM)"."""
        return f"{self.run.name} ({self.gpus} × {self.gpu or 'GPU'})"

    @property
    def per_server(self) -> int:
        """Copies on one server, or on the usual 8 GPUs; 1 for a copy that is larger."""
        server = self.candidate.server if self.candidate else None
        return max((server.gpus if server else NORMAL_SERVER_GPUS) // self.gpus, 1)

    @property
    def server_gpus(self) -> int:
        """GPUs of what `per_server` counts on: a server, 8, or all the servers a copy spans."""
        server = self.candidate.server if self.candidate else None
        gpus = server.gpus if server else NORMAL_SERVER_GPUS
        return math.ceil(self.gpus / gpus) * gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredOption:
    """A copy at its best level, and what the design policy buys of it.

    `carries` is what one copy carries there: requests/s, or clients of a closed load. `promises`
    are those that were checked.
    """

    copy: MeasuredCopy
    best: Point
    carries: float
    promises: tuple[Promise, ...]
    purchase: Purchase

    @property
    def requests_per_s_per_server(self) -> float | None:
        """The rate of one server (of 8 GPUs where none is known) at the best level."""
        rate = self.best.requests_per_s
        return None if rate is None else rate * self.copy.per_server

    @property
    def requests_per_s_per_gpu(self) -> float | None:
        """The rate of one GPU at the best level."""
        rate = self.best.requests_per_s
        return None if rate is None else rate / self.copy.gpus

    @property
    def limiting(self) -> Promise | None:
        """The promise with the least slack at the best level; None when nothing is promised."""
        return max(
            self.promises,
            key=lambda each: (promised_s(self.best, each) or 0.0) / each.limit_s,
            default=None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredScenario:
    """One level of resilience; the words of `Scenario`, without what only a model can say."""

    name: ScenarioName
    policy: ScenarioPolicy
    copies_for_load: int
    copies: int
    purchase: Purchase
    latency: LatencyFigures | None
    latency_one_lost: LatencyFigures | None
    latency_two_lost: LatencyFigures | None
    survives_copies: int
    survives_servers: int | None
    usd_per_million_output_tokens: float | None
    rationale: tuple[Rationale, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPlan:
    """The answer. `plan` holds what any plan says; its scenarios stand here, under `scenarios`.

    `options` are the runs that keep the promises, the chosen one first; `copies` all of them.
    `daily_requests` and `daily_users` are those of one server at its peak rate, all active hours.
    """

    plan: Plan
    copies: tuple[MeasuredCopy, ...]
    options: tuple[MeasuredOption, ...]
    scenarios: tuple[MeasuredScenario, ...]
    daily_requests: float | None = None
    daily_users: int | None = None
    requests_per_user_per_day: float | None = None
    active_s_per_day: float | None = None

    @property
    def chosen(self) -> MeasuredOption | None:
        """The run to copy; None when no run keeps the promises."""
        return self.options[0] if self.options else None

    def scenario(self, name: ScenarioName) -> MeasuredScenario:
        """The scenario of this name; KeyError when there is none."""
        for scenario in self.scenarios:
            if scenario.name == name:
                return scenario
        raise KeyError(name)


def plan_measured(
    question: Question,
    copies: Sequence[MeasuredCopy],
    *,
    requests_per_user_per_day: float | None = None,
    active_s_per_day: float | None = None,
) -> MeasuredPlan:
    """The copies that `question` takes of the best of what was measured; pure.

    The question's lengths are only compared with those measured, its candidates not looked at.
    Raises UsageError for a question that no load test answers, InputError when no run has measured
    what is promised.
    """
    workload = question.workload
    load = workload.load
    if load is None:
        raise UsageError(
            "resident sessions are a matter of memory, which a load test does not measure:",
            hint="state a load, or size them without --measured.",
        )
    if len(workload.calls) > 1 or workload.calls[0].repeats > 1:
        raise UsageError(
            "a run measured single requests, and the study states a chain of calls:",
            hint="measure the whole workflow, and state one call with its lengths.",
        )
    policy = design_policy(question)
    judged = [_judge(copy, load, workload.promises, policy) for copy in copies]
    silent = [each for each in judged if isinstance(each, Refused)]
    if len(silent) == len(judged):
        raise InputError(
            f"cannot be sized from: {silent[0].reason}.",
            hint=silent[0].hint,
            file=silent[0].copy.file,
        )
    options = [each for each in judged if isinstance(each, MeasuredOption)]
    objective, why = _objective(question, options)
    ranked = sorted(options, key=lambda option: _rank(option, objective))
    within = [o for o in ranked if not over_limit(question.limits, o.purchase)]
    misses = [each for each in judged if isinstance(each, Missed)]
    chosen = within[0] if within else None
    plan = Plan(
        question=question,
        objective=objective,
        objective_reason=why,
        deployment=None,
        candidate=chosen.copy.candidate if chosen else None,
        scenarios=(),
        constraints=(),
        rejections=(
            *(beaten(question, objective, each, chosen) for each in ranked if each is not chosen),
            *map(missed, misses),
            *map(refused, silent),
        ),
        unpriced=(),
        infeasible=None if chosen else infeasible_of(misses, ranked, question.limits),
        considered={},
        alerts=tuple(alerts_of(question, chosen, copies)),
    )
    if chosen is None:
        return MeasuredPlan(plan=plan, copies=tuple(copies), options=(), scenarios=())
    per_server = chosen.requests_per_s_per_server
    daily = None
    if per_server is not None and active_s_per_day is not None:
        daily = per_server * active_s_per_day
    users = None
    if daily is not None and requests_per_user_per_day:
        users = math.floor(daily / requests_per_user_per_day)
    return MeasuredPlan(
        plan=plan,
        copies=tuple(copies),
        options=(chosen, *(each for each in within if each is not chosen)),
        scenarios=tuple(_scenario(question, chosen, load, each) for each in question.policies),
        daily_requests=daily,
        daily_users=users,
        requests_per_user_per_day=requests_per_user_per_day,
        active_s_per_day=active_s_per_day,
    )


# ── the best level of each run ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Missed:
    """A run of which no level keeps every promise in `promises`."""

    copy: MeasuredCopy
    points: tuple[Point, ...]
    promises: tuple[Promise, ...]

    @property
    def nearest(self) -> tuple[float, Promise, float]:
        """How the level that misses by least does: value over limit, the promise, its value."""

        def worst(point: Point) -> tuple[float, Promise, float]:
            values = [(promised_s(point, each) or 0.0, each) for each in self.promises]
            value_s, promise = max(values, key=lambda pair: pair[0] / pair[1].limit_s)
            return value_s / promise.limit_s, promise, value_s

        return min(map(worst, self.points), key=lambda found: found[0])


@dataclass(frozen=True, slots=True)
class Refused:
    """A run that says nothing about what is promised or asked."""

    copy: MeasuredCopy
    reason: str
    hint: str = ""


def _judge(
    copy: MeasuredCopy, load: Load, promises: tuple[Promise, ...], policy: ScenarioPolicy
) -> MeasuredOption | Missed | Refused:
    """The sound level that carries most with every promise kept, the lighter one of equals.

    A promise that nobody made, reading speed, is left out where it was not measured.
    """
    points = copy.curve.points
    if not points:
        faults = "; ".join(dict.fromkeys(why for _, why in copy.curve.unused))
        if not faults:
            return Refused(copy, "no level")
        return Refused(
            copy,
            f"none of its levels is sound ({faults})",
            "Measure again, for longer: --duration; or size from another run.",
        )
    checked = []
    for promise in promises:
        if any(promised_s(point, promise) is not None for point in points):
            checked.append(promise)
        elif promise.evidence is not Evidence.ASSUMED:
            return Refused(
                copy,
                f"{promise_words(promise)} is promised, and was not measured",
                measured_words(points, promise),
            )
    carrying = [
        (amount, point)
        for point in points
        if (amount := carried(point, load)) is not None
        and (not isinstance(load, ClosedLoad) or amount >= 1)
        and all(promised_s(point, promise) is not None for promise in checked)
    ]
    if not carrying:
        what = "the clients" if isinstance(load, ClosedLoad) else "the rate"
        return Refused(copy, f"no level says {what} it carried")
    keeping = [each for each in carrying if all(keeps(each[1], p) for p in checked)]
    if keeping:
        amount, point = max(keeping, key=lambda each: each[0])
        _, purchase = _buy(copy, load, amount, policy)
        return MeasuredOption(
            copy=copy, best=point, carries=amount, promises=tuple(checked), purchase=purchase
        )
    return Missed(copy, tuple(point for _, point in carrying), tuple(checked))


# ── how many copies, and of which run ───────────────────────────────────────────────────────────


def copies_for(load: Load, carries: float) -> int:
    """Copies that together carry `load` when one carries `carries` of it; at least 1.

    Clients are dealt out whole, and the fullest copy counts.
    """
    if isinstance(load, ClosedLoad):
        return math.ceil(load.clients / math.floor(carries + 1e-9))
    rate = (
        load.requests_per_s_peak if isinstance(load, OpenLoad) else load.requests / load.deadline_s
    )
    return max(math.ceil(rate / carries - 1e-9), 1)


def _buy(
    copy: MeasuredCopy, load: Load, carries: float, policy: ScenarioPolicy
) -> tuple[Need, Purchase]:
    """Copies for the load and with headroom, and the purchase that holds them and the spares."""
    raised = scaled_load(load, 1 + policy.headroom_fraction)
    assert raised is not None  # noqa: S101 — there is a load
    need = Need(
        deployment=copy,
        for_load=copies_for(load, carries),
        with_headroom=copies_for(raised, carries),
    )
    if copy.candidate is not None:
        return need, buy(copy.candidate, (need,), policy.spare_units)
    count = need.with_headroom + policy.spare_units
    return need, Purchase(
        replicas=(count,),
        gpus=count * copy.gpus,
        servers=None,
        servers_for_load=None,
        servers_with_headroom=None,
        usd_per_hour=None,
        power_watts=None,
        rack_units=None,
    )


def _objective(question: Question, options: Sequence[MeasuredOption]) -> tuple[Objective, str]:
    """As any search chooses it, over the hardware that was measured."""
    known = tuple(o.copy.candidate for o in options if o.copy.candidate is not None)
    if question.objective is None and len(known) < len(options):
        return "gpus", "no price for hardware that the catalog does not know"
    return objective_of(replace(question, candidates=known or question.candidates))


def _rank(option: MeasuredOption, objective: Objective) -> tuple[float | str, ...]:
    """The objective; then GPUs, spare capacity in the same purchase, and the name."""
    bought = option.purchase
    carried_by_all = option.carries * bought.replicas[0]
    return (bought.value(objective), bought.gpus, -carried_by_all, option.copy.name)


# ── the scenarios ───────────────────────────────────────────────────────────────────────────────


def _scenario(
    question: Question, option: MeasuredOption, load: Load, policy: ScenarioPolicy
) -> MeasuredScenario:
    """What the policy buys, and what its peak load feels like, with copies lost too."""
    copy = option.copy
    need, bought = _buy(copy, load, option.carries, policy)
    count = bought.replicas[0]
    whole = copy.candidate is not None and copy.candidate.whole_servers
    held = replicas_per_server(copy.candidate, copy) if copy.candidate is not None else 0
    unit = max(held, 1) if whole else 1

    def with_copies(up: int) -> LatencyFigures | None:
        if isinstance(load, Batch) or up < 1:
            return None
        return copy.curve.at(share_of(load, up))

    free = count - need.for_load
    in_servers = copy.candidate is not None and copy.candidate.server is not None
    return MeasuredScenario(
        name=policy.name,
        policy=policy,
        copies_for_load=need.for_load,
        copies=count,
        purchase=bought,
        latency=with_copies(count),
        latency_one_lost=with_copies(count - unit),
        latency_two_lost=with_copies(count - 2 * unit),
        survives_copies=free,
        survives_servers=free // max(held, 1) if in_servers else None,
        usd_per_million_output_tokens=usd_per_million(question, bought),
        rationale=tuple(rationale_of(option, load, policy, need, bought)),
    )
