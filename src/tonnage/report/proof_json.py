"""A proof -> its place in the JSON report of a plan."""

from __future__ import annotations

from tonnage.fleet import Plan, ScenarioProof, Trial
from tonnage.queueing.simulation import Estimate
from tonnage.report.figures import METRICS
from tonnage.report.proof_commands import simulate_command

Json = dict[str, object]


def proof_data(plan: Plan, command: str) -> Json | None:
    """How the plan that `command` asked for was proven, and what became of every option."""
    proof = plan.proof
    if proof is None:
        return None
    return {
        "verdict": proof.verdict,
        "unproven": proof.unproven,
        "advice": proof.advice,
        "requests": proof.requests,
        "seed": proof.seed,
        "simulations": proof.simulations,
        "options": [
            {
                "option": each.option,
                "gpu": each.gpu,
                "tensor_parallel": each.tensor_parallel,
                "closed_form_replicas": each.closed_form_replicas,
                "closed_form_gpus": each.closed_form_gpus,
                "replicas": each.replicas,
                "gpus": each.gpus,
                "verdict": each.verdict,
                "tried": [_trial(trial) for trial in each.tried],
                "outcome": each.outcome,
            }
            for each in proof.options
        ],
        "notes": list(proof.notes),
        "command": simulate_command(plan, command),
    }


def scenario_proof_data(proof: ScenarioProof | None) -> Json | None:
    """The simulations of one scenario."""
    if proof is None:
        return None
    one, two = proof.lost
    return {
        "closed_form_replicas": proof.closed_form_replicas,
        "closed_form_gpus": proof.closed_form_gpus,
        "unit": proof.unit,
        "design": _trial(proof.design),
        "stated": _trial(proof.stated),
        "one_lost": None if one is None else _trial(one),
        "two_lost": None if two is None else _trial(two),
    }


def _trial(trial: Trial) -> Json:
    summary = trial.summary
    stable = summary.stability.stable
    p95 = {
        metric: each.percentiles[95.0]
        for metric, each in summary.distributions.items()
        if each is not None and stable
    }
    return {
        "replicas": trial.replicas,
        "simulated_replicas": trial.simulated_replicas,
        "requests": summary.counted,
        "requests_per_s": None
        if summary.offered_requests_per_s is None
        else summary.offered_requests_per_s * trial.replicas / trial.simulated_replicas,
        "verdict": trial.verdict,
        "stable": stable,
        "growth_requests_per_s": trial.growth_requests_per_s,
        **{f"{metric}_p95_s": p95[metric].value if metric in p95 else None for metric in METRICS},
        **{f"{metric}_p95_interval_90": _interval(p95.get(metric)) for metric in METRICS},
        "promises": [
            {
                "metric": each.promise.metric,
                "percentile": each.promise.percentile,
                "limit_s": each.promise.limit_s,
                "reached_s": each.reached.value if each.reached else None,
                "reached_interval_90": _interval(each.reached),
                "attainment": each.share.value,
                "verdict": each.verdict,
            }
            for each in summary.attainments
        ],
        "finish_s": trial.finish_s.value if trial.finish_s else None,
        "finish_interval_90": _interval(trial.finish_s),
        "kv_peak_fraction": summary.kv_peak_fraction,
        "preemptions": summary.preemptions,
    }


def _interval(estimate: Estimate | None) -> list[float] | None:
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    return [estimate.low, estimate.high]
