"""A SimulationAnswer -> the JSON report of a simulation, described by `schemas/simulation.json`.

The same question with the same seed gives the same bytes: nothing here is of the clock or of the
machine.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import numpy as np

from tonnage.fleet import BatchDone, Replication, Scene, SimulationAnswer
from tonnage.queueing.simulation import (
    STATUSES,
    Attainment,
    Distribution,
    EngineModel,
    Estimate,
    SimulatedFleet,
    Summary,
    Timeline,
    Totals,
    Verdict,
)
from tonnage.queueing.simulation.statistics import LEAST_RUNS
from tonnage.report.json import Json, with_explanations
from tonnage.report.simulation_words import NO_RATE, unjudged_words
from tonnage.version import __version__
from tonnage.workload import PERCENTILES, Promise

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA_VERSION = "1.0"
FINISHED = STATUSES.index("finished")


def simulation_data(answer: SimulationAnswer) -> Json:
    """The whole answer, ready for `json.dumps`."""
    scene, summary = answer.scene, answer.summary
    data: Json = {
        "schema_version": SCHEMA_VERSION,
        "tonnage_version": __version__,
        "name": scene.name,
        "seed": scene.seed,
        "stable": summary.stability.stable,
        "verdict": verdict_of(answer),
        "intervals_from": intervals_from(answer),
        "requests": {
            "arrived": summary.arrived,
            "finished": summary.finished,
            "rejected": summary.rejected,
            "lost": summary.lost,
            "unfinished": summary.unfinished,
            "counted": summary.counted,
        },
        "ttft_s": _distribution(summary.ttft),
        "tpot_s": _distribution(summary.tpot),
        "e2e_s": _distribution(summary.e2e),
        "slo": _shares(summary),
        "promises": [
            *map(_attainment, summary.attainments),
            *map(_unjudged, summary.unjudged),
        ],
        "batch": _done(answer.done),
        "goodput": {
            "share": _value(summary.goodput_share),
            "share_interval_90": _interval(summary.goodput_share),
            "requests_per_s": summary.goodput_requests_per_s,
        },
        "throughput": {
            "offered_requests_per_s": summary.offered_requests_per_s,
            "requests_per_s": summary.requests_per_s,
            "output_tokens_per_s": summary.output_tokens_per_s,
        },
        "kv": {
            "peak_fraction": summary.kv_peak_fraction,
            "preemptions": summary.preemptions,
            "prefix_hit_share": summary.prefix_hit_share,
        },
        "limits_hit": dict(summary.limits_hit),
        "stability": {
            "growth_requests_per_s": summary.stability.growth_requests_per_s,
            "explanation": summary.stability.explanation,
        },
        "window_s": list(summary.window_s),
        "until_s": answer.simulated.until_s,
        "load": _load(scene, answer),
        "fleet": _fleet(scene),
        "replicas": [
            _replica(number, totals, answer) for number, totals in enumerate(totals_of(answer))
        ],
        "replications": [_replication(each) for each in answer.replications],
        "timeline": _timeline(answer.simulated.timeline),
        "inputs": [asdict(each) | {"evidence": each.evidence.label} for each in scene.inputs],
        "notes": list(notes_of(answer)),
    }  # fmt: skip
    return with_explanations(data, _why_null(answer))


def verdict_of(told: SimulationAnswer | Replication) -> Verdict | None:
    """Of all promises together, a deadline too; None when nothing is promised or can be judged."""
    verdicts = {each.verdict for each in told.summary.attainments}
    if told.done is not None:
        verdicts.add(told.done.verdict)
    order: tuple[Verdict, ...] = ("missed", "unresolved", "kept")
    return next((each for each in order if each in verdicts), None)


def promise_key(promise: Promise) -> str:
    """As "ttft_p95"."""
    return f"{promise.metric}_p{promise.percentile:g}"


def notes_of(answer: SimulationAnswer) -> tuple[str, ...]:
    """What to know about the load, the run and its statistics, each once."""
    return tuple(dict.fromkeys((*answer.scene.notes, *answer.summary.notes)))


def intervals_from(answer: SimulationAnswer) -> Literal["batches", "seeds"]:
    """What intervals are read off: batches of consecutive requests, or runs of several seeds."""
    return "seeds" if len(answer.runs) >= LEAST_RUNS else "batches"


def finished_on(answer: SimulationAnswer, replica: int) -> int:
    """Requests whose answers this replica ended, in all runs."""
    return sum(
        int(np.count_nonzero((run.records.replica == replica) & (run.records.status == FINISHED)))
        for run in answer.runs
    )


def totals_of(answer: SimulationAnswer) -> tuple[Totals, ...]:
    """What each replica counted in all runs; of its cache, the most."""
    return tuple(
        Totals(
            **{
                name: (max if name == "kv_peak_fraction" else sum)(
                    getattr(totals, name) for totals in each
                )
                for name in Totals.__slots__
            }
        )
        for each in zip(*(run.totals for run in answer.runs), strict=True)
    )


def tokens_of(answer: SimulationAnswer, name: Literal["prompt", "output"]) -> NDArray[np.integer]:
    """Lengths of the requests of all runs."""
    return np.concatenate([getattr(run.records, f"{name}_tokens") for run in answer.runs])


def _why_null(answer: SimulationAnswer) -> dict[str, str]:
    summary = answer.summary
    reasons = {
        f"{name}_s": "no request of the steady window has this"
        for name, distribution in summary.distributions.items()
        if distribution is None
    }
    unjudged = {promise_key(each): unjudged_words(each) for each in summary.unjudged}
    reasons |= {f"slo.{key}": why for key, why in unjudged.items()}
    judged = len(summary.attainments)
    for number, why in enumerate(unjudged.values(), start=judged):
        reasons[f"promises[{number}]"] = why
    if not judged:
        what = "nothing that is promised can be judged" if unjudged else "nothing is promised"
        reasons["goodput"] = what
    if summary.requests_per_s is None:
        reasons |= {"throughput": NO_RATE}
        if judged:
            reasons["goodput.requests_per_s"] = NO_RATE
    elif summary.offered_requests_per_s is None:
        reasons["throughput.offered_requests_per_s"] = "a single request arrives at no rate"
    if answer.done is not None and math.isinf(answer.done.finish.value):
        reasons["batch.finish_s"] = "nothing was answered"
    reasons |= {
        f"fleet.outages[{number}].up_s": "it does not come back"
        for number, outage in enumerate(answer.scene.fleet.outages)
        if math.isinf(outage.up_s)
    }
    return reasons


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _interval(estimate: Estimate | None) -> list[float] | None:
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    return [estimate.low, estimate.high]


def _distribution(found: Distribution | None) -> Json:
    estimates: dict[str, Estimate | None] = {"mean": found.mean if found else None}
    for percentile in PERCENTILES:
        estimates[f"p{percentile:g}"] = found.percentiles.get(percentile) if found else None
    return {
        **{name: _value(estimate) for name, estimate in estimates.items()},
        "interval_90": {name: _interval(estimate) for name, estimate in estimates.items()},
        "count": found.count if found else 0,
    }


def _attainment(each: Attainment) -> Json:
    return {
        "promise": promise_key(each.promise),
        **asdict(each.promise),
        "evidence": each.promise.evidence.label,
        "attainment": each.share.value,
        "attainment_interval_90": _interval(each.share),
        "reached_s": _value(each.reached),
        "reached_interval_90": _interval(each.reached),
        "verdict": each.verdict,
    }


def _unjudged(promise: Promise) -> Json:
    return {
        "promise": promise_key(promise),
        **asdict(promise),
        "evidence": promise.evidence.label,
        "attainment": None,
        "attainment_interval_90": None,
        "reached_s": None,
        "reached_interval_90": None,
        "verdict": None,
    }


def _shares(summary: Summary) -> Json:
    shares: Json = {promise_key(each.promise): each.share.value for each in summary.attainments}
    return shares | {promise_key(promise): None for promise in summary.unjudged}


def _done(done: BatchDone | None) -> Json | None:
    if done is None:
        return None
    return {
        "requests": done.batch.requests,
        "deadline_s": done.batch.deadline_s,
        "finish_s": done.finish.value,
        "finish_interval_90": _interval(done.finish),
        "verdict": done.verdict,
    }


def _load(scene: Scene, answer: SimulationAnswer) -> Json:
    first, after = scene.counted
    prompt_tokens, output_tokens = tokens_of(answer, "prompt"), tokens_of(answer, "output")
    return {
        "description": scene.load,
        "clients": asdict(scene.clients) if scene.clients else None,
        "warmup_requests": first,
        "cooldown_requests": max(len(answer.simulated.records) - after, 0),
        "prompt_tokens_mean": _mean(prompt_tokens),
        "prompt_tokens_max": _most(prompt_tokens),
        "output_tokens_mean": _mean(output_tokens),
        "output_tokens_max": _most(output_tokens),
    }


def _mean(tokens: np.ndarray) -> float | None:
    return float(tokens.mean()) if len(tokens) else None


def _most(tokens: np.ndarray) -> int | None:
    return int(tokens.max()) if len(tokens) else None


def _fleet(scene: Scene) -> Json:
    fleet, deployment = scene.fleet, scene.deployment
    server = scene.candidate.server if scene.candidate.whole_servers else None
    return {
        "model": deployment.model.name,
        "gpu": deployment.gpu.name,
        "server": server.name if server else None,
        "gpus": scene.gpus,
        "gpus_per_replica": deployment.gpus,
        "replicas": fleet.replicas,
        "tensor_parallel": deployment.tensor_parallel,
        "pipeline_parallel": deployment.pipeline_parallel,
        "expert_parallel": deployment.expert_parallel,
        "weight_dtype": deployment.weight_dtype,
        "kv_dtype": deployment.kv_dtype,
        "engine": deployment.engine.name,
        "engine_versions": deployment.engine.versions,
        "limits": _limits(fleet.engine),
        "step_evidence": fleet.engine.table.evidence.label,
        "router": fleet.router,
        "router_lag_s": fleet.router_lag_s,
        "retry": fleet.retry,
        "outages": [
            {
                "replica": each.replica,
                "down_s": each.down_s,
                "up_s": None if math.isinf(each.up_s) else each.up_s,
            }
            for each in fleet.outages
        ],
        "autoscaler": asdict(fleet.autoscaler) if fleet.autoscaler else None,
        "disaggregation": _disaggregation(fleet),
    }


def _limits(engine: EngineModel) -> Json:
    return {
        "policy": engine.policy,
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "max_context_tokens": engine.max_context_tokens,
        "chunked_prefill": engine.chunked_prefill,
        "prefix_cache": engine.prefix_cache,
        "kv_units": engine.kv.units,
        "block_tokens": engine.kv.block_tokens,
        "block_units": engine.kv.block_units,
        "window_block_units": engine.kv.window_block_units,
        "window_blocks": engine.kv.window_blocks,
        "sequence_units": engine.kv.sequence_units,
    }


def _disaggregation(fleet: SimulatedFleet) -> Json | None:
    split = fleet.disaggregation
    if split is None:
        return None
    return {
        "replicas": split.replicas,
        "limits": _limits(split.engine),
        "token_s": split.token_s,
        "latency_s": split.latency_s,
    }


def _replica(number: int, totals: Totals, answer: SimulationAnswer) -> Json:
    return {
        "replica": number,
        "decodes_only": number >= answer.scene.fleet.replicas,
        "finished": finished_on(answer, number),
        **asdict(totals),
    }


def _replication(each: Replication) -> Json:
    summary = each.summary
    return {
        "seed": each.seed,
        "stable": summary.stability.stable,
        "verdict": verdict_of(each),
        "counted": summary.counted,
        "ttft_s": _distribution(summary.ttft),
        "tpot_s": _distribution(summary.tpot),
        "e2e_s": _distribution(summary.e2e),
        "slo": _shares(summary),
        "finish_s": each.done.finish.value if each.done else None,
        "requests_per_s": summary.requests_per_s,
        "preemptions": summary.preemptions,
        "until_s": each.simulated.until_s,
    }


def _timeline(timeline: Timeline) -> Json:
    """Columns of equal length; of the cache, the mean and the fullest of the replicas."""
    kv = timeline.kv_fraction.reshape(len(timeline.at_s), -1)
    return {
        "at_s": timeline.at_s.tolist(),
        "running": timeline.running.tolist(),
        "waiting": timeline.waiting.tolist(),
        "replicas_up": timeline.replicas_up.tolist(),
        "kv_fraction_mean": kv.mean(axis=1).tolist() if kv.size else [],
        "kv_fraction_max": kv.max(axis=1).tolist() if kv.size else [],
    }
