"""Trials -> what is said of them: what they missed, what became of an option, what to do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from tonnage.fleet.rejections import BOTTLENECK, LABEL
from tonnage.fleet.trials import AGAIN
from tonnage.units import format_fraction, format_number, format_time
from tonnage.workload import Batch, OpenLoad

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tonnage.evidence import Rationale
    from tonnage.fleet import Question, Scenario, Trial
    from tonnage.fleet.trials import Hunted
    from tonnage.queueing.simulation import Attainment, Estimate, Verdict


def worst_of(trial: Trial) -> Attainment | None:
    """The promise that is farthest beyond its limit, or nearest to it; None without promises."""

    def share(each: Attainment) -> float:
        return math.inf if each.reached is None else each.reached.value / each.promise.limit_s

    order = {"kept": 0, "unresolved": 1, "missed": 2}
    return max(
        trial.summary.attainments,
        key=lambda each: (order[each.verdict], share(each)),
        default=None,
    )


def trial_words(trial: Trial) -> str:
    """What decided a trial: "TTFT p95 1.82 s > 1.5 s", or that its backlog grows."""
    if not trial.summary.stability.stable:
        growth = format_number(trial.growth_requests_per_s)
        return f"{growth} requests/s more arrive than are answered"
    if isinstance(trial.load, Batch) and trial.finish_s is not None:
        if trial.summary.finished < trial.summary.arrived:
            return "some requests are larger than a replica can hold"
        return f"done in {_against(trial.finish_s, trial.load.deadline_s, trial.verdict)}"
    worst = worst_of(trial)
    if worst is None:
        return "it keeps up"
    label = f"{LABEL[worst.promise.metric]} p{worst.promise.percentile:g}"
    if worst.reached is None:
        return f"{label} has no end: {format_fraction(1 - worst.share.value)} are too late or lost"
    return f"{label} {_against(worst.reached, worst.promise.limit_s, worst.verdict)}"


def _against(reached: Estimate, limit_s: float, verdict: Verdict) -> str:
    sign = {"kept": "≤", "missed": ">", "unresolved": ", unresolved against"}[verdict]
    return f"{format_time(reached.value)} {sign} {format_time(limit_s)}".replace(" ,", ",")


def binding_of(trial: Trial) -> str:
    """The bottleneck of a trial, in the words of a rejection."""
    worst = worst_of(trial)
    if not trial.summary.stability.stable or worst is None:
        return "capacity"
    return BOTTLENECK[worst.promise.metric]


def outcome_words(hunted: Hunted | None, *, capped: bool) -> str:
    """What became of an option; `capped`: it was only hunted as far as it could be as good."""
    if hunted is None:
        return "not simulated: even at the fewest replicas its step times allow it would lose"
    found = hunted.found
    if found is None:
        largest = hunted.tried[-1]
        told = f"simulated with {_replicas(largest)}: {trial_words(largest)}"
        return f"{told}; with more of them it would lose" if capped else told
    told = f"simulated with {_replicas(found)}: {trial_words(found)}"
    fewer = [trial for trial in hunted.tried if trial.replicas < found.replicas]
    if fewer:
        told += f"; with {fewer[-1].replicas}: {trial_words(fewer[-1])}"
    return told


def _replicas(trial: Trial) -> str:
    return f"{trial.replicas} replica{'s' if trial.replicas != 1 else ''}"


def advice_of(verdict: Verdict, requests: int) -> str:
    """What to do about a verdict; nothing about a kept promise."""
    if verdict == "unresolved":
        return (
            "What is reached could be on either side of the limit by the luck of the draw: "
            f"simulate more (--requests {AGAIN[-1] * requests}), or take more headroom."
        )
    return ""


def notes_of(asked: Question, simulated: Question, recommended: Scenario | None) -> tuple[str, ...]:
    """What was taken for granted."""
    notes = []
    load, simulated_load = asked.workload.load, simulated.workload.load
    if load != simulated_load:
        assert isinstance(load, OpenLoad)  # noqa: S101 — no other load has a peak
        assert isinstance(simulated_load, OpenLoad)  # noqa: S101 — as above
        notes.append(
            f"simulated at the mean of {format_number(simulated_load.requests_per_s_peak)} "
            "requests/s, whose Poisson percentile the peak of "
            f"{format_number(load.requests_per_s_peak)} is: random arrivals scatter by themselves, "
            "and chance is not counted twice"
        )
    if isinstance(load, Batch):
        notes.append("a batch that is longer than what is simulated goes on at the rate it reached")
    proof = recommended.proof if recommended is not None else None
    if proof is not None and proof.stated.simulated_replicas < proof.stated.replicas:
        part = proof.stated.simulated_replicas
        who = (
            "one replica is simulated, with its"
            if part == 1
            else (f"{part} replicas are simulated, with their")
        )
        notes.append(f"of larger fleets {who} share of the load")
    return (*notes, "requests are dealt out round robin")


def simulated_rationale(rows: Iterable[Rationale], scenario: Scenario) -> tuple[Rationale, ...]:
    """The derivations of a scenario, with those that a simulation replaced told anew."""
    proof = scenario.proof
    assert proof is not None  # noqa: S101 — the caller simulated it
    told = []
    for row in rows:
        if row.figure == "replicas":
            told.append(
                replace(
                    row,
                    formula="fewest of which a simulation of load × (1 + headroom) keeps every "
                    "promise + spare",
                    inputs={
                        **row.inputs,
                        "by the closed form, with headroom": str(proof.closed_form_replicas),
                    },
                )
            )
        elif scenario.latency is not None and row.figure in scenario.latency.percentiles:
            told.append(_simulated(row, proof.stated))
        else:
            told.append(row)
    return tuple(told)


def _simulated(row: Rationale, trial: Trial) -> Rationale:
    """The derivation of a percentile that was seen in a simulation."""
    metric, percentile = row.figure.split("_")[:2]
    found = trial.summary.distributions[metric]
    estimate = found.percentiles[float(percentile.removeprefix("p"))] if found else None
    interval = {}
    if estimate is not None and estimate.low is not None and estimate.high is not None:
        low, high = format_time(estimate.low), format_time(estimate.high)
        interval = {"90 % interval": f"{low} to {high}"}
    return replace(
        row,
        formula=f"{percentile} of the requests of a simulation, step by step of every engine",
        inputs={
            "requests": f"{trial.summary.counted:,}",
            "replicas": str(trial.simulated_replicas),
            "arriving": f"{format_number(trial.summary.offered_requests_per_s)} requests/s",
            **interval,
        },
        explanation=f"{LABEL[metric]} as users would feel it, every replica up, at the load as "
        "stated. The interval is the luck of the draw, not the error of the step times.",
    )
