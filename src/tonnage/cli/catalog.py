"""`tonnage catalog`: what the tool knows of hardware, models and engines."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tonnage.cli.output import FormatOption, OutputOption, deliver
from tonnage.errors import EXIT_BAD_INPUT, TonnageError
from tonnage.files import refuse_unwritable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tonnage.catalog.loader import Catalog
    from tonnage.report.inventory import Thing

app = typer.Typer(
    help="What is known of GPUs, models, servers, storage and engines, each row with its source.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Kind(StrEnum):
    """The tables of the catalog."""

    GPUS = "gpus"
    MODELS = "models"
    SERVERS = "servers"
    STORAGE = "storage"
    ENGINES = "engines"


OverlayOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--catalog", metavar="FILE", help="Your own rows on top; repeatable.", show_default=False
    ),
]


@app.command("list")
def list_things(
    kind: Annotated[
        Kind, typer.Argument(metavar="gpus|models|servers|storage|engines")
    ] = Kind.GPUS,
    catalog: OverlayOption = None,
    chosen_format: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """List everything of one kind."""
    refuse_unwritable(output)
    from tonnage.report.inventory import report_things  # noqa: PLC0415 — only here

    things = _things(_load(catalog), kind)
    deliver(report_things(kind.value, things), chosen=chosen_format, output=output)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Any name or alias of the catalog.")],
    catalog: OverlayOption = None,
    chosen_format: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """Show all that is known of one thing."""
    refuse_unwritable(output)
    from tonnage.report.inventory import report_thing  # noqa: PLC0415 — only here

    deliver(report_thing(_find(_load(catalog), name)), chosen=chosen_format, output=output)


@app.command("check")
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILES…", help="Your own catalog files.", show_default=False),
    ] = None,
    chosen_format: FormatOption = None,
    output: OutputOption = None,
) -> None:
    """Judge the catalog and your files.

    Sources, dates, units, and figures that cannot be. Exit 3 when there are errors.
    """
    refuse_unwritable(output)
    import datetime as dt  # noqa: PLC0415 — only here

    from tonnage.catalog.check import check_catalog  # noqa: PLC0415 — only here
    from tonnage.report.inventory import report_findings  # noqa: PLC0415 — only here

    findings = check_catalog(tuple(files or ()), today=dt.datetime.now(tz=dt.UTC).date())
    deliver(report_findings(findings), chosen=chosen_format, output=output)
    if any(each.severity == "error" for each in findings):
        raise typer.Exit(EXIT_BAD_INPUT)


def _load(overlays: list[Path] | None) -> Catalog:
    from tonnage.catalog.loader import Catalog, user_catalog_paths  # noqa: PLC0415 — cold start

    return Catalog.load((*user_catalog_paths(), *(overlays or ())))


def _things(catalog: Catalog, kind: Kind) -> list[Thing]:
    match kind:
        case Kind.GPUS:
            return list(catalog.gpus.values())
        case Kind.SERVERS:
            return list(catalog.servers.values())
        case Kind.STORAGE:
            return list(catalog.storage_profiles.values())
        case Kind.MODELS:
            return [catalog.model(name) for name in catalog.model_names]
        case Kind.ENGINES:
            from tonnage.catalog.profiles import engine, engine_names  # noqa: PLC0415 — only here

            return [engine(name) for name in engine_names()]


def _find(catalog: Catalog, name: str) -> Thing:
    """The thing of this name, whatever its kind."""
    from tonnage.catalog.profiles import engine  # noqa: PLC0415 — only here

    look_ups: tuple[Callable[[str], Thing], ...] = (
        catalog.gpu,
        catalog.server,
        catalog.storage,
        engine,
        catalog.model,
    )
    for look_up in look_ups:
        try:
            return look_up(name)
        except TonnageError:
            continue
    raise TonnageError(
        f"the catalog has nothing called “{name}”.",
        hint="See tonnage catalog list gpus, models, servers, storage or engines.",
    )
