"""Plans built by hand: one of each kind that a report must be able to tell."""

from dataclasses import replace

import pytest

from tonnage.catalog.loader import Catalog
from tonnage.catalog.profiles import calibration, engine
from tonnage.deployment import Deployment
from tonnage.evidence import Evidence, Rationale
from tonnage.fleet import (
    Alert,
    Candidate,
    Capacity,
    CapacityAlternative,
    Change,
    Constraint,
    Infeasible,
    MemoryFigures,
    Plan,
    PoolPlan,
    Question,
    Rejection,
    Scenario,
    ScenarioPolicy,
    Sensitivity,
    Standing,
    StatedInput,
)
from tonnage.queueing import LatencyFigures
from tonnage.workload import (
    DemandStep,
    Lengths,
    LlmCall,
    OpenLoad,
    Promise,
    TokenMix,
    Workload,
)

GIB = 2**30

POLICIES = (
    ScenarioPolicy(name="minimum", headroom_fraction=0.0, spare_units=0, kv_budget_fraction=0.7),
    ScenarioPolicy(
        name="recommended", headroom_fraction=0.2, spare_units=1, kv_budget_fraction=0.7
    ),
    ScenarioPolicy(name="ideal", headroom_fraction=0.3, spare_units=2, kv_budget_fraction=0.65),
)

CATALOG = Catalog.load()
MODEL = replace(CATALOG.model("Llama-3.3-70B-Instruct"), name="Llama-3.3-70B-Instruct")
EMBEDDER = replace(MODEL, name="Qwen3-8B", family="qwen")

GPU = replace(CATALOG.gpu("H200-SXM"), title="H200 SXM")
SERVER = replace(CATALOG.server("DGX-H200"), name="HGX-H200", title="HGX H200")
ENGINE = engine("vLLM")
CALIBRATION = calibration(GPU)
CANDIDATE = Candidate(
    gpu=GPU,
    server=SERVER,
    calibration=CALIBRATION,
    whole_servers=True,
    usd_per_gpu_hour=3.40,
    price_note="stated",
)
DEPLOYMENT = Deployment(
    model=MODEL,
    gpu=GPU,
    engine=ENGINE,
    weight_dtype="fp8",
    kv_dtype="fp8",
    tensor_parallel=2,
    max_batch_size=256,
    max_batched_tokens=8192,
)
MIX = TokenMix(
    prompt=Lengths.constant(2780),
    output=Lengths(kind="lognormal", mean_tokens=350, cv=0.8),
    cached_share=0.11,
)
PROMISES = (
    Promise(metric="ttft", percentile=95, limit_s=1.5),
    Promise(metric="tpot", percentile=95, limit_s=0.05),
)
STEPS = (
    DemandStep(
        name="active users",
        formula="20,000 registered × 10 % active at peak",
        value=2000,
        unit="users",
        evidence=Evidence.ASSUMED,
    ),
    DemandStep(
        name="mean rate",
        formula="2,000 active users × 12 requests/h ÷ 3600 s/h",
        value=6.6667,
        unit="requests/s",
        evidence=Evidence.ASSUMED,
    ),
    DemandStep(
        name="peak rate",
        formula="Poisson p95 of 6.67 per second",
        value=11,
        unit="requests/s",
        evidence=Evidence.ASSUMED,
    ),
)
INPUTS = (
    StatedInput(
        key="workload.users.registered",
        text="20,000",
        evidence=Evidence.DATASHEET,
        value=20000,
    ),
    StatedInput(
        key="workload.users.active_at_peak",
        text="10 %",
        evidence=Evidence.ASSUMED,
        value=0.1,
        unit="fraction",
        note="a common share for internal tools",
    ),
    StatedInput(
        key="workload.answer.mean",
        text="350 tokens",
        evidence=Evidence.ASSUMED,
        value=350,
        unit="tokens",
    ),
    StatedInput(
        key="hardware.kv_dtype",
        text="fp8",
        evidence=Evidence.ASSUMED,
        note="halves the cache; accepted by every engine on Hopper",
    ),
    StatedInput(
        key="promises.network_time", text="0 s", evidence=Evidence.ASSUMED, value=0.0, unit="s"
    ),
)
WORKLOAD = Workload(
    calls=(LlmCall(name="answer", model=MODEL.name, mix=MIX),),
    load=OpenLoad(requests_per_s_mean=6.6667, requests_per_s_peak=11),
    promises=PROMISES,
    steps=STEPS,
)
QUESTION = Question(
    name="Support chatbot, 2027",
    workload=WORKLOAD,
    models={MODEL.name: MODEL},
    candidates=(CANDIDATE,),
    engine=ENGINE,
    policies=POLICIES,
    inputs=INPUTS,
)
MEMORY = MemoryFigures(
    weights_bytes_per_gpu=34.2 * GIB,
    activations_bytes_per_gpu=2.1 * GIB,
    runtime_bytes_per_gpu=2e9,
    kv_pool_bytes_per_gpu=80 * GIB,
    gpu_memory_bytes=141e9,
    kv_bytes_per_session=0.48 * GIB,
    kv_bytes_total=61 * GIB,
    kv_budget_bytes_per_server=448 * GIB,
    sessions_per_server=933,
    session_tokens=3130,
)


def latency(ttft_s=0.9, tpot_s=0.038, *, busy=0.62):
    values = {}
    for metric, p95 in (("ttft", ttft_s), ("tpot", tpot_s), ("e2e", ttft_s + 349 * tpot_s)):
        for percentile, factor in ((50, 0.45), (90, 0.85), (95, 1.0), (99, 1.4)):
            values[f"{metric}_p{percentile}_s"] = p95 * factor
    return LatencyFigures(
        percentiles=values,
        utilisation=busy,
        running=11.4,
        waiting=0.35,
        requests_per_s=0.92,
        kv_fraction=0.31,
        evidence=Evidence.MODELLED,
    )


RATIONALE = (
    Rationale(
        figure="kv_bytes_per_session",
        value=0.48 * GIB,
        unit="bytes",
        formula="layers × 2 × kv_heads × head_dim × bytes × tokens",
        inputs={
            "layers": "80",
            "kv_heads": "8",
            "head_dim": "128",
            "bytes": "1 (fp8)",
            "tokens": "3,130",
        },
        explanation=(
            "What one running request keeps in GPU memory while it is served. Windowed layers stop"
            " growing at their window; the engine rounds up to blocks of 16 tokens."
        ),
        evidence=Evidence.MODELLED,
    ),
    Rationale(
        figure="replicas",
        value=12,
        unit="",
        formula="ceil(load × (1 + headroom) / capacity of a replica) + spare",
        inputs={"load": "11 requests/s", "headroom": "20 %", "capacity": "1.7 requests/s"},
        explanation="Rounded up to whole servers.",
        evidence=Evidence.MODELLED,
    ),
)


def scenario(
    policy, *, servers, latency_now, one_lost, two_lost, survives, timed=True, rationale=RATIONALE
):
    replicas = servers * 4
    pool = PoolPlan(
        model=MODEL.name,
        deployment=DEPLOYMENT,
        replicas_for_load=8,
        replicas=replicas,
        latency=latency_now if timed else None,
        latency_one_lost=one_lost if timed else None,
        latency_two_lost=two_lost if timed else None,
    )
    alerts = (
        (
            Alert(
                id="no_spare",
                severity="warning",
                scenario="minimum",
                cause="No server may fail: the minimum scenario has no spare.",
                impact="Losing one of 2 servers raises TTFT p95 to 4.8 s, above the 1.5 s.",
                action="buy the recommended scenario, or accept degraded answers during repairs.",
            ),
        )
        if policy.name == "minimum"
        else ()
    )
    return Scenario(
        name=policy.name,
        policy=policy,
        pools=(pool,),
        replicas=replicas,
        gpus=servers * 8,
        servers=servers,
        servers_for_load=2,
        servers_with_headroom=2,
        usd_per_hour=servers * 8 * 3.4,
        usd_per_million_output_tokens=6.48 if timed else None,
        power_watts=servers * 10200.0,
        rack_units=servers * 8.0,
        latency=latency_now if timed else None,
        memory=MEMORY,
        survives_replicas=survives * 4,
        survives_servers=survives,
        rationale=rationale,
        alerts=alerts,
    )


SCENARIOS = (
    scenario(
        POLICIES[0],
        servers=2,
        latency_now=latency(1.3, 0.046, busy=0.84),
        one_lost=latency(4.8, 0.081),
        two_lost=None,
        survives=0,
    ),
    scenario(
        POLICIES[1],
        servers=3,
        latency_now=latency(),
        one_lost=latency(1.3, 0.046),
        two_lost=latency(4.8, 0.081),
        survives=1,
    ),
    scenario(
        POLICIES[2],
        servers=5,
        latency_now=latency(0.7, 0.031),
        one_lost=latency(0.8, 0.034),
        two_lost=latency(0.9, 0.038),
        survives=2,
    ),
)
CONSTRAINTS = (
    Constraint(
        name="memory",
        used=355 * GIB,
        available=448 * GIB,
        unit="bytes",
        slack=0.21,
        binding=False,
        explanation="KV cache of the requests running at peak, of what the plan may fill.",
    ),
    Constraint(
        name="throughput",
        used=2.6,
        available=6.1,
        unit="requests/s",
        slack=0.57,
        binding=False,
        explanation="Peak load with headroom against what the replicas can process.",
    ),
    Constraint(
        name="capacity",
        used=94,
        available=3072,
        unit="requests",
        slack=0.97,
        binding=False,
        explanation="Running requests against the engine's batch limit.",
    ),
    Constraint(
        name="wait",
        used=0.046,
        available=0.05,
        unit="s",
        slack=0.08,
        binding=True,
        explanation="TPOT p95 against its promise, with one server lost.",
    ),
)
REJECTIONS = (
    Rejection(
        option="L40S TP4 fp8",
        gpu="L40S",
        tensor_parallel=4,
        deployment=None,
        bottleneck="wait",
        reason="48 GB holds the weights only at TP4 over PCIe; TPOT p95 92 ms > 50 ms.",
        change=Change(
            key="promises.tpot.p95",
            description="would be admitted with TPOT p95 ≥ 95 ms",
            value=0.095,
            verified=True,
        ),
        gpus=40,
        usd_per_hour=40.0,
    ),
    Rejection(
        option="B200 TP1 fp8",
        gpu="B200",
        tensor_parallel=1,
        deployment=None,
        bottleneck="cost",
        reason="keeps every promise with 16 GPUs but costs 96.60 usd/h > 81.60.",
        change=None,
        gpus=16,
        servers=2,
        usd_per_hour=96.6,
    ),
)
UNPRICED = (
    Rejection(
        option="MI355X TP1 fp8",
        gpu="MI355X",
        tensor_parallel=1,
        deployment=None,
        bottleneck="cost",
        reason="keeps every promise with 16 GPUs; no price is known.",
        change=Change(
            key="hardware.prices.MI355X",
            description="state its price, for example --price “MI355X=4 usd/h”",
            value="4 usd/h",
            verified=False,
        ),
        gpus=16,
        servers=2,
        priced=False,
    ),
)
PLAN = Plan(
    question=QUESTION,
    objective="cost",
    objective_reason="every candidate that keeps the promises has a price",
    deployment=DEPLOYMENT,
    scenarios=SCENARIOS,
    constraints=CONSTRAINTS,
    rejections=REJECTIONS,
    unpriced=UNPRICED,
    infeasible=None,
    considered={"feasible": 41, "too slow": 118, "out of memory": 63},
    alerts=(
        Alert(
            id="kv_bf16",
            severity="info",
            scenario="all",
            cause="The KV cache is kept in fp8.",
            impact="In 16 bits it would take twice the memory.",
            action="check answer quality with fp8 before relying on it.",
        ),
    ),
    sensitivities=(
        Sensitivity(
            key="workload.answer.mean",
            text="350 tokens",
            gpus_low=16,
            gpus_base=24,
            gpus_high=32,
            low_text="175 tokens",
            high_text="525 tokens",
        ),
        Sensitivity(
            key="workload.users.active_at_peak",
            text="10 %",
            gpus_low=16,
            gpus_base=24,
            gpus_high=40,
            low_text="5 %",
            high_text="15 %",
        ),
        Sensitivity(
            key="promises.network_time",
            text="0 s",
            gpus_low=24,
            gpus_base=24,
            gpus_high=24,
            low_text="0 s",
            high_text="0 s",
        ),
    ),
    candidate=CANDIDATE,
)


def memory_plan():
    workload = replace(
        WORKLOAD, load=None, promises=(), sessions=1000, context_tokens=131072.0, steps=()
    )
    scenarios = tuple(
        scenario(
            policy,
            servers=servers,
            latency_now=None,
            one_lost=None,
            two_lost=None,
            survives=policy.spare_units,
            timed=False,
        )
        for policy, servers in zip(POLICIES, (2, 3, 5), strict=True)
    )
    return replace(
        PLAN,
        question=replace(QUESTION, workload=workload, name="A thousand sessions"),
        scenarios=scenarios,
        constraints=CONSTRAINTS[:1],
        sensitivities=(),
    )


def infeasible_plan():
    return replace(
        PLAN,
        deployment=None,
        candidate=None,
        scenarios=(),
        constraints=(),
        sensitivities=(),
        infeasible=Infeasible(
            reason="nothing in the catalog keeps TPOT p95 ≤ 5 ms for this model",
            closest="B200 TP8 nvfp4 at 8.1 ms",
            relaxations=(
                Change(
                    key="promises.tpot.p95",
                    description="a slower stream, still 120 tokens/s",
                    value="8.1 ms",
                    verified=True,
                ),
                Change(
                    key="model",
                    description="a model of at most 31 B active parameters",
                    value="≤ 31 B active",
                    verified=True,
                ),
            ),
        ),
    )


def chain_plan():
    calls = (
        LlmCall(name="rewrite", model=EMBEDDER.name, mix=MIX),
        LlmCall(name="answer", model=MODEL.name, mix=MIX),
    )
    question = replace(
        QUESTION,
        workload=replace(WORKLOAD, calls=calls),
        models={EMBEDDER.name: EMBEDDER, MODEL.name: MODEL},
    )
    small = replace(DEPLOYMENT, model=EMBEDDER, tensor_parallel=1)
    scenarios = tuple(
        replace(
            each,
            pools=(
                replace(each.pools[0], model=EMBEDDER.name, deployment=small, replicas=8),
                each.pools[0],
            ),
            replicas=each.replicas + 8,
            gpus=each.gpus + 8,
            servers=each.servers + 1,
        )
        for each in SCENARIOS
    )
    return replace(PLAN, question=question, scenarios=scenarios)


def existing_plan():
    return replace(
        PLAN,
        standing=Standing(
            existing_gpus=16,
            existing_servers=2,
            reaches="minimum",
            sentence="you are here: minimum",
            add_servers=1,
            add_gpus=8,
            latency=latency(1.3, 0.046),
        ),
    )


def carried(**changes):
    told = {
        "name": "Support chatbot, 2027",
        "fleet": "2 x HGX-H200:tp2",
        "deployment": DEPLOYMENT,
        "replicas": 8,
        "gpus": 16,
        "servers": 2,
        "starts": True,
        "reason": "",
        "requests_per_s": 14.2,
        "requests_per_s_mean": 9.1,
        "output_tokens_per_s": 4970.0,
        "sessions": 1866,
        "concurrency": 190,
        "daily_requests": 262080.0,
        "daily_users": 87360.0,
        "requests_per_user_per_day": 3.0,
        "active_s_per_day": 28800.0,
        "largest_context_tokens": 131072,
        "largest_batch": 233,
        "latency": latency(1.4, 0.049),
        "binding": "TPOT p95",
        "memory": MEMORY,
        "promises": PROMISES,
        "rationale": RATIONALE,
        "alternatives": (
            CapacityAlternative(
                deployment=replace(DEPLOYMENT, tensor_parallel=1),
                replicas=16,
                gpus=16,
                starts=False,
                reason="65.9 GiB of weights leave no room for one session",
            ),
            CapacityAlternative(
                deployment=replace(DEPLOYMENT, tensor_parallel=8),
                replicas=2,
                gpus=16,
                starts=True,
                reason="",
                requests_per_s=9.6,
                output_tokens_per_s=3360.0,
                sessions=2100,
                largest_context_tokens=131072,
            ),
        ),
    }
    return Capacity(**{**told, **changes})


CAPACITIES = {
    "carries": carried(),
    "memory": carried(
        requests_per_s=None,
        requests_per_s_mean=None,
        output_tokens_per_s=None,
        concurrency=None,
        daily_requests=None,
        daily_users=None,
        latency=None,
        promises=(),
    ),
    "will not start": carried(
        starts=False, reason="the weights need 2 GPUs", replicas=0, alternatives=()
    ),
}
PLANS = {
    "streaming": PLAN,
    "memory": memory_plan(),
    "infeasible": infeasible_plan(),
    "chain": chain_plan(),
    "existing": existing_plan(),
}


@pytest.fixture(params=list(PLANS))
def plan(request):
    return PLANS[request.param]


@pytest.fixture
def plans():
    return PLANS


@pytest.fixture(params=list(CAPACITIES))
def capacity(request):
    return CAPACITIES[request.param]


@pytest.fixture
def capacities():
    return CAPACITIES
