"""The simulator against its goals, and against a naive one that follows every sequence by itself.

Everything is timed in CPU seconds of this process: on a shared machine those scatter less than the
clock on the wall, and the simulator waits for nothing.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.queueing.naive import simulate_naive
from tonnage.catalog.loader import Catalog
from tonnage.catalog.profiles import engine
from tonnage.deployment import Deployment
from tonnage.performance import StepTable
from tonnage.performance.kv_pool import kv_pool
from tonnage.performance.roofline import tabulate
from tonnage.pipeline import prove
from tonnage.queueing import TrafficClass
from tonnage.queueing.closed_form import ClosedForm
from tonnage.queueing.simulation import EngineModel, Requests, SimulatedFleet
from tonnage.queueing.simulation.simulate import simulate
from tonnage.queueing.simulation.statistics import summarise
from tonnage.queueing.simulation.world import Simulation
from tonnage.study.loader import load_study
from tonnage.traffic import Arrivals
from tonnage.traffic.draws import draw_requests
from tonnage.traffic.traces import load_trace_requests
from tonnage.workload import Lengths, Promise, TokenMix

ROOT = Path(__file__).resolve().parents[1]
TRACE = Path(__file__).parent / "data" / "mooncake_conversation.csv.gz"
LOAD = 0.8  # of the closed form's capacity
MIX = TokenMix(
    prompt=Lengths(kind="lognormal", mean_tokens=1000, cv=1.0),
    output=Lengths(kind="lognormal", mean_tokens=200, cv=1.0),
)
PROMISES = (Promise(metric="ttft", percentile=95, limit_s=2.0),)
SEARCHED_GPUS = ("A100-SXM-80GB", "H100-SXM", "H200-SXM", "B200", "L40S")
COMPILED_REQUESTS, PLAIN_REQUESTS, NAIVE_REQUESTS = 1_000_000, 30_000, 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Requests simulated in a second of CPU time, percentiles included; naive: without."""

    compiled: float
    compiled_moe: float
    plain: float
    naive: float


def replica(model: str, gpu: str, tensor_parallel: int) -> EngineModel:
    """One replica with the modelled step times and KV pool of a real model."""
    catalog = Catalog.load(())
    spec, card, profile = catalog.model(model), catalog.gpu(gpu), engine("vLLM")
    sequences, tokens = 256, 2048
    deployment = Deployment(
        model=spec,
        gpu=card,
        engine=profile,
        weight_dtype=spec.native_weight_dtype,
        kv_dtype="fp8",
        tensor_parallel=tensor_parallel,
        max_batch_size=sequences,
        max_batched_tokens=tokens,
    )
    return EngineModel(
        table=tabulate(deployment, catalog.calibration(card)),
        kv=kv_pool(deployment),
        max_num_seqs=sequences,
        max_num_batched_tokens=tokens,
    )


def offered(table: StepTable, model: EngineModel, count: int, *, replicas: int = 1) -> Requests:
    """`count` requests at `LOAD` of what the replicas can carry."""
    curve = ClosedForm(
        table,
        (TrafficClass(name="chat", weight=1.0, mix=MIX),),
        max_running=model.max_num_seqs,
        kv_limit=1e9,
    )
    rate_per_s = LOAD * curve.capacity_requests_per_s() * replicas
    arrivals = Arrivals(kind="poisson", rate_per_s=rate_per_s)
    return draw_requests([(MIX, 1.0)], count, seed=1, arrivals=arrivals).requests


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of `work`."""
    started_s = time.process_time()
    work()
    return time.process_time() - started_s


def whole(model: EngineModel, requests: Requests, *, compiled: bool) -> None:
    """A run and all its statistics."""
    run = simulate(SimulatedFleet(engine=model), requests, compiled=compiled)
    summarise(run, PROMISES, counted=(len(requests) // 10, len(requests)))


def measure_speeds() -> Speeds:
    """Best of three each, compiled after one that compiles, plain where numba never was loaded."""
    dense = replica("Llama-3.3-70B-Instruct", "H100-SXM", 4)
    moe = replica("gpt-oss-120b", "H100-SXM", 1)
    few = offered(dense.table, dense, NAIVE_REQUESTS)
    naive_s = cpu_s(lambda: simulate_naive(SimulatedFleet(engine=dense), few))
    whole(dense, few, compiled=True)
    plain = _told(
        "from benchmarks.simulation import PLAIN_REQUESTS, replica, speed\n"
        "model = replica('Llama-3.3-70B-Instruct', 'H100-SXM', 4)\n"
        "print(speed(model, PLAIN_REQUESTS, compiled=False))\n"
    )
    return Speeds(
        compiled=speed(dense, COMPILED_REQUESTS, compiled=True),
        compiled_moe=speed(moe, COMPILED_REQUESTS, compiled=True),
        plain=float(plain),
        naive=NAIVE_REQUESTS / naive_s,
    )


def speed(model: EngineModel, count: int, *, compiled: bool) -> float:
    """Requests in a CPU second, best of three runs."""
    requests = offered(model.table, model, count)
    runs_s = [cpu_s(lambda: whole(model, requests, compiled=compiled)) for _ in range(3)]
    return count / min(runs_s)


def measure_search() -> float:
    """CPU seconds of 20 candidates, 20,000 requests each and all their statistics, compiled."""
    pairs = [(gpu, tp) for gpu in SEARCHED_GPUS for tp in (1, 2, 4, 8)]
    models = [replica("Llama-3.1-8B-Instruct", gpu, tp) for gpu, tp in pairs]
    loads = [offered(model.table, model, 20_000) for model in models]
    whole(models[0], loads[0], compiled=True)

    def search() -> None:
        for model, load in zip(models, loads, strict=True):
            whole(model, load, compiled=True)

    return cpu_s(search)


def measure_proof() -> float:
    """CPU seconds of proving the demo plan, compiled."""
    study = load_study(ROOT / "examples" / "support-chatbot.yaml")
    return min(cpu_s(lambda: prove(study, compiled=True)) for _ in range(2))


def measure_trace() -> tuple[float, float]:
    """CPU seconds of the Mooncake trace on 8 replicas behind a KV-aware router: compiled, plain."""
    requests = load_trace_requests(TRACE).requests
    model = replace(replica("Llama-3.3-70B-Instruct", "H100-SXM", 4), prefix_cache=True)
    fleet = SimulatedFleet(engine=model, replicas=8, router="kv-aware")

    def once(*, compiled: bool) -> float:
        run = Simulation(fleet, requests, compiled=compiled)
        return cpu_s(lambda: run.step(1e300))

    once(compiled=True)
    return min(once(compiled=True) for _ in range(3)), min(once(compiled=False) for _ in range(2))


def measure_compilation() -> float:
    """CPU seconds from a machine that never compiled the kernel to the first answer."""
    code = (
        "import time\n"
        "from benchmarks.simulation import offered, replica, whole\n"
        "model = replica('Llama-3.3-70B-Instruct', 'H100-SXM', 4)\n"
        "requests = offered(model.table, model, 100)\n"
        "started_s = time.process_time()\n"
        "whole(model, requests, compiled=True)\n"
        "print(time.process_time() - started_s)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        return float(_told(code, XDG_CACHE_HOME=folder))


def measure_memory() -> float:
    """Bytes that one more request takes at the peak, beyond its own three columns."""
    code = (
        "import sys\n"
        "from benchmarks.simulation import offered, peak_bytes, replica, whole\n"
        "model = replica('Llama-3.3-70B-Instruct', 'H100-SXM', 4)\n"
        "requests = offered(model.table, model, int(sys.argv[1]))\n"
        "whole(model, offered(model.table, model, 1000), compiled=True)\n"
        "before = peak_bytes()\n"
        "whole(model, requests, compiled=True)\n"
        "print(peak_bytes() - before)\n"
    )
    small, large = (float(_told(code, count)) for count in ("1000000", "3000000"))
    return (large - small) / 2e6


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _told(code: str, *arguments: str, **environment: str) -> str:
    told = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout
