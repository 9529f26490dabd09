"""What `tonnage measure` is told -> the nouns of measuring: target, prompts, levels, limits.

Values arrive as text, as for a study; here they get their units and their mistakes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tonnage.cli.asked import Asked
from tonnage.cli.measure_flags import (
    DEFAULT_CONCURRENCIES,
    DEFAULT_OUTPUT_TOKENS,
    DEFAULT_PROMPT_TOKENS,
)
from tonnage.cli.secret_headers import secret_headers
from tonnage.cli.series import parse_series
from tonnage.errors import UsageError
from tonnage.files import sha256_of
from tonnage.measurement.load import Level, PromptSpec, TargetSpec, level_name
from tonnage.measurement.load.campaign import Campaign, Search
from tonnage.units import (
    format_number,
    parse_count,
    parse_rate,
)

APIS = ("chat", "completions", "nat", "json")
ARRIVALS = ("poisson", "constant", "gamma")
SEARCHES = ("rate", "concurrency")
METRICS = ("ttft", "tpot", "e2e")
MEANINGLESS = " that mean nothing (--dataset gives it your own)"
TIMEOUT_S, STALL_TIMEOUT_S = 300.0, 60.0
MOST_CLIENTS = 100_000
OPEN_WARMUP_S = 5.0
MOST_CLIENTS = 100_000
OPEN_WARMUP_SHARE = 0.1  # of a stated number of requests
DEFAULT_DURATION_S = 30.0
OPENAI = ("chat", "completions")
HTTP = (*OPENAI, "nat", "json")
LOADS = ("--concurrency", "--rate", "--trace", "--requests", "--duration", "--search")

_KINDS = {
    "chat": "an OpenAI-compatible API",
    "completions": "an OpenAI-compatible API",
    "nat": "a server of NeMo Agent Toolkit",
    "json": "an HTTP workflow",
    "function": "a Python callable",
    "nemo": "a workflow run in this process",
    "command": "a command",
}
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """All that is to be measured, and from where."""

    campaign: Campaign
    target: TargetSpec
    limits: Mapping[str, float]
    workers: int | None
    cluster: str | None


# ── what was told -> nouns ──────────────────────────────────────────────────────────────────────


def target_of_words(
    address: str | None, command: tuple[str, ...], asked: Asked, *, stream: bool
) -> TargetSpec:
    """What to load: a URL, `module:function`, a configuration file, or a command of one's own."""
    api = asked.choice("--api", APIS)
    kind: Any
    if address is None:
        if not command:
            raise UsageError(
                "what is to be measured?",
                hint="Give a URL, module:function, a workflow's config.yml, or -- and a command.",
            )
        kind, address = "command", command[0]
    elif address.startswith(("http://", "https://")):
        kind = api or "chat"
    elif address.endswith((".yml", ".yaml")):
        if not Path(address).is_file():
            raise UsageError(f"{address} is not a file.")
        kind = "nemo"
    elif _CALLABLE.fullmatch(address):
        kind = "function"
    else:
        raise UsageError(
            f'"{address}" is nothing that can be measured:',
            hint="give a URL (http://…), module:function, a workflow's config.yml, or -- and a"
            " command.",
        )
    if api is not None and kind != api:
        raise UsageError("--api is for a URL.")
    _refuse_misplaced(asked, kind)
    _refuse_command(asked, kind, command)
    return TargetSpec(
        kind=kind,
        address=address,
        command=command,
        record_llm=asked.text("--record-llm"),
        model=asked.text("--model"),
        headers=secret_headers(asked.text("--api-key"), asked.texts("--header")),
        stream=stream,
        timeout_s=asked.time_s("--timeout") or TIMEOUT_S,
        stall_timeout_s=asked.time_s("--stall-timeout") or STALL_TIMEOUT_S,
        body=_body(asked.text("--body")),
        request_template=asked.text("--request-template"),
        answer_path=asked.text("--answer-path"),
        tokenizer=asked.text("--tokenizer"),
    )


def _refuse_misplaced(asked: Asked, kind: str) -> None:
    for flag, kinds in (
        ("--request-template", {"json"}),
        ("--answer-path", {"json"}),
        ("--body", OPENAI),
        ("--model", OPENAI),
        ("--tokenizer", OPENAI),
        ("--output-tokens", OPENAI),
        ("--output-cv", OPENAI),
        ("--header", HTTP),
        ("--api-key", HTTP),
    ):
        if flag in asked and kind not in kinds:
            raise UsageError(f"{flag} is not for this target.", hint=f"It is {_KINDS[kind]}.")


def _refuse_command(asked: Asked, kind: str, command: tuple[str, ...]) -> None:
    """A command is a target of its own, or serves one at a URL."""
    if command and kind in {"function", "nemo"}:
        raise UsageError("a command after -- is a target of its own, or serves a URL.")
    if "--record-llm" in asked and not command:
        raise UsageError(
            "--record-llm is for a command that makes LLM calls:",
            hint="give it last, as in --record-llm http://llm:8000/v1 -- ./my_agent.sh.",
        )
    if command and kind != "command" and ("--workers" in asked or "--cluster" in asked):
        raise UsageError("a server that is started for the measurement is loaded by one process.")


def _body(text: str | None) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        body = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--body is not JSON: {error}.") from None
    if not isinstance(body, dict):
        raise UsageError(
            "--body must be a JSON object,", hint="for example '{\"temperature\": 0}'."
        )
    return body


def prompts_of(asked: Asked, *, forced: bool = True) -> tuple[PromptSpec, tuple[str, ...]]:
    """Where prompts come from, and what of it was assumed.

    `forced`: the target can be told how long to answer.
    """
    path, trace = asked.text("--dataset"), asked.text("--trace")
    if path is not None and trace is not None:
        raise UsageError("--trace has lengths of its own: leave out --dataset.")
    synthetic = path is None and trace is None
    _refuse_without("--dataset", asked, "--id-key", "--text-key")
    if not synthetic:
        for flag in ("--prompt-tokens", "--prompt-cv", "--shared-prefix-tokens", "--prefix-groups"):
            if flag in asked:
                raise UsageError(f"{flag} is for synthetic prompts.", hint="Leave out --dataset.")
    prompt_tokens = asked.tokens("--prompt-tokens")
    output_tokens = asked.tokens("--output-tokens")
    assumed = []
    if synthetic and prompt_tokens is None:
        prompt_tokens = DEFAULT_PROMPT_TOKENS
        assumed.append(f"prompts of {prompt_tokens} tokens" + ("" if forced else MEANINGLESS))
    if synthetic and forced and output_tokens is None:
        output_tokens = DEFAULT_OUTPUT_TOKENS
        assumed.append(f"answers of {output_tokens} tokens")
    shared = asked.tokens("--shared-prefix-tokens") or 0
    if prompt_tokens is not None and shared > prompt_tokens:
        raise UsageError(
            f"--shared-prefix-tokens {shared} is more than the prompt of {prompt_tokens}."
        )
    spec = PromptSpec(
        kind="synthetic" if synthetic else "dataset" if path else "trace",
        path=path or trace,
        id_key=asked.text("--id-key") or "id",
        text_key=asked.text("--text-key") or "question",
        prompt_tokens=prompt_tokens,
        prompt_tokens_cv=asked.share("--prompt-cv") or 0.0,
        output_tokens=output_tokens,
        output_tokens_cv=asked.share("--output-cv") or 0.0,
        shared_prefix_tokens=shared,
        prefix_groups=asked.count("--prefix-groups") or 1,
        turns=asked.count("--turns") or 1,
        seed=_seed(asked),
    )
    return spec, tuple(assumed)


def levels_of(asked: Asked) -> tuple[Level, ...]:
    """The levels to measure, in the order they were told."""
    ways = [flag for flag in ("--concurrency", "--rate", "--trace") if flag in asked]
    if len(ways) > 1:
        raise UsageError(f"{' and '.join(ways)} are different loads: give one of them.")
    way = ways[0] if ways else "--concurrency"
    if way != "--concurrency":
        _refuse_without("--concurrency", asked, "--think-time")
    if way != "--rate":
        _refuse_without("--rate", asked, "--arrivals", "--burstiness")
    if way == "--trace":
        return (_level(asked, name="trace", arrivals="trace"),)
    if way == "--rate":
        kind = asked.choice("--arrivals", ARRIVALS) or "poisson"
        burstiness = asked.share("--burstiness")
        if (burstiness is not None) != (kind == "gamma"):
            raise UsageError("--arrivals gamma and --burstiness go together.")
        cv = {"poisson": 1.0, "constant": 0.0}.get(kind, burstiness)
        rates = parse_series(asked.text("--rate") or "", flag="--rate", parse=parse_rate)
        return tuple(
            _level(asked, name=level_name("r", rate), rate_per_s=rate, arrivals=kind, cv=cv)
            for rate in rates
        )
    series = parse_series(
        asked.text("--concurrency") or DEFAULT_CONCURRENCIES,
        flag="--concurrency",
        parse=parse_count,
    )
    for each in series:
        if each > MOST_CLIENTS:
            raise UsageError(
                f"--concurrency {format_number(each)} is more than {format_number(MOST_CLIENTS)}.",
                hint="Each client is a connection: share such a load among machines (--cluster).",
            )
        if each != int(each):
            raise UsageError(f"--concurrency counts clients; {format_number(each)} is not whole.")
    return tuple(
        _level(
            asked,
            name=level_name("c", each),
            concurrency=int(each),
            think_time_s=asked.time_s("--think-time") or 0.0,
        )
        for each in series
    )


def level_at_one(what: str, asked: Asked) -> Level:
    """Where a search begins when nobody says where."""
    if what == "rate":
        return _level(asked, name="r1", rate_per_s=1.0)
    return _level(asked, name="c1", concurrency=1)


def _level(asked: Asked, **load: Any) -> Level:  # noqa: ANN401 — fields of Level
    """One level with the durations that all share."""
    requests, duration_s = asked.count("--requests"), asked.time_s("--duration")
    if requests is None and duration_s is None and load.get("arrivals") != "trace":
        duration_s = DEFAULT_DURATION_S
    ramp_s = asked.time_s("--ramp") or 0.0
    warmup_requests, warmup_s = _warmup(asked, load.get("concurrency"), requests, duration_s)
    if ramp_s and not warmup_requests:
        warmup_s = max(warmup_s, ramp_s)
    return Level(
        requests=requests,
        duration_s=duration_s,
        warmup_requests=warmup_requests,
        warmup_s=warmup_s,
        ramp_s=ramp_s,
        cooldown=True,
        seed=_seed(asked),
        **load,
    )


def _warmup(
    asked: Asked, concurrency: int | None, requests: int | None, duration_s: float | None
) -> tuple[int, float]:
    """Warm-up requests and seconds; one of them is 0."""
    text = asked.text("--warmup")
    if text is not None:
        if text.strip() in {"0", "none"}:
            return 0, 0.0
        if re.fullmatch(r"[\d_,]+", text.strip()):
            return asked.count("--warmup") or 0, 0.0
        return 0, asked.time_s("--warmup") or 0.0
    if concurrency is not None:
        return concurrency, 0.0
    if duration_s is not None:
        return 0, OPEN_WARMUP_S
    return max(1, round(OPEN_WARMUP_SHARE * (requests or 0))) if requests else 0, 0.0


def limits_of(asked: Asked) -> dict[str, float]:
    """What is promised: names of a run's figures, as "ttft_p95_s", and their limits in seconds."""
    return {
        f"{metric}_{percentile}_s": value
        for metric in METRICS
        for percentile in ("p50", "p90", "p95", "p99")
        if (value := asked.time_s(f"--{metric}-{percentile}")) is not None
    }


def _seed(asked: Asked) -> int:
    text = asked.text("--seed")
    if text is None:
        return 0
    if not re.fullmatch(r"\d+", text):
        raise UsageError(f"--seed must be a whole number from 0 up, not {text}.")
    return int(text)


def _refuse_without(flag: str, asked: Asked, *followers: str) -> None:
    for follower in followers:
        if follower in asked and flag not in asked:
            raise UsageError(f"{follower} is for {flag}, which is not given.")


def question_of(
    address: str | None, command: tuple[str, ...], asked: Asked, *, stream: bool
) -> Question:
    """The nouns of what was told; what was assumed stands in the notes of the run."""
    target = target_of_words(address, command, asked, stream=stream)
    prompts, assumed = prompts_of(asked, forced=target.kind in OPENAI)
    synthetic_questions = target.kind not in OPENAI and prompts.kind == "synthetic"
    if synthetic_questions and target.kind != "command" and "--prompt-tokens" not in asked:
        raise UsageError(
            "a workflow is asked questions of its own:",
            hint="give them with --dataset, or --prompt-tokens for texts that mean nothing.",
        )
    limits = limits_of(asked)
    levels = levels_of(asked)
    if target.kind == "command" and not any(flag in asked for flag in LOADS):
        levels = (Level(name="c1", concurrency=1, requests=1),)
        assumed = ("the command is run once",)
    search = None
    if (what := asked.choice("--search", SEARCHES)) is not None:
        if not limits:
            raise UsageError(
                "--search needs a promise to keep,", hint='for example --ttft-p95 "500 ms".'
            )
        others = {"--rate", "--concurrency", "--trace"} - {f"--{what}"}
        if any(flag in asked for flag in others):
            raise UsageError(f"--search {what} starts at --{what}, not at another load.")
        start = levels[0] if f"--{what}" in asked else level_at_one(what, asked)
        search, levels = Search(start=start, limits=limits), ()
    campaign = Campaign(
        name=asked.text("--name") or target.public_address,
        target=target.public_address,
        prompts=prompts,
        levels=levels,
        search=search,
        workflow=target.kind not in OPENAI,
        model=target.model,
        gpu=asked.text("--gpu"),
        gpus=asked.count("--gpus"),
        facts=_facts(target, prompts),
        notes=(f"assumed, not told: {'; '.join(assumed)}",) if assumed else (),
    )
    return Question(
        campaign=campaign,
        target=target,
        limits=limits,
        workers=asked.count("--workers") or (None if "--cluster" in asked else 1),
        cluster=asked.text("--cluster"),
    )


def _facts(target: TargetSpec, prompts: PromptSpec) -> dict[str, str]:
    """What must not change between two sessions of one run."""
    told = {
        "api": target.kind,
        "streamed": None if target.stream else "no",
        "body": json.dumps(dict(target.body)) if target.body else None,
        "request_template": target.request_template,
        "answer_path": target.answer_path,
    }
    facts = {name: text for name, text in told.items() if text is not None}
    if prompts.path is not None:
        facts["dataset_sha256"] = sha256_of(Path(prompts.path))
    return facts
