"""Every command, under one name and one version: what `tonnage` is made of."""

from __future__ import annotations

from typing import Annotated

import typer

from tonnage.cli import (
    capacity,
    catalog,
    fit,
    importing,
    init,
    measure,
    parameter,
    simulate,
    size,
    sizing,
)
from tonnage.cli.door import Door, GroupedOptions

app = typer.Typer(
    name="tonnage",
    cls=Door,
    help="How many GPUs a language model needs for these users under these promises.",
    epilog="Start with tonnage init, or with tonnage size --help.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
app.command(cls=GroupedOptions)(size.size)
app.command(cls=GroupedOptions)(capacity.capacity)
app.command(cls=GroupedOptions)(simulate.simulate)
app.command(cls=measure.CommandAfterDashes)(measure.measure)
app.command(cls=GroupedOptions)(fit.fit)
app.command(cls=GroupedOptions)(init.init)
app.command("import", cls=GroupedOptions)(importing.import_results)
app.command(context_settings={"ignore_unknown_options": True})(parameter.parameter)
app.add_typer(
    catalog.app, name="catalog", short_help="What is known of hardware, models and engines."
)
app.add_typer(sizing.app, name="sizing", short_help="Size from a measured workflow.")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 — 15 ms

        try:
            typer.echo(f"tonnage {version('tonnage')}")
        except PackageNotFoundError:  # run from a source tree
            typer.echo("tonnage (not installed)")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """How many GPUs a language model needs for these users under these promises."""
