"""Users, rates and days -> the load, with every step of the arithmetic in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tonnage.evidence import Evidence
from tonnage.fleet import StatedInput
from tonnage.study.document import (
    BatchWork,
    DailyUsers,
    Key,
    TokensPerDay,
    Users,
    WorkloadSection,
    format_key,
)
from tonnage.units import (
    SECONDS_PER_DAY,
    SECONDS_PER_HOUR,
    format_fraction,
    format_number,
    format_time,
)
from tonnage.workload import (
    Batch,
    ClosedLoad,
    DemandStep,
    Load,
    OpenLoad,
    poisson_percentile,
)

# What is taken when a study does not say; each is listed as assumed and tried at half and more.
ACTIVE_AT_PEAK_SHARE = 0.10
REQUESTS_PER_ACTIVE_USER_PER_HOUR = 12.0  # one every five minutes
REQUESTS_PER_DAILY_USER = 3.0  # NVIDIA DLI sizing course, its worked example
ACTIVE_HOURS = 24.0
POISSON_PERCENTILE = 95.0  # NVIDIA DLI sizing course, "Peak requests per second"

TOLD = Evidence.DATASHEET  # a stated figure is taken at its word, like a datasheet's


@dataclass(slots=True)
class Ledger:
    """Collects, while a question is built, its arithmetic and what had to be assumed."""

    steps: list[DemandStep] = field(default_factory=list)
    assumed: list[StatedInput] = field(default_factory=list)

    def assume(
        self, key: Key, text: str, *, value: float | None = None, unit: str = "", note: str = ""
    ) -> None:
        """Note an input that nobody stated."""
        self.assumed.append(
            StatedInput(
                key=format_key(key),
                text=text,
                evidence=Evidence.ASSUMED,
                value=value,
                unit=unit,
                note=note,
            )
        )

    def step(
        self, name: str, formula: str, value: float, unit: str, evidence: Evidence = TOLD
    ) -> None:
        """Note one line of arithmetic."""
        self.steps.append(
            DemandStep(name=name, formula=formula, value=value, unit=unit, evidence=evidence)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTokens:
    """Mean tokens of one request (a whole chain of calls), to turn tokens per day into requests."""

    prompt_tokens: float
    output_tokens: float
    evidence: Evidence


def derive_load(
    workload: WorkloadSection,
    tokens: RequestTokens | None,
    ledger: Ledger,
    *,
    output_tokens_per_s: float | None = None,
) -> Load | None:
    """The load a workload states, its steps written to `ledger`; None when only sessions are.

    `output_tokens_per_s` is the throughput promised of offline work.
    """
    if workload.batch is not None or output_tokens_per_s is not None:
        return _batch(workload.batch or BatchWork(), tokens, output_tokens_per_s, ledger)
    if workload.concurrency is not None:
        ledger.step(
            "clients",
            f"{format_number(workload.concurrency)} requests always in flight",
            workload.concurrency,
            "clients",
        )
        return ClosedLoad(clients=workload.concurrency)
    if workload.clients is not None:
        think_s = workload.clients.think_time
        if think_s is None:
            ledger.assume(("workload", "clients", "think_time"), "none", note="no pause")
        ledger.step(
            "clients",
            f"{format_number(workload.clients.count)} clients, each thinking "
            f"{format_time(think_s or 0.0)} between an answer and the next request",
            workload.clients.count,
            "clients",
        )
        return ClosedLoad(clients=workload.clients.count, think_time_s=think_s or 0.0)
    if workload.peak_request_rate is not None:
        return _stated_peak(workload, workload.peak_request_rate, ledger)
    mean = _mean_rate(workload, tokens, ledger)
    if mean is None:
        return None
    rate, evidence = mean
    return _with_peak(rate, evidence, workload, ledger)


def _batch(
    work: BatchWork,
    tokens: RequestTokens | None,
    output_tokens_per_s: float | None,
    ledger: Ledger,
) -> Batch:
    """Requests and the time they may take; a promised throughput is a deadline too."""
    requests, deadline_s = work.requests, work.deadline
    if output_tokens_per_s is not None and tokens is not None:
        rate = output_tokens_per_s / max(tokens.output_tokens, 1.0)
        ledger.step(
            "rate of the throughput",
            f"{format_number(output_tokens_per_s)} output tokens/s ÷ "
            f"{format_number(round(tokens.output_tokens, 1))} tokens of an answer = "
            f"{format_number(rate)} requests/s",
            rate,
            "requests/s",
            tokens.evidence,
        )
        if requests is None:
            return Batch(requests=rate * SECONDS_PER_DAY, deadline_s=SECONDS_PER_DAY)
        deadline_s = min(requests / rate, deadline_s or math.inf)
    assert requests is not None  # noqa: S101 — the rules ask for both, or for a throughput
    assert deadline_s is not None  # noqa: S101 — as above
    ledger.step(
        "rate to finish in time",
        f"{format_number(requests)} requests ÷ {format_time(deadline_s)} = "
        f"{format_number(requests / deadline_s)} requests/s",
        requests / deadline_s,
        "requests/s",
    )
    return Batch(requests=requests, deadline_s=deadline_s)


def _stated_peak(workload: WorkloadSection, peak: float, ledger: Ledger) -> OpenLoad:
    mean = workload.request_rate
    if mean is None:
        ledger.assume(
            ("workload", "request_rate"),
            f"{format_number(peak)} requests/s on average, as at peak",
            note="the mean is not stated and is taken as the peak",
        )
    else:
        ledger.step(
            "mean rate",
            f"{format_number(mean)} requests/s on average, as stated",
            mean,
            "requests/s",
        )
    ledger.step(
        "peak rate",
        f"{format_number(peak)} requests/s at peak, as stated",
        peak,
        "requests/s",
    )
    return OpenLoad(requests_per_s_mean=peak if mean is None else mean, requests_per_s_peak=peak)


def _mean_rate(
    workload: WorkloadSection, tokens: RequestTokens | None, ledger: Ledger
) -> tuple[float, Evidence] | None:
    """Requests per second on average, and how well that is known."""
    if workload.users is not None:
        return _users(workload.users, ledger)
    if workload.request_rate is not None:
        rate = workload.request_rate
        text = f"{format_number(rate)} requests/s on average, as stated"
        ledger.step("mean rate", text, rate, "requests/s")
        return rate, TOLD
    if workload.daily_users is not None:
        per_day, evidence = _daily_users(workload.daily_users, ledger)
    elif workload.tokens_per_day is not None and tokens is not None:
        per_day, evidence = _tokens_per_day(workload, workload.tokens_per_day, tokens, ledger)
    elif workload.requests_per_day is not None:
        per_day, evidence = workload.requests_per_day, TOLD
    else:
        return None
    return _spread_over_day(per_day, evidence, workload.active_hours, ledger)


def _users(users: Users, ledger: Ledger) -> tuple[float, Evidence]:
    key = ("workload", "users")
    evidence = TOLD
    share, each = users.active_at_peak, users.requests_per_active_user_per_hour
    if share is None:
        share, evidence = ACTIVE_AT_PEAK_SHARE, Evidence.ASSUMED
        ledger.assume((*key, "active_at_peak"), format_fraction(share), value=share)
    active = users.registered * share
    ledger.step(
        "active users",
        f"{format_number(users.registered)} registered × {format_fraction(share)} active = "
        f"{format_number(active)} active users",
        active,
        "users",
        evidence,
    )
    if each is None:
        each, evidence = REQUESTS_PER_ACTIVE_USER_PER_HOUR, Evidence.ASSUMED
        ledger.assume((*key, "requests_per_active_user_per_hour"), format_number(each), value=each)
    rate = active * each / SECONDS_PER_HOUR
    ledger.step(
        "mean rate",
        f"{format_number(active)} × {format_number(each)} requests/h ÷ 3,600 = "
        f"{format_number(rate)} requests/s on average",
        rate,
        "requests/s",
        evidence,
    )
    return rate, evidence


def _daily_users(daily: DailyUsers, ledger: Ledger) -> tuple[float, Evidence]:
    each, evidence = daily.requests_per_user, TOLD
    if each is None:
        each, evidence = REQUESTS_PER_DAILY_USER, Evidence.ASSUMED
        ledger.assume(
            ("workload", "daily_users", "requests_per_user"), format_number(each), value=each
        )
    per_day = daily.count * each
    ledger.step(
        "requests per day",
        f"{format_number(daily.count)} people × {format_number(each)} requests = "
        f"{format_number(per_day)} requests a day",
        per_day,
        "requests/day",
        evidence,
    )
    return per_day, evidence


def _tokens_per_day(
    workload: WorkloadSection, daily: TokensPerDay, tokens: RequestTokens, ledger: Ledger
) -> tuple[float, Evidence]:
    """Tokens of a day ÷ tokens of a request; the larger when both directions are stated."""
    ratio = workload.words_per_token or 0.75
    both = tokens.prompt_tokens + tokens.output_tokens
    sides: Mapping[str, tuple[float, float]] = {
        name: (amount.tokens(ratio), each)
        for name, amount, each in (
            ("prompt", daily.input, tokens.prompt_tokens),
            ("answer", daily.output, tokens.output_tokens),
            ("prompt and answer", daily.total, both),
        )
        if amount is not None
    }
    counts = {name: total / each for name, (total, each) in sides.items()}
    larger = max(counts, key=lambda name: counts[name])
    for name, (total, each) in sides.items():
        beaten = "" if name == larger else f", fewer than by the {larger}, which counts"
        ledger.step(
            "requests per day",
            f"{format_number(total)} tokens a day ÷ {format_number(round(each, 1))} tokens of "
            f"{name} = {format_number(counts[name])} requests a day{beaten}",
            counts[name],
            "requests/day",
            tokens.evidence,
        )
    return counts[larger], min(TOLD, tokens.evidence)


def _spread_over_day(
    per_day: float, evidence: Evidence, active_s: float | None, ledger: Ledger
) -> tuple[float, Evidence]:
    if active_s is None:
        active_s, evidence = ACTIVE_HOURS * SECONDS_PER_HOUR, Evidence.ASSUMED
        ledger.assume(
            ("workload", "active_hours"),
            "24 h",
            value=active_s,
            unit="s",
            note="spread evenly over the whole day",
        )
    rate = per_day / active_s
    ledger.step(
        "mean rate",
        f"{format_number(per_day)} ÷ {format_number(active_s / SECONDS_PER_HOUR)} h = "
        f"{format_number(rate)} requests/s on average",
        rate,
        "requests/s",
        evidence,
    )
    return rate, evidence


def _with_peak(
    rate: float, evidence: Evidence, workload: WorkloadSection, ledger: Ledger
) -> OpenLoad:
    """The peak of a mean: Poisson over one-second windows unless a factor is stated.

    Below about one request in twenty seconds the percentile of a window is zero; the mean holds.
    """
    stated = workload.peak
    if stated is not None and stated.factor is not None:
        peak = rate * stated.factor
        formula = (
            f"{format_number(rate)} × {format_number(stated.factor)} = "
            f"{format_number(peak)} requests/s at peak"
        )
        if stated.factor == 1:
            formula = f"no peak beyond the mean: {format_number(peak)} requests/s"
    else:
        percentile = stated.poisson_percentile if stated is not None else None
        if percentile is None:
            percentile, evidence = POISSON_PERCENTILE, Evidence.ASSUMED
            ledger.assume(
                ("workload", "peak", "poisson_percentile"),
                "95",
                note="memoryless arrivals counted in one-second windows; "
                "says nothing about slower bursts",
            )
        counted = poisson_percentile(rate, percentile)
        peak = max(float(counted), rate)
        formula = (
            f"Poisson p{percentile:g} of {format_number(rate)} per second = "
            f"{format_number(counted)} requests/s at peak"
        )
        if counted < rate:
            formula += f"; below the mean, so {format_number(rate)} holds"
    ledger.step("peak rate", formula, peak, "requests/s", evidence)
    return OpenLoad(requests_per_s_mean=rate, requests_per_s_peak=peak)
