"""tonnage: how many GPUs a language model needs for these users under these promises.

    >>> import tonnage
    >>> plan = tonnage.size("examples/support-chatbot.yaml")  # doctest: +SKIP
    >>> plan.scenario("recommended").gpus  # doctest: +SKIP

Reading guide: open `pipeline.py`, then follow its imports up the page of the README's house.
Names below are imported on first use, so that `import tonnage` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tonnage.version import __version__

if TYPE_CHECKING:
    from tonnage.catalog.loader import Catalog
    from tonnage.errors import TonnageError
    from tonnage.fleet import (
        Capacity,
        Plan,
        Question,
        SimulationAnswer,
        SimulationOptions,
        StatedFleet,
    )
    from tonnage.pipeline import capacity, prove, simulate, size
    from tonnage.study.loader import Study, load_study, study_from_overrides

__all__ = [
    "Capacity",
    "Catalog",
    "Plan",
    "Question",
    "SimulationAnswer",
    "SimulationOptions",
    "StatedFleet",
    "Study",
    "TonnageError",
    "__version__",
    "capacity",
    "load_study",
    "prove",
    "simulate",
    "size",
    "study_from_overrides",
]

_HOMES = {
    "Capacity": "tonnage.fleet",
    "Catalog": "tonnage.catalog.loader",
    "Plan": "tonnage.fleet",
    "Question": "tonnage.fleet",
    "SimulationAnswer": "tonnage.fleet",
    "SimulationOptions": "tonnage.fleet",
    "StatedFleet": "tonnage.fleet",
    "Study": "tonnage.study.loader",
    "TonnageError": "tonnage.errors",
    "capacity": "tonnage.pipeline",
    "load_study": "tonnage.study.loader",
    "prove": "tonnage.pipeline",
    "simulate": "tonnage.pipeline",
    "size": "tonnage.pipeline",
    "study_from_overrides": "tonnage.study.loader",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 — any public name
    """Import a public name from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
