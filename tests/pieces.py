"""Pieces of work that the tests of spreading give away; they run in other processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tonnage.errors import InputError

HOURS_S = 7200.0


def square(number: int) -> int:
    return number * number


def refuse(path: Path) -> None:
    """Leave a mark, then raise, when the file's name says so."""
    path.touch()
    if path.name == "bad":
        raise InputError("is bad.", hint="Mend it.", file=path.name)
    time.sleep(0.05)


def stay(folder: Path) -> None:
    """Say who is at it, and never end."""
    (folder / str(os.getpid())).touch()
    time.sleep(HOURS_S)


def die(_: Path) -> None:
    """Take the process along."""
    os.kill(os.getpid(), signal.SIGKILL)


def stay_once(folder: Path) -> int:
    """The first time never end; then say who was at it."""
    if not any(folder.iterdir()):
        stay(folder)
    return os.getpid()
