"""The study document: people's keys, each with its unit and range; unknown keys are errors.

The classes mirror the YAML. A section with a `shorthand` may be written as a bare value:
`ttft: 1.5 s` is `ttft: {p95: 1.5 s}`. Absent is None; defaults are filled in when the question is
built, where each is listed as assumed.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from tonnage.study.quantities import (
    Amount,
    Cached,
    Count,
    Counts,
    Factor,
    Headroom,
    HoursOfDay,
    Length,
    Money,
    OneOrMany,
    Percentile,
    PositiveAmount,
    PositiveCount,
    PositiveLength,
    PositiveTime,
    Quantity,
    Rate,
    Share,
    Size,
    Switch,
    Text,
    Texts,
    Time,
    TokenSpeed,
    Variation,
    WordsPerToken,
)

Key = tuple[str | int, ...]  # a place in the document: ("workload", "calls", 0, "prompt")


class Section(BaseModel):
    """A mapping of the document. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    shorthand: ClassVar[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, value: Any) -> Any:  # noqa: ANN401 — whatever stands in the YAML
        scalar = not isinstance(value, Mapping | list | tuple)
        return {cls.shorthand: value} if scalar and cls.shorthand and value is not None else value


class Users(Section):
    """Registered users, the share active at peak, and what each of those asks per hour."""

    shorthand = "registered"
    registered: PositiveAmount
    active_at_peak: Share | None = None
    requests_per_active_user_per_hour: PositiveAmount | None = None


class TokensPerDay(Section):
    """Tokens of a day by direction, or their sum."""

    shorthand = "total"
    input: PositiveLength | None = None
    output: PositiveLength | None = None
    total: PositiveLength | None = None


class DailyUsers(Section):
    """People of a day and the requests of each."""

    shorthand = "count"
    count: PositiveAmount
    requests_per_user: PositiveAmount | None = None


class Clients(Section):
    """Clients that each send, wait for the whole answer and think."""

    shorthand = "count"
    count: PositiveCount
    think_time: Time | None = None


class BatchWork(Section):
    """Requests to finish within a deadline, or at a promised throughput."""

    requests: PositiveAmount | None = None
    deadline: PositiveTime | None = None


class Peak(Section):
    """How the peak follows from the mean; "none" is a factor of one."""

    poisson_percentile: Percentile | None = None
    factor: Factor | None = None

    @model_validator(mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:  # noqa: ANN401 — whatever stands in the YAML
        return {"factor": 1} if value == "none" else value


class LengthSection(Section):
    """A length: a number, a mean with percentiles, a named distribution, or a text to count."""

    shorthand = "mean"
    mean: Length | None = None
    p50: PositiveLength | None = None
    p90: PositiveLength | None = None
    p95: PositiveLength | None = None
    p99: PositiveLength | None = None
    distribution: Literal["lognormal", "normal", "uniform", "exponential", "constant"] | None = None
    cv: Variation | None = None
    file: Text | None = None


class Images(Section):
    """Pictures in a prompt, by the tokens each becomes."""

    count: Amount
    tokens_each: Length


class PromptSection(LengthSection):
    """A prompt: one length, or the sum of its terms; `cached` of it needs no prefill."""

    system: LengthSection | None = None
    retrieved: LengthSection | None = None
    history: LengthSection | None = None
    question: LengthSection | None = None
    images: Images | None = None
    cached: Cached | None = None


class AnswerSection(LengthSection):
    """An answer: one length, or reasoning plus what is shown; both are generated."""

    reasoning: LengthSection | None = None
    visible: LengthSection | None = None


class Call(Section):
    """One call of a chain; what it leaves out comes from the top of the document."""

    name: Text | None = None
    model: Text | None = None
    prompt: PromptSection | None = None
    answer: AnswerSection | None = None
    repeats: PositiveCount | None = None


class WorkloadSection(Section):
    """Who asks, how often, and how long prompts and answers are."""

    users: Users | None = None
    request_rate: Rate | None = None
    peak_request_rate: Rate | None = None
    tokens_per_day: TokensPerDay | None = None
    requests_per_day: PositiveAmount | None = None
    daily_users: DailyUsers | None = None
    active_hours: HoursOfDay | None = None
    concurrency: PositiveCount | None = None
    clients: Clients | None = None
    batch: BatchWork | None = None
    sessions: PositiveCount | None = None
    context: PositiveLength | None = None
    peak: Peak | None = None
    prompt: PromptSection | None = None
    answer: AnswerSection | None = None
    words_per_token: WordsPerToken | None = None
    tokenizer: Text | None = None
    network: Time | None = None
    calls: Annotated[tuple[Call, ...], OneOrMany] | None = None


class TimePercentiles(Section):
    """Limits on percentiles of a time; a bare time is the 95th."""

    shorthand = "p95"
    p50: PositiveTime | None = None
    p90: PositiveTime | None = None
    p95: PositiveTime | None = None
    p99: PositiveTime | None = None


class SpeedPercentiles(Section):
    """Tokens per second that this share of the requests must reach; a bare number is the 95th."""

    shorthand = "p95"
    p50: TokenSpeed | None = None
    p90: TokenSpeed | None = None
    p95: TokenSpeed | None = None
    p99: TokenSpeed | None = None


class PromisesSection(Section):
    """What is promised to the people who wait."""

    mode: Literal["streaming", "sequential", "offline"] | None = None
    ttft: TimePercentiles | None = None
    wait: TimePercentiles | None = None
    tpot: TimePercentiles | None = None
    tokens_per_second: SpeedPercentiles | None = None
    e2e: TimePercentiles | None = None
    throughput: TokenSpeed | None = None


class HardwareSection(Section):
    """What may be bought, at what price, in which arrangements."""

    gpus: Texts | None = None
    servers: Texts | None = None
    buy: Literal["servers", "gpus"] | None = None
    prices: dict[Text, Money] | None = None
    tensor_parallel: Counts | None = None
    pipeline_parallel: Counts | None = None
    expert_parallel: Counts | None = None
    allow_tp_beyond_domain: Switch | None = None
    catalog: Texts | None = None


class EngineSection(Section):
    """The serving engine and its limits."""

    name: Text | None = None
    weight_dtype: Texts | None = None
    kv_dtype: Texts | None = None
    max_batch_size: Counts | None = None
    max_batched_tokens: PositiveCount | None = None
    step_model: Text | None = None


class MemorySection(Section):
    """How much of the memory the plan may fill, and what it may not."""

    kv_budget_fraction: Share | None = None
    runtime_overhead: Size | None = None


class ScenarioSection(Section):
    """What one scenario holds back."""

    headroom: Headroom | None = None
    spare: Count | None = None
    kv_budget_fraction: Share | None = None


class ScenariosSection(Section):
    """The three scenarios."""

    minimum: ScenarioSection = ScenarioSection()
    recommended: ScenarioSection = ScenarioSection()
    ideal: ScenarioSection = ScenarioSection()


class LimitsSection(Section):
    """Hard limits on the recommended fleet."""

    cost: Money | None = None
    gpus: PositiveCount | None = None


class ExistingSection(Section):
    """What is owned today."""

    server: Text | None = None
    gpu: Text | None = None
    count: PositiveCount


class Document(Section):
    """A whole study."""

    name: Text | None = None
    model: Text | None = None
    workload: WorkloadSection = WorkloadSection()
    promises: PromisesSection = PromisesSection()
    hardware: HardwareSection = HardwareSection()
    engine: EngineSection = EngineSection()
    memory: MemorySection = MemorySection()
    scenarios: ScenariosSection = ScenariosSection()
    objective: Literal["cost", "gpus", "power"] | None = None
    limits: LimitsSection = LimitsSection()
    existing: ExistingSection | None = None


PER_DAY_FORMS = ("tokens_per_day", "requests_per_day", "daily_users")
PEAK_DERIVED_FORMS = ("users", "request_rate", *PER_DAY_FORMS)
LOAD_FORMS = (*PEAK_DERIVED_FORMS, "peak_request_rate", "concurrency", "clients", "batch")
OPTIONAL_SECTIONS = frozenset(
    name
    for name, field in Document.model_fields.items()
    if name not in {"name", "model", "objective"}
)


def annotation_at(key: Key) -> Any:  # noqa: ANN401 — a type, which may be anything
    """The type the document has at `key` (None for no such place), without its `| None`."""
    current: Any = Document
    for part in key:
        current = _bare(current)
        if isinstance(current, type) and issubclass(current, Section):
            field = current.model_fields.get(str(part))
            if field is None:
                return None
            quantity = next((m for m in field.metadata if isinstance(m, Quantity)), None)
            current = Annotated[field.annotation, quantity] if quantity else field.annotation
        elif get_origin(current) is tuple:
            current = get_args(current)[0]
        elif get_origin(current) is dict:
            current = get_args(current)[1]
        else:
            return None
    return _unless_none(current)


def section_at(key: Key) -> type[Section] | None:
    """The section that stands at `key`, None where something else does."""
    found = _bare(annotation_at(key))
    return found if isinstance(found, type) and issubclass(found, Section) else None


def quantity_at(key: Key) -> Quantity | None:
    """The quantity at `key`; for a section, that of its shorthand."""
    section = section_at(key)
    if section is not None:
        return quantity_at((*key, section.shorthand)) if section.shorthand else None
    found = annotation_at(key)
    if get_origin(found) is Annotated:
        return next((part for part in get_args(found)[1:] if isinstance(part, Quantity)), None)
    return None


def parse_key(text: str) -> Key:
    """Dotted text, "workload.calls[0].prompt" or "workload.calls.0.prompt" -> a `Key`.

    Below a mapping whose keys are names (prices), the rest is one name, dots included.
    """
    parts = text.replace("[", ".").replace("]", "").split(".")
    key: Key = ()
    while parts:
        if get_origin(_bare(annotation_at(key))) is dict:
            return (*key, ".".join(parts))
        part = parts.pop(0)
        listed = get_origin(_bare(annotation_at(key))) is tuple
        key = (*key, int(part) if listed and part.isdecimal() else part)
    return key


def format_key(key: Key) -> str:
    """("workload", "calls", 0, "prompt") -> "workload.calls[0].prompt"."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def told_leaves(section: Section, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every value that was stated, with its place; lists and named prices count as one each."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if name not in section.model_fields_set or value is None:
            continue
        if isinstance(value, Section):
            yield from told_leaves(value, (*key, name))
        elif isinstance(value, dict):
            for inner, price in value.items():
                yield (*key, name, inner), price
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            for index, item in enumerate(value):
                yield from told_leaves(item, (*key, name, index))
        else:
            yield (*key, name), value


def _unless_none(annotation: Any) -> Any:  # noqa: ANN401 — a type
    """`X | None` -> X."""
    if get_origin(annotation) in {Union, types.UnionType}:
        return next(arg for arg in get_args(annotation) if arg is not type(None))
    return annotation


def _bare(annotation: Any) -> Any:  # noqa: ANN401 — a type
    """`Annotated[X, ...] | None` -> X."""
    annotation = _unless_none(annotation)
    return (
        _unless_none(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation
    )
