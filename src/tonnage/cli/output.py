"""A rendered report -> stdout or a file that is never half-written; notes -> stderr."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tonnage.errors import InputError, UsageError
from tonnage.report import Report

DEFAULT_WIDTH = 120  # columns when stdout is not a terminal and COLUMNS is not set

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


def refuse_unwritable(path: Path | None) -> None:
    """Find out before the work, not after it, that `path` cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(
            f"{path} is a directory, not a file.", hint=f"For example -o {path / 'plan.json'}."
        )
    parent = path.parent
    if not parent.is_dir():
        raise UsageError(f"there is no directory {parent} to write {path.name} in.")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all; what was there stays until then."""
    refuse_unwritable(path)
    target = path.resolve()  # through a symbolic link, which stays one
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, _mode_of(target))  # noqa: PTH101 — a name, as mkstemp gives it
            os.replace(name, target)  # noqa: PTH105 — as above
        except BaseException:
            with suppress(OSError):
                os.unlink(name)  # noqa: PTH108 — as above
            raise
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}.", file=str(path)) from error


def _mode_of(target: Path) -> int:
    """Permissions the file has, or those a new one would get."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


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
