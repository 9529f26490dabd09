"""Replicas needed -> what is bought: replicas, GPUs, servers, money, power. All rounding here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tonnage.fleet import Candidate, Objective


class Sized(Protocol):
    """All a purchase asks of a replica, modelled or measured: how many GPUs it takes."""

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Replicas of one deployment: for the load as stated, and with headroom on it."""

    deployment: Sized
    for_load: int
    with_headroom: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """What a scenario buys. Server counts are None where no server is known."""

    replicas: tuple[int, ...]
    gpus: int
    servers: int | None
    servers_for_load: int | None
    servers_with_headroom: int | None
    usd_per_hour: float | None
    power_watts: float | None
    rack_units: float | None

    def value(self, objective: Objective) -> float:
        """What the search minimises; infinite where it is not known."""
        known = {"cost": self.usd_per_hour, "gpus": self.gpus, "power": self.power_watts}[objective]
        return math.inf if known is None else known


def replicas_per_server(candidate: Candidate, deployment: Sized) -> int:
    """Replicas one server holds; 0 when a replica spans several."""
    return candidate.server.gpus // deployment.gpus if candidate.server else 0


def servers_per_replica(candidate: Candidate, deployment: Sized) -> int:
    """Servers one replica spans, at least 1."""
    if candidate.server is None:
        return 1
    return max(math.ceil(deployment.gpus / candidate.server.gpus), 1)


def most_within(candidate: Candidate, deployment: Sized, gpus: int, spare_units: int) -> int:
    """The most replicas, spares aside, that a purchase of `gpus` GPUs holds."""
    server = candidate.server
    if not candidate.whole_servers or server is None:
        return gpus // deployment.gpus - spare_units
    span = servers_per_replica(candidate, deployment)
    servers = gpus // server.gpus - spare_units * span
    return servers * replicas_per_server(candidate, deployment) or servers // span


def buy(candidate: Candidate, needs: tuple[Need, ...], spare_units: int) -> Purchase:
    """Turn replicas into a purchase, spares included.

    Bought whole, servers are filled: every replica a server holds runs. A lost server takes its
    replicas with it, and a replica that spans servers is lost with any of them, so a spare is one
    more server, or as many as one replica spans. Bought singly, a spare is one more replica of
    every pool. Pools of several models share servers, and their spare servers stand by empty.
    """
    server = candidate.server
    if not candidate.whole_servers or server is None:
        replicas = tuple(need.with_headroom + spare_units for need in needs)
        gpus = sum(n * need.deployment.gpus for n, need in zip(replicas, needs, strict=True))
        load, headroom, total = (
            _packed(candidate, needs, counts)
            for counts in (
                tuple(need.for_load for need in needs),
                tuple(need.with_headroom for need in needs),
                replicas,
            )
        )
        watts = candidate.gpu.power_watts
        power = gpus * watts if watts is not None else None
        rack = None
    else:
        load = _packed(candidate, needs, tuple(need.for_load for need in needs))
        headroom = _packed(candidate, needs, tuple(need.with_headroom for need in needs))
        assert headroom is not None  # noqa: S101 — there is a server
        span = max(servers_per_replica(candidate, need.deployment) for need in needs)
        total = headroom + spare_units * span
        if len(needs) == 1:
            deployment = needs[0].deployment
            held = replicas_per_server(candidate, deployment)
            replicas = (total * held if held else total // span,)
        else:
            replicas = tuple(need.with_headroom for need in needs)
        gpus = total * server.gpus
        power = total * server.power_watts if server.power_watts is not None else None
        rack = total * server.rack_units if server.rack_units is not None else None
    usd = None if candidate.usd_per_gpu_hour is None else gpus * candidate.usd_per_gpu_hour
    return Purchase(
        replicas=replicas,
        gpus=gpus,
        servers=total,
        servers_for_load=load,
        servers_with_headroom=headroom,
        usd_per_hour=usd,
        power_watts=power,
        rack_units=rack,
    )


def _packed(candidate: Candidate, needs: tuple[Need, ...], counts: tuple[int, ...]) -> int | None:
    """Servers that hold `counts` replicas of each need.

    One pool: whole replicas per server. Several pools share servers; groups are placed largest
    first, each server is filled before the next is opened.
    """
    server = candidate.server
    if server is None:
        return None
    if len(needs) == 1:
        held = replicas_per_server(candidate, needs[0].deployment)
        if held:
            return math.ceil(counts[0] / held)
        return counts[0] * servers_per_replica(candidate, needs[0].deployment)
    whole = 0
    free: list[int] = []
    ordered = sorted(zip(needs, counts, strict=True), key=lambda pair: -pair[0].deployment.gpus)
    for need, count in ordered:
        size = need.deployment.gpus
        if size >= server.gpus:
            whole += count * servers_per_replica(candidate, need.deployment)
            continue
        for _ in range(count):
            place = next((i for i, room in enumerate(free) if room >= size), None)
            if place is None:
                free.append(server.gpus - size)
            else:
                free[place] -= size
    return whole + len(free)
