"""Pieces of work -> their results, from processes of this machine or the workers of a Dask cluster.

One port for both, `concurrent.futures.Executor`, which whoever has pieces to give away is handed;
only doors open one. A piece is computed from its arguments alone, so that it does not matter where,
nor how often: Dask computes the piece of a worker that died a second time.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from tonnage.errors import MissingExtraError, TonnageError, UsageError

Client = Any  # of Dask, whose types are half there
Piece = TypeVar("Piece")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

CONNECT_S = 10.0
LOOK_S = 2.0  # between two looks whether a cluster still has workers
EXIT_ORPHANED = 1
ENDING = (signal.SIGINT, signal.SIGTERM)  # what a terminal and `timeout` send to all of a group


def spread(
    executor: Executor, compute: Callable[[Piece], Result], pieces: Iterable[Piece]
) -> Iterator[tuple[int, Result]]:
    """The result of each piece with its number, as they come.

    `compute` is a function of a module, pieces and results can be pickled. What is left is taken
    back when one raises, and when the caller stops listening. Raises what `compute` raises, and
    TonnageError when those who compute are gone.
    """
    numbers: dict[Future[Result], int] = {}
    try:
        with _lost_workers_told(executor):
            for number, piece in enumerate(pieces):
                numbers[executor.submit(compute, piece)] = number
        left = set(numbers)
        while left:
            done, left = wait(left, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            if not done and isinstance(executor, _Cluster):
                executor.refuse_nobody()
            for future in done:
                with _lost_workers_told(executor):
                    result = future.result()
                yield numbers.pop(future), result
    finally:
        for future in numbers:
            future.cancel()


@contextmanager
def _lost_workers_told(executor: Executor) -> Iterator[None]:
    lost = executor.lost_errors if isinstance(executor, _Cluster) else (BrokenExecutor,)
    try:
        yield
    except lost as error:
        where = "of the cluster " if isinstance(executor, _Cluster) else ""
        raise TonnageError(
            f"a worker process {where}ended before its work was done.",
            hint="Killed for want of memory? Fewer --workers, or fewer --requests, need less.",
        ) from error


@contextmanager
def open_executor(*, workers: int | None = None, cluster: str | None = None) -> Iterator[Executor]:
    """So many processes of this machine (as many as it has cores), or workers of a cluster (all).

    `cluster` is the address of a Dask scheduler. Left by an exception, Ctrl-C included, it ends the
    processes at once; those of a cluster finish the piece they are at. Raises UsageError for what
    is no address, MissingExtraError without Dask, TonnageError where nobody answers or other
    versions of tonnage do.
    """
    if cluster is None:
        with _Processes(workers or os.cpu_count() or 1) as processes:
            yield processes
        return
    with connected(cluster) as client, warnings.catch_warnings():
        # a piece is sent once, to one worker: there is nothing to be scattered first
        warnings.filterwarnings("ignore", message="Sending large graph")
        executor = _Cluster(client, cluster, workers)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)


# ── processes of this machine ───────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class _Child:
    """A process, and this end of the pipe that pieces go out and results come in through."""

    process: BaseProcess
    pipe: Connection[Any, Any]

    def compute(self, piece: tuple[Any, ...]) -> tuple[bool, Any]:
        """Whether it could be computed, and the result or what was raised.

        Raises EOFError or OSError when the process has ended.
        """
        self.pipe.send(piece)
        computed, outcome = self.pipe.recv()
        return computed, outcome


class _Processes(ThreadPoolExecutor):
    """Processes that are ended by this one only, or with it.

    Each has a thread that hands it one piece after the other, and a pipe that breaks when it is
    killed. A ProcessPoolExecutor may wait forever for a process that was killed while it was being
    started, or while a large piece was on the way to it.
    """

    def __init__(self, workers: int) -> None:
        resource_tracker.ensure_running()  # started by a thread, it would inherit what that blocks
        super().__init__(workers, initializer=_block_ending)
        self._own = threading.local()
        self._children: list[_Child] = []
        self._ended = False
        self._starting = threading.Lock()

    def submit(
        self,
        compute: Callable[Arguments, Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Future[Result]:
        """As any executor."""
        return super().submit(self._hand_over, (compute, args, kwargs))

    def _hand_over(self, piece: tuple[Any, ...]) -> Any:  # noqa: ANN401 — what the piece gives
        """In a thread: let its process compute a piece."""
        try:
            computed, outcome = self._child().compute(piece)
        except (EOFError, OSError) as error:
            self._kill()
            raise BrokenProcessPool from error
        if not computed:
            raise outcome
        return outcome

    def _child(self) -> _Child:
        if not hasattr(self._own, "child"):
            with self._starting:
                if self._ended:
                    raise BrokenProcessPool
                context = get_context("spawn")
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs,), daemon=True)
                process.start()
                theirs.close()  # or the pipe would not break with the process
                self._own.child = _Child(process, ours)
                self._children.append(self._own.child)
        child: _Child = self._own.child
        return child

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 — as Executor has it
        """As any executor."""
        super().shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            for child in self._children:
                child.pipe.close()
                child.process.join()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what was submitted; after an exception, kill who is at it."""
        if kind is not None:
            self._kill()
        self.shutdown(cancel_futures=kind is not None)

    def _kill(self) -> None:
        """End every process, and start none: what one computes is of no use without the rest."""
        with self._starting:
            self._ended = True
            for child in self._children:
                child.process.kill()


def _block_ending() -> None:
    """In a thread that starts processes: they shall know no Ctrl-C from their first moment on.

    It goes to every process of a terminal; what is to be done about it is decided here.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def _serve(pipe: Connection[Any, Any]) -> None:
    """In a new process: compute what comes, until the pipe is closed or the parent ends.

    What is for the parent is ignored.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            compute, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            outcome = (True, compute(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 — it is raised where the piece came from
            outcome = (False, error)
        pipe.send(outcome)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(EXIT_ORPHANED)


# ── a Dask cluster ──────────────────────────────────────────────────────────────────────────────


class _Cluster(Executor):
    """Workers of a Dask cluster, the first so many by address or all there are and will be."""

    def __init__(self, client: Client, address: str, workers: int | None) -> None:
        self._client, self._address = client, address
        there = sorted(client.nthreads())
        if len(there) < (workers or 1):
            raise TonnageError(
                f"the cluster at {address} has {len(there)} workers, and {workers or 1} are asked"
                " for.",
                hint=f"Start them with dask worker {address}, or ask for fewer.",
            )
        chosen = there[:workers]
        refuse_other_versions(client, chosen)
        only = {} if workers is None else {"workers": chosen, "allow_other_workers": False}
        self._executor: Executor = client.get_executor(pure=False, retries=0, **only)

    @property
    def lost_errors(self) -> tuple[type[BaseException], ...]:
        """What a piece raises that nobody computed."""
        distributed = load_dask()
        return (distributed.KilledWorker, CancelledError)

    def submit(
        self,
        compute: Callable[Arguments, Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Future[Result]:
        """Send a piece to whoever is free."""
        return self._executor.submit(compute, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 — as Executor has it
        """Take no more, and unless `wait` take back what was sent; the workers stay."""
        self._executor.shutdown(wait=wait and not cancel_futures)

    def refuse_nobody(self) -> None:
        """Raise TonnageError when no worker is left: what was sent would be waited for forever."""
        try:
            there = self._client.nthreads()
        except (OSError, TimeoutError) as error:
            raise no_scheduler(self._address) from error
        if not there:
            raise TonnageError(
                f"the cluster at {self._address} has no workers left.",
                hint=f"Start them with dask worker {self._address}.",
            )


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """A client of the Dask scheduler at `address`; raises as `open_executor`."""
    distributed = load_dask()
    own_address(address)
    try:
        client = distributed.Client(address, set_as_default=False, timeout=CONNECT_S)
    except (OSError, TimeoutError) as error:
        raise no_scheduler(address) from error
    try:
        yield client
    finally:
        client.close()


def load_dask() -> ModuleType:
    """Dask's `distributed`; raises MissingExtraError without it."""
    try:
        import distributed  # noqa: PLC0415 — optional
    except ImportError:
        raise MissingExtraError(
            "a cluster needs Dask.", hint='pip install "tonnage[cluster]".'
        ) from None
    return distributed


def own_address(scheduler: str) -> str:
    """The address of this machine on the network that the scheduler is on."""
    match = re.fullmatch(r"(?:tcp|tls)://\[?([^/\[\]]+)\]?:(\d+)", scheduler)
    if match is None:
        raise UsageError(
            f"{scheduler!r} is no address of a Dask scheduler.",
            hint="For example tcp://10.0.0.5:8786.",
        )
    host, port = match.groups()
    try:
        with socket.create_connection((host, int(port)), CONNECT_S) as connection:
            address: str = connection.getsockname()[0]
    except OSError as error:
        raise no_scheduler(scheduler) from error
    return address


def refuse_other_versions(client: Client, workers: Iterable[str]) -> None:
    """Raise TonnageError for a worker that has no tonnage, or another."""
    here = importlib.metadata.version("tonnage")
    found = client.run(
        importlib.metadata.version, "tonnage", workers=list(workers), on_error="return"
    )
    for worker, version in found.items():
        if version != here:
            what = f"tonnage {version}" if isinstance(version, str) else "no tonnage"
            raise TonnageError(
                f"worker {worker} has {what}; this is {here}.",
                hint=f'Install it there: pip install "tonnage[cluster]=={here}".',
            )


def no_scheduler(address: str) -> TonnageError:
    """What to raise where nobody answers."""
    return TonnageError(
        f"no Dask scheduler answers at {address}.", hint="Start one with dask scheduler."
    )
