"""For documents, not for the screen: every input, every derivation, the dictionary."""

from __future__ import annotations

from collections.abc import Sequence

from tonnage.evidence import Rationale
from tonnage.fleet import (
    Plan,
)
from tonnage.report import (
    Cell,
    Column,
    Section,
    Table,
    dictionary,
)
from tonnage.report.figures import (
    format_figure,
)


def inputs_section(plan: Plan) -> Section | None:
    """Every input with its evidence; None when the question was built by hand."""
    if not plan.question.inputs:
        return None
    table = Table(
        columns=(
            Column("input"),
            Column("value", prose=True),
            Column("evidence"),
            Column("note", prose=True),
        ),
        rows=tuple(
            (Cell(each.key), Cell(each.text), Cell(each.evidence.label), Cell(each.note))
            for each in plan.question.inputs
        ),
    )
    return Section(id="inputs", title="Every input", blocks=(table,), detail=True)


def derivations_section(rationale: Sequence[Rationale]) -> Section | None:
    """Formula, inputs and meaning of every figure; None when there is none to explain."""
    if not rationale:
        return None
    rows = tuple(
        (
            Cell(each.figure),
            Cell(format_figure(each.value, each.unit), "strong", each.value),
            Cell(each.formula),
            Cell(", ".join(f"{symbol} = {value}" for symbol, value in each.inputs.items())),
            Cell(each.explanation),
            Cell(each.evidence.label),
        )
        for each in rationale
    )
    columns = (
        Column("figure"),
        Column("value", "right"),
        Column("formula", prose=True),
        Column("inputs", prose=True),
        Column("meaning", prose=True),
        Column("evidence"),
    )
    table = Table(columns=columns, rows=rows)
    return Section(
        id="derivations", title="How each figure came about", blocks=(table,), detail=True
    )


def dictionary_section() -> Section:
    """The meaning of every input a study can state."""
    table = Table(
        columns=(
            Column("parameter"),
            Column("what it is", prose=True),
            Column("where to get it", prose=True),
            Column("why it matters", prose=True),
            Column("common errors", prose=True),
        ),
        rows=tuple(
            (
                Cell(name),
                Cell(entry.description),
                Cell(entry.source),
                Cell(entry.importance),
                Cell(entry.common_errors),
            )
            for name, entry in dictionary.PARAMETERS.items()
        ),
    )
    return Section(id="parameters", title="What the parameters mean", blocks=(table,), detail=True)
