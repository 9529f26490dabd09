"""A recording reads the same in each of its published forms; a mistake in it is named."""

from __future__ import annotations

import gzip
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.errors import InputError
from tonnage.traffic import Arrivals, Requests, TracedRequest
from tonnage.traffic.draws import draw_requests
from tonnage.traffic.traces import BLOCK_TOKENS, load_trace, load_trace_requests, write_trace
from tonnage.workload import Lengths, TokenMix

SAMPLES = Path(__file__).parent / "samples"

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


@pytest.mark.parametrize("read", [load_trace, load_trace_requests])
@pytest.mark.parametrize(
    ("text", "column"), [(OWN, "arrival_s"), (MOONCAKE, "timestamp"), (AZURE, "TIMESTAMP")]
)
def test_rows_in_the_order_they_ended_are_refused(tmp_path, text, column, read):
    lines = text.splitlines()
    path = tmp_path / "trace"
    path.write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]))
    with pytest.raises(InputError) as caught:
        read(path)
    assert f":{len(lines)}: {column} is earlier than in the row before. Sort" in str(caught.value)


def test_lengths_that_were_not_recorded_are_not_known(tmp_path):
    (request,) = load(tmp_path, "arrival_s,input_tokens\n7,\n")
    assert request == TracedRequest(arrival_s=0.0)


times_ms = st.integers(0, 10**9)
lengths = st.integers(1, 10**6)
rows = st.lists(
    st.tuples(times_ms, lengths, lengths, st.lists(st.integers(0, 2**62), max_size=5)),
    min_size=1,
    max_size=20,
).map(
    lambda rows: [
        (ms, prompt, output, blocks[: -(-prompt // BLOCK_TOKENS)])
        for ms, prompt, output, blocks in sorted(rows)
    ]
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
    assert [each.prefix_blocks for each in from_own] == [tuple(blocks) for _, _, _, blocks in rows]
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
        ("arrival_s,input_tokens\n-1,5\n", ":2: arrival_s is '-1'"),
        ("arrival_s,input_tokens\ninf,5\n", ":2: arrival_s is 'inf'"),
        ("arrival_s,input_tokens\n1,nan\n", ":2: input_tokens is 'nan'"),
        ('arrival_s,input_tokens\n\n"1",\n\n1,x\n', ":5: input_tokens is 'x'"),
        ("arrival_s,input_tokens\n1,-5\n", ":2: input_tokens is '-5'"),
        ("arrival_s,input_tokens\n1,2.5\n", ":2: input_tokens is '2.5'"),
        ("arrival_s,input_tokens\n1,1e300\n", ":2: input_tokens is '1e300'"),
        ("arrival_s,input_tokens\n1\n", ":2: has 1 values for 2 columns"),
        ("arrival_s,input_tokens,prefix_hash_ids\n1,2,3 x\n", ":2: prefix_hash_ids is '3 x'"),
        (f"arrival_s,input_tokens,prefix_hash_ids\n1,2,{2**63}\n", ":2: prefix_hash_ids is '92"),
        ('{"timestamp": 1, "input_length": 2}\n{"timestamp": 1\n', ":2: is not a JSON object"),
        ('{"timestamp": true, "input_length": 2}\n', ":1: timestamp is 'True'"),
        ('{"timestamp": NaN, "input_length": 2}\n', ":1: timestamp is 'nan'"),
        ('{"timestamp": 1, "input_length": [2]}\n', ":1: input_length is '[2]'"),
        ('{"timestamp": 1, "input_length": true}\n', ":1: input_length is 'True'"),
        ('{"timestamp": 1, "input_length": 2, "hash_ids": [1.5]}\n', ":1: hash_ids is '[1.5]'"),
        ('{"timestamp": 1, "input_length": 2, "hash_ids": 3}\n', ":1: hash_ids is '3'"),
        ('{"input_length": 2}\n', ":1: timestamp is missing from the columns of Mooncake"),
        ('{"input": 2}\n', ":1: has the columns input, which are none"),
        ("when,what\n1,2\n", ":1: has the columns when, what, which are none"),
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
    with pytest.raises(InputError, match="cannot be read"):
        load_trace(Path("a\0b"))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_other_file_is_refused_and_never_a_crash(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_trace(path)
    with pytest.raises(InputError):
        load_trace_requests(path)


outer = ["benchmarks", "completed", "start_times", "input_lens", "output_lens"]
outer += ["timestamp", "input_length", "output_length", "hash_ids"]
inner = ["requests", "successful", "metrics", "request_totals"]
inner += ["request_start_time", "prompt_tokens", "output_tokens"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(inner), inside, max_size=4)
    ),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(outer), anything), min_size=1, max_size=3))
def test_json_of_any_shape_is_read_or_refused_and_never_a_crash(tmp_path_factory, documents):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text("\n".join(map(json.dumps, documents)))
    for read in (load_trace, load_trace_requests):
        try:
            found = read(path)
        except InputError as error:
            assert error.file == str(path)  # noqa: PT017 — either it is read, or refused
        else:
            assert len(found if isinstance(found, tuple) else found.requests) > 0


# ── requests as columns ──


def requests_of(folder: Path, text: str, **limits: int) -> Requests:
    path = folder / "trace"
    path.write_text(text, encoding="utf-8")
    return load_trace_requests(path, **limits).requests


def rows_of(requests: Requests) -> list[tuple[float, int, int]]:
    return [
        *zip(
            requests.arrival_s.tolist(),
            requests.prompt_tokens.tolist(),
            requests.output_tokens.tolist(),
            strict=True,
        )
    ]


def prefixes(requests: Requests) -> list[list[int]]:
    assert requests.prefix_ids is not None
    assert requests.prefix_start is not None
    return [each.tolist() for each in np.split(requests.prefix_ids, requests.prefix_start[1:-1])]


BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,0,1087,API log
45,ChatGPT,1087,230,1317,Conversation log
"""
VLLM: dict[str, Any] = {
    "completed": 2,
    "request_throughput": 1.0,
    "duration": 3.0,
    "start_times": [101.5, 101.0, 103.0],
    "input_lens": [20, 10, 30],
    "output_lens": [2, 1, 0],
    "errors": ["", "", "no connection"],
}


def record(start_s: float, prompt: int, output: int) -> dict[str, Any]:
    return {"request_start_time": start_s, "prompt_tokens": prompt, "output_tokens": output}


def guidellm(*benchmarks: tuple[list[dict[str, Any]], int, int]) -> dict[str, Any]:
    return {
        "metadata": {"version": 2},
        "benchmarks": [
            {
                "requests": {"successful": records, "errored": None},
                "metrics": {
                    "request_totals": {"successful": done, "errored": failed, "incomplete": 0}
                },
            }
            for records, done, failed in benchmarks
        ],
    }


@pytest.mark.parametrize("text", [OWN, MOONCAKE])
def test_columns_are_those_of_the_recording(tmp_path, text):
    requests = requests_of(tmp_path, text)
    assert rows_of(requests) == [(0.0, 1100, 52), (0.25, 600, 7), (3.0, 12, 1)]
    assert prefixes(requests) == [[0, 1, 2], [0, 3], [4]]
    assert requests.prefix_block_tokens == BLOCK_TOKENS
    assert requests.cached_tokens is None


def test_azure_and_burstgpt_have_no_prefixes_and_failures_are_counted(tmp_path):
    azure = requests_of(tmp_path, AZURE)
    assert azure.arrival_s == pytest.approx([0, 0.25, 3.0], abs=1e-6)
    assert (azure.prefix_ids, azure.prefix_start) == (None, None)
    path = tmp_path / "burst"
    path.write_text(BURSTGPT)
    burst = load_trace_requests(path)
    assert rows_of(burst.requests) == [(0.0, 472, 18), (40.0, 1087, 230)]
    assert burst.notes == ("1 of 3 recorded requests failed, and are left out",)
    assert [each.arrival_s for each in load_trace(path)] == [0.0, 40.0]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_a_result_of_vllm_is_replayed_as_it_was_sent(tmp_path, indent, packed):
    path = tmp_path / "result.json"
    text = json.dumps(VLLM, indent=indent).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    replayed = load_trace_requests(path)
    assert rows_of(replayed.requests) == [(0.0, 10, 1), (0.5, 20, 2)]
    assert replayed.notes == ("1 of 3 recorded requests failed, and are left out",)


def test_a_report_of_guidellm_is_replayed_whole_and_what_it_lacks_is_said(tmp_path):
    path = tmp_path / "benchmarks.json"
    one = [record(1000.0, 10, 5), record(1001.5, 11, 6)]
    path.write_text(json.dumps(guidellm((one, 2, 0), ([record(1010.0, 12, 7)], 1, 0))))
    whole = load_trace_requests(path)
    assert rows_of(whole.requests) == [(0.0, 10, 5), (1.5, 11, 6), (10.0, 12, 7)]
    assert whole.notes == ()
    path.write_text(json.dumps(guidellm((one, 16, 3))))
    assert load_trace_requests(path).notes == (
        "3 of 19 recorded requests failed, and are left out",
        "14 more requests were answered, and are not in the file",
    )


def without(*keys: str) -> str:
    return json.dumps({key: value for key, value in VLLM.items() if key not in keys})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("arrival_s,input_tokens\n1,5\n", ":1: output_tokens is missing from the columns of tonn"),
        ("input_tokens,output_tokens\n1,5\n", ":1: arrival_s is missing from the columns"),
        ("Timestamp,Request tokens\n1,5\n", ":1: Response tokens is missing from the columns of B"),
        ("arrival_s,input_tokens,output_tokens\n1,0,5\n", ":2: input_tokens is 0"),
        ("arrival_s,input_tokens,output_tokens\n1,,5\n", ":2: input_tokens is missing"),
        ("arrival_s,input_tokens,output_tokens\n1,5,5\n1,5,0\n", ":3: output_tokens is 0"),
        ("arrival_s,input_tokens,output_tokens\n1,5,\n", ":2: output_tokens is missing"),
        ("arrival_s,input_tokens,output_tokens\n1,5,nan\n", ":2: output_tokens is 'nan'"),
        ("arrival_s,input_tokens,output_tokens\n1,600,401\n", ":2: input_tokens is 600, with 401"),
        ("arrival_s,input_tokens,output_tokens\n1.7e9,5,5\n", ":2: arrival_s is a time of day"),
        (
            "arrival_s,input_tokens,output_tokens,cached_tokens\n1,5,5,6\n",
            ":2: cached_tokens is 6, of a prompt of 5",
        ),
        (
            "arrival_s,input_tokens,output_tokens,prefix_hash_ids\n1,512,5,1 2\n",
            ":2: prefix_hash_ids has 2 blocks, but a prompt of 512 tokens has 1",
        ),
        ('{"timestamp": 1, "input_length": 2}\n', ":1: output_length is missing from the columns"),
        ("Timestamp,Request tokens,Response tokens\n1,5,0\n", ": holds only requests that failed"),
        (without("start_times"), ": start_times is missing from the columns of a result of vllm"),
        (
            without("start_times", "input_lens", "output_lens"),
            ": start_times, input_lens, output_lens are missing from the columns of a result of v",
        ),
        (json.dumps(VLLM | {"start_times": 1}), ": start_times, input_lens, output_lens must"),
        (json.dumps(VLLM | {"input_lens": [1]}), ": start_times, input_lens, output_lens must"),
        (json.dumps(VLLM | {"input_lens": [9, "x", 9]}), ": input_lens[1] is 'x'"),
        (json.dumps(VLLM) + "\n" + json.dumps(VLLM), ": holds several results"),
        (
            json.dumps(VLLM | {"start_times": [], "input_lens": [], "output_lens": []}),
            ": holds no requests",
        ),
        (json.dumps({"benchmarks": []}), ": holds no requests"),
        (json.dumps({"benchmarks": 3}), ": holds no requests"),
        (json.dumps({"benchmarks": [None]}), ": holds no requests"),
        (
            json.dumps(guidellm(([{"prompt_tokens": 1, "output_tokens": 1}], 1, 0))),
            ": request_start_time is missing from the columns of a report of GuideLLM",
        ),
        (
            json.dumps(guidellm(([record(1, 5, 5), {"prompt_tokens": 1}], 2, 0))),
            ": benchmarks[0].requests.successful[1].request_start_time is 'None'",
        ),
        (
            json.dumps(guidellm(([record(1, 5, 5), record(1, 5, 0)], 2, 0))),
            ": benchmarks[0].requests.successful[1].output_tokens is 0",
        ),
    ],
)
def test_what_cannot_be_simulated_is_named_with_its_place_and_a_remedy(tmp_path, text, place):
    with pytest.raises(InputError) as caught:
        requests_of(tmp_path, text, max_context_tokens=1000)
    assert f"{tmp_path / 'trace'}{place}" in str(caught.value)
    assert caught.value.hint


def test_a_missing_start_time_names_the_flag_that_saves_it(tmp_path):
    with pytest.raises(InputError, match="--save-detailed"):
        requests_of(tmp_path, without("start_times"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("4998,x,5", "input_tokens is 'x'"), ("4998,5", "has 2 values for 3 columns")],
)
def test_the_place_of_a_row_is_its_line_whatever_stands_before(tmp_path, wrong, message):
    rows = "".join(f"{number},5,5\n\n" for number in range(5000))
    text = f'arrival_s,input_tokens,output_tokens\n"0",5,"\n5"\n{rows}'
    text = text.replace("4998,5,5", wrong)
    with pytest.raises(InputError) as caught:
        requests_of(tmp_path, text)
    line = text[: text.index(wrong)].count("\n") + 1
    assert f"{tmp_path / 'trace'}:{line}: {message}" in str(caught.value)


@given(rows)
def test_blocks_are_numbered_anew_without_gaps(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("blocks")
    text = "arrival_s,input_tokens,output_tokens,prefix_hash_ids\n" + "".join(
        f"{ms / 1000!r},{prompt},{output},{' '.join(map(str, blocks))}\n"
        for ms, prompt, output, blocks in rows
    )
    requests = requests_of(folder, text)
    assert rows_of(requests) == [(ms / 1000, prompt, output) for ms, prompt, output, _ in rows]
    recorded = [blocks for _, _, _, blocks in rows]
    if not any(recorded):
        assert requests.prefix_ids is None
        return
    found = prefixes(requests)
    renamed = {
        old: new
        for before, after in zip(recorded, found, strict=True)
        for old, new in zip(before, after, strict=True)
    }
    assert found == [[renamed[each] for each in blocks] for blocks in recorded]
    assert sorted(renamed.values()) == [*range(len(renamed))]


# ── real recordings ──


@pytest.mark.parametrize(
    "name", ["azure2023_code.csv", "azure2023_conv.csv", "mooncake_conversation.csv"]
)
def test_real_recordings_are_read_as_they_are(name):
    requests = load_trace_requests(SAMPLES / name, max_context_tokens=200_000).requests
    rows = [line.split(",") for line in (SAMPLES / name).read_text().splitlines()[1:]]
    assert rows_of(requests) == [(float(row[0]), int(row[1]), int(row[2])) for row in rows]
    if name.startswith("mooncake"):
        assert prefixes(requests) == [[*map(int, row[3].split())] for row in rows]


# ── written and read again ──


def test_a_drawn_load_is_replayed_to_the_last_bit(tmp_path):
    mix = TokenMix(
        prompt=Lengths(kind="lognormal", mean_tokens=900, cv=1.0),
        output=Lengths(kind="exponential", mean_tokens=200),
        cached_share=0.3,
    )
    arrivals = Arrivals(kind="gamma", rate_per_s=3.0, cv=2.0)
    drawn = draw_requests([(mix, 1.0)], 500, seed=11, arrivals=arrivals).requests
    path, again = tmp_path / "drawn.csv", tmp_path / "again.csv"
    write_trace(path, drawn)
    replayed = load_trace_requests(path).requests
    assert rows_of(replayed) == rows_of(drawn)
    assert drawn.cached_tokens is not None
    assert replayed.cached_tokens is not None
    assert replayed.cached_tokens.tolist() == drawn.cached_tokens.tolist()
    write_trace(again, replayed)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["azure2023_code.csv", "mooncake_conversation.csv"])
def test_a_recording_is_written_as_it_was_read(tmp_path, name):
    requests = load_trace_requests(SAMPLES / name).requests
    write_trace(tmp_path / "trace.csv", requests)
    again = load_trace_requests(tmp_path / "trace.csv").requests
    assert rows_of(again) == rows_of(requests)
    if requests.prefix_ids is not None:
        assert prefixes(again) == prefixes(requests)


def test_blocks_of_another_size_cannot_be_written(tmp_path):
    ones = np.ones(1, np.int64)
    requests = Requests(
        arrival_s=np.zeros(1),
        prompt_tokens=ones,
        output_tokens=ones,
        prefix_ids=np.zeros(1, np.int64),
        prefix_start=np.array([0, 1]),
        prefix_block_tokens=16,
    )
    with pytest.raises(ValueError, match="512 tokens, not 16"):
        write_trace(tmp_path / "trace.csv", requests)
    assert not [*tmp_path.iterdir()]
