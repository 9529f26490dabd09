"""The parameter dictionary explains every key and every flag, in whole sentences."""

import dataclasses
import re
from collections.abc import Iterator

import pytest

from tonnage.cli.flags import FLAGS
from tonnage.errors import UsageError
from tonnage.report.dictionary import PARAMETERS, PLACES, entry, explained, parameter_name
from tonnage.study.document import Document, Key, Section, annotation_at, format_key, section_at


def keys_of(section: type[Section], key: Key = ()) -> Iterator[Key]:
    """Every key of the document: sections, what they hold, and what the items of lists hold."""
    for name in section.model_fields:
        place = (*key, name)
        yield place
        for within in (place, (*place, 0)):
            inner = section_at(within)
            if inner is not None:
                yield from keys_of(inner, within)


KEYS = list(keys_of(Document))


@pytest.mark.parametrize("key", KEYS, ids=format_key)
def test_every_key_of_the_study_has_an_entry(key):
    assert parameter_name(format_key(key)) in PARAMETERS
    assert parameter_name(".".join(map(str, key))) == parameter_name(format_key(key))


def test_the_keys_are_all_of_them():
    assert ("workload", "calls", 0, "prompt", "images", "tokens_each") in KEYS
    assert len(KEYS) > 200
    assert not [key for key in KEYS if annotation_at(key) is None]


@pytest.mark.parametrize("key", KEYS, ids=format_key)
def test_the_end_of_a_key_is_enough_where_it_is_unique(key):
    meant = {parameter_name(format_key(each)) for each in KEYS if each[-1] == key[-1]}
    if key[-1] in PARAMETERS:  # --gpu is meant, not existing.gpu
        meant = {str(key[-1])}
    if len(meant) == 1:
        assert parameter_name(str(key[-1])) in meant


def test_the_end_of_several_keys_is_answered_with_all_of_them():
    with pytest.raises(UsageError, match=r"daily_users.*clients"):
        parameter_name("count")
    with pytest.raises(UsageError, match="several keys"):
        parameter_name("p95")


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_a_key_of_the_study(place):
    key = place.replace("scenarios.", "scenarios.ideal.")
    assert tuple(key.split(".")) in KEYS


@pytest.mark.parametrize("name", [name for name in PARAMETERS if "." in name])
def test_every_dotted_entry_is_a_key_of_the_study(name):
    place = name.replace("length.", "workload.prompt.system.")
    keys = {re.sub(r"\.0|\.ideal", "", ".".join(map(str, key))) for key in KEYS}
    assert place in keys | {format_key(key) for key in KEYS}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_flag_and_its_key_have_one_entry(flag):
    assert entry(flag.name) == entry(flag.key) == entry(flag.parameter)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("hardware.prices.H200-SXM", "price"),
        ("workload.calls[2].prompt.system.p95", "length.p95"),
        ("workload.calls.1.answer", "output_tokens"),
        ("scenarios.minimum.spare", "spare"),
        ("LENGTH.cv", "length.cv"),
        ("step-model", "engine.step_model"),
        ("tokens_per_day.input", "workload.tokens_per_day.input"),
        ("--ttft-p99", "ttft"),
        ("ttft_p50", "ttft"),
        ("existing.gpu", "existing.gpu"),
        ("gpu", "gpu"),
    ],
)
def test_a_name_may_be_written_in_several_ways(asked, name):
    assert parameter_name(asked) == name


def test_inputs_are_explained_under_their_own_keys():
    found = explained(["workload.calls[0].prompt", "hardware.prices.L40S", "nothing.here"])
    assert found["workload.calls[0].prompt"] == PARAMETERS["prompt_tokens"]
    assert found["hardware.prices.L40S"] == PARAMETERS["price"]
    assert "nothing.here" not in found
    assert found.items() >= PARAMETERS.items()


def test_what_is_bought_and_what_no_gpu_means():
    assert "servers" in PARAMETERS["buy"].description
    assert "gpus" in PARAMETERS["buy"].description
    assert "lost" in PARAMETERS["buy"].description
    assert "whole catalog" in PARAMETERS["gpu"].description


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_entry_is_told_in_sentences(name):
    for field, text in dataclasses.asdict(PARAMETERS[name]).items():
        assert text.endswith((".", "…")), (name, field)
        assert 15 < len(text) < 200, (name, field)


@pytest.mark.parametrize("misspelt", ["kv-dtypes", "kv_dtpe", "engine.kv_dytpe"])
def test_an_unknown_parameter_is_answered_with_the_nearest(misspelt):
    with pytest.raises(UsageError, match=r"Did you mean kv_dtype\?"):
        entry(misspelt)
