"""Shards -> running somewhere: in processes of this machine, or on workers of a Dask cluster.

An executor launches them and brings back what they died of; all else goes over their connection
to the coordinator, because an executor neither starts several at the same moment nor stops one that
runs, and Dask runs the task of a worker that died a second time. What is launched travels to its
worker as the executor sends it: by a pipe here, unencrypted to a cluster unless its address is
tls://.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Protocol

from tonnage.errors import TonnageError
from tonnage.measurement.load.shard import Invitation, run_process_shard, run_shard
from tonnage.spread import ENDING, Client, connected, own_address, refuse_other_versions

EXIT_S = 5.0  # for a process whose shard has ended


class Launcher(Protocol):
    """Starts shards; each method may block, and is called from a thread of its own."""

    def open(self, shards: int | None) -> tuple[str, int]:
        """Get ready for so many, or as many as there is room for.

        Returns the address of this machine that they can connect to, and how many there will be.
        """
        ...

    def launch(self, invitations: Sequence[Invitation]) -> list[Future[None]]:
        """Start one shard for each invitation."""
        ...

    def close(self) -> None:
        """Leave nothing behind, whatever the shards do."""
        ...


class ProcessLauncher:
    """Shards in processes of this machine.

    Each has a pool of its own, because a pool that loses one process ends all the others.
    """

    def __init__(self) -> None:
        self._pools: list[ProcessPoolExecutor] = []
        self._processes: list[BaseProcess] = []

    def open(self, shards: int | None) -> tuple[str, int]:
        """Nothing to prepare."""
        return "127.0.0.1", shards or 1

    def launch(self, invitations: Sequence[Invitation]) -> list[Future[None]]:
        """Start the processes, with what would end them blocked from their first moment on.

        Ctrl-C goes to every process of a terminal, and what `timeout` sends to all of a group; what
        a shard does about it, the coordinator says.
        """
        context = get_context("spawn")
        resource_tracker.ensure_running()  # started with the first process, it would unblock it
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            futures = []
            for invitation in invitations:
                pool = ProcessPoolExecutor(max_workers=1, mp_context=context)
                self._pools.append(pool)
                futures.append(pool.submit(run_process_shard, invitation))
                self._processes += pool._processes.values()  # noqa: SLF001 — public from 3.14 on
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return futures

    def close(self) -> None:
        """End the processes; one that does not end by itself is killed."""
        killing = threading.Timer(EXIT_S, self._kill)
        killing.start()
        try:
            for pool in self._pools:
                pool.shutdown(wait=True, cancel_futures=True)
        finally:
            killing.cancel()
        self._pools, self._processes = [], []

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()


class DaskLauncher:
    """Shards on a Dask cluster, each on a worker of its own that runs nothing beside it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: Client | None = None
        self._connection = ExitStack()
        self._executors: list[Executor] = []
        self._workers: list[str] = []

    def open(self, shards: int | None) -> tuple[str, int]:
        """Connect to the scheduler and choose the workers."""
        client = self._client = self._connection.enter_context(connected(self._address))
        threads = client.nthreads()
        single = [worker for worker, count in threads.items() if count == 1]
        wanted = max(len(single), 1) if shards is None else shards
        if len(single) < wanted:
            raise TonnageError(
                f"it takes {wanted} workers with one thread; the cluster at {self._address} has "
                f"{len(single)}, and {len(threads) - len(single)} with more.",
                hint="Start them with dask worker --nthreads 1: threads of one process hold each "
                "other up.",
            )
        busy = client.processing()
        self._workers = sorted(single, key=lambda worker: len(busy.get(worker, ())))[:wanted]
        refuse_other_versions(client, self._workers)
        return own_address(self._address), wanted

    def launch(self, invitations: Sequence[Invitation]) -> list[Future[None]]:
        """Submit each shard to its worker and no other, once."""
        assert self._client is not None  # noqa: S101 — opened first
        futures = []
        for invitation, worker in zip(invitations, self._workers, strict=True):
            executor = self._client.get_executor(
                workers=[worker], allow_other_workers=False, pure=False, retries=0
            )
            self._executors.append(executor)
            futures.append(executor.submit(run_shard, invitation))
        return futures

    def close(self) -> None:
        """Forget the tasks and leave the cluster."""
        for executor in self._executors:
            executor.shutdown(wait=False)
        self._connection.close()
        self._executors, self._client = [], None
