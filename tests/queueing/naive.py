"""A fleet and requests -> what every request saw, one sequence and one block at a time.

The simulator that the fast kernel is held against. It works every step out anew from every running
sequence, keeps no sums from one step to the next, and asserts at each step that the pool and the
clock are whole. Nothing of the kernel is used: only the nouns and the step table.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from tonnage.performance import StepTable
from tonnage.queueing.simulation import (
    STATUSES,
    Clients,
    EngineModel,
    KvPool,
    Policy,
    Records,
    Requests,
    SimulatedFleet,
    Status,
)

TIE_S = 1e-9  # what lies no further apart happens at one time
SGLANG_RATIO, SGLANG_LEAST_RATIO, SGLANG_DECAY_STEPS = 0.7, 0.098, 600
SGLANG_CLIPPED_TOKENS = 4096  # of a prompt's own output, at admission
SGLANG_RETRACT_TOKENS = 20  # that each sequence left must have room for after a retraction

Identity: TypeAlias = tuple[int, int]  # an id of the trace, and which part of its block


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One request: what it asks for, where it stands and what came of it.

    Its prompt is computed when the cache holds `to_hold` tokens: the prompt, and after a preemption
    also what had been produced. `context` tokens are in the cache; they fill `units` of the pool,
    or `blocks` where there is a prefix cache.
    """

    prompt_tokens: int
    output_tokens: int
    assumed_tokens: int
    identities: list[Identity]
    to_hold: int
    client: int = -1
    context: int = 0
    produced: int = 0
    units: int = 0
    blocks: list[int] = field(default_factory=list)
    arrival_s: float = math.nan
    admitted_s: float = math.nan
    first_token_s: float = math.nan
    last_token_s: float = math.nan
    cached_tokens: int = -1
    replica: int = -1
    preemptions: int = 0
    status: Status = "unfinished"

    @property
    def decoding(self) -> bool:
        return self.context >= self.to_hold

    @property
    def left(self) -> int:
        """Prompt tokens to compute."""
        return self.to_hold - self.context

    @property
    def remaining(self) -> int:
        """Output tokens to produce."""
        return self.output_tokens - self.produced

    @property
    def most_tokens(self) -> int:
        """What its cache holds in its last step; the last token is never put there."""
        return self.prompt_tokens + self.output_tokens - 1


Scheduled: TypeAlias = list[tuple[Sequence, int]]  # who computes how many tokens in a step


def units_of(kv: KvPool, tokens: int) -> int:
    blocks = math.ceil(tokens / kv.block_tokens)
    if blocks == 0:
        return 0
    windowed = min(blocks, kv.window_blocks)
    return blocks * kv.block_units + windowed * kv.window_block_units + kv.sequence_units


class CountedPool:
    """A pool in which no content is told apart: a number of free units."""

    def __init__(self, kv: KvPool) -> None:
        self.kv = kv
        self.free = kv.units

    def found(self, sequence: Sequence) -> int:
        """Tokens in the cache for a sequence that is admitted now."""
        return sequence.assumed_tokens if sequence.preemptions == 0 else 0

    def needed(self, sequence: Sequence, tokens: int) -> int:
        """Units to take from the free ones before `sequence` holds `tokens`."""
        return units_of(self.kv, tokens) - sequence.units

    def take(self, sequence: Sequence, tokens: int) -> None:
        needed = self.needed(sequence, tokens)
        assert 0 <= needed <= self.free
        sequence.units += needed
        self.free -= needed

    def release(self, sequence: Sequence) -> None:
        self.free += sequence.units
        sequence.units = 0

    def check(self, running: list[Sequence]) -> None:
        assert self.free >= 0
        assert self.free + sum(s.units for s in running) == self.kv.units


class CachingPool:
    """A pool of numbered blocks, of which some hold a known part of a prompt.

    A block is in the queue of `free` ones, or `references` sequences hold it. It keeps its identity
    when it is freed, until it is taken for something else.
    """

    def __init__(self, kv: KvPool) -> None:
        assert (kv.block_units, kv.window_block_units, kv.sequence_units) == (1, 0, 0)
        self.kv = kv
        self.queue: OrderedDict[int, None] = OrderedDict.fromkeys(range(kv.units))
        self.references = [0] * kv.units
        self.identity: dict[int, Identity] = {}
        self.cached: dict[Identity, int] = {}

    @property
    def free(self) -> int:
        return len(self.queue)

    def hits(self, sequence: Sequence) -> list[int]:
        """The cached blocks that a sequence admitted now begins with; not all that it computes."""
        hits: list[int] = []
        for identity in sequence.identities[: (sequence.to_hold - 1) // self.kv.block_tokens]:
            if identity not in self.cached:
                break
            hits.append(self.cached[identity])
        return hits

    def found(self, sequence: Sequence) -> int:
        return len(self.hits(sequence)) * self.kv.block_tokens

    def needed(self, sequence: Sequence, tokens: int) -> int:
        blocks = math.ceil(tokens / self.kv.block_tokens)
        if sequence.blocks:
            return blocks - len(sequence.blocks)
        hits = self.hits(sequence)
        return blocks - len(hits) + sum(block in self.queue for block in hits)

    def take(self, sequence: Sequence, tokens: int) -> None:
        """Blocks for `tokens`: found ones first, then the least recently freed.

        Those that the tokens beyond `context` fill can be found from now on. A copy of one that can
        be found already never will be.
        """
        assert 0 <= self.needed(sequence, tokens) <= self.free
        if not sequence.blocks:
            sequence.blocks = self.hits(sequence)
            for block in sequence.blocks:
                self.references[block] += 1
                self.queue.pop(block, None)
        while len(sequence.blocks) * self.kv.block_tokens < tokens:
            block, _ = self.queue.popitem(last=False)
            if block in self.identity:
                del self.cached[self.identity.pop(block)]
            self.references[block] = 1
            sequence.blocks.append(block)
        filled = slice(sequence.context // self.kv.block_tokens, tokens // self.kv.block_tokens)
        for block, identity in zip(
            sequence.blocks[filled], sequence.identities[filled], strict=False
        ):
            if identity not in self.cached:
                self.cached[identity] = block
                self.identity[block] = identity

    def release(self, sequence: Sequence) -> None:
        for block in reversed(sequence.blocks):
            self.references[block] -= 1
            if self.references[block] == 0:
                self.queue[block] = None
        sequence.blocks = []

    def check(self, running: list[Sequence]) -> None:
        held = Counter(block for s in running for block in s.blocks)
        assert self.references == [held[block] for block in range(self.kv.units)]
        assert self.queue.keys() == set(range(self.kv.units)) - held.keys()
        assert self.cached == {identity: block for block, identity in self.identity.items()}


@dataclass(slots=True, kw_only=True)
class Counts:
    """What one replica counted: `running_s` is the time of its sequences in steps, added up."""

    steps: int = 0
    preemptions: int = 0
    peak_units: int = 0
    busy_s: float = 0.0
    running_s: float = 0.0
    prefix_hit_tokens: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Replica:
    """One engine: at work until `ends_s`, or about to begin a step at `begins_s`, or idle.

    `running` is in the order of admission. `ratio` is SGLang's guess of the share of their
    remaining tokens that the running sequences will produce.
    """

    engine: EngineModel
    pool: CountedPool | CachingPool
    running: list[Sequence] = field(default_factory=list)
    waiting: deque[Sequence] = field(default_factory=deque)
    scheduled: Scheduled = field(default_factory=list)
    ratio_start: float = SGLANG_RATIO
    ratio_steps: int = 0
    begins_s: float = math.inf
    ends_s: float = math.inf
    last_end_s: float = -math.inf
    counts: Counts = field(default_factory=Counts)

    @property
    def outstanding(self) -> int:
        return len(self.running) + len(self.waiting)

    @property
    def ratio(self) -> float:
        decay = (SGLANG_RATIO - SGLANG_LEAST_RATIO) / SGLANG_DECAY_STEPS
        return max(self.ratio_start - self.ratio_steps * decay, SGLANG_LEAST_RATIO)

    def fits(self, sequence: Sequence, tokens: int) -> bool:
        return self.pool.needed(sequence, tokens) <= self.pool.free

    def preempt_last(self) -> Sequence:
        """The last of running loses its blocks and is the next to be admitted, computed anew."""
        sequence = self.running[-1]
        self.preempt(sequence)
        self.waiting.appendleft(sequence)
        return sequence

    def preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pool.release(sequence)
        sequence.to_hold = sequence.prompt_tokens + sequence.produced
        sequence.context = 0
        sequence.preemptions += 1
        self.counts.preemptions += 1

    def schedule(self, sequence: Sequence, tokens: int) -> None:
        self.pool.take(sequence, sequence.context + tokens)
        self.scheduled.append((sequence, tokens))

    def admit_head(self, tokens: int) -> None:
        """The head of waiting runs, and computes `tokens` beyond those found."""
        head = self.waiting.popleft()
        head.context = self.pool.found(head)
        if head.preemptions == 0:
            head.cached_tokens = head.context
            head.admitted_s = self.begins_s
        if isinstance(self.pool, CachingPool):
            self.counts.prefix_hit_tokens += head.context
        self.running.append(head)
        self.schedule(head, tokens)

    def deliver(self, sequence: Sequence, now_s: float) -> None:
        self.waiting.append(sequence)
        if math.isinf(self.begins_s) and math.isinf(self.ends_s):
            idle = now_s > self.last_end_s + TIE_S
            self.begins_s = now_s if idle else self.last_end_s
            if idle:
                self.ratio_start, self.ratio_steps = SGLANG_RATIO, 0

    def begin_step(self) -> None:
        """What the policy schedules is worked on: something always is."""
        assert self.begins_s >= self.last_end_s
        self.scheduled = []
        POLICIES[self.engine.policy](self)
        self.pool.check(self.running)
        assert self.scheduled
        seconds = step_s(self.engine.table, self.scheduled)
        self.ends_s = self.begins_s + seconds
        self.counts.steps += 1
        self.counts.busy_s += seconds
        self.counts.running_s += seconds * len(self.running)
        used = self.engine.kv.units - self.pool.free
        self.counts.peak_units = max(self.counts.peak_units, used)
        self.begins_s = math.inf

    def end_step(self) -> list[Sequence]:
        """The sequences that finished."""
        now_s, self.ends_s = self.ends_s, math.inf
        finished = []
        for sequence, tokens in self.scheduled:
            sequence.context += tokens
            if not sequence.decoding:
                continue
            sequence.produced += 1
            assert sequence.context == sequence.prompt_tokens + sequence.produced - 1
            if sequence.produced == 1:
                sequence.first_token_s = now_s
            if sequence.remaining == 0:
                sequence.last_token_s = now_s
                sequence.status = "finished"
                finished.append(sequence)
        for sequence in [s for s in self.running if s in finished]:
            self.running.remove(sequence)
            self.pool.release(sequence)
        self.pool.check(self.running)
        self.last_end_s = now_s
        if self.outstanding:
            self.begins_s = now_s
        return finished


def step_s(table: StepTable, scheduled: Scheduled) -> float:
    """Seconds of a step, before any of `scheduled` has computed its tokens."""
    window = math.inf if table.window_tokens is None else table.window_tokens
    decoding = [s.context for s, _ in scheduled if s.decoding]
    chunks = [(s.context, tokens) for s, tokens in scheduled if not s.decoding]
    computed = len(decoding) + sum(tokens for _, tokens in chunks)
    emitting = sum(s.context + tokens >= s.to_hold for s, tokens in scheduled)
    seconds = np.interp(computed / table.stages, table.tokens, table.token_s) + np.interp(
        emitting / table.stages, table.tokens, table.sequence_s
    )
    reading = table.decoding_s * len(decoding) + table.kv_token_s * sum(decoding)
    if table.window_tokens is not None:
        reading += table.windowed_kv_token_s * sum(min(context, window) for context in decoding)
    for context, tokens in chunks:
        mean = context + tokens / 2
        reading += tokens * (
            mean * table.chunk_context_s + min(mean, window) * table.windowed_chunk_context_s
        )
    return float(seconds + reading / table.stages)


# ── policies: each fills `scheduled` of a replica that begins a step ────────────────────────────


def continue_running(replica: Replica) -> int | None:
    """Whoever runs goes on, at the cost of the last; the tokens left, None after a preemption."""
    budget = replica.engine.max_num_batched_tokens
    preempted: list[Sequence] = []
    for sequence in list(replica.running):
        if sequence in preempted:
            break
        tokens = 1 if sequence.decoding else min(sequence.left, budget)
        assert 1 <= tokens <= budget
        while sequence not in preempted and not replica.fits(sequence, sequence.context + tokens):
            preempted.append(replica.preempt_last())
        if sequence not in preempted:
            replica.schedule(sequence, tokens)
            budget -= tokens
    return None if preempted else budget


def head_chunk(replica: Replica, budget: int) -> int:
    """Tokens that the head of waiting would compute in a step with `budget` left; 0 is none."""
    if not replica.waiting or len(replica.running) >= replica.engine.max_num_seqs:
        return 0
    head = replica.waiting[0]
    left = head.to_hold - replica.pool.found(head)
    # what is computed anew may have outgrown a step, and is chunked all the same
    outgrown = head.preemptions > 0 and head.to_hold > replica.engine.max_num_batched_tokens
    if left > budget and not outgrown and not replica.engine.chunked_prefill:
        return 0
    return min(left, budget)


def run_then_admit(replica: Replica, may_enter: Callable[[Replica, Sequence, int], bool]) -> None:
    """Running sequences first, then the head of waiting while it may enter."""
    budget = continue_running(replica)
    if budget is None:
        return
    while chunk := head_chunk(replica, budget):
        if not may_enter(replica, replica.waiting[0], chunk):
            return
        replica.admit_head(chunk)
        budget -= chunk


def vllm(replica: Replica) -> None:
    def may_enter(replica: Replica, head: Sequence, chunk: int) -> bool:
        whole = replica.engine.whole_prompt_fits
        return replica.fits(head, head.to_hold if whole else replica.pool.found(head) + chunk)

    run_then_admit(replica, may_enter)


def trtllm_no_evict(replica: Replica) -> None:
    def may_enter(replica: Replica, head: Sequence, _chunk: int) -> bool:
        kv = replica.engine.kv
        reserved = sum(units_of(kv, s.most_tokens) for s in replica.running)
        return units_of(kv, head.most_tokens) <= kv.units - reserved

    run_then_admit(replica, may_enter)
    assert replica.counts.preemptions == 0


def trtllm_max_utilisation(replica: Replica) -> None:
    def may_enter(replica: Replica, head: Sequence, _chunk: int) -> bool:
        spare = replica.engine.kv.block_tokens if replica.running else 0
        return replica.fits(head, head.to_hold + spare)

    run_then_admit(replica, may_enter)


def sglang(replica: Replica) -> None:
    sglang_prefill(replica)
    if not replica.scheduled and any(s.decoding for s in replica.running):
        sglang_decode(replica)


def sglang_prefill(replica: Replica) -> None:
    """The prompt under way goes on, then others begin; nothing when that prompt does not fit."""
    budget = replica.engine.max_num_batched_tokens
    under_way = [s for s in replica.running if not s.decoding]
    assert under_way in ([], replica.running[-1:])
    for sequence in under_way:
        chunk = min(sequence.left, budget)
        if not replica.fits(sequence, sequence.context + chunk):
            assert len(replica.running) > 1, "one sequence alone always fits"
            return
        replica.schedule(sequence, chunk)
        budget -= chunk
    # A prompt that goes unfinished has used the whole budget: nobody is admitted after it.
    while (chunk := head_chunk(replica, budget)) and sglang_may_enter(replica):
        replica.admit_head(chunk)
        budget -= chunk


def sglang_may_enter(replica: Replica) -> bool:
    kv, head = replica.engine.kv, replica.waiting[0]
    needed = units_of(kv, head.to_hold)
    if replica.running:
        others = replica.ratio * sum(s.remaining for s in replica.running)
        own = min(head.remaining, SGLANG_CLIPPED_TOKENS)
        needed += math.ceil(others / kv.block_tokens) * kv.block_units
        needed += math.ceil(own / kv.block_tokens) * kv.block_units
    return needed <= replica.pool.free


def sglang_decode(replica: Replica) -> None:
    """Every decoding sequence gains a token; some go back to the queue's end where room is short.

    First the prompt under way, then those who produced least; of them, whose prompt is longest.
    """
    kv, pool, running = replica.engine.kv, replica.pool, replica.running

    def decoding() -> list[Sequence]:
        return [s for s in running if s.decoding]

    def fits() -> bool:
        return sum(pool.needed(s, s.context + 1) for s in decoding()) <= pool.free

    def spare() -> bool:
        asked = SGLANG_RETRACT_TOKENS * len(decoding()) * kv.block_units
        return pool.free >= math.ceil(asked / kv.block_tokens)

    replica.ratio_steps += 1
    if not fits():
        while len(running) > 1 and not (fits() and spare()):
            last = running[-1]
            if last.decoding:
                by_admission = reversed(running)
                last = min(by_admission, key=lambda s: (s.produced, -s.prompt_tokens))
            replica.preempt(last)
            replica.waiting.append(last)
        left = decoding()
        produced = sum(s.produced for s in left) + SGLANG_RETRACT_TOKENS * len(left)
        asked = sum(s.output_tokens for s in left) + 1
        replica.ratio_start, replica.ratio_steps = min(1.0, produced / asked), 0
    for sequence in decoding():
        replica.schedule(sequence, 1)


POLICIES: dict[Policy, Callable[[Replica], None]] = {
    "vllm": vllm,
    "trtllm-no-evict": trtllm_no_evict,
    "trtllm-max-utilisation": trtllm_max_utilisation,
    "sglang": sglang,
}


# ── the fleet and its load ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What came of each request, and what each replica counted."""

    records: Records
    counts: tuple[Counts, ...]


def simulate_naive(
    fleet: SimulatedFleet, requests: Requests, clients: Clients | None = None
) -> Seen:
    """Serve all of `requests`; at their arrivals, or as `clients` that think steadily send them."""
    engine = fleet.engine
    caching = engine.prefix_cache and requests.prefix_ids is not None
    assert fleet.router in ("round-robin", "least-outstanding")
    assert not fleet.outages
    assert fleet.autoscaler is None
    assert fleet.disaggregation is None
    assert engine.max_num_seqs <= engine.max_num_batched_tokens
    assert not caching or (engine.policy == "vllm" and requests.cached_tokens is None)
    assert clients is None or clients.steady_think or clients.think_time_s == 0

    pool = CachingPool if caching else CountedPool
    replicas = [Replica(engine=engine, pool=pool(engine.kv)) for _ in range(fleet.replicas)]
    sequences = [
        sequence_of(requests, row, engine, caching=caching) for row in range(len(requests))
    ]
    senders: list[tuple[float, int]]  # when each sends, and which client it is; a heap
    if clients is None:
        senders = [(arrival_s, -1) for arrival_s in requests.arrival_s.tolist()]
    else:
        senders = [(k * clients.spread_s / clients.count, k) for k in range(clients.count)]

    def over(sequence: Sequence, now_s: float) -> None:
        if clients is not None:
            heapq.heappush(senders, (now_s + clients.think_time_s, sequence.client))

    sent = 0
    while True:
        delivered_s = math.inf
        if senders and sent < len(sequences):
            delivered_s = senders[0][0] + engine.table.request_overhead_s
        ending = min(replicas, key=lambda r: r.ends_s)
        beginning = min(replicas, key=lambda r: r.begins_s)
        # At one time: what ends comes before what is delivered, and that before what begins.
        if ending.ends_s < math.inf and ending.ends_s <= (
            min(delivered_s, beginning.begins_s) + TIE_S
        ):
            now_s = ending.ends_s
            for sequence in ending.end_step():
                over(sequence, now_s)
        elif delivered_s < math.inf and delivered_s <= beginning.begins_s + TIE_S:
            sequence = sequences[sent]
            sequence.arrival_s, sequence.client = heapq.heappop(senders)
            chosen = sent % fleet.replicas
            if fleet.router == "least-outstanding":
                chosen = min(range(fleet.replicas), key=lambda n: replicas[n].outstanding)
            sent += 1
            if is_rejected(engine, sequence):
                sequence.status = "rejected"
                over(sequence, delivered_s)
            else:
                sequence.replica = chosen
                replicas[chosen].deliver(sequence, delivered_s)
        elif beginning.begins_s < math.inf:
            beginning.begin_step()
        else:
            return Seen(records=records_of(sequences), counts=tuple(r.counts for r in replicas))


def is_rejected(engine: EngineModel, sequence: Sequence) -> bool:
    computed = sequence.prompt_tokens - sequence.assumed_tokens
    tokens = sequence.prompt_tokens + sequence.output_tokens
    return (
        units_of(engine.kv, sequence.most_tokens) > engine.kv.units
        or (engine.max_context_tokens is not None and tokens > engine.max_context_tokens)
        or (not engine.chunked_prefill and computed > engine.max_num_batched_tokens)
    )


def sequence_of(requests: Requests, row: int, engine: EngineModel, *, caching: bool) -> Sequence:
    prompt = int(requests.prompt_tokens[row])
    cached = 0 if requests.cached_tokens is None else int(requests.cached_tokens[row])
    return Sequence(
        prompt_tokens=prompt,
        output_tokens=int(requests.output_tokens[row]),
        assumed_tokens=min(cached, prompt - 1),
        identities=identities_of(requests, row, engine.kv.block_tokens) if caching else [],
        to_hold=prompt,
    )


def identities_of(requests: Requests, row: int, block_tokens: int) -> list[Identity]:
    """What tells the leading blocks of a prompt apart: those full, and covered by the trace's."""
    assert requests.prefix_ids is not None
    assert requests.prefix_start is not None
    ids = requests.prefix_ids[requests.prefix_start[row] : requests.prefix_start[row + 1]].tolist()
    parts, rest = divmod(requests.prefix_block_tokens, block_tokens)
    assert rest == 0
    covered = min(int(requests.prompt_tokens[row]), len(ids) * requests.prefix_block_tokens)
    return [(ids[k // parts], k % parts) for k in range(covered // block_tokens)]


def records_of(sequences: list[Sequence]) -> Records:
    def seconds(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([getattr(s, name) for s in sequences], dtype=np.float64)

    def numbers(name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([getattr(s, name) for s in sequences], dtype=np.int64)

    return Records(
        arrival_s=seconds("arrival_s"),
        prompt_tokens=numbers("prompt_tokens"),
        output_tokens=numbers("output_tokens"),
        cached_tokens=numbers("cached_tokens"),
        admitted_s=seconds("admitted_s"),
        first_token_s=seconds("first_token_s"),
        last_token_s=seconds("last_token_s"),
        replica=numbers("replica"),
        preemptions=numbers("preemptions"),
        status=np.array([STATUSES.index(s.status) for s in sequences], dtype=np.int64),
    )
