"""The name of an input -> what it is, who knows it, why it matters and how people get it wrong.

Printed by `tonnage parameter`, appended to the Markdown report and carried whole in the JSON one.
Names are those of the flags, with underscores; the facts a catalog brings stand at the end.
"""
# ruff: noqa: E501 (a sentence stays on its line)

from __future__ import annotations

import difflib
from dataclasses import dataclass

from tonnage.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One parameter, explained in four sentences."""

    description: str
    source: str
    importance: str
    common_errors: str


def entry(name: str) -> Entry:
    """The entry of `name`; dashes and dots are forgiven. Raises UsageError with the nearest names."""
    key = name.lower().lstrip("-").replace("-", "_")
    leaf = key.rpartition(".")[2]
    for candidate in (key, leaf):
        if candidate in PARAMETERS:
            return PARAMETERS[candidate]
    near = difflib.get_close_matches(leaf, PARAMETERS, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "See tonnage parameter --list."
    raise UsageError(f"“{name}” is not a parameter of tonnage.", hint=hint)


PARAMETERS: dict[str, Entry] = {
    # ── what is served ──
    "model": Entry(
        description="The language model to serve: a name of the catalog, a hub id, or the path of a config.json.",
        source="The team that chose the model; its hub page names the exact variant.",
        importance="Fixes the weights to hold, the work per token and the cache per token of context.",
        common_errors="Naming the family but not the size; sizing the base model when a quantised checkpoint is served, or the other way round.",
    ),
    "engine": Entry(
        description="The serving engine and its version range: how it admits requests, batches them and reserves memory.",
        source="The image tag of the deployment, or the platform team.",
        importance="Decides how much of a GPU becomes cache and how many milliseconds each step costs beside the arithmetic.",
        common_errors="Assuming that a version upgrade changes nothing: default batch limits and the treatment of sliding windows did change.",
    ),
    "weight_dtype": Entry(
        description="The number format the weights are stored in: bf16, fp8, int8, int4, mxfp4 or nvfp4.",
        source="The checkpoint that will be loaded; its config names the quantisation.",
        importance="Halving the bits halves the weights' memory and nearly halves the time of a decode step at small batches.",
        common_errors="Planning fp8 for a GPU that cannot multiply in it, or forgetting that embeddings and routers stay in 16 bits.",
    ),
    "kv_dtype": Entry(
        description="The number format of the KV cache: bf16, fp16, fp8 or int8.",
        source="An engine option (kv-cache-dtype in vLLM); the default follows the model, usually 16 bits.",
        importance="16 bits take twice the memory of 8 for every token of every session, so they halve the sessions per GPU.",
        common_errors="Assuming fp8 because the weights are fp8: the cache has its own setting and must be switched on.",
    ),
    # ── how much is asked ──
    "request_rate": Entry(
        description="Mean arrivals per second over the busy period; its Poisson peak is derived and sized for.",
        source="Gateway or access logs: requests in the busiest hour divided by 3600.",
        importance="Throughput, and with it the number of replicas, is proportional to it.",
        common_errors="Averaging over a whole day including the night; giving a peak here, which is then inflated a second time.",
    ),
    "peak_request_rate": Entry(
        description="The highest arrivals per second to survive; taken as it is and never inflated again.",
        source="The highest one-minute rate in the logs, or the contract's stated limit.",
        importance="Every latency promise is checked at this rate.",
        common_errors="Mistaking users for requests: a thousand people online are rarely a thousand requests in one second.",
    ),
    "users": Entry(
        description="People with an account. Times the active share they are active users; times requests per hour, a rate.",
        source="The identity provider or the product owner.",
        importance="The start of the chain from people to load when no rate is known; an error here carries through unchanged.",
        common_errors="Reading registered users as concurrent requests, which oversizes a fleet by a factor of a hundred.",
    ),
    "active_share": Entry(
        description="The share of registered users who use the service during the busiest hour.",
        source="Product analytics: distinct users in the peak hour divided by accounts.",
        importance="The load is proportional to it, and it is the input most often guessed.",
        common_errors="Using the monthly active share, which counts everyone who came once in a month.",
    ),
    "requests_per_hour": Entry(
        description="Requests one active user sends in an hour.",
        source="Logs of a pilot: requests divided by active users in the same hour.",
        importance="The load is proportional to it.",
        common_errors="Counting questions and forgetting that an agent or a retrieval chain makes several model calls per question.",
    ),
    "requests_per_day": Entry(
        description="All requests of one day, spread over the active hours.",
        source="Daily totals of the gateway or of a billing export.",
        importance="With the active hours it gives the mean rate.",
        common_errors="Dividing by 24 hours when the service is used in 8, which understates the load threefold.",
    ),
    "daily_users": Entry(
        description="Distinct people who use the service on one day.",
        source="Product analytics, as daily active users.",
        importance="Times requests per user and over the active hours, it is the mean rate.",
        common_errors="Giving a forecast for the year's end while sizing for today, without saying which.",
    ),
    "requests_per_user": Entry(
        description="Requests one person sends on one day.",
        source="A pilot's logs, or a comparable internal tool.",
        importance="The load is proportional to it.",
        common_errors="Taking the mean of enthusiastic pilot users for the whole company.",
    ),
    "active_hours": Entry(
        description="Hours of a day in which the requests arrive.",
        source="The hourly histogram of the logs; working hours times the time zones served.",
        importance="A shorter day makes the same daily total a higher rate.",
        common_errors="Leaving 24 hours for an office tool, or 8 for one that serves three continents.",
    ),
    "concurrency": Entry(
        description="Requests sent and not yet finished, queued ones included, held constant: each finished one is replaced.",
        source="The in-flight gauge of the gateway, or the concurrency of a load test.",
        importance="A closed load: arrivals slow down when answers do, so it never overloads, and latency is what suffers.",
        common_errors="Using it for the number of users; using it for an open service whose arrivals do not wait for answers.",
    ),
    "clients": Entry(
        description="Programs or people that each send, wait for the whole answer, think, and send again.",
        source="The number of workers, agents or seats that can have one request open.",
        importance="With the think time and the answer time it fixes the rate: clients / (answer + think).",
        common_errors="Leaving out the think time, which turns people into a load test.",
    ),
    "think_time": Entry(
        description="The pause of a client between an answer and its next request.",
        source="Session logs: gaps between an answer and the following prompt.",
        importance="Ten seconds of thinking against ten of answering halves the load.",
        common_errors="Taking the mean of gaps that include lunch; use the gaps within a session.",
    ),
    "sessions": Entry(
        description="Conversations whose whole context must stay in GPU memory at the same time.",
        source="The product's promise: how many people may be in the middle of a conversation at once.",
        importance="In memory sizing, cache total = sessions × cache per session decides the servers.",
        common_errors="Counting idle conversations whose cache may be dropped and computed again.",
    ),
    "batch_requests": Entry(
        description="The number of requests of an offline job.",
        source="Rows of the data set to process.",
        importance="With the deadline it gives the throughput; no latency matters.",
        common_errors="Adding latency promises to work that nobody waits for, which makes the fleet several times dearer.",
    ),
    "deadline": Entry(
        description="The time within which an offline job must finish.",
        source="Whoever needs the result: before the next business day, say 8 h.",
        importance="Half the time needs twice the GPUs.",
        common_errors="Leaving no margin for a failed node and a second run.",
    ),
    # ── how long it is ──
    "context_tokens": Entry(
        description="The context one session may fill: prompt, history and answer together, in tokens.",
        source="The product's limit on a conversation, at most the model's own limit.",
        importance="The cache of full-attention layers is proportional to it, and with it the sessions per server.",
        common_errors="Entering the model's maximum because it is there; most conversations end far below it.",
    ),
    "prompt_tokens": Entry(
        description="Tokens of the whole prompt as the engine sees it: system prompt, retrieved text, history, question, template.",
        source="The engine's prompt-token metric, or the tokenizer run on real prompts. English: 0.75 words per token.",
        importance="Sets the time to first token and the larger part of the compute.",
        common_errors="Counting the question and forgetting the system prompt and the retrieved documents; counting words as tokens.",
    ),
    "output_tokens": Entry(
        description="Tokens of the answer, reasoning tokens included.",
        source="The engine's generation-token metric on real traffic.",
        importance="Sets how long a request holds its cache; usually the strongest lever on the number of GPUs.",
        common_errors="Entering the max_tokens limit instead of the mean; forgetting that a reasoning model writes ten times what it shows.",
    ),
    "cached": Entry(
        description="The part of the prompt found in the prefix cache: it takes memory but is not computed again.",
        source="The engine's prefix-cache hit rate, or the length of the shared system prompt.",
        importance="Skips prefill, which is most of the compute when prompts are long and answers short.",
        common_errors="Assuming a high hit rate while replicas are chosen at random: each has its own cache.",
    ),
    # ── what is promised ──
    "ttft": Entry(
        description="The longest wait for the first token, for a stated percentile of requests, at peak load.",
        source="The product's promise; for chat, one to three seconds is usual.",
        importance="Limits how long a request may queue and how much prefill may stand before it.",
        common_errors="Promising a mean; promising p99 where p95 was meant, which costs a step in fleet size.",
    ),
    "tpot": Entry(
        description="The longest mean time per output token of a request, after its first, for a stated percentile.",
        source="Reading speed: 238 words a minute and 0.75 words a token make 189 ms; a brisk stream is 50 ms.",
        importance="Limits how many requests share a GPU: each one more lengthens everybody's step.",
        common_errors="Promising faster than anyone reads; mixing it up with the gap between two tokens, which is spikier.",
    ),
    "e2e": Entry(
        description="The longest time to the last token of the whole chain, for a stated percentile.",
        source="The timeout or the promise of the calling system when it cannot use a partial answer.",
        importance="The only promise that counts when answers are not streamed.",
        common_errors="Setting it together with streaming promises that imply a looser one; ignoring that long answers take longer.",
    ),
    "tokens_per_second": Entry(
        description="Output speed seen by one user; turned into the time per token it implies.",
        source="A product requirement such as “at least 20 tokens a second”.",
        importance="The same limit as tpot, said the other way round.",
        common_errors="Confusing one user's speed with the throughput of the fleet, which is hundreds of times larger.",
    ),
    "network_time": Entry(
        description="Time between client and server, added to every modelled time to first token.",
        source="A ping from where the users are, plus the gateway's own time.",
        importance="Counts against the same promise; matters when the promise is tight or the users are far away.",
        common_errors="Adding it to figures measured at the client, which include it already.",
    ),
    # ── what may be bought ──
    "gpu": Entry(
        description="The kinds of GPU to compare, by catalog name; none means all that are priced.",
        source="What the provider rents or the vendor quotes.",
        importance="The answer is the best among these, so an omitted kind cannot win.",
        common_errors="Writing H100 where the PCIe and the SXM part differ in bandwidth by two thirds.",
    ),
    "server": Entry(
        description="The servers to buy whole, by catalog name; failures and spares are then counted in servers.",
        source="The vendor's quote.",
        importance="Rounds the fleet up to whole machines and makes the server the unit that fails.",
        common_errors="Counting eight spare GPUs as a spare server when they are spread over several.",
    ),
    "price": Entry(
        description="What one GPU costs per hour, replacing the catalog's market price.",
        source="The contract or the provider's calculator, for the commitment that will be signed.",
        importance="Decides between kinds of GPU when the objective is cost.",
        common_errors="Comparing one kind's on-demand price with another's three-year commitment.",
    ),
    "buy": Entry(
        description="Price the fleet as purchased hardware written off over its life, instead of rented.",
        source="The finance team's choice between investment and running cost.",
        importance="Purchase favours high utilisation; rent favours short projects.",
        common_errors="Comparing rent with the purchase price of bare GPUs, without servers, power and people.",
    ),
    "max_cost": Entry(
        description="The most the recommended fleet may cost per hour.",
        source="The budget divided by 730 hours a month.",
        importance="Options above it are rejected with that reason, whatever they promise.",
        common_errors="Entering a monthly figure without its unit.",
    ),
    "max_gpus": Entry(
        description="The most GPUs the recommended fleet may have.",
        source="The quota, the allocation or the rack.",
        importance="Options above it are rejected with that reason.",
        common_errors="Forgetting the spares: the limit holds for the recommended fleet, reserve included.",
    ),
    "objective": Entry(
        description="What is minimised among the options that keep every promise: cost, gpus or power.",
        source="Whoever pays: a budget, a quota or a data centre's power limit.",
        importance="Changes which kind of GPU wins, never which ones keep the promises.",
        common_errors="Minimising GPUs when they are not alike: few large ones may cost more than many small ones.",
    ),
    # ── how it is arranged ──
    "tensor_parallel": Entry(
        description="GPUs that share every layer of one replica; empty tries all that fit.",
        source="Leave it to the search unless an operations rule fixes it.",
        importance="More GPUs per replica shorten each step but spend time on communication and enlarge the unit that fails.",
        common_errors="Spreading it across servers, or beyond the number of KV heads, where the cache is copied instead of split.",
    ),
    "pipeline_parallel": Entry(
        description="Stages of consecutive layers on different GPUs of one replica.",
        source="Leave it to the search; it is for models that do not fit otherwise.",
        importance="Adds memory without fast links; adds nothing to the speed of one request.",
        common_errors="Expecting latency to fall: a token still passes every stage.",
    ),
    "expert_parallel": Entry(
        description="Ranks among which whole experts of a mixture-of-experts model are divided, within the tensor-parallel group.",
        source="Leave it to the search; relevant to large mixtures only.",
        importance="Changes the traffic between GPUs and the balance of work, not the number of GPUs.",
        common_errors="Setting it for a dense model; expecting even load when a few experts are popular.",
    ),
    "max_batch_size": Entry(
        description="The most requests a replica runs at once (max-num-seqs in vLLM).",
        source="The engine's configuration; the default differs between GPU sizes and versions.",
        importance="Caps throughput and keeps the time per token bounded.",
        common_errors="Leaving a default of 256 on a GPU whose cache holds 40 requests, and wondering about preemptions.",
    ),
    "max_batched_tokens": Entry(
        description="The most tokens one step processes, prompts and decodes together (max-num-batched-tokens in vLLM).",
        source="The engine's configuration.",
        importance="Large values shorten the first token and lengthen everybody else's gap between tokens.",
        common_errors="Raising it for throughput while promising a smooth stream.",
    ),
    "kv_budget_fraction": Entry(
        description="The share of the memory left after weights, activations and runtime that the plan may fill with cache.",
        source="Operations policy; 0.70 is balanced, 0.65 is careful.",
        importance="Sessions per server are proportional to it; the rest absorbs fragmentation and long conversations.",
        common_errors="Planning above 0.75, where a few long contexts cause eviction and unstable latency.",
    ),
    "runtime_overhead": Entry(
        description="Memory of one server that is not cache: weights, activations and buffers, as one stated amount.",
        source="Leave it out to have it computed; or read it from nvidia-smi on an idle engine.",
        importance="Everything it takes is not there for sessions.",
        common_errors="Using a figure for one size of model with another; forgetting that each replica holds its own weights.",
    ),
    "headroom": Entry(
        description="How much more load the recommended fleet carries than was asked: the load times 1 + headroom.",
        source="Operations policy; 20 % for production, 30 % or more where demand is unpredictable.",
        importance="Absorbs growth and peaks that the arrival model does not know.",
        common_errors="Stacking it on a peak that already has a margin, then adding spares for the same worry.",
    ),
    "spare": Entry(
        description="Failure units that may be lost with every promise kept: N+1 is one, N+2 is two.",
        source="The availability target and the maintenance routine.",
        importance="Adds whole servers, or whole replicas when GPUs are rented one by one.",
        common_errors="Counting one spare GPU: when one GPU of a replica stops, all of its GPUs stop.",
    ),
    # ── what the catalog brings ──
    "layers": Entry(
        description="Layers of the model, by kind: full attention, sliding window, linear attention.",
        source="num_hidden_layers and layer_types in the model's config.json.",
        importance="The cache per token is a sum over the layers that keep one.",
        common_errors="Treating a hybrid model as fully attentive, which overstates its cache two to five times.",
    ),
    "kv_heads": Entry(
        description="Key and value heads per attention layer; fewer than query heads in grouped-query attention.",
        source="num_key_value_heads in config.json.",
        importance="The cache is proportional to it, and tensor parallelism beyond it copies the cache.",
        common_errors="Using the number of query heads, which overstates the cache of a modern model eightfold.",
    ),
    "head_dim": Entry(
        description="Values in one key or value vector of one head.",
        source="head_dim in config.json; only when it is missing, hidden_size / num_attention_heads.",
        importance="The cache is proportional to it.",
        common_errors="Dividing the hidden size by the heads where the config says something else.",
    ),
    "max_context_tokens": Entry(
        description="The longest context the model was made for.",
        source="max_position_embeddings in config.json, and the model's card.",
        importance="A request beyond it fails; a plan beyond it is flagged.",
        common_errors="Trusting a scaled value the engine only accepts with an extra option.",
    ),
    "gpu_memory": Entry(
        description="Memory of one GPU in bytes; makers say GB (10⁹), tools show GiB (2³⁰).",
        source="The datasheet, or nvidia-smi for what is usable.",
        importance="Weights, cache and everything else must fit in it.",
        common_errors="Reading 80 GB as 80 GiB, which invents 7 % of memory.",
    ),
    "gpu_bandwidth": Entry(
        description="Bytes per second between a GPU and its own memory.",
        source="The datasheet of the exact part: SXM, PCIe and NVL differ.",
        importance="Bounds the time per token at small and middling batches: every step reads all weights.",
        common_errors="Comparing GPUs by FLOP/s when the work is bound by memory.",
    ),
    "gpu_compute": Entry(
        description="Dense multiply-add speed in FLOP/s, by number format.",
        source="The datasheet's dense figure; halve one that is marked “with sparsity”.",
        importance="Bounds prefill and large batches.",
        common_errors="Using the sparse figure, which is twice what serving can reach.",
    ),
}  # fmt: skip
