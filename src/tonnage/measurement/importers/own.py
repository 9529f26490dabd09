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
    return load_run(Path(document.file))


def _check(noun: type, place: Place) -> None:
    """Read every value of `place` as the field of `noun` it is for."""
    if place.value is None:
        place.refuse("must be an object.")
    kinds = {each.name: str(each.type) for each in fields(noun)}
    for key, value in place.members():
        kind = kinds.get(key, "")
        _refuse_null(kind, value)
        if kind.startswith("Mapping"):
            _check_mapping(kind, value)
        elif kind.startswith("tuple[str"):
            for note in value.entries():
                _check_value("str", note)
        elif kind:
            _check_value(kind, value)


def _check_mapping(kind: str, place: Place) -> None:
    for name, entry in place.members():
        if printable(name) != name:
            entry.refuse("has a name that cannot be shown.")
        _check_value(kind.removeprefix("Mapping[str, ").removesuffix("]"), entry)


def _refuse_null(kind: str, place: Place) -> None:
    if kind and "None" not in kind and place.value is None:
        place.refuse("must not be null.", hint="Import the tool's own file again.")


def _check_value(kind: str, place: Place) -> None:
    _refuse_null(kind, place)
    if kind.startswith("bool"):
        place.flag()
    elif kind.startswith("int"):
        place.count()
    elif kind.startswith("float"):
        place.amount()
    elif kind.startswith("str"):
        place.text()
        if isinstance(place.value, str) and printable(place.value) != place.value:
            place.refuse("holds characters that cannot be shown.")
