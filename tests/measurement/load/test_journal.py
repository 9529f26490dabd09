"""What was kept is read back, whatever happened to whoever kept it."""

import json
import signal
import subprocess
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import cast, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tonnage.errors import InputError
from tonnage.measurement.load import Failure, LlmCall, Phase, Record, TokenSource
from tonnage.measurement.load.journal import Journal, read_records, record_line

ROOT = Path(__file__).resolve().parents[3]
LITERALS = {"Phase": Phase, "Failure": Failure, "TokenSource": TokenSource}

micro = st.integers(-(10**12), 10**12).map(lambda number: number / 1e6)
texts = st.text(max_size=20) | st.sampled_from(["\ud800", "\u2028", "\x00\n\r"])
small = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def values_of(kind: str) -> st.SearchStrategy[object]:
    """Values of a field, by its annotation."""
    if kind.endswith(" | None"):
        return st.none() | values_of(kind.removesuffix(" | None"))
    if kind in LITERALS:
        return st.sampled_from(get_args(LITERALS[kind]))
    return {
        "str": texts,
        "int": st.integers(0, 2**40),
        "float": micro,
        "tuple[float, ...]": st.lists(micro, max_size=5).map(tuple),
        "tuple[LlmCall, ...]": st.lists(records_of(LlmCall), max_size=2).map(tuple),
    }[kind]


def records_of(noun):
    return st.builds(noun, **{each.name: st.deferred(_named(each)) for each in fields(noun)})


def _named(each):
    return lambda: values_of(each.type)


records = records_of(Record)
RECORD = Record(
    level="c1", phase="measured", item="1", scheduled_unix_s=1e9, lateness_s=0.0, e2e_s=1.5
)


def write(path, kept):
    journal = Journal(path)
    for record in kept:
        journal.keep(record)
    journal.close()


@small
@given(kept=st.lists(records, max_size=5))
def test_what_is_kept_is_read(tmp_path, kept):
    path = tmp_path / "requests.jsonl"
    path.unlink(missing_ok=True)
    write(path, kept)
    assert list(read_records(path)) == kept
    for line, record in zip(path.read_text().splitlines(), kept, strict=True):
        stated = json.loads(line)
        for each in fields(Record):
            default = each.default is not MISSING
            assert (each.name in stated) or (default and getattr(record, each.name) == each.default)


@small
@given(kept=st.lists(records, min_size=1, max_size=4), data=st.data())
def test_a_file_cut_anywhere_loses_only_the_line_that_was_cut(tmp_path, kept, data):
    path = tmp_path / "requests.jsonl"
    lines = [record_line(record) for record in kept]
    cut = data.draw(st.integers(0, sum(map(len, lines))))
    path.write_bytes(b"".join(lines)[:cut])
    whole = path.read_bytes().count(b"\n")
    assert list(read_records(path)) == kept[:whole]
    journal = Journal(path)
    assert path.read_bytes() == b"".join(lines[:whole])
    journal.keep(RECORD)
    assert journal.size_bytes == path.stat().st_size
    journal.close()
    assert list(read_records(path)) == [*kept[:whole], RECORD]


def test_a_torn_line_longer_than_any_buffer_is_cut_off_too(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(record_line(RECORD) + b"x" * 300_000)
    Journal(path).close()
    assert path.read_bytes() == record_line(RECORD)


def test_reading_can_begin_at_a_later_line(tmp_path):
    path = tmp_path / "requests.jsonl"
    write(path, [RECORD, replace(RECORD, item="2")])
    (later,) = read_records(path, from_byte=len(record_line(RECORD)))
    assert later.item == "2"


GOOD = json.loads(record_line(RECORD))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be an object"),
        (json.dumps(GOOD | {"surprise": 1}), "surprise is not a key"),
        (json.dumps(GOOD | {"e2e_s": "1"}), "e2e_s is not what"),
        (json.dumps(GOOD | {"e2e_s": True}), "e2e_s is not what"),
        (json.dumps(GOOD | {"e2e_s": float("nan")}), "e2e_s is not what"),
        (json.dumps(GOOD | {"turn": 1.5}), "turn is not what"),
        (json.dumps(GOOD | {"phase": "cooling"}), "phase is not what"),
        (json.dumps(GOOD | {"failure": ["http"]}), "failure is not what"),
        (json.dumps(GOOD | {"token_s": [1, None]}), "token_s is not what"),
        (json.dumps({key: GOOD[key] for key in GOOD if key != "item"}), "item is missing"),
        (json.dumps(GOOD | {"llm_calls": [3]}), "llm_calls must be an object"),
        (json.dumps(GOOD | {"llm_calls": [{"id": "a"}]}), "llm_calls.ended_unix_s is missing"),
        (json.dumps(GOOD | {"llm_calls": [{"ids": "a"}]}), "llm_calls.ids is not a key"),
    ],
)
def test_what_is_no_record_is_named_with_its_line(tmp_path, line, said):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(record_line(RECORD) + line.encode() + b"\n" + record_line(RECORD))
    with pytest.raises(InputError, match=r"requests\.jsonl:2: ") as refused:
        list(read_records(path))
    assert said in str(refused.value)


def test_no_file_is_said_to_be_none(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        list(read_records(tmp_path / "requests.jsonl"))
    with pytest.raises(InputError, match="cannot be written: No such file"):
        Journal(tmp_path / "nowhere" / "requests.jsonl")


def test_a_time_that_is_none_is_never_written():
    for wrong in (
        replace(RECORD, runtime_s=float("nan")),
        replace(RECORD, output_tokens=cast("int", 1.5)),
    ):
        with pytest.raises(ValueError, match=r"no time|format code"):
            record_line(wrong)
    call = LlmCall(id="1", started_unix_s=0.0, ended_unix_s=float("inf"))
    with pytest.raises(ValueError, match="JSON compliant"):
        record_line(replace(RECORD, llm_calls=(call,)))


def test_two_measurements_do_not_write_one_file(tmp_path):
    first = Journal(tmp_path / "requests.jsonl")
    with pytest.raises(InputError, match="by another measurement"):
        Journal(tmp_path / "requests.jsonl")
    first.close()
    Journal(tmp_path / "requests.jsonl").close()


# ── other processes ─────────────────────────────────────────────────────────────────────────────

KEEPING = """
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import cast, get_args
from tests.measurement.load.test_journal import RECORD
from tonnage.measurement.load.journal import Journal

journal = Journal(Path(sys.argv[1]))
for number in count():
    journal.keep(replace(RECORD, item=str(number), error="x" * (number % 5000)))
    print(number, flush=True)
"""


def test_killed_at_any_instant_every_record_that_was_kept_is_there(tmp_path):
    path = tmp_path / "requests.jsonl"
    before = 0
    for wanted in (1, 500):
        command = [sys.executable, "-c", KEEPING, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(wanted):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            reported = wanted + len([line for line in process.stdout if line.endswith("\n")])
        kept = list(read_records(path))[before:]
        assert [each.item for each in kept] == [str(number) for number in range(len(kept))]
        assert reported <= len(kept) <= reported + 1
        before += len(kept)


FILLING = """
import resource, signal, sys
from pathlib import Path
from typing import cast, get_args
from tests.measurement.load.test_journal import RECORD
from tonnage.errors import InputError
from tonnage.measurement.load.journal import Journal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
kept = 0
for _ in range(100):
    try:
        journal.keep(RECORD)
        kept += 1
    except InputError as error:
        assert "cannot be written: File too large" in str(error), error
print(kept)
"""


def test_a_full_disk_leaves_whole_lines(tmp_path):
    path = tmp_path / "requests.jsonl"
    command = [sys.executable, "-c", FILLING, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 100
    assert list(read_records(path)) == [RECORD] * int(done.stdout)
    assert path.read_bytes().endswith(b"}\n")
