"""Packaged engine profiles and default efficiencies -> EngineProfile and Calibration, by name."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from tonnage.engine import Calibration, EngineProfile
from tonnage.errors import TonnageError
from tonnage.evidence import Evidence
from tonnage.hardware import GpuSpec
from tonnage.units import GIB


@cache
def _table(file: str, table: str) -> dict[str, dict[str, Any]]:
    text = files("tonnage.catalog").joinpath(file).read_text(encoding="utf-8")
    rows: dict[str, dict[str, Any]] = tomllib.loads(text)[table]
    return rows


def engine_names() -> tuple[str, ...]:
    """Names of the packaged serving engines."""
    return tuple(_table("engines.toml", "engines"))


def engine(name: str) -> EngineProfile:
    """The engine called `name` (or one of its aliases), whatever the case."""
    wanted = name.casefold()
    for title, row in _table("engines.toml", "engines").items():
        if wanted in {title.casefold(), *(alias.casefold() for alias in row.get("aliases", ()))}:
            return EngineProfile(
                name=title,
                runtime_bytes=row["runtime_gib"] * GIB,
                large_gpu_bytes=row["large_gpu_gib"] * GIB,
                **{
                    key: value
                    for key, value in row.items()
                    if key not in {"runtime_gib", "large_gpu_gib", "aliases"}
                },
            )
    raise TonnageError(
        f"“{name}” is not a serving engine tonnage knows.",
        hint=f"Choose one of {', '.join(engine_names())}.",
    )


@cache
def _class(name: str) -> Calibration:
    row = dict(_table("calibrations.toml", "classes")[name])
    evidence = Evidence[row.pop("evidence").upper()]
    return Calibration(name=name, evidence=evidence, **row)


def calibration(gpu: GpuSpec) -> Calibration:
    """The default efficiencies of this GPU's architecture class.

    Classes are matched by the longest class name that begins the architecture's ("cdna3" is
    "cdna"). An architecture without a class takes the most cautious one, volta.
    """
    known = _table("calibrations.toml", "classes")
    matching = [name for name in known if gpu.architecture.casefold().startswith(name)]
    return _class(max(matching, key=len, default="volta"))
