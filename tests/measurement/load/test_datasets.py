"""A dataset reads the same in every form it is kept in; a mistake in it is named."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.errors import InputError
from tonnage.measurement.load import Message
from tonnage.measurement.load.datasets import Row, load_dataset, repeat_items

ROWS = [
    {"id": "a", "question": "What is 2 + 2?", "answer": "4"},
    {"id": "b", "question": 'A comma, a "quote"\nand a line.', "answer": "é"},
    {"id": "c", "question": "[1,], {2,}", "answer": ","},
]
ENDINGS = ["json", "columns.json", "index.json", "jsonl", "csv", "parquet"]


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if path.name.endswith("columns.json"):
        path.write_text(json.dumps(columns))
    elif path.name.endswith("index.json"):
        indexed = {name: dict(enumerate(values)) for name, values in columns.items()}
        path.write_text(json.dumps(indexed))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    elif path.suffix == ".csv":
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, list(columns))
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(stream.getvalue(), newline="", encoding="utf-8")
    else:
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.table(columns), path)
    return path


def load_text(folder: Path, text: str, name: str = "data.json", **options) -> tuple[Row, ...]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_dataset(path, **options)


def ids(rows: tuple[Row, ...]) -> list[str]:
    return [row.id for row in rows]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_form_reads_the_same(tmp_path, ending):
    rows = load_dataset(write_rows(tmp_path / f"data.{ending}", ROWS))
    assert [(row.id, row.text, dict(row.fields)) for row in rows] == [
        (row["id"], row["question"], row) for row in ROWS
    ]


cells = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=30
)


@given(
    st.lists(cells.filter(str.strip), min_size=1, max_size=8),
    st.sampled_from([each for each in ENDINGS if each != "parquet"]),
)
def test_any_text_survives_every_form(tmp_path_factory, texts, ending):
    rows = [{"id": str(number), "question": text} for number, text in enumerate(texts)]
    path = write_rows(tmp_path_factory.getbasetemp() / f"any.{ending}", rows)
    assert [row.text for row in load_dataset(path)] == texts


def test_trailing_commas_are_read_and_texts_left_alone(tmp_path):
    text = """[
        {"id": 1, "question": "a list [1,] of \\"one,\\" ]",},
        {"id": 2, "question": "b", "more": [1, 2, ], },
    ]"""
    rows = load_text(tmp_path, text)
    assert [(row.id, row.text) for row in rows] == [("1", 'a list [1,] of "one," ]'), ("2", "b")]


def with_trailing_commas(value: Any) -> str:
    if isinstance(value, list):
        return "[" + "".join(f"{with_trailing_commas(each)}, " for each in value) + "]"
    if isinstance(value, dict):
        pairs = (
            f"{json.dumps(key)}: {with_trailing_commas(each)},\n" for key, each in value.items()
        )
        return "{" + "".join(pairs) + "}"
    return json.dumps(value, ensure_ascii=False)


@given(st.recursive(cells, lambda inner: st.lists(inner) | st.dictionaries(cells, inner)))
def test_a_comma_before_every_closing_bracket_changes_nothing(tmp_path_factory, value):
    text = with_trailing_commas([{"question": "?", "value": value}])
    (row,) = load_text(tmp_path_factory.getbasetemp(), text)
    assert row.fields["value"] == value


def test_one_object_after_the_other_is_read_whatever_the_ending(tmp_path):
    text = "\n".join(json.dumps(row) for row in ROWS)
    for name in ("data.json", "data.txt.bak", "data.ndjson"):
        assert ids(load_text(tmp_path, text, name)) == ["a", "b", "c"]


def test_a_text_has_a_prompt_on_each_line(tmp_path):
    rows = load_text(tmp_path, "first\n\n  second \n", "data.txt")
    assert [(row.id, row.text) for row in rows] == [("1", "first"), ("2", "second")]


def test_of_rows_with_one_id_the_first_is_kept_before_empty_ones_go(tmp_path):
    rows = [
        {"id": 1, "question": "one"},
        {"id": 2, "question": " "},
        {"id": "2", "question": "too late"},
        {"id": 1.0, "question": "again"},
        {"id": 3, "question": None},
        {"id": 4, "question": "four"},
    ]
    assert ids(load_text(tmp_path, json.dumps(rows))) == ["1", "4"]


def test_rows_without_ids_are_numbered(tmp_path):
    text = json.dumps([{"question": text} for text in "abc"])
    assert ids(load_text(tmp_path, text)) == ["1", "2", "3"]


def test_a_prompt_in_csv_may_be_long(tmp_path):
    text = "word " * 50_000
    (row,) = load_text(tmp_path, f"question\n{text}\n", "data.csv")
    assert row.text == text


def test_columns_may_have_other_names(tmp_path):
    (row,) = load_text(tmp_path, '[{"n": 7, "ask": "why"}]', id_key="n", text_key="ask")
    assert (row.id, row.text) == ("7", "why")


def test_share_gpt_keeps_what_people_said(tmp_path):
    said = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hello"},
        {"from": "gpt", "value": "Hi"},
        {"from": "human", "value": "Why?"},
    ]
    (row,) = load_text(tmp_path, json.dumps([{"id": "x_0", "conversations": said}]))
    assert (row.id, row.questions) == ("x_0", ("Hello", "Why?"))
    assert row.history == (Message(role="system", content="Be brief."),)


def test_messages_keep_what_the_user_said(tmp_path):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": None},
        {"role": "system", "content": "The user is back."},
        {"role": "user", "content": "Why?"},
    ]
    (row,) = load_text(tmp_path, json.dumps({"messages": messages}), "data.jsonl")
    assert row.questions == ("Hello", "Why?")
    assert row.history == (Message(role="developer", content="Be brief."),)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("data.json", "[1]", ": [0] is not an object"),
        ("data.json", '[{"question": "a"},\n oops]', ":2: is not JSON"),
        ("data.json", '{"question": "a"}', ":1: is one object, not a dataset"),
        ("data.json", '[{"text": "a", "n": 1}]', "question is in no row. Name the column"),
        ("data.json", '[{"question": {"a": 1}}]', ": [0].question is not a text"),
        ("data.json", '[{"question": "a", "id": 1}, {"question": "b"}]', ": [1].id is missing"),
        ("data.json", '[{"messages": [{"content": "a"}]}]', ": [0].messages[0] has no role"),
        ("data.json", '[{"messages": "a"}]', ": [0].messages is not a list"),
        ("data.json", '[{"conversations": [{"from": "human"}]}]', "conversations[0].value is not"),
        ("data.json", '[{"question": " "}]', "question asks nothing"),
        ("data.json", "[]", ": holds no rows"),
        ("data.jsonl", '{"question": "a"}\n{"question"\n', ":2: is not JSON"),
        ("data.jsonl", '{"question": "a"}\n3\n', ":2: is not an object"),
        ("data.csv", "id,question\n1,a,b\n", ":2: has more or fewer values"),
        ("data.csv", "id,question\n1\n", ":2: has more or fewer values"),
        ("data.csv", 'id,question\n1,"a\n', ": is not CSV"),
        ("data.txt", " \n", ": holds no rows"),
        ("data.bin", "nothing", ": is no dataset. Expected .json"),
        ("data.parquet", "nothing", ": cannot be read as Parquet"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, name, text, place):
    with pytest.raises(InputError) as caught:
        load_text(tmp_path, text, name)
    assert str(tmp_path / name) in str(caught.value)
    assert place in str(caught.value)


@pytest.mark.parametrize("name", ["none.json", "none.parquet"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(InputError, match="does not exist"):
        load_dataset(tmp_path / name)


@given(st.text(max_size=100), st.sampled_from(["json", "jsonl", "csv", "other"]))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory, text, ending):
    try:
        rows = load_text(tmp_path_factory.getbasetemp(), text, f"whatever.{ending}")
    except InputError:
        return
    assert len(set(ids(rows))) == len(rows) > 0


@given(st.integers(1, 7), st.integers(0, 30))
def test_items_are_truncated_from_the_top_or_repeated_whole(count, wanted):
    rows = tuple(Row(id=f"r{number}", questions=(str(number),)) for number in range(count))
    repeated = repeat_items(rows, wanted)
    assert len(repeated) == len({row.id for row in repeated}) == wanted
    assert repeated[:count] == rows[:wanted]
    for index, row in enumerate(repeated[count:], start=count):
        assert row.id == f"{rows[index % count].id}_rep{index // count}"
        assert row.text == rows[index % count].text
