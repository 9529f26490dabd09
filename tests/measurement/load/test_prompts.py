"""Prompts are as long as they should be, share what they should and nothing else, and repeat."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servers.llama import END, vocabulary
from tonnage.errors import InputError, UnsupportedError, UsageError
from tonnage.measurement.load import Conversation, Message, PromptSpec
from tonnage.measurement.load.prompts import conversations
from tonnage.measurement.load.synthetic import WORDS, Writer, writer_for
from tonnage.traffic.traces import BLOCK_TOKENS

CACHE_BLOCK = 16  # tokens; the smallest prefix that vLLM caches

synthetic = st.builds(
    PromptSpec,
    kind=st.just("synthetic"),
    prompt_tokens=st.integers(30, 300),
    prompt_tokens_cv=st.sampled_from([0.0, 0.5, 2.0]),
    output_tokens=st.none() | st.integers(1, 500),
    output_tokens_cv=st.sampled_from([0.0, 1.0]),
    shared_prefix_tokens=st.sampled_from([0, 1, 16, 29]),
    prefix_groups=st.integers(1, 4),
    turns=st.integers(1, 3),
    seed=st.integers(0, 2**64),
)


def take(spec: PromptSpec, number: int, **options) -> list[Conversation]:
    return list(islice(conversations(spec, **options), number))


def texts(found: list[Conversation]) -> list[str]:
    return [prompt.text for each in found for prompt in each.turns]


def leading(one: Sequence[object], other: Sequence[object]) -> int:
    """How many leading elements the two share."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def shared_words(one: str, other: str) -> int:
    return leading(one.split(), other.split())


# ── synthetic ──


@given(synthetic)
def test_a_text_has_the_words_it_says_and_the_same_seed_the_same_texts(spec):
    found = take(spec, 50)
    assert found == take(spec, 50)
    for prompt in chain.from_iterable(each.turns for each in found):
        assert len(prompt.text.split(" ")) == prompt.prompt_tokens
        assert set(prompt.text.split(" ")) <= set(WORDS)
        assert (prompt.output_tokens is None) == (spec.output_tokens is None)
        assert prompt.output_tokens is None or prompt.output_tokens >= 1


@given(synthetic, st.integers(1, 7))
def test_shards_interleaved_are_the_whole(spec, shards):
    parts = [conversations(spec, shard=shard, shards=shards) for shard in range(shards)]
    interleaved = list(islice(chain.from_iterable(zip(*parts, strict=False)), 60))
    assert interleaved == take(spec, 60)


@given(synthetic)
def test_prompts_share_the_prefix_of_their_group_and_no_more(spec):
    found = take(spec, 12)
    for index, one in enumerate(found):
        for other_index, other in enumerate(found[:index]):
            same_group = index % spec.prefix_groups == other_index % spec.prefix_groups
            shared = shared_words(one.turns[0].text, other.turns[0].text)
            if spec.shared_prefix_tokens and same_group:
                assert spec.shared_prefix_tokens <= shared < spec.shared_prefix_tokens + 4
            else:
                assert shared < 4
    later = [prompt.text for each in found for prompt in each.turns[1:]]
    assert len(set(later)) == len(later)


@given(st.integers(0, 2**64))
def test_another_seed_shares_no_cached_block(seed):
    spec = PromptSpec(kind="synthetic", prompt_tokens=60, shared_prefix_tokens=20, seed=seed)
    one, other = (texts(take(replace(spec, seed=each), 5)) for each in (seed, seed + 1))
    assert max(shared_words(a, b) for a in one for b in other) < CACHE_BLOCK


@pytest.mark.parametrize(("tokens", "number"), [(1, 256), (2, 20_000), (5, 20_000)])
def test_short_prompts_differ_as_long_as_there_are_words(tokens, number):
    found = texts(take(PromptSpec(kind="synthetic", prompt_tokens=tokens), number))
    assert len(set(found)) == number


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("shared", [0, 200])
@pytest.mark.parametrize("cv", [0.2, 0.5])
def test_lengths_have_the_mean_and_variation_that_are_stated(cv, shared, seed):
    number, mean = 4000, 500
    spec = PromptSpec(
        kind="synthetic",
        prompt_tokens=mean,
        prompt_tokens_cv=cv,
        shared_prefix_tokens=shared,
        output_tokens=mean,
        output_tokens_cv=cv,
        seed=seed,
    )
    prompts = [each.turns[0] for each in take(spec, number)]
    for lengths in (
        [prompt.prompt_tokens or 0 for prompt in prompts],
        [prompt.output_tokens or 0 for prompt in prompts],
    ):
        found = sum(lengths) / number
        deviation = math.sqrt(sum((length - found) ** 2 for length in lengths) / number)
        assert found == pytest.approx(mean, rel=5 * cv / math.sqrt(number))
        assert deviation / mean == pytest.approx(cv, rel=0.15)  # five errors of a lognormal's tail


def test_lengths_of_answers_and_prompts_change_apart():
    spec = PromptSpec(kind="synthetic", prompt_tokens=100, prompt_tokens_cv=0.5, output_tokens=50)
    longer = replace(spec, output_tokens=80, output_tokens_cv=1.0)
    assert texts(take(spec, 30)) == texts(take(longer, 30))
    alike = replace(spec, output_tokens=100, output_tokens_cv=0.5)
    prompts = [each.turns[0] for each in take(alike, 30)]
    assert [each.prompt_tokens for each in prompts] != [each.output_tokens for each in prompts]


@pytest.mark.parametrize(
    "spec",
    [
        PromptSpec(kind="synthetic"),
        PromptSpec(kind="synthetic", prompt_tokens=100, shared_prefix_tokens=100),
        PromptSpec(kind="dataset"),
        PromptSpec(kind="trace"),
        PromptSpec(kind="dataset", path="data.json", turns=2),
        PromptSpec(kind="trace", path="trace.csv", shared_prefix_tokens=1),
    ],
)
def test_a_spec_that_cannot_be_is_refused_before_the_first_prompt(spec):
    with pytest.raises(UsageError) as caught:
        conversations(spec)
    assert caught.value.hint


# ── tokenizers ──


def bpe(tokens: list[str], merges: list[tuple[str, str]]):
    tokenizers = pytest.importorskip("tokenizers")
    ranks = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ranks, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


@pytest.mark.parametrize("space_before", [True, False])
def test_with_a_tokenizer_texts_have_exactly_its_tokens(tmp_path, space_before):
    """One trained on other words than ours, so that most of ours are several tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=space_before)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=3000, show_progress=False)
    known = [f"{a}{b}{c}ing" for a in "bcdfgklm" for b in "aeiou" for c in "lmnrstz"]
    known += WORDS[:100]
    tokenizer.train_from_iterator([" ".join(known), *known] * 3, trainer)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    spec = PromptSpec(
        kind="synthetic", prompt_tokens=200, prompt_tokens_cv=0.5, shared_prefix_tokens=50
    )
    found = [each.turns[0] for each in take(spec, 100, tokenizer=str(path))]
    counted = [len(tokenizer.encode(prompt.text).ids) for prompt in found]
    assert counted == [prompt.prompt_tokens for prompt in found]
    assert sum(len(tokenizer.encode(word).ids) > 1 for word in WORDS) > 100


def test_our_own_words_come_first():
    assert writer_for(bpe(*vocabulary())) == Writer(WORDS)


def test_a_tokenizer_of_letters_is_refused():
    letters = ["Ġ", *(chr(code) for code in range(ord("a"), ord("z") + 1)), END]
    with pytest.raises(UnsupportedError, match="too few words"):
        writer_for(bpe(letters, []))


# ── dataset ──


@pytest.fixture
def dataset(tmp_path):
    rows = [
        {"id": "a", "question": "one", "extra": 1},
        {
            "id": "b",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "two"},
                {"role": "assistant", "content": "…"},
                {"role": "user", "content": "three"},
            ],
        },
        {"id": "c", "question": "four"},
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows))
    return PromptSpec(kind="dataset", path=str(path), output_tokens=9)


def test_a_dataset_repeats_without_end(dataset):
    found = take(dataset, 7)
    assert [each.turns[0].item for each in found] == [
        "a",
        "b",
        "c",
        "a_rep1",
        "b_rep1",
        "c_rep1",
        "a_rep2",
    ]
    assert texts(found) == ["one", "two", "three", "four", "one", "two", "three", "four", "one"]
    assert found[0].turns[0].fields == {"id": "a", "question": "one", "extra": 1}
    assert {prompt.output_tokens for each in found for prompt in each.turns} == {9}


def test_a_recorded_conversation_has_a_session_and_its_system_message_once(dataset):
    first, second = take(dataset, 2)[1].turns
    assert (first.session, first.turn, second.session, second.turn) == ("b", 0, "b", 1)
    assert first.history == (Message(role="system", content="Be brief."),)
    assert second.history == ()
    assert take(dataset, 1)[0].turns[0].session is None


def test_shards_of_a_dataset_interleaved_are_the_whole(dataset):
    parts: list[Iterator[Conversation]] = [
        conversations(dataset, shard=shard, shards=4) for shard in range(4)
    ]
    assert [next(parts[number % 4]) for number in range(20)] == take(dataset, 20)


def test_a_file_that_is_missing_is_refused_before_the_first_prompt(dataset):
    with pytest.raises(InputError):
        conversations(replace(dataset, path="none.json"))


# ── trace ──


def write_trace(folder, rows) -> PromptSpec:
    path = folder / "trace.csv"
    lines = (
        f"{at},{prompt},{output},{' '.join(map(str, blocks))}\n"
        for at, prompt, output, blocks in rows
    )
    path.write_text("arrival_s,input_tokens,output_tokens,prefix_hash_ids\n" + "".join(lines))
    return PromptSpec(kind="trace", path=str(path))


def test_a_trace_ends_with_its_recording(tmp_path):
    spec = write_trace(tmp_path, [(0, 10, 5, [1]), (0.5, 700, 0, [1, 2])])
    found = list(conversations(spec))
    assert [
        (each.arrival_s, each.turns[0].prompt_tokens, each.turns[0].output_tokens) for each in found
    ] == [
        (0.0, 10, 5),
        (0.5, 700, 1),  # no server gives an answer of no token
    ]
    shards = [list(conversations(spec, shard=shard, shards=3)) for shard in range(3)]
    assert shards == [found[:1], found[1:], []]


requests = st.lists(
    st.tuples(
        st.just(0),
        st.integers(1, 4 * BLOCK_TOKENS),
        st.just(1),
        st.lists(st.integers(0, 3), max_size=4),
    ),
    min_size=2,
    max_size=6,
)


@given(requests)
def test_prompts_share_exactly_the_blocks_that_were_recorded(tmp_path_factory, rows):
    spec = write_trace(tmp_path_factory.mktemp("blocks"), rows)
    found = texts(list(conversations(spec)))
    for text, (_, tokens, _, _) in zip(found, rows, strict=True):
        assert len(text.split()) == tokens
    for index, (_, tokens, _, blocks) in enumerate(rows):
        for other, (_, other_tokens, _, other_blocks) in enumerate(rows[:index]):
            shared_blocks = leading(blocks, other_blocks) * BLOCK_TOKENS
            shorter = min(tokens, other_tokens)
            shared = shared_words(found[index], found[other])
            assert min(shared_blocks, shorter) <= shared < shared_blocks + 4


def test_a_recording_without_lengths_takes_the_stated_ones(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,input_tokens\n0,\n")
    spec = PromptSpec(kind="trace", path=str(path), prompt_tokens=12, output_tokens=3)
    (only,) = conversations(spec)
    assert (only.turns[0].prompt_tokens, only.turns[0].output_tokens) == (12, 3)
    with pytest.raises(UsageError, match="no prompt length"):
        list(conversations(replace(spec, prompt_tokens=None)))
