"""Small models, GPUs and questions to ask on: every figure round, nothing read from a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from hypothesis import settings
from hypothesis import strategies as st

from tonnage.deployment import Deployment
from tonnage.engine import Calibration, EngineProfile
from tonnage.fleet import Candidate, Question, ScenarioPolicy
from tonnage.hardware import GpuSpec, Interconnect, ServerSpec
from tonnage.model import Experts, LayerGroup, Linear, ModelSpec, SoftmaxAttention
from tonnage.workload import (
    ClosedLoad,
    Lengths,
    LlmCall,
    Load,
    OpenLoad,
    Promise,
    TokenMix,
    Workload,
)

# The same examples every time, however slow the machine: a law that fails, fails for everyone.
settings.register_profile("laws", derandomize=True, deadline=None)
settings.load_profile("laws")

GIB = 2**30
Metric = Literal["ttft", "tpot", "e2e"]

ENGINE = EngineProfile(
    name="engine",
    versions="any",
    memory_fraction=0.9,
    runtime_bytes=1.5 * GIB,
    block_tokens=16,
    max_num_seqs=256,
    max_num_batched_tokens=2048,
    large_gpu_bytes=70 * GIB,
    large_max_num_seqs=1024,
    large_max_num_batched_tokens=8192,
    step_overhead_s=1e-3,
    sequence_overhead_s=8e-6,
    request_overhead_s=10e-3,
    bubble_fraction=0.1,
    kv_rule="window",
    source="made up",
    date="2027-01-01",
)
IDLE_HOST = replace(
    ENGINE, step_overhead_s=0.0, sequence_overhead_s=0.0, request_overhead_s=0.0, bubble_fraction=0
)
CALIBRATION = Calibration(
    name="typical",
    compute_fraction={"bf16": 0.7, "fp8": 0.6},
    half_speed_rows=64,
    hbm_fraction=0.8,
    attention_compute_fraction=0.5,
    attention_hbm_fraction=0.7,
    expert_compute_fraction=0.5,
    expert_hbm_fraction=0.7,
    link_fraction=0.7,
    link_latency_s=8e-6,
    kernel_floor_s=2e-6,
    layer_overhead_s=8e-6,
)
# Silicon that reaches every peak of its datasheet and spends nothing between kernels.
PERFECT = Calibration(
    name="perfect",
    compute_fraction={"bf16": 1.0, "fp8": 1.0},
    half_speed_rows=0.0,
    hbm_fraction=1.0,
    attention_compute_fraction=1.0,
    attention_hbm_fraction=1.0,
    expert_compute_fraction=1.0,
    expert_hbm_fraction=1.0,
    link_fraction=1.0,
    link_latency_s=0.0,
    kernel_floor_s=0.0,
    layer_overhead_s=0.0,
)


def gpu(name: str = "big", **changes: Any) -> GpuSpec:
    """80 GB, 3 TB/s, 1,000 TFLOP/s and 450 GB/s links, unless changed."""
    told: dict[str, Any] = {
        "name": name,
        "title": name,
        "vendor": "anyone",
        "architecture": "any",
        "memory_bytes": 80e9,
        "hbm_bytes_per_s": 3e12,
        "dense_flop_per_s": {"bf16": 1e15, "fp8": 2e15},
        "interconnect": Interconnect(kind="link", bytes_per_s=450e9, switched=True),
        "board": False,
        "power_watts": 700.0,
    }
    return GpuSpec(**{**told, **changes})


def server(name: str = "box", *, of: str = "big", gpus: int = 8, **changes: Any) -> ServerSpec:
    """A server of `gpus` GPUs in one fast-link domain."""
    told: dict[str, Any] = {
        "name": name,
        "title": name,
        "vendor": "anyone",
        "gpu": of,
        "gpus": gpus,
        "nvlink_domain_gpus": gpus,
        "rack_units": 8.0,
        "power_watts": 10_000.0,
    }
    return ServerSpec(**{**told, **changes})


def dense(
    *,
    layers: int = 16,
    hidden: int = 2048,
    heads: int = 16,
    kv_heads: int = 8,
    head_dim: int = 128,
    intermediate: int = 8192,
    vocab: int = 32_000,
    experts: Experts | None = None,
    **changes: Any,
) -> ModelSpec:
    """A decoder of the usual seven matrices a layer, or with `experts` in place of its MLP."""

    def linear(name: str, rows: int, columns: int, split: Any) -> Linear:
        return Linear(name=name, in_features=rows, out_features=columns, split=split)

    attention = (
        linear("q", hidden, heads * head_dim, "column"),
        linear("k", hidden, kv_heads * head_dim, "kv"),
        linear("v", hidden, kv_heads * head_dim, "kv"),
        linear("o", heads * head_dim, hidden, "row"),
    )
    mlp = (
        linear("gate", hidden, intermediate, "column"),
        linear("up", hidden, intermediate, "column"),
        linear("down", intermediate, hidden, "row"),
    )
    router = (linear("router", hidden, experts.count, "replicated"),) if experts else ()
    group = LayerGroup(
        count=layers,
        mixer=SoftmaxAttention(
            heads=heads, kv_heads=kv_heads, qk_head_dim=head_dim, v_head_dim=head_dim
        ),
        linears=(*attention, *(router if experts else mlp)),
        experts=experts,
        other_parameters=2 * hidden,
    )
    told: dict[str, Any] = {
        "name": "small",
        "family": "any",
        "hidden_size": hidden,
        "vocab_size": vocab,
        "max_context_tokens": 131_072,
        "layer_groups": (group,),
        "tied_embeddings": False,
    }
    return ModelSpec(**{**told, **changes})


def expert_bank(*, count: int, per_token: int, hidden: int, intermediate: int) -> Experts:
    """`count` experts of three matrices each."""
    shapes = (("gate", hidden, intermediate, "column"), ("up", hidden, intermediate, "column"))
    linears = tuple(
        Linear(name=name, in_features=rows, out_features=columns, split=split)  # type: ignore[arg-type]
        for name, rows, columns, split in (*shapes, ("down", intermediate, hidden, "row"))
    )
    return Experts(count=count, per_token=per_token, linears=linears)


def deployment(
    model: ModelSpec | None = None, on: GpuSpec | None = None, **changes: Any
) -> Deployment:
    """One replica in 16 bits on one GPU, unless changed."""
    told: dict[str, Any] = {
        "model": model or dense(),
        "gpu": on or gpu(),
        "engine": ENGINE,
        "weight_dtype": "bf16",
        "kv_dtype": "bf16",
        "max_batch_size": 256,
        "max_batched_tokens": 8192,
    }
    return Deployment(**{**told, **changes})


# ── questions ───────────────────────────────────────────────────────────────────────────────────

MINIMUM = ScenarioPolicy(
    name="minimum", headroom_fraction=0.0, spare_units=0, kv_budget_fraction=0.7
)
RECOMMENDED = ScenarioPolicy(
    name="recommended", headroom_fraction=0.2, spare_units=1, kv_budget_fraction=0.7
)
IDEAL = ScenarioPolicy(name="ideal", headroom_fraction=0.3, spare_units=2, kv_budget_fraction=0.65)
POLICIES = (MINIMUM, RECOMMENDED, IDEAL)
# What is asked and nothing held back: the recommended scenario of the laws about counts.
BARE = replace(MINIMUM, name="recommended")


def candidate(
    kind: GpuSpec | None = None, *, usd_per_gpu_hour: float | None = 2.0, **changes: Any
) -> Candidate:
    """A GPU rented one by one, in servers of eight; `whole_servers=True` buys the servers."""
    kind = kind or gpu()
    told: dict[str, Any] = {
        "gpu": kind,
        "server": server(of=kind.name),
        "calibration": CALIBRATION,
        "whole_servers": False,
        "usd_per_gpu_hour": usd_per_gpu_hour,
        "price_note": "made up",
    }
    return Candidate(**{**told, **changes})


def rate(requests_per_s: float) -> OpenLoad:
    """An open load whose peak is its mean."""
    return OpenLoad(requests_per_s_mean=requests_per_s, requests_per_s_peak=requests_per_s)


def lengths(mean_tokens: float, cv: float = 0.0) -> Lengths:
    """Constant, or lognormal with this coefficient of variation."""
    return Lengths(kind="lognormal" if cv else "constant", mean_tokens=mean_tokens, cv=cv)


def mix(
    prompt: Lengths | float = 1000, output: Lengths | float = 200, cached: float = 0.0
) -> TokenMix:
    """Lengths of one call; a bare number is constant."""
    return TokenMix(
        prompt=prompt if isinstance(prompt, Lengths) else Lengths.constant(prompt),
        output=output if isinstance(output, Lengths) else Lengths.constant(output),
        cached_share=cached,
    )


def p95(**limits: float) -> tuple[Promise, ...]:
    """Promises on the 95th percentile: `p95(ttft=1.0, tpot=0.05)`."""
    return tuple(
        Promise(metric=metric, percentile=95, limit_s=limit)  # type: ignore[arg-type]
        for metric, limit in limits.items()
    )


def question(
    load: Load | None,
    promises: tuple[Promise, ...] = (),
    *,
    model: ModelSpec | None = None,
    candidates: tuple[Candidate, ...] | None = None,
    lengths: TokenMix | None = None,
    sessions: int | None = None,
    context_tokens: float | None = None,
    network_s: float = 0.0,
    **changes: Any,
) -> Question:
    """One call of one model; the recommended policy holds nothing back unless changed."""
    model = model or dense()
    workload = Workload(
        calls=(LlmCall(name="answer", model=model.name, mix=lengths or mix()),),
        load=load,
        promises=promises,
        sessions=sessions,
        context_tokens=context_tokens,
        network_s=network_s,
    )
    told: dict[str, Any] = {
        "name": "asked",
        "workload": workload,
        "models": {model.name: model},
        "candidates": candidates or (candidate(),),
        "engine": ENGINE,
        "policies": (BARE,),
    }
    return Question(**{**told, **changes})


# ── inputs at random ────────────────────────────────────────────────────────────────────────────


@st.composite
def models(draw: st.DrawFn, *, with_experts: bool | None = None) -> ModelSpec:
    """A model of 0.1 to some 30 billion parameters, heads a power of two."""
    head_dim = draw(st.sampled_from([64, 128]))
    heads = draw(st.sampled_from([8, 16, 32, 64]))
    hidden = draw(st.sampled_from([1024, 2048, 4096]))
    intermediate = draw(st.sampled_from([512, 1024, 4096, 14_336]))
    bank = None
    if draw(st.booleans()) if with_experts is None else with_experts:
        count = draw(st.sampled_from([8, 32]))
        bank = expert_bank(
            count=count,
            per_token=draw(st.sampled_from([1, 2, 4])),
            hidden=hidden,
            intermediate=min(intermediate, 1024),
        )
    return dense(
        layers=draw(st.integers(1, 40)),
        hidden=hidden,
        heads=heads,
        kv_heads=draw(st.sampled_from([n for n in (1, 2, 4, 8) if n <= heads])),
        head_dim=head_dim,
        intermediate=intermediate,
        vocab=draw(st.sampled_from([8_000, 32_000, 128_256])),
        experts=bank,
        tied_embeddings=draw(st.booleans()),
    )


@st.composite
def gpus(draw: st.DrawFn) -> GpuSpec:
    """Anything from a small card to tomorrow's largest."""
    bf16 = draw(st.floats(5e13, 3e15))
    return gpu(
        memory_bytes=draw(st.floats(16e9, 300e9)),
        hbm_bytes_per_s=draw(st.floats(2e11, 8e12)),
        dense_flop_per_s={"bf16": bf16, "fp8": 2 * bf16},
        interconnect=Interconnect(
            kind="link", bytes_per_s=draw(st.floats(2e10, 9e11)), switched=True
        ),
    )


@st.composite
def deployments(draw: st.DrawFn, *, with_experts: bool | None = None) -> Deployment:
    """A replica of any shape the engine accepts."""
    model = draw(models(with_experts=with_experts))
    tensor_parallel = draw(st.sampled_from([1, 2, 4, 8]))
    return deployment(
        model,
        draw(gpus()),
        tensor_parallel=tensor_parallel,
        pipeline_parallel=draw(st.sampled_from([n for n in (1, 2, 4) if n <= model.layers])),
        weight_dtype=draw(st.sampled_from(["bf16", "fp8", "int4"])),
        kv_dtype=draw(st.sampled_from(["bf16", "fp8"])),
        max_batch_size=draw(st.sampled_from([1, 8, 64, 256])),
        max_batched_tokens=draw(st.sampled_from([512, 2048, 8192])),
    )


mixes = st.builds(
    lambda prompt, output, cv, cached: mix(lengths(prompt, cv), lengths(output, cv), cached),
    prompt=st.integers(20, 6000),
    output=st.integers(20, 800),
    cv=st.sampled_from([0.0, 0.4, 1.0]),
    cached=st.sampled_from([0.0, 0.5]),
)
open_loads = st.floats(0.01, 300).map(rate)
closed_loads = st.builds(
    ClosedLoad, clients=st.integers(1, 2000), think_time_s=st.sampled_from([0.0, 2.0, 30.0])
)
