"""`tonnage parameter`: the name of an input -> what it means and where to get it."""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer

from tonnage.cli.output import terminal_width
from tonnage.errors import UsageError


def parameter(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A flag (--kv-dtype), its name, or a key of a study."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Name them all.")] = False,
) -> None:
    """What an input means and where to get it.

    Also why it matters, and how people get it wrong.
    """
    from tonnage.report.dictionary import PARAMETERS, parameter_name  # noqa: PLC0415 — only here

    if listed:
        longest = max(map(len, PARAMETERS))
        for each, told in PARAMETERS.items():
            hanging = " " * (longest + 2)
            typer.echo(
                textwrap.fill(
                    told.description,
                    min(terminal_width(), 120),
                    initial_indent=f"{each:<{longest}}  ",
                    subsequent_indent=hanging,
                )
            )
        return
    if name is None:
        raise UsageError("which parameter?", hint="See tonnage parameter --list.")
    title = parameter_name(name)
    found = PARAMETERS[title]
    typer.echo(title)
    for label, text in (
        ("what", found.description),
        ("where from", found.source),
        ("why", found.importance),
        ("careful", found.common_errors),
    ):
        typer.echo(
            textwrap.fill(
                text,
                min(terminal_width(), 110),
                initial_indent=f"  {label:<12}",
                subsequent_indent=" " * 14,
            )
        )
