"""A lifecycle report of inference-perf -> a Run of one point.

After files of version 0.7: `stage_N_lifecycle_metrics.json`, one load stage each, and
`summary_lifecycle_metrics.json`, all stages pooled. Latencies stand in seconds, its
time_per_output_token is (last - first token) / (output tokens - 1): our TPOT. Its normalized
time_per_output_token has the first token's wait in it, and its inter_token_latency has a gap of 0
between tokens of one piece: neither is used. A throughput of 0 of a stage in which nothing finished
becomes None. The report names neither model nor version.

Its rates and TPOT count tokens by its own tokenizer (output_len). Where the server counted others
(output_tokens), the rate is that of the server's, and TPOT is not known.
"""

from __future__ import annotations

from tonnage.measurement import Point, Run
from tonnage.measurement.importers.reading import Place
from tonnage.measurement.importers.samples import NO_TPOT, miscounted, ratio
from tonnage.measurement.statistics import Spread
from tonnage.units import format_number

TOOL = "inference-perf"
FAR_FRACTION = 0.05  # of the rate that was asked for


def recognises(document: Place) -> bool:
    """Successes and failures, the first with latencies."""
    return document.is_object_with("successes", "failures") and document.get(
        "successes"
    ).is_object_with("count", "latency")


def is_stage(document: Place) -> bool:
    """One load stage, not all of them pooled."""
    return document.get("load_summary").is_object_with("requested_rate")


def read(document: Place, name: str) -> Run:
    """The run of a recognised document. Raises InputError for what cannot be one."""
    successes = document.get("successes")
    latency = successes.get("latency")
    throughput = successes.get("throughput")
    finished = successes.get("count").count()
    failed = document.get("failures", "count").count() or 0
    load = document.get("load_summary")
    concurrency = load.get("concurrency").count() or None
    requested_per_s = load.get("requested_rate").amount() or None
    sent_per_s = load.get("achieved_rate").amount() or None
    duration_s = document.get("benchmark_time_seconds").seconds() or None
    output_tokens = _mean(successes, "output_tokens", "output_len")
    output_tokens_per_s = throughput.get("output_tokens_per_sec").amount() or None
    tpot = _spread(latency.get("time_per_output_token"))
    notes = []
    if not is_stage(document):
        notes.append("all load stages pooled, or no rate given: import the stage_N files instead")
    elif not concurrency and requested_per_s and sent_per_s and _far(sent_per_s, requested_per_s):
        notes.append(
            f"{format_number(sent_per_s)} requests/s were sent where"
            f" {format_number(requested_per_s)} were asked for"
        )
    own = _mean(successes, "output_len")
    if said := miscounted(TOOL, own, output_tokens):
        notes += [said, NO_TPOT]
        output_tokens_per_s = ratio((finished or 0) * (output_tokens or 0.0), duration_s)
        tpot = Spread()
    point = Point(
        concurrency=concurrency,
        # under a fixed concurrency the requested rate is only its bookkeeping
        request_rate_target_per_s=(None if concurrency else requested_per_s),
        requests=finished,
        failed=failed,
        interrupted=failed > 0,
        duration_s=duration_s,
        requests_per_s=throughput.get("requests_per_sec").amount() or None,
        output_tokens_per_s=output_tokens_per_s,
        notes=tuple(notes),
        **_spread(latency.get("time_to_first_token")).fields("ttft"),
        **tpot.fields("tpot"),
        **_spread(latency.get("request_latency")).fields("e2e"),
        input_tokens_mean=_mean(successes, "prompt_tokens", "prompt_len"),
        output_tokens_mean=output_tokens,
    )
    return Run(name=name, tool=TOOL, points=(point,))


def _far(sent: float, requested: float) -> bool:
    return abs(sent - requested) > FAR_FRACTION * requested


def _spread(metric: Place) -> Spread:
    return Spread(
        mean_s=metric.get("mean").seconds(),
        p50_s=metric.get("median").seconds(),
        p90_s=metric.get("p90").seconds(),
        p95_s=metric.get("p95").seconds(),
        p99_s=metric.get("p99").seconds(),
    )


def _mean(successes: Place, *keys: str) -> float | None:
    """The first mean there is; newer reports count by the server, older ones by the client."""
    for key in keys:
        if mean := successes.get(key, "mean").amount():
            return mean
    return None
