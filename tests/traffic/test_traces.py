"""A recording reads the same in each of its published forms; a mistake in it is named."""

from __future__ import annotations

import gzip
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.errors import InputError
from tonnage.traffic import TracedRequest
from tonnage.traffic.traces import load_trace

EXPECTED = (
    TracedRequest(arrival_s=0.0, prompt_tokens=1100, output_tokens=52, prefix_blocks=(0, 1, 2)),
    TracedRequest(arrival_s=0.25, prompt_tokens=600, output_tokens=7, prefix_blocks=(0, 3)),
    TracedRequest(arrival_s=3.0, prompt_tokens=12, output_tokens=1, prefix_blocks=(4,)),
)
OWN = """arrival_s,input_tokens,output_tokens,prefix_hash_ids
0.000,1100,52,0 1 2
0.250,600,7,0 3
3.000,12,1,4
"""
MOONCAKE = """{"timestamp": 5000, "input_length": 1100, "output_length": 52, "hash_ids": [0, 1, 2]}
{"timestamp": 5250, "input_length": 600, "output_length": 7, "hash_ids": [0, 3]}
{"timestamp": 8000, "input_length": 12, "output_length": 1, "hash_ids": [4]}
"""
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,1100,52
2023-11-16 18:15:46.9305900,600,7
2023-11-16 18:15:49.6805900,12,1
"""


def load(folder: Path, text: str, name: str = "trace") -> tuple[TracedRequest, ...]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_trace(path)


@pytest.mark.parametrize("text", [OWN, MOONCAKE])
def test_published_forms_are_recognised_by_their_columns(tmp_path, text):
    assert load(tmp_path, text) == EXPECTED


def test_azure_publishes_no_prefixes(tmp_path):
    requests = load(tmp_path, AZURE)
    assert [each.arrival_s for each in requests] == pytest.approx([0, 0.25, 3.0], abs=1e-6)
    assert [each.prompt_tokens for each in requests] == [1100, 600, 12]
    assert {each.prefix_blocks for each in requests} == {()}


def test_times_without_a_zone_do_not_jump_with_the_clocks_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        text = "TIMESTAMP,ContextTokens\n2024-03-31 01:30:00,1\n2024-03-31 03:30:00,1\n"
        assert [each.arrival_s for each in load(tmp_path, text)] == [0, 7200]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_gzip_a_byte_order_mark_and_carriage_returns_change_nothing(tmp_path):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(("\ufeff" + OWN.replace("\n", "\r\n")).encode()))
    assert load_trace(path) == EXPECTED


def test_rows_in_the_order_they_ended_come_in_the_order_they_arrived(tmp_path):
    header, *rows = OWN.splitlines()
    assert load(tmp_path, "\n".join([header, *reversed(rows)])) == EXPECTED


def test_lengths_that_were_not_recorded_are_not_known(tmp_path):
    (request,) = load(tmp_path, "arrival_s,input_tokens\n7,\n")
    assert request == TracedRequest(arrival_s=0.0)


times_ms = st.integers(0, 10**9)
lengths = st.integers(0, 10**6)
rows = st.lists(
    st.tuples(times_ms, lengths, lengths, st.lists(st.integers(0, 2**62), max_size=5)),
    min_size=1,
    max_size=20,
)


@given(rows)
def test_every_form_of_one_recording_reads_the_same(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("forms")
    own = "arrival_s,input_tokens,output_tokens,prefix_hash_ids\n" + "".join(
        f"{ms / 1000!r},{prompt},{output},{' '.join(map(str, blocks))}\n"
        for ms, prompt, output, blocks in rows
    )
    mooncake = "".join(
        json.dumps(
            {"timestamp": ms, "input_length": prompt, "output_length": output, "hash_ids": blocks}
        )
        + "\n"
        for ms, prompt, output, blocks in rows
    )
    start = datetime(2024, 5, 10, tzinfo=UTC)
    azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
        f"{start + timedelta(milliseconds=ms)},{prompt},{output}\n"
        for ms, prompt, output, _ in rows
    )
    from_own, from_mooncake, from_azure = (load(folder, text) for text in (own, mooncake, azure))
    assert from_own == from_mooncake
    assert [each.prefix_blocks for each in from_own] == [
        tuple(blocks) for _, _, _, blocks in sorted(rows, key=lambda row: row[0])
    ]
    for one, other in zip(from_own, from_azure, strict=True):
        assert one.arrival_s == pytest.approx(other.arrival_s, abs=1e-3)
        assert (one.prompt_tokens, one.output_tokens) == (other.prompt_tokens, other.output_tokens)
    assert from_own[0].arrival_s == 0


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("arrival_s,input_tokens\nsoon,5\n", ":2: arrival_s is 'soon'"),
        ("arrival_s,input_tokens\n1,5\nnan,5\n", ":3: arrival_s is 'nan'"),
        ("arrival_s,input_tokens\n1,five\n", ":2: input_tokens is 'five'"),
        ("arrival_s,input_tokens\n1,-5\n", ":2: input_tokens is '-5'"),
        ("arrival_s,input_tokens\n1,2.5\n", ":2: input_tokens is '2.5'"),
        ("arrival_s,input_tokens\n1,1e300\n", ":2: input_tokens is '1e300'"),
        ("arrival_s,input_tokens\n1\n", ":2: has 1 values for 2 columns"),
        ("arrival_s,input_tokens,prefix_hash_ids\n1,2,3 x\n", ":2: prefix_hash_ids is '3 x'"),
        ('{"timestamp": 1, "input_length": 2}\n{"timestamp": 1\n', ":2: is not a JSON object"),
        ('{"timestamp": true, "input_length": [2]}\n', ":1: input_length is '[2]'"),
        ('{"timestamp": 1, "input_length": 2, "hash_ids": 3}\n', ":1: hash_ids is '3'"),
        ('{"input_length": 2}\n', ":1: has the columns input_length, which are none"),
        ("when,what\n1,2\n", ":2: has the columns when, what, which are none"),
        ("TIMESTAMP,ContextTokens\n16/11/2023,5\n", ":2: TIMESTAMP is '16/11/2023'"),
        ("", ": holds no requests"),
        ("arrival_s,input_tokens\n", ": holds no requests"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_a_remedy(tmp_path, text, place):
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert f"{tmp_path / 'trace'}{place}" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(gzip.compress(OWN.encode())[:40], "damaged gzip", id="cut off"),
        pytest.param(b"\x1f\x8bnothing", "damaged gzip", id="no gzip"),
        pytest.param(b"arrival_s,\xff\n1,2\n", "not UTF-8", id="no text"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    path = tmp_path / "trace"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_trace(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_trace(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        load_trace(tmp_path)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_other_file_is_refused_and_never_a_crash(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_trace(path)
