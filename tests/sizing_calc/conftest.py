"""Folders of measurements, as `nat sizing calc` leaves them."""

import json
import os
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parent / "samples"

# the table of the guide: concurrency -> p95 LLM latency, p95 runtime, total runtime
DOCUMENTED = {
    1: (1.14981, 4.03488, 8.06977),
    2: (1.3591, 4.71197, 9.32298),
    4: (1.50682, 5.67581, 11.1683),
    8: (2.10668, 7.90895, 15.6193),
    16: (3.30196, 12.677, 25.3173),
    32: (6.57847, 24.5307, 43.9806),
}


def body_of(levels, *, interrupted=(), **more):
    """A file of today's schema; two passes, so 2 × concurrency items, all at their p95."""
    return {
        "calc_data": {
            str(concurrency): {
                "sizing_metrics": {
                    "alerts": {"workflow_interrupted": concurrency in interrupted},
                    "llm_latency_p95": latency,
                    "workflow_runtime_p95": runtime,
                    "total_runtime": total,
                    "per_item_metrics": {
                        str(item): {"llm_latency": latency, "workflow_runtime": runtime}
                        for item in range(2 * concurrency)
                    },
                }
            }
            for concurrency, (latency, runtime, total) in levels.items()
        },
        **more,
    }


def line(slope, intercept, levels):
    """Levels exactly on a line, LLM latency a quarter of the runtime."""
    at = {level: intercept + slope * level for level in levels}
    return {level: (time / 4, time, 2 * time) for level, time in at.items()}


@pytest.fixture
def add_job(tmp_path):
    """Put a job folder into tmp_path/online; later ones are newer."""
    written: list[Path] = []

    def add(body, name=None):
        name = name or f"job_{1700000000 + len(written)}"
        folder = tmp_path / "online" / name
        folder.mkdir(parents=True)
        text = body if isinstance(body, str) else json.dumps(body)
        (folder / "calc_runner_output.json").write_text(text)
        written.append(folder)
        os.utime(folder, (1700000000 + len(written),) * 2)
        return folder

    return add


@pytest.fixture
def documented(add_job, tmp_path):
    add_job(body_of(DOCUMENTED))
    return tmp_path


@pytest.fixture
def config_file(tmp_path):
    dataset = tmp_path / "questions.json"
    # as documented, with commas before closing brackets
    dataset.write_text('[{"id": 1, "question": "one",}, {"id": 2, "question": "two"},\n]')
    file = tmp_path / "config.yml"
    file.write_text(
        "eval:\n  general:\n    output_dir: eval_out\n"
        f"    dataset:\n      _type: json\n      file_path: {dataset}\n"
    )
    return file
