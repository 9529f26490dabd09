"""Load, promises and candidate hardware -> a Plan: what to buy, and why not the others.

The vocabulary of the search. `Question` is all that is asked, `Plan` all that is answered; both
are pure values. A candidate that was turned down is a `Rejection` with its bottleneck and the
nearest change that would have admitted it; no candidate at all is an `Infeasible`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tonnage.deployment import Deployment
from tonnage.engine import Calibration, EngineProfile, StepModel
from tonnage.evidence import Evidence, Rationale
from tonnage.hardware import GpuSpec, ServerSpec
from tonnage.model import ModelSpec
from tonnage.queueing import LatencyFigures
from tonnage.queueing.simulation import (
    Autoscaler,
    Clients,
    Estimate,
    Outage,
    Policy,
    Router,
    Simulated,
    SimulatedFleet,
    Summary,
    Verdict,
)
from tonnage.traffic import Requests
from tonnage.workload import Batch, Load, Promise, Workload

Objective = Literal["cost", "gpus", "power"]
Severity = Literal["info", "warning", "critical"]
ScenarioName = Literal["minimum", "recommended", "ideal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One kind of GPU that may be bought, in which server and at what price.

    `whole_servers`: GPUs come only as full `server`s (parts on a baseboard, or because the user
    named a server); otherwise they are rented one by one and the spare unit is a replica.
    """

    gpu: GpuSpec
    server: ServerSpec | None
    calibration: Calibration
    whole_servers: bool
    usd_per_gpu_hour: float | None = None
    price_note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioPolicy:
    """How much a scenario holds back. `spare_units` are servers bought whole, else replicas.

    Headroom multiplies the load by `1 + headroom_fraction` before anything is rounded;
    `kv_budget_fraction` is the share of the memory left by weights, activations and runtime that
    the plan may fill with KV cache.
    """

    name: ScenarioName
    headroom_fraction: float
    spare_units: int
    kv_budget_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Hard limits on the recommended fleet; None is no limit."""

    max_usd_per_hour: float | None = None
    max_gpus: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingFleet:
    """What is owned today: `units` servers, or GPUs when `server` is None."""

    gpu: str
    server: str | None
    units: int
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedInput:
    """One input, with how it is known. `key` is its place in the study document.

    `value` is the number in `unit` when there is one, for the ±50 % check of assumed inputs;
    `text` is how people read it.
    """

    key: str
    text: str
    evidence: Evidence
    value: float | None = None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Everything the search needs; built from a study, a set of flags, or by hand.

    Empty choices (`tensor_parallel`, `weight_dtypes`, …) mean "all that make sense".
    `runtime_overhead_bytes` (per server) replaces the computed weights + activations + runtime.
    `models` maps each call's model name to its spec.
    """

    name: str
    workload: Workload
    models: Mapping[str, ModelSpec]
    candidates: tuple[Candidate, ...]
    engine: EngineProfile
    policies: tuple[ScenarioPolicy, ...]
    objective: Objective | None = None
    tensor_parallel: tuple[int, ...] = ()
    pipeline_parallel: tuple[int, ...] = ()
    expert_parallel: tuple[int, ...] = ()
    weight_dtypes: tuple[str, ...] = ()
    kv_dtypes: tuple[str, ...] = ()
    max_batch_sizes: tuple[int, ...] = ()
    max_batched_tokens: int | None = None
    runtime_overhead_bytes: float | None = None
    allow_tp_beyond_domain: bool = False
    step_model: StepModel | None = None
    limits: Limits = field(default_factory=Limits)
    existing: ExistingFleet | None = None
    inputs: tuple[StatedInput, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One of the four constraints at the design point: `used` of `available`, in `unit`.

    `slack` is 1 - used/available; negative when broken. The binding one has the least slack.
    `available` and `slack` are None when nothing is promised that the constraint could break.
    """

    name: Literal["memory", "throughput", "capacity", "wait"]
    used: float | None
    available: float | None
    unit: str
    slack: float | None
    binding: bool
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something a reader must know before buying."""

    id: str
    severity: Severity
    scenario: str
    cause: str
    impact: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """Bytes on one replica and one server; see the rationale for each formula."""

    weights_bytes_per_gpu: float
    activations_bytes_per_gpu: float
    runtime_bytes_per_gpu: float
    kv_pool_bytes_per_gpu: float
    gpu_memory_bytes: float
    kv_bytes_per_session: float
    kv_bytes_total: float
    kv_budget_bytes_per_server: float
    sessions_per_server: int | None
    session_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """The replicas of one model within a scenario."""

    model: str
    deployment: Deployment
    replicas_for_load: int
    replicas: int
    latency: LatencyFigures | None
    latency_one_lost: LatencyFigures | None
    latency_two_lost: LatencyFigures | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One level of resilience. Servers are None when the GPUs are not bought in servers.

    `survives` names how many replicas and servers may be lost with every promise still kept.
    `requests_per_s_per_server` and `requests_per_s_per_gpu` are the highest peak rate that one
    server (8 GPUs where none is known) and one GPU carry with every promise kept; None when the
    load is not a rate.
    """

    name: ScenarioName
    policy: ScenarioPolicy
    pools: tuple[PoolPlan, ...]
    replicas: int
    gpus: int
    servers: int | None
    servers_for_load: int | None
    servers_with_headroom: int | None
    usd_per_hour: float | None
    usd_per_million_output_tokens: float | None
    power_watts: float | None
    rack_units: float | None
    latency: LatencyFigures | None
    memory: MemoryFigures
    survives_replicas: int
    survives_servers: int | None
    requests_per_s_per_server: float | None = None
    requests_per_s_per_gpu: float | None = None
    rationale: tuple[Rationale, ...] = ()
    alerts: tuple[Alert, ...] = ()
    proof: ScenarioProof | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change to the question that was tried and admits an option: `key` to `value`.

    `verified` by a search in closed form, and `simulated`: by a simulation too.
    """

    key: str
    description: str
    value: float | str
    verified: bool
    simulated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """An option that was not chosen: the best of its GPU kind × TP.

    `bottleneck` is "memory", "throughput", "wait", "capacity", "arrangement", "cost", "gpus",
    "power" or "limits"; `change` is the nearest change that would admit it, None when it keeps
    every promise and is merely beaten.
    """

    option: str
    gpu: str
    tensor_parallel: int
    deployment: Deployment | None
    bottleneck: str
    reason: str
    change: Change | None
    gpus: int | None = None
    servers: int | None = None
    usd_per_hour: float | None = None
    priced: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Infeasible:
    """No candidate keeps the promises. `closest` is the one that misses by least."""

    reason: str
    closest: str
    relaxations: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What an assumed input does to the answer: recommended GPUs at half and one and a half."""

    key: str
    text: str
    gpus_low: int | None
    gpus_base: int | None
    gpus_high: int | None
    low_text: str
    high_text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where today's fleet stands among the scenarios, in one sentence, and what to add."""

    existing_gpus: int
    existing_servers: int | None
    reaches: ScenarioName | None
    sentence: str
    add_servers: int | None
    add_gpus: int
    latency: LatencyFigures | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer. `scenarios` is empty and `infeasible` set when nothing keeps the promises.

    `considered` counts every node of the search by what became of it; `candidate` is what
    `deployment` is bought as.
    """

    question: Question
    objective: Objective
    objective_reason: str
    deployment: Deployment | None
    scenarios: tuple[Scenario, ...]
    constraints: tuple[Constraint, ...]
    rejections: tuple[Rejection, ...]
    unpriced: tuple[Rejection, ...]
    infeasible: Infeasible | None
    considered: Mapping[str, int]
    alerts: tuple[Alert, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()
    standing: Standing | None = None
    candidate: Candidate | None = None
    proof: Proof | None = None

    def scenario(self, name: ScenarioName) -> Scenario:
        """The scenario of this name; KeyError when the plan is infeasible."""
        for scenario in self.scenarios:
            if scenario.name == name:
                return scenario
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedFleet:
    """A fleet as its owner wrote it: "2 x DGX-H100:tp4".

    `name` is a server or a GPU of the catalog; `units` counts it. A parallelism that is None was
    not stated.
    """

    text: str
    units: int
    name: str
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    expert_parallel: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityAlternative:
    """What the same GPUs would carry in another arrangement."""

    deployment: Deployment
    replicas: int
    gpus: int
    starts: bool
    reason: str
    requests_per_s: float | None = None
    output_tokens_per_s: float | None = None
    sessions: int | None = None
    largest_context_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a given fleet carries with every promise kept; the question turned round.

    `starts` is false when the engine would not come up; `reason` then says why, else what stopped
    the search. `requests_per_s` is the peak rate, `requests_per_s_mean` the mean whose peak it is.
    `daily_requests` and `daily_users` need `active_s_per_day`, `daily_users` also
    `requests_per_user_per_day`. `largest_batch` is per replica. None is "not known".
    """

    name: str
    fleet: str
    deployment: Deployment | None
    replicas: int
    gpus: int
    servers: int | None
    starts: bool
    reason: str
    requests_per_s: float | None = None
    requests_per_s_mean: float | None = None
    output_tokens_per_s: float | None = None
    sessions: int | None = None
    concurrency: int | None = None
    daily_requests: float | None = None
    daily_users: float | None = None
    requests_per_user_per_day: float | None = None
    active_s_per_day: float | None = None
    largest_context_tokens: int | None = None
    largest_batch: int | None = None
    latency: LatencyFigures | None = None
    binding: str = ""
    memory: MemoryFigures | None = None
    promises: tuple[Promise, ...] = ()
    inputs: tuple[StatedInput, ...] = ()
    rationale: tuple[Rationale, ...] = ()
    alternatives: tuple[CapacityAlternative, ...] = ()
    alerts: tuple[Alert, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOptions:
    """How a study's load is put on a fleet, and what replaces the modelled engine.

    The load is the study's (its peak, as `arrivals` with this `cv`), unless a `trace` file replaces
    it; `rate_factor` scales either; `profile` is a file of a day's course. Under a closed load
    `together` lets all clients send at once; `benchmark` is the protocol of public benchmarks: all
    clients at once, ten requests each, lengths uniform in 0.8 to 1.0 of the study's means.
    `requests` are counted, more are simulated before and after them; in each of `seeds` runs, whose
    seeds follow from `seed`. None leaves a setting to the engine's profile or the model.
    `decode_replicas` set prompts and answers apart; `kv_link_bytes_per_s` carries the cache between
    them (None: the GPU's network). `compiled` None compiles when numba is there and it pays.
    """

    fleet: StatedFleet | None = None
    trace: Path | None = None
    arrivals: Literal["poisson", "gamma", "constant"] = "poisson"
    cv: float = 1.0
    rate_factor: float = 1.0
    profile: Path | None = None
    together: bool = False
    benchmark: bool = False
    requests: int | None = None
    seed: int = 0
    seeds: int = 1
    step_model: StepModel | None = None
    kv_blocks: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    policy: Policy | None = None
    prefix_cache: bool | None = None
    router: Router = "round-robin"
    router_lag_s: float = 0.0
    outages: tuple[Outage, ...] = ()
    retry: bool = True
    autoscaler: Autoscaler | None = None
    decode_replicas: int = 0
    kv_link_bytes_per_s: float | None = None
    compiled: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A load on a fleet, ready to run: what `simulate` is given, and what it was made from.

    `counted` is the range of request numbers that the steady window holds; those before warm the
    fleet up, those after keep it loaded until the last counted one is done. `recorded` requests
    stand for themselves, drawn ones for others like them. When `cyclic` those that count are of
    whole periods of the load.
    """

    name: str
    load: str
    candidate: Candidate
    deployment: Deployment
    fleet: SimulatedFleet
    requests: Requests
    clients: Clients | None
    counted: tuple[int, int]
    promises: tuple[Promise, ...]
    seed: int
    inputs: tuple[StatedInput, ...]
    notes: tuple[str, ...] = ()
    recorded: bool = False
    cyclic: bool = False

    @property
    def gpus(self) -> int:
        """GPUs of all replicas."""
        split = self.fleet.disaggregation
        return self.deployment.gpus * (self.fleet.replicas + (split.replicas if split else 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDone:
    """When all of a batch is answered (`finish`, from its start), and if that is in time.

    `finish` is infinite when nothing was answered. When `steady`, all is simulated, or enough for
    the rest to go on like it; else the verdict is open.
    """

    batch: Batch
    finish: Estimate
    steady: bool
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication:
    """One of several runs of a scene, with requests of its own, and what is told of it alone."""

    seed: int
    simulated: Simulated
    summary: Summary
    done: BatchDone | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationAnswer:
    """What became of a scene.

    With several seeds there are `replications`, and `summary` is of all of them; scene and
    `simulated` are of the first, whose course stands for theirs. `done` is of a batch only.
    """

    scene: Scene
    simulated: Simulated
    summary: Summary
    done: BatchDone | None = None
    replications: tuple[Replication, ...] = ()

    @property
    def runs(self) -> tuple[Simulated, ...]:
        """Every run of it."""
        return tuple(each.simulated for each in self.replications) or (self.simulated,)


# ── a plan that is proven ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """So many replicas of one arrangement under one load, simulated.

    `load` is what all `replicas` carry; of a large fleet `simulated_replicas` are simulated with
    their share of it. `verdict` is the worst of all promises: "missed" when the fleet does not keep
    up, or when a batch is not done in time (`finish_s`, of a batch only).
    """

    replicas: int
    simulated_replicas: int
    load: Load
    verdict: Verdict
    summary: Summary
    latency: LatencyFigures
    finish_s: Estimate | None = None

    @property
    def growth_requests_per_s(self) -> float:
        """By how much more arrives at all replicas than they answer; 0 when stable."""
        part = self.simulated_replicas / self.replicas
        return self.summary.stability.growth_requests_per_s / part


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionProof:
    """What a simulation made of an option of the shortlist, under the policy of the search.

    `closed_form_replicas` are what the closed form asks for, spares aside, `closed_form_gpus` what
    it buys; `replicas` and `gpus` are what the simulation does, None when no number that it tried
    would do. `tried` are its runs, by replicas. `outcome` says in words what became of it.
    """

    option: str
    gpu: str
    tensor_parallel: int
    closed_form_replicas: int
    closed_form_gpus: int
    replicas: int | None
    gpus: int | None
    verdict: Verdict | None
    tried: tuple[Trial, ...]
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioProof:
    """A scenario as simulated.

    `design` is the load with headroom on the replicas bought less the spares, with the share of the
    memory that the scenario may fill; `stated` the load without headroom on all replicas, with all
    memory; `lost` the same with one and with two `unit`s lost, None where none is left. The counts
    in closed form are those of this scenario without a proof, None when it has none.
    """

    design: Trial
    stated: Trial
    lost: tuple[Trial | None, Trial | None]
    unit: Literal["server", "replica"]
    closed_form_replicas: int | None
    closed_form_gpus: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How a plan was proven: by `simulations`, each of `requests` that count, from one `seed`.

    `verdict` is that of the recommended scenario, with headroom and without; None when nothing was
    proven, and `unproven` says why. `advice` says what to do about a verdict other than "kept".
    """

    verdict: Verdict | None
    unproven: str = ""
    advice: str = ""
    requests: int = 0
    seed: int = 0
    simulations: int = 0
    options: tuple[OptionProof, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofProgress:
    """How far a proof is: `simulations` are done, and what the next one is of."""

    simulations: int
    now: str
