"""Today's fleet -> where it stands among the scenarios, and what to add.

It is judged in the arrangement that is best on its own kind of GPU, whichever kind the plan chose.
"""

from __future__ import annotations

from tonnage.fleet import ExistingFleet, Question, Scenario, Standing
from tonnage.fleet.purchase import replicas_per_server
from tonnage.fleet.scenarios import first_complete, fleet_latency
from tonnage.fleet.search import Option, Outcome
from tonnage.queueing import LatencyFigures


def standing_of(
    question: Question, outcome: Outcome, chosen: Option, scenarios: tuple[Scenario, ...]
) -> Standing | None:
    """Where the existing fleet stands; None when none is stated."""
    existing = question.existing
    if existing is None:
        return None
    own, own_scenarios = chosen, scenarios
    if not _is_on(chosen, existing):
        ranked = sorted(
            (option for option in outcome.options.values() if _is_on(option, existing)),
            key=lambda option: option.key,
        )
        found, own_scenarios = first_complete(question, ranked)
        if found is None:
            return _incomparable(existing, chosen)
        own = found
    reached = None
    for scenario in own_scenarios:
        if existing.gpus >= scenario.gpus:
            reached = scenario.name
    target = next((s for s in own_scenarios if s.name == "recommended"), own_scenarios[-1])
    missing = max(target.gpus - existing.gpus, 0)
    server = own.candidate.server
    servers = None
    if target.servers is not None and server is not None and own.candidate.whole_servers:
        servers = max(target.servers - existing.gpus // server.gpus, 0)
    what = f"{servers} server{'s' if servers != 1 else ''}" if servers else f"{missing} GPUs"
    if missing == 0:
        sentence = f"today's {existing.gpus} × {existing.gpu} reach {reached}: nothing to add"
    elif reached is None:
        sentence = (
            f"today's {existing.gpus} × {existing.gpu} are below minimum: "
            f"add {what} for recommended"
        )
    else:
        sentence = f"you are here: {reached}; add {what} for recommended"
    if own is not chosen:
        sentence += f" (staying on {existing.gpu}; the plan chose {chosen.deployment.gpu.name})"
    return Standing(
        existing_gpus=existing.gpus,
        existing_servers=existing.units if existing.server else None,
        reaches=reached,
        sentence=sentence,
        add_servers=servers,
        add_gpus=missing,
        latency=_latency_today(question, own, existing),
    )


def _is_on(option: Option, existing: ExistingFleet) -> bool:
    return option.deployment.gpu.name == existing.gpu


def _latency_today(
    question: Question, option: Option, existing: ExistingFleet
) -> LatencyFigures | None:
    """What the peak load feels like on today's GPUs; None for a chain or when none fits."""
    if len(option.replicas) > 1:
        return None
    held = replicas_per_server(option.candidate, option.deployment)
    count = existing.gpus // option.deployment.gpus
    if existing.server is not None and held:
        count = existing.units * held
    return fleet_latency(question, option, (count,), question.workload.load)


def _incomparable(existing: ExistingFleet, chosen: Option) -> Standing:
    return Standing(
        existing_gpus=existing.gpus,
        existing_servers=existing.units if existing.server else None,
        reaches=None,
        sentence=f"today's {existing.gpus} × {existing.gpu} cannot keep these promises, or are not "
        f"among the candidates; the plan is on {chosen.deployment.gpu.name}",
        add_servers=None,
        add_gpus=0,
    )
