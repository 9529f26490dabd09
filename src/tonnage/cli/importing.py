"""`tonnage import`: another tool's results -> a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tonnage.cli.output import ANSWER, Format, QuietOption, deliver
from tonnage.errors import InputError, UsageError

FilesArgument = Annotated[
    list[Path],
    typer.Argument(metavar="FILES…", help="Result files, or folders of them, of one sweep."),
]
RunFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="RUN_FOLDER",
        help="Keep the run in this folder; a run that is there is replaced.",
        rich_help_panel=ANSWER,
        show_default=False,
    ),
]
FormatOption = Annotated[
    Format, typer.Option("--format", "-f", help="How the run is shown.", rich_help_panel=ANSWER)
]
GpusOption = Annotated[
    int | None,
    typer.Option("--gpus", metavar="N", min=1, help="How many GPUs served it.", show_default=False),
]
GpuOption = Annotated[
    str | None,
    typer.Option("--gpu", metavar="NAME", help="Which GPU served it.", show_default=False),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="The model, where the file does not say or misnames it."
    ),
]


def import_results(
    files: FilesArgument,
    *,
    gpus: GpusOption = None,
    gpu: GpuOption = None,
    model: ModelOption = None,
    output: RunFolderOption = None,
    chosen_format: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Turn a load test of another tool into a run.

    Reads GuideLLM, AIPerf, GenAI-Perf, vllm bench serve, inference-perf, NeMo Agent Toolkit and
    tonnage's own runs, each recognised by what it holds. Definitions and units are converted, a
    statistic that a file does not have stays unknown, and no key or header is copied.
    """
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(
            f"{output} is a file, not a folder.", hint="Give -o a folder: a run is one."
        )
    from tonnage.measurement.importers import import_run  # noqa: PLC0415 — cold start
    from tonnage.measurement.load.campaign import CAMPAIGN_FILE  # noqa: PLC0415 — as above
    from tonnage.measurement.run import write_run  # noqa: PLC0415 — as above
    from tonnage.report.runs import report_run  # noqa: PLC0415 — as above

    run = import_run(files)
    run = replace(
        run,
        gpus=gpus if gpus is not None else run.gpus,
        gpu=gpu if gpu is not None else run.gpu,
        model=model if model is not None else run.model,
    )
    if output is not None:
        if (output / CAMPAIGN_FILE).exists():
            raise UsageError(
                f"{output} holds a run that was measured here.", hint="Name another folder."
            )
        try:
            written = write_run(run, output)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}.", file=str(output)) from error
        if not quiet:
            typer.echo(f"wrote {written}", err=True)
    deliver(
        report_run(run, folder=str(output) if output is not None else None),
        chosen=chosen_format,
        output=None,
        quiet=quiet,
    )
