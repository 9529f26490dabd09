"""A Python callable "module:function" -> a Target: an agent that needs no server in front of it.

The callable gets the text of the prompt and nothing else. It may be async, an async generator
whose pieces are timed, or plain, in which case every call has a thread of its own: a pool
would make prompts wait for each other, which is what a load test is there to find out.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tonnage.errors import UsageError
from tonnage.measurement.load import Outcome, Prompt, TargetSpec, clock
from tonnage.spelling import nearest

GRACE_S = 1.0  # for a workflow that was cancelled to clean up before it is left to itself


class FunctionTarget:
    """A callable of this process. See the module for how it is called."""

    def __init__(self, spec: TargetSpec) -> None:
        self._call = load_callable(spec.address)
        self._timeout_s = spec.timeout_s

    @property
    def model(self) -> str | None:
        """Not known: the callable may ask any model."""
        return None

    async def open(self) -> None:
        """Nothing to do: the callable is imported with the target."""

    async def send(self, prompt: Prompt) -> Outcome:
        """Call it once; an exception or an answer that takes too long is a failed outcome."""
        outcome = Outcome(sent_s=clock(), end_s=0.0)
        await run_within(self._timeout_s, self._answer(prompt.text, outcome), outcome)
        return outcome

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _answer(self, text: str, outcome: Outcome) -> None:
        call = self._call
        result = call(text) if _is_async(call) else await _in_thread(call, text)
        if inspect.isawaitable(result):
            result = await result
        if not inspect.isasyncgen(result):
            outcome.answer = "" if result is None else str(result)
            return
        pieces = []
        async for piece in result:
            if piece_text := str(piece):
                outcome.token_s.append(clock())
                pieces.append(piece_text)
        outcome.answer = "".join(pieces)


def load_callable(address: str) -> Callable[[str], Any]:
    """Import "module:function", with the current directory first, as `python -m` does."""
    module_name, colon, path = address.partition(":")
    if not (module_name and colon and path):
        raise UsageError(
            f"{address!r} is no callable.", hint="Write module:function, for example agent:answer."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"{module_name} imports {error.name}, which is not installed."
            ) from None
        raise UsageError(
            f"there is no module {error.name} in {here} or among the installed ones."
        ) from None
    except Exception as error:  # noqa: BLE001 — a module of the user, which may raise anything
        raise UsageError(f"importing {module_name} failed: {one_line(error)}.") from None
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            alike = nearest(name, (known for known in dir(found) if not known.startswith("_")))
            raise UsageError(
                f"{module_name} has no {path}.",
                hint=f"Did you mean {' or '.join(alike)}?" if alike else "",
            )
        found = getattr(found, name)
    if not callable(found):
        raise UsageError(f"{address} is {type(found).__name__}, which cannot be called.")
    if inspect.isgeneratorfunction(found):
        raise UsageError(f"{address} is a plain generator.", hint="Make it an async one.")
    return found  # type: ignore[no-any-return]


async def run_within(timeout_s: float, work: Awaitable[None], outcome: Outcome) -> None:
    """Await work that may raise anything, never end, or ignore that it is cancelled.

    What became of it goes into `outcome`, whose `end_s` is when it ended.
    """
    task = asyncio.ensure_future(_guarded(work, outcome))
    try:
        await asyncio.wait([task], timeout=timeout_s)
        if not task.done():
            outcome.failure = "timeout"
            outcome.error = f"no answer within {timeout_s:g} s"
        elif task.cancelled():
            outcome.failure = "workflow"
            outcome.error = "CancelledError: it cancelled itself"
    finally:
        outcome.end_s = clock()
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=GRACE_S)


def one_line(error: BaseException) -> str:
    """Type and message of an exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


async def _guarded(work: Awaitable[None], outcome: Outcome) -> None:
    try:
        await work
    except (Exception, SystemExit) as error:  # noqa: BLE001 — code of the user: all is an outcome
        outcome.failure = "workflow"
        outcome.error = one_line(error)


def _is_async(call: Callable[[str], Any]) -> bool:
    inside = getattr(call, "__call__", call)  # noqa: B004 — an object with an async __call__
    return any(
        test(each)
        for test in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
        for each in (call, inside)
    )


async def _in_thread(call: Callable[[str], Any], text: str) -> Any:  # noqa: ANN401 — whatever it returns
    """Run `call` in a new thread, which does not keep this process alive if it never ends."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:  # noqa: ANN401 — as above
        if answered.done():  # given up on meanwhile
            return
        if error is None:
            answered.set_result(result)
        else:
            answered.set_exception(error)

    def run() -> None:
        result, raised = None, None
        try:
            result = context.run(call, text)
        except BaseException as error:  # noqa: BLE001 — raised again where the call is awaited
            raised = error
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, raised)

    threading.Thread(target=run, daemon=True).start()
    return await answered
