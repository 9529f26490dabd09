"""The flags that state a study on the command line: declared once, used by every command.

A flag is a place in the study document: `--ttft-p95 "1.5 s"` is `promises: {ttft: {p95: 1.5 s}}`.
Values stay text here; the study reads their units and judges them, and so the two ways of asking
cannot differ.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tonnage.errors import UnitError, UsageError

MODEL = "What is served"
LOAD = "How much is asked (one way of saying it)"
LENGTHS = "How long it is"
PROMISES = "What is promised, at peak load"
HARDWARE = "What may be bought"
ARRANGEMENT = "How it is arranged (default: all that make sense)"
RESERVE = "Memory and reserve"
GOAL = "Goal and limits"

Told = Mapping["Flag", str | Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag: `key` is its place in the study; `many` may be repeated or separated by commas."""

    name: str
    key: str
    group: str
    metavar: str
    help: str
    many: bool = False
    hidden: bool = False

    @property
    def parameter(self) -> str:
        """The name of the Python parameter."""
        return self.name.removeprefix("--").replace("-", "_")


def own_flag(name: str, group: str, metavar: str, text: str, *, many: bool = False) -> Flag:
    """A flag of one command alone, that no study has a key for."""
    return Flag(
        name=name, key=name.removeprefix("--"), group=group, metavar=metavar, help=text, many=many
    )


def percentile_flags(
    metric: str, key: str, metavar: str, meaning: str, *, group: str = PROMISES
) -> Iterator[Flag]:
    """One flag per percentile; help shows the 95th and names the others."""
    for percentile in ("p95", "p50", "p90", "p99"):
        yield Flag(
            name=f"--{metric}-{percentile}",
            key=f"promises.{key}.{percentile}",
            group=group,
            metavar=metavar,
            help=f"{meaning} Also --{metric}-p50, -p90, -p99.",
            hidden=percentile != "p95",
        )


FLAGS: tuple[Flag, ...] = (
    Flag(name="--model", key="model", group=MODEL, metavar="NAME",
         help="Catalog name, hub id, or path of a config.json. See tonnage catalog list models."),
    Flag(name="--engine", key="engine.name", group=MODEL, metavar="NAME",
         help="Serving engine. See tonnage catalog list engines."),
    Flag(name="--weight-dtype", key="engine.weight_dtype", group=MODEL, metavar="DTYPE", many=True,
         help="Format of the weights: bf16, fp8, int4, nvfp4 … (default: those that make sense)."),
    Flag(name="--kv-dtype", key="engine.kv_dtype", group=MODEL, metavar="DTYPE", many=True,
         help="Format of the KV cache: bf16, fp16, fp8 or int8."),
    Flag(name="--name", key="name", group=MODEL, metavar="TEXT", help="Title of the report."),
    # ── load ──
    Flag(name="--request-rate", key="workload.request_rate", group=LOAD, metavar="RATE",
         help='Mean arrivals in busy hours: "7 requests/s", "25 k/hour". Its peak is derived.'),
    Flag(name="--peak-request-rate", key="workload.peak_request_rate", group=LOAD, metavar="RATE",
         help='The highest rate to survive, taken as it is: "31/s".'),
    Flag(name="--users", key="workload.users.registered", group=LOAD, metavar="COUNT",
         help="Registered users: people with an account, not requests at once."),
    Flag(name="--active-share", key="workload.users.active_at_peak", group=LOAD, metavar="SHARE",
         help='Of --users, the share active in the busiest hour: "10 %" (assumed when left out).'),
    Flag(name="--requests-per-hour", key="workload.users.requests_per_active_user_per_hour",
         group=LOAD, metavar="COUNT",
         help="Of --users, what each active one asks per hour (assumed when left out)."),
    Flag(name="--requests-per-day", key="workload.requests_per_day", group=LOAD, metavar="COUNT",
         help='Requests of a whole day: "2 M", spread over --active-hours.'),
    Flag(name="--daily-users", key="workload.daily_users.count", group=LOAD, metavar="COUNT",
         help='People who use it on one day: "679 k".'),
    Flag(name="--requests-per-user", key="workload.daily_users.requests_per_user", group=LOAD,
         metavar="COUNT", help="Of --daily-users, requests of each person and day: 3."),
    Flag(name="--active-hours", key="workload.active_hours", group=LOAD, metavar="TIME",
         help='Part of a day in which the requests of a day arrive: "8 h".'),
    Flag(name="--concurrency", key="workload.concurrency", group=LOAD, metavar="COUNT",
         help="Requests in flight, held constant: each finished one is replaced at once."),
    Flag(name="--clients", key="workload.clients.count", group=LOAD, metavar="COUNT",
         help="Clients that send, wait for the whole answer, think, and send again."),
    Flag(name="--think-time", key="workload.clients.think_time", group=LOAD, metavar="TIME",
         help='Of --clients, the pause between answer and next request: "10 s".'),
    Flag(name="--batch-requests", key="workload.batch.requests", group=LOAD, metavar="COUNT",
         help='Offline work: requests to finish by --deadline: "1 M".'),
    Flag(name="--deadline", key="workload.batch.deadline", group=LOAD, metavar="TIME",
         help='Of --batch-requests: "8 h".'),
    Flag(name="--throughput", key="promises.throughput", group=LOAD, metavar="SPEED",
         help='Of offline work, output tokens per second of the fleet: "12,000 tokens/s".'),
    Flag(name="--sessions", key="workload.sessions", group=LOAD, metavar="COUNT",
         help="Contexts resident in GPU memory at once; alone, only memory is sized."),
    # ── lengths ──
    Flag(name="--context-tokens", key="workload.context", group=LENGTHS, metavar="LENGTH",
         help='Context each session holds: "128 k", "131072 tokens".'),
    Flag(name="--prompt-tokens", key="workload.prompt.mean", group=LENGTHS, metavar="LENGTH",
         help='Whole prompt, system prompt and documents included: 2800, "3500 words".'),
    Flag(name="--output-tokens", key="workload.answer.mean", group=LENGTHS, metavar="LENGTH",
         help='Answer, reasoning included: 350, "500 words".'),
    Flag(name="--cached", key="workload.prompt.cached", group=LENGTHS, metavar="LENGTH|SHARE",
         help='Part of the prompt found in the prefix cache: 300 or "40 %".'),
    # ── promises ──
    *percentile_flags("ttft", "ttft", "TIME", 'Time to first token at most: "1.5 s".'),
    *percentile_flags("tpot", "tpot", "TIME", 'Time per output token at most: "50 ms".'),
    *percentile_flags("e2e", "e2e", "TIME", 'Whole answer within: "12 s".'),
    *percentile_flags("tokens-per-second", "tokens_per_second", "SPEED",
                  'Speed of one answer at least: "20 tokens/s".'),
    Flag(name="--network-time", key="workload.network", group=PROMISES, metavar="TIME",
         help='Time between client and server, added to the first token: "40 ms" (0, printed).'),
    # ── hardware ──
    Flag(name="--gpu", key="hardware.gpus", group=HARDWARE, metavar="NAME", many=True,
         help="GPUs to compare; repeat for several. See tonnage catalog list gpus."),
    Flag(name="--server", key="hardware.servers", group=HARDWARE, metavar="NAME", many=True,
         help="Servers to buy whole; repeat for several. See tonnage catalog list servers."),
    Flag(name="--price", key="hardware.prices", group=HARDWARE, metavar="GPU=PRICE", many=True,
         help='Your price of one GPU, repeatable: "H200-SXM=3.40 usd/h".'),
    Flag(name="--buy", key="hardware.buy", group=HARDWARE, metavar="UNIT",
         help='What is bought and lost as one: "servers" or "gpus".'),
    Flag(name="--catalog", key="hardware.catalog", group=HARDWARE, metavar="FILE", many=True,
         help="Your own catalog rows (TOML) on top of the built-in ones; repeatable."),
    # ── arrangement ──
    Flag(name="--tensor-parallel", key="hardware.tensor_parallel", group=ARRANGEMENT, metavar="N",
         many=True, help="GPUs that share every layer of a replica: 4, or 2,4,8 to choose among."),
    Flag(name="--pipeline-parallel", key="hardware.pipeline_parallel", group=ARRANGEMENT,
         metavar="N", many=True, help="Stages of layers on different GPUs of a replica."),
    Flag(name="--expert-parallel", key="hardware.expert_parallel", group=ARRANGEMENT, metavar="N",
         many=True, help="Ranks that divide the experts, within the tensor-parallel group."),
    Flag(name="--max-batch-size", key="engine.max_batch_size", group=ARRANGEMENT, metavar="N",
         many=True, help="Requests one replica runs at once (vLLM: max-num-seqs)."),
    Flag(name="--max-batched-tokens", key="engine.max_batched_tokens", group=ARRANGEMENT,
         metavar="N", help="Tokens one step processes (vLLM: max-num-batched-tokens)."),
    # ── reserve ──
    Flag(name="--kv-budget-fraction", key="memory.kv_budget_fraction", group=RESERVE,
         metavar="SHARE", help='Of the memory left, the share to plan KV cache in: "70 %".'),
    Flag(name="--runtime-overhead", key="memory.runtime_overhead", group=RESERVE, metavar="SIZE",
         help='Memory of a server that is not cache, instead of computing it: "120 GiB".'),
    Flag(name="--headroom", key="scenarios.recommended.headroom", group=RESERVE, metavar="SHARE",
         help='More load than asked, in the recommended scenario: "20 %".'),
    Flag(name="--spare", key="scenarios.recommended.spare", group=RESERVE, metavar="N",
         help="Units that may fail in the recommended scenario: 1 is N+1."),
    # ── goal ──
    Flag(name="--objective", key="objective", group=GOAL, metavar="WHAT",
         help="What to minimise: cost, gpus or power."),
    Flag(name="--max-cost", key="limits.cost", group=GOAL, metavar="PRICE",
         help='The recommended fleet may cost: "90 usd/h".'),
    Flag(name="--max-gpus", key="limits.gpus", group=GOAL, metavar="N",
         help="The recommended fleet may have so many GPUs."),
)  # fmt: skip

BY_KEY = {flag.key: flag for flag in FLAGS}
_COMMAS_COUNT = {"hardware.catalog", "hardware.prices"}  # names and paths may hold commas


def takes_flags(flags: Sequence[Flag]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command every one of `flags`; those that were told arrive as its argument `told`."""

    def give(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.name != "told"
        ]
        arguments = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        options = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
        parameters = [*arguments, *map(_parameter, flags), *options]

        @functools.wraps(command)
        def with_flags(**values: Any) -> None:  # noqa: ANN401 — what Typer parsed
            given = {flag: values.pop(flag.parameter, None) for flag in flags}
            told = {flag: value for flag, value in given.items() if value or value == ""}
            command(**values, told=told)

        del with_flags.__wrapped__  # Typer must see the new signature
        with_flags.__annotations__ = {each.name: each.annotation for each in parameters}
        with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return with_flags

    return give


takes_study_flags = takes_flags(FLAGS)


def _parameter(flag: Flag) -> inspect.Parameter:
    option = typer.Option(
        flag.name,
        metavar=flag.metavar,
        help=flag.help,
        rich_help_panel=flag.group,
        hidden=flag.hidden,
        show_default=False,
    )
    kind = list[str] if flag.many else str
    return inspect.Parameter(
        flag.parameter,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def overrides(told: Told) -> dict[str, object]:
    """What was told -> places in the study document and what stands there."""
    found: dict[str, object] = {}
    for flag, value in told.items():
        if flag.key == "hardware.prices":
            found.update(map(_price, value))
        elif flag.key == "hardware.catalog":
            found[flag.key] = [str(Path(path).absolute()) for path in value]
        elif flag.many and flag.key not in _COMMAS_COUNT:
            found[flag.key] = [
                part.strip() for each in value for part in each.split(",") if part.strip()
            ]
        else:
            found[flag.key] = value
    return found


def files_read(study: Path | None, told: Told) -> list[tuple[str, Path]]:
    """What a command reads, by what it was asked: the study, and the flags that name a file."""
    read = [("the study", study)] if study is not None else []
    for flag, value in told.items():
        if flag.metavar == "FILE" or flag.key == "model":
            paths = [value] if isinstance(value, str) else value
            read += [(flag.name, Path(each)) for each in paths]
    return read


def _price(text: str) -> tuple[str, str]:
    """The place and the price in "H200-SXM=3.40 usd/h"."""
    gpu, equals, price = text.partition("=")
    if not (gpu.strip() and equals and price.strip()):
        raise UsageError(
            f'--price "{text}" does not name a GPU and its price,',
            hint='for example --price "H200-SXM=3.40 usd/h".',
        )
    return f"hardware.prices.{gpu.strip()}", price.strip()


def as_flags(message: str) -> str:
    """A complaint about a place in the study -> the same about the flag that stands for it."""
    pattern = "|".join(re.escape(key) for key in sorted(BY_KEY, key=len, reverse=True))
    return re.sub(
        rf"(?<![\w./\"“])(?:{pattern})(?![\w./])",
        lambda match: BY_KEY[match[0]].name if "." in match[0] else match[0],
        message,
    )


def read_quantity(
    text: str, *, flag: str, parse: Callable[[str], float], zero: bool = False
) -> float:
    """The finite number that `text` is, above 0 or also `zero`; UsageError names the flag."""
    try:
        value = parse(text)
    except UnitError as error:
        raise UsageError(f"{flag}: {error.message}", hint=error.hint) from None
    if not (0 < value < math.inf or (zero and value == 0)):
        raise UsageError(f"{flag} must be {'0 or more' if zero else 'above 0'}, not {text}.")
    return value
