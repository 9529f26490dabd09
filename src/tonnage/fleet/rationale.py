"""Figures of a scenario -> the derivation of each: formula, what was put in, what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tonnage.evidence import Evidence, Rationale
from tonnage.fleet.purchase import replicas_per_server, servers_per_replica
from tonnage.fleet.replica import NORMAL_SERVER_GPUS
from tonnage.model import SoftmaxAttention
from tonnage.units import (
    format_bytes,
    format_fraction,
    format_number,
    format_time,
    format_usd,
)
from tonnage.workload import Batch, ClosedLoad, OpenLoad

if TYPE_CHECKING:
    from tonnage.fleet import Question, Scenario
    from tonnage.fleet.search import Option


def rationale_of(question: Question, option: Option, scenario: Scenario) -> tuple[Rationale, ...]:
    """Every figure of `scenario` that a reader may doubt, in the order it was derived."""
    return (
        *_memory(question, option, scenario),
        *_speed(option),
        *_normalised(option, scenario),
        *_counts(question, option, scenario),
        *_latency(question, option, scenario),
        *_money(option, scenario),
    )


def _memory(question: Question, option: Option, scenario: Scenario) -> list[Rationale]:
    replica = option.replicas[-1]
    deployment, memory = replica.deployment, scenario.memory
    model = deployment.model
    server = option.candidate.server
    server_gpus = server.gpus if server else NORMAL_SERVER_GPUS
    held = max(server_gpus // deployment.gpus, 0)
    fraction = scenario.policy.kv_budget_fraction
    stated = question.runtime_overhead_bytes
    layers = ", ".join(
        f"{group.count} × {group.mixer.kv_values_per_token} values"
        + (f" (window {group.mixer.window_tokens})" if group.mixer.window_tokens else "")
        for group in model.layer_groups
        if isinstance(group.mixer, SoftmaxAttention)
    )
    kept = "window" if deployment.engine.kv_rule == "window" else "whole context"
    evidence = Evidence.MODELLED
    result = [
        Rationale(
            figure="weights_bytes",
            value=model.weights_bytes(deployment.weight_dtype),
            unit="bytes",
            formula="Σ matrices × bytes per value (embeddings, norms and routers in 16 bits)",
            inputs={
                "parameters": format_number(float(model.parameters)),
                "weight dtype": deployment.weight_dtype,
                "per GPU": format_bytes(memory.weights_bytes_per_gpu),
            },
            explanation="What the model occupies before the first request, once per replica.",
            evidence=Evidence.DATASHEET,
        ),
        Rationale(
            figure="kv_bytes_per_token",
            value=model.kv_bytes_per_token(deployment.kv_dtype),
            unit="bytes",
            formula="Σ attention layers × values cached per token × bytes per value",
            inputs={"layers": layers, "KV dtype": deployment.kv_dtype},
            explanation=(
                "What one more token of context costs while every sliding window is still growing; "
                "beyond a window, its layers stop."
            ),
            evidence=Evidence.DATASHEET,
        ),
        Rationale(
            figure="kv_bytes_per_session",
            value=memory.kv_bytes_per_session,
            unit="bytes",
            formula="Σ layers × tokens kept × values per token × bytes per value, over all GPUs",
            inputs={
                "tokens": format_number(memory.session_tokens),
                "layers": layers,
                "KV dtype": deployment.kv_dtype,
                "block": f"{deployment.engine.block_tokens} tokens",
            },
            explanation=(
                f"One context of {format_number(memory.session_tokens)} tokens; "
                f"engine rule: windowed layers keep their {kept}. KV heads that do not divide over "
                "the GPUs are held more than once and counted so."
            ),
            evidence=evidence,
        ),
        Rationale(
            figure="kv_bytes_total",
            value=memory.kv_bytes_total,
            unit="bytes",
            formula="bytes per session × sessions",
            inputs={
                "per session": format_bytes(memory.kv_bytes_per_session),
                "sessions": format_number(memory.kv_bytes_total / memory.kv_bytes_per_session),
            },
            explanation=(
                "All resident contexts together."
                if question.workload.sessions
                else "The calls that run at once on all replicas at peak, on average."
            ),
            evidence=evidence,
        ),
    ]
    if stated is not None:
        overhead = f"{format_bytes(stated)} a server, as stated"
        total = format_bytes(deployment.gpu.memory_bytes * server_gpus)
    else:
        per_gpu = (
            memory.weights_bytes_per_gpu
            + memory.activations_bytes_per_gpu
            + memory.runtime_bytes_per_gpu
        )
        overhead = (
            f"{format_bytes(per_gpu * held * deployment.gpus)}: weights, activations and runtime"
        )
        total = format_bytes(memory.gpu_memory_bytes * held * deployment.gpus)
    result += [
        Rationale(
            figure="kv_budget_bytes_per_server",
            value=memory.kv_budget_bytes_per_server,
            unit="bytes",
            formula="(memory of all GPUs − overhead) × budget fraction, at most the engine's pool",
            inputs={"memory": total, "overhead": overhead, "fraction": format_fraction(fraction)},
            explanation=(
                "What the plan may fill with KV cache. The rest absorbs fragmentation, longer "
                "contexts than the mean and short peaks."
            ),
            evidence=evidence,
        ),
        Rationale(
            figure="sessions_per_server",
            value=None if memory.sessions_per_server is None else float(memory.sessions_per_server),
            unit="",
            formula="⌊KV budget per replica ÷ bytes per session⌋ × replicas per server",
            inputs={
                "budget": format_bytes(memory.kv_budget_bytes_per_server),
                "per session": format_bytes(memory.kv_bytes_per_session),
                "replicas per server": str(
                    held or f"1/{servers_per_replica(option.candidate, deployment)}"
                ),
            },
            explanation="Contexts of that length one server keeps resident at once.",
            evidence=evidence,
        ),
    ]
    return result


def _speed(option: Option) -> list[Rationale]:
    replica = option.replicas[-1]
    curve = replica.curve
    if curve is None:
        return []
    return [
        Rationale(
            figure="max_running",
            value=float(replica.max_running),
            unit="",
            formula="min(engine sequence limit, ⌊KV budget ÷ bytes of a mean context⌋)",
            inputs={
                "sequence limit": str(replica.deployment.max_batch_size),
                "KV budget holds": format_number(float(int(replica.kv_limit))),
                "mean context": f"{format_number(curve.context_tokens)} tokens",
            },
            explanation="Calls one replica runs at once; further calls wait.",
            evidence=Evidence.MODELLED,
        ),
        Rationale(
            figure="capacity_requests_per_s",
            value=curve.capacity_requests_per_s(),
            unit="requests/s",
            formula="1 ÷ (prefill + output tokens × D(k) ÷ k) at the largest batch k",
            inputs={
                "k": str(replica.max_running),
                "D(k)": format_time(float(curve.decode_s[-1])),
                "prefill": format_time(float(curve.prefill_s[-1])),
                "output tokens": format_number(curve.output_tokens),
            },
            explanation=(
                "The largest stable rate of one replica, promises aside: each call costs its share "
                "of k-wide decode steps and what its prompt adds to the steps it is in."
            ),
            evidence=curve.table.evidence,
        ),
    ]


def _normalised(option: Option, scenario: Scenario) -> list[Rationale]:
    rate, each = scenario.requests_per_s_per_server, scenario.requests_per_s_per_gpu
    if rate is None or each is None:
        return []
    server = option.candidate.server
    return [
        Rationale(
            figure="requests_per_s_per_server",
            value=rate,
            unit="requests/s",
            formula="highest rate of one replica with every promise kept × replicas per server",
            inputs={
                "per replica": f"{format_number(each * option.deployment.gpus)} requests/s",
                "per GPU": f"{format_number(each)} requests/s",
                "server": server.title if server else f"{NORMAL_SERVER_GPUS} GPUs",
            },
            explanation="What one server carries at peak; compare kinds of hardware by it.",
            evidence=Evidence.MODELLED,
        )
    ]


def _counts(question: Question, option: Option, scenario: Scenario) -> list[Rationale]:
    need, deployment = option.needs[-1], option.deployment
    candidate, policy = option.candidate, scenario.policy
    whole = candidate.whole_servers and candidate.server is not None
    load = question.workload.load
    match load:
        case OpenLoad():
            wanted = f"{format_number(load.requests_per_s_peak)} requests/s at peak"
        case ClosedLoad():
            wanted = f"{load.clients:,} clients"
        case Batch():
            wanted = f"{format_number(load.requests)} requests in {format_time(load.deadline_s)}"
        case _:
            wanted = f"{question.workload.sessions or 0:,} sessions"
    inputs = {
        "load": wanted,
        "headroom": format_fraction(policy.headroom_fraction),
        "spare": f"{policy.spare_units} {'server' if whole else 'replica'}(s)",
    }
    rows = [
        Rationale(
            figure="replicas",
            value=float(scenario.replicas),
            unit="",
            formula="⌈load × (1 + headroom) ÷ what one replica carries, promises kept⌉ + spare",
            inputs={
                **inputs,
                "for the load": str(need.for_load),
                "with headroom": str(need.with_headroom),
            },
            explanation=(
                "Headroom multiplies the load before anything is rounded; rounding up happens once."
                + (" Servers are bought whole, and every replica they hold runs." if whole else "")
            ),
            evidence=Evidence.MODELLED,
        )
    ]
    if scenario.servers is not None:
        held = replicas_per_server(candidate, deployment)
        packing = (
            f"{held} replicas of {deployment.gpus} GPUs"
            if held
            else f"1/{servers_per_replica(candidate, deployment)} of a replica"
        )
        rows.append(
            Rationale(
                figure="servers",
                value=float(scenario.servers),
                unit="",
                formula="⌈replicas with headroom ÷ replicas per server⌉ + spare servers"
                if whole
                else "⌈GPUs ÷ GPUs per server⌉",
                inputs={
                    **inputs,
                    "a server holds": packing,
                    "for the load": str(scenario.servers_for_load),
                    "with headroom": str(scenario.servers_with_headroom),
                },
                explanation=(
                    f"{candidate.server.title if candidate.server else ''}: the unit that fails "
                    "together and, here, the unit that is bought."
                    if whole
                    else "How many servers these GPUs would fill; they are bought one by one."
                ),
                evidence=Evidence.MODELLED,
            )
        )
    rows.append(
        Rationale(
            figure="gpus",
            value=float(scenario.gpus),
            unit="",
            formula="servers × GPUs per server" if whole else "replicas × GPUs per replica",
            inputs={
                "replicas": str(scenario.replicas),
                "GPUs per replica": str(deployment.gpus),
                **({"servers": str(scenario.servers)} if whole else {}),
            },
            explanation="GPUs paid for, spares included.",
            evidence=Evidence.MODELLED,
        )
    )
    return rows


_MEANING = {
    "ttft": (
        "wait for a slot + wait for earlier prompts + own prompt in chunks",
        (
            "From sending to the first token. Waits are mixtures of exponentials from the number "
            "of calls present (birth-death chain, product form) and of prompts ahead (M/G/1)."
        ),
    ),
    "tpot": (
        "D(n) ÷ (1 − arrivals × prefill(n)), at the percentile of n calls present",
        (
            "Time per output token after the first, averaged over one answer: the decode step at "
            "that many calls, stretched by the prompts of others that share the steps."
        ),
    ),
    "e2e": (
        "TTFT + (output tokens − 1) × TPOT, over the joint distribution of lengths",
        "From sending to the last token of the whole chain.",
    ),
}


def _latency(question: Question, option: Option, scenario: Scenario) -> list[Rationale]:
    figures, replica = scenario.latency, option.replicas[-1]
    if figures is None or replica.curve is None:
        return []
    rows = []
    promised = {(p.metric, p.percentile) for p in question.workload.promises}
    shown = {*promised, ("ttft", 95.0), ("tpot", 95.0), ("e2e", 95.0)}
    for metric, percentile in sorted(shown):
        formula, meaning = _MEANING[metric]
        rows.append(
            Rationale(
                figure=f"{metric}_p{percentile:g}_s",
                value=figures.percentiles.get(f"{metric}_p{percentile:g}_s"),
                unit="s",
                formula=formula,
                inputs={
                    "load per replica": f"{format_number(figures.requests_per_s)} requests/s",
                    "running": format_number(figures.running),
                    "waiting": format_number(figures.waiting),
                    "D at that batch": format_time(
                        float(
                            replica.curve.decode_s[
                                min(max(int(figures.running) - 1, 0), replica.max_running - 1)
                            ]
                        )
                    ),
                    "utilisation": format_fraction(figures.utilisation),
                },
                explanation=meaning + (f" Careful: {figures.regime}." if figures.regime else ""),
                evidence=figures.evidence,
            )
        )
    total = (figures.running + figures.waiting) * scenario.replicas
    rows.append(
        Rationale(
            figure="concurrency_peak",
            value=total,
            unit="",
            formula="(running + waiting) × replicas (Little's law at the operating point)",
            inputs={
                "running": format_number(figures.running),
                "waiting": format_number(figures.waiting),
                "replicas": str(scenario.replicas),
            },
            explanation="Requests sent and unfinished at peak: a result of queueing, not an input.",
            evidence=figures.evidence,
        )
    )
    return rows


def _money(option: Option, scenario: Scenario) -> list[Rationale]:
    rows = []
    price = option.candidate.usd_per_gpu_hour
    if scenario.usd_per_hour is not None and price is not None:
        rows.append(
            Rationale(
                figure="cost_usd_per_hour",
                value=scenario.usd_per_hour,
                unit="usd/h",
                formula="GPUs × price per GPU-hour",
                inputs={
                    "GPUs": str(scenario.gpus),
                    "price": f"{format_usd(price)} usd/h ({option.candidate.price_note})",
                },
                explanation="Paid whether used or not; energy and staff are not in it.",
                evidence=Evidence.DATASHEET,
            )
        )
    if scenario.usd_per_million_output_tokens is not None:
        rows.append(
            Rationale(
                figure="usd_per_million_output_tokens",
                value=scenario.usd_per_million_output_tokens,
                unit="usd",
                formula="cost per hour ÷ output tokens per hour at the mean load × 10⁶",
                inputs={"cost": f"{format_usd(scenario.usd_per_hour)} usd/h"},
                explanation=(
                    "The whole fleet over what it really produces: a reservation cost, comparable "
                    "with what a hosted service charges per output token."
                ),
                evidence=Evidence.MODELLED,
            )
        )
    if scenario.power_watts is not None:
        rows.append(
            Rationale(
                figure="power_watts",
                value=scenario.power_watts,
                unit="watts",
                formula="servers × maximum server power"
                if option.candidate.whole_servers
                else "GPUs × GPU power",
                inputs={"GPUs": str(scenario.gpus), "servers": str(scenario.servers)},
                explanation="The makers' maximum, for cabling and cooling; the average is lower.",
                evidence=Evidence.DATASHEET,
            )
        )
    return rows
