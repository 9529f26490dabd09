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
from tonnage.sizing_calc.models import (
    CalcRunnerOutput,
    SizingMetricsPerConcurrency,
    Subject,
)

OUTPUT_FILE = "calc_runner_output.json"
SIMPLE_PLOT = "concurrency_vs_p95_simple.png"
ANALYSIS_PLOT = "concurrency_vs_p95_analysis.png"
REQUESTS_FILE = "requests.jsonl"
PLAN_FILE = "unfinished.json"
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
    for folder in newest_first(_online_folder(output_dir)):
        try:
            job = Job(folder, load_output(folder / OUTPUT_FILE))
        except InputError as error:
            warnings.append(f"{error} Skipped.")
            continue
        lacking = set(job.output.tonnage.planned_levels) - job.output.calc_data.keys()
        if lacking:
            warnings.append(
                f"{folder} is not finished: concurrency {', '.join(map(str, sorted(lacking)))} is"
                " not in it. The command that began it goes on with it."
            )
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


def newest_first(online: Path) -> list[Path]:
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


_SUBJECTS = {
    "test_gpu_count": "GPUs",
    "model": "models",
    "config": "configs",
    "dataset": "datasets",
    "target": "targets",
    "nat_version": "versions of NeMo Agent Toolkit",
}


def disagreements(subjects: Sequence[tuple[str, Subject]]) -> list[str]:
    """What subjects, each with the name of who says it, say that cannot all be so of one line.

    Only jobs measured with tonnage say it; silence agrees with everything.
    """
    found = []
    for field, what in _SUBJECTS.items():
        told = {who: value for who, subject in subjects if (value := getattr(subject, field))}
        if len(set(told.values())) > 1:
            listed = ", ".join(f"{value} ({who})" for who, value in told.items())
            found.append(f"different {what}: {listed}")
    return found


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
        earlier = standing_jobs(parent, append=False)
        staged = Path(tempfile.mkdtemp(dir=parent, prefix=".job-"))
        try:
            staged.chmod(parent.stat().st_mode & 0o777)
            text = output.model_dump_json(indent=2)
            (staged / OUTPUT_FILE).write_text(f"{text}\n", encoding="utf-8")
            if draw is not None:
                draw(staged)
            folder = _named_by_time(staged, parent)
        finally:
            remove_job(staged)
        for each in earlier:
            remove_job(each)
    except OSError as error:
        raise cannot_write(parent, error) from error
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


def remove_job(folder: Path) -> None:
    """Remove what a run writes; a folder with anything else in it stays, with that."""
    for name in (OUTPUT_FILE, SIMPLE_PLOT, ANALYSIS_PLOT, REQUESTS_FILE, PLAN_FILE):
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(folder / name)  # noqa: PTH108 — no second look at what is gone
    with suppress(OSError):
        folder.rmdir()


def standing_jobs(online: Path, *, append: bool) -> list[Path]:
    """Jobs of which `append` says whether they were appended."""
    folders = (each for each in online.glob("job_*") if each.is_dir() and not each.is_symlink())
    return [each for each in folders if (_REPLACEABLE.fullmatch(each.name) is None) == append]


def cannot_write(path: Path, error: OSError) -> InputError:
    """What to say of a path that the system refuses to write."""
    return InputError(
        f"cannot be written: {error.strerror}.",
        hint="Measurements and answers need a directory with room that can be written to.",
        file=str(path),
    )
