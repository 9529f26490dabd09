"""Every mistake is answered with its file, its line, its key and a remedy; all of them at once."""

import json

import pytest

from tonnage.errors import InputErrors
from tonnage.study import load_study, study_from_overrides

START = "model: openai/gpt-oss-120b\n"
RATE = START + "workload:\n  request_rate: 5/s\n"


def complaint(path):
    """What a person sees, without the folder of the file."""
    with pytest.raises(InputErrors) as caught:
        load_study(path)
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize(
    ("yaml", "line", "said"),
    [
        pytest.param(
            RATE + "  answer: {mean: 350 tokens, p59: 900 tokens}\n",
            4,
            "workload.answer.p59 is not a key here. Did you mean p95?",
            id="unknown key",
        ),
        pytest.param(
            RATE + '"[key]": []\n',
            4,
            "[key] is not a key here.",
            id="a key that looks like pydantic's mark",
        ),
        pytest.param(
            RATE + 'promises:\n  ttft: {p95: "1.5"}\n',
            5,
            '"1.5" has no unit: promises.ttft.p95 is a time, for example "1.5 s" or "1500 ms".',
            id="no unit in a text",
        ),
        pytest.param(
            RATE + "promises:\n  tpot: 50\n",
            5,
            '"50" has no unit: promises.tpot.p95 is a time, for example "50 ms" or "0.05 s".',
            id="no unit on a number",
        ),
        pytest.param(
            START + "workload:\n  request_rate: 6.7 apples/s\n",
            3,
            '"6.7 apples/s" has an unknown unit “apples/s”: workload.request_rate is a rate of',
            id="a rate of something else",
        ),
        pytest.param(
            RATE + "memory: {runtime_overhead: 120 gigs}\n",
            4,
            '"120 gigs" has an unknown unit “gigs”: memory.runtime_overhead is an amount of memory',
            id="unknown unit",
        ),
        pytest.param(
            START + "workload:\n  users: {registered: 0}\n",
            3,
            "workload.users.registered must be more than 0, not 0.",
            id="no users",
        ),
        pytest.param(
            START + "workload:\n  users: -5\n",
            3,
            "workload.users must be more than 0, not -5.",
            id="negative users",
        ),
        pytest.param(
            "workload:\n  request_rate: 5/s\n",
            1,
            "model is missing: which model is served? Give a catalog name",
            id="no model",
        ),
        pytest.param(
            "name: x\nmodel:\nworkload: {request_rate: 5/s}\n",
            2,
            "model has no value. Remove the key or give it a value.",
            id="key without a value",
        ),
        pytest.param(
            START + "workload:\n  prompt: 100\n",
            2,
            "workload does not say how much is asked. Give one of users, request_rate,",
            id="no load",
        ),
        pytest.param(
            RATE + "  concurrency: 3\n",
            4,
            "workload.concurrency states the load a second time, beside workload.request_rate.",
            id="two loads",
        ),
        pytest.param(
            RATE + "  peak_request_rate: 4/s\n",
            4,
            "workload.peak_request_rate is below workload.request_rate, the mean.",
            id="peak below mean",
        ),
        pytest.param(
            START + "workload: {peak_request_rate: 4/s}\n" + "x: 1\n",
            3,
            "x is not a key here. Keys here: name, model, workload,",
            id="unknown key, nothing near",
        ),
        pytest.param(
            START + "workload:\n  peak_request_rate: 4/s\n  peak: {factor: 2}\n",
            4,
            "workload.peak does not apply: workload.peak_request_rate is the peak already",
            id="peak of a peak",
        ),
        pytest.param(
            RATE + "  peak: {factor: 2, poisson_percentile: 95}\n",
            4,
            "workload.peak must hold one of poisson_percentile, factor.",
            id="two peaks",
        ),
        pytest.param(
            RATE + "  active_hours: 8 h\n",
            4,
            "workload.active_hours does not apply: workload.request_rate is not per day.",
            id="hours of a rate",
        ),
        pytest.param(
            RATE + "promises: {ttft: 1 s, wait: 2 s}\n",
            4,
            "promises.wait says the same as promises.ttft. Keep one of the two.",
            id="ttft and wait",
        ),
        pytest.param(
            RATE + "promises: {tpot: 20 ms, tokens_per_second: 20}\n",
            4,
            "promises.tokens_per_second says the same as promises.tpot. Keep one of the two.",
            id="tpot and speed",
        ),
        pytest.param(
            RATE + "promises: {mode: sequential, ttft: 1 s, e2e: 9 s}\n",
            4,
            "promises.ttft does not apply: in sequential mode people wait for the whole answer.",
            id="first token of a whole answer",
        ),
        pytest.param(
            RATE + "promises: {mode: sequential}\n",
            4,
            "promises.e2e is missing: sequential mode promises the whole answer.",
            id="sequential without e2e",
        ),
        pytest.param(
            RATE + "promises: {mode: offline}\n",
            4,
            "promises.mode is offline, which means work with a deadline. Give workload.batch",
            id="offline without a batch",
        ),
        pytest.param(
            START + "workload: {batch: {requests: 1 M, deadline: 8 h}}\npromises: {ttft: 1 s}\n",
            3,
            "promises.ttft does not apply: offline work has a deadline or a throughput.",
            id="batch with a promise",
        ),
        pytest.param(
            START + "workload: {batch: {requests: 1 M}}\n",
            2,
            "workload.batch.deadline is missing: by when must it be done?",
            id="batch without a deadline",
        ),
        pytest.param(
            START + "workload: {sessions: 1000}\n",
            2,
            "workload.context is missing: how long is the context each session holds?",
            id="sessions of no length",
        ),
        pytest.param(
            START + "workload: {sessions: 9, context: 8 k}\npromises: {tpot: 50 ms}\n",
            3,
            "promises.tpot does not apply: sessions alone are sized by memory.",
            id="promise without a load",
        ),
        pytest.param(
            RATE + "  answer: {mean: 350, p95: 350}\n",
            4,
            "workload.answer.p95 (350 tokens) must lie above the mean (350 tokens).",
            id="percentile at the mean",
        ),
        pytest.param(
            RATE + "  answer: {mean: 350, p95: 9000}\n",
            4,
            "workload.answer.p95 (9,000 tokens) is too far from the mean (350 tokens). "
            "With this mean it can be at most 1,354 tokens.",
            id="percentile out of reach",
        ),
        pytest.param(
            RATE + "  answer: {mean: 350, p90: 900, p95: 800}\n",
            4,
            "workload.answer.p95 (800 tokens) is less than p90.",
            id="percentiles out of order",
        ),
        pytest.param(
            RATE + "  answer: {p95: 900}\n",
            4,
            'workload.answer.mean is missing. Give "350 tokens" or "600 words".',
            id="percentile alone",
        ),
        pytest.param(
            RATE + "  answer: {mean: 100, distribution: normal}\n",
            4,
            "workload.answer.cv is missing: a normal needs its standard deviation ÷ mean",
            id="distribution without cv",
        ),
        pytest.param(
            RATE + "  answer: {mean: 100, distribution: uniform, cv: 0.9}\n",
            4,
            "workload.answer.cv of a uniform may be at most 0.577: lengths would fall below zero.",
            id="uniform too wide",
        ),
        pytest.param(
            RATE + "  prompt: {mean: 100, system: 50}\n",
            4,
            "workload.prompt gives both a length and terms (system). Keep one of the two.",
            id="length and terms",
        ),
        pytest.param(
            RATE + "  prompt: {mean: 100 tokens, cached: 200 tokens}\n",
            4,
            "workload.prompt.cached is longer than the prompt: 200 tokens of 100 tokens.",
            id="cached beyond the prompt",
        ),
        pytest.param(
            RATE + "  prompt: {mean: 100 tokens, cached: 140 %}\n",
            4,
            "workload.prompt.cached must be at most 100 %, not 140 %.",
            id="cached beyond all",
        ),
        pytest.param(
            RATE + "  prompt: {mean: 100 tokens, cached: 0.4}\n",
            4,
            'workload.prompt.cached is 0.4 of a token: write a share as "40 %".',
            id="cached share as a number",
        ),
        pytest.param(
            RATE + "  prompt: {question: {p50: 100}}\n",
            4,
            "workload.prompt.question.mean is missing.",
            id="a term without a mean",
        ),
        pytest.param(
            RATE + "  answer: 0 tokens\n",
            4,
            "workload.answer is shorter than one token.",
            id="no answer",
        ),
        pytest.param(
            RATE + "  prompt: {file: nowhere.txt}\n",
            4,
            "workload.prompt.file names nowhere.txt, which does not exist.",
            id="no such text",
        ),
        pytest.param(
            RATE + "  tokens_per_day: {input: 1 B, total: 2 B}\n",
            4,
            "workload.tokens_per_day must hold input and output, or one total.",
            id="tokens twice",
        ),
        pytest.param(
            RATE + "promises: {tpot: true}\n",
            4,
            '"true" cannot be read: promises.tpot.p95 is a time',
            id="a switch for a time",
        ),
        pytest.param(
            START + "workload: {concurrency: true}\n",
            2,
            '"true" cannot be read: workload.concurrency is a count',
            id="a switch for a count",
        ),
        pytest.param(
            START + "workload: {concurrency: 2.5}\n",
            2,
            "workload.concurrency must be a whole number, not 2.5.",
            id="half a request",
        ),
        pytest.param(
            RATE + "memory: {kv_budget_fraction: .nan}\n",
            4,
            '"nan" cannot be read: memory.kv_budget_fraction is a share',
            id="not a number",
        ),
        pytest.param(
            RATE + "limits: {gpus: .inf}\n",
            4,
            '"inf" cannot be read: limits.gpus is a count',
            id="infinite",
        ),
        pytest.param(
            RATE + "memory: {kv_budget_fraction: 70}\n",
            4,
            'memory.kv_budget_fraction must be at most 100 %, not 70. Did you mean "70 %"?',
            id="per cent without its sign",
        ),
        pytest.param(
            RATE + "hardware: {buy: server}\n",
            4,
            'hardware.buy must be one of servers, gpus; "server" is not. Did you mean servers?',
            id="not a choice",
        ),
        pytest.param(
            RATE + "hardware: {gpus: []}\n",
            4,
            "hardware.gpus is empty. Remove it or name at least one.",
            id="no GPUs",
        ),
        pytest.param(
            RATE + "hardware: {allow_tp_beyond_domain: maybe}\n",
            4,
            'hardware.allow_tp_beyond_domain must be true or false, not "maybe".',
            id="not a switch",
        ),
        pytest.param(
            RATE + "hardware: 8\n",
            4,
            "hardware must hold keys of its own: gpus, servers, buy,",
            id="a number for a section",
        ),
        pytest.param(
            RATE + "engine: {kv_dtype: fp7}\n",
            4,
            '"fp7" is not a number format here. Did you mean fp8?',
            id="unknown number format",
        ),
        pytest.param(
            RATE + "existing: {count: 2}\n",
            4,
            "existing must name a server or a gpu, and not both.",
            id="two of what",
        ),
        pytest.param(
            RATE + "existing: {server: DGX-H100, gpu: H100-SXM, count: 2}\n",
            4,
            "existing must name a server or a gpu, and not both.",
            id="two of both",
        ),
        pytest.param(
            RATE + "engine: {speculative: {tokens: 3}}\n",
            4,
            "engine.speculative is not modelled: speculative decoding",
            id="speculative decoding",
        ),
        pytest.param(RATE + "engine: {lora: 4}\n", 4, "engine.lora is not modelled", id="adapters"),
        pytest.param(
            RATE + "hardware: {mig: 1g.10gb}\n", 4, "hardware.mig is not modelled", id="slices"
        ),
        pytest.param(
            RATE + 'hardware: {gpus: "H100-SXM:1g.10gb"}\n',
            4,
            "names a slice of a GPU, and slices (MIG) are not modelled.",
            id="slice in a name",
        ),
        pytest.param(
            RATE + "engine: {disaggregation: true}\n",
            4,
            "engine.disaggregation is not modelled",
            id="disaggregation",
        ),
        pytest.param(
            START + "workload: {request_rate: 5/s, request_rate: 6/s}\nmodel: other\n",
            3,
            "model stands twice: on line 1 and on line 3.",
            id="duplicate key",
        ),
        pytest.param(
            START + "workload:\n\trequest_rate: 5/s\n",
            3,
            "is indented with a tab: YAML wants spaces.",
            id="tab",
        ),
        pytest.param(START + "workload: [a\nx: }\n", 3, "is not valid YAML:", id="broken YAML"),
        pytest.param(
            START + "workload: !!python/object:os.system x\n", 2, "workload has a tag", id="tag"
        ),
        pytest.param(START + "---\nmodel: b\n", 2, "another document", id="two documents"),
        pytest.param("- a\n", 1, "must be a mapping of keys to values.", id="list"),
        pytest.param(RATE + "? [a]\n: 3\n", 4, "holds a key that is not a word.", id="odd key"),
        pytest.param(
            RATE + 'name: "a\\tb"\n', 4, "name holds a control character", id="control character"
        ),
        pytest.param(
            RATE + "  calls: [{prompt: 9 foo}]\n",
            4,
            '"9 foo" has an unknown unit “foo”: workload.calls[0].prompt is a length',
            id="within a list",
        ),
    ],
)
def test_a_mistake_is_answered_with_its_place_and_remedy(write_study, yaml, line, said):
    lines = complaint(write_study(yaml)).splitlines()
    assert [text for text in lines if text.startswith(f"study.yaml:{line}: ") and said in text], (
        lines
    )


def test_all_mistakes_come_at_once_in_the_order_of_the_file(write_study):
    path = write_study(
        "workload:\n  users: {registered: 0, active_at_peak: 10}\n  request_rate: 6.7\n"
        "  answer: {mean: 350, p95: 100, p59: 3}\n"
        "promises:\n  tpot: 50\n  e2e: true\nengine: {lora: 3}\nengine: {}\n"
    )
    with pytest.raises(InputErrors) as caught:
        load_study(path)
    errors = caught.value.errors
    assert {error.key for error in errors} >= {
        "model",
        "workload.users.registered",
        "workload.users.active_at_peak",
        "workload.request_rate",
        "workload.answer.p95",
        "workload.answer.p59",
        "promises.tpot.p95",
        "promises.e2e.p95",
        "engine.lora",
        "engine",
    }
    places = [error.line or 0 for error in errors]
    assert 0 not in places
    assert places == sorted(places)


def test_a_wrong_value_is_not_also_called_missing(write_study):
    path = write_study(START + "workload: {clients: {count: x}}\n")
    assert "is missing" not in complaint(path)
    assert complaint(path).count("\n") == 0


# ── files ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "study.yaml: is empty."),
        (b"# nothing\n", "study.yaml: is empty."),
        (b"model: a\nname: \xff\n", "study.yaml:2: is not UTF-8 (byte 0xff). Save it as UTF-8."),
        (b"model: a\nname: \x07\n", "study.yaml:2: holds a character that YAML does not allow"),
        (b"a" * 1_000_001, "study.yaml: is larger than 1 MB."),
        (b"a: " + b"[" * 100_000, "study.yaml:1: is nested deeper than 20 levels."),
        (b"a: &x [*x]\n", "study.yaml:1: repeats itself through aliases beyond reason."),
        (
            b"".join(
                b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1) if c > 97 else b"x"] * 10))
                for c in range(97, 104)
            ),
            "repeats itself through aliases beyond reason.",
        ),
    ],
    ids=["empty", "comment", "latin", "bell", "large", "deep", "recursive", "bomb"],
)
def test_a_file_that_is_no_study(tmp_path, content, said):
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    assert said in complaint(path)


def test_a_path_that_is_no_file(tmp_path):
    assert complaint(tmp_path / "nowhere.yaml") == "nowhere.yaml: does not exist."
    (tmp_path / "folder").mkdir()
    assert complaint(tmp_path / "folder") == "folder: is a directory, not a file."


def test_an_alias_is_read(read_study):
    study = read_study(START + "workload:\n  request_rate: 5/s\n  prompt: &p 90\n  answer: *p\n")
    assert study.document.workload.answer.mean.amount == 90


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "must hold base_s"),
        ('{"base_s": NaN}', "is not JSON"),
        ('{"base_s": 1e-3, "per_prefil_token_s": 1}', "Did you mean per_prefill_token_s?"),
        ('{"base_s": -1}', "base_s must be a time in seconds, 0 or more."),
        ('{"base_s": true}', "base_s must be a time"),
    ],
)
def test_a_step_model_that_is_none(write_study, content, said):
    path = write_study(RATE + "engine:\n  step_model: steps.json\n")
    (path.parent / "steps.json").write_text(content)
    assert "study.yaml:5: engine.step_model names steps.json, " in complaint(path)
    assert said in complaint(path)


# ── flags ───────────────────────────────────────────────────────────────────────────────────────


def test_a_mistake_in_a_flag_names_its_key_and_no_line(write_study):
    path = write_study(RATE + "promises: {tpot: 50}\n")
    with pytest.raises(InputErrors) as caught:
        load_study(path, overrides={"promises.ttft.p95": "1.5", "limits.gpus": 0})
    flags = [str(error) for error in caught.value.errors if error.file is None]
    assert flags == [
        '"1.5" has no unit: promises.ttft.p95 is a time, for example "1.5 s" or "1500 ms".',
        "limits.gpus must be at least 1, not 0.",
    ]
    assert [error.line for error in caught.value.errors if error.file] == [4]


def test_flags_alone_must_hold_too():
    with pytest.raises(InputErrors) as caught:
        study_from_overrides({"workload.calls[0].prompt": 3, "wrkload": 1})
    assert {error.key for error in caught.value.errors} == {"model", "wrkload", "workload"}
    json.dumps([str(error) for error in caught.value.errors])


# ── names ───────────────────────────────────────────────────────────────────────────────────────


def test_unknown_names_are_answered_with_near_ones_and_all_at_once(read_study, catalog):
    study = read_study(
        "model: no-such-model\nworkload: {request_rate: 5/s}\nhardware:\n"
        "  gpus: [H100-SMX]\n  servers: [DGX-H1000]\n  prices:\n    XX9: 3 usd/h\n"
        "engine: {name: vllmm}\nexisting: {gpu: nothing, count: 3}\n"
    )
    with pytest.raises(InputErrors) as caught:
        study.question(catalog)
    assert [(error.line, error.key) for error in caught.value.errors] == [
        (1, "model"),
        (4, "hardware.gpus[0]"),
        (5, "hardware.servers[0]"),
        (7, "hardware.prices.XX9"),
        (8, "engine.name"),
        (9, "existing.gpu"),
    ]
    text = str(caught.value)
    assert "H100-SXM" in text
    assert "DGX-H100" in text
