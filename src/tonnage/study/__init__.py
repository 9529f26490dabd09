"""A YAML file, flags or six answers -> a `Study`, and with a catalog its `Question`.

Read `document` for the keys people write, `rules` for what they may not combine, `demand` for the
arithmetic from users to load, `build` for what is assumed when nothing is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tonnage.study.discovery import DISCOVERY, DiscoveryQuestion, study_from_answers
    from tonnage.study.document import Document
    from tonnage.study.loader import (
        Study,
        load_study,
        study_from_mapping,
        study_from_overrides,
        study_from_text,
    )
    from tonnage.study.names import StudyCatalog

__all__ = [
    "DISCOVERY",
    "DiscoveryQuestion",
    "Document",
    "Study",
    "StudyCatalog",
    "load_study",
    "study_from_answers",
    "study_from_mapping",
    "study_from_overrides",
    "study_from_text",
]

_HOMES = {
    "DISCOVERY": "discovery",
    "DiscoveryQuestion": "discovery",
    "Document": "document",
    "Study": "loader",
    "StudyCatalog": "names",
    "load_study": "loader",
    "study_from_answers": "discovery",
    "study_from_mapping": "loader",
    "study_from_overrides": "loader",
    "study_from_text": "loader",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 — any public name
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
