"""GuideLLM's benchmarks.json -> a Run, one point for each benchmark (one strategy's rate).

Written after files of version 0.8.1 (metadata.version 2); version 1, which keeps the strategy
under `args`, has the same statistics. TTFT stands in ms, request latency in s.

- Its time_per_output_token is e2e / output tokens: the first token's wait is in it. It is not our
  TPOT and is not used. With every finished request in the file, TPOT is (e2e - ttft) / (output
  tokens - 1) of each, and all percentiles are interpolated from them. Where the file keeps only
  some requests, the summary counts: TPOT's mean is then the inter-token latency's, which leaves
  the first token out and weighs each request by its tokens; TPOT's percentiles stay None.
- A statistic over `count` 0 is written as zeros: it becomes None.
- Rates are finished requests, and their tokens, over the measured duration; its own means of rates
  drop the first interval.
- `incomplete` requests were cut off by the end of the test: neither finished nor failed.
"""

from __future__ import annotations

from tonnage.measurement import Point, Run
from tonnage.measurement.importers.reading import Place, instant, without_credentials
from tonnage.measurement.importers.samples import Samples, ratio
from tonnage.measurement.statistics import Spread

TOOL = "GuideLLM"
_CONCURRENT = ("concurrent", "synchronous", "throughput")


def recognises(document: Place) -> bool:
    """A list of benchmarks, written by GuideLLM."""
    if not document.is_object_with("benchmarks"):
        return False
    if document.get("metadata").is_object_with("guidellm_version"):
        return True
    benchmarks = document.get("benchmarks").value
    return (
        isinstance(benchmarks, list)
        and bool(benchmarks)
        and isinstance(benchmarks[0], dict)
        and benchmarks[0].get("type_") == "generative_benchmark"
    )


def read(document: Place, name: str) -> Run:
    """The run of a recognised document. Raises InputError for what cannot be one."""
    benchmarks = document.get("benchmarks").entries()
    if not benchmarks:
        document.get("benchmarks").refuse("is empty.", hint="Nothing was measured.")
    backend = benchmarks[0].get("config", "backend")
    if backend.value is None:
        backend = document.get("config", "spec", "backend")
    data = document.get("config", "spec", "data").entries()
    facts = {
        "request_format": backend.get("request_format").text(),
        "dataset": data[0].get("kind").text() if data else None,
        "tokenizer": document.get("config", "spec", "tokenizer", "model").text(),
    }
    return Run(
        name=name,
        tool=TOOL,
        tool_version=document.get("metadata", "guidellm_version").text(),
        created=instant(benchmarks[0].get("start_time").number()),
        model=backend.get("model").text(),
        target=without_credentials(backend.get("target").text()),
        points=tuple(map(_point, benchmarks)),
        facts={key: value for key, value in facts.items() if value is not None},
    )


def _point(benchmark: Place) -> Point:
    metrics = benchmark.get("metrics")
    totals = metrics.get("request_totals")
    finished = totals.get("successful").count()
    if finished is None:
        totals.get("successful").refuse("is missing.", hint="Is this a finished GuideLLM report?")
    failed = totals.get("errored").count() or 0
    duration_s = benchmark.get("duration").seconds()
    concurrency, rate = _load(benchmark)
    notes = []
    if cut_off := totals.get("incomplete").count():
        notes.append(f"{cut_off} more requests were cut off by the end: in no statistic")

    records = benchmark.get("requests", "successful").entries()
    output_tokens: float | None
    if finished and len(records) == finished:
        samples = _samples(records)
        statistics = samples.fields()
        output_tokens = sum(samples.output_tokens)
    else:
        statistics = _summary(metrics)
        output_tokens = _stated(metrics.get("output_token_count"), "total_sum")
        if statistics["tpot_mean_s"] is not None:
            notes.append(
                f"{len(records)} of {finished} requests are in the file: TPOT mean is its"
                " inter-token latency, weighted by tokens; TPOT percentiles are not known"
            )
    return Point(
        concurrency=concurrency,
        request_rate_target_per_s=rate,
        requests=finished,
        failed=failed,
        interrupted=failed > 0,
        duration_s=duration_s,
        requests_per_s=ratio(finished or None, duration_s),
        output_tokens_per_s=ratio(output_tokens, duration_s),
        notes=tuple(notes),
        **statistics,
    )


def _load(benchmark: Place) -> tuple[int | None, float | None]:
    """Concurrency of a closed loop, or the rate of an open one."""
    strategy = benchmark.get("config", "strategy")
    if strategy.value is None:
        strategy = benchmark.get("args", "strategy")
    kind = strategy.get("type_").text()
    if kind == "synchronous":
        return 1, None
    if kind in _CONCURRENT:
        streams = strategy.get("streams").count()
        return streams or strategy.get("max_concurrency").count() or None, None
    return None, strategy.get("rate").amount() or None


def _samples(records: list[Place]) -> Samples:
    samples = Samples()
    for record in records:
        samples.add(
            record,
            ttft_s=record.get("time_to_first_token_ms").seconds("ms"),
            e2e_s=record.get("request_latency").seconds(),
            input_tokens=record.get("prompt_tokens").amount(),
            output_tokens=record.get("output_tokens").amount(),
        )
    return samples


def _summary(metrics: Place) -> dict[str, float | None]:
    ttft = _spread(metrics.get("time_to_first_token_ms"), "ms")
    tpot = Spread(mean_s=_time(metrics.get("inter_token_latency_ms"), "ms", "mean"))
    e2e = _spread(metrics.get("request_latency"), "s")
    return {
        **ttft.fields("ttft"),
        **tpot.fields("tpot"),
        **e2e.fields("e2e"),
        "input_tokens_mean": _stated(metrics.get("prompt_token_count"), "mean"),
        "output_tokens_mean": _stated(metrics.get("output_token_count"), "mean"),
    }


def _spread(metric: Place, unit: str) -> Spread:
    return Spread(
        mean_s=_time(metric, unit, "mean"),
        p50_s=_time(metric, unit, "percentiles", "p50"),
        p90_s=_time(metric, unit, "percentiles", "p90"),
        p95_s=_time(metric, unit, "percentiles", "p95"),
        p99_s=_time(metric, unit, "percentiles", "p99"),
    )


def _time(metric: Place, unit: str, *keys: str) -> float | None:
    seen = metric.get("successful", "count").count()
    value = metric.get("successful", *keys).seconds(unit)
    return value if seen else None


def _stated(metric: Place, key: str) -> float | None:
    seen = metric.get("successful", "count").count()
    value = metric.get("successful", key).amount()
    return value if seen else None
