"""Work given away: to processes of this machine, and to the workers of a real Dask cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.process import tonnage
from tests.measurement.load.sharded import look_first_in, look_no_more_in
from tests.pieces import die, refuse, square, stay, stay_once
from tests.queueing.test_shards import TIED, assert_the_same, run_of
from tonnage.errors import InputError, MissingExtraError, TonnageError, UsageError
from tonnage.queueing.simulation.shards import simulate_all
from tonnage.spread import open_executor, spread

LONGEST_S = 60.0


def wait_until(true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LONGEST_S
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def those_in(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def meanwhile(do: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=do)
    thread.start()
    return thread


# ── processes of this machine ───────────────────────────────────────────────────────────────────


def test_every_piece_comes_back_with_its_number():
    with open_executor(workers=2) as executor:
        assert dict(spread(executor, square, range(20))) == {n: n * n for n in range(20)}
        assert list(spread(executor, square, [])) == []


def test_what_a_piece_raises_is_raised_and_the_rest_taken_back(tmp_path):
    pieces = [tmp_path / name for name in ("bad", *map(str, range(100)))]
    with open_executor(workers=1) as executor:
        with pytest.raises(InputError, match=r"^bad: is bad\. Mend it\.$"):
            list(spread(executor, refuse, pieces))
        assert dict(spread(executor, square, [3])) == {0: 9}
    assert len(list(tmp_path.iterdir())) < 20


def test_a_killed_process_is_said(tmp_path):
    def kill() -> None:
        wait_until(lambda: bool(those_in(tmp_path)))
        os.kill(those_in(tmp_path)[0], signal.SIGKILL)

    with open_executor(workers=2) as executor:
        killing = meanwhile(kill)
        with pytest.raises(TonnageError, match=r"a worker process ended before .*memory"):
            list(spread(executor, stay, [tmp_path] * 3))
        killing.join()
    wait_until(lambda: not any(map(alive, those_in(tmp_path))))


def test_leaving_early_ends_the_processes_at_once(tmp_path):
    def interrupted() -> None:
        with open_executor(workers=2) as executor:
            executor.submit(stay, tmp_path)
            executor.submit(stay, tmp_path)
            wait_until(lambda: len(those_in(tmp_path)) == 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(map(alive, those_in(tmp_path)))


def test_processes_end_with_the_one_that_opened_them(tmp_path):
    script = (
        "import sys, pathlib\n"
        "from tests.pieces import stay\n"
        "from tonnage.spread import open_executor, spread\n"
        "if __name__ == '__main__':\n"
        "    with open_executor(workers=2) as executor:\n"
        "        list(spread(executor, stay, [pathlib.Path(sys.argv[1])] * 2))\n"
    )
    file = tmp_path / "script.py"
    file.write_text(script)
    there = tmp_path / "there"
    there.mkdir()
    opener = subprocess.Popen(
        [sys.executable, file, there], env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )
    wait_until(lambda: len(those_in(there)) == 2)
    opener.kill()
    opener.wait()
    wait_until(lambda: not any(map(alive, those_in(there))))


# ── a Dask cluster ──────────────────────────────────────────────────────────────────────────────


dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


def cluster_of(workers: int) -> Any:
    """A scheduler and workers in processes of their own, each with a nanny that starts it again."""
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0"
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with cluster_of(2) as running:
        running.wait_for_workers(2)
        yield running


@pytest.fixture
def address(cluster: Any) -> str:
    wait_until(lambda: len(cluster.scheduler.workers) == 2)  # one that was killed is started again
    return str(cluster.scheduler_address)


def test_a_cluster_says_what_this_process_says(address: str) -> None:
    runs = [run_of(seed=seed, requests=300) for seed in range(3)] + [TIED[5]]
    with open_executor(cluster=address) as executor:
        found = simulate_all(runs, executor, part_requests=100)
    for each, expected in zip(found, simulate_all(runs), strict=True):
        assert_the_same(each, expected)


@pytest.mark.parametrize("told", [(), ("--workers", "1")])
def test_the_command_gives_the_same_bytes_from_a_cluster(address: str, told: tuple[str, ...]):
    question = (
        *("simulate", "--model", "Llama-3.1-8B-Instruct", "--peak-request-rate", "4/s"),
        *("--prompt-tokens", "1000", "--output-tokens", "100", "--fleet", "2 x H200-SXM:tp1"),
        *("--requests", "500", "--seeds", "3", "--format", "json"),
    )
    here, there = tonnage(*question), tonnage(*question, "--cluster", address, *told)
    assert (here.returncode, there.returncode, there.stderr) == (0, 0, "")
    assert there.stdout == here.stdout


def test_what_a_piece_raises_on_a_cluster_is_raised_here(address: str, tmp_path: Path) -> None:
    with (
        open_executor(cluster=address, workers=1) as executor,
        pytest.raises(InputError, match=r"^bad: is bad\. Mend it\.$"),
    ):
        list(spread(executor, refuse, [tmp_path / "bad", tmp_path / "good"]))


def test_the_piece_of_a_killed_worker_is_computed_by_another(address: str, tmp_path: Path) -> None:
    def kill() -> None:
        wait_until(lambda: bool(those_in(tmp_path)))
        os.kill(those_in(tmp_path)[0], signal.SIGKILL)

    with open_executor(cluster=address) as executor:
        killing = meanwhile(kill)
        ((_, who),) = spread(executor, stay_once, [tmp_path])
        killing.join()
    assert who not in those_in(tmp_path)


def test_a_cluster_that_loses_its_workers_is_not_waited_for(tmp_path: Path) -> None:
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), cluster_of(1) as small:
        small.wait_for_workers(1)
        with (
            open_executor(cluster=small.scheduler_address) as executor,
            pytest.raises(TonnageError, match=r"a worker process of the cluster ended before"),
        ):
            list(spread(executor, die, [tmp_path]))
        wait_until(lambda: len(small.scheduler.workers) == 1)

        def leave() -> None:
            wait_until(lambda: bool(those_in(tmp_path)))
            small.scale(0)

        with open_executor(cluster=small.scheduler_address) as executor:
            leaving = meanwhile(leave)
            with pytest.raises(TonnageError, match=r"has no workers left\. Start them with dask"):
                list(spread(executor, stay, [tmp_path]))
            leaving.join()


def test_fewer_workers_than_asked_for_are_refused(address: str) -> None:
    with (
        pytest.raises(TonnageError, match=r"has 2 workers, and 3 are asked for"),
        open_executor(cluster=address, workers=3),
    ):
        pass


def test_workers_with_another_tonnage_are_refused(address: str, tmp_path: Path) -> None:
    other = tmp_path / "tonnage-9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: tonnage\nVersion: 9.9\n")
    with distributed.Client(address, set_as_default=False) as client:
        client.run(look_first_in, str(tmp_path))
        try:
            with (
                pytest.raises(TonnageError, match=r"worker tcp://.* has tonnage 9\.9; this is"),
                open_executor(cluster=address),
            ):
                pass
        finally:
            client.run(look_no_more_in, str(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ("tcp://127.0.0.1:9", TonnageError, "no Dask scheduler answers at tcp://127"),
        ("ftp://here:1", UsageError, "is no address of a Dask scheduler"),
    ],
)
def test_no_scheduler_and_no_address_are_said(wrong: str, error: type[Exception], said: str):
    with pytest.raises(error, match=said), open_executor(cluster=wrong):
        pass


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)  # as if it were not installed
    with (
        pytest.raises(MissingExtraError, match=r"tonnage\[cluster\]"),
        open_executor(cluster="tcp://127.0.0.1:9"),
    ):
        pass
