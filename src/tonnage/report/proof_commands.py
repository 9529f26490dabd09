"""A plan and the command that asked for it -> commands about the fleet it recommends.

A fleet by its name alone leaves formats and limits open, and what another command chooses for it
need not be what the plan has. These commands state all of it, so that their figures are the plan's.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection

from tonnage.fleet import Plan
from tonnage.fleet.capacity import replicas_in
from tonnage.fleet.offered import COUNTED_REQUESTS
from tonnage.report.figures import server_of

PROVE = "--prove"
_OF_A_PROOF = {"--requests", "--seed", "--workers"}
_FORMATS = {"--weight-dtype", "--kv-dtype"}
_SEARCHED = ("--max-batch-size", "--max-batched-tokens")
_LIMITS = {"simulate": ("--max-num-seqs", "--max-num-batched-tokens"), "capacity": _SEARCHED}


def simulate_command(plan: Plan, command: str) -> str | None:
    """What simulates the recommended fleet again, to the same figures as its `proof.stated`.

    Of a larger fleet the part that was simulated, with its share of the load: GPUs, where it does
    not fill servers. None without a proof.
    """
    deployment, candidate, proven = plan.deployment, plan.candidate, plan.proof
    if deployment is None or candidate is None or proven is None or not plan.scenarios:
        return None
    proof, server = plan.scenario("recommended").proof, server_of(plan)
    if proof is None:
        return None
    trial = proof.stated
    units, name = trial.simulated_replicas, deployment.gpu.name
    if server is not None:
        held = server.gpus // deployment.gpus  # none where a replica spans servers
        servers = math.ceil(units / held if held else units * deployment.gpus / server.gpus)
        if replicas_in(candidate, deployment, servers * server.gpus) == units:
            units, name = servers, server.name
    words = _on_fleet("simulate", command, plan, units, name)
    if trial.simulated_replicas != trial.replicas:
        words += ["--rate-factor", repr(trial.simulated_replicas / trial.replicas)]
    if trial.summary.counted != COUNTED_REQUESTS:
        words += ["--requests", str(trial.summary.counted)]
    if proven.seed:
        words += ["--seed", str(proven.seed)]
    return _joined(words)


def capacity_command(plan: Plan, command: str) -> str | None:
    """What says how much the recommended fleet carries at most; None for several pools."""
    scenario, server = plan.scenario("recommended"), server_of(plan)
    if plan.deployment is None or len(scenario.pools) > 1:
        return None
    units, name = scenario.gpus, plan.deployment.gpu.name
    if server is not None and scenario.servers:
        units, name = scenario.servers, server.name
    return _joined(_on_fleet("capacity", command, plan, units, name))


def _on_fleet(asked: str, command: str, plan: Plan, units: int, name: str) -> list[str]:
    """The words of the command as another one's, on units of this name as the plan has them."""
    words = _asked_of(asked, command, without=_OF_A_PROOF | _FORMATS | set(_SEARCHED))
    words += ["--fleet", _fleet(plan, units, name), *_formats(plan)]
    for flag, limit in zip(_LIMITS[asked], _limits(plan), strict=True):
        if limit is not None:
            words += [flag, str(limit)]
    return words


def _asked_of(name: str, command: str, *, without: Collection[str]) -> list[str]:
    """The words of the command under another name, less some flags and their values."""
    program, _, *given = shlex.split(command)
    words, skipped = [program, name], False
    for word in given:
        if skipped:
            skipped = False
        elif word in without:
            skipped = True
        elif word != PROVE:
            words.append(word)
    return words


def _fleet(plan: Plan, units: int, name: str) -> str:
    """Like "2 x DGX-H200:tp2": every number that is not the only one the question allows."""
    deployment, question = plan.deployment, plan.question
    assert deployment is not None  # noqa: S101 — the callers looked
    parts = [f"tp{deployment.tensor_parallel}"]
    if len(question.pipeline_parallel) != 1:
        parts.append(f"pp{deployment.pipeline_parallel}")
    experts = any(group.experts for group in deployment.model.layer_groups)
    if experts and len(question.expert_parallel) != 1 and deployment.tensor_parallel > 1:
        parts.append(f"ep{deployment.expert_parallel}")
    return f"{units} x {name}:{'-'.join(parts)}"


def _formats(plan: Plan) -> list[str]:
    assert plan.deployment is not None  # noqa: S101 — the callers looked
    weights, cache = plan.deployment.weight_dtype, plan.deployment.kv_dtype
    return ["--weight-dtype", weights, "--kv-dtype", cache]


def _limits(plan: Plan) -> tuple[int | None, int | None]:
    """Requests at once and tokens of a step, where they are not the engine's own."""
    deployment, question = plan.deployment, plan.question
    assert deployment is not None  # noqa: S101 — the callers looked
    gpu = deployment.gpu
    sequences, _ = question.engine.limits_on(gpu.usable_memory_bytes or gpu.memory_bytes)
    chosen = question.max_batch_sizes or deployment.max_batch_size != sequences
    return (
        deployment.max_batch_size if chosen else None,
        deployment.max_batched_tokens if question.max_batched_tokens else None,
    )


def _joined(words: list[str]) -> str:
    """As `shlex.join`, in double quotes where these do."""
    return " ".join(
        f'"{word}"' if " " in word and not set(word) & set('"$`\\!') else shlex.quote(word)
        for word in words
    )
