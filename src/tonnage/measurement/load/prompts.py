"""Where prompts come from -> an endless stream of conversations, the same for the same seed.

Several processes share one stream: shard s of n takes every n-th conversation from the s-th on. A
stream is numbered, and each conversation made from its number alone, so that no shard needs what
the others take. A stream made again has the same texts, which a prefix cache still holds: give each
level that is to meet a cold cache a seed of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from tonnage.errors import UsageError
from tonnage.measurement.load import Conversation, Prompt, PromptSpec
from tonnage.measurement.load.datasets import load_dataset, repeated_item
from tonnage.measurement.load.synthetic import Writer, writer_for
from tonnage.tokenizer import load_tokenizer
from tonnage.traffic import TracedRequest
from tonnage.traffic.traces import BLOCK_TOKENS, load_trace

_DRAWN_AT_ONCE = 1024


def conversations(
    spec: PromptSpec, *, tokenizer: str | None = None, shard: int = 0, shards: int = 1
) -> Iterator[Conversation]:
    """Every `shards`-th conversation of `spec`, from the `shard`-th on.

    Endless, but for a trace, which ends with its recording. `tokenizer` is a tokenizer.json by
    which texts have exactly the tokens that are asked for. Files are read at once: raises
    InputError for what they hold, and UsageError for a spec that cannot be.
    """
    if spec.kind != "synthetic" and (spec.turns != 1 or spec.shared_prefix_tokens):
        raise UsageError(
            f"a {spec.kind} has turns and shared prefixes of its own.",
            hint="Leave them out, or use synthetic prompts.",
        )
    numbers = count(shard, shards)
    if spec.kind == "dataset":
        return _from_dataset(spec, numbers)
    writer = Writer() if tokenizer is None else writer_for(load_tokenizer(Path(tokenizer)))
    if spec.kind == "trace":
        requests = load_trace(_path(spec))
        chosen = range(len(requests))[shard::shards]
        return (_replay(spec, number, requests[number], writer) for number in chosen)
    return _synthesize(spec, numbers, writer)


def _path(spec: PromptSpec) -> Path:
    if spec.path is None:
        raise UsageError(f"a {spec.kind} needs a file.", hint="Name the file it is in.")
    return Path(spec.path)


def _from_dataset(spec: PromptSpec, numbers: Iterator[int]) -> Iterator[Conversation]:
    rows = load_dataset(_path(spec), id_key=spec.id_key, text_key=spec.text_key)
    output = _output_lengths(spec)

    def conversation(number: int) -> Conversation:
        row = repeated_item(rows, number)
        several = len(row.questions) > 1
        return Conversation(
            turns=tuple(
                Prompt(
                    item=row.id,
                    text=question,
                    history=row.history if turn == 0 else (),
                    session=row.id if several else None,
                    turn=turn,
                    output_tokens=output.at(number) if output else None,
                    fields=row.fields,
                )
                for turn, question in enumerate(row.questions)
            )
        )

    return map(conversation, numbers)


def _synthesize(spec: PromptSpec, numbers: Iterator[int], writer: Writer) -> Iterator[Conversation]:
    """Texts whose leading `shared_prefix_tokens` are their group's and whose rest is their own.

    The prefix is the same length in each prompt, so the rest varies enough for the whole to have
    the stated mean and cv. It stands in the first turn of a conversation, which the later ones are
    answered after: those are the rest alone.
    """
    shared = spec.shared_prefix_tokens
    if spec.prompt_tokens is None:
        raise UsageError("synthetic prompts need a number of tokens.", hint="For example 500.")
    if spec.prompt_tokens <= shared:
        raise UsageError(
            f"prompts of {spec.prompt_tokens} tokens cannot begin with {shared} shared ones and"
            " still differ.",
            hint="Share fewer tokens, or make the prompts longer.",
        )
    own_mean = spec.prompt_tokens - shared
    own = _Lengths(
        mean=own_mean,
        cv=spec.prompt_tokens_cv * spec.prompt_tokens / own_mean,
        seed=spec.seed,
        concern=0,
    )
    output = _output_lengths(spec)
    prefixes = [
        writer.text(shared, stream=f"{spec.seed}/prefix", index=group)
        for group in range(spec.prefix_groups if shared else 0)
    ]

    def conversation(number: int) -> Conversation:
        prefix = prefixes[number % len(prefixes)] if prefixes else ""
        item = str(number + 1)
        prompts = []
        for turn in range(spec.turns):
            index = number * spec.turns + turn
            own_tokens = own.at(index)
            text = writer.text(own_tokens, stream=f"{spec.seed}/own", index=index)
            led = turn == 0 and shared > 0
            prompts.append(
                Prompt(
                    item=item,
                    text=f"{prefix} {text}" if led else text,
                    session=item if spec.turns > 1 else None,
                    turn=turn,
                    prompt_tokens=own_tokens + (shared if led else 0),
                    output_tokens=output.at(index) if output else None,
                )
            )
        return Conversation(turns=tuple(prompts))

    return map(conversation, numbers)


def _replay(spec: PromptSpec, number: int, request: TracedRequest, writer: Writer) -> Conversation:
    """A text of the recorded length: that of each leading block by its id, then one of its own."""
    tokens = request.prompt_tokens if request.prompt_tokens is not None else spec.prompt_tokens
    if tokens is None:
        raise UsageError(
            f"request {number + 1} of the recording has no prompt length.",
            hint="State the number of prompt tokens.",
        )
    tokens = max(tokens, 1)
    parts = []
    left = tokens
    for block in request.prefix_blocks:
        size = min(BLOCK_TOKENS, left)  # the last block of a prompt is rarely full
        if size == 0:
            break
        parts.append(writer.text(size, stream=f"{spec.seed}/block", index=block))
        left -= size
    if left:
        parts.append(writer.text(left, stream=f"{spec.seed}/own", index=number))
    output = request.output_tokens if request.output_tokens is not None else spec.output_tokens
    prompt = Prompt(
        item=str(number + 1),
        text=" ".join(parts),
        prompt_tokens=tokens,
        output_tokens=None if output is None else max(output, 1),
    )
    return Conversation(turns=(prompt,), arrival_s=request.arrival_s)


def _output_lengths(spec: PromptSpec) -> _Lengths | None:
    if spec.output_tokens is None:
        return None
    return _Lengths(mean=spec.output_tokens, cv=spec.output_tokens_cv, seed=spec.seed, concern=1)


@dataclass(slots=True, kw_only=True)
class _Lengths:
    """Whole numbers of tokens, at least 1, lognormal about `mean`; each is found by its number.

    `concern` keeps lengths of prompts and of answers apart, so that changing one leaves the other.
    """

    mean: float
    cv: float
    seed: int
    concern: int
    _block: int = -1
    _drawn: list[int] = field(default_factory=list)

    def at(self, number: int) -> int:
        """The length of this number."""
        block, place = divmod(number, _DRAWN_AT_ONCE)
        if block != self._block:
            self._block, self._drawn = block, self._draw(block)
        return self._drawn[place]

    def _draw(self, block: int) -> list[int]:
        """One block: exp(N(mu, sigma)), sigma^2 = ln(1 + cv^2), mu = ln(mean) - sigma^2 / 2."""
        if self.cv == 0:
            return [max(round(self.mean), 1)] * _DRAWN_AT_ONCE
        seeds = np.random.SeedSequence(self.seed, spawn_key=(self.concern, block))
        variance = math.log1p(self.cv**2)
        lengths = np.random.default_rng(seeds).lognormal(
            math.log(self.mean) - variance / 2, math.sqrt(variance), _DRAWN_AT_ONCE
        )
        whole: list[int] = np.maximum(np.rint(lengths), 1).astype(int).tolist()
        return whole
