"""A campaign and a driver -> a run folder that holds what was measured whenever it is looked at.

    campaign.json    what is measured, and every attempt at a level that was begun
    requests.jsonl   a line for each request, appended as it ends
    run.json         the points so far, written anew after each level

Each attempt at a level has a name of its own, which its records bear, and a point names the attempt
it was made of. A half-done level is measured again under a new name, so what it had can stay where
it is and is never counted twice.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tonnage.errors import InputError, UsageError
from tonnage.files import load_text, write_json_atomically
from tonnage.measurement import Point, Run
from tonnage.measurement.load import (
    NOBODY_THERE,
    Driver,
    Level,
    PromptSpec,
    Watch,
    attempt_name,
    level_name,
)
from tonnage.measurement.load.journal import RECORDS_FILE, Journal, read_records
from tonnage.measurement.load.points import point_of
from tonnage.measurement.load.search import Found, Goal, Probe, judge, next_load, result_of
from tonnage.measurement.run import RUN_FILE, load_run, write_run
from tonnage.units import format_number
from tonnage.version import __version__

CAMPAIGN_FILE = "campaign.json"
FORMAT = "tonnage-campaign/1"
OTHER_FRACTION, OTHER_TOKENS = 0.1, 20  # a chat template and another vocabulary make less
RESERVED_FILES = 8  # to write down a level whose connections take all that there are


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The highest load that keeps `limits`: fields of Point, as "ttft_p95_s", and their seconds.

    Each probe is `start` with another rate or number of clients; `start` says which of the two.
    """

    start: Level
    limits: Mapping[str, float]
    tolerance_fraction: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What is measured, and on what: all that two sessions must have in common to make one run.

    `target` describes the target without its secrets. `facts` hold whatever else must agree, as
    versions or the hash of a dataset. `notes` are for the reader of the run alone.
    """

    name: str
    target: str
    prompts: PromptSpec
    levels: tuple[Level, ...] = ()
    search: Search | None = None
    workflow: bool = False
    model: str | None = None
    gpu: str | None = None
    gpus: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


async def measure_levels(
    campaign: Campaign,
    driver: Driver,
    folder: Path,
    watch: Watch,
    stop: asyncio.Event,
    *,
    force: bool = False,
) -> Run:
    """Measure what `folder` does not hold yet, level by level, and return all it holds then.

    Opens and closes `driver` if there is anything to measure. Ends early when `stop` is set, or
    when nobody listens at the target any more. Raises InputError for a folder of something else,
    unless that is forced.
    """
    with _RunFolder(campaign, folder, force=force) as kept:
        missing = [level for level in campaign.levels if not kept.has(level)]
        if missing and not stop.is_set():
            async with _Opened(driver, stop) as opened:
                kept.refuse_another_model(driver.model)
                for level in missing if opened else ():
                    point = await kept.measure(level, driver, watch, stop)
                    if point.stopped:
                        break
        return kept.run


async def search_highest_load(
    campaign: Campaign,
    driver: Driver,
    folder: Path,
    watch: Watch,
    stop: asyncio.Event,
    *,
    force: bool = False,
) -> tuple[Run, Found]:
    """Look for the highest load that keeps the limits of `campaign.search`; else as above."""
    search = campaign.search
    if search is None:
        raise UsageError("a search needs limits to keep.", hint="For example --ttft-p95 500ms.")
    start = search.start.concurrency or search.start.rate_per_s
    if start is None:
        raise UsageError("a recording has one load: there is nothing to search.")
    goal = Goal(
        start=start,
        whole=search.start.concurrency is not None,
        tolerance_fraction=search.tolerance_fraction,
    )

    def probes() -> list[Probe]:
        return [
            judge(load, point, search.limits)
            for point in kept.run.points
            if not point.stopped
            and (load := point.concurrency or point.request_rate_target_per_s) is not None
        ]

    with _RunFolder(campaign, folder, force=force) as kept:
        if next_load(probes(), goal) is not None and not stop.is_set():
            async with _Opened(driver, stop) as opened:
                kept.refuse_another_model(driver.model)
                while opened and (load := next_load(probes(), goal)) is not None:
                    point = await kept.measure(_at(search.start, load), driver, watch, stop)
                    if point.stopped or not (point.requests or point.failed):
                        break  # a lower rate would bring no request either
        return kept.run, result_of(probes(), goal)


def _at(start: Level, load: float) -> Level:
    """The level of a search at another load, with as many requests of warm-up for each client."""
    if start.concurrency is None:
        return replace(start, name=level_name("r", load), rate_per_s=load)
    warmups = start.warmup_requests * int(load) // start.concurrency
    name = level_name("c", load)
    return replace(start, name=name, concurrency=int(load), warmup_requests=warmups)


class _Opened:
    """A driver, open for as long as the block lasts; told to stop before, it is not."""

    def __init__(self, driver: Driver, stop: asyncio.Event) -> None:
        self._driver = driver
        self._stop = stop

    async def __aenter__(self) -> bool:
        opening = asyncio.ensure_future(self._driver.open())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                await opening
            return opening.done()
        except BaseException:
            await self._driver.close()
            raise
        finally:
            for task in (opening, stopping):
                task.cancel()
            await asyncio.wait([opening, stopping])

    async def __aexit__(self, *_: object) -> None:
        await self._driver.close()


# ── the folder ──────────────────────────────────────────────────────────────────────────────────


class _RunFolder:
    """A run folder that this process alone writes to."""

    def __init__(self, campaign: Campaign, folder: Path, *, force: bool) -> None:
        self._folder = folder
        self._force = force
        self._body = _body_of(campaign)
        self._campaign = campaign
        self._made = not folder.exists()
        self._refuse_another_kind()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot be made: {error.strerror}.", file=str(folder)) from error
        self._journal = Journal(folder / RECORDS_FILE)
        try:
            self._attempts, forced = self._take_over(force=force)
            self.run = self._begun(forced)
            self._write_campaign()
            write_run(self.run, folder)
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._journal.close()
        if kind is not None and self._made and not self._attempts:
            self._unmake()

    def _unmake(self) -> None:
        """Leave no folder of a measurement that could not begin."""
        for name in (CAMPAIGN_FILE, RUN_FILE, RECORDS_FILE):
            (self._folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # something else has come into it
            self._folder.rmdir()

    def has(self, level: Level) -> bool:
        """Whether there is a point of `level` that came to its end."""
        names = {
            attempt_name(level.name, number)
            for number in range(1, self._attempts.count(level.name) + 1)
        }
        return any(point.level in names and not point.stopped for point in self.run.points)

    async def measure(
        self, level: Level, driver: Driver, watch: Watch, stop: asyncio.Event
    ) -> Point:
        """Measure `level` once and write its point, whatever ends it."""
        self._attempts.append(level.name)
        self._write_campaign()
        attempt = replace(level, name=attempt_name(level.name, self._attempts.count(level.name)))
        from_byte = self._journal.size_bytes
        whole = False
        reserve = [os.open(os.devnull, os.O_RDONLY) for _ in range(RESERVED_FILES)]
        try:
            await driver.run(attempt, self._journal, watch, stop)
            whole = not stop.is_set()
        finally:
            for each in reserve:
                os.close(each)
            self._note_model(driver.model)
            point = self._write_point(attempt, from_byte, stopped=not whole)
        return point

    def refuse_another_model(self, model: str | None) -> None:
        """Raise InputError when another model answers than in an earlier session."""
        known = None if self._campaign.model else self.run.model
        if model is not None and known not in {None, model} and not self._force:
            raise InputError(
                f"holds another measurement: model was {known}, is {model}.",
                hint="Measure into another folder, or go on with this one by --force.",
                file=str(self._folder),
            )
        self._note_model(model)

    def _note_model(self, model: str | None) -> None:
        if self.run.model is None:
            self.run = replace(self.run, model=model)

    def _write_point(self, attempt: Level, from_byte: int, *, stopped: bool) -> Point:
        self._journal.sync()
        records = read_records(self._journal.path, from_byte=from_byte)
        point = point_of(attempt, records, workflow=self._campaign.workflow, stopped=stopped)
        other = tuple(_other_lengths(point, self._campaign.prompts))
        point = replace(point, notes=(*point.notes, *other))
        if not point.requests and point.failures and point.failures.keys() <= NOBODY_THERE:
            notes = (*point.notes, "nobody listens at the target any more: measured again later")
            point = replace(point, stopped=True, notes=notes)
        self.run = replace(self.run, points=(*self.run.points, point))
        write_run(self.run, self._folder)
        return point

    def _write_campaign(self) -> None:
        body = {"format": FORMAT, **self._body, "attempts": self._attempts}
        write_json_atomically(self._folder / CAMPAIGN_FILE, body)

    def _refuse_another_kind(self) -> None:
        """A run that was imported, or measured by something else, is not to be mixed with."""
        if (self._folder / CAMPAIGN_FILE).exists():
            return
        for name in (RUN_FILE, RECORDS_FILE):
            file = self._folder / name
            if file.exists() and file.stat().st_size:
                raise InputError(
                    "is of a run that was not measured here.",
                    hint="Measure into another folder.",
                    file=str(file),
                )

    def _take_over(self, *, force: bool) -> tuple[list[str], list[str]]:
        """The attempts of earlier sessions, and what they differ in if that is forced."""
        path = self._folder / CAMPAIGN_FILE
        if not path.exists():
            return [], []
        body = _load_campaign(path)
        attempts: list[str] = body.pop("attempts")
        if not attempts:  # nothing was sent for it: the target was not there
            return [], []
        levels = body["levels"] | self._body["levels"]  # others may be added to a run
        common = {name: levels[name] for name in body["levels"]}
        found = list(_differences(body, {**self._body, "levels": common}))
        kinds = {_kind_of(level) for level in levels.values()}
        if len(kinds) > 1:
            found.append(f"levels would be of {' and of '.join(sorted(kinds))}")
        self._body["levels"] = levels
        if found and not force:
            raise InputError(
                f"holds another measurement: {'; '.join(found)}.",
                hint="Measure into another folder, or go on with this one by --force.",
                file=str(self._folder),
            )
        return attempts, found

    def _begun(self, forced: list[str]) -> Run:
        """The run as earlier sessions left it, without points that are to be measured again."""
        campaign = self._campaign
        created = datetime.now(UTC).isoformat(timespec="seconds")
        model = campaign.model
        points: tuple[Point, ...] = ()
        notes = campaign.notes
        if self._attempts and (self._folder / RUN_FILE).exists():
            earlier = load_run(self._folder)
            created = earlier.created or created
            model = model or earlier.model
            points = tuple(point for point in earlier.points if not point.stopped)
            notes = (*earlier.notes, *notes)
        return Run(
            name=campaign.name,
            tool="tonnage",
            tool_version=__version__,
            created=created,
            model=model,
            target=campaign.target,
            gpu=campaign.gpu,
            gpus=campaign.gpus,
            points=points,
            facts=campaign.facts,
            notes=tuple(dict.fromkeys([*notes, *(f"mixed by force: {each}" for each in forced)])),
        )


def _other_lengths(point: Point, spec: PromptSpec) -> Iterator[str]:
    """What to know where the server counted other lengths than were asked for."""
    for what, asked, cv, mean in (
        ("prompts", spec.prompt_tokens, spec.prompt_tokens_cv, point.input_tokens_mean),
        ("answers", spec.output_tokens, spec.output_tokens_cv, point.output_tokens_mean),
    ):
        if asked is None or mean is None or not point.requests or spec.turns > 1:
            continue
        chance = 3 * cv * asked / math.sqrt(point.requests)
        if abs(mean - asked) > OTHER_FRACTION * asked + OTHER_TOKENS + chance:
            yield f"{what} have {format_number(mean)} tokens, where {asked:,} were asked for"


def _kind_of(level: dict[str, Any]) -> str:
    """What a level, as JSON holds it, is told apart from others of its kind by."""
    if level.get("concurrency") is not None:
        return "clients"
    return "a rate" if level.get("rate_per_s") is not None else "a recording"


def _body_of(campaign: Campaign) -> dict[str, Any]:
    """The campaign as JSON holds it, its levels by name, without notes, which need not agree."""
    body: dict[str, Any] = json.loads(json.dumps(asdict(campaign)))
    del body["notes"]
    body["levels"] = {level["name"]: level for level in body["levels"]}
    return body


def _load_campaign(path: Path) -> dict[str, Any]:
    """The body of a campaign.json. Raises InputError for what is not one."""
    body: object = None
    with suppress(ValueError, RecursionError):
        body = json.loads(load_text(path))
    if not isinstance(body, dict) or body.pop("format", None) != FORMAT:
        raise InputError(
            "is not a campaign of tonnage.",
            hint="Measure into another folder.",
            file=str(path),
        )
    attempts = body.get("attempts")
    if not isinstance(attempts, list) or not all(isinstance(each, str) for each in attempts):
        raise InputError("must be a list of names.", file=str(path), key="attempts")
    if not isinstance(body.get("levels"), dict):
        raise InputError("must be an object.", file=str(path), key="levels")
    return body


def _differences(earlier: object, now: object, key: str = "") -> Iterator[str]:
    """A sentence for each value that differs, named by its key."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*earlier, *now]):
            yield from _differences(
                earlier.get(name), now.get(name), f"{key}.{name}" if key else name
            )
    elif earlier != now:
        yield f"{key} was {_shown(earlier)}, is {_shown(now)}"


def _shown(value: object) -> str:
    return "not stated" if value is None else json.dumps(value, ensure_ascii=False)
