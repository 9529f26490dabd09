"""`tonnage simulate`: a load and a fleet -> what every request would have felt."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tonnage.cli.capacity import with_some_load
from tonnage.cli.flags import FLAGS as STUDY_FLAGS
from tonnage.cli.flags import Told, files_read, overrides, takes_flags
from tonnage.cli.output import ANSWER, FormatOption, OutputOption, QuietOption, deliver, watched
from tonnage.cli.simulate_flags import ARRIVALS, ENGINE, FLAGS, FLEET
from tonnage.cli.size import StudyArgument, ask, typed_command
from tonnage.errors import EXIT_INFEASIBLE, UsageError
from tonnage.files import refuse_overwriting, refuse_unwritable
from tonnage.units import format_number, format_time

if TYPE_CHECKING:
    from tonnage.fleet import SimulationAnswer
    from tonnage.queueing.simulation.simulate import Progress


@takes_flags(FLAGS)
def simulate(
    study: StudyArgument = None,
    *,
    told: Told,
    lose_requests: Annotated[
        bool,
        typer.Option(
            "--lose-requests",
            help="What a stopping replica held is lost (default: sent again at once).",
            rich_help_panel=FLEET,
        ),
    ] = False,
    prefix_cache: Annotated[
        bool | None,
        typer.Option(
            "--prefix-cache/--no-prefix-cache",
            help="Compute what prompts share once, as far as a recording says what that is"
            " (default: as the engine does).",
            rich_help_panel=ENGINE,
            show_default=False,
        ),
    ] = None,
    burst_start: Annotated[
        bool,
        typer.Option(
            "--burst-start",
            help="Of clients, all send first at the same moment, as benchmarks do.",
            rich_help_panel=ARRIVALS,
        ),
    ] = False,
    benchmark: Annotated[
        bool,
        typer.Option(
            "--benchmark",
            help="Of clients, the protocol of public benchmarks: all at once, ten requests each,"
            " lengths uniform in 0.8–1.0 of the study's; everything counts.",
            rich_help_panel=ARRIVALS,
        ),
    ] = False,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records",
            metavar="FILE",
            help="Write a row for each request: .csv, .jsonl or .parquet.",
            rich_help_panel=ANSWER,
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE|FOLDER",
            help="Draw its course and its distributions: on one page (.svg, .png, .pdf), or each"
            " into the folder.",
            rich_help_panel=ANSWER,
            show_default=False,
        ),
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compiled/--no-compiled",
            help="As machine code, or as plain Python: the same answer. Compiling takes some"
            " seconds, once (default: where it pays; extra fast).",
            rich_help_panel=ANSWER,
            show_default=False,
        ),
    ] = None,
    chosen_format: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """What every request would have felt: continuous batching, step by step.

    \b
    The load of a study on the fleet that tonnage size recommends for it:
      tonnage simulate study.yaml
    On another fleet, 4 replicas of 2 GPUs, with bursts:
      tonnage simulate study.yaml --fleet "4 x H200-SXM:tp2" --arrivals gamma --cv 2
    Yesterday's traffic, half as much again, on a step time you measured:
      tonnage simulate study.yaml --fleet … --trace day.csv --rate-factor 1.5 --step-model step.json
    Several draws of the same load, on four cores:
      tonnage simulate study.yaml --fleet … --seeds 8 --workers 4
    With a replica lost for five minutes:
      tonnage simulate study.yaml --fleet … --outage "0@10 min-15 min"

    Says for each promise whether it is kept, missed, or too close to call, with the 90 % interval.
    Exit codes: 0 answered, also when a promise is missed; 2 wrong use; 3 bad input; 4 the load is
    beyond the fleet, or some requests can never be served (the answer says so); 130 interrupted.
    """  # noqa: D301 — the backspace says to leave the lines of its paragraph alone
    if study is None and not told:
        raise UsageError(
            "there is nothing to simulate: give a study or flags.",
            hint="For example tonnage simulate study.yaml, or see tonnage simulate --help.",
        )
    from tonnage.cli.asked import Asked  # noqa: PLC0415 — cold start
    from tonnage.cli.simulate_question import options_of  # noqa: PLC0415 — as above
    from tonnage.cli.workers import executor_of  # noqa: PLC0415 — as above

    switches = {
        "--lose-requests": lose_requests,
        "--burst-start": burst_start,
        "--benchmark": benchmark,
        "--prefix-cache": prefix_cache is True,
        "--no-prefix-cache": prefix_cache is False,
    }
    flags = Asked(told)
    options = options_of(
        flags,
        lose_requests=lose_requests,
        prefix_cache=prefix_cache,
        burst_start=burst_start,
        benchmark=benchmark,
        compiled=compiled,
    )
    _refuse_unwritable(output, records, plot)
    written = {"-o": output, "--records": records, "--plot": plot}
    refuse_overwriting(written, files_read(study, told))
    values = overrides({flag: value for flag, value in told.items() if flag in STUDY_FLAGS})
    if options.trace is not None:
        values = with_some_load(values, study_given=study is not None)
    asked = ask(study, values)

    from tonnage import pipeline  # noqa: PLC0415 — the whole machinery
    from tonnage.report.simulation import refusal_of, report_simulation  # noqa: PLC0415 — as above

    line = watched("getting ready", quiet=quiet, title="simulating")
    with line as update, executor_of(flags) as executor:

        def show(now: Progress) -> None:
            if update is not None:
                done = f"{format_number(now.over)} of {format_number(now.requests)} requests"
                at = "" if now.at_s is None else f", {format_time(now.at_s)}"
                told = f"{done}{at} simulated"
                update(completed=now.over, total=now.requests, description=told)

        answer = pipeline.simulate(asked, options, executor=executor, progress=show)
    _write(answer, records, plot, quiet=quiet)
    command = shlex.join(name for name, given in switches.items() if given)
    command = f"{typed_command('simulate', study, told)} {command}".rstrip()
    report = report_simulation(answer, command=command)
    deliver(report, chosen=chosen_format, output=output, quiet=quiet)
    if (reason := refusal_of(answer)) is not None:
        typer.echo(f"error: {reason} (exit {EXIT_INFEASIBLE})", err=True)
        raise typer.Exit(EXIT_INFEASIBLE)


def _refuse_unwritable(output: Path | None, records: Path | None, plot: Path | None) -> None:
    """Find out before the work what cannot be written after it."""
    refuse_unwritable(output)
    if records is not None:
        from tonnage.report.simulation_records import (  # noqa: PLC0415 — only when asked
            refuse_unwritable_records,
        )

        refuse_unwritable_records(records)
        refuse_unwritable(records)
    if plot is not None:
        from tonnage.report.simulation_plots import refuse_undrawable_plots  # noqa: PLC0415

        refuse_undrawable_plots(plot)


def _write(
    answer: SimulationAnswer, records: Path | None, plot: Path | None, *, quiet: bool
) -> None:
    """Records and plots, where they were asked for."""
    written: list[Path] = []
    if records is not None:
        from tonnage.report.simulation_records import write_records  # noqa: PLC0415 — as above

        write_records(answer, records)
        written.append(records)
    if plot is not None:
        from tonnage.report.simulation_plots import (  # noqa: PLC0415 — imports matplotlib
            write_simulation_plots,
        )

        written += write_simulation_plots(answer, plot)
    for path in written if not quiet else ():
        typer.echo(f"wrote {path}", err=True)
