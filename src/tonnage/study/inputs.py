"""What a study says -> the list of stated inputs, each as it was written and in SI units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tonnage.evidence import Evidence
from tonnage.fleet import StatedInput
from tonnage.study.demand import TOLD
from tonnage.study.document import Key, format_key, quantity_at, told_leaves
from tonnage.study.mistakes import value_at
from tonnage.study.quantities import SI_UNITS, CachedPart, TokenAmount
from tonnage.units import format_fraction, format_number

if TYPE_CHECKING:
    from tonnage.study.loader import Study


def told_inputs(
    study: Study, notes: Mapping[Key, Sequence[str]], words_per_token: float
) -> list[StatedInput]:
    """Every stated value. `notes` says more about a key or the section it begins."""
    inputs = []
    unsaid = {key: list(texts) for key, texts in notes.items()}
    for key, value in told_leaves(study.document):
        written = _written(study, key)
        evidence, said = _how_known(study, key, value, words_per_token)
        for length in range(1, len(key) + 1):
            said += unsaid.pop(key[:length], [])
        inputs.append(
            StatedInput(
                key=format_key(written),
                text=_text(study, written, value),
                evidence=evidence,
                value=_number(value, words_per_token),
                unit=_unit(key, value),
                note="; ".join(said),
            )
        )
    return inputs


def _how_known(
    study: Study, key: Key, value: object, words_per_token: float
) -> tuple[Evidence, list[str]]:
    """The evidence of a stated value and what to say about it."""
    if key[-1] == "file":
        if study.texts[str(value)].tokens is not None:
            return Evidence.MEASURED, ["tokens counted by the tokenizer"]
        return Evidence.ASSUMED, ["words counted, tokens estimated from them"]
    if isinstance(value, TokenAmount) and value.unit == "words":
        return TOLD, ["stated", f"{format_number(value.tokens(words_per_token))} tokens"]
    return TOLD, ["stated"]


def _written(study: Study, key: Key) -> Key:
    """The key as it stands in the study, where a shorthand hides the last part."""
    parent = value_at(study.tree, key[:-1])
    hidden = key[:-1] and not isinstance(parent, Mapping | list | tuple)
    return key[:-1] if hidden else key


def _text(study: Study, key: Key, value: object) -> str:
    written = value_at(study.tree, key)
    if isinstance(written, list | tuple):
        return ", ".join(str(item) for item in written)
    if isinstance(written, bool) or not isinstance(written, int | float):
        return str(value if written is None else written)
    quantity = quantity_at(key)
    if quantity is not None and quantity.dimension == "fraction":
        return format_fraction(float(written))
    return format_number(float(written))


def _unit(key: Key, value: object) -> str:
    quantity = quantity_at(key)
    if isinstance(value, CachedPart):
        return "tokens" if value.amount is not None else ""
    return SI_UNITS[quantity.dimension] if quantity is not None else ""


def _number(value: Any, words_per_token: float) -> float | None:  # noqa: ANN401 — any leaf
    match value:
        case TokenAmount():
            return value.tokens(words_per_token)
        case CachedPart(amount=TokenAmount() as amount):
            return amount.tokens(words_per_token)
        case CachedPart(share=share):
            return share
        case bool():
            return None
        case int() | float():
            return float(value)
        case _:
            return None
