"""What `tonnage simulate` is told becomes options, or a clear no that names the flag."""

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.cli.asked import Asked
from tonnage.cli.flags import FLAGS as STUDY_FLAGS
from tonnage.cli.simulate_flags import FLAGS, OWN_FLAGS
from tonnage.cli.simulate_question import options_of, parse_autoscaler, parse_outage
from tonnage.errors import InputErrors, TonnageError, UsageError
from tonnage.fleet import SimulationOptions
from tonnage.queueing.simulation import Autoscaler, Outage

BY_NAME = {flag.name: flag for flag in OWN_FLAGS}
STEP = {
    "base_s": 0.009,
    "per_prefill_token_s": 4e-5,
    "per_sequence_s": 2e-5,
    "per_kv_token_s": 2.5e-9,
}


def options(*, benchmark=False, **flags):
    """The options of flags by their parameter names: router_lag="2 s"."""
    told = {BY_NAME["--" + name.replace("_", "-")]: value for name, value in flags.items()}
    return options_of(
        Asked(told),
        lose_requests=False,
        prefix_cache=None,
        burst_start=False,
        benchmark=benchmark,
        compiled=None,
    )


def test_nothing_told_is_the_defaults():
    assert options() == SimulationOptions()


def test_no_flag_is_declared_twice():
    names = [flag.name for flag in FLAGS]
    assert len(set(names)) == len(names) == len({flag.key for flag in FLAGS})


def test_one_way_to_state_the_limits_of_the_engine():
    left_out = {flag.name for flag in STUDY_FLAGS} - {flag.name for flag in FLAGS}
    assert left_out == {"--max-batch-size", "--max-batched-tokens"}


@pytest.mark.parametrize("flag", OWN_FLAGS, ids=lambda flag: flag.name)
def test_every_flag_says_what_it_is(flag):
    assert flag.help.endswith((".", ")."))
    assert flag.metavar


def test_everything_told_arrives(tmp_path):
    (tmp_path / "step.json").write_text(json.dumps(STEP))
    found = options(
        fleet="4 x H200-SXM:tp2",
        router="kv-aware",
        router_lag="200 ms",
        decode_replicas="2",
        kv_link="400 Gbit/s",
        outage=["0@10 min-12 min", "1@0 s-never"],
        autoscale="least=1, outstanding=16, startup=3 min",
        step_model=str(tmp_path / "step.json"),
        kv_blocks="3 k",
        max_num_seqs="128",
        max_num_batched_tokens="4096",
        policy="sglang",
        arrivals="gamma",
        cv="2.5",
        rate_factor="1.5",
        profile="day.csv",
        requests="20 k",
        seed="7",
    )
    assert found.fleet is not None
    assert (found.fleet.units, found.fleet.name, found.fleet.tensor_parallel) == (4, "H200-SXM", 2)
    assert (found.router, found.router_lag_s) == ("kv-aware", 0.2)
    assert (found.decode_replicas, found.kv_link_bytes_per_s) == (2, 50e9)
    assert found.outages == (
        Outage(replica=0, down_s=600.0, up_s=720.0),
        Outage(replica=1, down_s=0.0, up_s=math.inf),
    )
    assert found.autoscaler == Autoscaler(
        least=1, outstanding=16.0, interval_s=15.0, startup_s=180.0
    )
    assert found.step_model is not None
    assert found.step_model.base_s == 0.009
    assert (found.kv_blocks, found.max_num_seqs) == (3000, 128)
    assert (found.max_num_batched_tokens, found.policy) == (4096, "sglang")
    assert (found.arrivals, found.cv, found.rate_factor) == ("gamma", 2.5, 1.5)
    assert (found.requests, found.seed) == (20_000, 7)


@pytest.mark.parametrize(("process", "cv"), [("constant", 0.0), ("poisson", 1.0)])
def test_a_process_has_its_own_variation(process, cv):
    assert options(arrivals=process).cv == cv


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"router": "kv-awre"}, "Did you mean kv-aware?"),
        ({"policy": "vlm"}, "Did you mean vllm?"),
        ({"arrivals": "bursty"}, "--arrivals"),
        ({"arrivals": "gamma"}, "--cv"),
        ({"cv": "2"}, "--cv is for --arrivals gamma"),
        ({"router_lag": "1 s"}, "--router-lag is for --router kv-aware"),
        ({"kv_link": "50 GB/s"}, "--kv-link is for --decode-replicas"),
        ({"decode_replicas": "2", "kv_link": "50 GB"}, "--kv-link"),
        ({"trace": "t.csv", "requests": "5"}, "--requests is for the study's load"),
        ({"trace": "t.csv", "profile": "p.csv"}, "--profile is for the study's load"),
        ({"trace": "t.csv", "benchmark": True}, "--benchmark is for the study's load"),
        ({"requests": "0"}, "--requests must be above 0"),
        ({"requests": "1.5"}, "--requests must be a whole number"),
        ({"requests": "nan"}, "--requests"),
        ({"rate_factor": "-1"}, "--rate-factor must be above 0"),
        ({"kv_blocks": "12 GB"}, "--kv-blocks"),
        ({"fleet": "4 x"}, "--fleet"),
        ({"seed": "-1"}, "--seed"),
    ],
)
def test_a_mistake_names_its_flag(flags, said):
    with pytest.raises(UsageError) as caught:
        options(**flags)
    assert said in str(caught.value)


# ── outages and autoscalers ─────────────────────────────────────────────────────────────────────


def test_an_outage_without_an_end_is_started_anew():
    found = parse_outage(" 3 @ 600 s ")
    assert (found.replica, found.down_s) == (3, 600.0)
    assert math.isnan(found.up_s)


@pytest.mark.parametrize(
    "text",
    ["", "600 s", "a@600 s", "0@", "0@600", "0@600 s-", "0@600 s-500 s", "-1@5 s", "0@5 s-forever"],
)
def test_what_is_no_outage_is_refused(text):
    with pytest.raises(UsageError, match="--outage"):
        parse_outage(text)


def test_an_autoscaler_may_leave_out_what_is_known():
    found = parse_autoscaler("outstanding=8,least=2")
    assert (found.least, found.outstanding, found.interval_s) == (2, 8.0, 15.0)
    assert math.isnan(found.startup_s)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not say least, outstanding"),
        ("least=1", "does not say outstanding"),
        ("least=1, outstandig=4", "Did you mean outstanding?"),
        ("least, outstanding=4", "least needs one value"),
        ("least=1, least=2, outstanding=4", "least needs one value"),
        ("least=1.5, outstanding=4", "whole number"),
        ("least=1, outstanding=0", "above 0"),
        ("least=1, outstanding=4, startup=3", "no unit"),
    ],
)
def test_what_is_no_rule_is_refused(text, said):
    with pytest.raises(UsageError) as caught:
        parse_autoscaler(text)
    assert "--autoscale" in str(caught.value)
    assert said in str(caught.value)


@given(st.text(alphabet="0123456789@-– smihnevrleastoudg=,.", max_size=40))
def test_any_text_is_an_event_or_a_usage_error(text):
    for parse in (parse_outage, parse_autoscaler):
        with contextlib.suppress(UsageError):
            parse(text)


# ── a step model ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "step.json: is not JSON"),
        ("[]", "step.json: must hold base_s, per_prefill_token_s"),
        (json.dumps(STEP | {"per_token_s": 1}), 'step.json: "per_token_s" is not a key.'),
        (json.dumps(STEP | {"base_s": -1}), "step.json: base_s must be a time in seconds"),
        (json.dumps(STEP | {"base_s": math.nan}), "step.json: is not JSON: NaN is not a number"),
        (json.dumps(STEP | {"base_s": 1e400}), "step.json: is not JSON: Infinity"),
        (json.dumps(STEP).replace("0.009", "1e999"), "step.json: base_s must be a time"),
        (json.dumps(STEP | {"base_s": "9 ms"}), "step.json: base_s must be a time in seconds"),
        (json.dumps({"base_s": 1}), "step.json: per_prefill_token_s is missing."),
        (json.dumps(dict.fromkeys(STEP, 0)), "step.json: has 0 for every time."),
    ],
)
def test_a_step_model_that_is_none_names_its_file_and_key(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "step.json").write_text(content)
    with pytest.raises(InputErrors) as caught:
        options(step_model="step.json")
    assert said in str(caught.value)


def test_a_step_model_that_is_not_there(tmp_path):
    with pytest.raises(TonnageError, match="does not exist"):
        options(step_model=str(tmp_path / "step.json"))
