"""A run folder <-> a Run: `run.json` with the points, written atomically."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tonnage.errors import InputError
from tonnage.files import write_json_atomically
from tonnage.measurement import Point, Run

RUN_FILE = "run.json"
FORMAT = "tonnage-run/1"


def write_run(run: Run, folder: Path) -> Path:
    """Write `run` into `folder` (made when missing); a reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    body = {"format": FORMAT, **asdict(run)}
    body["points"] = [
        {key: value for key, value in point.items() if value not in (None, (), [], {})}
        for point in body["points"]
    ]
    path = folder / RUN_FILE
    write_json_atomically(path, body)
    return path


def load_run(path: Path) -> Run:
    """The run of a folder or of its run.json. Raises InputError for what is not one."""
    file = path / RUN_FILE if path.is_dir() else path
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "does not exist.",
            hint="Make one with tonnage measure or tonnage import.",
            file=str(file),
        ) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}.", file=str(file)) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", None)
        raise InputError("is not JSON.", file=str(file), line=line) from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise InputError(
            "is not a run of tonnage.",
            hint="Import another tool's result with tonnage import.",
            file=str(file),
        )
    return Run(
        **{
            **_known(Run, body, file),
            "points": tuple(Point(**_known(Point, point, file)) for point in body["points"]),
            "facts": dict(body.get("facts", {})),
            "notes": tuple(body.get("notes", ())),
        }
    )


def first_difference(
    runs: Sequence[Run], nouns: Sequence[str]
) -> tuple[int, str, object, object] | None:
    """Where runs are not of one system: whose, which noun, what it is there and what it was before.

    What a run does not state differs from nothing.
    """
    for noun in nouns:
        known: object = None
        for index, run in enumerate(runs):
            found = getattr(run, noun)
            if found is not None and known not in {None, found}:
                return index, noun, found, known
            known = known if found is None else found
    return None


def _known(noun: type, body: dict[str, Any], file: Path) -> dict[str, Any]:
    """The entries of `body` that `noun` has; an unknown one is an error."""
    names = {each.name for each in fields(noun)}
    for key in body:
        if key not in names and key != "format":
            raise InputError("is not a key of a run.", file=str(file), key=key)
    known = {key: value for key, value in body.items() if key in names}
    if "notes" in known:
        known["notes"] = tuple(known["notes"])
    return known
