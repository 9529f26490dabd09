"""`tonnage measure` as a process of its own -> its exit, streams and run folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_S = 120


@dataclass(frozen=True)
class Told:
    """What a run of the command line came to."""

    exit_code: int
    out: str
    err: str
    folder: Path

    @property
    def run(self) -> dict[str, Any]:
        """What run.json holds."""
        return dict(json.loads((self.folder / "run.json").read_text()))

    @property
    def points(self) -> list[dict[str, Any]]:
        """The points of the run."""
        return list(self.run["points"])

    @property
    def records(self) -> list[dict[str, Any]]:
        """Every line of requests.jsonl."""
        return records_of(self.folder)

    def measured(self, level: str | None = None) -> list[dict[str, Any]]:
        """Records that count, of one level or of all."""
        return [
            each
            for each in self.records
            if each["phase"] == "measured" and level in {None, each["level"]}
        ]


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Every whole line of requests.jsonl."""
    lines = (folder / "requests.jsonl").read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def command(*arguments: object) -> list[str]:
    """The command line of tonnage."""
    return [sys.executable, "-m", "tonnage", *map(str, arguments)]


def tonnage(
    *arguments: object,
    cwd: Path,
    columns: int = 80,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=os.environ | {"COLUMNS": str(columns)} | dict(variables or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )


def measure(
    *arguments: object,
    cwd: Path,
    folder: str = "run",
    columns: int = 80,
    plots: bool = False,
    variables: Mapping[str, str] | None = None,
) -> Told:
    """`tonnage measure … -o folder`; what comes after `--` stays last."""
    words = list(map(str, arguments))
    at = words.index("--") if "--" in words else len(words)
    words[at:at] = ["-o", folder, *(() if plots else ("--no-plots",))]
    result = tonnage("measure", *words, cwd=cwd, columns=columns, variables=variables)
    return Told(result.returncode, result.stdout, result.stderr, cwd / folder)
