"""World -> world later: a fleet of serving engines, moved forward in time.

One source, run two ways. Plain, `world.request[q]` is an object in a list; compiled
(`compiled.py`), it is a record in an array, and the heaps of `heaps` are replaced by arrays. So
nothing here allocates, and no value is anything but a number.

The work per step does not grow with the batch. All decoding sequences gain one token in every step,
so their contexts together are one sum, the step at which each ends is known when it joins (a heap),
and how many need a new block in step s is a count by `s modulo block`. Stretches of steps in which
nothing begins or ends are taken in one leap: their times are an arithmetic series.

Invariants (each has its law in the tests):
1. `free` + units held = pool, on every replica, always.
2. At most one running sequence has an unfinished prompt, and it is the last of the running list.
3. A replica's clock never goes back; a step sees what was delivered up to its beginning.
4. arrived = finished + rejected + lost + waiting + running + in transfer.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from tonnage.queueing.simulation.heaps import (
    STEP_SHIFT,
    called_once,
    compilable,
    event_pop,
    event_push,
    event_time_s,
    heap_due,
    heap_push,
)

# either make of each: see `world`
World: TypeAlias = Any
Replica: TypeAlias = Any
Engine: TypeAlias = Any
Request: TypeAlias = Any

TIE_S = 1e-9  # a request delivered this little after a step began is still seen by it
NONE = -1
FOREVER_S = 1e300

VLLM, TRTLLM_NO_EVICT, TRTLLM_MAX_UTILISATION, SGLANG = 0, 1, 2, 3
ROUND_ROBIN, RANDOM, LEAST_OUTSTANDING, KV_AWARE = 0, 1, 2, 3
UNSENT, WAITING, PROMPTING, DECODING, TRANSFERRING, FINISHED, REJECTED, LOST = range(8)
SENT, TRANSFERRED = 0, 1  # kinds of events
FIRST, LAST = 0, 1  # where in the queue a preempted request waits
REFUSED = -2  # where a request goes that no empty replica could ever serve

FINISH = 1 << 32  # in a replica's heap of steps: an answer ends, not a window fills
REQUEST_MASK = FINISH - 1

# SGLang 0.5: what a running sequence is expected to produce still, as a share of what it may
SGLANG_RATIO, SGLANG_LEAST_RATIO = 0.7, 0.098
SGLANG_RATIO_DECAY = (SGLANG_RATIO - SGLANG_LEAST_RATIO) / 600  # per decode step
SGLANG_OUTPUT_CLIP = 4096  # of a new sequence's own output, when it is admitted
SGLANG_RETRACT_STEPS = 20  # steps for which a retraction makes room


# ── KV cache ────────────────────────────────────────────────────────────────────────────────────


@compilable
def units_of(engine: Engine, tokens: int) -> int:
    """KV units of one sequence with `tokens` cached."""
    blocks = (tokens + engine.block_tokens - 1) // engine.block_tokens
    units = blocks * engine.block_units
    if engine.window_units:
        units += min(blocks, engine.window_blocks) * engine.window_units
    return units + engine.sequence_units


@called_once
def growth_units(world: World, replica: Replica, engine: Engine, first: int, steps: int) -> int:
    """KV units that the decoding sequences take in `steps` steps from step number `first`."""
    block = engine.block_tokens
    rounds = steps // block
    rest = steps - rounds * block
    crossings = rounds * replica.decoding
    growing = rounds * replica.growing
    for step in range(first, first + rest):
        crossings += world.crossing[replica.crossing_at + step % block]
        if engine.window_units:
            growing += world.crossing[replica.growing_at + step % block]
    return crossings * engine.block_units + growing * engine.window_units


@compilable
def next_units(world: World, replica: Replica, engine: Engine) -> int:
    """KV units that the decoding sequences take in the next step."""
    place = replica.step % engine.block_tokens
    units = world.crossing[replica.crossing_at + place] * engine.block_units
    if engine.window_units:
        units += world.crossing[replica.growing_at + place] * engine.window_units
    return units


# ── the prefix cache: nodes of cached blocks, least recently freed first ───────────────────────


@compilable
def queue_node(world: World, replica: Replica, node: int) -> None:
    """Put a node whose last reference is gone at the end of the free queue."""
    last = replica.queue_tail
    world.node[node].before = last
    world.node[node].after = NONE
    if last == NONE:
        replica.queue_head = node
    else:
        world.node[last].after = node
    replica.queue_tail = node
    world.node[node].queued = 1


@compilable
def unqueue_node(world: World, replica: Replica, node: int) -> None:
    """Take a node out of the free queue, wherever it stands."""
    before = world.node[node].before
    after = world.node[node].after
    if before == NONE:
        replica.queue_head = after
    else:
        world.node[before].after = after
    if after == NONE:
        replica.queue_tail = before
    else:
        world.node[after].before = before
    world.node[node].queued = 0


@compilable
def evict_due(world: World, replica: Replica, engine: Engine) -> None:
    """Make good for the units taken since: untouched ones first, then the head of the queue."""
    due = replica.listed - replica.free
    fresh = min(due, replica.untouched)
    replica.untouched -= fresh
    due -= fresh
    while due > 0 and replica.queue_head != NONE:
        node = replica.queue_head
        if node >= replica.spare_at:  # blocks nobody can hit, in units
            units = min(due, world.node[node].count)
            world.node[node].count -= units
            due -= units
        else:
            blocks = -(-due // engine.block_units)
            blocks = min(blocks, world.node[node].count)
            world.node[node].count -= blocks
            due -= blocks * engine.block_units
            world.node[node].evicted_s = replica.clock
        if world.node[node].count == 0:
            unqueue_node(world, replica, node)
            if node >= replica.spare_at:
                world.node[node].after = replica.spare_head
                replica.spare_head = node
    replica.listed = replica.free + due


@compilable
def look_up(world: World, replica: Replica, engine: Engine, q: int) -> None:
    """Find the leading blocks of request `q` in the cache; the result is left on the replica.

    `found` blocks lie in `found_nodes` nodes, `found_queued` units of them in the free queue. A
    prompt is never found whole: its last token must be computed.
    """
    evict_due(world, replica, engine)
    prefix = world.prefix[q]
    most = (world.request[q].need - 1) // engine.block_tokens
    found = 0
    nodes = 0
    queued = 0
    while found < prefix.identities:
        piece = world.pieces[prefix.start + nodes]
        node = world.node[replica.node_at + piece]
        whole = min(world.piece_blocks[piece], prefix.identities - found)
        here = min(node.count, whole)
        if here == 0 or found + here > most:
            break
        nodes += 1
        found += here
        if node.queued:
            queued += node.count * engine.block_units
        if here < whole:
            break
    replica.found = found
    replica.found_nodes = nodes
    replica.found_queued = queued


@called_once
def hold_found(world: World, replica: Replica, q: int) -> None:
    """Reference the nodes that the last look-up found."""
    prefix = world.prefix[q]
    start = 0
    whole = 0
    for index in range(replica.found_nodes):
        start += whole
        piece = world.pieces[prefix.start + index]
        whole = world.piece_blocks[piece]
        node = replica.node_at + piece
        if world.node[node].queued:
            unqueue_node(world, replica, node)
        world.node[node].references += 1
    replica.free -= replica.found_queued
    replica.listed -= replica.found_queued
    prefix.nodes = replica.found_nodes
    prefix.shared = replica.found
    prefix.covered = replica.found
    prefix.node = replica.found_nodes
    prefix.node_start = replica.found
    if replica.found < start + whole:  # the last of them is cached in part
        prefix.node -= 1
        prefix.node_start = start


@called_once
def cache_computed(world: World, replica: Replica, engine: Engine, q: int) -> None:
    """The prompt blocks of request `q` that are scheduled by now can be hit from now on.

    Blocks that are cached already are not cached again: the copy is the request's own.
    """
    evict_due(world, replica, engine)  # the blocks it was given may have held these very ones
    prefix = world.prefix[q]
    covered = min(world.request[q].have // engine.block_tokens, prefix.identities)
    while prefix.covered < covered:
        piece = world.pieces[prefix.start + prefix.node]
        node = world.node[replica.node_at + piece]
        whole = min(world.piece_blocks[piece], prefix.identities - prefix.node_start)
        end = min(covered - prefix.node_start, whole)
        if node.count < end:
            if prefix.nodes <= prefix.node:
                prefix.nodes = prefix.node + 1
                node.references += 1
            if node.count == 0:
                node.stored_s = replica.clock
            prefix.shared += end - (prefix.covered - prefix.node_start)
            node.count = end
        prefix.covered = prefix.node_start + end
        if end == whole:
            prefix.node += 1
            prefix.node_start += whole


@compilable
def release(world: World, replica: Replica, engine: Engine, q: int, tokens: int) -> None:
    """Give back what request `q` holds with `tokens` in the cache."""
    units = units_of(engine, tokens)
    if not engine.prefix_cache:
        replica.free += units
        return
    evict_due(world, replica, engine)
    free = replica.free
    prefix = world.prefix[q]
    private = units - prefix.shared * engine.block_units
    if private > 0:
        replica.free += private
        node = replica.spare_head
        if node != NONE:
            replica.spare_head = world.node[node].after
        elif replica.spare_next < replica.spare_end:
            node = replica.spare_next
            replica.spare_next += 1
        if node == NONE:  # more holders of a few blocks each than was reckoned with
            replica.untouched += private
        else:
            world.node[node].count = private
            queue_node(world, replica, node)
    for index in range(prefix.nodes - 1, -1, -1):
        node = replica.node_at + world.pieces[prefix.start + index]
        world.node[node].references -= 1
        if world.node[node].references == 0:
            queue_node(world, replica, node)
            replica.free += world.node[node].count * engine.block_units
    replica.listed += replica.free - free
    prefix.nodes = 0
    prefix.shared = 0
    prefix.covered = 0
    prefix.node = 0
    prefix.node_start = 0


# ── the lists of waiting and running sequences ─────────────────────────────────────────────────


@compilable
def wait_last(world: World, replica: Replica, q: int) -> None:
    """Put request `q` at the end of the waiting queue."""
    request = world.request[q]
    request.state = WAITING
    request.after = NONE
    if replica.waiting == 0:
        replica.wait_head = q
    else:
        world.request[replica.wait_tail].after = q
    replica.wait_tail = q
    replica.waiting += 1


@called_once
def wait_first(world: World, replica: Replica, q: int) -> None:
    """Put request `q` at the front of the waiting queue."""
    request = world.request[q]
    request.state = WAITING
    request.after = replica.wait_head
    if replica.waiting == 0:
        request.after = NONE
        replica.wait_tail = q
    replica.wait_head = q
    replica.waiting += 1


@compilable
def leave_running(world: World, replica: Replica, q: int) -> None:
    """Take request `q` out of the running list; `produced` must be up to date."""
    request = world.request[q]
    replica.output_left -= request.output - request.produced
    if request.before != NONE:
        world.request[request.before].after = request.after
    if request.after == NONE:
        replica.run_tail = request.before
    else:
        world.request[request.after].before = request.before
    replica.running -= 1
    replica.reserved -= request.reserved


# ── joining and leaving the batch ──────────────────────────────────────────────────────────────


@called_once
def context_of(replica: Replica, request: Request) -> int:
    """Tokens that a running sequence has in the cache."""
    if request.state == DECODING:
        return request.need + replica.step - request.joined
    return request.have


@compilable
def join(world: World, replica: Replica, engine: Engine, q: int) -> None:
    """A sequence whose prompt is in the cache decodes from the next step on."""
    request = world.request[q]
    request.state = DECODING
    request.joined = replica.step
    request.finish_step = replica.step + request.output - request.produced
    replica.decoding += 1
    replica.kv_tokens += request.need
    replica.output_sum += request.output
    # context `need + s - joined` fills its last block before step s when it divides by the block
    place = (replica.step - request.need) % engine.block_tokens
    world.crossing[replica.crossing_at + place] += 1
    if engine.window_tokens:
        if request.need < engine.window_tokens:
            request.growing = 1
            replica.growing += 1
            replica.window_kv_tokens += request.need
            world.crossing[replica.growing_at + place] += 1
            saturated = replica.step + engine.window_tokens - request.need
            heap_push(world, replica, (saturated << STEP_SHIFT) | q)
        else:
            request.growing = 0
            replica.window_kv_tokens += engine.window_tokens
    heap_push(world, replica, (request.finish_step << STEP_SHIFT) | FINISH | q)


@compilable
def part(world: World, replica: Replica, engine: Engine, q: int) -> None:
    """A decoding sequence leaves the batch; its blocks stay its own."""
    request = world.request[q]
    context = request.need + replica.step - request.joined
    replica.decoding -= 1
    replica.kv_tokens -= context
    request.produced += replica.step - request.joined
    request.finish_step = NONE
    replica.output_sum -= request.output
    place = (request.joined - request.need) % engine.block_tokens
    world.crossing[replica.crossing_at + place] -= 1
    if engine.window_tokens:
        if request.growing:
            replica.growing -= 1
            replica.window_kv_tokens -= context
            world.crossing[replica.growing_at + place] -= 1
            request.growing = 0
        else:
            replica.window_kv_tokens -= engine.window_tokens


@compilable
def preempt(world: World, replica: Replica, engine: Engine, q: int, where: int) -> None:
    """Running request `q` loses its blocks and waits, FIRST or LAST, to be computed anew."""
    request = world.request[q]
    context = context_of(replica, request)
    if request.state == DECODING:
        part(world, replica, engine, q)
        request.need = request.prompt + request.produced
    else:
        replica.prompting = NONE
    leave_running(world, replica, q)
    release(world, replica, engine, q, context)
    request.have = 0
    request.preemptions += 1
    replica.preemptions += 1
    if where == FIRST:
        wait_first(world, replica, q)
    else:
        wait_last(world, replica, q)


@compilable
def admit(world: World, replica: Replica, q: int) -> None:
    """The head of the waiting queue becomes the last of the running list."""
    request = world.request[q]
    replica.wait_head = request.after
    replica.waiting -= 1
    request.before = replica.run_tail
    request.after = NONE
    if replica.run_tail != NONE:
        world.request[replica.run_tail].after = q
    replica.run_tail = q
    replica.running += 1
    replica.admissions += 1
    request.order = replica.admissions
    replica.reserved += request.reserved
    replica.output_left += request.output - request.produced
    if request.admitted_s < 0:
        request.admitted_s = replica.clock


@compilable
def finish(world: World, replica: Replica, engine: Engine, q: int, tokens: int) -> None:
    """A running sequence is over, or its prompt goes on to a decoding replica."""
    request = world.request[q]
    leave_running(world, replica, q)
    free = replica.free
    release(world, replica, engine, q, tokens)
    replica.just_freed += replica.free - free
    replica.outstanding -= 1
    replica.just_ended += 1
    if engine.hands_over and request.produced < request.output:
        request.state = TRANSFERRING
        clock = world.clock[0]
        arrival_s = replica.clock + clock.transfer_latency_s + tokens * clock.transfer_token_s
        event_push(world, arrival_s, TRANSFERRED, q)
        return
    request.state = FINISHED
    request.last_s = replica.clock
    over(world, q, replica.clock)


@called_once
def next_thought_s(world: World) -> float:
    """How long the next client thinks, and the request then needs to reach the router."""
    clock = world.clock[0]
    drawn = clock.thoughts % clock.think_times
    clock.thoughts += 1
    return world.draws[drawn]


@compilable
def over(world: World, q: int, now_s: float) -> None:
    """Request `q` is done with; under a closed loop its client thinks and sends another."""
    clock = world.clock[0]
    clock.over += 1
    if clock.clients:
        event_push(world, now_s + next_thought_s(world), SENT, world.request[q].client)


# ── a step: what runs in it ────────────────────────────────────────────────────────────────────


@compilable
def chunk(world: World, replica: Replica, engine: Engine, q: int, tokens: int) -> None:
    """Schedule `tokens` of the prompt of running request `q`."""
    request = world.request[q]
    seen = request.have + 0.5 * tokens
    replica.prompt_tokens += tokens
    replica.prompt_s += tokens * seen * engine.chunk_context_s
    if engine.window_tokens:
        window = min(seen, float(engine.window_tokens))
        replica.prompt_s += tokens * window * engine.window_chunk_context_s
    request.have += tokens
    if engine.prefix_cache:
        cache_computed(world, replica, engine, q)
    if request.have == request.need:
        replica.prompting = NONE
        replica.ending += 1
        request.chain = NONE
        if replica.chain == NONE:
            replica.chain = q
        else:
            world.request[replica.chain_end].chain = q
        replica.chain_end = q
    else:
        replica.prompting = q


@called_once
def go_on(world: World, replica: Replica, engine: Engine, budget: int) -> int:
    """Schedule the next chunk of the prompt under way; the tokens it took, or -1 if it fits not."""
    q = replica.prompting
    request = world.request[q]
    tokens = min(request.need - request.have, budget)
    units = units_of(engine, request.have + tokens) - units_of(engine, request.have)
    if units > replica.free:
        return NONE
    replica.free -= units
    chunk(world, replica, engine, q, tokens)
    return tokens


BY_SEQS, BY_TOKENS, BY_KV = 1, 2, 3  # what keeps the head of the queue waiting


@compilable
def admit_waiting(world: World, replica: Replica, engine: Engine, budget: int) -> None:
    """Admit from the head of the queue while the limits and a budget of tokens allow."""
    while replica.waiting > 0:
        if replica.running >= engine.max_num_seqs:
            replica.blocked = BY_SEQS
            break
        if budget <= 0:
            replica.blocked = BY_TOKENS
            break
        q = replica.wait_head
        request = world.request[q]
        if request.handed_over:
            units = units_of(engine, request.need + 1)
            if units > replica.free:
                replica.blocked = BY_KV
                break
            replica.free -= units
            admit(world, replica, q)
            request.handed_over = 0
            request.have = request.need
            join(world, replica, engine, q)
            budget -= 1
            continue
        start = 0
        found_units = 0
        if request.preemptions == 0:
            start = request.assumed
        if engine.prefix_cache:
            look_up(world, replica, engine, q)
            start = max(start, replica.found * engine.block_tokens)
            found_units = replica.found * engine.block_units - replica.found_queued
        tokens = request.need - start
        if tokens > budget:
            # what is computed anew may have outgrown a step, and is chunked all the same
            outgrown = request.preemptions > 0 and request.need > engine.max_num_batched_tokens
            if not engine.chunked_prefill and not outgrown:
                replica.blocked = BY_TOKENS
                break
            tokens = budget
        units = units_of(engine, start + tokens)
        if engine.policy == VLLM and start + tokens == request.need:
            fits = units <= replica.free + found_units
        else:
            fits = room_for(replica, engine, request, units, found_units)
        if not fits:
            replica.blocked = BY_KV
            break
        admit(world, replica, q)
        if engine.prefix_cache:
            hold_found(world, replica, q)
            units -= replica.found * engine.block_units
            replica.hit_tokens += replica.found * engine.block_tokens
        replica.free -= units
        request.state = PROMPTING
        request.have = start
        if request.preemptions == 0:
            request.cached = start
        chunk(world, replica, engine, q, tokens)
        budget -= tokens


@called_once
def room_for(
    replica: Replica, engine: Engine, request: Request, units: int, found_units: int
) -> bool:
    """Whether the engine's admission rule lets a request in that takes `units` at once.

    `found_units` of what it holds need not be taken from the free ones.
    """
    free = replica.free + found_units
    if engine.policy == TRTLLM_NO_EVICT:
        return units <= free and request.reserved <= replica.pool - replica.reserved
    if engine.policy == VLLM:
        if engine.whole_prompt_fits:
            return units_of(engine, request.need) <= free
        return units <= free
    whole = units
    if engine.policy == TRTLLM_MAX_UTILISATION:
        if replica.running > 0:
            whole = units_of(engine, request.need + engine.block_tokens)
        else:
            whole = units_of(engine, request.need)
    if engine.policy == SGLANG:
        whole = units_of(engine, request.need)
        if replica.running > 0:
            block = engine.block_tokens
            own = min(request.output - request.produced, SGLANG_OUTPUT_CLIP)
            ratio = replica.ratio - replica.ratio_steps * SGLANG_RATIO_DECAY
            ratio = max(ratio, SGLANG_LEAST_RATIO)
            expected = math.ceil(ratio * replica.output_left / block)
            whole += (expected + (own + block - 1) // block) * engine.block_units
    return max(units, whole) <= free


@called_once
def plan(world: World, replica: Replica, engine: Engine) -> int:
    """What runs in the next step; how many sequences decode in it.

    Running sequences first, prompts with what they leave: vLLM and TensorRT-LLM. Or prompts alone
    while any can be scheduled, then decoding: SGLang.
    """
    mixed = engine.policy != SGLANG
    budget = engine.max_num_batched_tokens
    preempted = False
    if mixed and replica.decoding > 0:
        units = next_units(world, replica, engine)
        while units > replica.free:
            preempt(world, replica, engine, replica.run_tail, FIRST)
            preempted = True
            units = next_units(world, replica, engine)
        replica.free -= units
        budget -= replica.decoding
    if replica.prompting != NONE:
        tokens = go_on(world, replica, engine, budget)
        if tokens != NONE:
            budget -= tokens
        elif mixed or replica.decoding == 0:
            preempt(world, replica, engine, replica.run_tail, FIRST)
            preempted = mixed
    if replica.waiting > 0 and not preempted and (mixed or replica.prompting == NONE):
        admit_waiting(world, replica, engine, budget)
    if mixed:
        return replica.decoding
    if replica.prompt_tokens > 0:
        return 0
    if next_units(world, replica, engine) > replica.free:
        retract(world, replica, engine)
    replica.free -= next_units(world, replica, engine)
    return replica.decoding


@called_once
def furthest_from_over(world: World, replica: Replica) -> int:
    """The prompt under way; without one who produced least, of those who asked most, the last."""
    best = replica.run_tail
    q = best
    if replica.prompting == NONE:
        least = world.request[q].produced - world.request[q].joined
        while q != NONE:
            request = world.request[q]
            produced = request.produced - request.joined  # until now: `step` more, as for all
            longer = request.prompt > world.request[best].prompt
            if produced < least or (produced == least and longer):
                best = q
                least = produced
            q = request.before
    return best


@called_once
def retract(world: World, replica: Replica, engine: Engine) -> None:
    """Make room for some steps by sending running sequences to the end of the queue."""
    while replica.running > 1:
        units = next_units(world, replica, engine)
        block = engine.block_tokens
        room = (SGLANG_RETRACT_STEPS * replica.decoding + block - 1) // block * engine.block_units
        if units <= replica.free and room <= replica.free and replica.prompting == NONE:
            break
        q = furthest_from_over(world, replica)
        preempt(world, replica, engine, q, LAST)
    left = replica.output_left
    if replica.prompting != NONE:
        request = world.request[replica.prompting]
        left -= request.output - request.produced
    expected = replica.output_sum - left + SGLANG_RETRACT_STEPS * replica.decoding
    replica.ratio = min(1.0, expected / (replica.output_sum + 1))
    replica.ratio_steps = -1  # the step that is being planned does not count
    replica.blocked = 0  # who waits now was not asked whether they fit


# ── a step: how long it takes, and what it brings ──────────────────────────────────────────────


@called_once
def steps_until(first_s: float, slope_s: float, left_s: float) -> int:
    """How many steps begin within `left_s` when each lasts `slope_s` longer than the one before.

    The smallest m with m*first + slope*m*(m-1)/2 >= left.
    """
    if slope_s > 1e-9 * first_s:
        half = first_s - 0.5 * slope_s
        steps = math.ceil((math.sqrt(half * half + 2 * slope_s * left_s) - half) / slope_s)
    else:
        steps = math.ceil(left_s / first_s)
    while steps > 1 and lasting_s(first_s, slope_s, steps - 1) >= left_s:
        steps -= 1
    while lasting_s(first_s, slope_s, steps) < left_s:
        steps += 1
    return steps


@compilable
def lasting_s(first_s: float, slope_s: float, steps: int) -> float:
    """Seconds of `steps` steps, the first of which lasts `first_s`."""
    return steps * first_s + 0.5 * slope_s * steps * (steps - 1)


@compilable
def still_due(world: World, replica: Replica, entry: int) -> bool:
    """Whether a heap's entry tells of something to come: not of a sequence preempted since."""
    request = world.request[entry & REQUEST_MASK]
    if request.state != DECODING or request.replica != replica.index:
        return False
    step = entry >> STEP_SHIFT
    if entry & FINISH:
        return request.finish_step == step
    full = request.joined + world.engine[replica.engine].window_tokens - request.need
    return request.growing == 1 and full == step


@called_once
def end_answers(world: World, replica: Replica, engine: Engine) -> None:
    """The answers that end with the step just over, and the windows that it fills.

    Answers end in the order of the running list: it decides which cached blocks are older.
    """
    ended = NONE
    while True:
        entry = heap_due(world, replica)
        if entry == NONE:
            break
        if not still_due(world, replica, entry):
            continue
        q = entry & REQUEST_MASK
        request = world.request[q]
        if not entry & FINISH:
            request.growing = 0
            replica.growing -= 1
            place = (request.joined - request.need) % engine.block_tokens
            world.crossing[replica.growing_at + place] -= 1
            continue
        part(world, replica, engine, q)
        before = NONE
        after = ended
        while after != NONE and world.request[after].order < request.order:
            before = after
            after = world.request[after].chain
        request.chain = after
        if before == NONE:
            ended = q
        else:
            world.request[before].chain = q
    while ended != NONE:
        request = world.request[ended]
        finish(world, replica, engine, ended, request.prompt + request.output - 1)
        ended = request.chain


@called_once
def end_prompts(world: World, replica: Replica, engine: Engine) -> None:
    """The prompts that end with the step just over have brought a first token."""
    q = replica.chain
    while q != NONE:
        request = world.request[q]
        request.produced += 1
        replica.output_left -= 1
        if request.first_s < 0:
            request.first_s = replica.clock
        if request.produced >= request.output or engine.hands_over:
            finish(world, replica, engine, q, request.need)
        else:
            join(world, replica, engine, q)
        q = request.chain
    replica.chain = NONE


@compilable
def advance(world: World, replica: Replica, until_s: float, pause: int) -> None:
    """Run the steps of one replica that begin before `until_s`.

    With `pause` it returns after the first step that ends an answer.
    """
    engine = world.engine[replica.engine]
    while replica.clock < until_s - TIE_S and replica.running + replica.waiting > 0:
        replica.prompt_tokens = 0
        replica.prompt_s = 0.0
        replica.ending = 0
        replica.blocked = 0
        decoding = plan(world, replica, engine)
        emitting = decoding + replica.ending
        if replica.prompt_tokens + decoding == 0:
            world.clock[0].stuck = 1  # a bug, never a load: requests too large are rejected
            return
        first_s = (
            world.table_s[engine.token_at + replica.prompt_tokens + decoding]
            + world.table_s[engine.sequence_at + emitting]
            + replica.prompt_s
        )
        steps = 1
        lasts_s = first_s
        if decoding > 0:
            first_s += decoding * engine.decoding_s + replica.kv_tokens * engine.kv_token_s
            if engine.window_tokens:
                first_s += replica.window_kv_tokens * engine.window_kv_token_s
            lasts_s = first_s
            if replica.prompt_tokens == 0:
                steps = leap(world, replica, engine, first_s, until_s)
                if steps > 1:
                    slope_s = (
                        decoding * engine.kv_token_s + replica.growing * engine.window_kv_token_s
                    )
                    lasts_s = lasting_s(first_s, slope_s, steps)
            replica.kv_tokens += steps * decoding
            if replica.growing:
                replica.window_kv_tokens += steps * replica.growing
            replica.output_left -= steps * decoding
            replica.ratio_steps += steps
            replica.step += steps
        if replica.free < replica.least_free:
            replica.least_free = replica.free
        replica.clock += lasts_s
        replica.busy_s += lasts_s
        replica.steps += steps
        if replica.waiting > 0:
            if replica.blocked == BY_SEQS:
                replica.blocked_by_seqs += steps
            elif replica.blocked == BY_TOKENS:
                replica.blocked_by_tokens += steps
            else:
                replica.blocked_by_kv += steps
        replica.just_ended = 0
        replica.just_freed = 0
        if replica.change <= replica.step:
            end_answers(world, replica, engine)
        if replica.chain != NONE:
            end_prompts(world, replica, engine)
        if pause and replica.just_ended > 0:
            break


@called_once
def leap(world: World, replica: Replica, engine: Engine, first_s: float, until_s: float) -> int:
    """How many steps from here are alike: nobody comes, ends, is admitted or preempted.

    The units for the first are taken already; those of the others are taken here.
    """
    steps = replica.change - replica.step
    if steps <= 1 or replica.prompting != NONE:
        return 1
    if replica.waiting > 0:
        if replica.blocked == 0:
            return 1  # after a preemption nobody was asked whether they fit
        if replica.blocked == BY_KV and engine.policy == SGLANG:
            return 1  # its expectation of what is still to come shrinks with every step
    slope_s = replica.decoding * engine.kv_token_s + replica.growing * engine.window_kv_token_s
    left_s = until_s - TIE_S - replica.clock
    if lasting_s(first_s, slope_s, steps - 1) >= left_s:
        steps = steps_until(first_s, slope_s, left_s)
    if steps > 1:
        each = replica.decoding * (engine.block_units + engine.window_units)
        rounds = replica.free // each
        if (steps - 1) // engine.block_tokens + 1 > rounds:
            steps = max(1, min(steps, (rounds - 1) * engine.block_tokens + 1))
        if steps > 1:
            replica.free -= growth_units(world, replica, engine, replica.step + 1, steps - 1)
    return steps


# ── the fleet: who gets a request, and what happens when ───────────────────────────────────────


@compilable
def cost_of(world: World, replica: Replica, q: int, router: int, now_s: float) -> float:
    """What the router thinks of sending request `q` to a replica; the least is chosen.

    What it knows of caches may be `router_lag_s` old: then a node counts as cached whole from that
    long after its first block was stored until that long after its first eviction.
    """
    if router == LEAST_OUTSTANDING:
        outstanding = float(replica.outstanding)
        if replica.clock > now_s + TIE_S:  # the step under way is not over yet
            outstanding += replica.just_ended
        return outstanding
    clock = world.clock[0]
    engine = world.engine[replica.engine]
    cached = 0
    if engine.prefix_cache and clock.router_lag_s <= 0:
        look_up(world, replica, engine, q)
        cached = replica.found
    elif engine.prefix_cache:
        prefix = world.prefix[q]
        index = 0
        seen_s = now_s - clock.router_lag_s
        while cached < prefix.identities:
            piece = world.pieces[prefix.start + index]
            node = world.node[replica.node_at + piece]
            if node.stored_s > seen_s or node.stored_s <= node.evicted_s <= seen_s:
                break
            cached += world.piece_blocks[piece]
            index += 1
    prompt = world.request[q].prompt
    blocks = (prompt + engine.block_tokens - 1) // engine.block_tokens - cached
    used = (replica.pool - replica.free) / float(engine.block_units)
    return clock.overlap_weight * blocks + used


@compilable
def route(world: World, q: int, first: int, end: int, router: int, now_s: float) -> int:
    """The replica among [first, end) that request `q` is sent to; -1 when none takes any."""
    if router == ROUND_ROBIN or router == RANDOM:
        return route_blindly(world, first, end, router)
    best = NONE
    least = FOREVER_S
    for index in range(first, end):
        replica = world.replica[index]
        if replica.taking:
            cost = cost_of(world, replica, q, router, now_s)
            if cost < least:
                best = index
                least = cost
    return best


@called_once
def route_blindly(world: World, first: int, end: int, router: int) -> int:
    """The replica whose turn it is, or any, of those that take requests; -1 when none does.

    What is left of a draw that fell on one that takes none chooses evenly among the others.
    """
    clock = world.clock[0]
    many = end - first
    place = clock.turn % many
    beyond = 0.0
    if router == RANDOM:
        drawn = world.draws[clock.chance_at + clock.turn % clock.chances] * many
        place = int(drawn)
        beyond = drawn - place
    clock.turn += 1
    if world.replica[first + place].taking:
        return first + place
    taking = 0
    for index in range(first, end):
        taking += world.replica[index].taking
    if taking == 0:
        return NONE
    passed = int(beyond * taking)
    while passed >= 0:
        place = (place + 1) % many
        passed -= world.replica[first + place].taking
    if router == ROUND_ROBIN:
        clock.turn = place + 1
    return first + place


@compilable
def choose(world: World, q: int, now_s: float) -> int:
    """The replica that request `q` is sent to; -1 when none takes any, -2 when it is refused."""
    clock = world.clock[0]
    request = world.request[q]
    request.need = request.prompt
    first = 0
    end = clock.replicas
    router = clock.router
    if request.handed_over:
        first = end
        end = first + clock.decoders
        router = LEAST_OUTSTANDING
    elif request.too_large:
        request.state = REJECTED
        clock.turn += 1
        over(world, q, now_s)
        return REFUSED
    return route(world, q, first, end, router, now_s)


@called_once
def keep(world: World, q: int) -> None:
    """Request `q` stays with the router, behind those that no replica took either."""
    clock = world.clock[0]
    world.request[q].after = NONE
    if clock.kept == NONE:
        clock.kept = q
    else:
        world.request[clock.kept_last].after = q
    clock.kept_last = q


@called_once
def furthest_behind(world: World, until_s: float) -> int:
    """The busy replica whose next step begins first and before `until_s`, and when the second's.

    Steps of the first that begin no later than those of all others can see no arrival that is yet
    to be caused: an answer ends after its step began.
    """
    clock = world.clock[0]
    best = NONE
    first_s = FOREVER_S
    second_s = FOREVER_S
    for index in range(clock.replicas + clock.decoders):
        replica = world.replica[index]
        if replica.running + replica.waiting > 0:
            if replica.clock < first_s:
                best = index
                second_s = first_s
                first_s = replica.clock
            elif replica.clock < second_s:
                second_s = replica.clock
    if first_s >= until_s - TIE_S:
        return NONE
    clock.second_s = second_s
    return best


@called_once
def place(world: World, q: int, now_s: float) -> None:
    """Request `q` goes where the router sends it, or is kept until some replica takes requests."""
    target = choose(world, q, now_s)
    if target == NONE:
        keep(world, q)
    elif target != REFUSED:
        clock = world.clock[0]
        replica = world.replica[target]
        if not clock.watched and not clock.feedback:  # the others need not stand at this time
            advance(world, replica, now_s, 0)
        world.request[q].replica = target
        replica.outstanding += 1
        if replica.running + replica.waiting == 0 and replica.clock < now_s - TIE_S:  # it is idle
            replica.clock = now_s
            replica.ratio = SGLANG_RATIO
            replica.ratio_steps = 0
        wait_last(world, replica, q)


@compilable
def run(world: World, until_s: float) -> None:
    """Everything that happens before `until_s`; may be called again with a later time."""
    clock = world.clock[0]
    now_s = clock.now_s
    kept = clock.kept  # something may have come to take them since the last run
    clock.kept = NONE
    while True:
        if kept != NONE:
            q = kept
            kept = world.request[q].after
        elif clock.over == clock.requests or clock.stuck:
            break
        else:
            arrival_s = FOREVER_S
            if clock.clients == 0 and clock.next < clock.requests:
                arrival_s = world.request[clock.next].arrival_s + clock.overhead_s
            event_s = event_time_s(world)
            now_s = min(arrival_s, event_s, until_s)
            if clock.feedback:
                behind = furthest_behind(world, now_s)
                if behind != NONE:
                    safe_s = min(now_s, clock.second_s + 3 * TIE_S)
                    advance(world, world.replica[behind], safe_s, 1)
                    continue
            elif clock.watched or now_s == until_s:
                for index in range(clock.replicas):
                    advance(world, world.replica[index], now_s, 0)
            clock.now_s = now_s
            if now_s == until_s:
                break
            q = clock.next
            if arrival_s <= event_s:
                clock.next += 1
            else:
                kind, subject = event_pop(world)
                if kind == TRANSFERRED:
                    q = subject
                    world.request[q].handed_over = 1
                elif q < clock.requests:
                    clock.next += 1
                    request = world.request[q]
                    request.arrival_s = now_s - clock.overhead_s
                    request.client = subject
                else:
                    continue  # a client has nothing left to send
        place(world, q, now_s)
