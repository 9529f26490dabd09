"""A configuration -> an answer, on disk and as a value: `await CalcRunner(config).run()`."""

from __future__ import annotations

import datetime as dt
import platform
from pathlib import Path

from tonnage import __version__
from tonnage.errors import InputError, MissingExtraError, UsageError
from tonnage.sizing_calc.estimate import estimate_gpus
from tonnage.sizing_calc.jobs import OFFLINE, Job, Levels, disagreements, load_levels, write_job
from tonnage.sizing_calc.models import CalcRunnerConfig, CalcRunnerOutput, refuse_unusable


class CalcRunner:
    """One run of the sizing calculator. Raises ConfigError for a setting that cannot be used."""

    def __init__(self, config: CalcRunnerConfig) -> None:
        refuse_unusable(config)
        self.config = config
        self.folder: Path | None = None  # the job folder, once written
        self.notes: list[str] = []  # about this run, not about its answer

    async def run(self) -> CalcRunnerOutput:
        """Size, write the job folder and return what is in it.

        Asynchronous like the runner that it stands in for; sizing saved levels waits for nothing.
        Raises InputError when no measurement can be used, or none may be mixed with another.
        """
        if not self.config.offline_mode or self.config.output_dir is None:
            raise UsageError(
                "measuring is not there yet; sizing what was measured is.",
                hint="Measure with nat sizing calc, then size its calc_output_dir here"
                " with --offline_mode.",
            )
        output_dir = self.config.output_dir
        levels = load_levels(output_dir)
        mixed = self._refuse_mixture([job for job, _ in levels.jobs])
        output = estimate_gpus(levels.metrics, self.config)
        self._add_facts(output, levels, mixed)
        self.folder = write_job(
            output_dir, OFFLINE, output, lambda folder: self._draw(output, folder)
        )
        return output

    def _refuse_mixture(self, jobs: list[Job]) -> list[str]:
        """Warnings about jobs of different things, where mixing is forced."""
        found = disagreements(jobs, self.config.test_gpu_count)
        if found and not self.config.force:
            raise InputError(
                f"the jobs were measured on {'; '.join(found)}.",
                hint="Keep what belongs together in one directory, or force it with --force.",
                file=str(self.config.output_dir),
            )
        return [f"mixed by force: {each}." for each in found]

    def _add_facts(self, output: CalcRunnerOutput, levels: Levels, mixed: list[str]) -> None:
        """Whence the levels came, when this was, and what made it."""
        facts = output.tonnage
        told = [job.output.tonnage for job, _ in levels.jobs]
        facts.model = next((each.model for each in told if each.model), None)
        facts.config = next((each.config for each in told if each.config), None)
        facts.created = dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds")
        facts.versions = {"tonnage": __version__, "python": platform.python_version()}
        facts.jobs = {job.folder.name: list(taken) for job, taken in levels.jobs}
        facts.warnings = [*levels.warnings, *mixed, *facts.warnings]

    def _draw(self, output: CalcRunnerOutput, folder: Path) -> None:
        if not self.config.plot_data:
            return
        from tonnage.sizing_calc.plots import write_plots  # noqa: PLC0415 — only with plots

        try:
            write_plots(output, folder)
        except MissingExtraError as error:
            self.notes.append(str(error))
