"""The parts of the kernel that differ when it runs plain: its heaps, and that it is not compiled.

`array_heaps` holds their twins for compiled code, with the same names and arguments.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = TypeVar("Function", bound=Callable[..., Any])


STEP_SHIFT = 33  # the step is the high part of an entry
NO_STEP = 1 << 60


def compilable(function: Function) -> Function:
    """Mark a function that the compiled kernel holds too."""
    return function


def called_once(function: Function) -> Function:
    """Mark one that is compiled as a part of the only function that calls it.

    By itself it would be compiled again with every function that calls it, however indirectly; but
    one that is large, or deep in others like it, takes longer as a part. Which do is measured.
    """
    return function


def heap_push(world: Any, replica: Any, entry: int) -> None:
    """Enter a step of `replica` after which something ends."""
    heappush(world.steps[replica.index], entry)
    step = entry >> STEP_SHIFT
    if step < replica.change:
        replica.change = step


def heap_due(world: Any, replica: Any) -> int:
    """Remove the first of these whose step is over; -1 when none is: `change` is the next then."""
    entries = world.steps[replica.index]
    replica.change = entries[0] >> STEP_SHIFT if entries else NO_STEP
    if replica.change > replica.step:
        return -1
    entry: int = heappop(entries)
    return entry


def event_push(world: Any, at_s: float, kind: int, subject: int) -> None:
    """Enter something that happens to the fleet at `at_s`."""
    heappush(world.events, (at_s, kind, subject))


def event_pop(world: Any) -> tuple[int, int]:
    """Remove the first of these: its kind and its subject."""
    _, kind, subject = heappop(world.events)
    return kind, subject


def event_time_s(world: Any) -> float:
    """When the first of these happens; 1e300 when there is none."""
    if not world.events:
        return 1e300
    at_s: float = world.events[0][0]
    return at_s
