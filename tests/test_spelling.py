"""What a misspelt name was meant to be."""

import pytest

from tonnage.catalog.rows import TABLES, did_you_mean
from tonnage.spelling import nearest
from tonnage.study import mistakes

NAMES = ("kv_dtype", "kv_heads", "weight_dtype", "p90", "p95", "p99", "usable_memory", "memory_gb")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("kv_dtpe", ["kv_dtype"]),
        ("p59", ["p95"]),  # the same letters
        ("memory", ["memory_gb"]),  # begun, though usable_memory holds it too
        ("kv_", ["kv_dtype", "kv_heads"]),
        ("xyz", []),
    ],
)
def test_the_likeliest_come_alone(word, meant):
    assert nearest(word, NAMES) == meant


def test_no_more_than_asked_for():
    assert nearest("kv_", NAMES, most=1) == ["kv_dtype"]
    assert len(nearest("p9", NAMES, most=2)) == 2


def test_two_letters_begin_too_much():
    assert nearest("kv", NAMES) == []


def test_a_catalog_key_is_found_by_its_beginning():
    assert did_you_mean("memory", TABLES["gpus"]) == "Did you mean memory_gb?"


def test_a_study_key_is_found_by_its_beginning():
    assert mistakes.did_you_mean("weight", ("name", "weight_dtype")) == (
        "Did you mean weight_dtype?"
    )
