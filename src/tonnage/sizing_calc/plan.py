"""A configuration, its workflow file and dataset -> what to measure, item by item.

How many items a level takes follows `nat sizing calc`: `num_passes` for each client, or else the
largest multiple of the concurrency that the dataset holds. Of ours: without `num_passes` a level
takes at least `min_samples`, because a p95 of two items is no p95.
"""

from __future__ import annotations

import ipaddress
import math
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from tonnage.files import sha256_of
from tonnage.measurement.load import Prompt, TargetSpec
from tonnage.measurement.load.datasets import Row, load_dataset, repeat_items
from tonnage.sizing_calc.models import CalcRunnerConfig, Plan, Subject
from tonnage.sizing_calc.workflow import HASH_DIGITS, WorkflowFile, hashed, load_workflow_file

DEFAULT_OUTPUT_DIR = Path("sizing_calc_output")
ADVISED_SAMPLES = 20  # below, a p95 is close to the slowest item
LOCAL_TIMEOUT_S = 86_400.0  # a workflow in this process has no server to give up on


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """All that is known before the first request."""

    plan: Plan
    spec: TargetSpec
    rows: Sequence[Row]
    output_dir: Path
    warnings: tuple[str, ...]

    def prompts(self, concurrency: int) -> list[Prompt]:
        """What the level sends: one prompt to warm up each client, then those it measures."""
        warm_up = repeat_items(self.rows[::-1], concurrency) if self.plan.warm_up else ()
        measured = repeat_items(self.rows, self.plan.samples[concurrency])
        return [
            Prompt(item=row.id, text=row.text, fields=row.fields) for row in (*warm_up, *measured)
        ]


def prepare(config: CalcRunnerConfig) -> Preparation:
    """Read what the configuration names. Raises InputError with file, line and key."""
    assert config.config_file is not None  # refuse_unusable saw to it  # noqa: S101
    workflow = load_workflow_file(config.config_file, runs_here=config.endpoint is None)
    rows = load_dataset(workflow.dataset, id_key=workflow.id_key, text_key=workflow.question_key)
    spec = _target_spec(config)
    samples = {
        level: level_samples(
            len(rows), level, num_passes=config.num_passes, min_samples=config.min_samples
        )
        for level in config.concurrencies
    }
    plan = Plan(
        subject=Subject(
            config=_fingerprint(workflow, config),
            dataset=sha256_of(workflow.dataset)[:HASH_DIGITS],
            model=None if config.endpoint else ", ".join(workflow.models) or None,
            target=f"{spec.kind} {spec.public_address}" if config.endpoint else "in this process",
            nat_version=None if config.endpoint else _nat_version(),
            test_gpu_count=config.test_gpu_count,
        ),
        concurrencies=config.concurrencies,
        samples=samples,
        warm_up=config.warm_up,
        timeout_s=spec.timeout_s,
        append=config.append_job,
    )
    output_dir = config.output_dir or DEFAULT_OUTPUT_DIR
    return Preparation(
        plan=plan,
        spec=spec,
        rows=rows,
        output_dir=output_dir,
        warnings=tuple(_warnings(workflow, config, plan, output_dir)),
    )


def level_samples(rows: int, concurrency: int, *, num_passes: int, min_samples: int) -> int:
    """Items of one level: a multiple of `concurrency`, so that its clients end together."""
    if num_passes > 0:
        return concurrency * num_passes
    passes = max(1, rows // concurrency, math.ceil(min_samples / concurrency))
    return concurrency * passes


def _target_spec(config: CalcRunnerConfig) -> TargetSpec:
    if config.endpoint is None:
        return TargetSpec(
            kind="nemo",
            address=str(config.config_file),
            timeout_s=LOCAL_TIMEOUT_S,
            stall_timeout_s=LOCAL_TIMEOUT_S,
        )
    any_server = config.request_template is not None or config.answer_path is not None
    return TargetSpec(
        kind="json" if any_server else "nat",
        address=config.endpoint if any_server else config.endpoint.rstrip("/"),
        headers=config.headers,
        timeout_s=config.endpoint_timeout,
        stall_timeout_s=config.endpoint_timeout,  # a workflow may be silent until it is done
        request_template=config.request_template,
        answer_path=config.answer_path,
    )


def _fingerprint(workflow: WorkflowFile, config: CalcRunnerConfig) -> str:
    """Of the file, and of how questions are put where the file does not say it."""
    parts = (workflow.fingerprint, config.request_template or "", config.answer_path or "")
    return hashed("\n".join(parts).encode()) if any(parts[1:]) else workflow.fingerprint


def _nat_version() -> str | None:
    try:
        return version("nvidia-nat")
    except PackageNotFoundError:  # the target says how to get it
        return None


# ── what to think of it before it starts ────────────────────────────────────────────────────────


def _warnings(
    workflow: WorkflowFile, config: CalcRunnerConfig, plan: Plan, output_dir: Path
) -> Iterator[str]:
    wanted = config.target_workflow_runtime_p95 > 0 or config.target_llm_latency_p95 > 0
    if wanted and not (config.target_users and config.test_gpu_count):
        yield (
            "without target_users and test_gpu_count no GPUs are estimated; offline_mode can do"
            " that later, from what is measured now."
        )
    few = [str(level) for level, count in plan.samples.items() if count < ADVISED_SAMPLES]
    if few:
        yield (
            f"fewer than {ADVISED_SAMPLES} samples at concurrency {', '.join(few)}: a p95 of so few"
            " is close to the slowest of them."
        )
    for url in [config.endpoint] if config.endpoint else workflow.llm_urls:
        host = urlsplit(url).hostname
        if host and _is_public(host):
            yield (
                f"{host} is a public host: what others ask of it, and the way there, are measured"
                " too. Measure on a cluster of your own."
            )
    theirs = workflow.output_dir
    if theirs is not None and output_dir.resolve().is_relative_to(theirs.resolve()):
        yield (
            f"{output_dir} lies in eval.general.output_dir, {theirs}, which nat eval empties when"
            " it starts. Keep measurements elsewhere."
        )


def _is_public(host: str) -> bool:
    """Whether the host has an address of the public Internet; unknown hosts have not."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    addresses = (ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found)
    return any(address.is_global for address in addresses)
