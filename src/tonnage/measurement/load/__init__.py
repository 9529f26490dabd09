"""Prompts, a target and levels -> one record for each request, kept as soon as it ends.

The vocabulary of measuring. A *level* is one load, held for a while; a *phase* of it is warm-up,
whose requests are in no statistic, or measured. A *target* answers prompts; what came of one is
its `Outcome`. Inside, times are seconds of `clock`; a `Record` holds Unix time, so that what
several processes and sessions recorded can be put side by side.

An exchange that fails is an outcome like any other, of one of the kinds in `Failure`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import asyncio

clock = time.perf_counter  # monotonic; on Linux the same for every process of a machine

Failure = Literal[
    "timeout",  # not complete within the time a request may take
    "stalled",  # silent for too long in the middle of an answer
    "refused",  # nobody listens there
    "unreachable",  # no such host, no route, TLS that fails
    "http",  # an HTTP status other than 2xx
    "truncated",  # the connection closed before the answer was complete
    "malformed",  # what came is not the protocol: bad HTTP, bad JSON in a stream
    "rejected",  # a 2xx answer or an event that says itself that it is an error
    "workflow",  # it raised an exception or did not exit 0, or an LLM call inside it failed
    "stopped",  # in flight when the measurement was stopped
]
NOBODY_THERE: frozenset[Failure] = frozenset({"refused", "unreachable"})
Phase = Literal["warmup", "measured", "cooldown"]  # only what is measured is in a statistic
TokenSource = Literal["usage", "events", "tokenizer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is sent: `text`, with the messages that come before it when it is not the first.

    `item` names the row of a dataset (`_rep1` on a repeat). `prompt_tokens` and `output_tokens` are
    what was asked for; an output count is forced on targets that can be forced. `fields` is the row
    itself, for a request template.
    """

    item: str
    text: str
    history: tuple[Message, ...] = ()
    session: str | None = None
    turn: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Prompts of one session, each sent after the answer to the one before; mostly a single one.

    Later prompts come without history: whoever sends them puts in what was really answered.
    `arrival_s` is when it starts, for conversations that replay a recording.
    """

    turns: tuple[Prompt, ...]
    arrival_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmCall:
    """One LLM call of a workflow, paired by its id. Unix seconds, of whoever recorded it."""

    id: str
    started_unix_s: float
    ended_unix_s: float
    model: str | None = None
    ttft_s: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    failure: Failure | None = None

    @property
    def latency_s(self) -> float:
        """From its start to its end."""
        return self.ended_unix_s - self.started_unix_s


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of one prompt. Times are of `clock`.

    `sent_s` is when the request was handed to the network; `token_s` when each piece of the answer
    that is not empty arrived, the first being the first token. `runtime_s` is how long a workflow
    says it took itself. `stale_retries` counts keep-alive connections that were found closed as
    soon as the request was sent, each replaced by a fresh one; `sent_s` is of the first.
    """

    sent_s: float
    end_s: float
    token_s: list[float] = field(default_factory=list)
    status: int | None = None
    failure: Failure | None = None
    error: str = ""
    answer: str = ""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    tokens_from: TokenSource | None = None
    stale_retries: int = 0
    runtime_s: float | None = None
    llm_calls: tuple[LlmCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request as it is kept: one line of requests.jsonl.

    `scheduled_unix_s` is when it should have gone out: its arrival in an open load, the moment its
    client was free in a closed one. `lateness_s` is how much later it went, which is the load
    generator's own fault. `token_s` and `e2e_s` count from when it was sent.
    """

    level: str
    phase: Phase
    item: str
    scheduled_unix_s: float
    lateness_s: float
    e2e_s: float
    session: str | None = None
    turn: int = 0
    shard: int = 0
    token_s: tuple[float, ...] = ()
    status: int | None = None
    failure: Failure | None = None
    error: str = ""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    tokens_from: TokenSource | None = None
    stale_retries: int = 0
    runtime_s: float | None = None
    llm_calls: tuple[LlmCall, ...] = ()

    @property
    def sent_unix_s(self) -> float:
        """When it was handed to the network."""
        return self.scheduled_unix_s + self.lateness_s

    @property
    def ttft_s(self) -> float | None:
        """To the first token that is not empty; None without one."""
        return self.token_s[0] if self.token_s else None

    @property
    def workflow_runtime_s(self) -> float:
        """As the workflow says; as its client saw it, where it says nothing."""
        return self.e2e_s if self.runtime_s is None else self.runtime_s

    @property
    def llm_latencies_s(self) -> list[float]:
        """Of each LLM call that did not fail."""
        return [call.latency_s for call in self.llm_calls if call.failure is None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One load, and for how long.

    Closed: `concurrency` clients, each sends, waits for the whole answer, thinks `think_time_s` and
    sends again. Open: `rate_per_s` requests arrive by `arrivals`, whatever becomes of them, or as
    the conversations of a recording say ("trace"). Exactly one of the two.

    It measures `requests` requests, or those sent within `duration_s`, whichever ends first; one of
    them is stated. Before that come `warmup_requests` requests or `warmup_s` seconds of the same
    load. Clients start, or the rate rises, over `ramp_s`, which is part of the warm-up. With a
    `cooldown` the load goes on, unmeasured, until what is measured has ended, but no longer than
    that was sent for: the last requests would else meet a lighter load than all others.
    """

    name: str
    concurrency: int | None = None
    think_time_s: float = 0.0
    rate_per_s: float | None = None
    arrivals: Literal["constant", "poisson", "gamma", "trace"] = "poisson"
    cv: float = 1.0
    requests: int | None = None
    duration_s: float | None = None
    warmup_requests: int = 0
    warmup_s: float = 0.0
    ramp_s: float = 0.0
    cooldown: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """What to load, as it is told to another process.

    `kind`: "chat" and "completions" are OpenAI-compatible APIs, `address` their base URL; "nat" is
    a server of NeMo Agent Toolkit, "json" any other HTTP workflow, asked with `request_template`
    and read at `answer_path`; "function" is an async Python callable, "nemo" a configuration file
    run in this process, "command" a program started anew for each prompt, which it reads from its
    standard input. Of the other kinds, `command` starts the server that is to be asked. With
    `record_llm`, a proxy in front of that OpenAI-compatible API notes every call that the program
    or server makes. `headers` hold secrets: they are sent and nothing else.
    """

    kind: Literal["chat", "completions", "nat", "json", "function", "nemo", "command"]
    address: str
    command: tuple[str, ...] = ()
    record_llm: str | None = None
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    stream: bool = True
    timeout_s: float = 300.0
    stall_timeout_s: float = 60.0
    body: Mapping[str, Any] = field(default_factory=dict)
    request_template: str | None = None
    answer_path: str | None = None
    tokenizer: str | None = None

    @property
    def public_address(self) -> str:
        """The address as it may be shown: of a URL no user and no query, which may hold a key."""
        if not self.address.startswith(("http://", "https://")):
            return self.address
        url = urlsplit(self.address)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """Where prompts come from, as it is told to another process.

    `kind`: "dataset" and "trace" read `path`; "synthetic" makes texts of `prompt_tokens`. Of each
    prompt the leading `shared_prefix_tokens` are the same for all of a group, of which there are
    `prefix_groups`. A conversation has `turns` prompts.
    """

    kind: Literal["dataset", "trace", "synthetic"]
    path: str | None = None
    id_key: str = "id"
    text_key: str = "question"
    prompt_tokens: int | None = None
    prompt_tokens_cv: float = 0.0
    output_tokens: int | None = None
    output_tokens_cv: float = 0.0
    shared_prefix_tokens: int = 0
    prefix_groups: int = 1
    turns: int = 1
    seed: int = 0


def level_name(kind: Literal["c", "r"], load: float) -> str:
    """The name of a level of so many clients or requests/s: as short as tells it from others."""
    return f"{kind}{load:.15g}"


def attempt_name(level: str, attempt: int) -> str:
    """The name that the records of an attempt at a level bear; the first is 1."""
    return level if attempt == 1 else f"{level} again {attempt - 1}"


class Target(Protocol):
    """Something that answers prompts.

    Used by one event loop; `send` may run many times at once and never raises for what the other
    side did: that is an outcome. Cancelled, it closes its connection and lets the cancellation
    through.
    """

    @property
    def model(self) -> str | None:
        """The model that answers, as far as it is known after `open`."""
        ...

    async def open(self) -> None:
        """Get ready. Raises TonnageError when there is no use in sending anything."""
        ...

    async def send(self, prompt: Prompt) -> Outcome:
        """Send one prompt and wait for the whole answer."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a level stands. `ttft_s` and `e2e_s` are of requests that ended in the last seconds."""

    level: Level
    phase: Phase
    elapsed_s: float
    in_flight: int
    finished: int
    failed: int
    requests_per_s: float
    ttft_s: tuple[float, ...] = ()
    e2e_s: tuple[float, ...] = ()


class Watch(Protocol):
    """Whoever wants to see a measurement while it runs; called a few times a second."""

    def progress(self, progress: Progress) -> None:
        """How the level stands now."""
        ...


class Keeper(Protocol):
    """Where records go: each is safe once `keep` returns."""

    def keep(self, record: Record) -> None:
        """Keep one record."""
        ...

    def keep_lines(self, lines: bytes) -> None:
        """Keep records that another process has already written as lines."""
        ...


class Driver(Protocol):
    """What puts a level on a target: this process, or several that are coordinated."""

    @property
    def model(self) -> str | None:
        """The model that answers, as far as it is known after `open`."""
        ...

    async def open(self) -> None:
        """Get every process ready. Raises TonnageError when the target cannot be loaded."""
        ...

    async def run(self, level: Level, keeper: Keeper, watch: Watch, stop: asyncio.Event) -> None:
        """Hold `level` until it has measured what it should, or `stop` is set.

        Stopped, requests in flight end as "stopped", and are kept like any other.
        """
        ...

    async def close(self) -> None:
        """End every process."""
        ...
