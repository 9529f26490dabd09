"""Question + options -> a Scene: which replicas, which requests, and what was taken for granted.

The stage between a study and the simulator. The fleet is the one that is named, or the one that is
recommended; the load is the study's, a recording, or the protocol of a benchmark. Whatever had to
be chosen on the way stands in the scene's inputs and notes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from tonnage.errors import InputError, UsageError
from tonnage.evidence import Evidence
from tonnage.fleet import Scene, StatedInput
from tonnage.fleet.capacity import rank_arrangements, replicas_in, restricted_to, why_none_starts
from tonnage.fleet.offered import OfferedLoad, offered_load, refuse_too_many
from tonnage.fleet.plan import design_policy, plan_fleet
from tonnage.fleet.replica import (
    Misfit,
    stated_overhead_bytes_per_gpu,
    step_table,
)
from tonnage.fleet.search import compromises, default_weight_dtypes, survey
from tonnage.performance.kv_pool import kv_pool
from tonnage.performance.memory import weights_bytes_per_gpu
from tonnage.performance.roofline import DEFAULT_NIC_BYTES_PER_S, GRID
from tonnage.queueing.simulation import Disaggregation, EngineModel, SimulatedFleet
from tonnage.traffic.streams import stream
from tonnage.units import format_bytes, format_number, format_time

if TYPE_CHECKING:
    from tonnage.deployment import Deployment
    from tonnage.fleet import Candidate, Question, SimulationOptions, StatedFleet
    from tonnage.traffic import Requests
    from tonnage.workload import Promise

MOST_REPLICAS = 10_000  # seconds round-robin, minutes where a router looks at each
MOST_SEEDS = 1_000
MOST_REPLICAS_OF_ALL_SEEDS = 100_000  # some GB of memory: a course is 4 kB of each
BELIEVABLE_KV = 1.5  # times what is computed: an engine's own count differs by less
SLOW_HAND_OVER_S = 10.0  # by then people have left

RANKED_GPUS = 1024  # arrangements are ranked as on many GPUs: by what one of them carries

# From the decision to start a replica until it serves
ENGINE_START_S = 75.0  # 15 s tracing + 60 s graph capture, compiled before (vLLM issue 19824, 70B)
WEIGHTS_READ_BYTES_PER_S = 3.67e9  # catalog: storage profile local-nvme

_OF_A_SEARCH = ("hardware.", "scenarios.", "limits.", "existing.", "memory.kv_budget_fraction")
_BESIDE_THE_LOAD = {"workload.network", "workload.words_per_token"}
_TOLD = Evidence.DATASHEET
_STATE_FLEET = 'Name one with --fleet, for example "4 x H200-SXM:tp2".'


def scene_of(
    question: Question,
    options: SimulationOptions,
    *,
    owned: Candidate | None = None,
    poisson_peak: bool = False,
) -> Scene:
    """What is to be simulated, ready to run.

    `owned` is what `options.fleet` names, needed with it. `poisson_peak` says that the peak of the
    load is a Poisson percentile of its mean: random arrivals then come at the mean, as their
    scatter is what such a peak allows for. An outage whose `up_s` is NaN ends, and an autoscaler
    whose `startup_s` is NaN serves, when the weights are loaded and the engine has started
    (`startup_s`). Raises TonnageError for what cannot be asked or does not fit.
    """
    asked = _with_options(question, options)
    choosing = _with_step_model(question, options)
    if options.fleet is None:
        chosen = _recommended(choosing)
    else:
        assert owned is not None  # noqa: S101 — as the docstring asks
        chosen = _stated(choosing, options, options.fleet, owned)
    return _scene(asked, options, _limited(chosen, options), poisson_peak=poisson_peak)


def scene_on(
    question: Question,
    options: SimulationOptions,
    *,
    candidate: Candidate,
    deployment: Deployment,
    replicas: int,
) -> Scene:
    """The load of `question`, at its peak, on so many replicas of a deployment that is chosen."""
    chosen = _Chosen(
        candidate=candidate,
        deployment=deployment,
        replicas=replicas,
        said=_counted_out(replicas, deployment),
    )
    return _scene(question, options, chosen, poisson_peak=False)


def _scene(
    question: Question, options: SimulationOptions, chosen: _Chosen, *, poisson_peak: bool
) -> Scene:
    _refuse_too_large(chosen.replicas + options.decode_replicas, options.seeds)
    engine, engine_notes = _engine(question, chosen, options)
    traffic = offered_load(
        question,
        options,
        engine=engine,
        replicas=chosen.replicas,
        poisson_peak=poisson_peak,
    )
    promises, promise_notes = _promises(question)
    fleet, fleet_notes = _fleet(chosen, engine, traffic, options)
    return Scene(
        name=question.name,
        load=traffic.said,
        candidate=chosen.candidate,
        deployment=chosen.deployment,
        fleet=fleet,
        requests=traffic.requests,
        clients=traffic.clients,
        counted=traffic.counted,
        recorded=traffic.recorded,
        cyclic=traffic.cyclic,
        promises=promises,
        seed=options.seed,
        inputs=(*_that_count(question, options), *_inputs(chosen, engine, traffic, options)),
        notes=(
            chosen.said,
            *chosen.notes,
            *engine_notes,
            *traffic.notes,
            *promise_notes,
            *fleet_notes,
        ),
    )


def replicated(
    scene: Scene, question: Question, options: SimulationOptions, *, poisson_peak: bool = False
) -> tuple[Scene, ...]:
    """The scene, and others like it with seeds and requests of their own: `options.seeds` in all.

    The other arguments are those that `scene_of` made it of.
    """
    if options.seeds == 1:
        return (scene,)
    refuse_too_many(len(scene.requests), seeds=options.seeds)
    asked = _with_options(question, options)
    told = f"{options.seeds} runs of as many requests, each with a seed of its own"
    scenes = [replace(scene, notes=(*scene.notes, told))]
    for number in range(1, options.seeds):
        (seed,) = stream(options.seed, "replications", number).generate_state(1).tolist()
        traffic = offered_load(
            asked,
            replace(options, seed=seed),
            engine=scene.fleet.engine,
            replicas=scene.fleet.replicas,
            poisson_peak=poisson_peak,
        )
        scenes.append(replace(scene, requests=traffic.requests, seed=seed))
    return tuple(scenes)


def startup_s(deployment: Deployment) -> float:
    """Seconds from the decision to start a replica until it serves.

    weights of the replica / read rate of a local disk + a fixed start of the engine. The server is
    there and holds the files; fetching them, or the server, comes on top.
    """
    weights_bytes = weights_bytes_per_gpu(deployment) * deployment.gpus
    return weights_bytes / WEIGHTS_READ_BYTES_PER_S + ENGINE_START_S


# ── which replicas ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """The replicas of a scene, and in words how they were come by."""

    candidate: Candidate
    deployment: Deployment
    replicas: int
    said: str
    notes: tuple[str, ...] = ()


def _with_options(question: Question, options: SimulationOptions) -> Question:
    """The question with the step model and the lengths that the options put in place of its own."""
    if len(question.models) > 1:
        raise UsageError(
            "simulate runs one model at a time; the study has several.",
            hint="Give one with --model, or a study for each.",
        )
    _refuse_impossible(options)
    asked = _with_step_model(question, options)
    if options.prefix_cache is not False:
        return asked
    calls = tuple(  # nothing is found in no cache, whatever the study says
        replace(call, mix=replace(call.mix, cached_share=0.0)) for call in asked.workload.calls
    )
    return replace(asked, workload=replace(asked.workload, calls=calls))


def _with_step_model(question: Question, options: SimulationOptions) -> Question:
    """The question with the step model that the options put in place of its own."""
    if options.step_model is None:
        return question
    (model,) = question.models.values()
    return replace(  # measured in one arrangement and one format
        question,
        step_model=options.step_model,
        pipeline_parallel=question.pipeline_parallel or (1,),
        expert_parallel=question.expert_parallel or (1,),
        weight_dtypes=question.weight_dtypes or (model.native_weight_dtype,),
    )


def _limited(chosen: _Chosen, options: SimulationOptions) -> _Chosen:
    """What is chosen, under the limits that the options put in place of its engine's own.

    They come after the choice: to try a limit is not to change the formats with it.
    """
    limits = chosen.deployment.max_batch_size, chosen.deployment.max_batched_tokens
    deployment = replace(
        chosen.deployment,
        max_batch_size=options.max_num_seqs or limits[0],
        max_batched_tokens=options.max_num_batched_tokens or limits[1],
    )
    return replace(chosen, deployment=deployment)


def _refuse_impossible(options: SimulationOptions) -> None:
    for name, value in (
        ("requests", options.requests),
        ("seeds", options.seeds),
        ("kv_blocks", options.kv_blocks),
        ("max_num_seqs", options.max_num_seqs),
        ("max_num_batched_tokens", options.max_num_batched_tokens),
        ("kv_link_bytes_per_s", options.kv_link_bytes_per_s),
        ("rate_factor", options.rate_factor),
    ):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name} is {value:g}, and must be above 0.")
    if options.seeds > MOST_SEEDS:
        raise UsageError(
            f"seeds is {options.seeds:,}, and {MOST_SEEDS:,} are the most.",
            hint="Some ten make good intervals.",
        )
    if options.seeds > 1 and options.trace is not None:
        raise UsageError("several seeds draw a load anew; a trace is the same for each.")
    if options.decode_replicas < 0:
        raise UsageError(f"decode_replicas is {options.decode_replicas}, and cannot be negative.")
    tokens = options.max_num_batched_tokens
    if tokens is not None and tokens > GRID[-1]:
        raise UsageError(
            f"max_num_batched_tokens is {tokens:,}; "
            f"step times are known up to {GRID[-1]:,.0f} tokens."
        )


def _refuse_too_large(replicas: int, seeds: int) -> None:
    """Raise UsageError for more replicas than can be followed one by one."""
    if replicas > MOST_REPLICAS:
        raise UsageError(
            f"the fleet has {replicas:,} replicas, and {MOST_REPLICAS:,} are the most.",
            hint="Simulate a part of it under the same part of the load (--rate-factor).",
        )
    if replicas * seeds > MOST_REPLICAS_OF_ALL_SEEDS:
        raise UsageError(
            f"{seeds:,} seeds of {replicas:,} replicas are {replicas * seeds:,} replicas, and "
            f"{MOST_REPLICAS_OF_ALL_SEEDS:,} are the most.",
            hint=f"Simulate {MOST_REPLICAS_OF_ALL_SEEDS // replicas:,} seeds, or fewer replicas.",
        )


def _recommended(question: Question) -> _Chosen:
    """The recommended scenario of the plan, with all its replicas."""
    plan = plan_fleet(question)
    if plan.deployment is None or plan.candidate is None:
        why = plan.infeasible.reason if plan.infeasible else "nothing keeps the promises"
        raise UsageError(f"there is no recommended fleet to simulate: {why}.", hint=_STATE_FLEET)
    name = design_policy(question).name
    scenario = next((s for s in plan.scenarios if s.name == name), plan.scenarios[0])
    (pool,) = scenario.pools
    told = _counted_out(pool.replicas, pool.deployment)
    return _Chosen(
        candidate=plan.candidate,
        deployment=pool.deployment,
        replicas=pool.replicas,
        said=f"the {scenario.name} plan, spares at work too: {told}",
    )


def _stated(
    question: Question, options: SimulationOptions, fleet: StatedFleet, candidate: Candidate
) -> _Chosen:
    """The fleet as stated; what is left open is chosen as `capacity` does.

    Servers are filled with replicas. A count of GPUs counts replicas, of as many GPUs as the stated
    arrangement has. With the engine's own number of blocks a model runs even where our account of
    the memory says it cannot.
    """
    server = candidate.server if candidate.whole_servers else None
    arranged = any((fleet.tensor_parallel, fleet.pipeline_parallel, fleet.expert_parallel))
    if arranged and server is None:
        fleet = replace(
            fleet,
            tensor_parallel=fleet.tensor_parallel or 1,
            pipeline_parallel=fleet.pipeline_parallel or 1,
        )
    restricted = restricted_to(question, candidate, fleet)
    (model,) = question.models
    whole = replace(design_policy(question), kv_budget_fraction=1.0)
    rows = survey(restricted, whole).pools[0][model]
    gpus = fleet.units * server.gpus if server else RANKED_GPUS
    ranked = rank_arrangements(restricted, candidate, gpus, rows)
    notes: tuple[str, ...] = ()
    why = "the most per GPU of all that fit"
    if ranked:
        deployment = ranked[0][2].deployment
    else:
        misfits = [
            row.deployment
            for row in rows
            if isinstance(row, Misfit) and replicas_in(candidate, row.deployment, gpus)
        ]
        if options.kv_blocks is None or not misfits:
            raise InputError(
                f'is "{fleet.text}", which will not start: {why_none_starts(rows, gpus)}.',
                hint="Give each replica more GPUs (:tp4), a smaller model or an 8-bit format."
                if any(isinstance(row, Misfit) for row in rows)
                else "State another arrangement (:tp4), or none: then the best is chosen.",
                key="fleet",
            )
        deployment = min(misfits, key=lambda d: (compromises(d), d.gpus))
        notes = ("by our account of the memory it does not fit; the stated KV blocks are believed",)
        why = "the nearest to the model as published"
    replicas = replicas_in(candidate, deployment, gpus) if server else fleet.units
    said = _counted_out(replicas, deployment)
    if server:
        said += f" in {fleet.units} {server.name}"
    if left := _left_open(question, deployment, arranged=arranged):
        notes = (f"{left} chosen: {why}", *notes)
    return _Chosen(
        candidate=candidate, deployment=deployment, replicas=replicas, said=said, notes=notes
    )


def _left_open(question: Question, deployment: Deployment, *, arranged: bool) -> str:
    """What of a deployment nobody stated, like "weights in fp8 were"; empty when nothing."""
    found = []
    weights = question.weight_dtypes or default_weight_dtypes(deployment.model)
    if not arranged:
        found.append(deployment.describe())
    elif len(weights) > 1:
        found.append(f"weights in {deployment.weight_dtype}")
    if len(question.kv_dtypes) != 1:
        found.append(f"a KV cache in {deployment.kv_dtype}")
    if not found:
        return ""
    several = len(found) > 1 or found[0].startswith("weights")
    return f"{' and '.join(found)} {'were' if several else 'was'}"


def _counted_out(replicas: int, deployment: Deployment) -> str:
    """Like "4 replicas of 2 H200-SXM: 8 GPUs (TP2 fp8, KV cache bf16)"."""
    gpus = replicas * deployment.gpus
    return (
        f"{replicas} {'replica' if replicas == 1 else 'replicas'} of {deployment.gpus} "
        f"{deployment.gpu.name}: {gpus} {'GPU' if gpus == 1 else 'GPUs'} "
        f"({deployment.describe()}, KV cache {deployment.kv_dtype})"
    )


# ── the engine of a replica ─────────────────────────────────────────────────────────────────────


def _engine(
    question: Question, chosen: _Chosen, options: SimulationOptions
) -> tuple[EngineModel, tuple[str, ...]]:
    candidate, deployment = chosen.candidate, chosen.deployment
    profile = deployment.engine
    overhead_bytes = stated_overhead_bytes_per_gpu(question, candidate)
    pool = computed = kv_pool(deployment, runtime_overhead_bytes_per_gpu=overhead_bytes)
    notes: tuple[str, ...] = ()
    if options.kv_blocks is not None:
        pool = kv_pool(deployment, engine_blocks=options.kv_blocks)
        if 0 < computed.units * BELIEVABLE_KV < pool.units:
            times = format_number(pool.units / computed.units)
            notes = (
                f"the stated KV blocks are {times} times those that we compute of the GPUs' memory",
            )
    if pool.units < 1:
        raise InputError(
            f"leave none to use: the engine keeps {profile.kept_back_blocks} back."
            if options.kv_blocks is not None
            else f"of {deployment.describe()} on {deployment.gpu.name} have no room in its memory "
            f"beside steps of {deployment.max_batched_tokens:,} tokens "
            f"for {deployment.max_batch_size:,} requests.",
            hint="State lower limits or more KV blocks, or give a replica more memory.",
            key="KV blocks",
        )
    table = step_table(question, candidate, deployment)
    if pool.window_blocks:  # the cache and the time it takes to read know of one window
        table = replace(table, window_tokens=deployment.model.window_tokens)
    model = EngineModel(
        table=table,
        kv=pool,
        max_num_seqs=min(deployment.max_batch_size, deployment.max_batched_tokens),
        max_num_batched_tokens=deployment.max_batched_tokens,
        policy=options.policy or profile.policy,
        chunked_prefill=profile.chunked_prefill,
        whole_prompt_fits=profile.whole_prompt_fits,
        prefix_cache=profile.prefix_cache if options.prefix_cache is None else options.prefix_cache,
        max_context_tokens=deployment.model.max_context_tokens,
    )
    if not model.prefix_cache or not (pool.window_blocks or pool.sequence_units):
        return model, notes
    if options.prefix_cache:
        raise UsageError(
            f"{deployment.model.name} has windowed or linear layers;"
            " its prefix cache is not simulated."
        )
    note = "no prefix cache is simulated: the model has windowed or linear layers"
    return replace(model, prefix_cache=False), (*notes, note)


# ── the fleet ───────────────────────────────────────────────────────────────────────────────────


def _fleet(
    chosen: _Chosen, engine: EngineModel, traffic: OfferedLoad, options: SimulationOptions
) -> tuple[SimulatedFleet, tuple[str, ...]]:
    start_s, notes = startup_s(chosen.deployment), []
    told_start = (
        f"{format_time(start_s)} to start a replica: "
        f"{format_bytes(weights_bytes_per_gpu(chosen.deployment) * chosen.deployment.gpus)} "
        f"of weights at {WEIGHTS_READ_BYTES_PER_S / 1e9:.2f} GB/s and {ENGINE_START_S:.0f} s"
    )
    outages = tuple(
        replace(outage, up_s=outage.down_s + start_s) if math.isnan(outage.up_s) else outage
        for outage in options.outages
    )
    autoscaler = options.autoscaler
    if autoscaler is not None and math.isnan(autoscaler.startup_s):
        autoscaler = replace(autoscaler, startup_s=start_s)
    if outages != options.outages or autoscaler != options.autoscaler:
        notes.append(told_start)
    if options.prefix_cache and traffic.requests.prefix_ids is None:
        notes.append("the prefix cache finds nothing: only a trace has prefixes to find")
    split = None
    if options.decode_replicas:
        split, told = _disaggregation(chosen.deployment, engine, traffic.requests, options)
        notes.append(told)
    fleet = SimulatedFleet(
        engine=engine,
        replicas=chosen.replicas,
        router=options.router,
        router_lag_s=options.router_lag_s,
        outages=outages,
        retry=options.retry,
        autoscaler=autoscaler,
        disaggregation=split,
    )
    _refuse_impossible_events(fleet)
    last_s = float(traffic.requests.arrival_s[-1])
    late = [outage for outage in outages if outage.down_s > last_s]
    if late and traffic.clients is None:
        notes.append(
            f"{len(late)} of {len(outages)} outages begin after the last arrival, "
            f"{format_time(last_s)} after the first"
        )
    return fleet, tuple(notes)


def _refuse_impossible_events(fleet: SimulatedFleet) -> None:
    """Raise UsageError for outages and scaling that this fleet cannot have."""
    for outage in fleet.outages:
        if not 0 <= outage.replica < fleet.replicas:
            raise UsageError(
                f"an outage names replica {outage.replica}; there are {fleet.replicas}.",
                hint=f"They are numbered from 0 to {fleet.replicas - 1}.",
            )
        if not 0 <= outage.down_s < outage.up_s:
            raise UsageError(
                f"an outage of replica {outage.replica} ends at {outage.up_s:g} s, "
                f"and begins at {outage.down_s:g} s."
            )
    ordered = sorted(fleet.outages, key=lambda outage: (outage.replica, outage.down_s))
    for first, second in pairwise(ordered):
        if first.replica == second.replica and second.down_s < first.up_s:
            raise UsageError(f"two outages of replica {first.replica} overlap.")
    scaler = fleet.autoscaler
    if scaler is None:
        return
    if not 0 < scaler.least <= fleet.replicas:
        raise UsageError(
            f"the autoscaler keeps at least {scaler.least} of {fleet.replicas} replicas.",
            hint="The fleet is the most it may start; at least one always runs.",
        )
    if not (scaler.outstanding > 0 and scaler.interval_s > 0 and scaler.startup_s >= 0):
        raise UsageError("the autoscaler needs a positive target and interval.")


def _disaggregation(
    deployment: Deployment, engine: EngineModel, requests: Requests, options: SimulationOptions
) -> tuple[Disaggregation, str]:
    """The replicas that decode, and how long a cache takes to reach them.

    bytes of the cache of a mean prompt, all layers / its tokens / link: windowed layers send their
    window only. Without a stated link every GPU of a replica sends over its own network adapter.
    """
    tokens = float(requests.prompt_tokens.mean())
    cache_bytes = deployment.model.kv_bytes_per_session(tokens, deployment.kv_dtype)
    link, how = options.kv_link_bytes_per_s, "stated"
    if link is None:
        known = deployment.gpu.nic_bytes_per_s
        link = (known or DEFAULT_NIC_BYTES_PER_S) * deployment.gpus
        how = "the adapters of its GPUs" if known else "200 Gbit/s per GPU assumed"
    split = Disaggregation(
        engine=engine, replicas=options.decode_replicas, token_s=cache_bytes / tokens / link
    )
    hand_over_s = tokens * split.token_s
    told = (
        f"these compute prompts; {options.decode_replicas} more of the same kind produce the "
        f"answers, {format_time(hand_over_s)} after a mean prompt "
        f"({format_bytes(cache_bytes)} over {format_bytes(link, binary=False)}/s, {how})"
    )
    if hand_over_s > SLOW_HAND_OVER_S:
        told += "; what answers wait for is this link, and more replicas do not help"
    return split, told


# ── what is promised, and what it all rests on ──────────────────────────────────────────────────


def _promises(question: Question) -> tuple[tuple[Promise, ...], tuple[str, ...]]:
    """The promises that single calls can keep; of a chain only the time per token."""
    promises = question.workload.promises
    if sum(call.repeats for call in question.workload.calls) == 1:
        return promises, ()
    single = tuple(promise for promise in promises if promise.metric == "tpot")
    if len(single) == len(promises):
        return promises, ()
    return single, (
        "TTFT and E2E are promised of whole chains of calls; only the time per token is judged",
    )


def _that_count(question: Question, options: SimulationOptions) -> tuple[StatedInput, ...]:
    """The inputs of the study that a stated fleet, or a recording, does not set aside."""

    def counts(key: str) -> bool:
        if options.fleet is not None and key.startswith(_OF_A_SEARCH):
            return False
        if options.prefix_cache is False and key.endswith(".cached"):
            return False
        of_load = key.startswith("workload.") and key not in _BESIDE_THE_LOAD
        return options.trace is None or not of_load

    return tuple(told for told in question.inputs if counts(told.key))


def _inputs(
    chosen: _Chosen, engine: EngineModel, traffic: OfferedLoad, options: SimulationOptions
) -> tuple[StatedInput, ...]:
    """What the scene adds to the inputs of the study."""
    pool, profile = engine.kv, chosen.deployment.engine

    def told(
        key: str, text: str, stated: object, evidence: Evidence, note: str = ""
    ) -> StatedInput:
        return StatedInput(
            key=f"simulation.{key}",
            text=text,
            evidence=evidence if stated is None else _TOLD,
            note=note if stated is None else "stated",
        )

    if pool.block_units == 1:
        size = f"{pool.units:,} blocks of {pool.block_tokens} tokens"
    else:
        size = f"{format_bytes(pool.units)} on each GPU"
    return (
        told("fleet", chosen.said, options.fleet, Evidence.MODELLED),
        StatedInput(key="simulation.load", text=traffic.said, evidence=traffic.evidence),
        told(
            "kv_pool",
            size,
            options.kv_blocks,
            Evidence.MODELLED,
            "computed; the engine's own count is better",
        ),
        told("max_num_seqs", f"{engine.max_num_seqs:,}", options.max_num_seqs, Evidence.DATASHEET),
        told(
            "max_num_batched_tokens",
            f"{engine.max_num_batched_tokens:,}",
            options.max_num_batched_tokens,
            Evidence.DATASHEET,
        ),
        told(
            "policy", engine.policy, options.policy, Evidence.DATASHEET, f"{profile.name} default"
        ),
        told(
            "prefix_cache",
            "on" if engine.prefix_cache else "off",
            options.prefix_cache,
            Evidence.DATASHEET,
        ),
        StatedInput(key="simulation.router", text=options.router, evidence=_TOLD),
    )
