"""StepTable x load -> latency percentiles of one replica.

The vocabulary: `LatencyCurve` is the seam between queueing and fleet. The closed form and a
measured run (`measurement.curve`) stand behind it. `simulation` follows single requests instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tonnage.evidence import Evidence
from tonnage.workload import ClosedLoad, OpenLoad, TokenMix


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficClass:
    """One kind of call a pool serves: `weight` calls of `mix` per user request."""

    name: str
    weight: float
    mix: TokenMix


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFigures:
    """Percentiles at an operating point, in seconds; None when there is no such figure.

    Keys of `percentiles` are "ttft_p95_s" and the like. `regime` is "" while the method holds,
    else what it has left. `running` and `waiting` are mean calls per replica, `utilisation` the
    load over the largest stable load, `kv_fraction` the mean share of the KV budget in use.
    """

    percentiles: Mapping[str, float | None]
    utilisation: float
    running: float
    waiting: float
    requests_per_s: float
    kv_fraction: float
    evidence: Evidence
    regime: str = ""


class LatencyCurve(Protocol):
    """Latency of one replica as a function of the load on it."""

    def at(self, load: OpenLoad | ClosedLoad) -> LatencyFigures:
        """The figures when one replica carries `load` (user requests, not calls)."""
        ...

    def capacity_requests_per_s(self) -> float:
        """The largest stable rate of user requests, promises aside."""
        ...
