"""A JSON document -> the same, valid by its published schema and without a key beside it."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema

from tonnage.report.json import DocumentName, schema


def checked(document: Any, name: DocumentName) -> Any:
    """`document`, which is what its schema says and nothing more."""
    _validator(name).validate(document)
    return document


@cache
def _validator(name: DocumentName) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_closed(schema(name)))


def _closed(node: Any) -> Any:
    """The schema with every object closed to keys it does not name."""
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    inner = {key: _closed(value) for key, value in node.items()}
    if isinstance(inner.get("properties"), dict) and "type" in inner:
        inner.setdefault("additionalProperties", False)
    return inner
