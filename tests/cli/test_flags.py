"""Flags and the study: one place each, and the same words in complaints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.cli.capacity import parse_fleet, with_some_load
from tonnage.cli.flags import BY_KEY, FLAGS, as_flags, overrides
from tonnage.errors import UsageError
from tonnage.study.document import annotation_at, parse_key

BY_NAME = {flag.name: flag for flag in FLAGS}


def test_no_flag_is_declared_twice():
    assert len({flag.name for flag in FLAGS}) == len({flag.key for flag in FLAGS}) == len(FLAGS)


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_every_flag_is_a_place_in_the_study(flag):
    assert annotation_at(parse_key(flag.key)) is not None


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_every_flag_says_what_it_is(flag):
    assert flag.help.endswith(".")
    assert flag.metavar


def test_lists_may_be_repeated_or_separated_by_commas():
    told = {BY_NAME["--gpu"]: ["H100-SXM, H200-SXM", "B200"], BY_NAME["--tensor-parallel"]: ["2,4"]}
    assert overrides(told) == {
        "hardware.gpus": ["H100-SXM", "H200-SXM", "B200"],
        "hardware.tensor_parallel": ["2", "4"],
    }


def test_a_price_names_its_gpu():
    told = {BY_NAME["--price"]: ["H200-SXM=3.40 usd/h", "B200 = 5 usd/h"]}
    assert overrides(told) == {
        "hardware.prices.H200-SXM": "3.40 usd/h",
        "hardware.prices.B200": "5 usd/h",
    }
    for text in ("H200-SXM", "=3 usd/h", "H200-SXM="):
        with pytest.raises(UsageError, match="--price"):
            overrides({BY_NAME["--price"]: [text]})


def test_a_catalog_file_is_found_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = overrides({BY_NAME["--catalog"]: ["mine.toml"]})
    assert found == {"hardware.catalog": [str(tmp_path / "mine.toml")]}


def test_a_complaint_about_a_key_names_the_flag():
    assert as_flags('"3" has no unit: promises.ttft.p95 is a time,') == (
        '"3" has no unit: --ttft-p95 is a time,'
    )
    assert as_flags("the model is missing") == "the model is missing"


@pytest.mark.parametrize("key", [key for key in BY_KEY if "." in key])
def test_every_key_is_turned_into_its_flag(key):
    assert as_flags(f"{key} is wrong") == f"{BY_KEY[key].name} is wrong"


# ── fleets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 x DGX-H100", (2, "DGX-H100", None, None)),
        ("2xDGX-H100:tp4", (2, "DGX-H100", 4, None)),
        ("16 × L40S:TP4-PP2", (16, "L40S", 4, 2)),
        ("DGX H200", (1, "DGX H200", None, None)),
        ("1,024 x H100-SXM : tp8", (1024, "H100-SXM", 8, None)),
    ],
)
def test_a_fleet_is_a_count_a_name_and_maybe_an_arrangement(text, expected):
    fleet = parse_fleet(text)
    assert (fleet.units, fleet.name, fleet.tensor_parallel, fleet.pipeline_parallel) == expected


@pytest.mark.parametrize(
    "text", ["", "0 x H100", "2 x ", "2 x H100:tp", "2 x H100:tp0", "2 x H100:xx4"]
)
def test_what_is_not_a_fleet_is_refused(text):
    with pytest.raises(UsageError, match="--fleet"):
        parse_fleet(text)


@given(st.text(max_size=40))
def test_any_text_is_a_fleet_or_a_usage_error(text):
    try:
        fleet = parse_fleet(text)
    except UsageError:
        return
    assert fleet.units >= 1
    assert fleet.name.strip()


@pytest.mark.parametrize(
    ("values", "added"),
    [
        ({}, "workload.peak_request_rate"),
        ({"workload.active_hours": "8 h"}, "workload.requests_per_day"),
        ({"workload.daily_users.requests_per_user": "3"}, "workload.daily_users.count"),
        ({"workload.request_rate": "3/s"}, None),
    ],
)
def test_capacity_states_a_load_where_there_is_none(values, added):
    found = with_some_load(dict(values), study_given=False)
    assert set(found) - set(values) == ({added} if added else set())
