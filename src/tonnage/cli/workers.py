"""`--workers` and `--cluster` -> an Executor for work whose pieces do not wait for each other."""

from __future__ import annotations

from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext

from tonnage.cli.asked import Asked
from tonnage.cli.flags import Flag, own_flag

PROCESSES = "From where"


def worker_flags(shared: str) -> tuple[Flag, ...]:
    """Who else does it; `shared` is what they share, the work or the load."""
    return (
        own_flag(
            "--workers",
            PROCESSES,
            "N",
            f"Processes that share the {shared} (1; of a cluster, every worker).",
        ),
        own_flag(
            "--cluster",
            PROCESSES,
            "ADDRESS",
            f"A Dask scheduler whose workers share the {shared}: tcp://host:8786.",
        ),
    )


def executor_of(asked: Asked) -> AbstractContextManager[Executor | None]:
    """What was asked for, to be opened; None where this process does it all."""
    workers, cluster = asked.count("--workers"), asked.text("--cluster")
    if cluster is None and workers in {None, 1}:
        return nullcontext()
    from tonnage.spread import open_executor  # noqa: PLC0415 — cold start

    return open_executor(workers=workers, cluster=cluster)
