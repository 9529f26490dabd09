"""What the tests of load from several processes share; its functions run in those processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from tonnage.measurement.load import Level, Progress, PromptSpec, Record, TargetSpec

PROMPTS = PromptSpec(kind="synthetic", prompt_tokens=4)
UNTIL_STOPPED = Level(name="long", concurrency=4, duration_s=600.0)


async def answer(text: str) -> str:
    await asyncio.sleep(0.005)
    return text


async def never(_: str) -> None:
    await asyncio.sleep(3600)


def look_first_in(folder: str) -> None:
    sys.path.insert(0, folder)


def look_no_more_in(folder: str) -> None:
    sys.path.remove(folder)


def target(function: str) -> TargetSpec:
    return TargetSpec(kind="function", address=f"tests.measurement.load.sharded:{function}")


def counted(requests: int, name: str = "counted") -> Level:
    return Level(name=name, concurrency=6, requests=requests)


class Kept:
    """A keeper that keeps lines in memory, and a watch that keeps the last progress."""

    def __init__(self) -> None:
        self.lines = b""
        self.last: Progress | None = None

    def keep(self, record: Record) -> None:
        raise AssertionError(record)

    def keep_lines(self, lines: bytes) -> None:
        assert lines.endswith(b"\n")
        self.lines += lines

    def progress(self, progress: Progress) -> None:
        self.last = progress

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.splitlines()]

    @property
    def by_shard(self) -> Counter[int]:
        return Counter(record.get("shard", 0) for record in self.records)

    async def until(self, shards: int, at_least: int = 1) -> None:
        """Wait for so many records of each shard."""
        await until(lambda: all(self.by_shard[shard] >= at_least for shard in range(shards)))


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is, however it becomes so."""
    while not true():  # noqa: ASYNC110 — most of it happens in other processes
        await asyncio.sleep(0.02)
