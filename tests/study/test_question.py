"""A study becomes a question: candidates, calls, promises, policies, and every input listed."""

import pytest

from tonnage.evidence import Evidence
from tonnage.study import load_study, study_from_overrides
from tonnage.workload import Batch, ClosedLoad, OpenLoad, reading_speed_tpot_s

SMALL = "model: openai/gpt-oss-120b\nworkload: {request_rate: 5/s}\nhardware: {gpus: [H100-SXM]}\n"


@pytest.fixture
def ask(catalog):
    def ask(**overrides):
        keys = {key.replace("__", "."): value for key, value in overrides.items()}
        base = {"model": "openai/gpt-oss-120b", "hardware.gpus": ["H100-SXM"]}
        return study_from_overrides(base | keys).question(catalog)

    return ask


def assumed(question):
    return {told.key: told for told in question.inputs if told.evidence is Evidence.ASSUMED}


def promises(question):
    return {(p.metric, p.percentile): p.limit_s for p in question.workload.promises}


# ── promises ────────────────────────────────────────────────────────────────────────────────────


def test_without_promises_text_comes_as_fast_as_people_read(ask):
    question = ask(workload__request_rate="5/s")
    assert promises(question) == {("tpot", 95.0): reading_speed_tpot_s(0.75)}
    assert question.workload.promises[0].evidence is Evidence.ASSUMED
    assert assumed(question)["promises.tpot.p95"].value == reading_speed_tpot_s(0.75)
    assert assumed(question)["promises.ttft"].text == "no promise"


def test_wait_is_time_to_first_token(ask):
    question = ask(workload__request_rate="5/s", promises__wait="2 s", promises__tpot="40 ms")
    assert promises(question) == {("ttft", 95.0): 2.0, ("tpot", 95.0): 0.04}
    assert "before the answer begins" in question.workload.promises[0].note


def test_a_speed_becomes_a_time_per_token(ask):
    question = ask(workload__request_rate="5/s", promises__tokens_per_second={"p50": 50, "p99": 20})
    assert promises(question) == {("tpot", 50.0): 0.02, ("tpot", 99.0): 0.05}


def test_the_whole_answer_alone_is_sequential(ask):
    question = ask(workload__request_rate="5/s", promises__e2e="12 s")
    assert question.workload.mode == "sequential"
    assert promises(question) == {("e2e", 95.0): 12.0}
    streaming = ask(workload__request_rate="5/s", promises__e2e="12 s", promises__mode="streaming")
    assert streaming.workload.mode == "streaming"


def test_a_batch_promises_nothing_but_its_deadline(ask):
    question = ask(workload__batch={"requests": "1 M", "deadline": "8 h"})
    assert question.workload.mode == "offline"
    assert question.workload.load == Batch(requests=1e6, deadline_s=28800)
    assert promises(question) == {}


def test_sessions_alone_size_memory(ask):
    question = ask(workload__sessions=1000, workload__context="131072 tokens")
    workload = question.workload
    assert (workload.mode, workload.load, workload.sessions) == ("memory", None, 1000)
    assert workload.context_tokens == 131072
    assert "workload.prompt" not in assumed(question)


def test_sessions_beside_a_load_hold_prompt_and_answer_unless_told(ask):
    question = ask(
        workload__sessions=50,
        workload__concurrency=8,
        workload__prompt=3000,
        workload__answer=500,
    )
    assert question.workload.load == ClosedLoad(clients=8)
    assert question.workload.context_tokens == 3500


# ── lengths ─────────────────────────────────────────────────────────────────────────────────────


def test_terms_add_up_and_the_cached_part_is_a_share_of_them(ask):
    question = ask(
        workload__request_rate="5/s",
        workload__prompt={
            "system": "300 tokens",
            "retrieved": "2400 tokens",
            "question": "60 words",
            "images": {"count": 2, "tokens_each": 110},
            "cached": "300 tokens",
        },
        workload__answer={"reasoning": "2000 tokens", "visible": "300 tokens"},
    )
    mix = question.workload.calls[0].mix
    assert mix.prompt.kind == "constant"
    assert mix.prompt.mean_tokens == pytest.approx(3000)
    assert mix.cached_share == pytest.approx(0.1)
    assert mix.output.mean_tokens == 2300
    assert assumed(question)["workload.words_per_token"].value == 0.75


def test_variances_of_terms_add(ask):
    question = ask(
        workload__request_rate="5/s",
        workload__prompt={
            "system": {"mean": 300, "distribution": "normal", "cv": 0.4},
            "history": {"mean": 400, "distribution": "lognormal", "cv": 0.4},
        },
    )
    prompt = question.workload.calls[0].mix.prompt
    assert prompt.mean_tokens == 700
    assert prompt.standard_deviation_tokens == pytest.approx((120**2 + 160**2) ** 0.5)


def test_a_mean_with_a_percentile_is_a_lognormal_and_says_so(ask):
    question = ask(workload__request_rate="5/s", workload__answer={"mean": 350, "p95": 900})
    output = question.workload.calls[0].mix.output
    assert output.kind == "lognormal"
    assert output.mean_tokens == 350
    assert output.percentile_tokens(95) == pytest.approx(900)
    notes = [told.note for told in question.inputs if told.key.startswith("workload.answer")]
    assert "taken as lognormal with this mean and p95" in notes[0]


def test_a_median_and_a_percentile_make_a_lognormal(ask):
    question = ask(workload__request_rate="5/s", workload__answer={"p50": 300, "p95": 900})
    output = question.workload.calls[0].mix.output
    assert output.percentile_tokens(50) == pytest.approx(300)
    assert output.percentile_tokens(95) == pytest.approx(900)


@pytest.mark.parametrize("kind", ["lognormal", "normal", "uniform", "exponential", "constant"])
def test_a_distribution_keeps_its_name(ask, kind):
    cv = {} if kind in {"exponential", "constant"} else {"cv": 0.3}
    answer = {"mean": 350, "distribution": kind, **cv}
    question = ask(workload__request_rate="5/s", workload__answer=answer)
    assert question.workload.calls[0].mix.output.kind == kind


def test_lengths_nobody_stated_are_assumed(ask):
    question = ask(workload__request_rate="5/s")
    mix = question.workload.calls[0].mix
    assert (mix.prompt.mean_tokens, mix.output.mean_tokens) == (1000, 250)
    assert assumed(question)["workload.prompt"].value == 1000
    assert assumed(question)["workload.answer"].value == 250


def test_a_text_is_counted_by_its_words_or_by_a_tokenizer(write_study, catalog):
    path = write_study(SMALL.replace("5/s}", "5/s, prompt: {file: prompt.txt}}"))
    (path.parent / "prompt.txt").write_text("one two three " * 100)
    by_words = load_study(path).question(catalog)
    assert by_words.workload.calls[0].mix.prompt.mean_tokens == pytest.approx(400)
    assert {i.key: i.evidence for i in by_words.inputs}["workload.prompt.file"] is Evidence.ASSUMED

    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"one": 0, "two": 1, "?": 2}, unk_token="?")  # noqa: S106 (no password)
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(path.parent / "tokenizer.json"))
    counted = load_study(path, overrides={"workload.tokenizer": "tokenizer.json"}).question(catalog)
    assert counted.workload.calls[0].mix.prompt.mean_tokens == 300
    assert {i.key: i.evidence for i in counted.inputs}["workload.prompt.file"] is Evidence.MEASURED


# ── calls ───────────────────────────────────────────────────────────────────────────────────────


def test_a_chain_takes_what_it_leaves_out_from_the_top(read_study, catalog):
    question = read_study(
        "model: openai/gpt-oss-120b\nworkload:\n  request_rate: 5/s\n  answer: 300\n  calls:\n"
        "    - {name: check, model: openai/gpt-oss-20b, prompt: 600, answer: 5, repeats: 2}\n"
        "    - {prompt: 2000}\n"
    ).question(catalog)
    check, answer = question.workload.calls
    assert (check.name, check.model, check.repeats) == ("check", "openai/gpt-oss-20b", 2)
    assert (answer.name, answer.model) == ("call 2", "openai/gpt-oss-120b")
    assert (check.mix.output.mean_tokens, answer.mix.output.mean_tokens) == (5, 300)
    assert set(question.models) == {"openai/gpt-oss-20b", "openai/gpt-oss-120b"}


def test_a_model_may_be_a_path_beside_the_study(write_study, catalog):
    path = write_study(SMALL.replace("openai/gpt-oss-120b", "config.json"))
    (path.parent / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,'
        '"max_position_embeddings": 4096,'
        '"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}'
    )
    question = load_study(path).question(catalog)
    assert next(iter(question.models.values())).layers == 2


# ── hardware ────────────────────────────────────────────────────────────────────────────────────


def test_boards_come_in_servers_and_cards_one_by_one(ask):
    question = ask(workload__request_rate="5/s", hardware__gpus=["H100-SXM", "L40S"])
    board, card = question.candidates
    assert (board.gpu.name, board.whole_servers) == ("H100-SXM", True)
    assert board.server.name == "DGX-H100"
    assert (card.gpu.name, card.whole_servers) == ("L40S", False)


def test_buy_overrules(ask):
    rented = ask(workload__request_rate="5/s", hardware__buy="gpus")
    assert not rented.candidates[0].whole_servers
    bought = ask(workload__request_rate="5/s", hardware__gpus="L40S", hardware__buy="servers")
    assert bought.candidates[0].whole_servers


def test_a_named_server_takes_the_place_of_the_default_one(ask):
    question = ask(
        workload__request_rate="5/s",
        hardware__gpus=["H100-SXM", "H200-SXM"],
        hardware__servers=["HGX-H100"],
    )
    assert [(c.gpu.name, c.server.name) for c in question.candidates] == [
        ("H100-SXM", "HGX-H100"),
        ("H200-SXM", "DGX-H200"),
    ]


def test_all_is_every_gpu_of_the_catalog(ask, catalog):
    everything = ask(workload__request_rate="5/s", hardware__gpus="all")
    assert [c.gpu.name for c in everything.candidates] == list(catalog.gpus)


def test_a_stated_price_beats_the_catalogs(ask, catalog):
    question = ask(
        workload__request_rate="5/s",
        hardware__gpus=["H100-SXM", "h200 sxm"],
        hardware__prices={"H200-SXM": "3.40 usd/h"},
    )
    listed, stated = question.candidates
    default = next(p for p in catalog.gpu("H100-SXM").rent_usd_per_hour if p.default)
    assert listed.usd_per_gpu_hour == default.mid_usd
    assert default.date in listed.price_note
    assert (stated.usd_per_gpu_hour, stated.price_note) == (3.4, "stated")
    told = {i.key: i for i in question.inputs}
    assert told["hardware.prices.H100-SXM"].evidence is Evidence.DATASHEET
    assert told["hardware.prices.H200-SXM"].value == 3.4


def test_an_existing_fleet_counts_its_gpus(ask):
    servers = ask(workload__request_rate="5/s", existing={"server": "DGX-H100", "count": 2})
    assert (servers.existing.gpu, servers.existing.gpus) == ("H100-SXM", 16)
    gpus = ask(workload__request_rate="5/s", existing={"gpu": "L40S", "count": 3})
    assert (gpus.existing.server, gpus.existing.units, gpus.existing.gpus) == (None, 3, 3)


def test_overlays_start_from_the_folder_of_the_study(write_study):
    path = write_study(SMALL.replace("{gpus", "{catalog: mine.toml, gpus"))
    assert load_study(path).overlays == (path.parent / "mine.toml",)


# ── engine, memory, scenarios ───────────────────────────────────────────────────────────────────


def test_native_is_what_the_model_is_published_in(ask):
    question = ask(
        workload__request_rate="5/s", engine__weight_dtype="native", engine__kv_dtype="fp8"
    )
    model = question.models["openai/gpt-oss-120b"]
    assert question.weight_dtypes == (model.native_weight_dtype,)
    assert question.kv_dtypes == ("fp8",)


def test_a_step_model_is_four_times(write_study, catalog):
    path = write_study(
        SMALL.replace("gpus: [H100-SXM]", "gpus: [H100-SXM], tensor_parallel: 1")
        + "engine: {step_model: steps.json}\n"
    )
    (path.parent / "steps.json").write_text(
        '{"base_s": 0.01, "per_prefill_token_s": 1e-4, "per_sequence_s": 0, "per_kv_token_s": 1e-9}'
    )
    model = load_study(path).question(catalog).step_model
    assert model is not None
    assert (model.base_s, model.per_kv_token_s) == (0.01, 1e-9)


@pytest.mark.parametrize(
    ("overrides", "headrooms", "spares", "budgets"),
    [
        ({}, (0, 0.2, 0.3), (0, 1, 2), (0.7, 0.7, 0.65)),
        ({"memory.kv_budget_fraction": "60 %"}, (0, 0.2, 0.3), (0, 1, 2), (0.6, 0.6, 0.6)),
        ({"memory.kv_budget_fraction": "90 %"}, (0, 0.2, 0.3), (0, 1, 2), (0.9, 0.9, 0.65)),
        (
            {"scenarios.recommended": {"headroom": "50 %", "spare": 4}},
            (0, 0.5, 0.5),
            (0, 4, 4),
            (0.7, 0.7, 0.65),
        ),
        (
            {"scenarios.ideal": {"headroom": "5 %", "spare": 0, "kv_budget_fraction": "80 %"}},
            (0, 0.2, 0.05),
            (0, 1, 0),
            (0.7, 0.7, 0.8),
        ),
    ],
)
def test_policies(catalog, overrides, headrooms, spares, budgets):
    study = study_from_overrides(
        {"model": "openai/gpt-oss-120b", "workload.request_rate": "5/s", **overrides}
    )
    policies = study.question(catalog).policies
    assert [policy.name for policy in policies] == ["minimum", "recommended", "ideal"]
    assert tuple(policy.headroom_fraction for policy in policies) == headrooms
    assert tuple(policy.spare_units for policy in policies) == spares
    assert tuple(policy.kv_budget_fraction for policy in policies) == budgets


# ── inputs ──────────────────────────────────────────────────────────────────────────────────────


def test_every_stated_value_is_listed_as_it_was_written(read_study, catalog):
    study = read_study(
        "name: 2027\nmodel: openai/gpt-oss-120b\nworkload:\n"
        "  users: {registered: 20000, active_at_peak: 0.1}\n  prompt: {question: 60 words}\n"
        "  network: 20 ms\npromises: {ttft: 1.5 s}\nhardware: {gpus: [L40S, H100-SXM]}\n"
    )
    told = {i.key: (i.text, i.value, i.unit) for i in study.question(catalog).inputs}
    assert told["name"] == ("2,027", None, "") or told["name"][0] == "2027"
    assert told["workload.users.registered"] == ("20,000", 20000, "")
    assert told["workload.users.active_at_peak"] == ("10 %", 0.1, "")
    assert told["workload.prompt.question"] == ("60 words", pytest.approx(80), "tokens")
    assert told["workload.network"] == ("20 ms", 0.02, "s")
    assert told["promises.ttft"] == ("1.5 s", 1.5, "s")
    assert told["hardware.gpus"] == ("L40S, H100-SXM", None, "")


def test_no_input_is_listed_twice(read_study, catalog):
    inputs = read_study(SMALL).question(catalog).inputs
    assert len({told.key for told in inputs}) == len(inputs)


def test_a_stated_peak_without_a_mean_is_taken_as_the_mean(ask):
    question = ask(workload__peak_request_rate="31/s")
    assert question.workload.load == OpenLoad(requests_per_s_mean=31, requests_per_s_peak=31)
    assert "workload.request_rate" in assumed(question)
    both = ask(workload__peak_request_rate="31/s", workload__request_rate="9/s")
    assert both.workload.load == OpenLoad(requests_per_s_mean=9, requests_per_s_peak=31)
