"""Distributions of lengths, arrivals and a seed -> requests, as columns.

Arrivals, the mix of calls, prompts and outputs each draw from a stream of their own. More requests
of one seed begin with those that fewer would be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tonnage.errors import InputError
from tonnage.traffic import MAX_TOKENS, Arrivals, RateProfile, Requests, Traffic
from tonnage.traffic.arrivals import draw_arrivals_s
from tonnage.traffic.streams import stream
from tonnage.workload import Lengths, TokenMix

_SHORTEST_CONTEXT_TOKENS = 2  # one to read and one to write


def draw_requests(
    calls: Sequence[tuple[TokenMix, float]],
    count: int,
    *,
    seed: int,
    arrivals: Arrivals | None = None,
    profile: RateProfile | None = None,
    max_context_tokens: int | None = None,
) -> Traffic:
    """`count` requests, each of one of the `calls`, chosen as often as the weight beside it says.

    Without `arrivals` all come at 0, for a closed loop. What exceeds `max_context_tokens` is cut,
    the output first, and a note says how often. Raises InputError for arrivals or a context that
    cannot be.
    """
    arrival_s = (
        np.zeros(count)
        if arrivals is None
        else draw_arrivals_s(arrivals, count, seed=seed, profile=profile)
    )
    kinds = _draw_kinds([weight for _, weight in calls], count, seed)
    prompt, output = np.empty(count, np.int64), np.empty(count, np.int64)
    share = np.empty(count)
    for kind, (mix, _) in enumerate(calls):
        mine = np.flatnonzero(kinds == kind)
        prompt[mine] = draw_lengths(mix.prompt, len(mine), stream(seed, "prompts", kind))
        output[mine] = draw_lengths(mix.output, len(mine), stream(seed, "outputs", kind))
        share[mine] = mix.cached_share
    notes = _cut(prompt, output, max_context_tokens)
    requests = Requests(
        arrival_s=arrival_s,
        prompt_tokens=prompt,
        output_tokens=output,
        cached_tokens=np.rint(share * prompt).astype(np.int64) if share.any() else None,
    )
    return Traffic(requests=requests, notes=notes)


def draw_closed_loop_benchmark(
    clients: int,
    *,
    prompt_tokens: int,
    output_tokens: int,
    seed: int,
    requests_per_client: int = 10,
    spread: tuple[float, float] = (0.8, 1.0),
) -> Requests:
    """The load by which serving engines are usually compared, for `clients` that start together.

    Each client sends about `requests_per_client` requests one after the other. Lengths are whole
    numbers drawn uniformly between the two shares of the nominal length in `spread`, both included
    and rounded down: what a random-range-ratio of 0.8 means to the benchmark scripts of vLLM and
    SGLang. All clients start at once and few requests follow, so the first burst dominates the mean
    TTFT: such figures say little of a server in a steady state.
    """
    count = clients * requests_per_client

    def lengths(nominal: int, concern: str) -> NDArray[np.int64]:
        shortest, longest = (max(int(share * nominal), 1) for share in spread)
        generator = np.random.default_rng(stream(seed, concern))
        drawn: NDArray[np.int64] = generator.integers(shortest, longest, count, endpoint=True)
        return drawn

    return Requests(
        arrival_s=np.zeros(count),
        prompt_tokens=lengths(prompt_tokens, "prompts"),
        output_tokens=lengths(output_tokens, "outputs"),
    )


def draw_lengths(lengths: Lengths, count: int, seeds: np.random.SeedSequence) -> NDArray[np.int64]:
    """`count` whole numbers of tokens, from 1 to MAX_TOKENS, distributed as `lengths` says.

    Rounded up as often as their fraction says, which keeps the mean exactly and adds at most 1/4 to
    the variance. A normal distribution is cut at 0 and rescaled to its mean, as in
    `Lengths.nodes`, which leaves less of its cv: 0.487 of 0.5, all of 0.3. No request is shorter
    than one token, which lifts the mean of an exponential of 5 tokens by 2 %, of 20 by 0.1 %.
    """
    drawing, rounding = (np.random.default_rng(each) for each in seeds.spawn(2))
    mean, cv = lengths.mean_tokens, lengths.cv
    match lengths.kind:
        case "constant":
            tokens = np.full(count, float(mean))
        case "lognormal":
            variance = math.log1p(cv**2)
            tokens = drawing.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), count)
        case "normal":
            tokens = np.maximum(drawing.normal(1.0, cv, count), 0.0)
            tokens *= mean / _mean_of_normal_above_0(cv)
        case "uniform":
            reach = math.sqrt(3) * cv
            tokens = drawing.uniform(mean * (1 - reach), mean * (1 + reach), count)
        case "exponential":
            tokens = drawing.exponential(mean, count)
    tokens += rounding.random(count)
    whole: NDArray[np.int64] = np.clip(np.floor(tokens), 1, MAX_TOKENS).astype(np.int64)
    return whole


def _mean_of_normal_above_0(cv: float) -> float:
    """E[max(0, 1 + cv Z)] = Phi(1 / cv) + cv phi(1 / cv), Z standard normal."""
    if cv == 0:
        return 1.0
    normal = NormalDist()
    return normal.cdf(1 / cv) + cv * normal.pdf(1 / cv)


def _draw_kinds(weights: Sequence[float], count: int, seed: int) -> NDArray[np.int64]:
    """Which kind each of `count` is, as often as its weight over the sum of all."""
    upto = np.cumsum(weights) / math.fsum(weights)
    upto[-1] = 1.0  # whatever rounding made of it
    points = np.random.default_rng(stream(seed, "kinds")).random(count)
    kinds: NDArray[np.int64] = np.searchsorted(upto, points, side="right")
    return kinds


def _cut(
    prompt: NDArray[np.int64], output: NDArray[np.int64], max_context_tokens: int | None
) -> tuple[str, ...]:
    """Shorten in place what exceeds the context; the note that says how often."""
    if max_context_tokens is None:
        return ()
    if max_context_tokens < _SHORTEST_CONTEXT_TOKENS:
        raise InputError(
            f"is {max_context_tokens}, too few for any request.",
            hint="It bounds prompt and output together.",
            key="max_context_tokens",
        )
    cut = int(np.count_nonzero(prompt + output > max_context_tokens))
    if not cut:
        return ()
    np.clip(max_context_tokens - prompt, 1, output, out=output)
    np.minimum(prompt, max_context_tokens - output, out=prompt)
    return (f"{cut:,} of {len(prompt):,} requests were cut to {max_context_tokens:,} tokens",)
