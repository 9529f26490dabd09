"""`tonnage measure`: a target and levels of load -> a run folder, and what it says."""

from __future__ import annotations

import datetime as dt
import os
import shlex
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tonnage.cli.door import GroupedOptions
from tonnage.cli.flags import Told, takes_flags
from tonnage.cli.measure_flags import FLAGS, TARGET
from tonnage.cli.output import ANSWER, Format, QuietOption, deliver
from tonnage.errors import (
    EXIT_BAD_INPUT,
    EXIT_INFEASIBLE,
    EXIT_INTERRUPTED,
    MissingExtraError,
    UsageError,
)

if TYPE_CHECKING:
    from tonnage.cli.live import LiveWatch
    from tonnage.cli.measure_question import Question
    from tonnage.measurement import Run
    from tonnage.measurement.load import Driver
    from tonnage.measurement.load.search import Found

ENDING_S = 1.0  # after a second Ctrl-C

TargetArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[TARGET] [-- COMMAND…]",
        help="An API's URL, module:function, a workflow's config.yml; or a command after --.",
        show_default=False,
    ),
]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Keep the run here (default: run-<time>); one that was interrupted goes on.",
        rich_help_panel=ANSWER,
        show_default=False,
    ),
]


class CommandAfterDashes(GroupedOptions):
    """A command whose arguments after `--` are somebody else's command line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 — Typer's context
        """Take what follows `--` aside before anything is parsed."""
        command: tuple[str, ...] = ()
        if "--" in args:
            at = args.index("--")
            command = tuple(args[at + 1 :])
            args = args[:at]
            if not command:
                raise UsageError("-- is followed by no command.")
        ctx.meta["command"] = command
        return list(super().parse_args(ctx, args))


@takes_flags(FLAGS)
def measure(
    ctx: typer.Context,
    target: TargetArgument = None,
    *,
    told: Told,
    no_stream: Annotated[
        bool,
        typer.Option("--no-stream", help="Ask for whole answers.", rich_help_panel=TARGET),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Go on in a folder that says it is of something else.",
            rich_help_panel=ANSWER,
        ),
    ] = False,
    no_plots: Annotated[
        bool, typer.Option("--no-plots", help="Draw nothing.", rich_help_panel=ANSWER)
    ] = False,
    output: FolderOption = None,
    chosen_format: Annotated[
        Format,
        typer.Option("--format", "-f", help="How the run is shown.", rich_help_panel=ANSWER),
    ] = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Load a server or a workflow, and keep every request of it.

    \b
    Clients that send and wait, 1 to 64 of them, 30 s for each number:
      tonnage measure http://localhost:8000/v1 --concurrency 1,2,4,…,64
    Arrivals that wait for nobody, 2, 4 and 8 a second:
      tonnage measure http://localhost:8000/v1 --rate 2,4,8
    The most it carries while a promise is kept:
      tonnage measure http://localhost:8000/v1 --search rate --ttft-p95 "500 ms"
    A Python function, or a program in any language with the LLM behind it:
      tonnage measure my_agent:answer --dataset questions.jsonl
      tonnage measure --record-llm http://localhost:8000/v1 -- ./my_agent.sh

    Records are kept as requests end: Ctrl-C stops safely, and the same command with the same -o
    goes on where it stopped. Exit codes: 0 measured, 2 wrong use, 3 levels are missing or nothing
    was answered, 4 no load keeps the promises of --search, 130 interrupted.
    """  # noqa: D301 — the backspace says to leave the lines of its paragraph alone
    from tonnage.cli.asked import Asked  # noqa: PLC0415 — cold start
    from tonnage.cli.measure_question import question_of  # noqa: PLC0415 — cold start

    asked = Asked(told)
    question = question_of(target, tuple(ctx.meta.get("command", ())), asked, stream=not no_stream)
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file, not a folder.", hint="A run is a folder.")
    folder = output or Path(f"run-{dt.datetime.now(tz=dt.UTC):%Y-%m-%dT%H-%M-%S}")

    import asyncio  # noqa: PLC0415 — cold start

    from tonnage.cli.live import LiveWatch  # noqa: PLC0415 — imports Rich
    from tonnage.measurement.loop import run  # noqa: PLC0415 — cold start
    from tonnage.report.runs import report_run  # noqa: PLC0415 — as above

    with LiveWatch(quiet=quiet, levels=question.campaign.levels) as watch:
        try:
            measured = run(_measure(question, folder, watch, force=force))
        except asyncio.CancelledError:  # by a second Ctrl-C
            raise KeyboardInterrupt from None
    if not no_plots:
        _draw(measured.run, folder, quiet=quiet)
    report = report_run(
        measured.run, folder=str(folder), found=measured.found, limits=question.limits
    )
    deliver(report, chosen=chosen_format, output=None, quiet=quiet)
    if not quiet:
        typer.echo(f"wrote {folder}", err=True)
    _exit_with(measured, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of it; `stopped` by Ctrl-C."""

    run: Run
    found: Found | None
    stopped: bool


async def _measure(question: Question, folder: Path, watch: LiveWatch, *, force: bool) -> Measured:
    """Measure until it is done or the first Ctrl-C; a second one does not wait for anything."""
    import asyncio  # noqa: PLC0415 — cold start

    from tonnage.measurement.load.campaign import (  # noqa: PLC0415 — cold start
        measure_levels,
        search_highest_load,
    )

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop_once() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, end_now)

    def end_now(*_: object) -> None:
        """Cancel everything; what does not let itself be cancelled ends with the process."""
        signal.signal(signal.SIGALRM, lambda *_: os._exit(EXIT_INTERRUPTED))
        signal.setitimer(signal.ITIMER_REAL, ENDING_S)
        if measuring is not None:
            loop.call_soon_threadsafe(measuring.cancel)

    measuring = asyncio.current_task()
    loop.add_signal_handler(signal.SIGINT, stop_once)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    driver = _driver(question)
    campaign = question.campaign
    if campaign.search is not None:
        run, found = await search_highest_load(campaign, driver, folder, watch, stop, force=force)
        return Measured(run=run, found=found, stopped=stop.is_set())
    run = await measure_levels(campaign, driver, folder, watch, stop, force=force)
    return Measured(run=run, found=None, stopped=stop.is_set())


def _driver(question: Question) -> Driver:
    if question.cluster is None and question.workers == 1:
        from tonnage.measurement.load.local import LocalDriver  # noqa: PLC0415 — cold start

        return LocalDriver(question.target, question.campaign.prompts)
    from tonnage.measurement.load.coordinator import ShardedDriver  # noqa: PLC0415 — cold start

    return ShardedDriver(
        question.target,
        question.campaign.prompts,
        workers=question.workers,
        cluster=question.cluster,
    )


def _draw(run: Run, folder: Path, *, quiet: bool) -> None:
    from tonnage.report.run_plots import write_run_plots  # noqa: PLC0415 — imports matplotlib

    try:
        write_run_plots(run, folder)
    except MissingExtraError as error:
        if not quiet:
            typer.echo(f"note: {error}", err=True)


def _exit_with(measured: Measured, folder: Path) -> None:
    """Leave with a code that says what is missing."""
    points = measured.run.points
    at = shlex.quote(str(folder))
    if measured.stopped:
        typer.echo(f"interrupted: the same command with -o {at} goes on from here", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if not any(point.requests for point in points):
        typer.echo(f"error: not one request was answered (exit {EXIT_BAD_INPUT})", err=True)
        raise typer.Exit(EXIT_BAD_INPUT)
    if any(point.stopped for point in points):
        said = f"levels are missing, as nobody listens any more (exit {EXIT_BAD_INPUT})"
        typer.echo(f"error: {said}; the same command with -o {at} goes on from here", err=True)
        raise typer.Exit(EXIT_BAD_INPUT)
    if measured.found is not None and not measured.found.finished:
        said = "no request fell into the last level: raise --duration or the first rate"
        typer.echo(f"error: {said} (exit {EXIT_BAD_INPUT})", err=True)
        raise typer.Exit(EXIT_BAD_INPUT)
    if measured.found is not None and measured.found.kept is None:
        typer.echo(f"error: no load keeps the promises (exit {EXIT_INFEASIBLE})", err=True)
        raise typer.Exit(EXIT_INFEASIBLE)
