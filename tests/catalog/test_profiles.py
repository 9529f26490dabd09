"""Engine profiles: every rule of a scheduler is stated in the catalog, not left to a default."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import pytest

from tonnage.catalog import profiles
from tonnage.queueing.simulation import POLICIES

SCHEDULER = {
    "policy",
    "chunked_prefill",
    "whole_prompt_fits",
    "prefix_cache",
    "kept_back_blocks",
}
ROWS = tomllib.loads(files("tonnage.catalog").joinpath("engines.toml").read_text("utf-8"))


@pytest.mark.parametrize("name", profiles.engine_names())
def test_every_engine_says_how_it_schedules(name):
    row, profile = ROWS["engines"][name], profiles.engine(name)
    assert row.keys() >= SCHEDULER
    assert all(getattr(profile, key) == row[key] for key in SCHEDULER)
    assert profile.policy in POLICIES
    assert 512 % profile.block_tokens == 0  # blocks of a trace's prefixes are whole blocks here


def test_schedulers_differ_as_their_makers_say():
    vllm, sglang, trtllm = map(profiles.engine, ("vllm", "sglang", "trtllm"))
    assert (vllm.policy, vllm.kept_back_blocks) == ("vllm", 1)
    assert (sglang.policy, sglang.kept_back_blocks) == ("sglang", 0)
    assert (trtllm.policy, trtllm.chunked_prefill) == ("trtllm-no-evict", False)
