"""What is wrong with a document -> all of it at once, each with its place and its remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from tonnage.errors import InputError, InputErrors
from tonnage.spelling import nearest
from tonnage.study.document import Document, Key, annotation_at, format_key, quantity_at, section_at
from tonnage.units import EXAMPLES

MAX_ROUNDS = 100  # each round takes at least one wrong value out of the document

# What exists in serving but is not modelled: refused by name, with what to do instead.
_NO_SPECULATION = (
    "is not modelled: speculative decoding changes the time per token.",
    "Leave it out, or measure the engine with it on and size from engine.step_model.",
)
_NO_LORA = (
    "is not modelled: adapters take memory and time of their own.",
    "Leave it out, and size one merged model.",
)
_NO_MIG = (
    "is not modelled: slices of a GPU are not candidates.",
    "Leave it out, or describe the slice as a GPU of its own in hardware.catalog.",
)
_NO_DISAGGREGATION = (
    "is not modelled: prefill and decode run on the same replicas here.",
    "Leave it out.",
)
NOT_MODELLED: Mapping[str, tuple[str, str]] = {
    "speculative": _NO_SPECULATION,
    "speculative_decoding": _NO_SPECULATION,
    "speculative_config": _NO_SPECULATION,
    "draft_model": _NO_SPECULATION,
    "lora": _NO_LORA,
    "loras": _NO_LORA,
    "adapters": _NO_LORA,
    "mig": _NO_MIG,
    "mig_profile": _NO_MIG,
    "disaggregation": _NO_DISAGGREGATION,
    "disaggregated": _NO_DISAGGREGATION,
    "prefill": _NO_DISAGGREGATION,
    "decode": _NO_DISAGGREGATION,
    "prefill_gpus": _NO_DISAGGREGATION,
    "decode_gpus": _NO_DISAGGREGATION,
}
MIG_IN_A_NAME = (
    "names a slice of a GPU, and slices (MIG) are not modelled.",
    "Name the whole GPU, or describe the slice as a GPU of its own in hardware.catalog.",
)


class MistakeError(InputError):
    """A mistake in a study; one whose message names its key is shown without the key in front."""

    names_key = False

    def __str__(self) -> str:
        """`file:line: key message hint`; `file:line: message hint` when the message has the key."""
        if not self.names_key:
            return super().__str__()
        bare = InputError(self.message, hint=self.hint, file=self.file, line=self.line)
        return str(bare)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, at a key. "{key}" in the message stands for the key's name.

    `line` is given where the key's own line is not the place.
    """

    key: Key
    message: str
    hint: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """Where keys stand: lines of a file, and keys that a flag has set instead.

    `single` are those of `overridden` that list one value, which nobody knows by its number.
    """

    file: str | None
    lines: Mapping[Key, int]
    overridden: frozenset[Key]
    single: frozenset[Key] = frozenset()

    def mistake(self, finding: Finding) -> MistakeError:
        """The finding with its file and line, or with its key alone when a flag set it."""
        alone = finding.key[-1:] == (0,) and finding.key[:-1] in self.single
        name = format_key(finding.key[:-1] if alone else finding.key)
        by_flag = any(finding.key[: len(key)] == key for key in self.overridden)
        line = next(
            (
                self.lines[finding.key[:length]]
                for length in range(len(finding.key), 0, -1)
                if finding.key[:length] in self.lines
            ),
            1,
        )
        mistake = MistakeError(
            finding.message.replace("{key}", name),
            hint=finding.hint,
            file=None if by_flag else self.file,
            line=None if by_flag or self.file is None else finding.line or line,
            key=name or None,
        )
        mistake.names_key = "{key}" in finding.message
        return mistake

    def errors(self, findings: Iterable[Finding]) -> InputErrors:
        """All findings as one error, flags first, then in the order of the file."""
        mistakes = [self.mistake(finding) for finding in dict.fromkeys(findings)]
        return InputErrors(sorted(mistakes, key=lambda mistake: mistake.line or 0))


def check_shape(tree: Mapping[str, Any]) -> tuple[Document, list[Finding], list[Key]]:
    """Plain values -> a document of all that can be read, what cannot, and the keys left out.

    Wrong values are taken out and the rest is read again, so that one mistake hides no other.
    """
    current = deepcopy(dict(tree))
    findings: list[Finding] = []
    left_out: list[Key] = []
    for _ in range(MAX_ROUNDS):
        try:
            return Document.model_validate(current), findings, left_out
        except ValidationError as failure:
            for error in failure.errors(include_url=False, include_input=False):
                key = _shown(error["loc"], tree)
                absent = error["type"] == "missing"
                if not (absent and any(_overlap(key, out) for out in left_out)):
                    findings.append(_finding(error, key, tree))
            for error in failure.errors(include_url=False, include_input=False):
                missing = error["type"] == "missing"
                out = _shown(error["loc"][:-1] if missing else error["loc"], tree)
                out = out[
                    : next((i for i, part in enumerate(out) if isinstance(part, int)), len(out))
                ]
                _remove(current, out)
                left_out.append(out)
    return Document(), findings, left_out


def touches(key: Key, others: Iterable[Key]) -> bool:
    """Whether `key` is, holds or lies within one of `others`."""
    return any(_overlap(key, other) for other in others)


def did_you_mean(name: str, known: Iterable[str], *, listed: str = "Known here") -> str:
    """The sentence "Did you mean p95?", or all that is known when nothing is near."""
    names = [str(one) for one in known]
    folded = {one.lower(): one for one in names}
    near = nearest(name.lower(), folded, most=1)
    if near:
        return f"Did you mean {folded[near[0]]}?"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")  # noqa: PLR2004 — a line
    return f"{listed}: {shown}." if names else ""


def _overlap(one: Key, other: Key) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _shown(loc: Key, tree: Any) -> Key:  # noqa: ANN401 — any YAML value
    """The part of `loc` that its writer sees: shorthand is not expanded, except in promises.

    There "promises.ttft.p95" tells more than "promises.ttft".
    """
    current: Any = tree
    key: Key = ()
    for part in loc:
        scalar = current is not None and not isinstance(current, Mapping | list | tuple)
        if scalar and key[:1] != ("promises",):
            break
        if part == "[key]" and not (isinstance(current, Mapping) and part in current):
            break  # pydantic's mark for the key itself, unless somebody calls a key so
        current = value_at(current, (part,))
        key = (*key, part)
    return key


def _remove(tree: dict[str, Any], key: Key) -> None:
    *parents, last = key
    current: Any = tree
    for part in parents:
        inner = current.get(part) if isinstance(current, dict) else None
        if not isinstance(inner, dict):
            current.pop(part, None)  # shorthand, or a list: out as a whole
            return
        current = inner
    current.pop(last, None)


def _finding(error: Mapping[str, Any], key: Key, tree: Mapping[str, Any]) -> Finding:
    """One complaint of pydantic in the words of a colleague."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "wrong":
        return Finding(key, context["message"], context["hint"])
    handler = _WORDS.get(kind)
    if handler is None:
        return Finding(key, f"cannot be used: {error['msg'].lower()}.")
    return handler(key, tree)


def _unknown(key: Key, _tree: Mapping[str, Any]) -> Finding:
    name = str(key[-1])
    if name in NOT_MODELLED:
        return Finding(key, *NOT_MODELLED[name])
    section = section_at(key[:-1])
    known = section.model_fields if section else ()
    return Finding(key, "is not a key here.", did_you_mean(name, known, listed="Keys here"))


def _missing(key: Key, _tree: Mapping[str, Any]) -> Finding:
    quantity = quantity_at(key)
    hint = f"Give {EXAMPLES[quantity.dimension]}." if quantity else ""
    return Finding(key, "is missing.", hint)


def _not_a_mapping(key: Key, _tree: Mapping[str, Any]) -> Finding:
    section = section_at(key)
    keys = ", ".join(section.model_fields) if section else ""
    return Finding(key, "must hold keys of its own" + (f": {keys}." if keys else "."))


def _not_a_list(key: Key, _tree: Mapping[str, Any]) -> Finding:
    return Finding(key, "must be a list, for example [a, b].")


def _not_a_choice(key: Key, tree: Mapping[str, Any]) -> Finding:
    annotation = annotation_at(key)
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    value = value_at(tree, key)
    hint = did_you_mean(value, choices, listed="Choose from") if isinstance(value, str) else ""
    shown = f'"{value}"' if isinstance(value, str | float | int) else "This"
    return Finding(key, f"must be one of {', '.join(choices)}; {shown} is not.", hint)


_WORDS: Mapping[str, Callable[[Key, Mapping[str, Any]], Finding]] = {
    "extra_forbidden": _unknown,
    "missing": _missing,
    "model_type": _not_a_mapping,
    "model_attributes_type": _not_a_mapping,
    "dict_type": _not_a_mapping,
    "tuple_type": _not_a_list,
    "literal_error": _not_a_choice,
}


def value_at(tree: Any, key: Key) -> Any:  # noqa: ANN401 — any YAML value
    """What stands at `key` in plain values, None when nothing does."""
    for part in key:
        if isinstance(tree, Mapping):
            tree = tree.get(part)
        elif isinstance(tree, list | tuple) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            return None
    return tree
