"""A load and some replicas -> the requests that are simulated, and which of them count.

Enough come before and after those that count for the fleet to be in its stride throughout, unless
the start is what the load is about: a burst, a benchmark, a recording.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tonnage.errors import UsageError
from tonnage.evidence import Evidence
from tonnage.fleet.replica import scaled_load
from tonnage.queueing.simulation import Clients
from tonnage.traffic import Arrivals
from tonnage.traffic.draws import draw_closed_loop_benchmark, draw_requests
from tonnage.traffic.profiles import load_profile
from tonnage.traffic.scaling import scale_trace
from tonnage.traffic.traces import load_trace_requests
from tonnage.units import format_fraction, format_number, format_time
from tonnage.workload import Batch, ClosedLoad, OpenLoad

if TYPE_CHECKING:
    from tonnage.fleet import Question, SimulationOptions
    from tonnage.queueing.simulation import EngineModel
    from tonnage.traffic import Requests, Traffic
    from tonnage.workload import TokenMix

COUNTED_REQUESTS = 20_000  # ten batches of 2,000: the p99 of each rests on its 20 slowest
WARM_UP_SHARE = 0.10  # of those counted, sent before them: the fleet starts empty
WIND_DOWN_SHARE = 0.05  # of those counted, sent after them: the last ones still have company
WARM_UP_STAYS = 3  # mean stays of a request, by which an empty start is forgotten
WIND_DOWN_STAYS = 2  # mean stays of a request, in which nearly all that are under way end
BENCHMARK_REQUESTS_PER_CLIENT = 10  # public "InferenceX" runs
LARGEST_BATCH = 1_000_000  # requests of a batch that are simulated: its rate is steady long before
MOST_REQUESTS = 20_000_000  # of all seeds, some 5 GB of memory: 240 bytes each
MOST_REQUESTS_OF_A_PERIOD = 3_000_000  # some seconds compiled, half a minute uncompiled
_LITTLE_ROUNDS = 50  # by then the calls in flight have settled, or grown to all that may run

_TOLD = Evidence.DATASHEET


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedLoad:
    """Requests, who sends them, which count, and what is said of them.

    `recorded` ones stand for themselves, drawn ones for others like them. When `cyclic` those that
    count are of whole periods of the load.
    """

    requests: Requests
    clients: Clients | None
    counted: tuple[int, int]
    said: str
    evidence: Evidence
    notes: tuple[str, ...] = ()
    recorded: bool = False
    cyclic: bool = False


def offered_load(
    question: Question,
    options: SimulationOptions,
    *,
    engine: EngineModel,
    replicas: int,
    poisson_peak: bool,
) -> OfferedLoad:
    """The requests of a scene on so many replicas; `poisson_peak` as in `scene_of`.

    Raises TonnageError for a load that these options do not go with, and for a bad recording.
    """
    if options.requests is not None and options.requests > MOST_REQUESTS:
        raise UsageError(
            f"requests is {options.requests:,}, and {MOST_REQUESTS:,} are the most.",
            hint="Simulate several seeds of fewer requests.",
        )
    if options.trace is not None:
        (model,) = question.models.values()
        return _recorded(options, model.max_context_tokens)
    load = scaled_load(question.workload.load, options.rate_factor)
    if load is None:
        raise UsageError(
            "there is no load to simulate.", hint="State a rate, clients, a batch, or a trace."
        )
    if not isinstance(load, ClosedLoad) and (options.benchmark or options.together):
        raise UsageError(
            f"{'--benchmark' if options.benchmark else '--burst-start'} is for clients that wait "
            "for their answers; this load has none.",
            hint="State concurrency or clients.",
        )
    if not isinstance(load, OpenLoad) and options.profile is not None:
        raise UsageError("a profile bends a rate; this load has none.")
    stay = _Stay(question=question, engine=engine, replicas=replicas)
    match load:
        case OpenLoad():
            traffic = _open(stay, options, load, poisson_peak=poisson_peak)
        case ClosedLoad() if options.benchmark:
            traffic = _benchmark(stay, options, load)
        case ClosedLoad():
            traffic = _closed(stay, options, load)
        case Batch():
            traffic = _burst(stay, options, load)
    if options.rate_factor != 1:
        note = f"the load is {format_number(options.rate_factor)} times the study's"
        traffic = replace(traffic, notes=(note, *traffic.notes))
    if stay.calls_per_request > 1:
        note = f"a request makes {stay.calls_per_request} calls; each comes on its own here"
        traffic = replace(traffic, notes=(note, *traffic.notes))
    return traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stay:
    """The calls of a study on some replicas, and about how long one stays: to set warm-ups by.

    An estimate of the mean, without queueing; results do not rest on it.
    """

    question: Question
    engine: EngineModel
    replicas: int

    @property
    def calls(self) -> tuple[tuple[TokenMix, float], ...]:
        """Lengths of each kind of call, and how often it is made."""
        return tuple((call.mix, call.repeats) for call in self.question.workload.calls)

    @property
    def calls_per_request(self) -> int:
        """Calls that one request of a user makes."""
        return sum(call.repeats for call in self.question.workload.calls)

    def drawn(self, count: int, options: SimulationOptions, **arriving: Any) -> Traffic:  # noqa: ANN401 — arrivals, profile
        """So many calls, as long as the study says."""
        refuse_too_many(count)
        (model,) = self.question.models.values()
        return draw_requests(
            self.calls,
            count,
            seed=options.seed,
            max_context_tokens=model.max_context_tokens,
            **arriving,
        )

    def seconds(self, running: float) -> float:
        """A call's time on a replica that runs so many, each with its share of prompts."""
        table, budget = self.engine.table, self.engine.max_num_batched_tokens
        weight = self.calls_per_request
        prompt = sum(mix.prompt.mean_tokens * w for mix, w in self.calls) / weight
        prefill = sum(mix.prefill_tokens_mean * w for mix, w in self.calls) / weight
        output = max(sum(mix.output.mean_tokens * w for mix, w in self.calls) / weight, 1.0)
        context = prompt + output / 2
        window = table.window_tokens or context
        step_s = table.step_s(
            prefill_tokens=min(running * prefill / output, budget),
            prefill_context_tokens=prompt / 2,
            sequences=running,
            kv_tokens=running * context,
            windowed_kv_tokens=running * min(context, window),
        )
        return table.request_overhead_s + output * float(step_s)

    def running(self, calls_per_s: float) -> float:
        """Calls in flight at once on all replicas: Little's law, from an empty fleet up."""
        running = 0.0
        for _ in range(_LITTLE_ROUNDS):
            stay_s = self.seconds(max(running, 1.0))
            more = min(calls_per_s / self.replicas * stay_s, self.largest)
            if more <= running:
                break
            running = more
        return running * self.replicas

    @property
    def largest(self) -> float:
        """Calls that one replica runs at once at most."""
        return float(self.engine.max_num_seqs)


def refuse_too_many(requests: int, *, seeds: int = 1) -> None:
    """Raise UsageError for more requests than a machine's memory holds; each of so many seeds."""
    if requests * seeds <= MOST_REQUESTS:
        return
    if seeds == 1:
        raise UsageError(
            f"{requests:,} requests would be sent in all, and {MOST_REQUESTS:,} are the most.",
            hint="Simulate fewer requests, or a load of fewer that are under way at once.",
        )
    raise UsageError(
        f"{seeds:,} seeds of {requests:,} requests, those around the counted ones included, are "
        f"{requests * seeds:,}, and {MOST_REQUESTS:,} are the most.",
        hint=f"Simulate {MOST_REQUESTS // requests:,} seeds, or fewer requests of each.",
    )


def _around(counted: int, in_flight: float) -> tuple[int, int]:
    """Requests before and after those that count."""
    return (
        math.ceil(max(counted * WARM_UP_SHARE, in_flight * WARM_UP_STAYS)),
        math.ceil(max(counted * WIND_DOWN_SHARE, in_flight * WIND_DOWN_STAYS)),
    )


def _open(
    stay: _Stay, options: SimulationOptions, load: OpenLoad, *, poisson_peak: bool
) -> OfferedLoad:
    """Arrivals at the peak; at the mean where chance, or a profile, makes the peak."""
    notes: list[str] = []
    scatter = options.arrivals != "constant"
    rate, which = load.requests_per_s_peak, "at peak"
    if poisson_peak and scatter:
        rate, which = load.requests_per_s_mean, "on average"
        notes.append(
            f"at the mean rate: the study's peak of {format_number(load.requests_per_s_peak)} "
            "requests/s is a Poisson percentile of it, and the arrivals scatter by themselves"
        )
    elif options.profile is not None:
        rate, which = load.requests_per_s_mean, "on average"
        notes.append("at the mean rate: the profile makes the peak")
    calls_per_s = rate * stay.calls_per_request
    profile = load_profile(options.profile) if options.profile is not None else None
    counted = options.requests or COUNTED_REQUESTS
    bent, cyclic = "", False
    if profile is not None:
        of_a_period = math.ceil(calls_per_s * profile.period_s)
        counted = options.requests or max(of_a_period, 1)
        if counted > MOST_REQUESTS_OF_A_PERIOD and options.requests is None:
            raise UsageError(
                f"one period of the profile brings {of_a_period:,} requests.",
                hint="State how many to simulate, a lower rate factor, or a shorter profile.",
            )
        cyclic = counted % of_a_period == 0
        bent = " through the profile's day"
        if counted < of_a_period:
            bent = f": the first {format_fraction(counted / of_a_period)} of the profile's period"
    before, after = _around(counted, stay.running(calls_per_s))
    arrivals = Arrivals(kind=options.arrivals, rate_per_s=calls_per_s, cv=options.cv)
    drawn = stay.drawn(before + counted + after, options, arrivals=arrivals, profile=profile)
    notes.append(
        f"{counted:,} requests count, after {before:,} that warm the fleet up and before "
        f"{after:,} that keep it loaded"
    )
    process = {
        "poisson": "Poisson arrivals",
        "constant": "evenly spaced arrivals",
        "gamma": f"gamma arrivals of CV {format_number(options.cv)}",
    }[options.arrivals]
    return OfferedLoad(
        requests=drawn.requests,
        clients=None,
        counted=(before, before + counted),
        said=f"{format_number(rate)} requests/s {which}, {process}{bent}",
        cyclic=cyclic,
        evidence=Evidence.ASSUMED if options.arrivals == "poisson" else _TOLD,
        notes=(*notes, *drawn.notes),
    )


def _closed(stay: _Stay, options: SimulationOptions, load: ClosedLoad) -> OfferedLoad:
    """Clients that wait for their answers; all requests count when they start together.

    Otherwise the first requests warm up, and the last ones, when some clients have none left to
    send, do not count either.
    """
    think_s = load.think_time_s / stay.calls_per_request
    running = min(load.clients / stay.replicas, stay.largest)
    cycle_s = think_s + stay.seconds(running)
    counted = options.requests or COUNTED_REQUESTS
    before, after = (0, 0) if options.together else _around(counted, load.clients)
    drawn = stay.drawn(before + counted + after, options)
    thinking = f", {format_time(load.think_time_s)} between answer and request" if think_s else ""
    how = "all at once" if options.together else f"spread over the first {format_time(cycle_s)}"
    counting = f"{counted:,} requests count, after {before:,} and before {after:,} that do not"
    return OfferedLoad(
        requests=drawn.requests,
        clients=Clients(
            count=load.clients,
            think_time_s=think_s,
            spread_s=0.0 if options.together else cycle_s,
        ),
        counted=(before, before + counted),
        said=f"{load.clients:,} clients that wait for their answers{thinking}",
        evidence=_TOLD,
        notes=(
            f"clients start {how}",
            "all requests count, the burst at the start included" if options.together else counting,
            *drawn.notes,
        ),
    )


def _benchmark(stay: _Stay, options: SimulationOptions, load: ClosedLoad) -> OfferedLoad:
    """The protocol of public benchmarks, whose burst at the start is part of their figures."""
    if len(stay.calls) > 1:
        raise UsageError("the benchmark protocol has requests of one kind; the study has several.")
    ((mix, _),) = stay.calls
    each = BENCHMARK_REQUESTS_PER_CLIENT
    if options.requests is not None:
        each = math.ceil(options.requests / load.clients)
    refuse_too_many(load.clients * each)
    requests = draw_closed_loop_benchmark(
        load.clients,
        prompt_tokens=round(mix.prompt.mean_tokens),
        output_tokens=max(round(mix.output.mean_tokens), 1),
        seed=options.seed,
        requests_per_client=each,
    )
    notes = ["all requests count, the burst at the start included"]
    if load.think_time_s:
        notes.append("clients of this protocol do not think between answer and request")
    return OfferedLoad(
        requests=requests,
        clients=Clients(count=load.clients),
        counted=(0, len(requests)),
        said=f"{load.clients:,} clients that start at once, {each} request{'s' * (each > 1)} each, "
        "lengths uniform "
        f"in 0.8–1.0 of {mix.prompt.mean_tokens:,.0f} and {mix.output.mean_tokens:,.0f} tokens",
        evidence=_TOLD,
        notes=tuple(notes),
    )


def _burst(stay: _Stay, options: SimulationOptions, load: Batch) -> OfferedLoad:
    """A batch: all requests are there at the start."""
    whole = math.ceil(load.requests * stay.calls_per_request)
    count = options.requests or min(whole, LARGEST_BATCH)
    drawn = stay.drawn(count, options)
    notes = drawn.notes
    if count < whole:
        note = f"{count:,} of {whole:,} requests are simulated; their rate holds for all"
        notes = (note, *notes)
    return OfferedLoad(
        requests=drawn.requests,
        clients=None,
        counted=(0, count),
        said=f"{count:,} requests, all there at the start",
        evidence=_TOLD,
        notes=notes,
    )


def _recorded(options: SimulationOptions, max_context_tokens: int) -> OfferedLoad:
    """A recording with its own times and lengths; every row counts."""
    assert options.trace is not None  # noqa: S101 — the caller asked for it
    of_the_study = {
        "benchmark": options.benchmark,
        "together": options.together,
        "profile": options.profile is not None,
        "requests": options.requests is not None,
    }
    if misplaced := next((name for name, given in of_the_study.items() if given), None):
        raise UsageError(
            f"a trace has its own requests and times; {misplaced} is for the study's load."
        )
    recorded = load_trace_requests(options.trace, max_context_tokens=max_context_tokens)
    requests, notes = recorded.requests, recorded.notes
    if options.prefix_cache is False and requests.cached_tokens is not None:
        requests = replace(requests, cached_tokens=None)
        notes = (*notes, "without a prefix cache nothing counts as cached that the recording says")
    if options.rate_factor != 1:
        requests = scale_trace(requests, options.rate_factor)
        factor = format_number(options.rate_factor)
        notes = (*notes, f"the recording runs {factor} times as fast, as bursty as it was")
    return OfferedLoad(
        requests=requests,
        clients=None,
        counted=(0, len(requests)),
        said=f"{len(requests):,} requests of {options.trace.name} in "
        f"{format_time(float(requests.arrival_s[-1]))}",
        evidence=Evidence.MEASURED,
        recorded=True,
        notes=("all requests of the recording count, as its start is part of it", *notes),
    )
