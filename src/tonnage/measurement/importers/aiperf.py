"""AIPerf's and GenAI-Perf's exports -> a Run of one point.

AIPerf, after files of version 0.13: `profile_export_aiperf.json` (the summary) and
`profile_export.jsonl` (one record for each request, streamed). Where both lie side by side the
records give every latency and the summary what they cannot: load, versions, the measured duration.
GenAI-Perf, after files of version 0.0.16: `profile_export_genai_perf.json`, a summary of the same
shape (statistics with avg, p50, … and a unit; latencies in ms) under `input_config.perf_analyzer`.

Both define inter_token_latency as (e2e - ttft) / (output tokens - 1) of each request: our TPOT.
AIPerf's inter_chunk_latency is every gap between two pieces: our ITL. Both count tokens by a
tokenizer of their own; where AIPerf says that the server counted others, those are taken: TPOT then
follows from the records, and is not known from the summary alone.
Records of warm-up are left out; cancelled ones and those with an error are failed. A statistic
over `count` 0 becomes None. Rates are those of the summary; without it, over the records' duration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tonnage.measurement import Point, Run
from tonnage.measurement.importers.reading import Place, without_credentials
from tonnage.measurement.importers.samples import NO_TPOT, Samples, miscounted, ratio
from tonnage.measurement.statistics import PERCENTILES, Spread, mean

TOOL = "AIPerf"
GENAI_PERF = "GenAI-Perf"
_NS_PER_S = 1e9
_NO_LOAD = (
    "the records do not say the concurrency: import the folder with profile_export_aiperf.json"
)
# tokens of the prompt and of the answer, as the tool counts them and as the server does
_OWN = ("input_sequence_length", "output_sequence_length")
_SERVER = ("usage_prompt_tokens", "usage_completion_tokens")
_SUMMARY_KEYS = ("request_latency", "time_to_first_token", "request_throughput")


def recognises(document: Place) -> bool:
    """A summary: statistics with a unit and an average, under the names of both tools."""
    return any(document.get(key).is_object_with("unit", "avg") for key in _SUMMARY_KEYS)


def recognises_record(record: Place) -> bool:
    """A line of AIPerf's records."""
    return record.is_object_with("metadata", "metrics") and isinstance(
        record.get("metadata").value, dict
    )


def tool_of(document: Place) -> str:
    """AIPerf, or GenAI-Perf before it."""
    config = document.get("input_config")
    nested = isinstance(config.value, dict) and "perf_analyzer" in config.value
    return GENAI_PERF if nested and not document.is_object_with("aiperf_version") else TOOL


def read_summary(document: Place, name: str) -> Run:
    """The run of a summary. Raises InputError for what cannot be one."""
    config = document.get("input_config")
    endpoint = config.get("endpoint")
    datasets = config.get("datasets").entries()
    facts = {
        "endpoint_type": endpoint.get("type").text(),
        "dataset": datasets[0].get("type").text() if datasets else None,
        "tokenizer": config.get("tokenizer", "name").text(),
    }
    return Run(
        name=name,
        tool=tool_of(document),
        tool_version=document.get("aiperf_version").text(),
        created=document.get("start_time").text(),
        model=_model(config),
        target=without_credentials(_target(endpoint)),
        points=(_point(document),),
        facts={key: value for key, value in facts.items() if value is not None},
    )


def read_records(records: Iterable[Place], name: str) -> Run:
    """The run of the records alone, which do not say at what concurrency they were made."""
    failed = 0
    finished, starts, ends = [], [], []
    for record in records:
        if not recognises_record(record):
            record.refuse("is not a record of AIPerf.", hint="Expected metadata and metrics.")
        metadata = record.get("metadata")
        if metadata.get("benchmark_phase").text() == "warmup":
            continue
        start = metadata.get("request_start_ns").count()
        end = metadata.get("request_end_ns").count()
        if start is not None and end is not None:
            starts.append(start)
            ends.append(end)
        if record.get("error").value is not None or metadata.get("was_cancelled").flag():
            failed += 1
            continue
        finished.append(record)
    samples, notes = _samples(finished)
    duration_s = (max(ends) - min(starts)) / _NS_PER_S if starts else None
    if duration_s is not None and duration_s <= 0:
        duration_s = None
    point = Point(
        concurrency=None,
        requests=len(finished),
        failed=failed,
        interrupted=failed > 0,
        duration_s=duration_s,
        total_runtime_s=duration_s,
        requests_per_s=ratio(len(finished) or None, duration_s),
        output_tokens_per_s=ratio(sum(samples.output_tokens) or None, duration_s),
        notes=(_NO_LOAD, *notes),
        **samples.fields(),
    )
    return Run(name=name, tool=TOOL, points=(point,))


def _samples(finished: list[Place]) -> tuple[Samples, list[str]]:
    """The statistics of the records, by the server's count of tokens where the tool's is off."""
    metrics = [record.get("metrics") for record in finished]
    own, server = (
        [each.get(key, "value").amount() for each in metrics] for key in (_OWN[1], _SERVER[1])
    )
    counted = None not in server
    said = miscounted(TOOL, _mean_of(own), _mean_of(server)) if counted else ""
    prompt, output = _SERVER if said else _OWN
    samples = Samples()
    for record, each in zip(finished, metrics, strict=True):
        gaps = each.get("inter_chunk_latency")
        unit = gaps.get("unit").time_unit() if gaps.value is not None else "s"
        samples.add(
            record,
            ttft_s=_time(each.get("time_to_first_token"), "value"),
            e2e_s=_time(each.get("request_latency"), "value"),
            input_tokens=each.get(prompt, "value").amount(),
            output_tokens=each.get(output, "value").amount(),
            gaps_s=[gap.seconds(unit) or 0.0 for gap in gaps.get("value").entries()],
        )
    return samples, [said] if said else []


def _mean_of(values: list[float | None]) -> float | None:
    return mean([value for value in values if value is not None])


def merge(summary: Run, records: Run) -> Run:
    """The summary's facts and load with the statistics of the records it was made from."""
    (stated,), (seen,) = summary.points, records.points
    notes = [note for note in stated.notes if note != NO_TPOT]  # the records have it
    if (stated.requests, stated.failed) != (seen.requests, seen.failed):
        notes.append(
            f"the summary counts {stated.requests} finished and {stated.failed} failed requests,"
            f" the records {seen.requests} and {seen.failed}: the records are taken"
        )
    point = replace(
        seen,
        concurrency=stated.concurrency,
        request_rate_target_per_s=stated.request_rate_target_per_s,
        interrupted=stated.interrupted or seen.interrupted,
        duration_s=stated.duration_s or seen.duration_s,
        requests_per_s=stated.requests_per_s or seen.requests_per_s,
        output_tokens_per_s=stated.output_tokens_per_s or seen.output_tokens_per_s,
        notes=tuple(notes),
    )
    return replace(summary, points=(point,))


def _point(document: Place) -> Point:
    finished = document.get("request_count", "avg").count()
    failed = document.get("error_request_count", "avg").count()
    if failed is None:
        failed = sum(
            each.get("count").count() or 0 for each in document.get("error_summary").entries()
        )
    cancelled = document.get("was_cancelled").flag()
    concurrency, rate = _load(document.get("input_config"))
    duration_s = _time(document.get("benchmark_duration"), "avg")
    notes = ["the benchmark was cancelled before its end"] if cancelled else []
    own, server = (_mean(document.get(key)) for key in (_OWN[1], _SERVER[1]))
    prompt, output = _OWN
    output_tokens_per_s = document.get("output_token_throughput", "avg").amount() or None
    tpot = _spread(document.get("inter_token_latency"))
    if said := miscounted(tool_of(document), own, server):
        notes += [said, NO_TPOT]
        prompt, output = _SERVER
        output_tokens_per_s = ratio((finished or 0) * (server or 0.0), duration_s)
        tpot = Spread()
    return Point(
        concurrency=concurrency,
        request_rate_target_per_s=rate,
        requests=finished,
        failed=failed,
        interrupted=failed > 0 or cancelled,
        duration_s=duration_s,
        requests_per_s=document.get("request_throughput", "avg").amount() or None,
        output_tokens_per_s=output_tokens_per_s,
        notes=tuple(notes),
        **_spread(document.get("time_to_first_token")).fields("ttft"),
        **tpot.fields("tpot"),
        **_spread(document.get("inter_chunk_latency")).fields("itl"),
        **_spread(document.get("request_latency")).fields("e2e"),
        input_tokens_mean=_mean(document.get(prompt)),
        output_tokens_mean=_mean(document.get(output)),
    )


def _load(config: Place) -> tuple[int | None, float | None]:
    """Concurrency, or the rate of an open loop, wherever the version at hand keeps them."""
    places = [
        *(
            phase
            for phase in config.get("phases").entries()
            if phase.get("kind").text() != "warmup"
        ),
        config.get("loadgen"),
        config.get("perf_analyzer", "stimulus"),
    ]
    for place in places:
        for key in ("request_rate", "rate"):
            if rate := place.get(key).amount():
                return None, rate
    for place in places:
        if concurrency := _single(place.get("concurrency")).count():
            return concurrency, None
    return None, None


def _single(place: Place) -> Place:
    """The one element of a list of one; GenAI-Perf wrote its concurrency so for a time."""
    if not isinstance(place.value, list):
        return place
    entries = place.entries()
    if len(entries) != 1:
        place.refuse("must be one value.", hint="Import each level's own file.")
    return entries[0]


def _model(config: Place) -> str | None:
    items = config.get("models")
    listed = items.get("items").entries() if isinstance(items.value, dict) else []
    names = [each.get("name").text() for each in listed]
    for place in (config.get("endpoint", "model_names"), config.get("model_names")):
        names += [each.text() for each in place.entries()]
    return next((each for each in names if each is not None), None)


def _target(endpoint: Place) -> str | None:
    urls = endpoint.get("urls").entries()
    return urls[0].text() if urls else endpoint.get("url").text()


def _spread(metric: Place) -> Spread:
    return Spread(
        mean_s=_time(metric, "avg"),
        **{f"p{each}_s": _time(metric, f"p{each}") for each in PERCENTILES},
    )


def _time(metric: Place, key: str) -> float | None:
    """A statistic of `metric` in seconds; None where it has no sample."""
    value = metric.get(key)
    if value.value is None or metric.get("count").count() == 0:
        return None
    return value.seconds(metric.get("unit").time_unit())


def _mean(metric: Place) -> float | None:
    value = metric.get("avg").amount()
    return None if metric.get("count").count() == 0 else value
