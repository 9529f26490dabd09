"""The naive simulator judged itself: cases worked by hand, queues of known delay, and laws."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.queueing import oracle
from tests.queueing.naive import (
    CountedPool,
    Replica,
    Seen,
    sequence_of,
    sglang_decode,
    simulate_naive,
)
from tonnage.evidence import Evidence
from tonnage.performance import StepTable
from tonnage.queueing.simulation import (
    POLICIES,
    STATUSES,
    Clients,
    EngineModel,
    KvPool,
    Policy,
    Requests,
    Router,
    SimulatedFleet,
)

GRID = np.array([0.0, 1_000.0, 32_768.0])

SECOND_STEPS = StepTable(  # every step takes one second: times are numbers of steps
    tokens=GRID,
    token_s=np.ones(3),
    sequence_s=np.zeros(3),
    kv_token_s=0.0,
    windowed_kv_token_s=0.0,
    chunk_context_s=0.0,
    windowed_chunk_context_s=0.0,
    window_tokens=None,
    stages=1,
    max_batched_tokens=8192,
    request_overhead_s=0.0,
    evidence=Evidence.ASSUMED,
)
PRICED = replace(
    SECOND_STEPS,
    token_s=2.0 + 0.01 * GRID,
    sequence_s=0.1 * GRID,
    decoding_s=0.5,
    kv_token_s=0.001,
    chunk_context_s=0.0001,
)


def engine(*, units: int = 10_000, block_tokens: int = 1, **changes: Any) -> EngineModel:
    kv = KvPool(units=units, block_tokens=block_tokens)
    model = EngineModel(table=SECOND_STEPS, kv=kv, max_num_seqs=64, max_num_batched_tokens=4096)
    return replace(model, **changes)


def asked(*rows: tuple[float, int, int], **changes: Any) -> Requests:
    """Requests of (arrival, prompt, output)."""
    arrivals, prompts, outputs = zip(*rows, strict=True)
    requests = Requests(
        arrival_s=np.array(arrivals, dtype=np.float64),
        prompt_tokens=np.array(prompts, dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
    )
    return replace(requests, **changes)


def with_prefixes(*rows: tuple[float, int, int, list[int]], block_tokens: int) -> Requests:
    """Requests of (arrival, prompt, output, ids of its leading blocks)."""
    starts = np.cumsum([0, *(len(ids) for *_, ids in rows)])
    return asked(
        *((arrival, prompt, output) for arrival, prompt, output, _ in rows),
        prefix_ids=np.array([i for *_, ids in rows for i in ids], dtype=np.int64),
        prefix_start=starts.astype(np.int64),
        prefix_block_tokens=block_tokens,
    )


def serve(
    model: EngineModel, requests: Requests, clients: Clients | None = None, **fleet: Any
) -> Seen:
    return simulate_naive(SimulatedFleet(engine=model, **fleet), requests, clients)


def statuses(seen: Seen) -> list[str]:
    return [STATUSES[number] for number in seen.records.status]


# ── the cost of steps ───────────────────────────────────────────────────────────────────────────


def test_one_request_alone_by_arithmetic():
    requests = asked((5.0, 10, 3))
    seen = serve(engine(table=replace(PRICED, request_overhead_s=0.25)), requests)
    prefill_s = 2.1 + 0.1 + 10 * (10 / 2) * 0.0001
    decode_s = [2.01 + 0.1 + 0.5 + context * 0.001 for context in (10, 11)]
    assert seen.records.arrival_s[0] == 5.0
    assert seen.records.admitted_s[0] == 5.25
    assert seen.records.first_token_s[0] == pytest.approx(5.25 + prefill_s, abs=1e-12)
    assert seen.records.last_token_s[0] == pytest.approx(
        5.25 + prefill_s + sum(decode_s), abs=1e-12
    )
    assert (seen.counts[0].steps, seen.counts[0].peak_units) == (3, 12)


def test_chunks_attend_to_what_is_cached_and_only_the_last_emits():
    seen = serve(engine(table=PRICED, max_num_seqs=4, max_num_batched_tokens=4), asked((0, 10, 1)))
    chunks = [(0, 4), (4, 4), (8, 2)]
    step_s = [2 + 0.01 * c + c * (x + c / 2) * 0.0001 for x, c in chunks]
    assert seen.records.first_token_s[0] == pytest.approx(sum(step_s) + 0.1, abs=1e-12)
    assert seen.records.last_token_s[0] == seen.records.first_token_s[0]


def test_assumed_cached_tokens_skip_prefill_but_are_attended_to_and_held():
    requests = asked((0, 10, 1), cached_tokens=np.array([6]))
    seen = serve(engine(table=PRICED), requests)
    prefill_s = 2 + 0.01 * 4 + 0.1 + 4 * (6 + 4 / 2) * 0.0001
    assert seen.records.first_token_s[0] == pytest.approx(prefill_s, abs=1e-12)
    assert seen.records.cached_tokens[0] == 6
    assert seen.counts[0].peak_units == 10
    everything = serve(engine(), replace(requests, cached_tokens=np.array([99])))
    assert everything.records.cached_tokens[0] == 9


def test_a_pipeline_divides_a_step_by_its_stages():
    seen = serve(engine(table=replace(PRICED, stages=2)), asked((0, 10, 2)))
    prefill_s = 2 + 0.01 * 5 + 0.1 / 2 + 10 * 5 * 0.0001 / 2
    decode_s = 2 + 0.01 / 2 + 0.1 / 2 + (0.5 + 10 * 0.001) / 2
    assert seen.records.first_token_s[0] == pytest.approx(prefill_s, abs=1e-12)
    assert seen.records.last_token_s[0] == pytest.approx(prefill_s + decode_s, abs=1e-12)


def test_windowed_layers_see_no_further_than_the_window():
    table = replace(
        SECOND_STEPS, window_tokens=8, windowed_kv_token_s=0.01, windowed_chunk_context_s=0.001
    )
    model = engine(table=table, max_num_seqs=6, max_num_batched_tokens=6)
    seen = serve(model, asked((0, 12, 2)))
    assert seen.records.first_token_s[0] == pytest.approx(2 + 6 * 3e-3 + 6 * 8e-3, abs=1e-12)
    itl_s = seen.records.last_token_s[0] - seen.records.first_token_s[0]
    assert itl_s == pytest.approx(1 + 8 * 0.01, abs=1e-12)


def test_a_sequence_holds_blocks_of_every_kind():
    kv = KvPool(
        units=100,
        block_tokens=4,
        block_units=3,
        window_block_units=2,
        window_blocks=2,
        sequence_units=7,
    )
    seen = serve(engine(kv=kv), asked((0, 9, 4)))
    assert seen.counts[0].peak_units == 3 * 3 + 2 * 2 + 7  # 9 + 3 tokens: 3 blocks
    assert statuses(serve(engine(kv=replace(kv, units=19)), asked((0, 9, 4)))) == ["rejected"]


# ── whose turn it is ────────────────────────────────────────────────────────────────────────────


def test_two_requests_share_steps_and_the_later_waits_for_a_step_to_end():
    seen = serve(engine(), asked((0, 5, 4), (1.5, 5, 2)))
    assert seen.records.admitted_s.tolist() == [0, 2]
    assert seen.records.first_token_s.tolist() == [1, 3]
    assert seen.records.last_token_s.tolist() == [4, 4]
    assert seen.counts[0].steps == 4


def test_the_step_of_two_is_priced_together():
    seen = serve(engine(table=PRICED), asked((0, 5, 3), (0.5, 5, 1)))
    first_s = 2.05 + 0.1 + 5 * 2.5 * 0.0001
    mixed_s = 2.06 + 0.2 + 0.5 + 5 * 0.001 + 5 * 2.5 * 0.0001
    assert seen.records.first_token_s == pytest.approx([first_s, first_s + mixed_s], abs=1e-12)


def test_a_request_delivered_within_a_tie_of_the_step_is_in_it():
    seen = serve(engine(), asked((0, 1, 3), (1 + 5e-10, 1, 1), (2 + 5e-9, 1, 1)))
    assert seen.records.admitted_s.tolist() == [0, 1, 3]


def test_sequences_beyond_the_limit_wait_in_order():
    seen = serve(engine(max_num_seqs=1), asked((0, 1, 3), (0, 1, 1), (0, 1, 1)))
    assert seen.records.first_token_s.tolist() == [1, 4, 5]


def test_tokens_are_dealt_to_decoding_then_to_the_prompt_under_way_then_to_the_next():
    model = engine(max_num_seqs=6, max_num_batched_tokens=6)
    # 4 + 2 of 7; 1 + 5 of 7; 1 + 5
    seen = serve(model, asked((0, 4, 3), (0, 7, 1), (0, 5, 1)))
    assert seen.records.admitted_s.tolist() == [0, 0, 2]
    assert seen.records.first_token_s.tolist() == [1, 2, 3]
    assert seen.records.last_token_s.tolist() == [3, 2, 3]


def test_without_chunked_prefill_a_prompt_waits_for_a_step_that_holds_it():
    model = engine(max_num_seqs=6, max_num_batched_tokens=6, chunked_prefill=False)
    seen = serve(model, asked((0, 4, 3), (0, 6, 1), (0, 1, 1)))
    assert seen.records.first_token_s.tolist() == [1, 4, 5]


# ── KV that does not suffice ────────────────────────────────────────────────────────────────────

TIGHT = asked((0, 3, 4), (0, 3, 4))  # each grows from 2 to 3 blocks of 2 tokens


def test_a_preemption_worked_by_hand():
    seen = serve(engine(units=4, block_tokens=2), TIGHT)
    # At 2 the first needs a third block; the second gives up its two, does not fit at 3, and is
    # computed anew with its two tokens at 4.
    assert seen.records.first_token_s.tolist() == [1, 1]
    assert seen.records.last_token_s.tolist() == [4, 6]
    assert seen.records.admitted_s.tolist() == [0, 0]
    assert seen.records.preemptions.tolist() == [0, 1]
    assert (seen.counts[0].preemptions, seen.counts[0].steps) == (1, 6)


def test_a_sequence_that_is_itself_the_last_gives_way():
    seen = serve(engine(units=5, block_tokens=2), TIGHT)
    assert seen.records.last_token_s.tolist() == [4, 6]
    assert seen.records.preemptions.tolist() == [0, 1]


def test_the_last_preempted_is_the_first_to_return():
    rows = [(0, 3, 4), (0, 3, 4), (0, 3, 4), (1, 8, 1)]
    seen = serve(engine(units=6, block_tokens=2), asked(*rows))
    # At 2 the third gives way, and the others take all until 4; then there is room for one.
    assert seen.records.preemptions.tolist() == [0, 0, 1, 0]
    assert seen.records.first_token_s.tolist() == [1, 1, 1, 7]
    assert seen.records.last_token_s.tolist() == [4, 4, 6, 7]


def test_a_chunk_that_fits_enters_before_its_prompt_does_only_if_allowed():
    requests = asked((0, 4, 4), (0, 6, 1))
    model = engine(units=9, max_num_seqs=6, max_num_batched_tokens=6)
    whole = serve(model, requests)
    assert whole.records.admitted_s.tolist() == [0, 4]
    chunk = serve(replace(model, whole_prompt_fits=False), requests)
    # 4 + 2 units, then 5 + 6 asked of 9: it gives way at once and waits for the end of the first.
    assert chunk.records.admitted_s.tolist() == [0, 0]
    assert chunk.records.preemptions.tolist() == [0, 1]
    assert chunk.records.first_token_s[1] > chunk.records.last_token_s[0]


def test_who_gives_way_does_not_return_in_the_same_step():
    model = engine(units=7, whole_prompt_fits=False, max_num_seqs=4, max_num_batched_tokens=4)
    seen = serve(model, asked((0, 3, 4), (0, 6, 1)))
    # 3 + 1 units; at 1 the second asks for 3 more of 2 and gives way. Its first chunk of 3 would
    # fit that step, and none until the first has ended.
    assert seen.records.preemptions.tolist() == [0, 1]
    assert seen.records.first_token_s.tolist() == [1, 6]


def test_computed_anew_assumed_cached_tokens_are_computed_too():
    requests = replace(TIGHT, cached_tokens=np.array([0, 2]))
    model = engine(units=4, block_tokens=2, table=replace(SECOND_STEPS, token_s=1 + 0.01 * GRID))
    seen = serve(model, requests)
    # 3 + 1 prompt tokens, 1 + 1, 1, 1 decoding; then 3 + 2 computed anew, and 1
    assert seen.records.last_token_s[1] == pytest.approx(6 + 0.01 * (4 + 2 + 1 + 1 + 5 + 1))
    assert seen.records.cached_tokens.tolist() == [0, 2]


def test_no_evict_reserves_what_a_sequence_will_come_to_hold():
    model = engine(units=5, block_tokens=2, policy="trtllm-no-evict")
    seen = serve(model, TIGHT)
    assert seen.records.first_token_s.tolist() == [1, 5]
    assert seen.records.last_token_s.tolist() == [4, 8]
    assert seen.counts[0].peak_units == 3
    enough = serve(replace(model, kv=KvPool(units=6, block_tokens=2)), TIGHT)
    assert enough.records.last_token_s.tolist() == [4, 4]


def test_max_utilisation_asks_for_a_block_more_unless_nothing_runs():
    model = engine(units=4, block_tokens=2, policy="trtllm-max-utilisation")
    assert serve(model, TIGHT).records.admitted_s.tolist() == [0, 4]
    assert serve(model, asked((0, 7, 2))).records.last_token_s.tolist() == [2]
    roomier = serve(replace(model, kv=KvPool(units=5, block_tokens=2)), TIGHT)
    assert roomier.records.admitted_s.tolist() == [0, 0]
    assert roomier.records.preemptions.tolist() == [0, 1]


def test_a_prompt_that_no_step_can_hold_anew_is_chunked_all_the_same():
    rows = asked((0, 3, 6), (0.5, 3, 4), (9, 1, 1))
    model = engine(units=5, block_tokens=2, max_num_seqs=4, max_num_batched_tokens=4)
    seen = serve(replace(model, chunked_prefill=False), rows)
    # The second gives way at 3 with two tokens produced: 5 to compute in steps of at most 4.
    assert seen.records.preemptions.tolist() == [0, 1, 0]
    assert statuses(seen) == ["finished", "finished", "finished"]


# ── SGLang ──────────────────────────────────────────────────────────────────────────────────────


def test_sglang_computes_prompts_before_it_decodes():
    requests = asked((0, 2, 3), (0.5, 2, 1))
    seen = serve(engine(policy="sglang"), requests)
    assert seen.records.first_token_s.tolist() == [1, 2]
    assert seen.records.last_token_s.tolist() == [4, 2]
    assert serve(engine(), requests).records.last_token_s.tolist() == [3, 2]


def test_sglang_chunks_one_prompt_at_a_time():
    model = engine(policy="sglang", max_num_seqs=6, max_num_batched_tokens=6)
    seen = serve(model, asked((0, 4, 2), (0, 7, 1), (0, 3, 1)))
    # 4 + 2 of 7; 5 of 7 + 1 of 3; 2 of 3; decode
    assert seen.records.first_token_s.tolist() == [1, 2, 3]
    assert seen.records.last_token_s.tolist() == [4, 2, 3]


@pytest.mark.parametrize(("units", "admitted_s"), [(136, 1), (135, 102)])
def test_sglang_keeps_room_for_a_share_of_the_remaining_tokens(units, admitted_s):
    # 50 for the prompt, ceil(0.7 * 101) for the other, 5 of its own; the other holds 10
    seen = serve(engine(units=units, policy="sglang"), asked((0, 10, 102), (0.5, 50, 5)))
    assert seen.records.admitted_s[1] == admitted_s


def test_sglang_keeps_no_room_for_later_when_nothing_runs():
    seen = serve(engine(units=39, policy="sglang"), asked((0, 10, 30)))
    assert seen.records.last_token_s.tolist() == [30]


def test_sglang_retracts_the_last_and_then_is_more_careful():
    requests = asked((0, 4, 20), (0, 4, 20))
    assert serve(engine(units=41, policy="sglang"), requests).records.admitted_s[1] == 20
    seen = serve(engine(units=42, policy="sglang"), requests)  # 4 + 4 + ceil(0.7 * 20) + 20
    # After 17 decode steps all 42 are taken; the first then ends alone, and the second is computed
    # anew with 18 tokens.
    assert seen.records.preemptions.tolist() == [0, 1]
    assert seen.records.last_token_s.tolist() == [20, 22]


def test_sglang_retracts_until_all_that_are_left_have_room_for_twenty_tokens():
    # The third enters at 1, and seven decode steps then fill all 51. Without it 17 are free: enough
    # for that step, short of 2 * 20, so the second goes too. It returns last, with 18 tokens.
    requests = asked((0, 10, 9), (0, 10, 9), (0, 10, 9))
    model = engine(units=51, policy="sglang", max_num_batched_tokens=30, max_num_seqs=30)
    seen = serve(model, requests)
    assert seen.records.admitted_s.tolist() == [0, 0, 1]
    assert seen.records.preemptions.tolist() == [0, 1, 1]
    assert seen.records.last_token_s.tolist() == [10, 12, 11]


def test_sglang_retracts_who_produced_least_and_of_them_the_longest_prompt():
    model = engine(units=67, policy="sglang")
    requests = asked((0, 12, 90), (0, 14, 90), (0, 15, 90), (0, 14, 90), (0, 10, 90))
    replica = Replica(engine=model, pool=CountedPool(model.kv))
    for row, produced in enumerate((6, 2, 9, 2, 3)):
        sequence = sequence_of(requests, row, model, caching=False)
        sequence.context, sequence.produced = sequence.prompt_tokens, produced
        replica.pool.take(sequence, sequence.context)
        replica.running.append(sequence)
    sglang_decode(replica)  # two units are free: too few for five; 40 are enough for two
    assert [s.prompt_tokens for s in replica.waiting] == [14, 14, 10]
    assert [s.prompt_tokens for s in replica.running] == [12, 15]
    assert replica.pool.free == 40 - 2


@pytest.mark.parametrize(
    ("units", "output_tokens", "left", "ratio"),
    [
        (102, 200, 3, 0.7 - 0.602 / 600),
        (101, 200, 1, (5 + 20) / (200 + 1)),  # 35 and then 68 free, of 2 * 20 and 20
        (101, 20, 1, 1.0),
    ],
)
def test_sglang_learns_its_ratio_from_decode_steps(units, output_tokens, left, ratio):
    model = engine(units=units, policy="sglang")
    requests = asked(*[(0, 29, output_tokens)] * 3)
    replica = Replica(engine=model, pool=CountedPool(model.kv))
    for row in range(3):
        sequence = sequence_of(requests, row, model, caching=False)
        sequence.context, sequence.produced = 33, 5
        replica.pool.take(sequence, 33)
        replica.running.append(sequence)
    sglang_decode(replica)
    assert len(replica.scheduled) == len(replica.running) == left
    assert replica.ratio == pytest.approx(ratio, abs=1e-12)


def test_sglang_forgets_its_ratio_when_idle():
    # The ratio is 1 after the retraction. With 0.7 the last one would be admitted at once.
    first = [(0.0, 4, 20), (0.0, 4, 20)]
    later = [(100.0, 4, 20), (100.0, 4, 20)]
    seen = serve(engine(units=42, policy="sglang"), asked(*first, *later))
    assert seen.records.admitted_s.tolist() == [0, 0, 100, 100]
    busy = serve(engine(units=42, policy="sglang"), asked(*first, (20.5, 4, 20), (20.5, 4, 20)))
    assert busy.records.admitted_s.tolist()[2:] == [22, 42]


# ── the prefix cache ────────────────────────────────────────────────────────────────────────────


def caching(units: int, **changes: Any) -> EngineModel:
    return engine(units=units, block_tokens=2, prefix_cache=True, **changes)


def test_hits_and_evictions_worked_by_hand():
    seen = serve(
        caching(6),
        with_prefixes(  # blocks are numbered 0 to 5, the queue of free ones is given for each
            (0, 5, 1, [0, 1]),  # computes 0 1 2: 3 4 5 2 1 0
            (10, 5, 1, [0, 1]),  # finds 0 1, computes 3: 4 5 2 3 1 0
            (20, 9, 1, [2, 3]),  # computes 4 5 2 3 and evicts 1: 0 1 3 2 5 4
            (30, 5, 1, [0, 1]),  # finds 0, computes 1 and evicts 3: 2 5 4 3 1 0
            (40, 9, 1, [2, 3]),  # finds 4 5 2
            block_tokens=4,
        ),
    )
    assert seen.records.cached_tokens.tolist() == [0, 4, 0, 2, 6]
    assert seen.counts[0].prefix_hit_tokens == 12
    assert seen.counts[0].peak_units == 5


def test_a_block_is_found_in_the_step_that_fills_it_and_counts_once():
    seen = serve(caching(6), with_prefixes((0, 5, 1, [0]), (0, 5, 1, [0]), block_tokens=4))
    assert seen.records.cached_tokens.tolist() == [0, 4]
    assert seen.records.first_token_s.tolist() == [1, 1]
    assert seen.counts[0].peak_units == 4


def test_at_least_one_token_is_computed():
    seen = serve(caching(6), with_prefixes((0, 4, 1, [0]), (5, 4, 1, [0]), block_tokens=4))
    assert seen.records.cached_tokens.tolist() == [0, 2]


def test_only_full_blocks_that_ids_cover_are_found():
    requests = with_prefixes((0, 9, 1, [0]), (5, 9, 1, [0]), (10, 3, 1, [0]), block_tokens=4)
    assert serve(caching(9), requests).records.cached_tokens.tolist() == [0, 4, 2]


def test_a_copy_of_a_cached_block_is_never_found():
    seen = serve(
        caching(3),
        with_prefixes(
            (0, 4, 1, [0]),  # computes 0 1
            (0, 4, 1, [0]),  # finds 0, computes 2 like 1; both end: 1 2 0
            (10, 2, 1, []),  # evicts 1: 2 0 1
            (20, 5, 1, [0]),  # finds 0, not 2
            block_tokens=4,
        ),
    )
    assert seen.records.cached_tokens.tolist() == [0, 2, 0, 2]


def test_a_copy_that_outlives_its_original_stays_private():
    seen = serve(
        caching(6),
        with_prefixes(
            (0, 4, 1, [0]),  # computes 0 1, ends: 3 4 5 1
            (0, 4, 6, [0]),  # finds 0, computes 2 like 1, takes 3, goes on
            (1, 5, 1, []),  # takes 4 5 and evicts 1
            (8, 5, 1, [0]),  # finds 0, not 2
            block_tokens=4,
        ),
    )
    assert seen.records.cached_tokens.tolist() == [0, 2, 0, 2]


def test_a_hit_among_the_free_blocks_takes_room():
    # 5 blocks. The first leaves 2 cached among 5 free ones; the long one takes 3 from the front.
    # The next finds 2 and needs 1 more: 3 of 2 free, so it waits for the end of the long one.
    requests = with_prefixes((0, 5, 1, [0]), (5, 5, 2, [1]), (6, 5, 1, [0]), block_tokens=4)
    seen = serve(caching(5), requests)
    assert seen.records.admitted_s.tolist() == [0, 5, 7]
    assert seen.records.cached_tokens.tolist() == [0, 0, 4]


def test_a_preempted_sequence_finds_its_own_blocks():
    requests = with_prefixes((0, 3, 4, [0]), (0, 3, 4, [1]), block_tokens=2)
    table = replace(SECOND_STEPS, token_s=1 + 0.01 * GRID)
    seen = serve(caching(4, table=table), requests)
    # The first takes the second's last block for its third, so the second finds its first one.
    assert seen.records.preemptions.tolist() == [0, 1]
    assert seen.counts[0].prefix_hit_tokens == 2
    assert seen.records.cached_tokens.tolist() == [0, 0]
    assert seen.records.last_token_s[1] == pytest.approx(6 + 0.01 * (6 + 2 + 1 + 1 + 3 + 1))


# ── refusals, routers and clients ───────────────────────────────────────────────────────────────


def test_what_can_never_be_served_is_rejected():
    model = engine(
        units=20,
        max_context_tokens=15,
        chunked_prefill=False,
        max_num_seqs=8,
        max_num_batched_tokens=8,
    )
    rows = asked((0, 8, 7), (0, 8, 8), (0, 9, 1), (0, 9, 1), (0, 1, 1))
    seen = serve(model, replace(rows, cached_tokens=np.array([0, 0, 0, 1, 0])))
    assert statuses(seen) == ["finished", "rejected", "rejected", "finished", "finished"]
    assert seen.records.replica.tolist() == [0, -1, -1, 0, 0]
    assert seen.records.cached_tokens.tolist() == [0, -1, -1, 1, 0]
    assert np.isnan(seen.records.admitted_s[[1, 2]]).all()
    tight = engine(units=20)
    assert statuses(serve(tight, asked((0, 10, 11), (0, 10, 12)))) == ["finished", "rejected"]


def test_round_robin_counts_rejected_requests():
    seen = serve(engine(units=9), asked((0, 1, 1), (0, 99, 1), (0, 1, 1), (0, 1, 1)), replicas=2)
    assert seen.records.replica.tolist() == [0, -1, 0, 1]


def test_least_outstanding_takes_the_lowest_number_and_sees_who_ends_now():
    # Within a tie of 1 the second has ended; at 1.5 it is 1 : 1, at 1.6 it is 2 : 1.
    requests = asked((0, 1, 3), (0, 1, 1), (1 - 5e-10, 1, 1), (1.5, 1, 1), (1.6, 1, 1))
    seen = serve(engine(), requests, replicas=2, router="least-outstanding")
    assert seen.records.replica.tolist() == [0, 1, 1, 0, 1]
    assert seen.records.admitted_s.tolist() == [0, 0, 1, 2, 2]


def test_clients_send_think_and_send_again():
    clients = Clients(count=2, think_time_s=0.5, steady_think=True)
    requests = asked(*[(0, 1, 2)] * 5)
    seen = serve(engine(max_num_seqs=1), requests, clients)
    # One at a time, two seconds each: each comes back at 0.5 after its end and waits.
    assert seen.records.arrival_s.tolist() == [0, 0, 2.5, 4.5, 6.5]
    assert seen.records.last_token_s.tolist() == [2, 4, 6, 8, 10]


def test_clients_begin_spread_and_a_refusal_is_over_at_once():
    requests = asked((0, 1, 1), (0, 99, 1), (0, 99, 1), (0, 1, 1))
    clients = Clients(count=2, think_time_s=3.0, steady_think=True, spread_s=10.0)
    seen = serve(engine(units=9), requests, clients)
    assert seen.records.arrival_s.tolist() == [0, 4, 5, 7]
    assert statuses(seen) == ["finished", "rejected", "rejected", "finished"]


def test_clients_that_are_ready_together_send_in_order_to_whom_has_least():
    requests = asked(*[(0, 1, 1)] * 6)
    seen = serve(engine(), requests, Clients(count=3), replicas=3, router="least-outstanding")
    assert seen.records.replica.tolist() == [0, 1, 2, 0, 1, 2]
    assert seen.records.last_token_s.tolist() == [1, 1, 1, 2, 2, 2]


# ── queues of known delay ───────────────────────────────────────────────────────────────────────


def waits_s(arrival_s: NDArray[np.float64], service_s: NDArray[np.float64]) -> list[float]:
    """Each one's wait before service, from its predecessor's (Lindley's recursion)."""
    waits = [0.0]
    for gap_s, served_s in zip(np.diff(arrival_s), service_s, strict=False):
        waits.append(max(waits[-1] + float(served_s) - float(gap_s), 0.0))
    return waits


@pytest.mark.parametrize("service", ["deterministic", "exponential"])
def test_one_sequence_at_a_time_is_a_single_server_queue(service):
    rng = np.random.default_rng(7)
    n, load, mean_tokens = 20_000, 0.7, 1_000
    arrivals = np.cumsum(rng.exponential(mean_tokens * 1e-3 / load, n))
    drawn = rng.exponential(mean_tokens, n) if service == "exponential" else np.full(n, mean_tokens)
    prompts = np.maximum(np.round(drawn), 1).astype(np.int64)
    table = replace(SECOND_STEPS, token_s=1e-3 * GRID)
    model = engine(units=100_000, table=table, max_num_seqs=1, max_num_batched_tokens=int(GRID[-1]))
    requests = Requests(
        arrival_s=arrivals, prompt_tokens=prompts, output_tokens=np.ones(n, dtype=np.int64)
    )
    seen = serve(model, requests)
    waited_s = seen.records.admitted_s - arrivals
    assert waited_s == pytest.approx(waits_s(arrivals, 1e-3 * prompts.astype(np.float64)), abs=1e-9)
    mean_wait_s = load / (1 - load) / (1 if service == "exponential" else 2)
    assert waited_s.mean() == pytest.approx(mean_wait_s, rel=0.07)


def test_littles_law_holds_for_the_running():
    rng = np.random.default_rng(3)
    n = 400
    requests = Requests(
        arrival_s=np.cumsum(rng.exponential(2.0, n)),
        prompt_tokens=rng.integers(1, 50, n),
        output_tokens=rng.integers(1, 30, n),
    )
    for policy in POLICIES:
        seen = serve(engine(table=PRICED, policy=policy), requests)
        in_service_s = seen.records.last_token_s - seen.records.admitted_s
        assert seen.counts[0].running_s == pytest.approx(in_service_s.sum())
        assert seen.counts[0].busy_s < seen.counts[0].running_s


def test_the_oracle_of_the_closed_form_agrees():
    rng = np.random.default_rng(5)
    n = 300
    arrivals = np.cumsum(rng.exponential(0.4, n))
    prompts, outputs = rng.integers(1, 60, n), rng.integers(1, 40, n)
    table = replace(PRICED, token_s=0.05 + 0.001 * GRID, sequence_s=0.002 * GRID, decoding_s=0.0)
    table = replace(table, max_batched_tokens=48, kv_token_s=1e-5, chunk_context_s=1e-6)

    other = oracle.Engine(table=table, max_running=16)
    rows = zip(arrivals.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
    expected = [oracle.Request(arrived_s=a, todo=p, context=0, output=o) for a, p, o in rows]
    coming, now_s = list(expected), 0.0
    while coming or other.waiting or other.running:
        while coming and coming[0].arrived_s <= now_s:
            other.waiting.append(coming.pop(0))
        other.admit()
        if other.running:
            now_s += other.step_s()
            other.advance(now_s)
        else:
            now_s = coming[0].arrived_s

    model = engine(table=table, max_num_seqs=16, max_num_batched_tokens=48)
    requests = Requests(arrival_s=arrivals, prompt_tokens=prompts, output_tokens=outputs)
    seen = serve(model, requests)
    assert seen.records.first_token_s == pytest.approx([r.first_s for r in expected], abs=1e-9)
    assert seen.records.last_token_s == pytest.approx([r.last_s for r in expected], abs=1e-9)
    assert seen.counts[0].steps == other.steps


# ── laws for any load; the pool and the clock are asserted at every step ────────────────────────


@st.composite
def loads(draw: st.DrawFn) -> Requests:
    """Few prompts with prefixes from a tree of ids, and short answers."""
    n = draw(st.integers(1, 12))
    parents = draw(st.lists(st.integers(-1, 5), min_size=6, max_size=6))
    chains: list[list[int]] = []
    for block, parent in enumerate(parents):
        chains.append([*(chains[parent] if 0 <= parent < block else []), block])
    prompts = draw(st.lists(st.integers(1, 30), min_size=n, max_size=n))
    rows = [
        (
            draw(st.floats(0, 20)),
            prompt,
            draw(st.integers(1, 20)),
            draw(st.sampled_from(chains))[: math.ceil(prompt / 4)],
        )
        for prompt in prompts
    ]
    return with_prefixes(*sorted(rows), block_tokens=4)


@st.composite
def fleets(draw: st.DrawFn) -> SimulatedFleet:
    """Replicas in want of blocks, of tokens in a step, or of places."""
    policy: Policy = draw(st.sampled_from(POLICIES))
    places = draw(st.integers(1, 8))
    model = engine(
        units=draw(st.integers(4, 60)),
        block_tokens=draw(st.sampled_from([1, 2, 4])),
        policy=policy,
        max_num_seqs=places,
        max_num_batched_tokens=places + draw(st.integers(0, 30)),
        whole_prompt_fits=draw(st.booleans()),
        prefix_cache=policy == "vllm" and draw(st.booleans()),
    )
    routers: list[Router] = ["round-robin", "least-outstanding"]
    replicas, router = draw(st.integers(1, 3)), draw(st.sampled_from(routers))
    return SimulatedFleet(engine=model, replicas=replicas, router=router)


@settings(max_examples=150, deadline=None)
@given(
    fleet=fleets(),
    requests=loads(),
    clients=st.none() | st.builds(Clients, count=st.integers(1, 5)),
)
def test_every_request_is_served_whole_or_rejected(fleet, requests, clients):
    seen = simulate_naive(fleet, requests, clients)
    records, kv = seen.records, fleet.engine.kv
    most = -(-(records.prompt_tokens + records.output_tokens - 1) // kv.block_tokens)
    finished = most <= kv.units
    assert statuses(seen) == ["finished" if fits else "rejected" for fits in finished]
    assert (records.arrival_s[finished] <= records.admitted_s[finished] + 1e-9).all()
    assert (records.admitted_s[finished] + 1 <= records.first_token_s[finished]).all()
    steps = records.output_tokens[finished] - 1
    assert (records.first_token_s[finished] + steps <= records.last_token_s[finished] + 1e-9).all()
    assert sum(c.preemptions for c in seen.counts) == records.preemptions.sum()
    assert all(c.peak_units <= kv.units for c in seen.counts)
    assert all(c.busy_s == pytest.approx(c.steps) for c in seen.counts)
