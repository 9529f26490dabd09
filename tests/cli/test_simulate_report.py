"""What `tonnage simulate` says of a batch, of answers without a rate, and of very few requests."""

import json

import pytest

from tests.cli.process import tonnage
from tests.report.documents import checked
from tonnage import errors

HARDWARE = ("--model", "Llama-3.1-8B-Instruct", "--fleet", "2 x H200-SXM:tp1")
LENGTHS = ("--prompt-tokens", "1000", "--output-tokens", "100")
PROMISES = ("--ttft-p95", "1.5 s", "--tpot-p95", "50 ms")


def answered(*arguments):
    result = tonnage("simulate", *HARDWARE, *arguments)
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    return " ".join(result.stdout.split())


def document(*arguments):
    result = tonnage("simulate", *HARDWARE, *arguments, "--format", "json")
    assert result.returncode == errors.EXIT_ANSWERED, result.stderr
    return checked(json.loads(result.stdout), "simulation")


@pytest.fixture
def night(tmp_path):
    """A study of a batch with this deadline."""

    def write(deadline):
        study = tmp_path / "night.yaml"
        study.write_text(
            "name: Night\nmodel: Llama-3.1-8B-Instruct\nworkload:\n"
            f"  batch: {{requests: 4000, deadline: {deadline}}}\n"
            "  prompt: 1000 tokens\n  answer: {mean: 100 tokens, p95: 250 tokens}\n"
            "hardware: {gpus: [H200-SXM]}\n"
        )
        return str(study)

    return write


def test_a_batch_is_held_against_its_deadline(night):
    said = answered(night("8 h"))
    assert "Kept every promise done in" in said
    assert "4,000 requests done ≤ 8 h" in said
    found = document(night("5 s"))
    assert found["verdict"] == found["batch"]["verdict"] == "missed"
    low, high = found["batch"]["finish_interval_90"]
    assert 5 < low < found["batch"]["finish_s"] < high
    assert found["batch"]["finish_s"] == pytest.approx(found["until_s"])
    assert "Missed 4,000 requests done ≤ 5 s" in answered(night("5 s"))


def test_several_seeds_of_a_batch_are_judged_together_and_apart(night):
    found = document(night("8 h"), "--seeds", "5")
    each = [one["finish_s"] for one in found["replications"]]
    assert len(set(each)) == 5
    assert found["batch"]["finish_s"] == pytest.approx(sum(each) / 5)
    low, high = found["batch"]["finish_interval_90"]
    assert min(each) < low < high < max(each)
    assert {one["verdict"] for one in found["replications"]} == {"kept"}


def test_a_part_of_a_batch_goes_on_and_a_small_one_decides_nothing(night):
    whole = document(night("8 h"))["batch"]["finish_s"]
    twice = document(night("8 h"), "--rate-factor", "20", "--requests", "40000")["batch"]
    assert twice["requests"] == 80_000
    assert twice["verdict"] == "kept"
    assert twice["finish_s"] == pytest.approx(20 * whole, rel=0.1)
    assert "Too little of the batch is simulated" in answered(night("8 h"), "--requests", "20")


def test_a_trace_takes_the_place_of_a_batch(night, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0.5,500,20\n1.5,500,20\n")
    found = document(night("8 h"), "--trace", str(trace))
    assert found["batch"] is found["verdict"] is None


def test_answers_of_one_token_are_not_judged_by_their_rate(tmp_path):
    trace = tmp_path / "one.csv"
    rows = "".join(f"{second},500,1\n" for second in range(1, 41))
    trace.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}")
    said = answered(*PROMISES, "--trace", str(trace))
    assert "Kept every promise that can be judged TTFT p95" in said
    assert "TPOT p95 ≤ 50 ms – – not judged" in said
    found = document("--tpot-p95", "50 ms", "--trace", str(trace))
    assert found["promises"][0]["reached_s"] is found["verdict"] is None


def test_two_requests_have_no_rate():
    arguments = ("--peak-request-rate", "4/s", *LENGTHS, *PROMISES, "--requests", "2")
    found = document(*arguments)
    assert set(found["throughput"].values()) == {None}
    assert found["goodput"]["requests_per_s"] is None
    said = answered(*arguments)
    assert "Too few requests count to tell a rate." in said
    assert "0 requests/s" not in said
