"""Names in a study -> what the catalog knows under them, and every one it does not know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tonnage.engine import Calibration, EngineProfile
from tonnage.errors import InputError, TonnageError
from tonnage.hardware import GpuSpec, ServerSpec
from tonnage.model import ModelSpec
from tonnage.study.document import Key
from tonnage.study.mistakes import Finding

Noun = TypeVar("Noun")


class StudyCatalog(Protocol):
    """What a study needs of the catalog; unknown names are `TonnageError`s with near ones."""

    @property
    def gpus(self) -> Mapping[str, GpuSpec]:
        """Every GPU by name."""

    def gpu(self, name: str) -> GpuSpec:
        """One GPU by name or alias."""

    def server(self, name: str) -> ServerSpec:
        """One server by name or alias."""

    def default_server(self, gpu_name: str) -> ServerSpec | None:
        """The server this GPU is usually sold in."""

    def model(self, name_or_path: str) -> ModelSpec:
        """A model by catalog name or hub id, or from a config.json."""

    def calibration(self, gpu: GpuSpec) -> Calibration:
        """How much of its datasheet this GPU reaches."""

    def engine(self, name: str) -> EngineProfile:
        """One serving engine by name."""


@dataclass(slots=True, kw_only=True)
class Names:
    """Looks names up in the catalog, and keeps a finding for each that it refuses."""

    catalog: StudyCatalog
    findings: list[Finding] = field(default_factory=list)

    def look_up(self, key: Key, find: Callable[[str], Noun], name: str) -> Noun | None:
        """The noun of this name; a complaint, and None, when the catalog refuses it."""
        try:
            return find(name)
        except TonnageError as error:
            message = f"cannot be used: {error.message.replace('The catalog', 'the catalog', 1)}"
            if isinstance(error, InputError) and error.file is not None:
                place = ":".join(str(part) for part in (error.file, error.line) if part)
                message = f"names {place}, where {error.key or 'it'} {error.message}"
            self.findings.append(Finding(key, message, error.hint))
            return None
