"""Requests and a factor -> requests that come so many times as often, as bursty as they were."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from tonnage.errors import InputError
from tonnage.traffic import Requests
from tonnage.traffic.streams import stream


def scale_trace(
    requests: Requests,
    factor: float,
    *,
    by: Literal["gaps", "thinning"] = "gaps",
    seed: int = 0,
) -> Requests:
    """`requests` at `factor` times their rate.

    "gaps" divides all times by `factor`: the same requests in the same order, so the variation of
    gaps, the index of dispersion over as many requests, and the sharing of prefixes stay exactly as
    they were. It runs all clocks faster: a day at twice the rate is over in twelve hours, its peak
    as far above its mean as before but half as long, and a prefix is met again sooner. True of a
    recording that is stationary, or short beside what changes over the day; of more users
    who do not know of each other it is the cautious answer, as their bursts would partly cancel.

    "thinning" keeps each request with probability `factor`, at most 1, whatever the others: time of
    day and duration stay, and what is kept is what so many fewer independent users would have sent.
    Short bursts thin out: an index of dispersion I becomes 1 + factor (I - 1), as it does for a
    share of a population, but not for one user in a burst of its own. Prefixes are shared less.
    """
    if not 0 < factor < np.inf or (by == "thinning" and factor > 1):
        raise InputError(
            f"is {factor:g}, and must be above 0" + (", at most 1." if by == "thinning" else "."),
            hint="2 is twice the rate; only dividing gaps makes more of a recording.",
            key="factor",
        )
    if by == "gaps":
        return replace(requests, arrival_s=requests.arrival_s / factor)
    kept = np.random.default_rng(stream(seed, "thinning")).random(len(requests)) < factor
    thinned = replace(
        requests,
        arrival_s=requests.arrival_s[kept],
        prompt_tokens=requests.prompt_tokens[kept],
        output_tokens=requests.output_tokens[kept],
        cached_tokens=None if requests.cached_tokens is None else requests.cached_tokens[kept],
    )
    if requests.prefix_ids is None or requests.prefix_start is None:
        return thinned
    counts = np.diff(requests.prefix_start)
    ids = requests.prefix_ids[np.repeat(kept, counts)]
    return replace(
        thinned,
        prefix_ids=np.unique(ids, return_inverse=True)[1].astype(np.int64),
        prefix_start=np.concatenate(([0], np.cumsum(counts[kept]))),
    )
