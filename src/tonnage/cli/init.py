"""`tonnage init`: six questions -> a study file.

Each question is also a flag, so that a script needs no terminal. An empty answer, or none because
the input ended, takes the default, which every plan then lists as assumed.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tonnage.cli.flags import FLAGS, Told, overrides, takes_study_flags
from tonnage.cli.output import terminal_width
from tonnage.cli.size import ask
from tonnage.errors import TonnageError, UsageError
from tonnage.files import refuse_unwritable, write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tonnage.study.discovery import DiscoveryQuestion

_THE_FILE = "The file"

# topic -> the places in the study that answer it; below a place counts as at it
_ANSWERED_BY: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "prompt": ("workload.prompt", "workload.context"),
    "answer": ("workload.answer", "workload.context"),
    "load": (
        "workload.request_rate",
        "workload.peak_request_rate",
        "workload.users",
        "workload.requests_per_day",
        "workload.daily_users",
        "workload.concurrency",
        "workload.clients",
        "workload.batch",
        "workload.sessions",
    ),
    "latency": ("promises", "workload.batch", "workload.sessions"),
    "gpus": ("hardware.gpus", "hardware.servers"),
}


@takes_study_flags
def init(
    *,
    told: Told,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to write.", rich_help_panel=_THE_FILE
        ),
    ] = Path("study.yaml"),
    force: Annotated[
        bool, typer.Option("--force", help="Replace FILE if it exists.", rich_help_panel=_THE_FILE)
    ] = False,
) -> None:
    """Ask six questions and write a study.

    A flag answers its question beforehand. What is neither asked nor told takes its default.
    """
    refuse_unwritable(output)
    if output.exists() and not force:
        raise UsageError(f"{output} exists already.", hint="Choose another -o FILE, or --force.")
    values = overrides(told)
    study = ask(None, {**values, **_answers(set(values))})
    write_atomically(output, study.to_yaml())
    typer.echo(f"wrote {output} · next: tonnage size {output}", err=True)


def _answers(given: set[str]) -> dict[str, object]:
    """Ask what `given` does not answer; places in the study and what stands there."""
    from tonnage.study.discovery import DISCOVERY  # noqa: PLC0415 — cold start

    found: dict[str, object] = {}
    for number, question in enumerate(DISCOVERY, start=1):
        places = _ANSWERED_BY[question.topic]
        if not any(
            key == place or key.startswith(f"{place}.") for key in given for place in places
        ):
            typer.echo(f"{number}/{len(DISCOVERY)}  {question.ask}", err=True)
            typer.echo(_wrapped(question.help), err=True)
            answered = _answer(question)
            found.update(answered)
            given = given | set(answered)
    return found


def _answer(question: DiscoveryQuestion) -> Mapping[str, object]:
    """Ask until the answer can be read."""
    while True:
        default = f" [{question.default}]" if question.default else ""
        typer.echo(f"     for example {question.example}{default}: ", nl=False, err=True)
        line = sys.stdin.readline()
        if not sys.stdin.isatty():
            typer.echo("", err=True)
        text = line.strip()
        if not text and question.default:
            return {}
        if not line:
            flags = [flag for flag in FLAGS if flag.key.startswith(_ANSWERED_BY[question.topic])]
            raise UsageError(f"nobody answered: {question.ask}", hint=f"Give {flags[0].name}.")
        if not text:
            typer.echo("     An answer is needed here.", err=True)
            continue
        try:
            return question.read(text)
        except TonnageError as error:
            typer.echo(_wrapped(str(error)), err=True)


def _wrapped(text: str) -> str:
    """Lines that fit the terminal, indented under their question."""
    indent = " " * 5
    width = min(terminal_width(), 100)
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)
