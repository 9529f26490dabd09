"""A program -> a Target: started anew for each prompt, so any language will do.

The prompt comes on its standard input, and in `TONNAGE_PROMPT` where it fits; the answer is what
it prints. With a recorder in front of its LLM each process gets a base URL of its own, so that
a call is known to belong to the prompt that caused it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from tonnage.errors import UsageError
from tonnage.measurement.load import Outcome, Prompt, TargetSpec, clock
from tonnage.measurement.targets.events import describe_failed

if TYPE_CHECKING:
    from tonnage.measurement.recorder import Recorder

PROMPT_VARIABLE = "TONNAGE_PROMPT"
LONGEST_VARIABLE_BYTES = 128 * 1024  # Linux: MAX_ARG_STRLEN, for name, value and a final zero
REAPING_S = 1.0  # what the kernel may take to end a killed process


class CommandTarget:
    """A command line, run once for each prompt in a process group of its own."""

    def __init__(self, spec: TargetSpec) -> None:
        if not spec.command:
            raise UsageError("there is no command to run.", hint="Put it last: -- ./agent.sh")
        self._argv = spec.command
        self._timeout_s = spec.timeout_s
        self._recorder: Recorder | None = None
        if spec.record_llm:
            from tonnage.measurement.recorder import Recorder  # noqa: PLC0415 — needs an extra

            self._recorder = Recorder(spec.record_llm)
        self._sent = 0

    @property
    def model(self) -> str | None:
        """The model that the recorded calls asked, None without any."""
        return self._recorder.model if self._recorder else None

    async def open(self) -> None:
        """See that the program is there, and start the recorder."""
        program = self._argv[0]
        if shutil.which(program) is None:
            raise UsageError(
                f"{program} is not a program that can be run.",
                hint="Name one on PATH, or write ./ before one in this directory.",
            )
        if self._recorder:
            await self._recorder.open()

    async def send(self, prompt: Prompt) -> Outcome:
        """Run it once. Whatever of its process group is left when it is given up is killed."""
        self._sent += 1
        token = f"prompt-{self._sent}"
        environment = os.environ | _prompt_variable(prompt.text)
        if self._recorder:
            url = self._recorder.url_for(token)
            environment |= {"OPENAI_BASE_URL": url, "OPENAI_API_BASE": url}
        try:
            outcome = await self._run(prompt.text, environment)
        finally:
            calls = self._recorder.end(token) if self._recorder else ()
        outcome.llm_calls = calls
        if outcome.failure is None and (failed := describe_failed(calls)):
            outcome.failure, outcome.error = "workflow", failed
        return outcome

    async def close(self) -> None:
        """Stop the recorder."""
        if self._recorder:
            await self._recorder.close()

    async def _run(self, text: str, environment: dict[str, str]) -> Outcome:
        outcome = Outcome(sent_s=clock(), end_s=0.0)
        try:
            process = await self._start(environment)
        except OSError as error:  # no more processes, or the program is gone
            outcome.failure, outcome.error = "workflow", f"cannot be run: {error.strerror}"
            outcome.end_s = clock()
            return outcome
        try:
            async with asyncio.timeout(self._timeout_s):
                answer, complaint = await process.communicate(text.encode())
        except (TimeoutError, asyncio.CancelledError) as given_up:
            await _kill_group(process)
            if isinstance(given_up, asyncio.CancelledError):
                raise
            outcome.failure = "timeout"
            outcome.error = f"still running after {self._timeout_s:g} s, killed"
        else:
            outcome.answer = answer.decode(errors="replace")
            if process.returncode:
                outcome.failure = "workflow"
                outcome.error = _describe_exit(process.returncode, complaint)
        outcome.end_s = clock()
        return outcome

    async def _start(self, environment: dict[str, str]) -> asyncio.subprocess.Process:
        """Start it. Cancelled meanwhile, it is started all the same, so as to be killed whole."""
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await _kill_group(await starting)
            raise


def _describe_exit(status: int, complaint: bytes) -> str:
    """The exit status, or the signal that killed it, and the last it said on standard error."""
    ending = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    lines = complaint.decode(errors="replace").strip().splitlines()
    return f"{ending}: {lines[-1].strip()}" if lines else ending


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):  # it ended meanwhile
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):  # a daemon of its own session may still hold its output
        async with asyncio.timeout(REAPING_S):
            await process.wait()


def _prompt_variable(text: str) -> dict[str, str]:
    """The prompt as a variable, where a variable can hold it."""
    if "\0" in text or len(text.encode()) > LONGEST_VARIABLE_BYTES - len(PROMPT_VARIABLE) - 2:
        return {}
    return {PROMPT_VARIABLE: text}
