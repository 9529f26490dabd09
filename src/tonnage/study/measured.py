"""A study and load tests -> the question about copies of what was measured, and those copies.

What a model takes was seen, so the study's model is a name here, whether or not the catalog knows
it, and its arrangement is the run's own. Hardware and prices are looked up as for any study.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from sys import maxsize
from typing import TYPE_CHECKING

from tonnage.catalog.loader import Catalog
from tonnage.catalog.rows import folded
from tonnage.errors import InputError
from tonnage.fleet import Question, StatedInput
from tonnage.fleet.measured import MeasuredCopy
from tonnage.measurement import Run
from tonnage.measurement.curve import MeasuredCurve
from tonnage.model import ModelSpec

if TYPE_CHECKING:
    from tonnage.study.loader import Study

# places of a study that say what was measured, or that only a model of it needs
_MEASURED = ("model", "engine", "memory", "hardware", "workload.network")
_LENGTHS = (("prompt", "input_tokens_mean"), ("answer", "output_tokens_mean"))


def ask_of_copies(
    study: Study, runs: Mapping[str, Run], catalog: Catalog
) -> tuple[Question, tuple[MeasuredCopy, ...]]:
    """The question of `study`, and every way to buy what each run measured.

    `runs` maps where each was read to the run, whose `gpus` are one copy. Lengths that the study
    does not state are those of the first run. Raises TonnageError for what does not fit together.
    """
    asked = _as_measured(study, next(iter(runs.values())))
    question = asked.question(_NamesOnly(catalog))
    copies = tuple(
        copy for file, run in runs.items() for copy in _copies(study, question, catalog, file, run)
    )
    return replace(question, inputs=tuple(_inputs(study, question, copies))), copies


class _NamesOnly(Catalog):
    """The catalog to a question that a measurement answers: a model is a name, known or not."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(catalog.overlays)

    def model(self, name: str) -> ModelSpec:
        """A model of which nothing is known but what it is called."""
        return ModelSpec(
            name=_model_name(self, name),
            family="",
            hidden_size=0,
            vocab_size=0,
            max_context_tokens=maxsize,
            layer_groups=(),
            tied_embeddings=True,
        )


def _model_name(catalog: Catalog, name: str) -> str:
    """The catalog's name of a model, or `name` when it is not in it."""
    return catalog.index("models").get(folded(name), name)


def _as_measured(study: Study, run: Run) -> Study:
    """The study with the run's lengths where it states none, and with no arrangement of its own."""
    workload = study.document.workload
    if study.document.hardware.tensor_parallel:
        study = study.with_value("hardware.tensor_parallel", 1)  # a size that any model allows
    for name, length in _LENGTHS:
        seen = next((v for p in run.points if (v := getattr(p, length)) is not None), None)
        if seen and workload.calls is None and getattr(workload, name) is None:
            study = study.with_value(f"workload.{name}.mean", seen)
    return study


def _copies(
    study: Study, question: Question, catalog: Catalog, file: str, run: Run
) -> Iterator[MeasuredCopy]:
    """What `run` measured, in each server it may be bought in."""
    gpus = run.gpus
    if gpus is None:
        raise InputError(
            "does not say how many GPUs were measured.",
            hint="Add --gpus N, or import it with tonnage import … --gpus N.",
            file=file,
        )
    known = catalog.index("gpus").get(folded(run.gpu or ""))
    fitting = [each for each in question.candidates if each.gpu.name == known]
    hardware = study.document.hardware
    if not fitting and (hardware.gpus or hardware.servers):
        if known is not None or len(question.candidates) > 1:
            told = ", ".join(dict.fromkeys(each.gpu.name for each in question.candidates))
            raise InputError(
                f"was measured on {run.gpu or 'a GPU it does not name'}, not on {told}.",
                hint="Say which with tonnage import … --gpu NAME, or leave the hardware out.",
                file=file,
            )
        fitting = list(question.candidates)
    if run.model is not None:
        run = replace(run, model=_model_name(catalog, run.model))
    for candidate in fitting or (None,):
        yield MeasuredCopy(
            run=run,
            file=file,
            gpus=gpus,
            candidate=candidate,
            curve=MeasuredCurve(run.points),
        )


def _inputs(
    study: Study, question: Question, copies: Sequence[MeasuredCopy]
) -> Iterator[StatedInput]:
    """The inputs that an answer from measurements rests on."""
    prices = {f"hardware.prices.{copy.gpu}" for copy in copies}
    workload = study.document.workload
    filled_in = (f"workload.{name}" for name, _ in _LENGTHS if getattr(workload, name) is None)
    unasked = (*_MEASURED, *filled_in)
    for told in question.inputs:
        of_memory = told.key.endswith(".kv_budget_fraction")
        if told.key in prices or not (of_memory or told.key.startswith(unasked)):
            yield told
