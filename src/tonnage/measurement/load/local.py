"""A target and prompts, as they are told -> a Driver that loads from this process."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import replace

from tonnage.measurement.load import Keeper, Level, PromptSpec, TargetSpec, Watch
from tonnage.measurement.load.loops import drive
from tonnage.measurement.load.prompts import conversations
from tonnage.measurement.targets.choose import target_of


class LocalDriver:
    """One process that holds whole levels."""

    def __init__(self, target: TargetSpec, prompts: PromptSpec) -> None:
        self._target = target_of(target)
        self._prompts = prompts
        self._tokenizer = target.tokenizer

    @property
    def model(self) -> str | None:
        """The model that answers, as far as it is known after `open`."""
        return self._target.model

    async def open(self) -> None:
        """Open the target. Raises TonnageError for one, or prompts, that cannot be loaded."""
        conversations(self._prompts, tokenizer=self._tokenizer)
        await self._target.open()

    async def run(self, level: Level, keeper: Keeper, watch: Watch, stop: asyncio.Event) -> None:
        """Hold `level`."""
        prompts = conversations(prompts_of(level, self._prompts), tokenizer=self._tokenizer)
        await drive(level, self._target, prompts, keeper, watch, stop)

    async def close(self) -> None:
        """Let go of every connection."""
        await self._target.close()


def prompts_of(level: Level, spec: PromptSpec) -> PromptSpec:
    """`spec` with texts of the level's own: the texts of another may lie in a prefix cache."""
    return replace(spec, seed=zlib.crc32(f"{spec.seed}/{level.name}".encode()))
