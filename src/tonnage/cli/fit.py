"""`tonnage fit`: measured levels -> a line or a law, and the GPUs that a target asks for."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tonnage.cli.flags import read_quantity
from tonnage.cli.output import (
    ANSWER,
    FormatOption,
    OutputOption,
    QuietOption,
    deliver,
)
from tonnage.errors import EXIT_INFEASIBLE, InputError, UsageError
from tonnage.files import refuse_overwriting, refuse_unwritable

if TYPE_CHECKING:
    from tonnage.measurement.sweep import Sweep

QUESTION = "The question"


class FitKind(StrEnum):
    """What is put through the levels."""

    LINE = "line"
    USL = "usl"
    BEST = "best"


PathsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH…",
        help="A run: the folder that tonnage measure or import wrote, or what import reads. Several"
        " runs of one system are fitted together.",
        show_default=False,
    ),
]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="What to fit, for example e2e_p95 or ttft_p95; repeatable. Default: the p95 of LLM"
        " latency and of workflow runtime, or of the whole answer where a run has neither.",
        rich_help_panel=QUESTION,
        show_default=False,
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target-s",
        metavar="SECONDS",
        help="The latency to keep: how many requests in flight meet it?",
        rich_help_panel=QUESTION,
        show_default=False,
    ),
]
UsersOption = Annotated[
    int | None,
    typer.Option(
        "--users",
        min=1,
        metavar="COUNT",
        help="Users with one request in flight each: how many GPUs do they need?",
        rich_help_panel=QUESTION,
        show_default=False,
    ),
]
GpusOption = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        min=1,
        metavar="N",
        help="GPUs that were tested. Default: what the run says.",
        rich_help_panel=QUESTION,
        show_default=False,
    ),
]
KindOption = Annotated[
    FitKind,
    typer.Option(
        "--kind",
        help="A straight line, the Universal Scalability Law, or whichever of the two better"
        " predicts levels left out of the fit.",
        rich_help_panel=ANSWER,
    ),
]


def fit(
    paths: PathsArgument,
    *,
    metric: MetricOption = None,
    target_s: TargetOption = None,
    users: UsersOption = None,
    gpus: GpusOption = None,
    kind: KindOption = FitKind.LINE,
    chosen_format: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """How latency grows with requests in flight, and the GPUs for a target.

    Interrupted levels are left out. The requests in flight that meet the target, and so the GPUs,
    come with a range at 90 % confidence, which holds if the line does.
    """
    target = None if target_s is None else _seconds(target_s)
    if users is not None and target is None:
        raise UsageError(
            "GPUs for --users depend on a latency to keep:", hint="add --target-s, in seconds."
        )
    refuse_unwritable(output)
    refuse_overwriting({"-o": output}, [("a run", path) for path in paths])
    from tonnage.measurement.importers import import_run  # noqa: PLC0415 — cold start
    from tonnage.measurement.sweep import fit_metric, join_runs  # noqa: PLC0415 — as above
    from tonnage.report.fits import FitQuestion, report_fits  # noqa: PLC0415 — as above

    sweep = join_runs([import_run([path]) for path in paths], files=[str(path) for path in paths])
    tested = gpus if gpus is not None else sweep.gpus
    if users is not None and tested is None:
        raise UsageError(
            "the run does not say how many GPUs were tested:", hint="add --gpus, a count."
        )
    fitted = [
        fit_metric(sweep, name, kind=kind.value, target_s=target)
        for name in _metrics(metric or [], sweep, file=str(paths[0]))
    ]
    question = FitQuestion(target_s=target, users=users, test_gpus=tested)
    told = (
        *(("--metric", each) for each in metric or []),
        ("--target-s", target_s),
        ("--users", users),
        ("--gpus", gpus),
        ("--kind", None if kind is FitKind.LINE else kind.value),
    )
    flags = [str(part) for pair in told if pair[1] is not None for part in pair]
    command = shlex.join(["tonnage", "fit", *map(str, paths), *flags])
    report = report_fits(sweep, fitted, question, command=command)
    deliver(report, chosen=chosen_format, output=output, quiet=quiet)
    if report.headline.tone == "bad":
        said = f"{report.headline.label.lower()}: {report.headline.answer}"
        typer.echo(f"error: {said} (exit {EXIT_INFEASIBLE})", err=True)
        raise typer.Exit(EXIT_INFEASIBLE)


def _seconds(text: str) -> float:
    """Seconds of "10", which the flag's name says are seconds, or of "10 s" or "800 ms"."""
    from tonnage.units import parse_time_s  # noqa: PLC0415 — cold start

    def parse(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            return parse_time_s(text)

    return read_quantity(text, flag="--target-s", parse=parse)


def _metrics(asked: list[str], sweep: Sweep, *, file: str) -> list[str]:
    """The names as a run has them, each once; the usual ones where none is asked for."""
    from tonnage.measurement.sweep import (  # noqa: PLC0415 — cold start
        METRICS,
        SIZING_METRICS,
        WHOLE_ANSWER,
        measured_metrics,
    )
    from tonnage.spelling import nearest  # noqa: PLC0415 — as above

    there = measured_metrics(sweep)
    if not there:
        raise InputError("has no level with a latency.", file=file)
    if not asked:
        usual = [name for name in SIZING_METRICS if name in there]
        if usual or WHOLE_ANSWER in there:
            return usual or [WHOLE_ANSWER]
        raise UsageError("which metric?", hint=f"--metric is one or more of: {', '.join(there)}.")
    names: list[str] = []
    for text in asked:
        name = text.strip().lower().replace("-", "_")
        name = name if name.endswith("_s") else f"{name}_s"
        if name not in METRICS:
            raise UsageError(
                f'--metric "{text}" is not one.',
                hint=f"Did you mean {' or '.join(nearest(name, METRICS) or there)}?",
            )
        if name not in there:
            raise InputError(f"has no {name}.", hint=f"It has {', '.join(there)}.", file=file)
        names.append(name)
    return list(dict.fromkeys(names))
