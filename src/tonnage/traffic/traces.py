"""A recording of real traffic, in one of the forms people publish <-> its requests in order."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

from tonnage.files import write_atomically
from tonnage.traffic import Requests, TracedRequest, Traffic
from tonnage.traffic.forms import OWN
from tonnage.traffic.recordings import NOT_RECORDED, Recording, first, read_recording

BLOCK_TOKENS = 512  # of one prefix block, in Mooncake's published traces and in ours
_CLOCK_S = 1e8  # three years: a time of a clock, not of a load


def load_trace(path: Path) -> tuple[TracedRequest, ...]:
    """The requests of `path` by arrival, the first at 0; lengths may be missing.

    Raises InputError for what is no recording, and for rows that are not sorted by time.
    """
    recording = read_recording(path, output_needed=False)
    ids = recording.block_ids.tolist()
    ends = np.cumsum(recording.block_count)
    return tuple(
        TracedRequest(
            arrival_s=arrival_s,
            prompt_tokens=None if prompt == NOT_RECORDED else prompt,
            output_tokens=None if output == NOT_RECORDED else output,
            prefix_blocks=tuple(ids[start:end]),
        )
        for arrival_s, prompt, output, start, end in zip(
            (recording.arrival_s - recording.arrival_s[0]).tolist(),
            recording.prompt_tokens.tolist(),
            recording.output_tokens.tolist(),
            (ends - recording.block_count).tolist(),
            ends.tolist(),
            strict=True,
        )
    )


def load_trace_requests(path: Path, *, max_context_tokens: int | None = None) -> Traffic:
    """The requests of `path` by arrival, every length known; a note says what was left out.

    Times of tonnage's own CSV count from the start of the load and are kept to the last bit; in all
    other forms they count from the first request. Prefix blocks are numbered anew from 0. Raises
    InputError for what is no recording, for rows that are not sorted by time, and for a request
    without prompt or output, longer than `max_context_tokens`, or with more blocks than prompt.
    """
    recording = read_recording(path, output_needed=True)
    _refuse_impossible(recording, max_context_tokens)
    arrival_s = recording.arrival_s
    if not recording.form.counts_from_start:
        arrival_s = arrival_s - arrival_s[0]
    cached = recording.cached_tokens
    ids, starts = None, None
    if len(recording.block_ids):
        ids = np.unique(recording.block_ids, return_inverse=True)[1].astype(np.int64)
        starts = np.concatenate(([0], np.cumsum(recording.block_count)))
    return Traffic(
        requests=Requests(
            arrival_s=arrival_s,
            prompt_tokens=recording.prompt_tokens,
            output_tokens=recording.output_tokens,
            cached_tokens=np.maximum(cached, 0) if (cached > 0).any() else None,
            prefix_ids=ids,
            prefix_start=starts,
            prefix_block_tokens=BLOCK_TOKENS,
        ),
        notes=recording.notes,
    )


def _refuse_impossible(recording: Recording, max_context_tokens: int | None) -> None:
    form = recording.form
    prompt, output = recording.prompt_tokens, recording.output_tokens
    if form.counts_from_start and recording.arrival_s[0] > _CLOCK_S:
        raise recording.refuse(
            0,
            form.arrival,
            "is a time of day and year, not one of the load.",
            "Count from the start of the load: take the first time from all.",
        )
    for column, tokens in ((form.prompt, prompt), (form.output, output)):
        if (index := first(tokens < 1)) is not None:
            raise recording.refuse(
                index,
                column,
                "is 0." if tokens[index] == 0 else "is missing.",
                "Leave out what was not answered, and give every other request its tokens.",
            )
    if (index := first(recording.cached_tokens > prompt)) is not None:
        raise recording.refuse(
            index,
            form.cached,
            f"is {recording.cached_tokens[index]:,}, of a prompt of {prompt[index]:,}.",
            "What is cached is part of the prompt.",
        )
    if (index := first(recording.block_count > -(-prompt // BLOCK_TOKENS))) is not None:
        raise recording.refuse(
            index,
            form.blocks,
            f"has {recording.block_count[index]} blocks, but a prompt of {prompt[index]:,} tokens"
            f" has {-(-prompt[index] // BLOCK_TOKENS)}.",
            f"A block is {BLOCK_TOKENS} tokens, the last one perhaps fewer.",
        )
    if max_context_tokens is None:
        return
    if (index := first(prompt + output > max_context_tokens)) is not None:
        raise recording.refuse(
            index,
            form.prompt,
            f"is {prompt[index]:,}, with {output[index]:,} of output: more than a context of"
            f" {max_context_tokens:,} tokens.",
            "Leave out such requests, or serve a model with a longer context.",
        )


def write_trace(path: Path, requests: Requests) -> None:
    """Write tonnage's own CSV, whole or not at all; `load_trace_requests` gives the same back.

    Raises ValueError for prefix blocks of another size than the CSV's, InputError for a path that
    cannot be written.
    """
    columns: dict[str, Iterable[str]] = {
        OWN.arrival: map(repr, requests.arrival_s.tolist()),
        OWN.prompt: map(str, requests.prompt_tokens.tolist()),
        OWN.output: map(str, requests.output_tokens.tolist()),
    }
    if requests.cached_tokens is not None:
        columns[OWN.cached] = map(str, requests.cached_tokens.tolist())
    if requests.prefix_ids is not None and requests.prefix_start is not None:
        if requests.prefix_block_tokens != BLOCK_TOKENS:
            msg = f"prefix blocks are of {BLOCK_TOKENS} tokens, not {requests.prefix_block_tokens}"
            raise ValueError(msg)
        ids = [*map(str, requests.prefix_ids.tolist())]
        bounds = requests.prefix_start.tolist()
        columns[OWN.blocks] = (" ".join(ids[start:end]) for start, end in pairwise(bounds))
    rows = map(",".join, zip(*columns.values(), strict=True))
    write_atomically(path, "\n".join([",".join(columns), *rows, ""]))
