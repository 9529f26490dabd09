"""A Plan -> the JSON report: SI numbers under stable names, described by `schemas/plan.json`.

`SCHEMA_VERSION` follows the document, not the tool: a minor step adds keys, a major one may change
or drop some. A value that is not known or not finite is null, and `explanations` says why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib import resources
from typing import Literal

from tonnage.deployment import Deployment
from tonnage.dtypes import KV_DTYPES
from tonnage.evidence import Rationale
from tonnage.fleet import (
    Alert,
    Change,
    MemoryFigures,
    Plan,
    PoolPlan,
    Rejection,
    Scenario,
)
from tonnage.model import ModelSpec
from tonnage.queueing import LatencyFigures
from tonnage.report import Report, dictionary
from tonnage.report.figures import METRICS, percentile_key, server_of
from tonnage.report.proof_json import proof_data, scenario_proof_data
from tonnage.workload import Batch, ClosedLoad, OpenLoad

SCHEMA_VERSION = "1.0"
PERCENTILES = (50, 90, 95, 99)

Json = dict[str, object]
DocumentName = Literal["plan", "run", "request", "fits", "simulation"]


def render_json(report: Report) -> str:
    """The report's data as indented JSON; never NaN or Infinity."""
    return json.dumps(report.data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def schema(document: DocumentName = "plan") -> Json:
    """The published JSON Schema (draft 2020-12) of a document.

    "plan" is what `tonnage size` prints, "fits" what `tonnage fit` does, "simulation" what
    `tonnage simulate` does, "run" a run.json and what `tonnage measure` prints, "request" a line of
    a requests.jsonl.
    """
    file = resources.files("tonnage.report").joinpath("schemas", f"{document}.json")
    loaded: Json = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def plan_data(plan: Plan, *, command: str = "tonnage size study.yaml") -> Json:
    """The whole plan, ready for `json.dumps`; `command` is what was typed for it."""
    recommended = plan.scenario("recommended") if plan.scenarios else None
    data: Json = {
        "schema_version": SCHEMA_VERSION,
        "name": plan.question.name,
        "mode": plan.question.workload.mode,
        "demand": _demand(plan),
        "inputs": [
            {
                "key": each.key,
                "text": each.text,
                "value": each.value,
                "unit": each.unit,
                "evidence": each.evidence.label,
                "note": each.note,
            }
            for each in plan.question.inputs
        ],
        "parameter_dictionary": {
            name: asdict(entry)
            for name, entry in dictionary.explained(
                each.key for each in plan.question.inputs
            ).items()
        },
        "model": _model(_main_model(plan), plan.deployment, plan),
        "models": [_model(model, None, plan) for model in plan.question.models.values()],
        "memory": memory_data(recommended.memory) if recommended else None,
        "plan": {
            "objective": plan.objective,
            "objective_reason": plan.objective_reason,
            "deployment": _deployment(plan.deployment, plan) if recommended else None,
            "scenarios": {scenario.name: _scenario(scenario, plan) for scenario in plan.scenarios},
            "latency": latency_data(recommended.latency) if recommended else None,
            "constraints": [asdict(each) for each in plan.constraints],
            "pools": [_pool(pool, plan) for pool in recommended.pools] if recommended else [],
        },
        "rejections": [
            _rejection(each, priced=each.priced) for each in plan.rejections
        ] + [_rejection(each, priced=False) for each in plan.unpriced],
        "infeasible": None
        if plan.infeasible is None
        else {
            "reason": plan.infeasible.reason,
            "closest": plan.infeasible.closest,
            "relaxations": [_change(each) for each in plan.infeasible.relaxations],
        },
        "alerts": _alerts(plan),
        "sensitivities": [asdict(each) for each in plan.sensitivities],
        "standing": _standing(plan),
        "considered": dict(plan.considered),
        "evidence": _evidence(plan, recommended),
        "proof": proof_data(plan, command),
    }  # fmt: skip
    return with_explanations(data, _why_null(plan))


def with_explanations(data: Json, reasons: Mapping[str, str]) -> Json:
    """`data` with every number finite, and `explanations` for what is null (path -> why)."""
    explanations: dict[str, str] = {}
    finite = _finite(data, "", explanations)
    assert isinstance(finite, dict)  # noqa: S101 — a dict goes in
    finite["explanations"] = {**reasons, **explanations}
    return finite


def _finite(value: object, path: str, explanations: dict[str, str]) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        unbounded = (
            "grows without bound at this load" if math.isinf(value) else "is not defined here"
        )
        explanations[path] = f"this figure {unbounded}"
        return None
    if isinstance(value, Mapping):
        inner = f"{path}." if path else ""
        return {
            str(key): _finite(each, f"{inner}{key}", explanations) for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_finite(each, f"{path}[{i}]", explanations) for i, each in enumerate(value)]
    return value


def _why_null(plan: Plan) -> dict[str, str]:
    reasons: dict[str, str] = {}
    if plan.infeasible is not None:
        reasons["plan.deployment"] = reasons["plan.latency"] = reasons["memory"] = (
            "nothing keeps every promise; see infeasible"
        )
    elif plan.question.workload.mode == "memory":
        reasons["plan.latency"] = "only memory was asked: without a load there is no latency"
    return reasons


def _demand(plan: Plan) -> Json:
    workload = plan.question.workload
    mean: float | None = None
    peak: float | None = None
    clients: int | None = None
    match workload.load:
        case OpenLoad() as load:
            mean, peak = load.requests_per_s_mean, load.requests_per_s_peak
        case Batch() as load:
            mean = peak = load.requests / load.deadline_s
        case ClosedLoad() as load:
            clients = load.clients
    return {
        "requests_per_s_mean": mean,
        "requests_per_s_peak": peak,
        "clients": clients,
        "sessions": workload.sessions,
        "context_tokens": workload.context_tokens,
        "concurrency_peak": concurrency_peak(plan),
        "promises": [
            asdict(each) | {"evidence": each.evidence.label} for each in workload.promises
        ],
        "steps": [asdict(each) | {"evidence": each.evidence.label} for each in workload.steps],
    }


def concurrency_peak(plan: Plan) -> float | None:
    """Requests sent and unfinished at peak, over all replicas of the minimum scenario.

    Sum over pools of replicas x (running + waiting); a closed load without think time is its
    number of clients. None when the plan has no operating point.
    """
    load = plan.question.workload.load
    if isinstance(load, ClosedLoad) and load.think_time_s == 0:
        return load.clients
    if not plan.scenarios:
        return None
    total = 0.0
    for pool in plan.scenario("minimum").pools:
        if pool.latency is None:
            return None
        total += pool.replicas * (pool.latency.running + pool.latency.waiting)
    return total


def _main_model(plan: Plan) -> ModelSpec:
    """The model that writes the answer: that of the last call."""
    if plan.deployment is not None:
        return plan.deployment.model
    return plan.question.models[plan.question.workload.calls[-1].model]


def _model(model: ModelSpec, deployment: Deployment | None, plan: Plan) -> Json:
    weight_dtype = (
        deployment.weight_dtype
        if deployment
        else next(iter(plan.question.weight_dtypes), model.native_weight_dtype)
    )
    kv_dtype = (
        deployment.kv_dtype if deployment else next(iter(plan.question.kv_dtypes), KV_DTYPES[0])
    )
    return {
        "name": model.name,
        "family": model.family,
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "layers": model.layers,
        "kv_heads": model.kv_heads,
        "window_tokens": model.window_tokens,
        "max_context_tokens": model.max_context_tokens,
        "weight_dtype": weight_dtype,
        "kv_dtype": kv_dtype,
        "weights_bytes": model.weights_bytes(weight_dtype),
        "kv_bytes_per_token": model.kv_bytes_per_token(kv_dtype),
        "source": model.source,
    }


def memory_data(memory: MemoryFigures) -> Json:
    """Bytes on one GPU and one server."""
    return asdict(memory)


def _deployment(deployment: Deployment | None, plan: Plan) -> Json | None:
    if deployment is None:
        return None
    server = server_of(plan)
    return {
        "model": deployment.model.name,
        "gpu": deployment.gpu.name,
        "server": server.name if server else None,
        "gpus_per_replica": deployment.gpus,
        "tensor_parallel": deployment.tensor_parallel,
        "pipeline_parallel": deployment.pipeline_parallel,
        "expert_parallel": deployment.expert_parallel,
        "weight_dtype": deployment.weight_dtype,
        "kv_dtype": deployment.kv_dtype,
        "max_batch_size": deployment.max_batch_size,
        "max_batched_tokens": deployment.max_batched_tokens,
        "engine": deployment.engine.name,
        "engine_versions": deployment.engine.versions,
    }


def latency_data(figures: LatencyFigures | None) -> Json | None:
    """Every percentile of every metric (null when unknown) and the operating point."""
    if figures is None:
        return None
    keys = [percentile_key(metric, percentile) for metric in METRICS for percentile in PERCENTILES]
    return {
        **{key: figures.percentiles.get(key) for key in keys},
        **figures.percentiles,
        "utilisation": figures.utilisation,
        "running": figures.running,
        "waiting": figures.waiting,
        "requests_per_s": figures.requests_per_s,
        "kv_fraction": figures.kv_fraction,
        "regime": figures.regime,
        "evidence": figures.evidence.label,
    }


def _scenario(scenario: Scenario, plan: Plan) -> Json:
    return {
        "configuration": {
            "headroom_fraction": scenario.policy.headroom_fraction,
            "spare_units": scenario.policy.spare_units,
            "spare_unit": "replica" if server_of(plan) is None else "server",
            "kv_budget_fraction": scenario.policy.kv_budget_fraction,
        },
        "replicas": scenario.replicas,
        "gpus": scenario.gpus,
        "servers": scenario.servers,
        "servers_for_load": scenario.servers_for_load,
        "servers_with_headroom": scenario.servers_with_headroom,
        "cost_usd_per_hour": scenario.usd_per_hour,
        "usd_per_million_output_tokens": scenario.usd_per_million_output_tokens,
        "power_watts": scenario.power_watts,
        "rack_units": scenario.rack_units,
        "requests_per_s_per_server": scenario.requests_per_s_per_server,
        "requests_per_s_per_gpu": scenario.requests_per_s_per_gpu,
        "survives": {"replicas": scenario.survives_replicas, "servers": scenario.survives_servers},
        "latency": latency_data(scenario.latency),
        "memory": memory_data(scenario.memory),
        "pools": [_pool(pool, plan) for pool in scenario.pools],
        "rationale": rationale_data(scenario.rationale),
        "alerts": [asdict(each) for each in scenario.alerts],
        "proof": scenario_proof_data(scenario.proof),
    }


def rationale_data(rationale: Iterable[Rationale]) -> list[Json]:
    """How each figure came about."""
    return [
        {
            "figure": each.figure,
            "value": each.value,
            "unit": each.unit,
            "formula": each.formula,
            "inputs": dict(each.inputs),
            "explanation": each.explanation,
            "evidence": each.evidence.label,
        }
        for each in rationale
    ]


def _pool(pool: PoolPlan, plan: Plan) -> Json:
    return {
        "model": pool.model,
        "deployment": _deployment(pool.deployment, plan),
        "replicas_for_load": pool.replicas_for_load,
        "replicas": pool.replicas,
        "gpus": pool.replicas * pool.deployment.gpus,
        "latency": latency_data(pool.latency),
        "latency_one_lost": latency_data(pool.latency_one_lost),
        "latency_two_lost": latency_data(pool.latency_two_lost),
    }


def _rejection(rejection: Rejection, *, priced: bool) -> Json:
    return {
        "option": rejection.option,
        "gpu": rejection.gpu,
        "tensor_parallel": rejection.tensor_parallel,
        "bottleneck": rejection.bottleneck,
        "reason": rejection.reason,
        "change": None if rejection.change is None else _change(rejection.change),
        "gpus": rejection.gpus,
        "servers": rejection.servers,
        "cost_usd_per_hour": rejection.usd_per_hour,
        "priced": priced,
    }


def _change(change: Change) -> Json:
    return asdict(change)


def _alerts(plan: Plan) -> list[Json]:
    every: list[Alert] = [
        *plan.alerts,
        *(alert for scenario in plan.scenarios for alert in scenario.alerts),
    ]
    return [asdict(each) for each in dict.fromkeys(every)]


def _standing(plan: Plan) -> Json | None:
    standing = plan.standing
    if standing is None:
        return None
    return {
        "existing_gpus": standing.existing_gpus,
        "existing_servers": standing.existing_servers,
        "reaches": standing.reaches,
        "sentence": standing.sentence,
        "add_servers": standing.add_servers,
        "add_gpus": standing.add_gpus,
        "latency": latency_data(standing.latency),
    }


def _evidence(plan: Plan, recommended: Scenario | None) -> Json:
    """Each figure of the recommended scenario -> the word for what it rests on."""
    words: Json = {step.name: step.evidence.label for step in plan.question.workload.steps}
    if recommended is not None:
        words |= {each.figure: each.evidence.label for each in recommended.rationale}
        if recommended.latency is not None:
            label = recommended.latency.evidence.label
            words |= {
                key: label
                for key, value in recommended.latency.percentiles.items()
                if value is not None
            }
    return words
