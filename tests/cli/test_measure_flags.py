"""What `tonnage measure` is told becomes targets, prompts and levels, or a clear no."""

import pytest

from tonnage.cli.asked import Asked
from tonnage.cli.measure_flags import FLAGS
from tonnage.cli.measure_question import (
    levels_of,
    limits_of,
    prompts_of,
    target_of_words,
)
from tonnage.errors import UsageError

BY_NAME = {flag.name: flag for flag in FLAGS}


def asked(**flags):
    """The flags by their parameter names: think_time="2 s"."""
    return Asked({BY_NAME["--" + name.replace("_", "-")]: value for name, value in flags.items()})


def target(address="http://localhost:8000/v1", command=(), **flags):
    return target_of_words(address, command, asked(**flags), stream=True)


@pytest.mark.parametrize(
    ("address", "flags", "kind"),
    [
        ("http://localhost:8000/v1", {}, "chat"),
        ("https://host/v1", {"api": "completions"}, "completions"),
        ("http://host", {"api": "nat"}, "nat"),
        ("http://host/ask", {"api": "json", "answer_path": "a.b"}, "json"),
        ("my.agent:run", {}, "function"),
    ],
)
def test_a_target_is_known_by_its_address(address, flags, kind):
    spec = target(address, **flags)
    assert (spec.kind, spec.address) == (kind, address)


def test_a_configuration_file_is_a_workflow(tmp_path):
    config = tmp_path / "config.yml"
    config.write_text("workflow: {}\n")
    assert target(str(config)).kind == "nemo"
    with pytest.raises(UsageError, match="is not a file"):
        target(str(tmp_path / "missing.yml"))


def test_a_command_is_started_for_each_prompt():
    spec = target(None, ("./agent.sh", "-v"), record_llm="http://llm/v1")
    assert (spec.kind, spec.command) == ("command", ("./agent.sh", "-v"))
    assert spec.record_llm == "http://llm/v1"


@pytest.mark.parametrize(
    ("address", "flags", "said"),
    [
        (None, {}, "what is to be measured"),
        ("localhost:8000/v1", {}, "nothing that can be measured"),
        ("my.agent:run", {"api": "chat"}, "--api is for a URL"),
        ("http://host", {"api": "grpc"}, '--api "grpc" is not one'),
        ("http://host", {"answer_path": "a"}, "--answer-path is not for this target"),
        ("my.agent:run", {"model": "m"}, "--model is not for this target"),
        ("http://host", {"timeout": "5"}, '"5" has no unit'),
        ("http://host", {"timeout": "0 s"}, "--timeout must be above 0"),
        ("http://host", {"body": "{"}, "--body is not JSON"),
        ("http://host", {"body": "[]"}, "--body must be a JSON object"),
    ],
)
def test_a_target_that_cannot_be_is_refused(address, flags, said):
    with pytest.raises(UsageError) as caught:
        target(address, **flags)
    assert said in str(caught.value)


def test_secrets_come_out_of_the_environment_and_are_shown_nowhere(monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    spec = target(api_key="MY_KEY", header=["X-Org=MY_KEY"])
    assert spec.headers == {"Authorization": "Bearer s3cret", "X-Org": "s3cret"}
    assert "s3cret" not in repr(spec)


def test_a_secret_given_in_place_of_its_variable_is_not_repeated():
    with pytest.raises(UsageError) as caught:
        target(api_key="sk-not-a-variable")
    assert "sk-not" not in str(caught.value)
    assert "export" in str(caught.value)


def test_a_closed_loop_has_a_level_for_each_concurrency():
    levels = levels_of(asked(concurrency="1,2,4", think_time="2 s", duration="1 min"))
    assert [(each.name, each.concurrency) for each in levels] == [("c1", 1), ("c2", 2), ("c4", 4)]
    assert {(each.think_time_s, each.duration_s) for each in levels} == {(2, 60)}
    assert [each.warmup_requests for each in levels] == [1, 2, 4]


def test_an_open_loop_has_a_level_for_each_rate():
    levels = levels_of(asked(rate="0.5,2", arrivals="gamma", burstiness="2", requests="100"))
    assert [(each.name, each.rate_per_s) for each in levels] == [("r0.5", 0.5), ("r2", 2)]
    assert {(each.arrivals, each.cv, each.requests, each.duration_s) for each in levels} == {
        ("gamma", 2, 100, None)
    }
    assert {each.warmup_requests for each in levels} == {10}


@pytest.mark.parametrize(
    ("text", "warmup"), [("20", (20, 0)), ("4 s", (0, 4)), ("0", (0, 0)), ("none", (0, 0))]
)
def test_a_warm_up_is_a_time_or_a_count(text, warmup):
    (level,) = levels_of(asked(concurrency="2", warmup=text))
    assert (level.warmup_requests, level.warmup_s) == warmup


def test_without_a_word_a_level_lasts_thirty_seconds():
    assert {level.duration_s for level in levels_of(asked())} == {30}
    assert {level.duration_s for level in levels_of(asked(requests="5"))} == {None}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"concurrency": "1,2", "rate": "3"}, "different loads"),
        ({"concurrency": "1,200001"}, "200,001 is more than 100,000"),
        ({"rate": "3", "think_time": "1 s"}, "--think-time is for --concurrency"),
        ({"concurrency": "3", "arrivals": "poisson"}, "--arrivals is for --rate"),
        ({"rate": "3", "arrivals": "gamma"}, "go together"),
        ({"rate": "3", "burstiness": "2"}, "go together"),
        ({"concurrency": "1.5"}, "1.5 is not whole"),
        ({"requests": "2.5"}, "--requests must be a whole number"),
        ({"seed": "-1"}, "--seed must be a whole number"),
    ],
)
def test_a_load_that_cannot_be_is_refused(flags, said):
    with pytest.raises(UsageError) as caught:
        levels_of(asked(**flags))
    assert said in str(caught.value)


def test_prompts_that_nobody_stated_are_assumed_and_said_to_be():
    spec, assumed = prompts_of(asked(output_tokens="64"))
    assert (spec.kind, spec.prompt_tokens, spec.output_tokens) == ("synthetic", 512, 64)
    assert assumed == ("prompts of 512 tokens",)


def test_a_dataset_forces_no_length():
    spec, assumed = prompts_of(asked(dataset="q.jsonl", text_key="prompt"))
    assert (spec.kind, spec.text_key, spec.output_tokens, assumed) == (
        "dataset",
        "prompt",
        None,
        (),
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"dataset": "a.json", "trace": "b.csv"}, "lengths of its own"),
        ({"dataset": "a.json", "prompt_tokens": "5"}, "for synthetic prompts"),
        ({"id_key": "x"}, "--id-key is for --dataset"),
        ({"prompt_tokens": "10", "shared_prefix_tokens": "20"}, "more than the prompt"),
    ],
)
def test_prompts_that_cannot_be_are_refused(flags, said):
    with pytest.raises(UsageError) as caught:
        prompts_of(asked(**flags))
    assert said in str(caught.value)


def test_limits_have_the_names_of_a_runs_figures():
    assert limits_of(asked(ttft_p95="500 ms", e2e_p50="4 s")) == {
        "ttft_p95_s": 0.5,
        "e2e_p50_s": 4.0,
    }
