"""A plan -> measured levels, each kept in a job folder before the next one starts.

Every record is appended to requests.jsonl as its request ends, and that file is the truth: a level
counts as measured when all its items are there, and a job that was cut short goes on at the first
level that is not, or that the server left in the middle. Such a level starts over, because items
from before and after a pause are not of one load; what it had is kept, under the name of that
attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tonnage.errors import InputError
from tonnage.measurement.load import (
    NOBODY_THERE,
    Conversation,
    Level,
    Progress,
    Record,
    Target,
    attempt_name,
)
from tonnage.measurement.load.journal import Journal, read_records
from tonnage.measurement.load.loops import drive
from tonnage.sizing_calc.jobs import ONLINE, OUTPUT_FILE, disagreements, load_output, standing_jobs
from tonnage.sizing_calc.metrics import level_metrics
from tonnage.sizing_calc.models import (
    CalcRunnerConfig,
    LevelFacts,
    Plan,
    SizingMetricsPerConcurrency,
    Subject,
)
from tonnage.sizing_calc.online_jobs import OnlineJob, begin_job, unfinished_jobs
from tonnage.sizing_calc.plan import Preparation


class SweepWatch(Protocol):
    """Whoever wants to see a sweep while it runs."""

    def begin(self, job: OnlineJob, notes: Sequence[str]) -> None:
        """Where it goes to and what is planned; what to think of that."""
        ...

    def progress(self, progress: Progress) -> None:
        """How the level stands now."""
        ...

    def end_level(self, concurrency: int, swept: Swept, *, before: bool) -> None:
        """A level is measured; or was `before`, in the session that this one goes on with."""
        ...


class Unwatched:
    """Nobody looks."""

    def begin(self, job: OnlineJob, notes: Sequence[str]) -> None:
        """Say nothing."""

    def progress(self, progress: Progress) -> None:
        """Say nothing."""

    def end_level(self, concurrency: int, swept: Swept, *, before: bool) -> None:
        """Say nothing."""


@dataclass(slots=True)
class Swept:
    """What a sweep has so far. `halted` says why it did not come to its end."""

    metrics: dict[int, SizingMetricsPerConcurrency] = field(default_factory=dict)
    facts: dict[int, LevelFacts] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    halted: str | None = None

    def add(self, concurrency: int, records: Sequence[Record]) -> None:
        """Take in the records of a level."""
        self.metrics[concurrency], self.facts[concurrency] = level_metrics(records)
        self.models |= {call.model for each in records for call in each.llm_calls if call.model}


# ── the job ─────────────────────────────────────────────────────────────────────────────────────


def find_job(config: CalcRunnerConfig, prepared: Preparation) -> tuple[Path | None, list[str]]:
    """The unfinished job to go on with, if any; and warnings.

    That is the newest of the same levels. Raises InputError when it, or a job that will stand
    beside this one, was measured on something else, unless that is forced.
    """
    plan, output_dir = prepared.plan, prepared.output_dir
    mine = ("now", plan.subject)
    for folder, earlier in [] if config.fresh else unfinished_jobs(output_dir):
        if earlier.model_copy(update={"subject": plan.subject}) != plan:
            continue
        found = disagreements([(folder.name, earlier.subject), mine])
        if found and not config.force:
            raise InputError(
                f"is unfinished, and was measured on {'; '.join(found)}.",
                hint="Start anew with --fresh, or go on with it by --force.",
                file=str(folder),
            )
        return folder, [f"mixed by force: {each}." for each in found]
    beside = standing_jobs(output_dir / ONLINE, append=True)
    if plan.append:
        beside += standing_jobs(output_dir / ONLINE, append=False)
    subjects: list[tuple[str, Subject]] = [mine]
    for each in sorted(beside):
        with suppress(InputError):  # nothing in it that could be mixed with anything
            subjects.append((each.name, load_output(each / OUTPUT_FILE).tonnage))
    found = disagreements(subjects)
    if found and not config.force:
        raise InputError(
            f"holds jobs that a new one cannot stand beside: {'; '.join(found)}.",
            hint="Measure into another directory, or force it with --force.",
            file=str(output_dir / ONLINE),
        )
    return None, [f"mixed by force: {each}." for each in found]


def open_job(folder: Path | None, prepared: Preparation) -> OnlineJob:
    """Go on with the job in `folder`, or begin one."""
    if folder is not None:
        return OnlineJob(folder, prepared.plan, resumed=True)
    return begin_job(prepared.output_dir, prepared.plan)


def replaced_notes(job: OnlineJob) -> list[str]:
    """What unfinished jobs will go when `job` is done."""
    return [
        f"{folder} is not finished, and is of another sweep: it goes when this one is done."
        for folder, plan in unfinished_jobs(job.folder.parents[1])
        if folder != job.folder and not (job.plan.append or plan.append)
    ]


# ── the levels ──────────────────────────────────────────────────────────────────────────────────


async def sweep(
    prepared: Preparation,
    job: OnlineJob,
    target: Target,
    *,
    watch: SweepWatch,
    stop: asyncio.Event,
    keep: Callable[[Swept], None],
) -> Swept:
    """Measure what the journal of `job` does not hold yet; `keep` what there is after each level.

    Ends early when `stop` is set, or when nobody listens at the target.
    """
    plan = job.plan
    attempts = _attempts(plan, job.journal)
    swept = Swept()
    for concurrency, records in ((each, tried[-1]) for each, tried in attempts.items() if tried):
        if _is_whole(records, plan.samples[concurrency]) and not any(map(_met_nobody, records)):
            swept.add(concurrency, records)
            watch.end_level(concurrency, swept, before=True)
    if swept.metrics:
        keep(swept)
    for concurrency in [each for each in plan.concurrencies if each not in swept.metrics]:
        samples = plan.samples[concurrency]
        level = Level(
            name=attempt_name(str(concurrency), len(attempts[concurrency]) + 1),
            concurrency=concurrency,
            requests=samples,
            warmup_requests=concurrency if plan.warm_up else 0,
        )
        conversations = (Conversation(turns=(each,)) for each in prepared.prompts(concurrency))
        begin_bytes = job.journal.size_bytes
        await drive(level, target, conversations, job.journal, watch, stop)
        job.journal.sync()
        records = _measured(read_records(job.journal.path, from_byte=begin_bytes))
        if not _is_whole(records, samples):
            swept.halted = f"stopped at concurrency {concurrency}"
            break
        swept.add(concurrency, records)
        keep(swept)
        watch.end_level(concurrency, swept, before=False)
        if all(map(_met_nobody, records)):
            swept.halted = f"{plan.subject.target} is gone: {records[-1].error}"
            break
    return swept


def _attempts(plan: Plan, journal: Journal) -> dict[int, list[list[Record]]]:
    """What earlier sessions measured of each level, attempt by attempt."""
    by_name: dict[str, list[Record]] = {}
    for record in read_records(journal.path):
        by_name.setdefault(record.level, []).append(record)
    found: dict[int, list[list[Record]]] = {}
    for concurrency in plan.concurrencies:
        attempts = found.setdefault(concurrency, [])
        while (name := attempt_name(str(concurrency), len(attempts) + 1)) in by_name:
            attempts.append(_measured(by_name[name]))
    return found


def _measured(records: Iterable[Record]) -> list[Record]:
    return [each for each in records if each.phase == "measured"]


def _is_whole(records: Sequence[Record], samples: int) -> bool:
    """Whether every item came to its own end, good or bad."""
    return sum(each.failure != "stopped" for each in records) >= samples


def _met_nobody(record: Record) -> bool:
    return record.failure in NOBODY_THERE
