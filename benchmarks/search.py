"""The search benchmark: what is timed, apart from the timing.

`prepare_search` builds everything a search needs (catalog, workload, candidates) and returns the
search itself, a function without arguments that searches afresh each time it is called and returns
how many deployments it judged, rejected ones included. Preparation is not timed. The runner
refuses a search that judged fewer than `DEPLOYMENTS`.
"""

from __future__ import annotations

from collections.abc import Callable

DEPLOYMENTS = 10_000


def prepare_search() -> Callable[[], int] | None:
    """Return the search to time, or None while there is none."""
    return None
