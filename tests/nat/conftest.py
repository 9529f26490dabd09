"""Workflows of the real NeMo Agent Toolkit, in this process and behind its own web server."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.nat.llm import Server, llm_server

START_TIMEOUT_S = 120.0  # it imports a lot

CONFIG = """
llms:
  model:
    _type: openai
    base_url: {url}
    api_key: none
    model_name: fake-model
    max_retries: 0
functions:
  current_datetime:
    _type: current_datetime
workflow:
  _type: {kind}
  llm_name: model
"""


@pytest.fixture
def llm() -> Iterator[Server]:
    with llm_server() as server:
        yield server


@pytest.fixture
def workflow(tmp_path: Path, llm: Server) -> Callable[[str], Path]:
    """The configuration file of a workflow of this kind, which asks `llm`."""

    def write(kind: str) -> Path:
        file = tmp_path / f"{kind}.yml"
        tools = "  tool_names: [current_datetime]\n" if kind == "react_agent" else ""
        file.write_text(CONFIG.format(url=llm.url, kind=kind) + tools)
        return file

    return write


@contextmanager
def nat_serve(config: Path) -> Iterator[str]:
    """The address of the toolkit's own server for `config`, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("nat")), "serve", "--config_file", str(config)]
    log = config.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=config.parent,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/docs", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url):  # noqa: S310 — our own loopback URL
                return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise RuntimeError(f"nat serve did not start:\n{log.read_text()[-3000:]}")
