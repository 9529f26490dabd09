"""What a study asks against what the catalog knows -> findings for what cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tonnage.dtypes import DTYPES, KV_DTYPES
from tonnage.fleet import Candidate
from tonnage.model import ModelSpec
from tonnage.study.document import Key
from tonnage.study.mistakes import Finding
from tonnage.units import format_number
from tonnage.workload import LlmCall

if TYPE_CHECKING:
    from tonnage.study.loader import Study

USUAL_SIZES = (1, 2, 4, 8, 16)  # tensor parallelism that is worth suggesting


def lacking(
    key: Key, dtypes: tuple[str, ...], candidates: tuple[Candidate, ...], *, for_kv: bool
) -> Iterator[Finding]:
    """A finding when no candidate has any of the stated dtypes."""
    gpus = [candidate.gpu for candidate in candidates]
    if not dtypes or any(not gpu.lacks(d, for_kv=for_kv) for gpu in gpus for d in dtypes):
        return
    known = KV_DTYPES if for_kv else tuple(DTYPES)
    has = [d for d in known if any(not gpu.lacks(d, for_kv=for_kv) for gpu in gpus)]
    yield Finding(
        key,
        f"is {', '.join(dtypes)}, which {_or(gpu.name for gpu in gpus)} does not have.",
        f"Choose {_or(has)}, or another GPU.",
    )


def undivided(specs: tuple[ModelSpec, ...], sizes: tuple[int, ...]) -> Iterator[Finding]:
    """A finding for each model whose heads no stated tensor parallelism divides."""
    for spec in specs:
        if sizes and all(spec.heads % size for size in sizes):
            fitting = [size for size in USUAL_SIZES if spec.heads % size == 0]
            yield Finding(
                ("hardware", "tensor_parallel"),
                f"is {_or(str(size) for size in sizes)}, which does not divide the {spec.heads} "
                f"attention heads of {spec.name}.",
                f"Choose {_or(str(size) for size in fitting)}.",
            )


def overlong(
    calls: tuple[LlmCall, ...], specs: Iterable[ModelSpec], *, chain: bool
) -> Iterator[Finding]:
    """A finding for each call whose mean request does not fit its model's window."""
    for index, (call, spec) in enumerate(zip(calls, specs, strict=False)):
        prompt, output = call.mix.prompt.mean_tokens, call.mix.output.mean_tokens
        if prompt + output > spec.max_context_tokens:
            key: Key = ("workload", "calls", index) if chain else ("workload", "prompt")
            yield Finding(
                key,
                f"and answer take {format_number(round(prompt))} + {format_number(round(output))} "
                f"tokens, more than the {format_number(float(spec.max_context_tokens))} of "
                f"{spec.name}.",
                "Shorten them, or serve a model with a longer context.",
            )


def stretched(study: Study, candidates: tuple[Candidate, ...]) -> Iterator[Finding]:
    """A finding when a step model, measured on one arrangement, is asked to stand for several."""
    if study.step_model is None:
        return
    sizes = study.document.hardware.tensor_parallel or ()
    if len(candidates) == 1 and len(sizes) == 1:
        return
    yield Finding(
        ("engine", "step_model"),
        f"was measured on one arrangement, but {len(candidates)} kinds of hardware and "
        f"{len(sizes) or 'any'} sizes of tensor_parallel are open.",
        "Name one GPU or server and one hardware.tensor_parallel.",
    )


def _or(words: Iterable[str]) -> str:
    """The words joined for a sentence: "a, b or c"."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
