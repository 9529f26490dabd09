"""The report of a simulation: the verdict first, every figure with its luck, nothing left out."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.report.documents import checked
from tests.report.simulated import (
    ENGINE,
    PROMISES,
    REQUESTS,
    around,
    attainment,
    simulation,
    some_rejected,
)
from tonnage.fleet import BatchDone, Replication
from tonnage.queueing.simulation import (
    Autoscaler,
    Clients,
    Disaggregation,
    Estimate,
    Outage,
    Stability,
)
from tonnage.report.json import render_json
from tonnage.report.markdown import render_markdown
from tonnage.report.simulation import refusal_of, report_simulation
from tonnage.report.text import render_text
from tonnage.workload import Batch

OVERLOADED = Stability(
    stable=False, growth_requests_per_s=0.83, explanation="The backlog grows by 0.83 requests/s."
)


def on(answer, **changes):
    """The same on another fleet."""
    fleet = replace(answer.scene.fleet, **changes)
    return replace(answer, scene=replace(answer.scene, fleet=fleet))


def data(answer):
    text = render_json(report_simulation(answer))
    return checked(json.loads(text, parse_constant=pytest.fail), "simulation")


def shown(answer, **options):
    """The text of the report, without blanks at the ends of lines."""
    text = render_text(report_simulation(answer), width=160, **options)
    return "\n".join(line.rstrip() for line in text.splitlines())


def words(answer, **options):
    """The same, however its lines are broken."""
    return " ".join(shown(answer, **options).split())


def batch(verdict, finish, *, steady=True, **changes):
    """The answer of a batch that is promised within 8 hours."""
    done = BatchDone(
        batch=Batch(requests=REQUESTS, deadline_s=8 * 3600),
        finish=finish,
        steady=steady,
        verdict=verdict,
    )
    alone = {"attainments": (), "goodput_share": None, "goodput_requests_per_s": None}
    return replace(simulation(**alone | changes), done=done)


EVERY_KIND = {
    "kept": simulation(),
    "missed": simulation(
        attainments=(
            attainment(PROMISES[0], "missed", 2.1),
            attainment(PROMISES[1], "unresolved", 0.0497),
        )
    ),
    "unresolved": simulation(attainments=(attainment(PROMISES[0], "unresolved", 1.48),)),
    "nothing promised": simulation(attainments=(), goodput_share=None, goodput_requests_per_s=None),
    "batch in time": batch("kept", around(7 * 3600.0)),
    "batch too late": batch("missed", around(13 * 3600.0)),
    "batch open": batch("unresolved", around(8 * 3600.0)),
    "batch hardly begun": batch("unresolved", Estimate(value=3600.0), steady=False),
    "batch never done": batch("missed", Estimate(value=math.inf)),
    "batch with losses": batch("missed", around(7 * 3600.0)),
    "batch and a promise": batch(
        "kept", around(7 * 3600.0), attainments=(attainment(PROMISES[0], "missed", 2.1),)
    ),
    "not judged": simulation(
        tpot=None, attainments=(attainment(PROMISES[0], "kept", 0.71),), unjudged=(PROMISES[1],)
    ),
    "nothing judged": simulation(
        tpot=None,
        attainments=(),
        unjudged=(PROMISES[1],),
        goodput_share=None,
        goodput_requests_per_s=None,
    ),
    "no rates": simulation(
        offered_requests_per_s=None,
        requests_per_s=None,
        output_tokens_per_s=None,
        goodput_requests_per_s=None,
    ),
    "one of each fate": simulation(rejected=1, lost=1, unfinished=1),
    "overloaded": simulation(stability=OVERLOADED),
    "rejected": some_rejected(simulation(), 10),
    "never reached": simulation(
        attainments=(replace(attainment(PROMISES[0], "missed", 1.0), reached=None),)
    ),
    "nothing measured": simulation(ttft=None, tpot=None, e2e=None),
    "deserted": simulation(unfinished=7, lost=3),
    "one replica": simulation(replicas=1),
    "many replicas": simulation(replicas=12),
    "no intervals": simulation(
        attainments=(
            replace(
                attainment(PROMISES[0], "kept", 1.0),
                reached=Estimate(value=1.0),
                share=Estimate(value=0.97),
            ),
        )
    ),
    "outages": on(
        simulation(),
        outages=(
            Outage(replica=0, down_s=60.0, up_s=120.0),
            Outage(replica=1, down_s=90.0, up_s=math.inf),
        ),
        retry=False,
        router="kv-aware",
        router_lag_s=0.2,
        autoscaler=Autoscaler(least=1, outstanding=8.0, interval_s=15.0, startup_s=120.0),
    ),
    "apart": on(
        simulation(),
        replicas=1,
        disaggregation=Disaggregation(engine=ENGINE, replicas=1, token_s=3e-6),
    ),
}
KINDS = pytest.mark.parametrize("answer", EVERY_KIND.values(), ids=EVERY_KIND)


@KINDS
def test_the_document_is_what_its_schema_says(answer):
    data(answer)


@KINDS
@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_text_fits(answer, width):
    text = render_text(report_simulation(answer), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "nan" not in text.split()


@KINDS
def test_markdown_says_the_same(answer):
    text = render_markdown(report_simulation(answer))
    assert text.startswith("# Support chatbot")
    assert "## Every input" in text


def test_the_contract():
    found = data(simulation())
    assert found["requests"]["arrived"] == found["requests"]["finished"] == REQUESTS
    assert found["requests"]["rejected"] == found["requests"]["unfinished"] == 0
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        figures = [found[metric][name] for name in ("p50", "p90", "p95", "p99")]
        assert figures == sorted(figures)
        assert 0 < found[metric]["mean"] < figures[-1]
    assert found["slo"] == {"ttft_p95": 0.93, "tpot_p95": 0.93}
    assert found["throughput"]["requests_per_s"] == 3.98
    assert found["throughput"]["output_tokens_per_s"] == 1001.0
    assert found["kv"]["peak_fraction"] == 0.42
    assert found["kv"]["preemptions"] == 3
    assert found["stable"] is True


def test_the_same_answer_is_the_same_bytes():
    assert render_json(report_simulation(simulation())) == render_json(
        report_simulation(simulation())
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("kept", "Kept every promise TTFT p95 710 ms (674–745 ms) of 1.5 s"),
        ("missed", "Missed TTFT p95 ≤ 1.5 s reached 2.1 s (1.99–2.21 s)"),
        ("missed", "93 % of the requests had TTFT within 1.5 s, where 95 % are promised."),
        ("unresolved", "Unresolved TTFT p95 ≤ 1.5 s reached 1.48 s (1.41–1.55 s)"),
        ("unresolved", "simulate more requests (--requests), or add a replica"),
        ("unresolved", "tonnage simulate --requests 6800"),
        ("overloaded", "Beyond capacity 0.83 requests/s more arrive than are answered"),
        ("nothing promised", "Simulated 3.98 requests/s answered TTFT mean 342 ms"),
        ("batch in time", "Kept every promise done in 7 h (6.65–7.35 h) of 8 h"),
        ("batch in time", "2,000 requests done ≤ 8 h 7 h – kept"),
        ("batch too late", "Missed 2,000 requests done ≤ 8 h done in 13 h (12.3–13.7 h) of 8 h"),
        ("batch open", "simulate more requests (--requests), or add a replica"),
        ("batch hardly begun", "Too little of the batch is simulated to tell the rate"),
        ("batch never done", "Missed 2,000 requests done ≤ 8 h never done"),
        ("batch with losses", "Some of its requests were never answered"),
        ("batch and a promise", "Missed TTFT p95 ≤ 1.5 s reached 2.1 s (1.99–2.21 s)"),
        ("batch and a promise", "2,000 requests done ≤ 8 h 7 h – kept"),
        ("not judged", "Kept every promise that can be judged TTFT p95 710 ms"),
        ("not judged", "TPOT p95 ≤ 50 ms is not judged: no request that counts has a time per"),
        ("not judged", "TPOT p95 ≤ 50 ms – – not judged"),
        ("nothing judged", "Simulated 3.98 requests/s answered"),
        ("no rates", "answered –"),
        ("no rates", "Too few requests count to tell a rate."),
        ("no rates", "90 % of the requests kept every promise at once."),
        ("one of each fate", "1 request of 2,000 was rejected"),
        ("one of each fate", "1 request was never answered"),
        ("one of each fate", "1 request was lost"),
        ("never reached", "Missed TTFT p95 ≤ 1.5 s not reached: too many requests had no answer"),
        ("rejected", "200 requests of 2,000 were rejected"),
        ("deserted", "7 requests were never answered"),
        ("deserted", "3 requests were lost with a replica that stopped"),
        ("apart", "1 × TP2 fp8 for prompts and 1 for answers on H200-SXM (4 GPUs)"),
        ("outages", "replica 0 stops at 60 s, until 120 s; what it held is lost"),
        ("outages", "replica 1 stops at 90 s, for good"),
        ("outages", "1 to 2 replicas at about 8 requests each"),
        ("outages", "kv-aware, 200 ms behind"),
        ("many replicas", "lowest 166"),
    ],
)
def test_what_is_said(kind, said):
    assert said in words(EVERY_KIND[kind])


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("kept", "kept"),
        ("missed", "missed"),
        ("unresolved", "unresolved"),
        ("nothing promised", None),
        ("batch too late", "missed"),
        ("batch in time", "kept"),
        ("batch and a promise", "missed"),
        ("not judged", "kept"),
        ("nothing judged", None),
    ],
)
def test_the_verdict_is_the_worst_of_all_promises(kind, verdict):
    assert data(EVERY_KIND[kind])["verdict"] == verdict


def test_a_load_that_cannot_be_served_is_refused_with_a_remedy():
    assert refusal_of(simulation()) is None
    assert refusal_of(EVERY_KIND["missed"]) is None  # a missed promise is an answer
    overloaded = refusal_of(EVERY_KIND["overloaded"])
    assert overloaded is not None
    assert "0.83 requests/s more arrive than are answered" in overloaded
    assert "--fleet" in overloaded
    rejected = refusal_of(EVERY_KIND["rejected"])
    assert rejected is not None
    assert rejected.startswith("200 requests can never be served")
    deserted = refusal_of(simulation(unfinished=7))
    assert deserted is not None
    assert deserted.startswith("7 requests were never answered, as no replica is left")


def test_what_never_comes_back_is_null_and_said():
    found = data(EVERY_KIND["outages"])
    assert [each["up_s"] for each in found["fleet"]["outages"]] == [120.0, None]
    assert found["explanations"] == {"fleet.outages[1].up_s": "it does not come back"}


def test_what_was_not_measured_is_null_and_said():
    found = data(EVERY_KIND["nothing measured"])
    assert found["ttft_s"]["p95"] is None
    assert found["ttft_s"]["count"] == 0
    assert set(found["explanations"]) == {"ttft_s", "tpot_s", "e2e_s"}


def test_what_cannot_be_judged_is_null_and_said():
    found = data(EVERY_KIND["not judged"])
    assert found["slo"] == {"ttft_p95": 0.93, "tpot_p95": None}
    kept, unjudged = found["promises"]
    assert kept["verdict"] == "kept"
    assert unjudged["promise"] == "tpot_p95"
    assert unjudged["reached_s"] is unjudged["attainment"] is unjudged["verdict"] is None
    assert "is not judged" in found["explanations"]["slo.tpot_p95"]
    nothing = data(EVERY_KIND["nothing judged"])
    assert nothing["goodput"]["share"] is None
    assert nothing["explanations"]["goodput"] == "nothing that is promised can be judged"


def test_a_rate_of_too_few_requests_is_null_and_said():
    found = data(EVERY_KIND["no rates"])
    assert set(found["throughput"].values()) == {None}
    assert found["goodput"]["requests_per_s"] is None
    assert "too few requests" in found["explanations"]["throughput"]


def test_a_batch_is_told_with_its_deadline():
    assert data(simulation())["batch"] is None
    found = data(EVERY_KIND["batch in time"])["batch"]
    assert found == {
        "requests": REQUESTS,
        "deadline_s": 28_800,
        "finish_s": 25_200,
        "finish_interval_90": [0.95 * 25_200, 1.05 * 25_200],
        "verdict": "kept",
    }
    assert data(EVERY_KIND["batch never done"])["batch"]["finish_s"] is None
    said = words(EVERY_KIND["batch in time"])
    assert "arriving" not in said
    assert "Nothing is promised" not in said


def test_the_timeline_is_of_the_whole_fleet():
    answer = simulation(replicas=3)
    found = data(answer)["timeline"]
    assert len({len(column) for column in found.values()}) == 1
    kv = answer.simulated.timeline.kv_fraction
    assert np.allclose(found["kv_fraction_max"], kv[:, 2])
    assert np.allclose(found["kv_fraction_mean"], kv[:, 1])


def test_replicas_count_what_they_finished():
    found = data(some_rejected(simulation(replicas=2), 10))["replicas"]
    assert [each["finished"] for each in found] == [800, 1000]


def test_clients_are_told():
    answer = simulation()
    answer = replace(
        answer, scene=replace(answer.scene, clients=Clients(count=32, think_time_s=10.0))
    )
    assert "32, thinking 10 s between requests" in words(answer)
    assert data(answer)["load"]["clients"]["count"] == 32


@pytest.mark.parametrize(
    ("share", "shown"), [(1.0, "100 %"), (0.99999, "99.99 %"), (0.9995, "99.95 %"), (0.5, "50 %")]
)
def test_a_share_is_100_percent_only_when_it_is_all(share, shown):
    answer = simulation(goodput_share=Estimate(value=share))
    assert f"{shown} of the requests kept every promise at once" in words(answer)


def test_a_narrow_interval_is_told_in_percent():
    narrow = Estimate(value=0.214, low=0.2139, high=0.2141)
    answer = simulation(
        attainments=(replace(attainment(PROMISES[0], "kept", 0.2), reached=narrow),)
    )
    assert "TTFT p95 214 ms (± 0.1 %) of 1.5 s" in words(answer)


def test_an_interval_over_two_units_names_both():
    answer = simulation(
        attainments=(replace(attainment(PROMISES[0], "kept", 0.2), reached=around(1.0)),)
    )
    assert "TTFT p95 1 s (950 ms–1.05 s) of 1.5 s" in words(answer)
    assert re.search(r"TTFT p95 ≤ 1\.5 s +1 s .*\n +950 ms–1\.05 s\b", shown(answer))


def test_an_interval_of_one_unit_leaves_it_to_the_figure_above():
    answer = simulation(attainments=(attainment(PROMISES[0], "kept", 0.71),))
    assert re.search(r"TTFT p95 ≤ 1\.5 s +710 ms .*\n +674–745  ", shown(answer))


def test_an_interval_in_another_unit_than_its_figure_names_it():
    wide = Estimate(value=0.999, low=1.0, high=1.4)
    answer = simulation(attainments=(replace(attainment(PROMISES[0], "kept", 0.2), reached=wide),))
    assert re.search(r"TTFT p95 ≤ 1\.5 s +999 ms .*\n +1–1\.4 s\b", shown(answer))


# ── several seeds ───────────────────────────────────────────────────────────────────────────────


def several(number, **changes):
    """The same answer `number` times over, each under a seed of its own."""
    answer = simulation(**changes)
    replications = tuple(
        Replication(seed=100 + seed, simulated=answer.simulated, summary=answer.summary)
        for seed in range(number)
    )
    return replace(answer, replications=replications)


def seeds_shown(answer):
    """The table of seeds in one line."""
    return re.sub("─+ ", "", words(answer)).partition("Seed by seed ")[2]


@pytest.mark.parametrize(("number", "how"), [(2, "batch means"), (5, "from 5 seeds")])
def test_several_seeds_are_shown_one_by_one(number, how):
    said = words(several(number))
    assert f"90 % interval ({how})" in said
    assert f"counted, {number} seeds, the first 0" in said
    heads = "seed TTFT p95 TPOT p95 requests/s answered "
    assert seeds_shown(several(number)).startswith(f"{heads}100 710 ms 37 ms 3.98 101 ")


def test_several_nights_are_compared_by_when_they_were_done():
    answer = EVERY_KIND["batch in time"]
    night = Replication(
        seed=1, simulated=answer.simulated, summary=answer.summary, done=answer.done
    )
    three = replace(answer, replications=(night,) * 3)
    assert seeds_shown(three).startswith("seed done in requests/s answered 1 7 h 3.98 ")
    assert [each["finish_s"] for each in data(three)["replications"]] == [25_200] * 3


def test_many_seeds_are_shown_by_their_spread():
    heads = "seed TTFT p95 TPOT p95 requests/s answered "
    assert seeds_shown(several(20)).startswith(f"{heads}lowest 710 ms 37 ms 3.98 middle ")


def test_without_promises_seeds_are_compared_by_their_means():
    shown = seeds_shown(several(3, attainments=()))
    assert shown.startswith("seed TTFT mean TPOT mean E2E mean requests/s answered 100 ")


def test_what_replicas_counted_is_of_all_seeds():
    one, three = data(simulation()), data(several(3))
    assert one["replications"] == []
    assert [each["seed"] for each in three["replications"]] == [100, 101, 102]
    for alone, together in zip(one["replicas"], three["replicas"], strict=True):
        assert together["kv_peak_fraction"] == alone["kv_peak_fraction"]
        for count in ("steps", "preemptions", "finished", "blocked_by_tokens"):
            assert together[count] == 3 * alone[count]
    assert words(several(3)).count("80 %") == words(simulation()).count("80 %")
