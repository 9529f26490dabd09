"""What every command shares: mistakes become lines on stderr and an exit code; help in groups."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from tonnage.errors import EXIT_INTERRUPTED, InputError, InputErrors, TonnageError

EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell expects of a reader that left


class Door(TyperGroup):
    """The group that catches what a person can cause; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 — Typer's context, whichever click it carries
        """Run the chosen command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except TonnageError as error:
            for line in error_lines(error):
                typer.echo(line, err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # Python would flush stdout once more at exit and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_BROKEN_PIPE) from None
        return result


class GroupedOptions(TyperCommand):
    """A command whose help lists its options under headings, in the order of declaration."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 — as above
        """Write one definition list per `rich_help_panel`."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                heading = getattr(param, "rich_help_panel", None) or self._plain_heading(param)
                groups.setdefault(heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=34)

    @staticmethod
    def _plain_heading(param: Any) -> str:  # noqa: ANN401 — as above
        return "Arguments" if param.param_type_name == "argument" else "Options"


def error_lines(error: TonnageError) -> Iterable[str]:
    """What a colleague would say: `file:line: …` for a document, `error: …` for the rest."""
    from tonnage.cli.flags import as_flags  # noqa: PLC0415 — flags imports typer's option table

    if isinstance(error, InputErrors):
        for each in error.errors:
            yield from error_lines(each)
    elif isinstance(error, InputError) and error.file is not None:
        yield str(error)
    else:
        yield f"error: {as_flags(str(error))}"
