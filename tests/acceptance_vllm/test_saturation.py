"""A real vLLM, measured as a user would: what a saturation curve is, and every token counted.

Opt-in, as vLLM is 3 GB: `scripts/make-vllm DIRECTORY`, then this with TONNAGE_VLLM set to
DIRECTORY/bin/python. vLLM decodes `SEQUENCES` requests at once; whoever comes beyond that waits.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.servers.llama import CONTEXT_TOKENS
from tonnage.measurement.load import Record
from tonnage.measurement.load.journal import read_records

PYTHON = os.environ.get("TONNAGE_VLLM")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="needs vLLM: make acceptance-vllm")

ROOT = Path(__file__).parents[2]
SEQUENCES = 8
CONCURRENCIES = (1, 2, 4, 8, 16)
PROMPT_TOKENS, OUTPUT_TOKENS = 128, 64
START_TIMEOUT_S = 300
NOISE = 0.3  # of a machine that does other things too; without saturation rates differ by half


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    assert PYTHON is not None
    folder = tmp_path_factory.mktemp("vllm")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    }
    model = folder / "model"
    subprocess.run(
        [PYTHON, "-m", "tests.acceptance_vllm.model", str(model)], check=True, env=environment
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", str(CONTEXT_TOKENS), "--max-num-seqs", str(SEQUENCES)]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        ) as server,
    ):
        try:
            wait_until_it_answers(f"http://127.0.0.1:{port}/health", server, folder / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # with the engine, a process of its own


def wait_until_it_answers(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()  # noqa: S310 — our own server
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"vLLM did not start:\n{log.read_text(errors='replace')[-3000:]}")


def tonnage(*arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "tonnage", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def run(url, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("measured") / "run"
    levels = ",".join(map(str, CONCURRENCIES))
    tonnage(
        *("measure", url, "--concurrency", levels, "--duration", "20 s", "-o", str(folder)),
        *("--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(OUTPUT_TOKENS)),
    )
    return folder


@pytest.fixture(scope="module")
def points(run) -> list[dict[str, Any]]:
    """The levels of the run, by concurrency."""
    found = json.loads(tonnage("fit", str(run), "--format", "json"))["points"]
    ordered: list[dict[str, Any]] = sorted(found, key=lambda point: point["concurrency"])
    return ordered


@pytest.fixture(scope="module")
def measured(run) -> dict[str, list[Record]]:
    """Measured requests by level, in the order the levels were held."""
    levels: dict[str, list[Record]] = {}
    for record in read_records(run / "requests.jsonl"):
        if record.phase == "measured":
            levels.setdefault(record.level, []).append(record)
    return levels


def test_every_level_is_there_and_nothing_failed(points):
    assert tuple(point["concurrency"] for point in points) == CONCURRENCIES
    assert [point["failed"] for point in points] == [0] * len(points)


def test_every_token_is_counted_and_every_prompt_as_long_as_asked(measured):
    records = [record for level in measured.values() for record in level]
    assert {record.output_tokens for record in records} == {OUTPUT_TOKENS}
    assert {record.prompt_tokens for record in records} == {PROMPT_TOKENS + 1}  # the template's
    # vLLM sends the tokens of a step together, and two steps at once when it is hurried
    assert all(OUTPUT_TOKENS / 2 < len(record.token_s) <= OUTPUT_TOKENS for record in records)


def test_throughput_rises_to_the_batch_and_then_no_more(points):
    rates = [point["output_tokens_per_s"] for point in points]
    upto = CONCURRENCIES.index(SEQUENCES)
    assert all(more > 1.1 * fewer for fewer, more in pairwise(rates[: upto + 1]))
    assert rates[upto + 1] == pytest.approx(rates[upto], rel=NOISE)
    assert rates[upto] < SEQUENCES * rates[0]  # a step of a full batch is not free


def test_latency_rises_with_load(points):
    for name in ("tpot_mean_s", "e2e_p50_s"):
        values = [point[name] for point in points]
        upto = CONCURRENCIES.index(SEQUENCES)
        assert values[: upto + 1] == sorted(values[: upto + 1]), name
    last, full = points[-1], points[-2]
    # half of them wait for an answer of another, and once they run they are as fast as the others
    assert last["ttft_p50_s"] > full["e2e_p50_s"] / 2
    assert last["e2e_p50_s"] == pytest.approx(2 * full["e2e_p50_s"], rel=NOISE)
    assert last["tpot_mean_s"] == pytest.approx(full["tpot_mean_s"], rel=NOISE)


def test_requests_in_flight_are_rate_times_latency(points, measured):
    """Little's law, over the seconds between the first and the last request that was sent."""
    for point, records in zip(points, measured.values(), strict=True):
        sent = [record.sent_unix_s for record in records]
        start, end = min(sent), max(sent)
        in_flight_s = sum(min(each.e2e_s, end - each.sent_unix_s) for each in records)
        # those of the warm-up that are still unanswered at the start are missing: one each at most
        longest = max(record.e2e_s for record in records)
        missing = longest / (end - start)
        expected = point["concurrency"]
        assert expected * (1 - missing) * 0.97 < in_flight_s / (end - start) < expected * 1.001


def test_a_line_through_the_levels_is_found(run):
    answer = json.loads(tonnage("fit", str(run), "--metric", "e2e_p95", "--format", "json"))
    (fit,) = answer["fits"]
    assert fit["metric"] == "e2e_p95_s"
    assert fit["slope"] > 0
    assert fit["r_squared"] > 0.8
