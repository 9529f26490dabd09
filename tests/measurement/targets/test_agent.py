"""A server that is started for the measurement: ready before it is asked, gone afterwards."""

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import suppress

import pytest

from tests.servers.slots import slots_server
from tonnage.errors import TonnageError, UsageError
from tonnage.measurement.load import Prompt, TargetSpec
from tonnage.measurement.targets.choose import target_of

SERVER = """
import contextlib, http.server, json, os, subprocess, sys, time, urllib.error, urllib.request
time.sleep(0.3)  # it loads something first
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("pids", "w").write(f"{os.getpid()} {child.pid}")

class Agent(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = {"model": "m", "messages": [{"role": "user", "content": asked["input"]}]}
        for _ in range(2):
            request = urllib.request.Request(
                os.environ["OPENAI_BASE_URL"] + "/chat/completions", json.dumps(body).encode(),
                {"Content-Type": "application/json"})
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(request).read()
        answer = b'{"output": "done"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Agent).serve_forever()
"""


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "server.py").write_text(SERVER)
    return tmp_path


def agent(port, *words, llm="http://127.0.0.1:9/v1"):
    return target_of(
        TargetSpec(
            kind="json",
            address=f"http://127.0.0.1:{port}/ask",
            command=(sys.executable, *words),
            record_llm=llm,
            request_template='{"input": "$prompt"}',
            answer_path="output",
        )
    )


async def ask(target, texts):
    await target.open()
    try:
        return [await target.send(Prompt(item=text, text=text)) for text in texts]
    finally:
        await target.close()


async def refuse(target):
    try:
        await target.open()
    finally:
        await target.close()


def is_gone(pid):
    """Whether a process has ended; one that nobody waits for any more counts."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 — no file, a process
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.usefixtures("here")
def test_a_failed_call_is_a_failed_request_whatever_the_server_answers(port):
    with slots_server(rota=("ok", "500", "ok")) as llm:
        target = agent(port, "server.py", str(port), llm=llm.url)
        outcomes = asyncio.run(ask(target, ["one", "two"]))
    assert [each.answer for each in outcomes] == ["done", "done"]
    assert [each.failure for each in outcomes] == [None, "workflow"]
    assert outcomes[1].error == "1 of 2 LLM calls of the workflow failed (http)"
    assert [call.failure for call in outcomes[1].llm_calls] == ["http", None]


@pytest.mark.usefixtures("here")
def test_it_is_asked_when_it_listens_and_its_calls_are_recorded(port):
    with slots_server() as llm:
        target = agent(port, "server.py", str(port), llm=llm.url)
        outcomes = asyncio.run(ask(target, ["one", "two"]))
    assert [each.failure for each in outcomes] == [None, None]
    assert [each.answer for each in outcomes] == ["done", "done"]
    assert [len(each.llm_calls) for each in outcomes] == [2, 2]
    assert [each.body["messages"][0]["content"] for each in llm.asked] == ["one"] * 2 + ["two"] * 2
    assert target.model == "m"


def test_nothing_it_started_is_left(here, port):
    with slots_server() as llm:
        asyncio.run(ask(agent(port, "server.py", str(port), llm=llm.url), ["one"]))
    server, child = map(int, (here / "pids").read_text().split())
    try:
        assert is_gone(server)
        assert is_gone(child)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_one_that_dies_at_its_start_is_told_with_its_last_words(here, port):
    (here / "broken.py").write_text("print('loading'); raise SystemExit('no weights in ./model')")
    with pytest.raises(TonnageError) as told:
        asyncio.run(refuse(agent(port, "broken.py")))
    assert "ended with exit status 1" in str(told.value)
    assert "no weights in ./model" in str(told.value)
    assert f"127.0.0.1:{port}" in str(told.value)


def test_a_port_that_somebody_else_listens_on_is_not_taken_for_it(here):
    (here / "taken.py").write_text("raise SystemExit('address already in use')")
    with slots_server() as other:
        port = int(other.url.split(":")[2].partition("/")[0])
        with pytest.raises(TonnageError, match="already"):
            asyncio.run(refuse(agent(port, "taken.py")))
        assert not other.asked


def test_what_cannot_be_run_is_refused_before_anything_is_started(port):
    with pytest.raises(UsageError, match="not a program"):
        target_of(
            TargetSpec(
                kind="json",
                address=f"http://127.0.0.1:{port}",
                command=("./no-such-program",),
                record_llm="http://127.0.0.1:9/v1",
            )
        )


def test_a_command_without_a_recorder_has_no_use(port):
    with pytest.raises(UsageError, match="--record-llm"):
        target_of(TargetSpec(kind="json", address=f"http://127.0.0.1:{port}", command=("python",)))
