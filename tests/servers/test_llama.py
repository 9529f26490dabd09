"""The llama.cpp that other tests measure: streams, counts, batches, and goes when it should."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from tests.servers.llama import MODEL, llama_server
from tonnage.measurement.load.synthetic import Writer

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def url():
    with llama_server(parallel=4) as address:
        yield address


@dataclass
class Answer:
    pieces: list[str]
    first: float
    last: float
    usage: dict[str, Any]


def ask(url: str, text: str, *, output_tokens: int = 12) -> Answer:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": output_tokens,
        "ignore_eos": True,
    }
    request = urllib.request.Request(  # noqa: S310 — our own server
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    answer = Answer([], 0.0, 0.0, {})
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 — as above
        for line in response:
            data = line.decode().removeprefix("data: ").strip()
            if not data or data == "[DONE]":
                continue
            event = json.loads(data)
            answer.usage = event.get("usage") or answer.usage
            if event["choices"] and event["choices"][0]["delta"].get("content"):
                answer.last = time.perf_counter()
                answer.first = answer.first or answer.last
                answer.pieces.append(event["choices"][0]["delta"]["content"])
    return answer


def ask_at_once(url: str, count: int) -> list[Answer]:
    barrier = Barrier(count)

    def one(index: int) -> Answer:
        text = Writer().text(20, stream="at once", index=index)
        barrier.wait()
        return ask(url, text, output_tokens=300)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.mark.parametrize("output_tokens", [1, 2, 37])
def test_an_answer_has_exactly_the_tokens_it_was_told_to(url, output_tokens):
    answer = ask(url, "home", output_tokens=output_tokens)
    assert answer.usage["completion_tokens"] == output_tokens
    assert len(answer.pieces) == output_tokens


@pytest.mark.parametrize("tokens", [1, 5, 500])
def test_a_synthetic_word_is_one_token_of_its_prompt(url, tokens):
    answer = ask(url, Writer().text(tokens, stream="count", index=tokens))
    assert answer.usage["prompt_tokens"] == tokens + 1  # the line break of the template


def test_no_synthetic_text_finds_another_cached_and_the_same_one_does(url):
    texts = [Writer().text(40, stream="cache", index=index) for index in range(4)]
    cached = [
        ask(url, text).usage["prompt_tokens_details"]["cached_tokens"]
        for text in [*texts, texts[-1]]
    ]
    assert max(cached[:-1]) <= 1
    assert cached[-1] >= 39


def test_requests_at_once_are_decoded_together(url):
    answers = ask_at_once(url, 4)
    assert max(answer.first for answer in answers) < min(answer.last for answer in answers)


def test_a_server_of_one_sequence_queues():
    with llama_server(parallel=1) as url:
        early, late = sorted(ask_at_once(url, 2), key=lambda answer: answer.first)
    # by the clocks of two threads, one of which may be woken late
    assert late.first - early.first > (early.last - early.first) / 2


def test_it_ends_with_the_process_that_opened_it(tmp_path):
    opener = (
        "import os, sys; from tests.servers.llama import llama_server\n"
        "with llama_server() as url:\n"
        "    print(url, flush=True); os._exit(1)  # as if killed\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", opener],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": "."},
    )
    url = result.stdout.strip()
    assert url.startswith("http://127.0.0.1:"), result.stderr
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).close()  # noqa: S310 — as above
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail("it still answers")
