"""A seed and a concern -> the random numbers of that concern alone."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, concern: str, *within: int) -> np.random.SeedSequence:
    """The child of `seed` for `concern`, any name, and for the parts `within` it.

    Every concern (arrivals, prompts, think times ...) draws from a child of its own, numbered by
    the CRC-32 of its name: one draw more in one place changes nothing elsewhere.
    """
    return np.random.SeedSequence(seed, spawn_key=(zlib.crc32(concern.encode()), *within))
