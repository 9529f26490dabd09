"""A configuration -> an answer, on disk and as a value: `await CalcRunner(config).run()`."""

from __future__ import annotations

import asyncio
import datetime as dt
import platform
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tonnage.errors import InputError, MissingExtraError
from tonnage.sizing_calc.estimate import estimate_gpus
from tonnage.sizing_calc.jobs import OFFLINE, Job, Levels, disagreements, load_levels, write_job
from tonnage.sizing_calc.models import (
    CalcRunnerConfig,
    CalcRunnerOutput,
    Subject,
    TonnageFacts,
    refuse_unusable,
)
from tonnage.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tonnage.sizing_calc.online import SweepWatch, Swept
    from tonnage.sizing_calc.plan import Preparation

WAITED_SHARE = 0.1  # of the runtime: more than this in front of the workflow is no small change


class CalcRunner:
    """One run of the sizing calculator. Raises ConfigError for a setting that cannot be used.

    `watch` sees a measurement while it runs.
    """

    def __init__(self, config: CalcRunnerConfig, watch: SweepWatch | None = None) -> None:
        refuse_unusable(config)
        self.config = config
        self.folder: Path | None = None  # the job folder, once written
        self.notes: list[str] = []  # about this run, not about its answer
        self.halted: str | None = None  # why measuring ended before its end
        self._watch = watch
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Measure no further: `run` returns what there is. Called in the loop that runs it."""
        self._stop.set()

    @property
    def interrupted(self) -> bool:
        """Whether `stop` came before the end."""
        return self.halted is not None and self._stop.is_set()

    async def run(self) -> CalcRunnerOutput:
        """Measure, or read what was measured; size, write the job folder, return what is in it.

        Raises InputError when no measurement can be used, or none may be mixed with another.
        """
        return self._size_offline() if self.config.offline_mode else await self._measure()

    # ── what was measured before ────────────────────────────────────────────────────────────────

    def _size_offline(self) -> CalcRunnerOutput:
        assert self.config.output_dir is not None  # noqa: S101 — refuse_unusable saw to it
        levels = load_levels(self.config.output_dir)
        mixed = self._refuse_mixture([job for job, _ in levels.jobs])
        output = estimate_gpus(levels.metrics, self.config)
        self._add_sources(output.tonnage, levels)
        self._add_origin(output, [*levels.warnings, *mixed])
        self.folder = write_job(
            self.config.output_dir, OFFLINE, output, lambda folder: self._draw(output, folder)
        )
        return output

    def _refuse_mixture(self, jobs: list[Job]) -> list[str]:
        """Warnings about jobs of different things, where mixing is forced."""
        asked = ("test_gpu_count", Subject(test_gpu_count=self.config.test_gpu_count))
        found = disagreements([asked, *((job.folder.name, job.output.tonnage) for job in jobs)])
        if found and not self.config.force:
            raise InputError(
                f"the jobs were measured on {'; '.join(found)}.",
                hint="Keep what belongs together in one directory, or force it with --force.",
                file=str(self.config.output_dir),
            )
        return [f"mixed by force: {each}." for each in found]

    def _add_sources(self, facts: TonnageFacts, levels: Levels) -> None:
        """Whence the levels came, and on what they were measured."""
        for job, taken in levels.jobs:
            told = job.output.tonnage
            facts.jobs[job.folder.name] = list(taken)
            facts.levels |= {each: told.levels[each] for each in taken if each in told.levels}
            for field in ("config", "dataset", "model", "target", "nat_version"):
                setattr(facts, field, getattr(facts, field) or getattr(told, field))

    # ── measuring ───────────────────────────────────────────────────────────────────────────────

    async def _measure(self) -> CalcRunnerOutput:
        from tonnage.measurement.targets.choose import target_of  # noqa: PLC0415 — only here
        from tonnage.sizing_calc.online import (  # noqa: PLC0415 — as above
            Unwatched,
            find_job,
            open_job,
            replaced_notes,
            sweep,
        )
        from tonnage.sizing_calc.plan import prepare  # noqa: PLC0415 — as above

        watch = self._watch or Unwatched()
        prepared = prepare(self.config)
        unfinished, mixed = find_job(self.config, prepared)
        told = [*prepared.warnings, *mixed]
        target = target_of(prepared.spec)
        await target.open()
        try:
            with closing(open_job(unfinished, prepared)) as job:
                self.folder = job.folder
                watch.begin(job, [*told, *replaced_notes(job)])

                def keep(swept: Swept) -> None:
                    job.write(self._answer(prepared, swept, told))

                swept = await sweep(prepared, job, target, watch=watch, stop=self._stop, keep=keep)
                output = self._answer(prepared, swept, told)
                self.halted = swept.halted
                if swept.metrics:
                    self._draw(output, job.folder)
                if swept.halted is None:
                    job.finish()
        finally:
            await target.close()
        return output

    def _answer(self, prepared: Preparation, swept: Swept, told: Sequence[str]) -> CalcRunnerOutput:
        """What follows from the levels that there are."""
        output = estimate_gpus(swept.metrics, self.config)
        facts = output.tonnage
        subject = prepared.plan.subject
        for field in ("config", "dataset", "target", "nat_version"):
            setattr(facts, field, getattr(subject, field))
        facts.model = subject.model or ", ".join(sorted(swept.models)) or None
        facts.planned_levels = sorted(prepared.plan.concurrencies)
        facts.levels = dict(sorted(swept.facts.items()))
        self._add_origin(output, [*told, *_level_warnings(output)])
        return output

    # ── both ────────────────────────────────────────────────────────────────────────────────────

    def _add_origin(self, output: CalcRunnerOutput, warnings: list[str]) -> None:
        """When this was, what made it, and warnings that come before those of the estimate."""
        facts = output.tonnage
        facts.created = dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds")
        facts.versions = {"tonnage": __version__, "python": platform.python_version()}
        facts.warnings = [*warnings, *facts.warnings]

    def _draw(self, output: CalcRunnerOutput, folder: Path) -> None:
        if not self.config.plot_data:
            return
        from tonnage.sizing_calc.plots import write_plots  # noqa: PLC0415 — only with plots

        try:
            write_plots(output, folder)
        except MissingExtraError as error:
            self.notes.append(str(error))


def _level_warnings(output: CalcRunnerOutput) -> list[str]:
    """What the levels' own counts say."""
    facts = output.tonnage.levels
    warnings = []
    for concurrency, level in facts.items():
        if level.failed:
            kinds = ", ".join(f"{count} × {kind}" for kind, count in level.failures.items())
            first = f"; the first: {level.first_error}" if level.first_error else ""
            warnings.append(
                f"concurrency {concurrency}: {level.failed} of {level.failed + level.samples} items"
                f" failed ({kinds}{first})."
            )
    runtimes = {
        each: data.sizing_metrics.workflow_runtime_p95 for each, data in output.calc_data.items()
    }
    waited = [
        str(each)
        for each, level in facts.items()
        if level.workflow_timed and level.client_e2e_p95 > (1 + WAITED_SHARE) * runtimes[each]
    ]
    if waited:
        warnings.append(
            f"concurrency {', '.join(waited)}: the p95 that clients saw is more than"
            f" {WAITED_SHARE:.0%} above that of the workflow: requests wait in front of it, which"
            " its runtime does not show."
        )
    untimed = [
        str(each) for each, level in facts.items() if level.samples and not level.workflow_timed
    ]
    if untimed:
        warnings.append(
            f"concurrency {', '.join(untimed)}: the answers hold no times of the workflow; its"
            " runtime is what the clients saw."
        )
    return warnings
