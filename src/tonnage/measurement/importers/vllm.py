"""The result of `vllm bench serve` -> a Run of one point, with or without --save-detailed.

The file names neither version nor target. Summaries stand in ms, the detailed arrays in s, one
entry for each request, failed ones included. Its TPOT is already (e2e - ttft) / (output
tokens - 1), its ITL every gap between two pieces of an answer. With the arrays every percentile
is interpolated from the requests that did not fail; without them only the percentiles that were
asked for are known (p99, and the median).

A latency of zero in the summary means that no request gave one (nothing finished, answers of one
token, no streaming): it becomes None. A request rate of "inf" is a closed loop at
--max-concurrency; without that, all prompts were sent at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tonnage.measurement import Point, Run
from tonnage.measurement.importers.reading import Place
from tonnage.measurement.importers.samples import Samples, ratio
from tonnage.measurement.statistics import PERCENTILES, Spread

TOOL = "vllm bench serve"
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)(\d\d)")


def recognises(document: Place) -> bool:
    """Counts and throughput under the names of vLLM's benchmark."""
    return document.is_object_with("completed", "request_throughput", "duration")


def read(document: Place, name: str) -> Run:
    """The run of a recognised document. Raises InputError for what cannot be one."""
    created = _DATE.fullmatch(document.get("date").text() or "")
    facts = {
        "backend": document.get("backend").text(),
        "endpoint_type": document.get("endpoint_type").text(),
        "tokenizer": document.get("tokenizer_id").text(),
        "label": document.get("label").text(),
    }
    return Run(
        name=name,
        tool=TOOL,
        created="{}-{}-{}T{}:{}:{}".format(*created.groups()) if created else None,
        model=document.get("model_id").text(),
        points=(_point(document),),
        facts={key: value for key, value in facts.items() if value is not None},
    )


def _point(document: Place) -> Point:
    completed = document.get("completed").count()
    if completed is None:
        document.get("completed").refuse("is missing.", hint="Is the benchmark finished?")
    sent = document.get("num_prompts").count()
    stated_failed = document.get("failed").count()
    failed = max((sent or completed) - completed, 0) if stated_failed is None else stated_failed
    duration_s = document.get("duration").seconds()
    notes: list[str] = []
    concurrency, rate = _load(document, notes)

    detailed = document.get("ttfts").entries()
    if detailed:
        samples = _samples(document, len(detailed), completed)
        statistics = samples.fields()
    else:
        statistics = _summary(document, completed)
    notes.extend(
        f"no {metric.upper()}: not streamed, or answers of one token"
        for metric in ("ttft", "tpot")
        if completed and statistics[f"{metric}_mean_s"] is None
    )
    return Point(
        concurrency=concurrency,
        request_rate_target_per_s=rate,
        requests=completed,
        failed=failed,
        interrupted=failed > 0,
        duration_s=duration_s,
        requests_per_s=ratio(completed or None, duration_s),
        output_tokens_per_s=document.get("output_throughput").amount() or None,
        notes=tuple(notes),
        **statistics,
    )


def _load(document: Place, notes: list[str]) -> tuple[int | None, float | None]:
    """Concurrency of a closed loop, or the rate of an open one."""
    limit = document.get("max_concurrency").count() or None
    stated = document.get("request_rate")
    if stated.value is None or stated.value == "inf":
        if limit is None:
            notes.append("all prompts were sent at once: neither a rate nor a concurrency")
        return limit, None
    if limit is not None:
        notes.append(f"at most {limit} requests at once: the rate may not have been reached")
    return None, stated.amount() or None


def _samples(document: Place, length: int, completed: int) -> Samples:
    """The finished requests of the detailed arrays, which must agree with the summary."""
    requests = document.get("ttfts").entries()
    ttfts = [each.seconds() for each in requests]
    gaps = _gaps(document, length)
    inputs = _column(document, "input_lens", length)
    outputs = _column(document, "output_lens", length)
    latencies = _latencies(document, ttfts, gaps)
    errors = document.get("errors").entries()
    if errors and len(errors) != length:
        _refuse_length(document.get("errors"), length)
    samples = Samples()
    for index in range(length):
        if errors[index].text() if errors else not outputs[index]:
            continue
        samples.add(
            requests[index],
            ttft_s=ttfts[index],
            e2e_s=latencies[index],
            input_tokens=inputs[index],
            output_tokens=outputs[index],
            gaps_s=gaps[index] if gaps else (),
        )
    if len(samples.e2e_s) != completed and any(each is not None for each in latencies):
        document.get("ttfts").refuse(
            f"has {len(samples.e2e_s)} finished requests, but completed says {completed}.",
            hint="The file was changed or belongs to two runs: run the benchmark again.",
        )
    return samples


def _gaps(document: Place, length: int) -> list[list[float]]:
    """The gaps between the pieces of each answer; [] where the file has none."""
    gaps = document.get("itls").entries()
    if gaps and len(gaps) != length:
        _refuse_length(document.get("itls"), length)
    return [[each.seconds() or 0.0 for each in gap.entries()] for gap in gaps]


def _latencies(
    document: Place, ttfts: Sequence[float | None], gaps: Sequence[Sequence[float]]
) -> list[float | None]:
    """E2E of each request: stated, or TTFT plus the gaps between its pieces."""
    if document.get("latencies").value is not None:
        return _column(document, "latencies", len(ttfts))
    if not gaps:
        return [None] * len(ttfts)
    return [
        None if ttft is None else ttft + sum(gap) for ttft, gap in zip(ttfts, gaps, strict=True)
    ]


def _column(document: Place, key: str, length: int) -> list[float | None]:
    values = [each.amount() for each in document.get(key).entries()]
    if not values:
        return [None] * length
    if len(values) != length:
        _refuse_length(document.get(key), length)
    return values


def _refuse_length(place: Place, length: int) -> None:
    place.refuse(f"must have {length} entries, as ttfts has.", hint="Was the file changed?")


def _summary(document: Place, completed: int) -> dict[str, float | None]:
    if not completed:
        return Samples().fields()
    return {
        **_spread(document, "ttft").fields("ttft"),
        **_spread(document, "tpot").fields("tpot"),
        **_spread(document, "itl").fields("itl"),
        **_spread(document, "e2el").fields("e2e"),
        "input_tokens_mean": ratio(document.get("total_input_tokens").amount(), completed),
        "output_tokens_mean": ratio(document.get("total_output_tokens").amount(), completed),
    }


def _spread(document: Place, metric: str) -> Spread:
    def stated(statistic: str) -> float | None:
        return document.get(f"{statistic}_{metric}_ms").seconds("ms") or None

    percentiles = {f"p{each}_s": stated(f"p{each}") for each in PERCENTILES}
    if percentiles["p50_s"] is None:
        percentiles["p50_s"] = stated("median")
    return Spread(mean_s=stated("mean"), **percentiles)
