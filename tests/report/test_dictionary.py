"""The parameter dictionary explains every flag, in whole sentences."""

import dataclasses

import pytest

from tonnage.cli.flags import FLAGS
from tonnage.errors import UsageError
from tonnage.report.dictionary import PARAMETERS, entry

UNEXPLAINED = {"--name", "--catalog"}  # not inputs of the sizing


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.name not in UNEXPLAINED])
def test_every_flag_has_an_entry(flag):
    name = flag.name
    for percentile in ("-p50", "-p90", "-p95", "-p99"):
        name = name.removesuffix(percentile)
    assert entry(name).description


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_entry_is_told_in_sentences(name):
    for field, text in dataclasses.asdict(PARAMETERS[name]).items():
        assert text.endswith((".", "…")), (name, field)
        assert 15 < len(text) < 200, (name, field)


def test_an_unknown_parameter_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="kv_dtype"):
        entry("kv-dtypes")
