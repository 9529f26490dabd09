"""Studies survive being changed, written and read again; anything else is a TonnageError."""

import contextlib
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tonnage.errors import InputErrors, TonnageError
from tonnage.evidence import Evidence
from tonnage.study import DISCOVERY, load_study, study_from_answers, study_from_overrides
from tonnage.study.document import (
    LOAD_FORMS,
    Document,
    annotation_at,
    format_key,
    parse_key,
    quantity_at,
)
from tonnage.study.loader import study_from_text
from tonnage.study.reader import parse_yaml

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))
START = "model: openai/gpt-oss-120b\n"
RATE = START + "workload: {request_rate: 5/s}\n"


def example_id(path):
    return path.stem


# ── examples ────────────────────────────────────────────────────────────────────────────────────


def test_there_are_examples():
    assert len(EXAMPLES) >= 7


@pytest.mark.parametrize("path", EXAMPLES, ids=example_id)
def test_an_example_becomes_a_question(path, catalog):
    question = load_study(path).question(catalog)
    assert question.candidates
    assert question.workload.steps


@pytest.mark.parametrize("path", EXAMPLES, ids=example_id)
def test_an_example_written_and_read_again_is_the_same(path):
    study = load_study(path)
    again = study_from_text(study.to_yaml(), folder=study.folder)
    assert again.document == study.document
    assert again.to_yaml() == study.to_yaml()


@pytest.mark.parametrize("path", EXAMPLES, ids=example_id)
def test_every_number_of_an_example_can_be_set_to_itself(path, catalog):
    study = load_study(path)
    question = study.question(catalog)
    for told in question.inputs:
        if told.value is None or told.key == "workload.peak":
            continue
        same = study.with_value(told.key, told.value).question(catalog)
        found = {other.key: other.value for other in same.inputs}
        assert found[told.key] == pytest.approx(told.value), told.key
        if told.evidence is not Evidence.ASSUMED:
            assert same.workload.load == question.workload.load, told.key


@pytest.mark.parametrize("path", EXAMPLES, ids=example_id)
def test_every_assumed_number_can_be_halved_and_raised(path, catalog):
    study = load_study(path)
    for told in study.question(catalog).inputs:
        if told.evidence is Evidence.ASSUMED and told.value:
            for factor in (0.5, 1.5):
                value = study.nearest_value(told.key, told.value * factor)
                changed = study.with_value(told.key, value).question(catalog)
                stated = {other.key: other for other in changed.inputs}[told.key]
                assert stated.evidence is not Evidence.ASSUMED
                assert stated.value == pytest.approx(value)


def test_the_customer_service_example_has_the_peak_of_the_course(catalog):
    path = next(path for path in EXAMPLES if path.stem == "dli-llama3-8b")
    peak = attrgetter("workload.load.requests_per_s_peak")
    assert peak(load_study(path).question(catalog)) == pytest.approx(70.7, abs=0.05)


# ── flags and changes ───────────────────────────────────────────────────────────────────────────


def test_flags_lie_over_the_file(write_study):
    study = load_study(
        write_study(RATE + "promises: {ttft: 2 s}\n"),
        overrides={
            "promises.ttft.p99": "4 s",
            "hardware.gpus": ["H100-SXM"],
            "hardware.prices.RTX-4.5": "2 usd/h",
        },
    )
    limits = attrgetter("promises.ttft.p95", "promises.ttft.p99")
    assert limits(study.document) == (2, 4)  # the shorthand of the file stays
    assert study.document.hardware.prices == {"RTX-4.5": 2}
    assert study.lines["workload.request_rate"] == 2


@pytest.mark.parametrize(
    ("file", "key", "value", "gone"),
    [
        ("workload: {users: 9, peak: none}", "workload.peak_request_rate", "9/s", "workload.users"),
        ("workload: {request_rate: 9/s}", "workload.clients.count", 5, "workload.request_rate"),
        (
            "workload: {requests_per_day: 9, active_hours: 8 h}",
            "workload.concurrency",
            5,
            "workload.active_hours",
        ),
    ],
)
def test_a_flag_that_states_the_load_anew_replaces_it(write_study, file, key, value, gone):
    study = load_study(write_study(START + file + "\n"), overrides={key: value})
    tree = yaml.safe_load(study.to_yaml())
    assert gone.split(".")[1] not in tree["workload"]


def test_an_item_of_a_list_can_be_set():
    study = study_from_text(
        "workload: {request_rate: 5/s, calls: [{model: a, prompt: 5}, {model: b}]}\n"
    )
    changed = study.with_value("workload.calls[0].prompt", 9.0)
    assert changed.to_yaml() == study.to_yaml().replace("prompt: 5", "prompt: 9.0 tokens")
    with pytest.raises(InputErrors, match=r"workload\.calls\[7\]"):
        study.with_value("workload.calls[7].prompt", 9.0)


def test_a_change_leaves_the_study_alone():
    study = study_from_text(RATE)
    changed = study.with_value("memory.kv_budget_fraction", 0.5)
    assert study.document.memory.kv_budget_fraction is None
    assert changed.document.memory.kv_budget_fraction == 0.5


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [
        ("memory.kv_budget_fraction", 1.05, 1.0),
        ("workload.active_hours", 129600, 86400),
        ("memory.kv_budget_fraction", 0.35, 0.35),
    ],
)
def test_the_nearest_value_is_within_range(key, value, nearest):
    assert study_from_text(RATE).nearest_value(key, value) == nearest


@pytest.mark.parametrize(
    "key",
    ["model", "workload.calls[0].prompt", "promises.ttft.p95", "hardware.prices.A.4", "a.b.c"],
)
def test_keys_round_trip(key):
    assert format_key(parse_key(key)) == key
    assert parse_key("workload.calls.1.name") == parse_key("workload.calls[1].name")


def test_every_quantity_writes_what_it_reads():
    def leaves(model, key):
        for name in model.model_fields:
            inner = annotation_at((*key, name))
            quantity = quantity_at((*key, name))
            if hasattr(inner, "model_fields"):
                yield from leaves(inner, (*key, name))
            elif quantity is not None:
                yield quantity

    quantities = list(leaves(Document, ()))
    assert len(quantities) > 50
    for quantity in quantities:
        value = min(max(quantity.minimum + 0.5, 0.5), quantity.maximum)
        value = max(round(value), 1) if quantity.whole else value
        read = getattr(quantity, "read_part", quantity.read)(quantity.write(value))
        assert getattr(read, "share", getattr(read, "amount", read)) == value


# ── discovery ───────────────────────────────────────────────────────────────────────────────────


def test_six_questions_make_a_study(catalog):
    study = study_from_answers(
        {
            "model": "openai/gpt-oss-120b",
            "prompt": "2600 words",
            "answer": "350 tokens",
            "load": "31/s",
            "latency": "first 1.5 s, token 50 ms",
            "gpus": "H100-SXM, H200-SXM",
        }
    )
    assert len(DISCOVERY) == 6
    question = study.question(catalog)
    assert attrgetter("workload.load.requests_per_s_peak")(question) == 31
    assert {p.metric: p.limit_s for p in question.workload.promises} == {"ttft": 1.5, "tpot": 0.05}
    assert len(question.candidates) == 2
    assert study_from_text(study.to_yaml()).document == study.document


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("31/s", "peak_request_rate"),
        ("7 requests/s on average", "request_rate"),
        ("20,000 users", "users"),
        ("679 k people a day", "daily_users"),
        ("100 concurrent", "concurrency"),
        ("200 clients", "clients"),
    ],
)
def test_a_load_is_read_as_it_is_said(answer, form):
    study = study_from_answers({"model": "m", "load": answer})
    workload = study.document.workload
    assert [name for name in LOAD_FORMS if getattr(workload, name) is not None] == [form]


def test_answers_that_cannot_be_read_are_named():
    with pytest.raises(InputErrors) as caught:
        study_from_answers({"model": "m", "prompt": "long", "load": "31 apples", "latency": "soon"})
    assert [error.key for error in caught.value.errors] == ["prompt", "load", "latency"]
    assert all(error.hint for error in caught.value.errors)


@pytest.mark.parametrize("question", DISCOVERY, ids=lambda question: question.topic)
@given(text=st.text(min_size=1, max_size=40))
def test_any_answer_is_read_or_refused(question, text):
    with contextlib.suppress(TonnageError):
        assert question.read(text)


# ── anything at all ─────────────────────────────────────────────────────────────────────────────

WORDS = st.sampled_from(
    [
        "model",
        "name",
        "workload",
        "users",
        "registered",
        "active_at_peak",
        "request_rate",
        "peak",
        "factor",
        "prompt",
        "answer",
        "mean",
        "p50",
        "p95",
        "cv",
        "distribution",
        "cached",
        "system",
        "file",
        "calls",
        "sessions",
        "context",
        "clients",
        "count",
        "batch",
        "requests",
        "deadline",
        "promises",
        "mode",
        "ttft",
        "tpot",
        "e2e",
        "hardware",
        "gpus",
        "prices",
        "engine",
        "memory",
        "scenarios",
        "ideal",
        "headroom",
        "limits",
        "existing",
        "server",
        "objective",
        "H100-SXM",
        "lognormal",
        "all",
        "none",
        "streaming",
        "tokens_per_day",
        "input",
        "total",
        "words_per_token",
        "tensor_parallel",
        "catalog",
        "kv_dtype",
    ]
)
SCALARS = st.one_of(
    WORDS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["5/s", "10 %", "1.5 s", "300 tokens", "60 words", "2 M", "3 usd/h", "8 GiB"]),
)
TREES = st.dictionaries(
    st.one_of(WORDS, st.text(max_size=6)),
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=5)
        ),
        max_leaves=12,
    ),
    max_size=6,
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(TREES)
def test_any_document_is_a_study_or_a_tonnage_error(tree):
    with contextlib.suppress(TonnageError):
        assert study_from_text(yaml.safe_dump(tree, allow_unicode=True)).tree


TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1).filter(
    str.strip
)
STUDIES = st.fixed_dictionaries(
    {
        "model": TEXTS,
        "workload": st.fixed_dictionaries(
            {},
            optional={
                "prompt": st.sampled_from([900, "60 words", {"system": 9, "cached": "10 %"}]),
                "answer": st.sampled_from([{"mean": 350, "p95": 900}, {"visible": {"mean": 5}}]),
                "network": st.sampled_from(["20 ms", "1e-3 s"]),
                "calls": st.lists(st.fixed_dictionaries({"name": TEXTS}), min_size=1, max_size=3),
                "peak": st.sampled_from(["none", {"factor": 1.5}]),
            },
        ).map(lambda workload: workload | {"request_rate": "5/s"}),
    },
    optional={
        "name": TEXTS,
        "hardware": st.fixed_dictionaries(
            {},
            optional={
                "gpus": st.one_of(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)).filter(
                    lambda names: not any(":" in name or name.strip() == "all" for name in names)
                ),
                "prices": st.dictionaries(TEXTS, st.just("3 usd/h"), max_size=2),
                "allow_tp_beyond_domain": st.booleans(),
                "tensor_parallel": st.sampled_from([1, [1, 2], "4"]),
            },
        ),
        "scenarios": st.just({"ideal": {"headroom": "30 %"}}),
    },
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(STUDIES)
def test_a_study_written_and_read_again_is_the_same(tree):
    study = study_from_overrides(tree)
    again = study_from_text(study.to_yaml())
    assert again.document == study.document
    assert study_from_text(yaml.safe_dump(tree, allow_unicode=True)).document == study.document


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=200), st.text(alphabet="ab:-[]{}&*!|>'\"#?, \n\t%@1.", max_size=80))
)
@example("a: &a\n  <<: *a\n")
@example("=: 3\n")
@example("a: 0x_\n")
@example("a: 1e+400\n")
@example("a: 190:20:30.15\n")
@example("a: 0b\n")
@example("a: 2001-99-99\n")
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(TonnageError):
        assert parse_yaml(text, "study.yaml").tree is not None


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.one_of(
            st.lists(WORDS, min_size=1, max_size=4).map(".".join),
            st.sampled_from(
                ["workload.calls[0].prompt", "hardware.gpus[3]", "hardware.prices.a.b"]
            ),
            st.text(max_size=8),
        ),
        st.one_of(SCALARS, st.lists(SCALARS, max_size=3)),
        max_size=4,
    )
)
def test_any_flags_are_a_study_or_a_tonnage_error(overrides):
    with contextlib.suppress(TonnageError):
        assert study_from_overrides(overrides).tree


@settings(max_examples=150, deadline=None)
@given(
    mean=st.floats(1, 1e6),
    rate=st.floats(1e-3, 1e6),
    share=st.floats(0.01, 1),
    ttft=st.floats(1e-3, 1e4),
)
def test_numbers_survive_writing_and_reading(mean, rate, share, ttft):
    study = study_from_overrides({"model": "m", "workload.request_rate": f"{rate!r}/s"})
    for key, value in (
        ("workload.prompt", mean),
        ("memory.kv_budget_fraction", share),
        ("promises.ttft.p95", ttft),
        ("workload.request_rate", rate),
    ):
        study = study.with_value(key, value)
    again = study_from_text(study.to_yaml()).document
    assert again == study.document
    read = attrgetter(
        "workload.prompt.mean.amount",
        "memory.kv_budget_fraction",
        "promises.ttft.p95",
        "workload.request_rate",
    )
    assert read(again) == (mean, share, ttft, rate)


def test_the_package_imports_nothing_heavy():
    script = (
        "import sys, tonnage.study as s; s.load_study; s.DISCOVERY; "
        "heavy = {'numpy', 'scipy', 'tokenizers', 'tonnage.catalog'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name", ["\xa0'", "a\xa0", "\u2003x", "...", "yes", "~", "1e3", "- a", "# b"]
)
def test_a_name_that_yaml_might_misread_is_written_so_that_it_is_read_back(name):
    study = study_from_overrides({"model": name, "workload.request_rate": "5/s"})
    assert study_from_text(study.to_yaml()).document.model == study.document.model
