"""tonnage's own run.json -> the Run, every value checked before it is one."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from tonnage.measurement import Point, Run
from tonnage.measurement.importers.reading import Place, printable
from tonnage.measurement.run import FORMAT, load_run

TOOL = "tonnage"


def recognises(document: Place) -> bool:
    """A document that says it is one."""
    return document.is_object_with("format") and document.get("format").value == FORMAT


def read(document: Place) -> Run:
    """The run of a recognised document. Raises InputError for a wrong type or an unknown key."""
    _check(Run, document)
    for key in ("name", "tool", "points"):
        if document.get(key).value is None:
            document.get(key).refuse("is missing.")
    for point in document.get("points").entries():
        _check(Point, point)
    for name, fact in document.get("facts").members():
        if fact.value is None:
            fact.refuse("must be a text.")
        _check_text(fact)
        if printable(name) != name:
            fact.refuse("has a name that cannot be shown.")
    return load_run(Path(document.file))


def _check(noun: type, place: Place) -> None:
    """Read every value of `place` as the field of `noun` it is for."""
    if place.value is None:
        place.refuse("must be an object.")
    kinds = {each.name: str(each.type) for each in fields(noun)}
    for key, value in place.members():
        kind = kinds.get(key, "")
        if kind and "None" not in kind and value.value is None:
            value.refuse("must not be null.", hint="Import the tool's own file again.")
        elif kind.startswith("bool"):
            value.flag()
        elif kind.startswith("int"):
            value.count()
        elif kind.startswith("float"):
            value.amount()
        elif kind.startswith("str"):
            _check_text(value)
        elif kind.startswith("tuple[str"):
            for note in value.entries():
                if note.value is None:
                    note.refuse("must be a text.")
                _check_text(note)


def _check_text(place: Place) -> None:
    place.text()
    if isinstance(place.value, str) and printable(place.value) != place.value:
        place.refuse("holds characters that cannot be shown.")
