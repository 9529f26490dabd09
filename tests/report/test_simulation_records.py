"""The records of a simulation as a table: the same rows in every format."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from tests.report.simulated import COUNTED, REQUESTS, simulation, some_rejected
from tonnage.errors import UsageError
from tonnage.evidence import Evidence
from tonnage.fleet import StatedInput
from tonnage.report.simulation_records import record_columns, write_records

ANSWER = some_rejected(simulation(), 10)


def test_every_row_follows_from_the_run():
    columns = record_columns(ANSWER)
    records = ANSWER.simulated.records
    assert {len(column) for column in columns.values()} == {REQUESTS}
    assert columns["request"] == list(range(REQUESTS))
    assert columns["status"][:2] == ["rejected", "finished"]
    assert [columns[name][0] for name in ("ttft_s", "e2e_s", "tpot_s", "replica")] == [None] * 4
    ttft_s, tpot_s, e2e_s = (columns[name][1] for name in ("ttft_s", "tpot_s", "e2e_s"))
    gaps = records.output_tokens[1] - 1
    assert e2e_s == pytest.approx(ttft_s + tpot_s * gaps)
    assert [i for i, counted in enumerate(columns["counted"]) if counted] == list(range(*COUNTED))


def test_csv_holds_every_bit(tmp_path):
    write_records(ANSWER, tmp_path / "r.csv")
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    columns = record_columns(ANSWER)
    assert list(rows[0]) == list(columns)
    for name in ("arrival_s", "first_token_s", "tpot_s"):
        assert [float(row[name]) if row[name] else None for row in rows] == columns[name]
    assert {row["counted"] for row in rows} == {"true", "false"}


def test_json_lines_say_the_same(tmp_path):
    write_records(ANSWER, tmp_path / "r.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    columns = record_columns(ANSWER)
    assert {name: [row[name] for row in rows] for name in rows[0]} == columns


def test_parquet_says_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_records(ANSWER, tmp_path / "r.parquet")
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table.to_pydict() == record_columns(ANSWER)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.parquet"):
        write_records(ANSWER, tmp_path / "r.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_one_token_has_no_time_per_output_token():
    short = simulation()
    short.simulated.records.output_tokens[:] = 1
    assert set(record_columns(short)["tpot_s"]) == {None}
    assert not np.isnan(record_columns(short)["ttft_s"][0])


def test_the_network_is_in_the_latencies_that_clients_see():
    near = simulation()
    told = StatedInput(
        key="workload.network", text="100 ms", evidence=Evidence.DATASHEET, value=0.1, unit="s"
    )
    far = replace(near, scene=replace(near.scene, inputs=(*near.scene.inputs, told)))
    for metric, later_s in (("ttft_s", 0.1), ("e2e_s", 0.1), ("tpot_s", 0.0)):
        off_s = np.subtract(record_columns(far)[metric], record_columns(near)[metric])
        assert off_s == pytest.approx(later_s)
