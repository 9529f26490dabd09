"""Outages and autoscaling: what turns replicas on and off while a fleet is at work.

Rare next to steps, so this works on the world between two runs of the kernel, plain on either make.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from tonnage.queueing.simulation.kernel import (
    FIRST,
    LOST,
    NONE,
    SENT,
    evict_due,
    keep,
    next_thought_s,
    preempt,
)

if TYPE_CHECKING:
    from tonnage.queueing.simulation import SimulatedFleet

Turn: TypeAlias = Literal["down", "up", "started", "scaled"]


def push_events(world: Any, events: list[tuple[float, int, int]]) -> None:  # noqa: ANN401 — either make
    """Enter what happens at these times, from outside a run: time, kind and subject."""
    if isinstance(world.events, list):
        for event in events:
            heapq.heappush(world.events, event)
        return
    clock = world.clock[0]
    begin, end = int(clock.events), int(clock.events) + len(events)
    world.events[begin:end] = np.array(events, dtype=world.events.dtype)
    world.events[:end] = np.sort(world.events[:end], order=world.events.dtype.names)
    clock.events = end  # what is sorted is a heap


class Turns:
    """The turns to come, in order of time; `take` makes the next one happen."""

    def __init__(self, fleet: SimulatedFleet, world: Any) -> None:  # noqa: ANN401 — either make
        self._fleet, self._world = fleet, world
        self._to_come: list[tuple[float, int, Turn, int]] = []  # time, number, what, replica
        self._entered = 0
        for outage in fleet.outages:
            self._enter(outage.down_s, "down", outage.replica)
            if math.isfinite(outage.up_s):
                self._enter(outage.up_s, "up", outage.replica)
        if fleet.autoscaler is not None:
            for index in range(fleet.autoscaler.least, fleet.replicas):
                world.replica[index].taking = 0
            self._enter(fleet.autoscaler.interval_s, "scaled", NONE)

    @property
    def next_s(self) -> float:
        """When the next turn is; infinite when there is none."""
        return self._to_come[0][0] if self._to_come else math.inf

    @property
    def to_come(self) -> bool:
        """Whether any turn may yet bring a replica into service."""
        scales = self._fleet.autoscaler is not None
        failed = [self._world.replica[i].failed for i in range(self._fleet.replicas)]
        return (scales and not all(failed)) or any(
            turn in {"up", "started", "down"} for _, _, turn, _ in self._to_come
        )

    def _enter(self, at_s: float, turn: Turn, replica: int) -> int:
        """The number of the turn, from 1."""
        self._entered += 1
        heapq.heappush(self._to_come, (at_s, self._entered, turn, replica))
        return self._entered

    def take(self) -> None:
        """The next turn happens; every replica stands at its time."""
        now_s, entered, turn, index = heapq.heappop(self._to_come)
        if turn == "scaled":
            self._scale(now_s)
            return
        replica = self._world.replica[index]
        if turn == "down":
            replica.failed = 1
            replica.starting = 0
            self._lose_all(replica, now_s)
        elif turn == "up" or replica.starting == entered:
            replica.failed = replica.starting = 0
            replica.taking = 1

    def _lose_all(self, replica: Any, now_s: float) -> None:  # noqa: ANN401 — either make
        """A replica stops; what it held is sent again, or lost. Its caches are gone.

        A step that had begun counts as finished.
        """
        world = self._world
        engine = world.engine[replica.engine]
        replica.taking = 0
        while replica.running > 0:  # to the front of the queue, in their order
            preempt(world, replica, engine, replica.run_tail, FIRST)
            replica.preemptions -= 1
            world.request[replica.wait_head].preemptions -= 1
        q = replica.wait_head
        while replica.waiting > 0:
            request = world.request[q]
            after = request.after
            replica.waiting -= 1
            replica.outstanding -= 1
            if self._fleet.retry:
                request.produced = request.handed_over = 0
                request.first_s = -1.0
                keep(world, q)
            else:
                request.state = LOST
                self._over(request, now_s)
            q = after
        if engine.prefix_cache:
            replica.untouched = 0
            replica.listed = replica.free + replica.pool
            evict_due(world, replica, engine)
            replica.listed = replica.untouched = replica.pool

    def _over(self, request: Any, now_s: float) -> None:  # noqa: ANN401 — either make
        """As the kernel's `over`, from outside a run."""
        clock = self._world.clock[0]
        clock.over += 1
        if clock.clients:
            at_s = now_s + next_thought_s(self._world)
            push_events(self._world, [(at_s, SENT, int(request.client))])

    def _scale(self, now_s: float) -> None:
        """Start or let go of replicas so that each that serves has about its share of requests."""
        scaler, world = self._fleet.autoscaler, self._world
        assert scaler is not None  # noqa: S101 — nothing else enters such a turn
        replicas = [world.replica[index] for index in range(self._fleet.replicas)]
        outstanding = sum(int(replica.outstanding) for replica in replicas)
        q = world.clock[0].kept
        while q != NONE:
            outstanding += 1
            q = world.request[q].after
        wanted = math.ceil(outstanding / scaler.outstanding)
        wanted = max(min(wanted, len(replicas)), scaler.least)
        serving = sum(int(replica.taking + (replica.starting > 0)) for replica in replicas)
        for index, replica in enumerate(replicas):
            if serving < wanted and not (replica.taking or replica.starting or replica.failed):
                replica.starting = self._enter(now_s + scaler.startup_s, "started", index)
                serving += 1
        # who does not serve yet is let go first, or none might be left that does
        for replica in sorted(replicas, key=lambda each: (each.taking, -each.index)):
            if serving > wanted and (replica.starting or replica.taking):
                replica.starting = replica.taking = 0
                serving -= 1
        self._enter(now_s + scaler.interval_s, "scaled", NONE)
