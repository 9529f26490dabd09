"""Fleet × requests -> the world the kernel works on, and the world after -> records.

A world has one shape in two makes: objects in lists for the plain kernel, records in arrays for the
compiled one. `_REQUEST`, `_REPLICA`, `_ENGINE` and `_CLOCK` name every field of both.
"""

from __future__ import annotations

from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tonnage.queueing.simulation import (
    POLICIES,
    ROUTERS,
    STATUSES,
    Clients,
    EngineModel,
    Records,
    SimulatedFleet,
    Totals,
)
from tonnage.queueing.simulation import kernel as plain_kernel
from tonnage.queueing.simulation.collector import without_collector
from tonnage.queueing.simulation.heaps import NO_STEP
from tonnage.queueing.simulation.turns import Turns, push_events
from tonnage.traffic.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tonnage.traffic import Requests

_THINK_TIMES = 1 << 16  # drawn once, then gone through again
_NEVER_S = -1e300

_REQUEST = {
    "arrival_s": "f8",
    "admitted_s": "f8",
    "first_s": "f8",
    "last_s": "f8",
    "joined": "i4",  # the replica's step number when it began to decode
    "finish_step": "i4",
    "reserved": "i8",  # KV units it may take in the end
    "prompt": "i4",
    "output": "i4",
    "assumed": "i4",  # prompt tokens taken for cached
    "cached": "i4",  # prompt tokens that were not computed
    "need": "i4",  # tokens in the cache when its prompt, or all it lost, is computed
    "have": "i4",  # of these, so far
    "produced": "i4",  # output tokens when it began to decode
    "before": "i4",
    "after": "i4",
    "chain": "i4",  # the next of those that end with this step
    "order": "i4",  # which admission of the replica it was
    "client": "i4",
    "preemptions": "i4",
    "replica": "i4",
    "state": "i1",
    "growing": "i1",  # its context is shorter than the window
    "handed_over": "i1",
    "too_large": "i1",  # for any replica, even empty
}
_PREFIX = {  # of a request, where there is a prefix cache
    "start": "i4",  # where its pieces begin
    "identities": "i4",  # leading prompt blocks that can be shared
    "nodes": "i4",  # of the cache that it holds
    "shared": "i4",  # blocks of its own that are shared
    "covered": "i4",  # identities up to which its prompt is scheduled
    "node": "i4",  # the piece that `covered` has come to
    "node_start": "i4",  # identities before that one
}
_REQUEST_START = {"admitted_s": -1.0, "first_s": -1.0, "last_s": -1.0, "replica": -1}

_REPLICA = {
    "clock": "f8",  # when its next step begins
    "busy_s": "f8",
    "prompt_s": "f8",  # of the step being planned: attention of its chunks
    "ratio": "f8",  # SGLang: of the output allowed that was expected `ratio_steps` ago
    **dict.fromkeys(
        (
            "index",
            "engine",
            "taking",
            "starting",
            "failed",
            "outstanding",
            "just_ended",  # by its last step, which may not be over yet when others look
            "just_freed",  # KV units, likewise
            "ratio_steps",
            "step",  # decode steps so far
            "steps",
            "running",
            "waiting",
            "decoding",
            "growing",
            "run_tail",
            "wait_head",
            "wait_tail",
            "prompting",  # the request whose prompt is under way
            "kv_tokens",
            "window_kv_tokens",
            "output_left",
            "output_sum",
            "reserved",
            "pool",
            "free",
            "least_free",
            "prompt_tokens",
            "ending",
            "chain",
            "chain_end",
            "admissions",
            "blocked",
            "blocked_by_seqs",
            "blocked_by_tokens",
            "blocked_by_kv",
            "preemptions",
            "hit_tokens",
            "change",  # the step after which something ends, or might
            "entries",
            "heap_room",
            "steps_at",
            "crossing_at",
            "growing_at",  # as crossing_at, for those within their window
            "node_at",
            "spare_at",
            "spare_head",  # nodes for private blocks: those given back, then those never used
            "spare_next",
            "spare_end",
            "queue_head",
            "queue_tail",
            "untouched",  # free units that never held anything
            "listed",  # units untouched or in the queue: free, or taken and yet to be evicted
            "found",
            "found_nodes",
            "found_queued",
        ),
        "i8",
    ),
}
_REPLICA_START = dict.fromkeys(
    (
        "run_tail",
        "wait_head",
        "wait_tail",
        "prompting",
        "chain",
        "spare_head",
        "queue_head",
        "queue_tail",
    ),
    -1,
) | {"clock": -1.0, "change": NO_STEP}

_ENGINE = {
    "kv_token_s": "f8",
    "window_kv_token_s": "f8",
    "chunk_context_s": "f8",
    "window_chunk_context_s": "f8",
    "decoding_s": "f8",
    **dict.fromkeys(
        (
            "policy",
            "max_num_seqs",
            "max_num_batched_tokens",
            "chunked_prefill",
            "whole_prompt_fits",
            "prefix_cache",
            "hands_over",
            "window_tokens",
            "pool",
            "block_tokens",
            "block_units",
            "window_units",
            "window_blocks",
            "sequence_units",
            "token_at",
            "sequence_at",
        ),
        "i8",
    ),
}

_CLOCK = {
    "overhead_s": "f8",
    "transfer_latency_s": "f8",
    "transfer_token_s": "f8",
    "router_lag_s": "f8",
    "overlap_weight": "f8",
    "now_s": "f8",
    "second_s": "f8",
    **dict.fromkeys(
        (
            "requests",
            "next",
            "over",
            "clients",
            "thoughts",
            "think_times",
            "chance_at",
            "replicas",
            "decoders",
            "router",
            "turn",
            "chances",
            "kept",  # requests that no replica took, the first and the last of them
            "kept_last",
            "feedback",  # answers cause arrivals: replicas must go on together
            "watched",  # every replica must stand where the router looks at it
            "events",
            "stuck",
        ),
        "i8",
    ),
}


_NODE = {
    "stored_s": "f8",
    "evicted_s": "f8",
    "before": "i4",
    "after": "i4",
    "count": "i4",  # leading blocks of a prefix block that are cached; units, of private blocks
    "references": "i4",
    "queued": "i1",  # in the free queue
}
_NODE_START = {"stored_s": 1e300, "evicted_s": -1e300, "before": -1, "after": -1}

_EVENT = {"at_s": "f8", "kind": "i8", "subject": "i8"}


class World(NamedTuple):
    """What the kernel works on; see the tables of fields for what each record holds.

    Few arrays, as every function of the compiled kernel is handed all of them.
    """

    request: Any
    replica: Any
    engine: Any
    clock: Any
    node: Any
    events: Any
    table_s: Any  # per engine, step times by tokens and by sequences
    crossing: Any  # per replica and step modulo block: sequences that fill their last block
    steps: Any  # per replica, a heap of steps after which something ends
    draws: Any  # think times, then choices of the random router
    prefix: Any
    pieces: Any  # of the prefixes of all requests, one after the other
    piece_blocks: Any  # how many blocks each distinct piece has


class Simulation:
    """A fleet at work: `step` moves it forward, `records` and `totals` say what came of it so far.

    Plain unless `compiled`. Closed loops need all their requests from the start; so do open loads
    here, arrivals beyond the time stepped to being simply not yet seen.
    """

    def __init__(
        self,
        fleet: SimulatedFleet,
        requests: Requests,
        clients: Clients | None = None,
        *,
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        self.fleet, self.requests, self.clients = fleet, requests, clients
        self._kernel: Any = plain_kernel
        if compiled:
            from tonnage.queueing.simulation.compiled import (  # noqa: PLC0415 — numba
                compiled_kernel,
                prepare,
            )

            self._kernel = compiled_kernel()
        self._compiled = compiled
        with without_collector():
            self.world = _build(fleet, requests, clients, seed=seed, compiled=compiled)
        if compiled:
            prepare(self._kernel, self.world)
        self._turns = Turns(fleet, self.world)
        if clients is not None:
            overhead_s = fleet.engine.table.request_overhead_s
            first_s = [
                clients.spread_s * client / clients.count + overhead_s
                for client in range(min(clients.count, len(requests)))
            ]
            push_events(
                self.world,
                [(at_s, plain_kernel.SENT, client) for client, at_s in enumerate(first_s)],
            )

    @property
    def done(self) -> bool:
        """Whether every request is finished, rejected or lost."""
        return bool(self.world.clock[0].over >= len(self.requests))

    @property
    def stranded(self) -> bool:
        """Whether requests are left that no replica will ever serve: all have failed for good."""
        idle = all(r.running + r.waiting == 0 for r in self.world.replica)
        return idle and self.world.clock[0].kept >= 0 and not self._turns.to_come

    def step(self, until_s: float) -> None:
        """Everything that happens before `until_s`."""
        while self._turns.next_s < until_s and not self.done and not self.stranded:
            self._run(self._turns.next_s)
            self._turns.take()
        self._run(until_s)

    def _run(self, until_s: float) -> None:
        self._kernel.run(self.world, until_s)
        if self.world.clock[0].stuck:
            msg = "the engine has work and schedules none of it"
            raise AssertionError(msg)

    def records(self) -> Records:
        """One row a request."""
        column, requests = self._column, self.requests
        state = column("state")
        status = np.full(len(state), STATUSES.index("unfinished"), dtype=np.int8)
        status[state == plain_kernel.FINISHED] = STATUSES.index("finished")
        status[state == plain_kernel.REJECTED] = STATUSES.index("rejected")
        status[state == plain_kernel.LOST] = STATUSES.index("lost")

        def known(name: str) -> NDArray[np.float64]:
            seconds = np.array(column(name))
            seconds[seconds < 0] = np.nan
            return seconds

        arrival_s = requests.arrival_s
        if self.clients is not None:
            arrival_s = np.where(state == plain_kernel.UNSENT, np.nan, column("arrival_s"))
        return Records(
            arrival_s=arrival_s,
            prompt_tokens=requests.prompt_tokens,
            output_tokens=requests.output_tokens,
            cached_tokens=np.array(column("cached")),
            admitted_s=known("admitted_s"),
            first_token_s=known("first_s"),
            last_token_s=known("last_s"),
            replica=np.array(column("replica")),
            preemptions=np.array(column("preemptions")),
            status=status,
        )

    def totals(self) -> tuple[Totals, ...]:
        """What each replica counted, decoding ones last."""
        return tuple(
            Totals(
                steps=int(r.steps),
                preemptions=int(r.preemptions),
                kv_peak_fraction=float(1 - r.least_free / r.pool) if r.pool else 0.0,
                busy_s=float(r.busy_s),
                blocked_by_seqs=int(r.blocked_by_seqs),
                blocked_by_tokens=int(r.blocked_by_tokens),
                blocked_by_kv=int(r.blocked_by_kv),
                prefix_hit_tokens=int(r.hit_tokens),
            )
            for r in (self.world.replica[i] for i in range(len(self.world.replica)))
        )

    def _column(self, name: str) -> NDArray[Any]:
        if self._compiled:
            return np.asarray(self.world.request[name])
        rows = self.world.request
        return np.fromiter(map(attrgetter(name), rows), dtype=_REQUEST[name], count=len(rows))


class _Lazy(dict[int, Any]):
    """Plain records that are made when first looked at: few of the nodes ever are."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: int) -> Any:  # noqa: ANN401 — a plain record
        record = self[key] = self._make()
        return record


def _record(
    fields: dict[str, str], special: dict[str, Any], told: tuple[str, ...] = ()
) -> Callable[..., Any]:
    """A class of plain records with these fields, that is called with those `told`.

    Slots, set one by one in an `__init__` written out: both are twice as fast as any other way,
    and records are made for every request.
    """
    start = {name: 0.0 if kind == "f8" else 0 for name, kind in fields.items()} | special
    lines = [f"    self.{name} = {name if name in told else repr(start[name])}" for name in fields]
    source = f"def __init__(self, {', '.join(told)}):\n" + "\n".join(lines)
    methods: dict[str, Any] = {}
    exec(source, methods)  # noqa: S102 — names of our own fields
    return type("Record", (), {"__slots__": tuple(fields), "__init__": methods["__init__"]})


def _array(fields: dict[str, str], special: dict[str, Any], count: int) -> Any:  # noqa: ANN401 — an array of records
    rows = np.zeros(count, dtype=np.dtype(list(fields.items()))).view(np.recarray)
    for name, value in special.items():
        rows[name] = value
    return rows


def _build(
    fleet: SimulatedFleet,
    requests: Requests,
    clients: Clients | None,
    *,
    seed: int,
    compiled: bool,
) -> Any:  # noqa: ANN401 — either make
    n = len(requests)
    split = fleet.disaggregation
    models = [fleet.engine, *([split.engine] if split else [])]
    many = fleet.replicas + (split.replicas if split else 0)

    def rows(fields: dict[str, str], count: int, special: dict[str, Any] | None = None) -> Any:  # noqa: ANN401 — either make
        if compiled:
            return _array(fields, special or {}, count)
        make = _record(fields, special or {})
        return [make() for _ in range(count)]

    engines, replicas, clocks = (
        rows(_ENGINE, len(models)),
        rows(_REPLICA, many, _REPLICA_START),
        rows(_CLOCK, 1),
    )
    prefixes = _prefixes(requests, models[0].kv.block_tokens)
    distinct = len(prefixes.blocks)
    table_s = _set_engines(engines, models, caching=distinct > 0)
    if split is not None:
        engines[0].hands_over = 1
    steps = crossings = nodes = 0
    for index in range(many):
        replica, engine = replicas[index], engines[int(index >= fleet.replicas)]
        replica.index, replica.engine = index, int(index >= fleet.replicas)
        replica.taking = 1
        replica.pool = replica.free = replica.least_free = engine.pool
        replica.listed = replica.untouched = engine.pool
        replica.ratio = plain_kernel.SGLANG_RATIO
        replica.heap_room = 4 * engine.max_num_seqs + 16
        replica.steps_at, replica.crossing_at = steps, crossings
        replica.growing_at = crossings + engine.block_tokens
        steps += replica.heap_room
        crossings += 2 * engine.block_tokens
        if engine.prefix_cache:
            replica.node_at = nodes
            replica.spare_at = replica.spare_next = nodes + distinct
            nodes += distinct + min(engine.pool // engine.block_units + 2, 2 * n + 2)
            replica.spare_end = nodes
    clock = clocks[0]
    _set_clock(clock, fleet, requests, clients)
    think_s, chance = _draws(fleet, clients, n, seed)
    clock.think_times = clock.chance_at = len(think_s)
    clock.chances = len(chance)
    numbers = {
        "table_s": table_s,
        "crossing": np.zeros(crossings, dtype=np.int64),
        "draws": np.concatenate([think_s + models[0].table.request_overhead_s, chance]),
        "pieces": np.append(prefixes.ids, 0),
        "piece_blocks": np.append(prefixes.blocks, 0),
    }
    columns: dict[str, NDArray[Any]] = {
        "arrival_s": requests.arrival_s,
        "prompt": requests.prompt_tokens,
        "output": requests.output_tokens,
    }
    if requests.cached_tokens is not None:
        columns["assumed"] = np.minimum(requests.cached_tokens, requests.prompt_tokens - 1)
    columns["too_large"], columns["reserved"] = _fitting(requests, models)
    shares = {"start": prefixes.start, "identities": prefixes.identities}
    shared = {"replica": replicas, "engine": engines, "clock": clocks}
    if compiled:
        request = _array(_REQUEST, _REQUEST_START, n)
        prefix = _array(_PREFIX, {}, max(len(prefixes.start), 1))
        for name, values in columns.items():
            request[name] = values
        for name, values in shares.items():
            prefix[name][: len(values)] = values
        room = 1 + (clients.count if clients else 0) + (n if split else 0)
        return World(
            request=request,
            prefix=prefix,
            node=_array(_NODE, _NODE_START, max(nodes, 1)),
            events=_array(_EVENT, {}, room),
            steps=np.zeros(steps, dtype=np.int64),
            **shared,
            **numbers,
        )
    record = _record(_REQUEST, _REQUEST_START, told=tuple(columns))
    share = _record(_PREFIX, {}, told=tuple(shares))
    return SimpleNamespace(
        request=list(map(record, *(values.tolist() for values in columns.values()))),
        prefix=list(map(share, *(values.tolist() for values in shares.values()))),
        node=_Lazy(_record(_NODE, _NODE_START)),
        events=[],
        steps=[[] for _ in range(many)],
        **shared,
        **{name: values.tolist() for name, values in numbers.items()},
    )


def _set_engines(
    engines: Any,  # noqa: ANN401 — either make
    models: list[EngineModel],
    *,
    caching: bool,
) -> NDArray[np.float64]:
    """Fill the engines' records; step times by whole tokens and sequences, one after the other."""
    tables: list[NDArray[np.float64]] = []
    for engine, model in zip(engines, models, strict=True):
        _set_engine(engine, model)
        engine.prefix_cache = int(model.prefix_cache and caching)
        for place, column, most in (
            ("token_at", model.table.token_s, model.max_num_batched_tokens),
            ("sequence_at", model.table.sequence_s, model.max_num_seqs),
        ):
            setattr(engine, place, sum(map(len, tables)))
            work = np.arange(most + 1) / model.table.stages
            tables.append(np.interp(work, model.table.tokens, column))
    return np.concatenate(tables)


def _draws(
    fleet: SimulatedFleet, clients: Clients | None, requests: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Think times, and choices of the random router between 0 and 1."""
    think_s = np.zeros(1)
    if clients is not None and clients.think_time_s > 0:
        think_s = np.full(1, clients.think_time_s)
        if not clients.steady_think:
            draw = np.random.default_rng(stream(seed, "think-times"))
            think_s = draw.exponential(clients.think_time_s, min(_THINK_TIMES, requests))
    chance = np.zeros(1)
    if fleet.router == "random":
        chance = routing_draws(requests, seed)
    return think_s, chance


def routing_draws(requests: int, seed: int) -> NDArray[np.float64]:
    """Between 0 and 1 for each request: which of its replicas the random router takes."""
    return np.random.default_rng(stream(seed, "routing")).random(requests)


def _fitting(
    requests: Requests, models: list[EngineModel]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which requests not even an empty replica could serve, and the KV units each comes to take.

    The last output token is never put in the cache.
    """
    prompt, output = requests.prompt_tokens, requests.output_tokens
    left = prompt if requests.cached_tokens is None else prompt - requests.cached_tokens
    units = np.zeros(len(requests), dtype=np.int64)
    too_large = np.zeros(len(requests), dtype=bool)
    for number, model in enumerate(models):
        alone = number == len(models) - 1  # a replica that only prompts run on holds no output
        units = model.kv.units_of(prompt + output - 1 if alone else prompt)
        too_large |= units > model.kv.units
        if model.max_context_tokens:
            too_large |= prompt + output > model.max_context_tokens
        if not model.chunked_prefill:
            too_large |= left > model.max_num_batched_tokens
    return too_large, units


class _Prefixes(NamedTuple):
    """What requests share of their prompts, as columns of nodes that are cached and freed whole."""

    ids: NDArray[np.int64]  # of the nodes that each prompt begins with, one prompt after the other
    start: NDArray[np.int64]  # where each prompt's begin
    identities: NDArray[np.int64]  # blocks of each prompt that can be shared
    blocks: NDArray[np.int64]  # of each node


def _prefixes(requests: Requests, block_tokens: int) -> _Prefixes:
    """A node for each id of the trace; two where a prompt ends with the block's last token.

    Such a prompt, found in the cache, must compute its last block anew, and does not hold the
    cached one: that block is then a node of its own.
    """
    nothing = np.zeros(0, dtype=np.int64)
    if requests.prefix_ids is None or requests.prefix_start is None or not len(requests.prefix_ids):
        return _Prefixes(nothing, nothing, nothing, nothing)
    ids = _chained(requests.prefix_ids, requests.prefix_start)
    counts = np.diff(requests.prefix_start)
    per_id = requests.prefix_block_tokens // block_tokens
    known = np.minimum(requests.prompt_tokens, counts * requests.prefix_block_tokens)
    identities = known // block_tokens
    place = np.arange(len(ids)) - np.repeat(requests.prefix_start[:-1], counts)
    here = np.clip(np.repeat(identities, counts) - place * per_id, 0, per_id)
    blocks = np.zeros(int(ids.max()) + 1, dtype=np.int64)
    np.maximum.at(blocks, ids, here)
    ends = (counts > 0) & (identities * block_tokens == requests.prompt_tokens)
    last = requests.prefix_start[1:][ends] - 1
    split = np.zeros(len(blocks), dtype=bool)
    split[ids[last]] = True
    split &= blocks > 1
    # numbers anew: an id's first node, then the node of its last block where it has one
    first = np.arange(len(blocks)) + np.cumsum(split) - split
    nodes = np.zeros(len(blocks) + int(split.sum()), dtype=np.int64)
    nodes[first] = blocks - split
    nodes[first[split] + 1] = 1
    repeats = 1 + split[ids]
    expanded = np.repeat(first[ids], repeats)
    expanded[np.cumsum(repeats)[repeats == 2] - 1] += 1  # noqa: PLR2004 — two nodes
    ends_at = np.concatenate([[0], np.cumsum(repeats)])
    return _Prefixes(expanded, ends_at[requests.prefix_start[:-1]], identities, nodes)


def _chained(ids: NDArray[np.int64], start: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the same blocks after the same blocks: what an engine can share.

    Recordings that number blocks by all that came before them, as Mooncake's, stay as they are.
    """
    before = np.concatenate([[-1], ids[:-1]])
    before[start[:-1][start[:-1] < len(ids)]] = -1
    last = np.full(int(ids.max()) + 1, -2)
    last[ids] = before
    if (last[ids] == before).all():
        return ids
    numbers: dict[tuple[int, int], int] = {}
    chained = np.empty_like(ids)
    for row in range(len(start) - 1):
        parent = -1
        for place in range(start[row], start[row + 1]):
            parent = numbers.setdefault((parent, int(ids[place])), len(numbers))
            chained[place] = parent
    return chained


def _set_engine(engine: Any, model: EngineModel) -> None:  # noqa: ANN401 — either make
    table, kv = model.table, model.kv
    engine.policy = POLICIES.index(model.policy)
    engine.max_num_seqs = min(model.max_num_seqs, model.max_num_batched_tokens)
    engine.max_num_batched_tokens = model.max_num_batched_tokens
    engine.chunked_prefill = int(model.chunked_prefill)
    engine.whole_prompt_fits = int(model.whole_prompt_fits)
    engine.prefix_cache = int(model.prefix_cache)
    engine.window_tokens = table.window_tokens or 0
    engine.pool = kv.units
    engine.block_tokens = kv.block_tokens
    engine.block_units = kv.block_units
    engine.window_units = kv.window_block_units
    engine.window_blocks = kv.window_blocks
    engine.sequence_units = kv.sequence_units
    engine.kv_token_s = table.kv_token_s / table.stages
    engine.window_kv_token_s = table.windowed_kv_token_s / table.stages
    engine.chunk_context_s = table.chunk_context_s / table.stages
    engine.window_chunk_context_s = table.windowed_chunk_context_s / table.stages
    engine.decoding_s = table.decoding_s / table.stages


def _set_clock(
    clock: Any,  # noqa: ANN401 — either make
    fleet: SimulatedFleet,
    requests: Requests,
    clients: Clients | None,
) -> None:
    clock.requests = len(requests)
    clock.overhead_s = fleet.engine.table.request_overhead_s
    clock.clients = clients.count if clients else 0
    clock.replicas = fleet.replicas
    clock.router = ROUTERS.index(fleet.router)
    clock.router_lag_s = fleet.router_lag_s
    clock.overlap_weight = fleet.overlap_weight
    clock.kept = clock.kept_last = -1
    clock.feedback = int(clients is not None or fleet.disaggregation is not None)
    clock.watched = int(
        fleet.router in {"least-outstanding", "kv-aware"}
        or bool(fleet.outages)
        or fleet.autoscaler is not None
    )
    if fleet.disaggregation is not None:
        clock.decoders = fleet.disaggregation.replicas
        clock.transfer_latency_s = fleet.disaggregation.latency_s
        clock.transfer_token_s = fleet.disaggregation.token_s
