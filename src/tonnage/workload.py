"""Users, prompts and promises -> the load a fleet must carry, every step shown.

Words are fixed here. *Registered users* times their active share are *active users*; active users
times what each asks per hour is an *open load*: arrivals that do not wait for answers. A *closed
load* is N clients that each send, wait and think. *Sessions* are resident contexts (memory). A
*batch* is work with a deadline. They are never mixed up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from tonnage.evidence import Evidence

Metric = Literal["ttft", "tpot", "e2e"]
PERCENTILES = (50.0, 90.0, 95.0, 99.0)

READING_WORDS_PER_MINUTE = (
    238  # silent reading of English non-fiction (Brysbaert 2019, J. Mem. Lang. 109)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A distribution of token counts, at least `minimum` each.

    `kind` names the shape: "constant"; "lognormal", "normal" and "uniform" by mean and coefficient
    of variation; "exponential" (cv 1). Means and percentiles are in tokens.
    """

    kind: Literal["constant", "lognormal", "normal", "uniform", "exponential"] = "constant"
    mean_tokens: float
    cv: float = 0.0  # standard deviation / mean, dimensionless

    @classmethod
    def constant(cls, tokens: float) -> Lengths:
        """Every request has `tokens`."""
        return cls(kind="constant", mean_tokens=tokens)

    @classmethod
    def lognormal_from_percentile(
        cls, *, mean_tokens: float, percentile: float, tokens: float
    ) -> Lengths:
        """The lognormal with this mean whose `percentile` (0–100) is `tokens`.

        Solves z*s - s^2/2 = ln(tokens/mean) for the smaller s (the less skewed of the two).
        Raises ValueError when no lognormal has both.
        """
        z = NormalDist().inv_cdf(percentile / 100)
        target = math.log(tokens / mean_tokens)
        discriminant = z * z - 2 * target
        if discriminant < 0:
            limit = mean_tokens * math.exp(z * z / 2)
            msg = f"no lognormal of mean {mean_tokens:g} has p{percentile:g} above {limit:.0f}"
            raise ValueError(msg)
        sigma = z - math.sqrt(discriminant) if z > 0 else z + math.sqrt(discriminant)
        if sigma < 0:
            msg = f"p{percentile:g} = {tokens:g} lies on the wrong side of the mean {mean_tokens:g}"
            raise ValueError(msg)
        return cls(kind="lognormal", mean_tokens=mean_tokens, cv=math.sqrt(math.expm1(sigma**2)))

    def percentile_tokens(self, percentile: float) -> float:
        """Length below which `percentile` (0–100) of the requests lie."""
        p = percentile / 100
        match self.kind:
            case "constant":
                return self.mean_tokens
            case "lognormal":
                sigma = math.sqrt(math.log1p(self.cv**2))
                z = NormalDist().inv_cdf(p)
                return self.mean_tokens * math.exp(z * sigma - sigma**2 / 2)
            case "normal":
                z = NormalDist().inv_cdf(p)
                return max(self.mean_tokens * (1 + z * self.cv), 0.0)
            case "uniform":
                return self.mean_tokens * (1 + math.sqrt(3) * self.cv * (2 * p - 1))
            case "exponential":
                return -self.mean_tokens * math.log1p(-p)

    @property
    def standard_deviation_tokens(self) -> float:
        """Standard deviation, in tokens."""
        return self.mean_tokens * (1.0 if self.kind == "exponential" else self.cv)

    def nodes(self, count: int) -> tuple[float, ...]:
        """`count` equally likely lengths: the mid-quantiles, rescaled to keep the mean exact."""
        if self.kind == "constant":
            return (self.mean_tokens,) * count
        raw = [self.percentile_tokens(100 * (i + 0.5) / count) for i in range(count)]
        scale = self.mean_tokens * count / sum(raw)
        return tuple(value * scale for value in raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMix:
    """Lengths of one LLM call: whole prompt (cached part included), cached part, and output.

    Cached prompt tokens count as prompt and occupy KV but skip prefill; `cached_share` is the part
    of the prompt expected to hit the prefix cache (0–1).
    """

    prompt: Lengths
    output: Lengths
    cached_share: float = 0.0

    @property
    def prefill_tokens_mean(self) -> float:
        """Prompt tokens that must be computed."""
        return self.prompt.mean_tokens * (1 - self.cached_share)

    @property
    def resident_tokens_mean(self) -> float:
        """Mean context a running request holds, averaged over its decode: prompt + output / 2.

        Weighted by output length, as a long answer stays longer: + cv^2 of the output.
        """
        output = self.output
        cv = output.standard_deviation_tokens / output.mean_tokens if output.mean_tokens else 0.0
        return self.prompt.mean_tokens + output.mean_tokens * (1 + cv**2) / 2

    @property
    def context_tokens_max(self) -> float:
        """The longest context to plan for: the 99.9th percentile of prompt plus that of output."""
        return self.prompt.percentile_tokens(99.9) + self.output.percentile_tokens(99.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmCall:
    """One call of a chain: a catalog model name, its lengths, and how often it is made.

    `repeats` calls are made one after the other. Only the last call of a chain may stream.
    """

    name: str
    model: str
    mix: TokenMix
    repeats: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """`metric` must not exceed `limit_s` for `percentile` % of the requests at peak load.

    "ttft" counts from sending to the first token of the last call, "e2e" to its last token (whole
    chain), "tpot" is (e2e - ttft) / (output tokens - 1) of the last call. Each holds separately.
    """

    metric: Metric
    percentile: float
    limit_s: float
    evidence: Evidence = Evidence.DATASHEET
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoad:
    """Arrivals that do not wait for answers. Sized at the peak rate, paid for at the mean."""

    requests_per_s_mean: float
    requests_per_s_peak: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoad:
    """`clients` that each send, wait for the whole answer, then think `think_time_s`."""

    clients: int
    think_time_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`requests` to finish within `deadline_s`; no latency matters."""

    requests: float
    deadline_s: float


Load = OpenLoad | ClosedLoad | Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandStep:
    """One line of the arithmetic from what was told to the load: `value` in `unit`."""

    name: str
    formula: str
    value: float
    unit: str
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What must be served: a chain of calls, a load, promises and resident sessions.

    `load` is None when only memory is sized (`sessions` x `context_tokens`). `network_s` is added
    to every modelled TTFT. `steps` is the arithmetic that led to the load.
    """

    calls: tuple[LlmCall, ...]
    load: Load | None
    promises: tuple[Promise, ...]
    sessions: int | None = None
    context_tokens: float | None = None
    network_s: float = 0.0
    steps: tuple[DemandStep, ...] = ()

    @property
    def mode(self) -> Literal["streaming", "sequential", "offline", "memory"]:
        """How latency matters: first token, whole answer, a deadline, or not at all."""
        if self.load is None:
            return "memory"
        if isinstance(self.load, Batch):
            return "offline"
        metrics = {promise.metric for promise in self.promises}
        return "sequential" if metrics == {"e2e"} else "streaming"


def poisson_percentile(mean: float, percentile: float) -> int:
    """Smallest k with P(Poisson(mean) <= k) >= percentile/100.

    The peak of a memoryless stream counted in one-second windows (NVIDIA DLI course: 64 -> 77 and
    7 -> 12 at p95). Sums the probabilities outward from the mode in logarithms, so it holds for
    means up to 1e9; beyond 1e6 the normal quantile with continuity correction is within one.
    Says nothing about bursts slower than the window (time of day, campaigns).
    """
    if mean <= 0:
        return 0
    target = percentile / 100
    guess = NormalDist(mean, math.sqrt(mean)).inv_cdf(target)
    if mean > 1e6:  # noqa: PLR2004 — documented above
        return math.ceil(guess - 0.5)
    k, cumulative = -1, 0.0
    log_mean = math.log(mean)
    start = max(int(mean - 40 * math.sqrt(mean) - 40), 0)  # below: less than 1e-300
    k = start - 1
    while cumulative < target:
        k += 1
        cumulative += math.exp(k * log_mean - mean - math.lgamma(k + 1))
        if k > mean + 40 * math.sqrt(mean) + 40:
            break  # the rest is round-off
    return k


def reading_speed_tpot_s(words_per_token: float) -> float:
    """Seconds per token at human reading speed: nobody waits for text that comes faster.

    60 / (words per minute / words per token). 238 words a minute and 0.75 words a token: 189 ms.
    """
    return 60 * words_per_token / READING_WORDS_PER_MINUTE
