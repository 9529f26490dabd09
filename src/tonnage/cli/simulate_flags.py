"""The flags of `tonnage simulate`: a table, as light as help needs it.

What a study says is said by the flags of a study. Two of those, the limits of the engine that a
search chooses among, have one value here, and the engine's own names.
"""

from __future__ import annotations

from tonnage.cli.flags import FLAGS as STUDY_FLAGS
from tonnage.cli.flags import Flag
from tonnage.cli.flags import own_flag as _flag
from tonnage.cli.workers import worker_flags

FLEET = "Which fleet"
ENGINE = "How its engines work (default: as modelled)"
ARRIVALS = "How the load arrives"

SCALING_INTERVAL_S = 15.0  # Kubernetes' horizontal pod autoscaler looks as often by default
_REPLACED = {"engine.max_batch_size", "engine.max_batched_tokens"}


OWN_FLAGS: tuple[Flag, ...] = (
    _flag("--fleet", FLEET, "FLEET",
          'Replicas, and the GPUs of each: "4 x H200-SXM:tp2" is 4 replicas of 2 GPUs. Servers are'
          ' filled with replicas: "1 x DGX-H200:tp2" is the same. Left out, the fleet that tonnage'
          " size recommends."),
    _flag("--router", FLEET, "NAME",
          "Who gets a request: round-robin (default), random, least-outstanding, or kv-aware, which"
          " also looks for the prompt's prefix."),
    _flag("--router-lag", FLEET, "TIME",
          'Of kv-aware, how old its knowledge of the caches is: "200 ms".'),
    _flag("--decode-replicas", FLEET, "N",
          "Replicas of the same kind for the answers alone; those of --fleet compute prompts."),
    _flag("--kv-link", FLEET, "BANDWIDTH",
          'Of --decode-replicas, what carries the KV cache over: "400 Gbit/s" (default: the GPU\'s'
          " network)."),
    _flag("--outage", FLEET, "REPLICA@DOWN[-UP]",
          'Replica 0 stops and serves again: "0@600 s-900 s". Without an end it is started anew at'
          ' once, which takes as long as its weights; "0@600 s-never" is for good. Repeatable.',
          many=True),
    _flag("--autoscale", FLEET, "RULE",
          'Replicas up to those of --fleet: "least=1, outstanding=16" is at least 1, and about 16'
          " requests each. Looked at every interval=15 s; one that is asked for serves after"
          " startup=3 min (default: as long as its weights take)."),
    # ── engine ──
    _flag("--step-model", ENGINE, "FILE",
          "JSON with the time of a step as you measured it: base_s, per_prefill_token_s,"
          " per_sequence_s, per_kv_token_s. Replaces the model of the GPU."),
    _flag("--kv-blocks", ENGINE, "N",
          "Blocks of KV cache a replica has. The engine's log says it (vLLM: num_gpu_blocks); what"
          " is computed instead is the largest single source of error."),
    _flag("--max-num-seqs", ENGINE, "N", "Requests one replica runs at once."),
    _flag("--max-num-batched-tokens", ENGINE, "N", "Tokens one step processes."),
    _flag("--policy", ENGINE, "NAME",
          "Whose scheduler: vllm, trtllm-no-evict, trtllm-max-utilisation or sglang."),
    # ── load ──
    _flag("--trace", ARRIVALS, "FILE",
          "A recording, instead of the study's load: CSV with arrival_s, input_tokens,"
          " output_tokens[, prefix_hash_ids], or one of Azure, Mooncake, BurstGPT, vllm bench,"
          " GuideLLM."),
    _flag("--arrivals", ARRIVALS, "PROCESS",
          "Of a rate: poisson (default), constant, or gamma with --cv."),
    _flag("--cv", ARRIVALS, "CV",
          "Of gamma, the standard deviation of the gaps over their mean: 1 is Poisson, more is"
          " bursts."),
    _flag("--rate-factor", ARRIVALS, "FACTOR",
          "So many times the load, of a rate or a recording; burstiness stays."),
    _flag("--profile", ARRIVALS, "FILE",
          "Of a rate, the time of day: CSV with at,factor (09:00,1.4); the mean stays."),
    _flag("--requests", ARRIVALS, "N",
          "Requests that count; more come before and after them (default: 20,000)."),
    _flag("--seed", ARRIVALS, "N", "The same seed gives the same answer, to the byte (0)."),
    _flag("--seeds", ARRIVALS, "N",
          "Runs with seeds of their own, told as one (1). From 5 on, intervals are theirs and hold"
          " near capacity."),
    *worker_flags("work"),
)  # fmt: skip

FLAGS: tuple[Flag, ...] = (
    *OWN_FLAGS,
    *(flag for flag in STUDY_FLAGS if flag.key not in _REPLACED),
)
