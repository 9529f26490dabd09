"""A command line -> wall time and peak memory of whole, fresh processes.

A process's peak memory is read from `wait4`. The kernel counts in it what the forking process held
before `exec`, so the measuring process must stay smaller than what it measures: nothing
here imports more than the standard library, and in-process benchmarks run after these.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.sample import Sample

RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # getrusage(2): KiB, on macOS bytes


class CommandFailedError(Exception):
    """The measured command did not exit 0, so its time means nothing."""


def measure_processes(argv: Sequence[str], *, repeats: int) -> Sample:
    """Run `argv` once unmeasured (byte code, page cache), then `repeats` times measured."""
    _run(argv)
    runs = [_run(argv) for _ in range(repeats)]
    return Sample(
        wall_s=[wall_s for wall_s, _ in runs],
        peak_rss_bytes=max(peak_rss_bytes for _, peak_rss_bytes in runs),
    )


def _run(argv: Sequence[str]) -> tuple[float, int]:
    with tempfile.TemporaryFile() as stderr:
        started_s = time.perf_counter()
        try:
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, stderr.fileno(), 2),
                ],
            )
        except OSError as error:
            raise CommandFailedError(f"{argv[0]}: {error.strerror}") from error
        _, status, usage = os.wait4(pid, 0)
        wall_s = time.perf_counter() - started_s
        if status != 0:
            stderr.seek(0)
            lines = stderr.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise CommandFailedError(f"exit {os.waitstatus_to_exitcode(status)}: {lines[-1]}")
    return wall_s, usage.ru_maxrss * RSS_UNIT_BYTES
