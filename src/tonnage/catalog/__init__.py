"""TOML files with a source and a date in each row -> GPUs, servers, storage, prices and models.

`loader` reads them and the user's own on top, `check` judges them, `huggingface` turns a model's
config.json into a ModelSpec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong ("error") or odd ("warning") in a catalog file."""

    severity: Literal["error", "warning"]
    file: str
    row: str
    message: str
