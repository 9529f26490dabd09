"""`tonnage size`: users, prompts and promises -> the fleet to buy."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tonnage.cli.flags import Told, overrides, takes_study_flags
from tonnage.cli.output import (
    ANSWER,
    FormatOption,
    OutputOption,
    QuietOption,
    deliver,
    terminal_width,
    working,
)
from tonnage.errors import EXIT_INFEASIBLE, UsageError
from tonnage.files import refuse_unwritable, write_atomically

if TYPE_CHECKING:
    from tonnage.study.loader import Study

StudyArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="STUDY.yaml",
        help="A study; flags override what it says. Make one with tonnage init.",
        show_default=False,
    ),
]
ExplainOption = Annotated[
    str | None,
    typer.Option(
        "--explain",
        metavar="FIGURE",
        help="How one figure came about, for example kv_bytes_per_session.",
        rich_help_panel=ANSWER,
        show_default=False,
    ),
]


@takes_study_flags
def size(
    study: StudyArgument = None,
    *,
    told: Told,
    explain: ExplainOption = None,
    chosen_format: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """How many GPUs, of which kind, in what arrangement.

    Tell it by a study, by flags, or by both. It answers with the recommended fleet, what the
    answer rests on, and why the other options lost. Exit codes: 0 answered, 2 wrong use,
    3 bad input, 4 nothing keeps the promises (the report says what would).
    """
    if study is None and not told:
        raise UsageError(
            "there is nothing to size: give a study or flags.",
            hint="For example tonnage size study.yaml, or see tonnage size --help.",
        )
    refuse_unwritable(output)

    asked = ask(study, overrides(told))
    from tonnage import pipeline  # noqa: PLC0415 — the whole machinery

    with working("sizing", quiet=quiet):
        plan = pipeline.size(asked)

    if explain is not None:
        from tonnage.report.explain import render_explanation  # noqa: PLC0415 — only when asked

        text = render_explanation(plan, explain, width=min(terminal_width(), 110))
        if output is None:
            sys.stdout.write(text)
        else:
            write_atomically(output, text)
    else:
        from tonnage.report.build import report_plan  # noqa: PLC0415 — only when asked

        report = report_plan(plan, command=typed_command("size", study, told))
        deliver(report, chosen=chosen_format, output=output, quiet=quiet)
    if plan.infeasible is not None:
        typer.echo(f"error: {plan.infeasible.reason} (exit {EXIT_INFEASIBLE})", err=True)
        raise typer.Exit(EXIT_INFEASIBLE)


def ask(path: Path | None, values: Mapping[str, object]) -> Study:
    """The study of `path` with the flags laid over it, or of the flags alone."""
    from tonnage.study.loader import load_study, study_from_overrides  # noqa: PLC0415 — cold start

    return load_study(path, overrides=values) if path else study_from_overrides(values)


def typed_command(name: str, study: Path | None, told: Told) -> str:
    """The command that asks the same again, without where the answer went."""
    words = ["tonnage", name, *([str(study)] if study else [])]
    for flag, value in told.items():
        for each in [value] if isinstance(value, str) else value:
            words += [flag.name, each]
    return shlex.join(words)
