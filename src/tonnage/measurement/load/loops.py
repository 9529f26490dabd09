"""A level, a target and conversations -> the load itself, each request kept as it ends.

A closed load is a task for each client, an open one a task for each arrival. Whatever a request was
late by before it was sent is noted with it: that is this process's fault and nobody else's.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace

from tonnage.errors import UsageError
from tonnage.measurement.load import (
    Conversation,
    Keeper,
    Level,
    Message,
    Outcome,
    Phase,
    Progress,
    Prompt,
    Record,
    Target,
    Watch,
    clock,
)
from tonnage.traffic import Arrivals
from tonnage.traffic.arrivals import arrival_times_s

SHOWN_EVERY_S = 0.25
SHOWN_WINDOW_S = 5.0
SHOWN_REQUESTS = 1000  # as many times as a live percentile needs
PAUSE_AFTER_FAILURE_S = 0.1  # a server that refuses at once is not to be asked without a pause
TIMER_STEP_S = 0.001  # timers of event loops count milliseconds; libuv cuts the rest off
BURST = 16  # late arrivals that go out before the answers of others are read


async def drive(  # noqa: PLR0917 — what goes in, then who looks on
    level: Level,
    target: Target,
    conversations: Iterator[Conversation],
    keeper: Keeper,
    watch: Watch,
    stop: asyncio.Event,
    *,
    shard: int = 0,
    shards: int = 1,
    start_s: float | None = None,
) -> None:
    """Hold this shard's share of `level` from `start_s` (`clock`; now) until all of it has ended.

    The shares of all shards are the level, no request more or less. When `stop` is set, what is in
    flight is cancelled and kept as "stopped". What `target`, `keeper` or `watch` raise ends the
    load in the same way, and is raised.
    """
    if stop.is_set():
        return
    start_s = clock() if start_s is None else start_s
    sending = _Sending(level, target, keeper, shard, start_s)
    if level.concurrency is None:
        load = _hold_open(sending, arrivals(level, conversations, shard=shard, shards=shards))
    else:
        load = _Clients(sending, level.concurrency, conversations, shards).hold()
    gc.freeze()  # what was imported need not be looked through again and again, 10 ms a time
    try:
        async with asyncio.TaskGroup() as group:
            holding = group.create_task(load)
            others = [
                group.create_task(_cancel_on(stop, holding)),
                group.create_task(_show(sending, watch)),
            ]
            await asyncio.wait([holding])
            for other in others:
                other.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    finally:
        gc.unfreeze()
    watch.progress(sending.progress())


async def _cancel_on(stop: asyncio.Event, holding: asyncio.Task[None]) -> None:
    await stop.wait()
    holding.cancel()


async def _show(sending: _Sending, watch: Watch) -> None:
    while True:
        await asyncio.sleep(SHOWN_EVERY_S)
        watch.progress(sending.progress())


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def share(whole: int, shard: int, shards: int) -> int:
    """What one of `shards` has to do of `whole`; the remainder goes to the first ones."""
    return whole // shards + (shard < whole % shards)


async def sleep_until(when_s: float) -> None:
    """Sleep until `clock` shows `when_s`, never less, whatever the event loop's timers do."""
    while (left_s := when_s - clock()) > 0:  # noqa: ASYNC110 — a time, no event
        await asyncio.sleep(left_s + TIMER_STEP_S / 2)


class _Sending:
    """Requests of one level on their way: sends, keeps and counts them.

    `measured_from_s` is when the first one that is measured was due; infinite before that.
    """

    def __init__(
        self, level: Level, target: Target, keeper: Keeper, shard: int, start_s: float
    ) -> None:
        self.level = level
        self.shard = shard
        self.start_s = start_s
        self.measured_from_s = math.inf
        self.in_flight = 0
        self.measured_in_flight = 0
        self._last_measured_s = math.inf
        self._cooling = False
        self._target = target
        self._keeper = keeper
        self._unix_s = time.time() - clock()
        self._finished: Counter[Phase] = Counter()
        self._failed: Counter[Phase] = Counter()
        self._recent: deque[tuple[float, float | None, float]] = deque(maxlen=SHOWN_REQUESTS)
        self._counts: deque[tuple[float, int]] = deque([(start_s, 0)])

    async def send(self, prompt: Prompt, phase: Phase, due_s: float) -> Outcome:
        """Send one prompt that was due at `due_s`, and keep what came of it."""
        measured = phase == "measured"
        self.in_flight += 1
        self.measured_in_flight += measured
        asked_s = clock()
        if measured:
            self._last_measured_s = asked_s
        self._cooling = phase == "cooldown"
        try:
            outcome = await self._target.send(prompt)
        except asyncio.CancelledError:
            self._keep(
                prompt, phase, due_s, Outcome(sent_s=asked_s, end_s=clock(), failure="stopped")
            )
            raise
        finally:
            self.in_flight -= 1
            self.measured_in_flight -= measured
        self._keep(prompt, phase, due_s, outcome)
        return outcome

    def _keep(self, prompt: Prompt, phase: Phase, due_s: float, outcome: Outcome) -> None:
        sent_s = outcome.sent_s
        record = Record(
            level=self.level.name,
            phase=phase,
            item=prompt.item,
            scheduled_unix_s=due_s + self._unix_s,
            lateness_s=sent_s - due_s,
            e2e_s=outcome.end_s - sent_s,
            session=prompt.session,
            turn=prompt.turn,
            shard=self.shard,
            token_s=tuple([each - sent_s for each in outcome.token_s]),
            status=outcome.status,
            failure=outcome.failure,
            error=outcome.error,
            prompt_tokens=outcome.prompt_tokens,
            output_tokens=outcome.output_tokens,
            tokens_from=outcome.tokens_from,
            stale_retries=outcome.stale_retries,
            runtime_s=outcome.runtime_s,
            llm_calls=outcome.llm_calls,
        )
        self._keeper.keep(record)
        if outcome.failure is None:
            self._finished[phase] += 1
            self._recent.append((outcome.end_s, record.ttft_s, record.e2e_s))
        else:
            self._failed[phase] += 1

    def goes_on(self, at_s: float) -> bool:
        """Whether an unmeasured request may follow at `at_s`, all that is measured being sent."""
        until_s = 2 * self._last_measured_s - self.measured_from_s
        return self.level.cooldown and self.measured_in_flight > 0 and at_s < until_s

    def progress(self) -> Progress:
        """How the load stands; counts are of the phase it is in."""
        now_s = clock()
        phase: Phase = "warmup" if now_s < self.measured_from_s else "measured"
        began_s = self.start_s if phase == "warmup" else self.measured_from_s
        self._counts.append((now_s, self._finished.total() + self._failed.total()))
        while self._counts[0][0] < now_s - SHOWN_WINDOW_S:
            self._counts.popleft()
        (then_s, before), (_, ended) = self._counts[0], self._counts[-1]
        recent = [each for each in self._recent if each[0] >= now_s - SHOWN_WINDOW_S]
        return Progress(
            level=self.level,
            phase="cooldown" if self._cooling else phase,
            elapsed_s=max(now_s - began_s, 0.0),
            in_flight=self.in_flight,
            finished=self._finished[phase],
            failed=self._failed[phase],
            requests_per_s=(ended - before) / (now_s - then_s) if now_s > then_s else 0.0,
            ttft_s=tuple([ttft_s for _, ttft_s, _ in recent if ttft_s is not None]),
            e2e_s=tuple([e2e_s for _, _, e2e_s in recent]),
        )


def _answered(prompt: Prompt, outcome: Outcome) -> tuple[Message, ...]:
    """The history that the next prompt of the conversation comes after."""
    return (
        *prompt.history,
        Message(role="user", content=prompt.text),
        Message(role="assistant", content=outcome.answer),
    )


# ── closed ──────────────────────────────────────────────────────────────────────────────────────


class _Clients:
    """Clients that wait for their answers. They share what is left to send, and nothing else."""

    def __init__(
        self, sending: _Sending, clients: int, conversations: Iterator[Conversation], shards: int
    ) -> None:
        level, shard = sending.level, sending.shard
        self._sending = sending
        self._clients = clients
        self._numbers = range(shard, clients, shards)
        self._conversations = conversations
        self._think_s = level.think_time_s
        self._warm_until_s = sending.start_s + max(level.warmup_s, level.ramp_s)
        self._ends_s = math.inf
        self._warmups_left = _of_clients(level.warmup_requests, shard, shards, clients)
        self._left: float = math.inf
        if level.requests is not None:
            self._left = _of_clients(level.requests, shard, shards, clients)
        self._tasks: list[asyncio.Task[None]] = []

    async def hold(self) -> None:
        """Start the clients of this shard, over the ramp; end when all of them have."""
        ramp_s = self._sending.level.ramp_s
        async with asyncio.TaskGroup() as group:
            for number in self._numbers:
                begin_s = self._sending.start_s + ramp_s * number / self._clients
                self._tasks.append(group.create_task(self._client(begin_s)))

    async def _client(self, free_s: float) -> None:
        """Walk conversations until there is nothing more to send; free from `free_s` on."""
        await sleep_until(free_s)
        for conversation in self._conversations:
            history: tuple[Message, ...] = ()
            for turn in conversation.turns:
                phase = self._next_phase()
                if phase is None:
                    return
                prompt = replace(turn, history=history) if history else turn
                outcome = await self._sending.send(prompt, phase, free_s)
                free_s = outcome.end_s + self._think_s
                if outcome.failure is not None:
                    free_s += PAUSE_AFTER_FAILURE_S
                if self._is_over(free_s):
                    return
                await sleep_until(free_s)
                if outcome.failure is not None:
                    break
                if len(conversation.turns) > 1:
                    history = _answered(prompt, outcome)

    def _next_phase(self) -> Phase | None:
        """Take the next request to send; None when there is none."""
        sending, now_s = self._sending, clock()
        if sending.measured_from_s == math.inf:
            if self._warmups_left > 0 or now_s < self._warm_until_s:
                self._warmups_left -= 1
                return "warmup"
            sending.measured_from_s = now_s
            self._ends_s = now_s + (sending.level.duration_s or math.inf)
        if self._left == 0 or now_s >= self._ends_s:
            return "cooldown" if sending.goes_on(now_s) else None
        self._left -= 1
        return "measured"

    def _is_over(self, free_s: float) -> bool:
        """Whether there is nothing to send any more at `free_s`."""
        sent = self._left == 0 and self._sending.measured_from_s < math.inf
        if not (sent or free_s >= self._ends_s) or self._sending.goes_on(free_s):
            return False
        if self._sending.in_flight == 0 and (sent or clock() >= self._ends_s):
            for task in self._tasks:  # whoever is still thinking does so in vain
                task.cancel()
        return True


def _of_clients(requests: int, shard: int, shards: int, clients: int) -> int:
    """A shard's requests in proportion to its clients, who number every `shards`-th of `clients`.

    Request i is client i's, modulo the number of clients: so no shard is done long before others.
    """
    rounds, rest = divmod(requests, max(clients, 1))
    return rounds * share(clients, shard, shards) + share(rest, shard, shards)


# ── open ────────────────────────────────────────────────────────────────────────────────────────


async def _hold_open(
    sending: _Sending, coming: Iterator[tuple[float, Phase, Conversation]]
) -> None:
    """Start each conversation at its time, whatever became of others; end when all have ended."""
    burst = 0
    async with asyncio.TaskGroup() as group:
        for after_s, phase, conversation in coming:
            due_s = sending.start_s + after_s
            if phase == "cooldown" and not sending.goes_on(due_s):
                return
            if due_s > clock():
                await sleep_until(due_s)
                burst = 0
                if phase == "cooldown" and not sending.goes_on(due_s):
                    return
            elif (burst := burst + 1) % BURST == 0:
                await asyncio.sleep(0)
            if phase == "measured" and sending.measured_from_s == math.inf:
                sending.measured_from_s = due_s
            group.create_task(_converse(sending, conversation, phase, due_s))


async def _converse(
    sending: _Sending, conversation: Conversation, phase: Phase, due_s: float
) -> None:
    history: tuple[Message, ...] = ()
    for turn in conversation.turns:
        prompt = replace(turn, history=history) if history else turn
        await sleep_until(due_s)
        outcome = await sending.send(prompt, phase, due_s)
        if outcome.failure is not None:
            return
        due_s = outcome.end_s + sending.level.think_time_s
        if len(conversation.turns) > 1:
            history = _answered(prompt, outcome)


def arrivals(
    level: Level, conversations: Iterator[Conversation], *, shard: int = 0, shards: int = 1
) -> Iterator[tuple[float, Phase, Conversation]]:
    """When each conversation of this shard begins, in seconds from the start, and in which phase.

    `Level.requests` and `warmup_requests` count arrivals here; the later turns of a conversation
    come on top. Raises UsageError for a trace without times, InputError for a rate that is none.
    """
    warmups, requests = level.warmup_requests, level.requests
    kind = level.arrivals
    if kind == "trace":  # a shard knows only its own arrivals: count its share of them
        timed = _recorded(conversations)
        warmups = share(warmups, shard, shards)
        requests = None if requests is None else share(requests, shard, shards)
    else:
        process = Arrivals(kind=kind, rate_per_s=level.rate_per_s or 0.0, cv=level.cv)
        timed = _dealt(
            (_ramped_s(each, level.ramp_s) for each in arrival_times_s(process, seed=level.seed)),
            conversations,
            shard,
            shards,
        )
    begin_s = max(level.warmup_s, level.ramp_s)
    measured = 0
    for number, (after_s, conversation) in enumerate(timed):
        phase: Phase = "measured"
        if number < warmups or after_s < begin_s:
            phase = "warmup"
            begin_s = max(begin_s, after_s)
        elif measured == requests or after_s > begin_s + (level.duration_s or math.inf):
            if not level.cooldown:
                return
            phase = "cooldown"
        else:
            measured += 1
        if conversation is not None:
            yield after_s, phase, conversation


def _recorded(conversations: Iterator[Conversation]) -> Iterator[tuple[float, Conversation | None]]:
    for each in conversations:
        if each.arrival_s is None:
            raise UsageError("these prompts are no recording: they have no times.")
        yield each.arrival_s, each


def _dealt(
    times_s: Iterator[float], conversations: Iterator[Conversation], shard: int, shards: int
) -> Iterator[tuple[float, Conversation | None]]:
    """Every arrival of the one process of all shards; None for a conversation of another shard."""
    for number, time_s in enumerate(times_s):
        conversation = None
        if number % shards == shard:
            conversation = next(conversations, None)
            if conversation is None:
                return
        yield time_s, conversation


def _ramped_s(time_s: float, ramp_s: float) -> float:
    """When what comes at `time_s` of a steady load comes, if the rate first rises over `ramp_s`.

    A rate that rises from 0 to r over R has brought r t^2 / 2R requests by t, and r R / 2 by R.
    """
    if time_s < ramp_s / 2:
        return math.sqrt(2 * ramp_s * time_s)
    return time_s + ramp_s / 2
