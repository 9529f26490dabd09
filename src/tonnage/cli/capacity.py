"""`tonnage capacity`: a fleet and promises -> what it carries."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from tonnage.cli.flags import Told, files_read, overrides, takes_study_flags
from tonnage.cli.output import (
    ANSWER,
    FormatOption,
    OutputOption,
    QuietOption,
    deliver,
    working,
)
from tonnage.cli.size import StudyArgument, ask, typed_command
from tonnage.errors import EXIT_INFEASIBLE, UsageError
from tonnage.files import refuse_overwriting, refuse_unwritable

if TYPE_CHECKING:
    from tonnage.fleet import StatedFleet

FleetOption = Annotated[
    str,
    typer.Option(
        "--fleet",
        metavar="FLEET",
        help='What is there: "2 x DGX-H100", "16 x L40S", or arranged: "2 x DGX-H100:tp4".',
        rich_help_panel=ANSWER,
    ),
]

_LOAD_PLACES = tuple(
    f"workload.{form}"
    for form in (
        "users",
        "request_rate",
        "peak_request_rate",
        "tokens_per_day",
        "requests_per_day",
        "daily_users",
        "concurrency",
        "clients",
        "batch",
    )
)
_FLEET = re.compile(
    r"(?:(?P<units>\d[\d_,]*)\s*[x×*]\s*)?(?P<name>[^:]*[^:\s])\s*(?::(?P<how>.*))?", re.IGNORECASE
)
_BAD_COUNT = re.compile(r"(?P<count>[-+−]?[\d.,_]+)\s*[x×*]\s*\D.*", re.IGNORECASE)
_ONLY_A_COUNT = re.compile(r"[\d_,]+\s*[x×*]?", re.IGNORECASE)
_PART = re.compile(r"^(?P<kind>tp|pp|ep)(?P<size>\d+)$", re.IGNORECASE)


@takes_study_flags
def capacity(
    study: StudyArgument = None,
    *,
    told: Told,
    fleet: FleetOption,
    chosen_format: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """What a fleet carries with every promise kept.

    The question turned round. Answers with the peak rate, the users behind it, the sessions and
    contexts that fit, whether it starts at all, and how other arrangements of the same GPUs would
    do. The load of the study, if it states one, is set aside.
    """
    stated = parse_fleet(fleet)
    if study is None and not told:
        raise UsageError(
            "which model, and for what prompts?",
            hint='For example tonnage capacity --fleet "2 x DGX-H100"'
            " --model Llama-3.3-70B-Instruct --prompt-tokens 2800 --output-tokens 350.",
        )
    refuse_unwritable(output)
    refuse_overwriting({"-o": output}, files_read(study, told))

    asked = ask(study, with_some_load(overrides(told), study_given=study is not None))
    from tonnage import pipeline  # noqa: PLC0415 — the whole machinery
    from tonnage.report.capacity import report_capacity  # noqa: PLC0415 — as above

    with working("sizing", quiet=quiet):
        found = pipeline.capacity(asked, stated)
    command = f"{typed_command('capacity', study, told)} --fleet {shlex.quote(fleet)}"
    deliver(
        report_capacity(found, command=command), chosen=chosen_format, output=output, quiet=quiet
    )
    if not found.starts:
        typer.echo(f"error: it will not start: {found.reason} (exit {EXIT_INFEASIBLE})", err=True)
        raise typer.Exit(EXIT_INFEASIBLE)


def with_some_load(values: dict[str, object], *, study_given: bool) -> dict[str, object]:
    """A study must state a load, and this question sets it aside: put one where there is none.

    Requests per user and active hours, which turn a rate into people, need a load of a day.
    """
    daily = "workload.daily_users.requests_per_user"
    if daily in values:
        return {"workload.daily_users.count": "1", **values}
    if any(key.startswith(_LOAD_PLACES) for key in values) or study_given:
        return values
    if "workload.active_hours" in values:
        return {"workload.requests_per_day": "1", **values}
    return {"workload.peak_request_rate": "1/s", **values}


def parse_fleet(text: str) -> StatedFleet:
    """What "2 x DGX-H100:tp4" says: two of the catalog's DGX-H100, arranged as TP4.

    One unit when no count is given; several parts are joined by "-" or a space ("tp4-pp2").
    Raises UsageError for anything else.
    """
    from tonnage.fleet import StatedFleet  # noqa: PLC0415 — cold start

    match = _FLEET.fullmatch(text.strip())
    units = int(re.sub(r"[_,]", "", match["units"])) if match and match["units"] else 1
    count = _BAD_COUNT.fullmatch(text.strip())
    if count is not None and (units < 1 or match is None or match["units"] is None):
        raise UsageError(
            f'--fleet "{text}": the count must be a whole number above 0, not {count["count"]}.'
        )
    if match is None or units < 1 or _ONLY_A_COUNT.fullmatch(match["name"]):
        raise _unreadable(text)
    sizes: dict[str, int] = {}
    for part in re.split(r"[\s,+-]+", match["how"].strip()) if match["how"] is not None else ():
        found = _PART.match(part)
        if found is None or int(found["size"]) < 1 or found["kind"].lower() in sizes:
            raise _unreadable(text)
        sizes[found["kind"].lower()] = int(found["size"])
    return StatedFleet(
        text=text.strip(),
        units=units,
        name=match["name"],
        tensor_parallel=sizes.get("tp"),
        pipeline_parallel=sizes.get("pp"),
        expert_parallel=sizes.get("ep"),
    )


def _unreadable(text: str) -> UsageError:
    return UsageError(
        f'--fleet "{text}" cannot be read:',
        hint='write a count and a catalog name, for example "2 x DGX-H100" or "16 x L40S:tp4".',
    )
