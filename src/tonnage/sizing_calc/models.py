"""What is asked and what is found, under the field names that `nat sizing calc` gave them.

Times are seconds throughout, as in that tool; its zero in a target means "no target". Whatever it
has no field for is in `TonnageFacts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tonnage.errors import UsageError

MOST = 10**12  # of anything counted or timed here; beyond it floats overflow, and nothing is real
MOST_SAMPLES = 10**6  # requests of one level, which are held in memory until it is done

Kind = Literal["line", "usl", "best"]
Count = Annotated[int, Field(ge=0, le=MOST)]
Concurrency = Annotated[int, Field(gt=0, le=MOST)]
Seconds = Annotated[
    float,
    BeforeValidator(lambda value: 0.0 if value is None else value),  # null is their "not measured"
    Field(ge=0, le=MOST, allow_inf_nan=False),
]


class ConfigError(UsageError, ValueError):
    """A setting that cannot be used. `field` names it; the command line says its flag instead."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field = field
        self.reason = reason


# ── what is asked ───────────────────────────────────────────────────────────────────────────────


class FitConfig(BaseModel):
    """When a level is an outlier, and when a fit is too poor to use.

    Of ours: `kind`, what estimates rest on: the line, the Universal Scalability Law, or the better
    of the two at levels that were left out.
    """

    model_config = ConfigDict(extra="forbid")

    remove_outliers: bool = True
    small_concurrency_range_threshold: int = Field(8, ge=0)
    extreme_outlier_threshold: float = Field(2.0, ge=0)
    conservative_outlier_threshold: float = Field(1.5, ge=0)
    min_r_squared: float = Field(0.7, le=1)
    kind: Kind = "line"


class CalcRunnerConfig(BaseModel):
    """One run. Targets also go by the names of the flags: `target_workflow_runtime`.

    Of ours: `plot_data`, whether to draw; `force`, whether to mix what says it was measured on
    different things; `fresh`, whether to leave an unfinished job alone instead of going on with it;
    `min_samples` at each level, where `num_passes` does not say how many; `warm_up`, one request
    for each client before its level is measured; `request_template` or `answer_path` makes
    `endpoint` any server that answers in JSON; `headers` hold secrets, which go to `endpoint` and
    nowhere else. An unknown name is an error, so that a misspelt target is not a target of zero.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)  # it may be a secret

    config_file: Path | None = None
    endpoint: str | None = None
    endpoint_timeout: int = 300
    offline_mode: bool = False
    num_passes: int = 0
    concurrencies: list[int] = [1, 2, 4, 8]
    target_llm_latency_p95: float = Field(
        0.0, validation_alias=AliasChoices("target_llm_latency_p95", "target_llm_latency")
    )
    target_workflow_runtime_p95: float = Field(
        0.0, validation_alias=AliasChoices("target_workflow_runtime_p95", "target_workflow_runtime")
    )
    target_users: int = 0
    test_gpu_count: int = 0
    output_dir: Path | None = None
    append_job: bool = False
    plot_data: bool = True
    fit_config: FitConfig = FitConfig()
    force: bool = False
    fresh: bool = False
    min_samples: int = 20
    warm_up: bool = True
    request_template: str | None = None
    answer_path: str | None = None
    headers: dict[str, str] = Field(default={}, repr=False, exclude=True)


def refuse_unusable(config: CalcRunnerConfig) -> None:
    """Raise ConfigError for the first setting that cannot be used, or that does not fit another."""
    for field, value in (
        ("target_llm_latency_p95", config.target_llm_latency_p95),
        ("target_workflow_runtime_p95", config.target_workflow_runtime_p95),
        ("target_users", config.target_users),
        ("test_gpu_count", config.test_gpu_count),
        ("num_passes", config.num_passes),
        ("min_samples", config.min_samples),
    ):
        if not 0 <= value <= MOST:  # NaN too
            raise ConfigError(field, f"must be a number from 0 up, not {value}.")
    if config.endpoint_timeout <= 0:
        raise ConfigError("endpoint_timeout", f"must be above 0, not {config.endpoint_timeout}.")
    _refuse_concurrencies(config.concurrencies)
    if config.offline_mode:
        _refuse_offline(config)
    else:
        _refuse_online(config)


def _refuse_concurrencies(levels: list[int]) -> None:
    for level in levels:
        if not 0 < level <= MOST:
            raise ConfigError("concurrencies", f"must all be above 0; {level} is not.")
        if levels.count(level) > 1:
            raise ConfigError("concurrencies", f"must differ; {level} is there twice.")
    if len(levels) < 2:  # noqa: PLR2004 — two points make a line
        raise ConfigError(
            "concurrencies", f"must be at least two, for a line; {len(levels)} given."
        )


def _refuse_online(config: CalcRunnerConfig) -> None:
    if config.config_file is None:
        raise ConfigError("config_file", "is required, unless offline_mode is on.")
    if config.endpoint is not None:
        _refuse_endpoint(config.endpoint)
    for field, value in (
        ("request_template", config.request_template),
        ("answer_path", config.answer_path),
        ("headers", config.headers or None),
    ):
        if value is not None and config.endpoint is None:
            raise ConfigError(field, "can only go with a server: name it with endpoint.")
    for level in config.concurrencies:
        samples = max(level * max(1, config.num_passes), config.min_samples)
        if samples > MOST_SAMPLES:
            raise ConfigError(
                "concurrencies",
                f"with num_passes and min_samples means {samples} requests at level {level};"
                f" {MOST_SAMPLES} are the most.",
            )


def _refuse_endpoint(endpoint: str) -> None:
    try:
        url = urlsplit(endpoint)
        usable = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            "endpoint", "must be the URL of a server, for example http://localhost:8000."
        )


def _refuse_offline(config: CalcRunnerConfig) -> None:
    if config.append_job:
        raise ConfigError("append_job", "is for new measurements; offline_mode makes none.")
    if config.output_dir is None:
        raise ConfigError("output_dir", "is required in offline_mode: it holds the measurements.")
    if not (config.target_llm_latency_p95 > 0 or config.target_workflow_runtime_p95 > 0):
        raise ConfigError(
            "target_workflow_runtime_p95",
            "or target_llm_latency_p95 must be above 0 in offline_mode.",
        )
    for field, value in (
        ("target_users", config.target_users),
        ("test_gpu_count", config.test_gpu_count),
    ):
        if value == 0:
            raise ConfigError(field, "must be above 0 in offline_mode.")


# ── what was measured ───────────────────────────────────────────────────────────────────────────


class SizingMetricPerItem(BaseModel):
    """One item of the dataset: p95 over its LLM calls, and its whole runtime."""

    llm_latency: Seconds
    workflow_runtime: Seconds


class SizingMetricsAlerts(BaseModel):
    """What happened while a level was measured."""

    workflow_interrupted: bool = False


class SizingMetricsPerConcurrency(BaseModel):
    """What was measured at one level; a time of 0 was not."""

    alerts: SizingMetricsAlerts = SizingMetricsAlerts()
    llm_latency_p95: Seconds = 0.0
    workflow_runtime_p95: Seconds = 0.0
    total_runtime: Seconds = 0.0
    per_item_metrics: dict[str, SizingMetricPerItem] = {}


# ── what was found ──────────────────────────────────────────────────────────────────────────────


class GPUEstimates(BaseModel):
    """GPUs by each of the two times; null where there is no estimate."""

    gpu_estimate_by_wf_runtime: float | None = None
    gpu_estimate_by_llm_latency: float | None = None


class LinearFitResult(BaseModel):
    """time = intercept + slope × concurrency, in seconds; the concurrencies left out of it."""

    slope: float
    intercept: float
    r_squared: float
    outliers_removed: list[int]


class FitResults(BaseModel):
    """The two lines; null where there is none."""

    llm_latency_fit: LinearFitResult | None = None
    wf_runtime_fit: LinearFitResult | None = None


class CalcAlerts(BaseModel):
    """What the fit and the targets say of one level."""

    outlier_workflow_runtime: bool = False
    outlier_llm_latency: bool = False
    num_items_greater_than_target_latency: int = 0
    num_items_greater_than_target_runtime: int = 0


class CalcData(BaseModel):
    """One level: measured, judged, and its rough estimates."""

    gpu_estimates: GPUEstimates = GPUEstimates()
    alerts: CalcAlerts = CalcAlerts()
    sizing_metrics: SizingMetricsPerConcurrency = SizingMetricsPerConcurrency()


class LawFacts(BaseModel):
    """The Universal Scalability Law through every usable level; `knee` is null where nothing bends.

    Requests/s of one request alone, the share of work done one at a time, the cost of each pair.
    """

    rate_alone_per_s: float
    contention: float
    coherency: float
    knee: float | None


class FitFacts(BaseModel):
    """What stands behind one estimate. Ranges are of 90 %, a null side is open.

    `kind` is what the estimate rests on, `levels` what that was fitted to. `line_error` and
    `law_error` are root mean squares in seconds at levels that were left out; null with too few
    levels to leave one out.

    `no_fit` and `not_reachable` say why there is no estimate. `extrapolated_beyond` is the largest
    level of the fit, where the estimate rests on a higher one.
    """

    levels: list[int] = []
    slope_range: tuple[float | None, float | None] | None = None
    intercept_range: tuple[float | None, float | None] | None = None
    concurrency_at_target: float | None = None
    concurrency_range: tuple[float | None, float | None] | None = None
    gpu_range: tuple[float | None, float | None] | None = None
    extrapolated_beyond: int | None = None
    no_fit: str | None = None
    not_reachable: str | None = None
    kind: Literal["line", "usl"] = "line"
    law: LawFacts | None = None
    line_error: float | None = None
    law_error: float | None = None


class LevelFacts(BaseModel):
    """How one level was measured: items answered and failed, by kind; what its clients saw."""

    samples: int = 0
    failures: dict[str, int] = {}
    first_error: str = ""
    llm_calls: int = 0
    workflow_timed: bool = False  # the runtimes are the workflow's own, not its clients'
    client_e2e_p95: float = 0.0
    started: str | None = None
    ended: str | None = None

    @property
    def failed(self) -> int:
        """Items without an answer."""
        return sum(self.failures.values())


class Subject(BaseModel):
    """What was measured: measurements of two of them are not points of one line.

    `config` and `dataset` are hashes. None, and no GPUs, is not known.
    """

    config: str | None = None
    dataset: str | None = None
    model: str | None = None
    target: str | None = None
    nat_version: str | None = None
    test_gpu_count: int = 0


class Plan(BaseModel):
    """What an online job measures, in this order; kept with it until it is done."""

    subject: Subject
    concurrencies: list[int]
    samples: dict[int, int]  # concurrency -> items
    warm_up: bool
    timeout_s: float
    append: bool


class TonnageFacts(Subject):
    """What `nat sizing calc` does not keep: the question, the sources, how sure the answer is."""

    target_llm_latency_p95: float = 0.0
    target_workflow_runtime_p95: float = 0.0
    target_users: int = 0
    created: str | None = None
    versions: dict[str, str] = {}
    jobs: dict[str, list[int]] = {}  # folder -> the levels taken from it
    planned_levels: list[int] = []  # by an online job, whether or not it came so far
    levels: dict[int, LevelFacts] = {}
    unusable_levels: dict[int, str] = {}
    llm_latency: FitFacts = FitFacts()
    wf_runtime: FitFacts = FitFacts()
    gpu_estimate: float | None = None  # the larger one, when every target has one
    warnings: list[str] = []


class CalcRunnerOutput(BaseModel):
    """The whole answer, as calc_runner_output.json holds it. Reads the older schema too.

    That one called the levels `per_concurrency_data`, and kept `out_of_range_runs` in each, with
    the mark of an interrupted workflow.
    """

    gpu_estimates: GPUEstimates = GPUEstimates()
    fit_results: FitResults = FitResults()
    calc_data: dict[Concurrency, CalcData] = {}
    tonnage: TonnageFacts = TonnageFacts()

    @property
    def per_concurrency_data(self) -> dict[int, CalcData]:
        """The older name of `calc_data`."""
        return self.calc_data

    @model_validator(mode="before")
    @classmethod
    def _from_older_schema(cls, body: Any) -> Any:  # noqa: ANN401 — whatever a file holds
        if not isinstance(body, Mapping) or "per_concurrency_data" not in body:
            return body
        older = body["per_concurrency_data"]
        if body.get("calc_data") or not isinstance(older, Mapping):
            return body
        return {**body, "calc_data": {key: _renamed(level) for key, level in older.items()}}


def _renamed(level: Any) -> Any:  # noqa: ANN401 — as above
    """One level of the older schema -> the same in today's."""
    if not isinstance(level, Mapping) or not isinstance(level.get("out_of_range_runs"), Mapping):
        return level
    counts = dict(level["out_of_range_runs"])
    interrupted = counts.pop("workflow_interrupted", False)
    metrics = level.get("sizing_metrics", {})
    if isinstance(metrics, Mapping):
        metrics = {"alerts": {"workflow_interrupted": interrupted}, **metrics}
    return {**level, "alerts": counts, "sizing_metrics": metrics}
