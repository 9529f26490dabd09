"""A JSON file with a user's own step times -> the StepModel it states, or every mistake in it."""

from __future__ import annotations

import json
from pathlib import Path

from tonnage.engine import StepModel
from tonnage.errors import InputError, InputErrors
from tonnage.evidence import Evidence
from tonnage.files import load_text
from tonnage.study.mistakes import did_you_mean

KEYS = ("base_s", "per_prefill_token_s", "per_sequence_s", "per_kv_token_s")
LONGEST_S = 1e6  # longer than any step of an engine


def load_step_model(path: Path, *, name: str | None = None) -> StepModel:
    """The four times in `path`; `name` is what complaints call the file.

    Raises InputErrors, each with the key that is wrong where there is one.
    """
    file = name or str(path)
    try:
        values = json.loads(load_text(path), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputErrors([InputError(f"is not JSON: {error}.", file=file)]) from None
    except InputError as error:
        raise InputErrors([error]) from None
    if not isinstance(values, dict):
        raise InputErrors([InputError(f"must hold {', '.join(KEYS)}.", file=file)])
    mistakes = [
        InputError("is not a key.", hint=did_you_mean(key, KEYS), file=file, key=f'"{key}"')
        for key in values
        if key not in (*KEYS, "source")
    ]
    times: dict[str, float] = {}
    for key in KEYS:
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            value = None
        if value is not None and 0 <= value <= LONGEST_S:
            times[key] = float(value)
        else:
            said = "must be a time in seconds, 0 or more." if key in values else "is missing."
            mistakes.append(InputError(said, hint="For example 0.009.", file=file, key=key))
    if not mistakes and not any(times.values()):
        said = "has 0 for every time."
        mistakes.append(InputError(said, hint="At least base_s takes some.", file=file))
    if mistakes:
        raise InputErrors(mistakes)
    source = values.get("source")
    return StepModel(
        **times, source=source if isinstance(source, str) else file, evidence=Evidence.CALIBRATED
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
