"""Job folders <-> levels: `<out>/<mode>/job_*/calc_runner_output.json`.

Reading takes each concurrency from the newest job that has it. Writing makes a whole job folder
and only then removes the one that it replaces. A folder named by a time is replaced by the next of
its kind; an appended one has a random name, and is never touched.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tonnage.errors import InputError
from tonnage.sizing_calc.models import CalcRunnerOutput, SizingMetricsPerConcurrency

OUTPUT_FILE = "calc_runner_output.json"
SIMPLE_PLOT = "concurrency_vs_p95_simple.png"
ANALYSIS_PLOT = "concurrency_vs_p95_analysis.png"
ONLINE = "online"
OFFLINE = "offline"

_REPLACEABLE = re.compile(r"job_(\d+)")  # job_<unix seconds>; an appended one is job_<uuid>


@dataclass(frozen=True, slots=True)
class Job:
    """One folder of measurements, and what it says it was measured on."""

    folder: Path
    output: CalcRunnerOutput


@dataclass(frozen=True, slots=True)
class Levels:
    """Measured levels in ascending order, the jobs they came from, and what went wrong."""

    metrics: dict[int, SizingMetricsPerConcurrency]
    jobs: tuple[tuple[Job, tuple[int, ...]], ...]
    warnings: tuple[str, ...]


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


def load_levels(output_dir: Path) -> Levels:
    """Every level under `output_dir`/online; of two jobs with one concurrency, the newer one's.

    A job that cannot be read is a warning. Raises InputError when nothing is left.
    """
    warnings: list[str] = []
    metrics: dict[int, SizingMetricsPerConcurrency] = {}
    jobs: list[tuple[Job, tuple[int, ...]]] = []
    for folder in _newest_first(_online_folder(output_dir)):
        try:
            job = Job(folder, load_output(folder / OUTPUT_FILE))
        except InputError as error:
            warnings.append(f"{error} Skipped.")
            continue
        new = tuple(sorted(job.output.calc_data.keys() - metrics.keys()))
        metrics |= {level: job.output.calc_data[level].sizing_metrics for level in new}
        if new:
            jobs.append((job, new))
    if not metrics:
        raise InputError(
            "holds no job that can be used.",
            hint=" ".join(warnings) or "There is no folder job_*; measure first.",
            file=str(output_dir / ONLINE),
        )
    return Levels(dict(sorted(metrics.items())), tuple(jobs), tuple(warnings))


def _online_folder(output_dir: Path) -> Path:
    if not output_dir.is_dir():
        what = "is not a directory." if output_dir.exists() else "does not exist."
        raise InputError(what, hint=_EXPECTED, file=str(output_dir))
    online = output_dir / ONLINE
    if online.is_dir():
        return online
    for above in (output_dir, output_dir.parent):  # given <out>/online, or a job in it
        if above.name == ONLINE:
            raise InputError(
                "is inside the folder to name.", hint=f"Name {above.parent}.", file=str(output_dir)
            )
    raise InputError(
        f"has no folder {ONLINE}, so there are no measurements.",
        hint=_EXPECTED,
        file=str(output_dir),
    )


_EXPECTED = f"Measurements are expected in {ONLINE}/job_*/{OUTPUT_FILE} below it."


def _newest_first(online: Path) -> list[Path]:
    """Job folders by the time they were last changed, then by the time in their name."""
    folders = [each for each in online.glob("job_*") if each.is_dir()]

    def age(folder: Path) -> tuple[int, int, str]:
        named = _REPLACEABLE.fullmatch(folder.name)
        return folder.stat().st_mtime_ns, int(named[1]) if named else 0, folder.name

    return sorted(folders, key=age, reverse=True)


def load_output(file: Path) -> CalcRunnerOutput:
    """The levels of one file, in today's schema or the older one. Raises InputError.

    Estimates and fits in it were made for other targets, and are left aside unread.
    """
    try:
        body = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError("does not exist.", file=str(file)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}.", file=str(file)) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            "is not JSON.", file=str(file), line=getattr(error, "lineno", None)
        ) from None
    if not isinstance(body, dict):
        raise InputError("is not an output of sizing calc.", file=str(file))
    kept = ("calc_data", "per_concurrency_data", "tonnage")
    try:
        output = CalcRunnerOutput.model_validate({key: body[key] for key in kept if key in body})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InputError(
            f"cannot be used: {first['msg']}.",
            file=str(file),
            key=".".join(str(part) for part in first["loc"]),
        ) from None
    if not output.calc_data:
        raise InputError("holds no concurrency level.", file=str(file))
    return output


def disagreements(jobs: Sequence[Job], test_gpu_count: int) -> list[str]:
    """What the jobs say of GPUs, model and config that cannot all be so of one line.

    Only jobs measured with tonnage say it; silence agrees with everything.
    """
    told: dict[str, dict[str, str]] = {
        "GPUs": {"test_gpu_count": str(test_gpu_count)},
        "models": {},
        "configs": {},
    }
    for job in jobs:
        facts = job.output.tonnage
        for what, value in (
            ("GPUs", facts.test_gpu_count),
            ("models", facts.model),
            ("configs", facts.config),
        ):
            if value:
                told[what][job.folder.name] = str(value)
    return [
        f"different {what}: " + ", ".join(f"{value} ({who})" for who, value in by.items())
        for what, by in told.items()
        if len(set(by.values())) > 1
    ]


# ── writing ─────────────────────────────────────────────────────────────────────────────────────


def write_job(
    output_dir: Path,
    mode: str,
    output: CalcRunnerOutput,
    draw: Callable[[Path], None] | None = None,
) -> Path:
    """A new folder `output_dir`/`mode`/job_<unix seconds> in place of the last one of that name.

    `draw` puts plots into it. The folder appears whole; the one it replaces goes afterwards.
    """
    parent = output_dir / mode
    try:
        parent.mkdir(parents=True, exist_ok=True)
        earlier = [
            each
            for each in parent.iterdir()
            if _REPLACEABLE.fullmatch(each.name) and not each.is_symlink()
        ]
        staged = Path(tempfile.mkdtemp(dir=parent, prefix=".job-"))
        try:
            staged.chmod(parent.stat().st_mode & 0o777)
            text = output.model_dump_json(indent=2)
            (staged / OUTPUT_FILE).write_text(f"{text}\n", encoding="utf-8")
            if draw is not None:
                draw(staged)
            folder = _named_by_time(staged, parent)
        finally:
            _remove_job(staged)
        for each in earlier:
            _remove_job(each)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}.", file=str(parent)) from error
    return folder


def _named_by_time(staged: Path, parent: Path) -> Path:
    """Give the folder its name; a second in which another run ended is taken."""
    second = int(time.time())
    while True:
        folder = parent / f"job_{second}"
        try:
            return staged.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        second += 1


def _remove_job(folder: Path) -> None:
    """Remove what a run writes; a folder with anything else in it stays, with that."""
    for name in (OUTPUT_FILE, SIMPLE_PLOT, ANALYSIS_PLOT):
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(folder / name)  # noqa: PTH108 — no second look at what is gone
    with suppress(OSError):
        folder.rmdir()
