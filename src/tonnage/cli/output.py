"""A rendered report -> stdout or a file that is never half-written; notes -> stderr."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tonnage.files import write_atomically
from tonnage.report import Report

DEFAULT_WIDTH = 120  # columns when stdout is not a terminal and COLUMNS is not set
BAR_COLUMNS = 24

ANSWER = "The answer"


class Format(StrEnum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        "-f",
        help="Default: text, or what the ending of --output says (.json, .md).",
        rich_help_panel=ANSWER,
        show_default=False,
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write the answer to FILE instead of stdout; replaced only when complete.",
        rich_help_panel=ANSWER,
        show_default=False,
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="No progress and no notes on stderr.", rich_help_panel=ANSWER
    ),
]

_ENDINGS = {".json": Format.JSON, ".md": Format.MARKDOWN, ".markdown": Format.MARKDOWN}


def deliver(
    report: Report, *, chosen: Format | None, output: Path | None, quiet: bool = False
) -> None:
    """Render `report` and put it where it was asked for."""
    kind = chosen or (_ENDINGS.get(output.suffix.lower()) if output else None) or Format.TEXT
    text = _render(report, kind, to_file=output is not None)
    if output is None:
        sys.stdout.write(text)
        return
    write_atomically(output, text)
    if not quiet:
        answer = f"{report.headline.label}: {report.headline.answer}".removeprefix(": ")
        typer.echo(f"wrote {output} · {answer}", err=True)


def _render(report: Report, kind: Format, *, to_file: bool) -> str:
    match kind:
        case Format.JSON:
            from tonnage.report.json import render_json  # noqa: PLC0415 — only when asked

            return render_json(report)
        case Format.MARKDOWN:
            from tonnage.report.markdown import render_markdown  # noqa: PLC0415 — only when asked

            return render_markdown(report)
        case Format.TEXT:
            from tonnage.report.text import render_text  # noqa: PLC0415 — imports Rich

            width = DEFAULT_WIDTH if to_file else terminal_width()
            return render_text(report, width=width, colour=not to_file and wants_colour())


def terminal_width() -> int:
    """Columns of the terminal; COLUMNS wins, 120 when there is none."""
    return shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns


def wants_colour() -> bool:
    """A terminal that did not ask for plain text (https://no-color.org)."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


@contextmanager
def working(what: str, *, quiet: bool) -> Iterator[None]:
    """Say on a terminal what is being done, and take it back when it is done."""
    shown = sys.stderr.isatty() and not quiet
    if shown:
        sys.stderr.write(f"{what} … (Ctrl-C stops it safely)\r")
        sys.stderr.flush()
    try:
        yield
    finally:
        if shown:
            sys.stderr.write("\033[K")
            sys.stderr.flush()


@contextmanager
def watched(
    first: str, *, quiet: bool, title: str | None = None
) -> Iterator[Callable[..., None] | None]:
    """One line on a terminal's stderr that keeps itself up to date, gone when it is left.

    Yields what brings it up to date: `description`, and with a `title` for its bar `completed` and
    `total`; None where nobody looks.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich import progress  # noqa: PLC0415 — cold start
    from rich.console import Console  # noqa: PLC0415 — as above

    leading: list[progress.ProgressColumn] = [progress.SpinnerColumn()]
    if title is not None:
        leading = [progress.TextColumn(title), progress.BarColumn(BAR_COLUMNS)]
    with progress.Progress(
        *leading,
        progress.TextColumn("{task.description}"),
        progress.TextColumn("[dim]Ctrl-C stops it safely"),
        console=Console(stderr=True),
        transient=True,
    ) as line:
        yield partial(line.update, line.add_task(first, total=None))
