"""`tonnage sizing calc` against a server of known timing -> what it takes beyond the load itself.

Whole processes, so that starting up, reading the dataset, keeping every record, the summary after
each level and the fit are all in it. The load's own time follows from what was asked for.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.servers.timed import MODEL, timed_server

ITEM_S = 0.1
LEVELS = (1, 2, 4, 8, 16, 32)
PASSES = 5
LOAD_S = len(LEVELS) * (1 + PASSES) * ITEM_S  # at each level every client warms up once
REPEATS = 5

REQUEST = {"model": MODEL, "prompt": "$prompt", "max_tokens": 1}
CONFIG = "eval: {general: {dataset: {_type: json, file_path: %s}}}\n"


def measure_overhead() -> float:
    """Seconds beyond the load, without plots; the median of several sweeps."""
    with timed_server(ttft_s=ITEM_S, itl_s=0.0, output_tokens=1) as address:
        _sweep_s(address)  # byte code, page cache
        return statistics.median(_sweep_s(address) for _ in range(REPEATS)) - LOAD_S


def _sweep_s(address: str) -> float:
    """Wall time of one sweep into a new directory."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, config = Path(folder, "questions.json"), Path(folder, "config.yml")
        rows = [{"id": f"{item}", "question": f"question {item}"} for item in range(20)]
        dataset.write_text(json.dumps(rows), encoding="utf-8")
        config.write_text(CONFIG % dataset, encoding="utf-8")
        command = [
            *(sys.executable, "-m", "tonnage", "sizing", "calc", "--no_plots"),
            *("--config_file", str(config), "--calc_output_dir", folder),
            *("--endpoint", f"{address}/completions", "--request_template", json.dumps(REQUEST)),
            *("--answer_path", "choices.0.text", "--num_passes", str(PASSES)),
            *("--concurrencies", ",".join(map(str, LEVELS))),
        ]
        started_s = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started_s
