"""A YAML file -> plain values and the line of every key; nothing that surprises its writer.

Stricter than YAML: one document, a mapping, text keys, no duplicate keys, no tags; only decimal
numbers are numbers and only true and false are switches ("no", "1:30" and dates stay texts).
Aliases are read, but not to the point where a small file becomes a large study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tonnage.errors import InputError, InputErrors
from tonnage.study.document import Key
from tonnage.study.mistakes import Finding

MAX_DEPTH = 20  # the deepest study needs 6
MAX_NODES = 20_000  # aliases expanded; beyond this a file is an attack, not a study
MAX_INTEGER_DIGITS = 40

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(
    f"{_TAG}{name}"
    for name in ("null", "bool", "int", "float", "str", "timestamp", "value", "merge", "map", "seq")
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file says: plain values, the line each key stands on, and what is wrong so far."""

    tree: Mapping[str, Any]
    lines: Mapping[Key, int]
    findings: tuple[Finding, ...] = ()


def parse_yaml(text: str, file: str | None = None) -> Reading:
    """YAML text -> `Reading`; InputErrors for text that is not one YAML mapping."""
    try:
        _refuse_depth(text, file)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _mistake(
            f"holds a character that YAML does not allow ({error.reason}).", file, line
        ) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, file) from None
    if node is None:
        raise _mistake("is empty.", file, None)
    if not isinstance(node, yaml.MappingNode):
        raise _mistake("must be a mapping of keys to values.", file, node.start_mark.line + 1)
    walk = _Walk(file=file)
    tree = walk.value(node, ())
    return Reading(tree=tree, lines=walk.lines, findings=tuple(walk.findings))


def _mistake(message: str, file: str | None, line: int | None) -> InputErrors:
    return InputErrors([InputError(message, file=file, line=line)])


def _refuse_depth(text: str, file: str | None) -> None:
    """Composing is recursive: look at the nesting first, event by event."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                mark = event.start_mark
                line = mark.line + 1 if mark is not None else None
                raise _mistake(f"is nested deeper than {MAX_DEPTH} levels.", file, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str | None) -> InputErrors:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    lines = text.splitlines()
    at = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in at[: len(at) - len(at.lstrip())]:
        return _mistake("is indented with a tab: YAML wants spaces.", file, line)
    problem = " ".join((error.problem or "cannot be read").split())
    return _mistake(f"is not valid YAML: {problem}.", file, line)


@dataclass(slots=True)
class _Walk:
    """Turns nodes into values, noting lines and collecting complaints."""

    file: str | None
    lines: dict[Key, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    nodes: int = 0

    def value(self, node: yaml.Node, key: Key) -> Any:  # noqa: ANN401 — YAML has any type
        self.nodes += 1
        line = node.start_mark.line + 1
        if self.nodes > MAX_NODES or len(key) > MAX_DEPTH:
            raise _mistake("repeats itself through aliases beyond reason.", self.file, line)
        if node.tag not in _PLAIN_TAGS:
            self._complain(f"has a tag ({node.tag}); tags are not read here.", key, line)
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*key, index)) for index, item in enumerate(node.value)]
        return _scalar(node.tag.removeprefix(_TAG), str(node.value))

    def _item(self, node: yaml.Node, key: Key) -> Any:  # noqa: ANN401 — YAML has any type
        self.lines.setdefault(key, node.start_mark.line + 1)
        return self.value(node, key)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode):
                self._complain("holds a key that is not a word.", key, line)
                continue
            name = str(name_node.value)
            inner = (*key, name)
            if name in values:
                self._complain(
                    f"stands twice: on line {first_lines[name]} and on line {line}.", inner, line
                )
                continue
            first_lines[name] = line
            self.lines[inner] = line
            values[name] = self.value(value_node, inner)
        return values

    def _complain(self, message: str, key: Key, line: int) -> None:
        self.findings.append(Finding(key, message, line=line))


def _scalar(tag: str, text: str) -> str | float | bool | None:
    """A YAML scalar -> None, a switch, a decimal number, or the text itself."""
    if tag == "null":
        return None
    if tag == "bool" and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    digits = text.replace("_", "")
    if tag == "int" and len(digits) <= MAX_INTEGER_DIGITS and digits.lstrip("+-").isdecimal():
        return int(digits)
    if tag == "float" and ":" not in digits:
        named = {".inf": "inf", ".nan": "nan"}.get(digits.lower().lstrip("+-"))
        return float(named or digits)
    return text
