"""The command line as a process of its own -> how it ended and what it said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

LONGEST_S = 120


def command(*arguments: object) -> list[str]:
    """The command line of tonnage."""
    return [sys.executable, "-m", "tonnage", *map(str, arguments)]


def tonnage(
    *arguments: object,
    cwd: Path | None = None,
    columns: int = 80,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, in no terminal and without what the user set for tonnage."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TONNAGE")}
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=kept | {"COLUMNS": str(columns)} | dict(variables or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
