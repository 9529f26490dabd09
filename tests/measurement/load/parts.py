"""A target of this process that answers by a known law, and who keeps and who watches."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import count

from tonnage.measurement.load import (
    Conversation,
    Keeper,
    Level,
    Outcome,
    Progress,
    Prompt,
    Record,
    Watch,
    clock,
)
from tonnage.measurement.load.journal import _record_of
from tonnage.measurement.load.loops import drive
from tonnage.measurement.loop import run


class LawTarget:
    """Answers after as long as `law` says, by the number of requests in flight; counts those."""

    def __init__(self, law: Callable[[int], float] = lambda _: 0.0, *, tokens: int = 1) -> None:
        self.law = law
        self.tokens = tokens
        self.in_flight = 0
        self.most_in_flight = 0
        self.prompts: list[Prompt] = []
        self.opened = 0

    @property
    def model(self) -> str | None:
        return "law"

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.opened -= 1

    async def send(self, prompt: Prompt) -> Outcome:
        sent_s = clock()
        self.prompts.append(prompt)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.law(self.in_flight))
        finally:
            self.in_flight -= 1
        return self.outcome(prompt, sent_s, clock())

    def outcome(self, prompt: Prompt, sent_s: float, end_s: float) -> Outcome:
        step_s = (end_s - sent_s) / self.tokens
        return Outcome(
            sent_s=sent_s,
            end_s=end_s,
            token_s=[sent_s + step_s * (number + 1) for number in range(self.tokens)],
            answer=f"answer to {prompt.text}",
            output_tokens=self.tokens,
            tokens_from="usage",
        )


class FailingTarget(LawTarget):
    """Fails in one way, whenever `fails` says so."""

    def __init__(self, failure, fails=lambda _: True, law=lambda _: 0.0) -> None:
        super().__init__(law)
        self.failure = failure
        self.fails = fails

    def outcome(self, prompt: Prompt, sent_s: float, end_s: float) -> Outcome:
        if not self.fails(prompt):
            return super().outcome(prompt, sent_s, end_s)
        return Outcome(sent_s=sent_s, end_s=end_s, failure=self.failure, error="as it was told to")


class Kept(list[Record]):
    """Records at hand."""

    def keep(self, record: Record) -> None:
        self.append(record)

    def keep_lines(self, lines: bytes) -> None:
        self.extend(_record_of(line, "", 0) for line in lines.splitlines())


class Seen(list[Progress]):
    """What a watch was told."""

    def progress(self, progress: Progress) -> None:
        self.append(progress)


class LawDriver:
    """A driver of this process around a target that is there already."""

    def __init__(self, target: LawTarget) -> None:
        self.target = target
        self.stop = asyncio.Event()

    @property
    def model(self) -> str | None:
        return self.target.model

    async def open(self) -> None:
        await self.target.open()

    async def run(self, level: Level, keeper: Keeper, watch: Watch, stop: asyncio.Event) -> None:
        await drive(level, self.target, single_prompts(), keeper, watch, stop)

    async def close(self) -> None:
        await self.target.close()


class TimelessDriver:
    """A driver that does not wait: each request of a level at `load` takes `law(load)` seconds.

    From `breaks_at` on every other one fails. It sets its `stop` in the middle of its n-th level.
    """

    def __init__(self, law, *, breaks_at=float("inf"), stops_in=0) -> None:
        self.law = law
        self.breaks_at = breaks_at
        self.stops_in = stops_in
        self.stop = asyncio.Event()
        self.levels: list[Level] = []
        self.model: str | None = None

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def run(self, level: Level, keeper: Keeper, _: Watch, stop: asyncio.Event) -> None:
        self.levels.append(level)
        load = level.concurrency or level.rate_per_s or 0.0
        e2e_s = self.law(load)
        for number in range(level.requests or 0):
            if len(self.levels) == self.stops_in and number == 10:
                stop.set()
                return
            fails = load >= self.breaks_at and number % 2
            sent_s = e2e_s * (number // load) if level.concurrency else number / load
            keeper.keep(
                Record(
                    level=level.name,
                    phase="measured",
                    item=str(number),
                    scheduled_unix_s=1e9 + sent_s,
                    lateness_s=0.0,
                    e2e_s=e2e_s,
                    failure="http" if fails else None,
                )
            )


def known(value: float | None) -> float:
    """A statistic that must be there."""
    assert value is not None
    return value


def single_prompts(shard: int = 0, shards: int = 1) -> Iterator[Conversation]:
    for number in count(shard, shards):
        yield Conversation(turns=(Prompt(item=str(number), text=f"question {number}"),))


def hold(level: Level, target, *, conversations=None, stop_after=None, **shares) -> Kept:
    """Drive `level` to its end, or until `stop_after` says that it has seen enough."""
    kept = Kept()

    async def holding() -> None:
        stop = asyncio.Event()

        async def stopping() -> None:
            while not stop_after():  # noqa: ASYNC110 — the load says nothing
                await asyncio.sleep(0.001)
            stop.set()

        stopper = asyncio.create_task(stopping()) if stop_after else None
        prompts = single_prompts(shares.get("shard", 0), shares.get("shards", 1))
        async with asyncio.timeout(30):
            await drive(level, target, conversations or prompts, kept, Seen(), stop, **shares)
        if stopper:
            stopper.cancel()

    run(holding())
    return kept
