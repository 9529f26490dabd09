"""A NeMo Agent Toolkit configuration -> a Target that runs its workflow in this process.

The toolkit's own loader builds the workflow once, for all prompts; its profiler makes the events
from which LLM calls are known. Without the profiler a failed LLM call would pass unseen, so a
workflow is not run without it.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from tonnage.errors import InputError, MissingExtraError
from tonnage.measurement.load import Outcome, Prompt, TargetSpec, clock
from tonnage.measurement.targets.events import (
    READ,
    Event,
    calls_of,
    describe_failed,
    event_of,
    runtime_s_of,
)
from tonnage.measurement.targets.function import one_line, run_within

PROFILER = "nat.plugins.profiler"
USER = "tonnage"  # whose a workflow is that is built for each user

_errors: ContextVar[list[str] | None] = ContextVar("errors of the toolkit's log", default=None)


class NemoTarget:
    """The workflow of one configuration file, open to any number of prompts at once."""

    def __init__(self, spec: TargetSpec) -> None:
        self._file = Path(spec.address)
        self._timeout_s = spec.timeout_s
        self._model: str | None = None
        self._sessions: Any = None
        self._closing = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    @property
    def model(self) -> str | None:
        """The model of the last LLM call seen."""
        return self._model

    async def open(self) -> None:
        """Build the workflow. Raises InputError when the toolkit cannot."""
        built: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._hold(built))
        await asyncio.wait([built, self._running], return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            await self._running

    async def send(self, prompt: Prompt) -> Outcome:
        """Run the workflow once, in a task and so in a context of its own, as its events need."""
        outcome = Outcome(sent_s=clock(), end_s=0.0)
        events: list[Event] = []
        errors: list[str] = []
        await run_within(
            self._timeout_s, self._answer(prompt.text, outcome, events, errors), outcome
        )
        outcome.runtime_s = runtime_s_of(events)
        outcome.llm_calls = calls_of(events)
        if outcome.failure is None and (failed := describe_failed(outcome.llm_calls)):
            outcome.failure = "workflow"
            outcome.error = ": ".join([failed, *errors[:1]])
        self._model = next((each.model for each in outcome.llm_calls if each.model), self._model)
        return outcome

    async def close(self) -> None:
        """Let go of the workflow."""
        self._closing.set()
        if self._running is not None:
            await self._running

    async def _hold(self, built: asyncio.Future[None]) -> None:
        """Build the workflow and keep it until the end, in one task as its parts may require."""
        with _quiet() as log:
            loader = _import_loader()
            if not self._file.is_file():
                raise InputError("does not exist.", file=str(self._file))
            root = logging.getLogger()
            before = list(root.handlers)
            try:
                async with loader.load_workflow(self._file) as self._sessions:
                    for handler in set(root.handlers).difference(before):
                        if type(handler) is logging.StreamHandler:  # to the terminal, not a file
                            root.removeHandler(handler)
                    log.propagate = True
                    built.set_result(None)
                    await self._closing.wait()
            except Exception as error:
                if built.done():
                    raise
                raise InputError(
                    f"cannot be run by NeMo Agent Toolkit: {one_line(error)}.", file=str(self._file)
                ) from error

    async def _answer(
        self, text: str, outcome: Outcome, events: list[Event], errors: list[str]
    ) -> None:
        _errors.set(errors)

        def note(step: Any) -> None:  # noqa: ANN401 — a type of the toolkit
            events.append(event_of(step.payload.model_dump(mode="json", include=READ)))

        async with self._sessions.session(user_id=USER) as session, session.run(text) as runner:
            runner.context.intermediate_step_manager.subscribe(on_next=note)
            answer = await runner.result()
        outcome.answer = answer if isinstance(answer, str) else str(answer)


class _Notes(logging.Handler):
    """Keeps what the toolkit logs of an exception with the prompt that it belongs to."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line of it."""
        errors = _errors.get()
        if errors is not None and record.exc_info and record.exc_info[1]:
            errors.append(one_line(record.exc_info[1]))


@contextmanager
def _quiet() -> Iterator[logging.Logger]:
    """Keep the toolkit's tracebacks and warnings, one or more for each prompt, off the terminal.

    Its log is given back to others, such as a file that the configuration names, by `propagate`.
    """
    log = logging.getLogger("nat")
    notes, propagates, shown = _Notes(logging.ERROR), log.propagate, warnings.showwarning
    log.addHandler(notes)
    log.propagate = False
    warnings.showwarning = _log_warning  # a filter would not do: langchain puts its own in front
    try:
        yield log
    finally:
        warnings.showwarning = shown
        log.propagate = propagates
        log.removeHandler(notes)


def _log_warning(  # noqa: PLR0917 — the signature of warnings.showwarning
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 — as above
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    logging.getLogger("nat").warning("%s", text)


def _import_loader() -> Any:  # noqa: ANN401 — a module that may be missing
    try:
        found = importlib.util.find_spec(PROFILER) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise MissingExtraError(
            "running a workflow of NeMo Agent Toolkit needs nvidia-nat with its profiler.",
            hint='Install it: pip install "tonnage[nat]".',
        )
    return importlib.import_module("nat.runtime.loader")
