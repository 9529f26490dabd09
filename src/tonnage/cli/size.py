"""`tonnage size`: users, prompts and promises -> the fleet to buy."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tonnage.cli.flags import FLAGS as STUDY_FLAGS
from tonnage.cli.flags import Flag, Told, files_read, overrides, takes_flags
from tonnage.cli.output import (
    ANSWER,
    FormatOption,
    OutputOption,
    QuietOption,
    deliver,
    terminal_width,
    watched,
    working,
)
from tonnage.cli.workers import worker_flags
from tonnage.errors import EXIT_INFEASIBLE, UsageError
from tonnage.files import refuse_overwriting, refuse_unwritable, write_atomically

if TYPE_CHECKING:
    from tonnage.fleet import Infeasible, Plan, ProofProgress
    from tonnage.report import Report
    from tonnage.study.loader import Study

MEASURED = "Sizing from what was measured"
PROOF = "Proof by simulation"

PROOF_FLAGS: tuple[Flag, ...] = (
    Flag(
        name="--requests",
        key="requests",
        group=PROOF,
        metavar="N",
        help="Of --prove, requests that count in each simulation (20,000).",
    ),
    Flag(
        name="--seed",
        key="seed",
        group=PROOF,
        metavar="N",
        help="Of --prove; the same seed gives the same answer, to the byte (0).",
    ),
    *(replace(flag, group=PROOF, help=f"Of --prove: {flag.help}") for flag in worker_flags("work")),
)

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
MeasuredOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--measured",
        metavar="RUN",
        help="Size from this load test, a run or what tonnage import reads; repeat to compare.",
        rich_help_panel=MEASURED,
        show_default=False,
    ),
]
GpusOption = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        metavar="N",
        min=1,
        help="GPUs that were measured, of the run that does not say.",
        rich_help_panel=MEASURED,
        show_default=False,
    ),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Draw throughput against latency into FILE (.png, .svg or .pdf).",
        rich_help_panel=MEASURED,
        show_default=False,
    ),
]
ProveOption = Annotated[
    bool,
    typer.Option(
        "--prove",
        help="Let a simulator decide how many, and say what p95 becomes when servers fail.",
        rich_help_panel=PROOF,
    ),
]


@takes_flags((*STUDY_FLAGS, *PROOF_FLAGS))
def size(
    study: StudyArgument = None,
    *,
    told: Told,
    measured: MeasuredOption = None,
    gpus: GpusOption = None,
    plot: PlotOption = None,
    prove: ProveOption = False,
    explain: ExplainOption = None,
    chosen_format: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """How many GPUs, of which kind, in what arrangement.

    Tell it by a study, by flags, or by both. It answers with the recommended fleet, what the
    answer rests on, and why the other options lost; with --measured from load tests instead of a
    model. With --prove the closed form only makes the shortlist: every count is simulated, also
    with one and two servers lost. Exit codes: 0 answered, 2 wrong use, 3 bad input, 4 nothing keeps
    the promises (the report says what would), 130 interrupted.
    """
    asked_of_study = {flag: value for flag, value in told.items() if flag not in PROOF_FLAGS}
    _refuse_contradictions(
        told, measured=bool(measured), of_measured=gpus is not None or plot is not None, prove=prove
    )
    if study is None and not asked_of_study:
        raise UsageError(
            "there is nothing to size: give a study or flags.",
            hint="For example tonnage size study.yaml, or see tonnage size --help.",
        )
    if measured and explain is not None:
        raise UsageError(
            "--explain is about the figures of a model, and --measured needs none:",
            hint="-o plan.md says how each figure came about.",
        )
    refuse_unwritable(output)
    runs = [("--measured", path) for path in measured or ()]
    refuse_overwriting({"-o": output, "--plot": plot}, [*files_read(study, told), *runs])
    if measured:
        report, infeasible = _sized_from(study, told, measured, gpus=gpus, plot=plot, quiet=quiet)
        deliver(report, chosen=chosen_format, output=output, quiet=quiet)
        _end(infeasible)
        return

    asked = ask(study, overrides(asked_of_study))
    command = typed_command("size", study, told)
    if prove:
        plan = _proven(asked, told, quiet=quiet)
        command += " --prove"
    else:
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

        report = report_plan(plan, command=command)
        deliver(report, chosen=chosen_format, output=output, quiet=quiet)
    _end(plan.infeasible)


def _refuse_contradictions(told: Told, *, measured: bool, of_measured: bool, prove: bool) -> None:
    """Raise UsageError for options that are about something that was not asked for."""
    if not measured and of_measured:
        raise UsageError(
            "--gpus and --plot are about a load test:", hint="give it with --measured."
        )
    if prove and measured:
        raise UsageError(
            "--prove simulates a model of the GPUs, and --measured needs none.",
            hint="Leave one of them out.",
        )
    if not prove and (misplaced := next((f.name for f in told if f in PROOF_FLAGS), None)):
        raise UsageError(f"{misplaced} is about a proof:", hint="give it with --prove.")


def _proven(asked: Study, told: Told, *, quiet: bool) -> Plan:
    """The plan that a simulation decided, with a line on the terminal about how far it is."""
    from tonnage import pipeline  # noqa: PLC0415 — the whole machinery
    from tonnage.cli.asked import Asked  # noqa: PLC0415 — cold start
    from tonnage.cli.workers import executor_of  # noqa: PLC0415 — as above

    flags = Asked(told)
    requests, seed = flags.count("--requests"), flags.count("--seed", zero=True)
    with watched("sizing", quiet=quiet) as update, executor_of(flags) as executor:

        def show(now: ProofProgress) -> None:
            if update is not None:
                update(description=f"proving, {now.simulations} simulations done: {now.now}")

        return pipeline.prove(
            asked, requests=requests, seed=seed or 0, executor=executor, progress=show
        )


def _end(infeasible: Infeasible | None) -> None:
    """End with the exit code for an answer that is none."""
    if infeasible is not None:
        typer.echo(f"error: {infeasible.reason} (exit {EXIT_INFEASIBLE})", err=True)
        raise typer.Exit(EXIT_INFEASIBLE)


def _sized_from(
    study: Path | None,
    told: Told,
    measured: Sequence[Path],
    *,
    gpus: int | None,
    plot: Path | None,
    quiet: bool,
) -> tuple[Report, Infeasible | None]:
    """The report of sizing from load tests; its plot is drawn."""
    from tonnage import pipeline  # noqa: PLC0415 — the whole machinery
    from tonnage.measurement.importers import import_run  # noqa: PLC0415 — as above
    from tonnage.report.measured import report_measured  # noqa: PLC0415 — as above

    if plot is not None:
        from tonnage.report.chart import refuse_undrawable  # noqa: PLC0415 — as above

        refuse_undrawable(plot)
        refuse_unwritable(plot)
    with working("sizing", quiet=quiet):
        runs = {str(path): import_run([path]) for path in measured}
        silent = [file for file, run in runs.items() if run.gpus is None]
        if gpus is not None:
            if len(silent) != 1:
                raise UsageError(
                    f"--gpus is for the one run that does not say how many; {len(silent)} of"
                    f" {len(runs)} do not:",
                    hint="tonnage import … --gpus N -o RUN tells it of each.",
                )
            runs[silent[0]] = replace(runs[silent[0]], gpus=gpus)
        values = overrides(told)
        if study is None:  # what was measured is what is served
            first = next(iter(runs.values()))
            values.setdefault("model", first.model or first.name)
        found = pipeline.size_measured(ask(study, values), runs)
    if plot is not None:
        from tonnage.report.measured_plot import write_plot  # noqa: PLC0415 — matplotlib

        write_plot(found, plot)
        if not quiet:
            typer.echo(f"wrote {plot}", err=True)
    extra = [word for path in measured for word in ("--measured", str(path))]
    extra += ["--gpus", str(gpus)] if gpus is not None else []
    command = f"{typed_command('size', study, told)} {shlex.join(extra)}"
    return report_measured(found, command=command, drawn=plot), found.plan.infeasible


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
