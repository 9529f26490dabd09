"""A SimulationAnswer -> a file with one row for each request: CSV, JSON lines or Parquet.

Every statistic of the report follows from these columns. What never happened (an answer that was
not finished, a rejected request's first token) is empty, null in JSON.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tonnage.errors import MissingExtraError, UsageError
from tonnage.files import write_atomically
from tonnage.fleet import SimulationAnswer
from tonnage.queueing.simulation import STATUSES, Simulated
from tonnage.workload import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENDINGS = (".csv", ".jsonl", ".parquet")
NOWHERE = -1  # the replica of a request that never reached one

Values = list[Any]


def refuse_unwritable_records(path: Path) -> None:
    """Find out before the work that `path` names no kind of table, or lacks its library."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"{path} does not say what kind of table to write:",
            hint=f"end it in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}.",
        )
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise MissingExtraError(
            "no Parquet without pyarrow:",
            hint='pip install "tonnage[parquet]", or write .csv or .jsonl.',
        )


def write_records(answer: SimulationAnswer, path: Path) -> None:
    """Write the requests of `answer` in the order they were sent, whole or not at all."""
    refuse_unwritable_records(path)
    columns = record_columns(answer)
    match path.suffix.lower():
        case ".csv":
            write_atomically(path, _csv(columns))
        case ".jsonl":
            write_atomically(path, _json_lines(columns))
        case _:
            write_atomically(path, _parquet(columns))


def record_columns(answer: SimulationAnswer) -> Mapping[str, Values]:
    """Name -> one value for each request; None where it does not apply.

    `counted` requests lie in the steady window that the report is about. Of several runs one comes
    after the other, and each row has its `seed`.
    """
    if not answer.replications:
        return _columns(answer, answer.simulated)
    several = [_columns(answer, run) for run in answer.runs]
    seeds = [each.seed for each in answer.replications for _ in range(len(each.simulated.records))]
    return {"seed": seeds} | {
        name: list(chain.from_iterable(columns[name] for columns in several)) for name in several[0]
    }


def metric_s(answer: SimulationAnswer, run: Simulated, metric: Metric) -> NDArray[np.float64]:
    """One latency of every request of a run, from sending on; NaN where it never was.

    TTFT and E2E hold the study's time between client and server, as the report's do. TPOT is
    (E2E - TTFT) / (output tokens - 1), of requests with two tokens and more.
    """
    records = run.records
    if metric == "ttft":
        return records.first_token_s - records.arrival_s + _network_s(answer)
    if metric == "e2e":
        return records.last_token_s - records.arrival_s + _network_s(answer)
    gaps = records.output_tokens - 1
    took_s = records.last_token_s - records.first_token_s
    return np.where(gaps > 0, took_s / np.maximum(gaps, 1), np.nan)


def _network_s(answer: SimulationAnswer) -> float:
    told = (each.value for each in answer.scene.inputs if each.key == "workload.network")
    return next(told, None) or 0.0


def _columns(answer: SimulationAnswer, run: Simulated) -> Mapping[str, Values]:
    records = run.records
    first, after = answer.scene.counted
    index = np.arange(len(records))
    return {
        "request": index.tolist(),
        "arrival_s": _times(records.arrival_s),
        "prompt_tokens": records.prompt_tokens.tolist(),
        "output_tokens": records.output_tokens.tolist(),
        "cached_tokens": records.cached_tokens.tolist(),
        "admitted_s": _times(records.admitted_s),
        "first_token_s": _times(records.first_token_s),
        "last_token_s": _times(records.last_token_s),
        "ttft_s": _times(metric_s(answer, run, "ttft")),
        "tpot_s": _times(metric_s(answer, run, "tpot")),
        "e2e_s": _times(metric_s(answer, run, "e2e")),
        "replica": [None if each == NOWHERE else each for each in records.replica.tolist()],
        "preemptions": records.preemptions.tolist(),
        "status": [STATUSES[each] for each in records.status.tolist()],
        "counted": ((index >= first) & (index < after)).tolist(),
    }


def _times(seconds: NDArray[np.float64]) -> Values:
    return [None if each != each else each for each in seconds.tolist()]  # noqa: PLR0124 — NaN


def _csv(columns: Mapping[str, Values]) -> str:
    """Floats to the last bit; true and false as JSON has them."""
    texts = [
        ["" if each is None else _text(each) for each in column] for column in columns.values()
    ]
    rows = map(",".join, zip(*texts, strict=True))
    return "\n".join([",".join(columns), *rows, ""])


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _json_lines(columns: Mapping[str, Values]) -> str:
    rows = zip(*columns.values(), strict=True)
    return "".join(f"{json.dumps(dict(zip(columns, row, strict=True)))}\n" for row in rows)


def _parquet(columns: Mapping[str, Values]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 — optional, and heavy
    from pyarrow import parquet  # noqa: PLC0415 — as above

    stream = io.BytesIO()
    parquet.write_table(pa.table(dict(columns)), stream)
    return stream.getvalue()
