"""A job folder while its levels are measured: filled level by level, and taken up again.

Until it is done it holds its plan. Whoever works on it holds its journal, and lets go of that with
the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

from tonnage.files import write_atomically
from tonnage.measurement.load.journal import Journal
from tonnage.sizing_calc.jobs import (
    ONLINE,
    OUTPUT_FILE,
    PLAN_FILE,
    REQUESTS_FILE,
    cannot_write,
    newest_first,
    remove_job,
    standing_jobs,
)
from tonnage.sizing_calc.models import CalcRunnerOutput, Plan


class OnlineJob:
    """A job folder that nobody else works on. Raises InputError when another process does."""

    def __init__(self, folder: Path, plan: Plan, *, resumed: bool) -> None:
        self.folder = folder
        self.plan = plan
        self.resumed = resumed
        self.journal = Journal(folder / REQUESTS_FILE)

    def write(self, output: CalcRunnerOutput) -> None:
        """Put `output` in place of what was written after the level before."""
        write_atomically(self.folder / OUTPUT_FILE, f"{output.model_dump_json(indent=2)}\n")

    def finish(self) -> None:
        """Declare it done; unless it was appended, it replaces those that are named by a time."""
        try:
            (self.folder / PLAN_FILE).unlink()
            if self.plan.append:
                return
            for each in standing_jobs(self.folder.parent, append=False):
                if each != self.folder and not _is_measured_now(each):
                    remove_job(each)
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def close(self) -> None:
        """Let others work on it."""
        self.journal.close()


def begin_job(output_dir: Path, plan: Plan) -> OnlineJob:
    """A new folder with `plan` in it."""
    parent = output_dir / ONLINE
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = _new_folder(parent, append=plan.append)
    except OSError as error:
        raise cannot_write(parent, error) from error
    job = OnlineJob(folder, plan, resumed=False)
    write_atomically(folder / PLAN_FILE, f"{plan.model_dump_json(indent=2)}\n")
    return job


def unfinished_jobs(output_dir: Path) -> list[tuple[Path, Plan]]:
    """Jobs that hold a plan still, newest first; one whose plan cannot be read is none."""
    found = []
    for folder in newest_first(output_dir / ONLINE):
        with suppress(OSError, ValueError):
            plan = Plan.model_validate_json((folder / PLAN_FILE).read_text(encoding="utf-8"))
            found.append((folder, plan))
    return found


def _new_folder(parent: Path, *, append: bool) -> Path:
    if append:
        folder = parent / f"job_{uuid.uuid4()}"
        folder.mkdir()
        return folder
    second = int(time.time())
    while True:
        folder = parent / f"job_{second}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
        second += 1


def _is_measured_now(folder: Path) -> bool:
    """Whether a process holds the journal of `folder`."""
    try:
        descriptor = os.open(folder / REQUESTS_FILE, os.O_RDONLY)
    except FileNotFoundError:  # a job of nat sizing calc has none
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
