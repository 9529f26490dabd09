"""A server that is started for the measurement, its LLM behind a recorder -> a Target.

The server is asked like any other. It makes its LLM calls on connections of its own, so a call is
known to have been made but not for which request: each is kept with the request that ends next,
and fails it if it failed, whatever the server answered. Figures over the calls of a level are
exact, those of a single request are not to be read.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from urllib.parse import urlsplit

from tonnage.errors import TonnageError, UsageError
from tonnage.measurement.load import Outcome, Prompt, Target, TargetSpec, clock
from tonnage.measurement.recorder import Recorder
from tonnage.measurement.targets.events import describe_failed

START_S = 120.0
ENDING_S = 10.0
LOOK_EVERY_S = 0.1
LAST_BYTES = 4096


class AgentTarget:
    """`target` at `spec.address`, served by `spec.command`, which calls `spec.record_llm`."""

    def __init__(self, spec: TargetSpec, target: Target) -> None:
        if spec.record_llm is None:
            raise UsageError(
                "a command after -- is for --record-llm.",
                hint="Leave it out when the target is running already.",
            )
        if shutil.which(spec.command[0]) is None:
            raise UsageError(
                f"{spec.command[0]} is not a program that can be run.",
                hint="Name one on PATH, or write ./ before one in this directory.",
            )
        self._target = target
        self._argv = spec.command
        self._address = spec.address
        self._recorder = Recorder(spec.record_llm)
        self._process: asyncio.subprocess.Process | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 — open as long as the server runs

    @property
    def model(self) -> str | None:
        """The model that the server's calls asked."""
        return self._recorder.model

    async def open(self) -> None:
        """Start the server and wait until it takes connections."""
        if await self._is_listening():
            raise TonnageError(
                f"something listens at {self._address} already:",
                hint="Stop it, or leave out the command after -- to measure it as it is.",
            )
        await self._recorder.open()
        url = self._recorder.url_for()
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            env=os.environ | {"OPENAI_BASE_URL": url, "OPENAI_API_BASE": url},
            start_new_session=True,
        )
        await self._listening(self._process)
        await self._target.open()
        self._recorder.take()  # calls that opening caused are nobody's

    async def send(self, prompt: Prompt) -> Outcome:
        """Ask the server, and take along the calls that have ended since."""
        outcome = await self._target.send(prompt)
        outcome.llm_calls = self._recorder.take()
        if outcome.failure is None and (failed := describe_failed(outcome.llm_calls)):
            outcome.failure, outcome.error = "workflow", failed
        return outcome

    async def close(self) -> None:
        """Stop the server, then the recorder."""
        await self._target.close()
        process = self._process
        if process is not None:
            await _end_group(process)
        await self._recorder.close()
        self._said.close()

    async def _listening(self, process: asyncio.subprocess.Process) -> None:
        """Return when the address takes a connection. Raises TonnageError when it never will."""
        until_s = clock() + START_S
        while clock() < until_s:
            if await self._is_listening():
                return
            if process.returncode is not None:
                raise TonnageError(
                    f"{self._argv[0]} ended with exit status {process.returncode} before it"
                    f" listened at {self._address}{self._last_words()}."
                )
            await asyncio.sleep(LOOK_EVERY_S)
        raise TonnageError(
            f"{self._argv[0]} does not listen at {self._address} after {START_S:g} s"
            f"{self._last_words()}."
        )

    async def _is_listening(self) -> bool:
        url = urlsplit(self._address)
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            _, writer = await asyncio.open_connection(url.hostname, port)
        except OSError:
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True

    def _last_words(self) -> str:
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(size - LAST_BYTES, 0))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()}" if lines else ""


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End a process and all that it started: in time, or by force, even when nobody waits."""
    try:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(ENDING_S):
                    await process.wait()
    finally:
        with suppress(ProcessLookupError):  # whatever outlived it, or never heard of it
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
