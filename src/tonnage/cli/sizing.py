"""`tonnage sizing calc`: a workflow, measured level by level -> GPUs, like `nat sizing calc`."""

from __future__ import annotations

import signal
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tonnage.cli.door import GroupedOptions
from tonnage.cli.fit import FitKind
from tonnage.cli.secret_headers import secret_headers
from tonnage.errors import EXIT_BAD_INPUT, EXIT_INFEASIBLE, EXIT_INTERRUPTED, UsageError

if TYPE_CHECKING:
    from tonnage.sizing_calc import CalcRunner
    from tonnage.sizing_calc.models import CalcRunnerConfig, CalcRunnerOutput, ConfigError
    from tonnage.sizing_calc.online import SweepWatch

app = typer.Typer(
    help="Measure a workflow and size for it. Takes over from nat and aiq sizing calc.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TARGETS = "What is wanted"
TEST = "What is measured, and where it is kept"
MEASURE = "Measuring"
SERVER = "Measuring a server"

FLAGS = {
    "config_file": "--config_file",
    "endpoint": "--endpoint",
    "endpoint_timeout": "--endpoint_timeout",
    "offline_mode": "--offline_mode",
    "num_passes": "--num_passes",
    "concurrencies": "--concurrencies",
    "target_llm_latency_p95": "--target_llm_latency",
    "target_workflow_runtime_p95": "--target_workflow_runtime",
    "target_users": "--target_users",
    "test_gpu_count": "--test_gpu_count",
    "output_dir": "--calc_output_dir",
    "append_job": "--append_calc_outputs",
    "min_samples": "--min_samples",
    "request_template": "--request_template",
    "answer_path": "--answer_path",
    "headers": "--header and --api_key",
}


@app.callback()
def sizing() -> None:
    """Measure a workflow and size for it. Takes over from nat and aiq sizing calc."""


@app.command(
    cls=GroupedOptions,
    # --target-users is --target_users
    context_settings={"token_normalize_func": lambda token: token.replace("-", "_")},
)
def calc(
    *,
    offline_mode: Annotated[
        bool,
        typer.Option(
            "--offline_mode", help="Size what was measured before.", rich_help_panel=TARGETS
        ),
    ] = False,
    target_workflow_runtime: Annotated[
        float,
        typer.Option(
            "--target_workflow_runtime",
            metavar="SECONDS",
            help="p95 of the workflow runtime at most; 0: no such target.",
            rich_help_panel=TARGETS,
        ),
    ] = 0.0,
    target_llm_latency: Annotated[
        float,
        typer.Option(
            "--target_llm_latency",
            metavar="SECONDS",
            help="p95 of one LLM call at most; 0: no such target.",
            rich_help_panel=TARGETS,
        ),
    ] = 0.0,
    target_users: Annotated[
        int,
        typer.Option(
            "--target_users",
            metavar="COUNT",
            help="Users at once, each with one request in flight.",
            rich_help_panel=TARGETS,
        ),
    ] = 0,
    test_gpu_count: Annotated[
        int,
        typer.Option(
            "--test_gpu_count",
            metavar="COUNT",
            help="GPUs that serve the workflow while it is measured.",
            rich_help_panel=TEST,
        ),
    ] = 0,
    calc_output_dir: Annotated[
        Path | None,
        typer.Option(
            "--calc_output_dir",
            metavar="DIR",
            help="Measurements are in online/job_* below it, answers from them in offline/."
            " Without it, measuring makes sizing_calc_output here.",
            rich_help_panel=TEST,
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Take jobs as one that say they ran on different GPUs, models, configs, datasets"
            " or targets.",
            rich_help_panel=TEST,
        ),
    ] = False,
    fit: Annotated[
        FitKind,
        typer.Option(
            "--fit",
            help="What estimates rest on: the line, the Universal Scalability Law, or whichever"
            " predicts left-out levels better.",
            rich_help_panel=TARGETS,
        ),
    ] = FitKind.LINE,
    no_plots: Annotated[
        bool, typer.Option("--no_plots", help="Draw nothing.", rich_help_panel=TEST)
    ] = False,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config_file",
            "--config",
            metavar="FILE",
            help="The workflow to measure, and in eval.general the dataset to ask.",
            rich_help_panel=MEASURE,
            show_default=False,
        ),
    ] = None,
    concurrencies: Annotated[
        str,
        typer.Option(
            "--concurrencies",
            metavar="LIST",
            help="Levels to measure, separated by commas.",
            rich_help_panel=MEASURE,
        ),
    ] = "1,2,3,4,5,6,7,8,9,10",
    num_passes: Annotated[
        int,
        typer.Option(
            "--num_passes",
            metavar="COUNT",
            help="Items for each client at each level; 0: as the dataset gives.",
            rich_help_panel=MEASURE,
        ),
    ] = 0,
    min_samples: Annotated[
        int,
        typer.Option(
            "--min_samples",
            metavar="COUNT",
            help="Items at each level at least, unless --num_passes says how many.",
            rich_help_panel=MEASURE,
        ),
    ] = 20,
    no_warmup: Annotated[
        bool,
        typer.Option(
            "--no_warmup",
            help="Leave out the request that each client sends before its level is measured.",
            rich_help_panel=MEASURE,
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Start anew where the same command was cut short, instead of going on.",
            rich_help_panel=MEASURE,
        ),
    ] = False,
    append_calc_outputs: Annotated[
        bool,
        typer.Option(
            "--append_calc_outputs",
            help="Keep earlier measurements beside the new ones.",
            rich_help_panel=MEASURE,
        ),
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            metavar="URL",
            help="A workflow that nat start fastapi runs. Of --config_file only eval is read.",
            rich_help_panel=SERVER,
            show_default=False,
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api_key",
            metavar="VARIABLE",
            help="The environment variable with the key to send to --endpoint as a bearer token.",
            rich_help_panel=SERVER,
            show_default=False,
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            metavar="NAME=VARIABLE",
            help="A header to send to --endpoint, and the environment variable with its value."
            " Repeatable.",
            rich_help_panel=SERVER,
            show_default=False,
        ),
    ] = None,
    endpoint_timeout: Annotated[
        int,
        typer.Option(
            "--endpoint_timeout",
            metavar="SECONDS",
            help="The longest answer to wait for.",
            rich_help_panel=SERVER,
        ),
    ] = 300,
    request_template: Annotated[
        str | None,
        typer.Option(
            "--request_template",
            metavar="JSON",
            help="For any other server: the body to post to --endpoint, with $prompt for the"
            """ question and $field.NAME for more of its row, as in '{"ask": "$prompt"}'.""",
            rich_help_panel=SERVER,
            show_default=False,
        ),
    ] = None,
    answer_path: Annotated[
        str | None,
        typer.Option(
            "--answer_path",
            metavar="PATH",
            help="For any other server: where its answer stands, for example choices.0.text.",
            rich_help_panel=SERVER,
            show_default=False,
        ),
    ] = None,
) -> None:
    """GPUs for so many users, by a line through p95 times at several concurrencies.

    For example tonnage sizing calc --config_file config.yml --concurrencies 1,2,4,8,16
    --test_gpu_count 8 --target_workflow_runtime 10 --target_users 100. Other targets need no new
    measurement: add --offline_mode. Cut short, the same command goes on where it was. Flags may be
    written with - or _. Exit 4: a target is not reachable at any GPU count; 3: the measurements
    carry no estimate.
    """
    levels = _parse_concurrencies(concurrencies)
    if config_file is not None and not config_file.is_file():
        raise UsageError(f"--config_file {config_file} is not a file.")

    import asyncio  # noqa: PLC0415 — cold start

    from tonnage.sizing_calc import CalcRunnerConfig, FitConfig  # noqa: PLC0415 — as above

    config = CalcRunnerConfig(
        config_file=config_file,
        endpoint=endpoint,
        endpoint_timeout=endpoint_timeout,
        offline_mode=offline_mode,
        num_passes=num_passes,
        concurrencies=levels,
        target_llm_latency_p95=target_llm_latency,
        target_workflow_runtime_p95=target_workflow_runtime,
        target_users=target_users,
        test_gpu_count=test_gpu_count,
        output_dir=calc_output_dir,
        append_job=append_calc_outputs,
        plot_data=not no_plots,
        fit_config=FitConfig(kind=fit.value),
        force=force,
        fresh=fresh,
        min_samples=min_samples,
        warm_up=not no_warmup,
        request_template=request_template,
        answer_path=answer_path,
        headers=secret_headers(api_key, header or ()),
    )
    if offline_mode:
        runner = _runner(config)
        _tell(runner, asyncio.run(runner.run()))
        return

    from tonnage.cli.live import LiveWatch  # noqa: PLC0415 — as above
    from tonnage.cli.sweep_lines import SweepLines  # noqa: PLC0415 — as above
    from tonnage.measurement.load import Level  # noqa: PLC0415 — as above
    from tonnage.measurement.loop import run as run_on_best_loop  # noqa: PLC0415 — as above

    shown = [Level(name=f"{level}", concurrency=level) for level in levels]
    with LiveWatch(quiet=False, levels=shown) as live:
        lines = SweepLines(live)
        runner = _runner(config, lines)
        output = run_on_best_loop(_measure(runner))
    _tell(runner, output, lines.told)


def _runner(config: CalcRunnerConfig, watch: SweepWatch | None = None) -> CalcRunner:
    from tonnage.sizing_calc import CalcRunner, ConfigError  # noqa: PLC0415 — cold start

    try:
        return CalcRunner(config, watch)
    except ConfigError as error:
        raise UsageError(_in_flags(error)) from None


async def _measure(runner: CalcRunner) -> CalcRunnerOutput:
    """Run; the first Ctrl-C ends the measurement and keeps it, a second one ends the program."""
    import asyncio  # noqa: PLC0415 — cold start

    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        runner.stop()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    return await runner.run()


def _tell(runner: CalcRunner, output: CalcRunnerOutput, told: Collection[str] = ()) -> None:
    """Print the answer, and leave with the code that it deserves."""
    from tonnage.sizing_calc.table import render_summary  # noqa: PLC0415 — cold start

    if output.calc_data:
        typer.echo(render_summary(output), nl=False)
        for warning in output.tonnage.warnings:
            if warning not in told:
                typer.echo(f"warning: {warning}", err=True)
    for note in runner.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {runner.folder}", err=True)
    if runner.halted is not None:
        code = EXIT_INTERRUPTED if runner.interrupted else EXIT_BAD_INPUT
        hint = "The same command goes on from there."
        typer.echo(f"error: {runner.halted}. {hint} (exit {code})", err=True)
        raise typer.Exit(code)
    _exit_without_answer(output)
    if not output.calc_data.keys() - output.tonnage.unusable_levels.keys():
        typer.echo(f"error: no level can be used. (exit {EXIT_BAD_INPUT})", err=True)
        raise typer.Exit(EXIT_BAD_INPUT)


def _parse_concurrencies(text: str) -> list[int]:
    """The levels in "1,2, 4"; blanks between commas are nothing."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(
            f'--concurrencies "{text}" cannot be read:',
            hint='write whole numbers separated by commas, for example "1,2,4,8,16,32".',
        ) from None


def _in_flags(error: ConfigError) -> str:
    """The complaint with flags in place of field names."""
    reason = error.reason
    for field, flag in FLAGS.items():
        reason = reason.replace(field, flag)
    return f"{FLAGS[error.field]} {reason}"


def _exit_without_answer(output: CalcRunnerOutput) -> None:
    """Leave with a code that says so when a target has no estimate."""
    facts = output.tonnage
    if facts.gpu_estimate is not None:
        return
    asked = [
        (flag, fit)
        for flag, fit, target_s in (
            ("--target_workflow_runtime", facts.wf_runtime, facts.target_workflow_runtime_p95),
            ("--target_llm_latency", facts.llm_latency, facts.target_llm_latency_p95),
        )
        if target_s > 0
    ]
    for flag, fit in asked:
        if fit.not_reachable is not None:
            typer.echo(f"error: {flag}: {fit.not_reachable} (exit {EXIT_INFEASIBLE})", err=True)
            raise typer.Exit(EXIT_INFEASIBLE)
    for flag, fit in asked:
        if fit.no_fit is not None:
            typer.echo(f"error: {flag}: no line, {fit.no_fit} (exit {EXIT_BAD_INPUT})", err=True)
            raise typer.Exit(EXIT_BAD_INPUT)
