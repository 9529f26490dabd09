"""`tonnage measure` as a process of its own -> its exit, streams and run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.process import tonnage
from tests.report.documents import checked


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
        return dict(checked(json.loads((self.folder / "run.json").read_text()), "run"))

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
    return [checked(json.loads(line), "request") for line in lines if line.endswith(b"\n")]


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
