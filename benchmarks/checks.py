"""Measurements of one figure each -> whether it keeps its goal.

What they need is imported where they run: the runner that starts processes must stay small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from subprocess import CalledProcessError

RECORDER_S = 0.001  # added to an LLM call, median
GROWTH_FRACTION = 0.10  # CPU time of a request, from one process to two
OVERHEAD_S = 1.0  # of an online sweep beyond the load itself
COMPILED_PER_S, PLAIN_PER_S = 1_000_000, 100_000  # requests simulated in a CPU second
OVER_NAIVE = 500  # times as fast as the naive simulator, compiled; half of that is a regression
TRACE_COMPILED_S, TRACE_PLAIN_S = 0.1, 2.0
COMPILATION_S = 6.0
SEARCH_S = 5.0
MEMORY_BYTES = 200  # of one more simulated request


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure and its goal, both in words; `problem` says why there is none."""

    name: str
    goal: str
    figure: str = "–"
    met: bool = False
    problem: str = ""


def run_checks() -> list[Check]:
    """Every check, one after another."""
    return [
        _try(measure, name, goal)
        for measure, name, goal in (
            (_recorder, "LLM-call recorder", f"< {RECORDER_S * 1e3:g} ms added"),
            (_shards, "from one process to two", f"< +{GROWTH_FRACTION:.0%} CPU each"),
            (_sweep, "sizing calc, online, no plots", f"< {OVERHEAD_S:g} s beyond the load"),
            (_trace, "Mooncake trace x 8, KV-aware", "< 0.1 s compiled, < 2 s plain"),
            (_search, "20 candidates x 20,000 requests", f"< {SEARCH_S:g} s, demo proof too"),
            (_compilation, "simulator, cold compilation", f"< {COMPILATION_S:g} s"),
            (_memory, "simulator, memory of a request", f"≤ {MEMORY_BYTES} bytes"),
        )
    ] + _speeds()


def _try(measure: Callable[[], tuple[str, bool]], name: str, goal: str) -> Check:
    try:
        figure, met = measure()
    except (OSError, RuntimeError, CalledProcessError) as error:
        return Check(name=name, goal=goal, problem=str(error))
    return Check(name=name, goal=goal, figure=figure, met=met)


def _recorder() -> tuple[str, bool]:
    from benchmarks.recorder import measure_added_latency  # noqa: PLC0415 — as said above

    added = measure_added_latency()
    figure = f"p50 {added.p50_s * 1e3:.2f} ms, p99 {added.p99_s * 1e3:.2f} ms"
    return figure, added.p50_s < RECORDER_S


def _shards() -> tuple[str, bool]:
    from benchmarks.shards import measure_scaling  # noqa: PLC0415 — as above

    scaling = measure_scaling()
    figure = (
        f"{scaling.growth_fraction:+.0%} ({scaling.one_process_s * 1e6:.0f} to"
        f" {scaling.two_processes_s * 1e6:.0f} µs)"
    )
    return figure, scaling.growth_fraction < GROWTH_FRACTION


def _sweep() -> tuple[str, bool]:
    from benchmarks.sweep import measure_overhead  # noqa: PLC0415 — as above

    overhead_s = measure_overhead()
    return f"{overhead_s:.2f} s", overhead_s < OVERHEAD_S


def _speeds() -> list[Check]:
    from benchmarks.simulation import measure_speeds  # noqa: PLC0415 — as above

    try:
        speeds = measure_speeds()
    except (OSError, RuntimeError) as error:
        return [Check(name="simulator", goal="–", problem=str(error))]
    ratio = speeds.compiled / speeds.naive
    rows = (
        ("simulator, compiled", COMPILED_PER_S, speeds.compiled),
        ("simulator, compiled, MoE", COMPILED_PER_S, speeds.compiled_moe),
        ("simulator, plain", PLAIN_PER_S, speeds.plain),
    )
    return [
        *(
            Check(
                name=name,
                goal=f"≥ {goal:,} requests/s",
                figure=f"{per_s:,.0f} requests/s",
                met=per_s >= goal,
            )
            for name, goal, per_s in rows
        ),
        Check(
            name="simulator over naive, compiled",
            goal=f"≥ half of {OVER_NAIVE:,} x",
            figure=f"{ratio:,.0f} x (naive: {speeds.naive:,.0f} requests/s)",
            met=ratio >= OVER_NAIVE / 2,
        ),
    ]


def _trace() -> tuple[str, bool]:
    from benchmarks.simulation import measure_trace  # noqa: PLC0415 — as above

    compiled_s, plain_s = measure_trace()
    met = compiled_s < TRACE_COMPILED_S and plain_s < TRACE_PLAIN_S
    return f"{compiled_s:.3f} s, {plain_s:.2f} s", met


def _search() -> tuple[str, bool]:
    from benchmarks.simulation import measure_proof, measure_search  # noqa: PLC0415 — as above

    search_s, proof_s = measure_search(), measure_proof()
    return f"{search_s:.2f} s, proof {proof_s:.2f} s", max(search_s, proof_s) < SEARCH_S


def _compilation() -> tuple[str, bool]:
    from benchmarks.simulation import measure_compilation  # noqa: PLC0415 — as above

    seconds = measure_compilation()
    return f"{seconds:.1f} s", seconds < COMPILATION_S


def _memory() -> tuple[str, bool]:
    from benchmarks.simulation import measure_memory  # noqa: PLC0415 — as above

    per_request = measure_memory()
    return f"{per_request:.0f} bytes", per_request <= MEMORY_BYTES


def format_checks(checks: list[Check]) -> str:
    """The checks for people."""
    layout = "{:<34} {:<26} {:<34} {}"
    lines = [layout.format("figure", "goal", "measured", "verdict")]
    for check in checks:
        verdict = "met" if check.met else "MISSED"
        if check.problem:
            verdict = f"not measured: {check.problem}"
        lines.append(layout.format(check.name, check.goal, check.figure, verdict))
    return "\n".join(lines)


def check_fields(check: Check) -> dict[str, object]:
    """A check for machines."""
    return asdict(check)
