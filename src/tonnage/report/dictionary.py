"""The name of an input -> what it is, who knows it, why it matters and how people get it wrong.

Printed by `tonnage parameter`, appended to the Markdown report and carried whole in the JSON one.
What has a flag goes by its name, with underscores, and the rest by its key in the study; what holds
of every length is `length.…`. The facts a catalog brings stand at the end.
"""
# ruff: noqa: E501 (a sentence stays on its line)

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tonnage.errors import UsageError
from tonnage.spelling import nearest

MAX_SHOWN = 6  # keys in one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One parameter, explained in four sentences."""

    description: str
    source: str
    importance: str
    common_errors: str


def entry(name: str) -> Entry:
    """The entry of `name`; see `parameter_name`."""
    return PARAMETERS[parameter_name(name)]


def parameter_name(name: str) -> str:
    """The name in `PARAMETERS` of a flag, a key of a study, or the end of one where it is unique.

    Dashes are forgiven. Raises UsageError with the keys that share this end, or the nearest names.
    """
    asked = name.lower().lstrip("-").replace("-", "_")
    found = _named(asked)
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(f"“{key}”" for key in found[:MAX_SHOWN])
        shown += ", …" if len(found) > MAX_SHOWN else ""
        raise UsageError(
            f"“{name}” stands for several keys.", hint=f"Ask for one of them: {shown}."
        )
    ends = {key.rpartition(".")[2]: key for key in (*PLACES, *PARAMETERS)}
    near = nearest(asked.rpartition(".")[2], ends, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "See tonnage parameter --list."
    raise UsageError(f"“{name}” is not a parameter of tonnage.", hint=hint)


def explained(keys: Iterable[str]) -> dict[str, Entry]:
    """Every parameter by its name, and each of these keys of a study that has an entry."""
    found = {key: _named(key.lower().replace("-", "_")) for key in keys}
    return PARAMETERS | {key: PARAMETERS[names[0]] for key, names in found.items() if names}


def _named(asked: str) -> list[str]:
    """The parameter that is asked for; several keys of a study when all of them end so."""
    place = asked
    for pattern, shared in _SHARED:
        place = re.sub(pattern, shared, place)
    for key in (asked, place, re.sub(r"_p\d\d$", "", asked)):
        if key in PARAMETERS:
            return [key]
        if key in PLACES:
            return [PLACES[key]]
    ending = [key for key in (*PARAMETERS, *PLACES) if key.endswith(f".{asked}")]
    meant = list(dict.fromkeys(PLACES.get(key, key) for key in ending))
    leaf = asked.rpartition(".")[2]
    if not meant:
        return [leaf] if leaf in PARAMETERS else []
    return meant if len(meant) == 1 else ending


# Keys that stand in several places of a study, and the one place where they are explained.
_SHARED = (
    (r"^hardware\.prices\..+$", "hardware.prices"),
    (r"\[\d*\]|\.\d+(?=\.|$)", ""),
    (r"^workload\.calls\.(prompt|answer)", r"workload.\1"),
    (r"^scenarios\.(minimum|recommended|ideal)\.", "scenarios."),
    (r"^(workload\.(prompt|answer)\.\w+)\.mean$", r"\1"),
    (
        r"^workload\.(?:prompt|answer)(?:\.[a-z]+)?\.(p50|p90|p95|p99|distribution|cv|file)$",
        r"length.\1",
    ),
)

# Keys of the study whose parameter goes by another name, that of the flag.
PLACES: dict[str, str] = {
    "workload.users": "users",
    "workload.users.registered": "users",
    "workload.users.active_at_peak": "active_share",
    "workload.users.requests_per_active_user_per_hour": "requests_per_hour",
    "workload.request_rate": "request_rate",
    "workload.peak_request_rate": "peak_request_rate",
    "workload.requests_per_day": "requests_per_day",
    "workload.daily_users": "daily_users",
    "workload.daily_users.count": "daily_users",
    "workload.daily_users.requests_per_user": "requests_per_user",
    "workload.active_hours": "active_hours",
    "workload.concurrency": "concurrency",
    "workload.clients": "clients",
    "workload.clients.count": "clients",
    "workload.clients.think_time": "think_time",
    "workload.batch.requests": "batch_requests",
    "workload.batch.deadline": "deadline",
    "workload.sessions": "sessions",
    "workload.context": "context_tokens",
    "workload.prompt": "prompt_tokens",
    "workload.prompt.mean": "prompt_tokens",
    "workload.prompt.cached": "cached",
    "workload.answer": "output_tokens",
    "workload.answer.mean": "output_tokens",
    "workload.network": "network_time",
    "promises.ttft": "ttft",
    "promises.tpot": "tpot",
    "promises.e2e": "e2e",
    "promises.tokens_per_second": "tokens_per_second",
    "promises.throughput": "throughput",
    **{
        f"promises.{metric}.p{percentile}": metric if metric != "wait" else "promises.wait"
        for metric in ("ttft", "wait", "tpot", "e2e", "tokens_per_second")
        for percentile in (50, 90, 95, 99)
    },
    "hardware.gpus": "gpu",
    "hardware.servers": "server",
    "hardware.buy": "buy",
    "hardware.prices": "price",
    "hardware.catalog": "catalog",
    "hardware.tensor_parallel": "tensor_parallel",
    "hardware.pipeline_parallel": "pipeline_parallel",
    "hardware.expert_parallel": "expert_parallel",
    "engine.name": "engine",
    "engine.weight_dtype": "weight_dtype",
    "engine.kv_dtype": "kv_dtype",
    "engine.max_batch_size": "max_batch_size",
    "engine.max_batched_tokens": "max_batched_tokens",
    "memory.kv_budget_fraction": "kv_budget_fraction",
    "memory.runtime_overhead": "runtime_overhead",
    "scenarios.headroom": "headroom",
    "scenarios.spare": "spare",
    "limits.cost": "max_cost",
    "limits.gpus": "max_gpus",
}

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
    "name": Entry(
        description="Title of the report; left out, the name of the study's file.",
        source="You: what the reader of the report will call this decision.",
        importance="Tells two reports apart once they lie side by side in a ticket.",
        common_errors="Keeping the name of the study it was copied from.",
    ),
    "engine.step_model": Entry(
        description="A JSON file with the time of one engine step as you measured it; it replaces the computed one.",
        source="A load test of one replica, fitted to a base time and a time per prompt token, sequence and cached token.",
        importance="Every latency follows from it, so the answer is then as good as the measurement.",
        common_errors="Taking one GPU's measurement for another GPU or arrangement; writing times in ms instead of seconds.",
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
    "workload": Entry(
        description="Who asks, how often, and how long prompts and answers are; the load is stated in one way.",
        source="Logs of the gateway where the service runs already; a pilot or the product owner where it does not.",
        importance="Everything else only divides this work among machines.",
        common_errors="Stating the same load twice in two forms, which is refused, or a mean where a peak was measured.",
    ),
    "workload.tokens_per_day": Entry(
        description="Tokens of a whole day, by direction or in total, turned into requests by the lengths of one request.",
        source="A provider's bill or usage page.",
        importance="The only form of load that needs the prompt and answer lengths to become a rate.",
        common_errors="Copying a monthly figure; leaving out cached prompt tokens, which a bill lists in a line of their own.",
    ),
    "workload.tokens_per_day.input": Entry(
        description="Prompt tokens of a whole day, cached ones included.",
        source="The input column of a provider's bill, or the sum of the engine's prompt-token counter over a day.",
        importance="Divided by the prompt length it is a number of requests; of input and output the larger number counts.",
        common_errors="Leaving out cached tokens because they are cheaper: the requests they came with are real.",
    ),
    "workload.tokens_per_day.output": Entry(
        description="Answer tokens of a whole day, reasoning included.",
        source="The output column of a provider's bill, or the engine's generation-token counter over a day.",
        importance="Divided by the answer length it is a number of requests; of input and output the larger number counts.",
        common_errors="Counting visible text only, where reasoning tokens are billed and generated as well.",
    ),
    "workload.tokens_per_day.total": Entry(
        description="Prompt and answer tokens of a day together, in place of the two.",
        source="A usage page that shows a single sum.",
        importance="Divided by the length of a whole request it is the number of requests of the day.",
        common_errors="Giving it beside input or output; guessing the lengths, on which the number of requests then depends entirely.",
    ),
    "workload.peak": Entry(
        description="How the peak follows from a mean rate: by a Poisson percentile, by a factor, or none.",
        source="Rates by the minute over some weeks of logs, if there are any.",
        importance="Latency is promised at the peak, so the peak decides the replicas.",
        common_errors="Writing none for a mean over a day, which sizes the fleet for a rate that half the seconds exceed.",
    ),
    "workload.peak.poisson_percentile": Entry(
        description="The percentile of arrivals in one second that counts as the peak; 95 when nothing is said.",
        source="A choice: how many seconds of the busy hour may bring more than was sized for.",
        importance="Matters most at low rates, where chance alone doubles a second; at hundreds a second it hardly moves the peak.",
        common_errors="Expecting it to cover campaigns or the time of day: it knows chance alone.",
    ),
    "workload.peak.factor": Entry(
        description="The peak as a multiple of the mean, in place of the Poisson percentile.",
        source="Logs: the busiest minute divided by the mean rate you state.",
        importance="The fleet grows in proportion to it.",
        common_errors="Taking the factor of a daily mean and applying it to the mean of the busy hour, which counts the same rise twice.",
    ),
    "workload.batch": Entry(
        description="Offline work: so many requests, by a deadline or at a promised throughput; nobody waits for one of them.",
        source="The owner of the job and of the data set.",
        importance="Only throughput counts, so batches may be large and GPUs full.",
        common_errors="Describing interactive traffic as a batch because the daily total is at hand.",
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
    "workload.prompt.system": Entry(
        description="The instructions put before every prompt: role, rules, tool descriptions, examples.",
        source="The application's code or its prompt templates, counted with the model's tokenizer.",
        importance="Paid for in every request; being the same each time, it is what the prefix cache can hold.",
        common_errors="Forgetting tool schemas, which are often longer than the instructions themselves.",
    ),
    "workload.prompt.retrieved": Entry(
        description="What retrieval adds to a prompt: passages, search results, table rows.",
        source="The retriever's settings: passages per question times the length of a passage.",
        importance="Usually the largest part of a prompt, and different each time, so no cache helps.",
        common_errors="Counting one passage where ten are inserted; ignoring titles and separators.",
    ),
    "workload.prompt.history": Entry(
        description="Earlier turns of the conversation that are sent again with each question.",
        source="Logs of conversations: questions and answers before the current one, as far as the application keeps them.",
        importance="Grows with each turn; the mean over all turns is what counts, and its tail fills the cache.",
        common_errors="Using the length at the end of a conversation as if every turn had it, or the first turn's, which has none.",
    ),
    "workload.prompt.question": Entry(
        description="What the person wrote this time.",
        source="Logs of a pilot, or a handful of typical questions counted.",
        importance="Mostly short, but in summarising and coding it is the whole document.",
        common_errors="Taking it for the whole prompt.",
    ),
    "workload.prompt.images": Entry(
        description="Pictures that come with a prompt, each turned into tokens by the model.",
        source="The product: how many pictures a request carries, and at what resolution.",
        importance="A picture weighs as much as a page or more of text in prefill and cache.",
        common_errors="Leaving them out because they are not text.",
    ),
    "workload.prompt.images.count": Entry(
        description="Mean number of pictures per prompt; 0.2 is one in every fifth.",
        source="Logs: pictures sent divided by requests.",
        importance="Multiplies the tokens of one picture.",
        common_errors="Giving the upload limit instead of the mean.",
    ),
    "workload.prompt.images.tokens_each": Entry(
        description="Tokens the model makes of one picture of your usual size.",
        source="The model's card or its image processor, at the resolution you send.",
        importance="From under a hundred to several thousand, depending on model and resolution.",
        common_errors="Carrying a figure over from another model; forgetting that large pictures are cut into tiles.",
    ),
    "workload.answer.reasoning": Entry(
        description="Tokens a reasoning model generates before what is shown.",
        source="The engine's or the provider's count of reasoning tokens on your own tasks.",
        importance="Generated at the same pace as the rest, and people see nothing of it while it runs.",
        common_errors="Leaving it at nothing because it is invisible.",
    ),
    "workload.answer.visible": Entry(
        description="Tokens of the answer that people read.",
        source="Logs of answers, counted with the tokenizer.",
        importance="With the reasoning before it, it is how long a request occupies its cache.",
        common_errors="Giving it alone for a model that reasons first.",
    ),
    "workload.words_per_token": Entry(
        description="Words in one token, to turn lengths in words into tokens; 0.75 is usual for English.",
        source="The tokenizer run over a page of your own text: words divided by tokens.",
        importance="Every length that is stated in words, and the reading speed, follow from it.",
        common_errors="Keeping the English value for German, Arabic or source code, which need more tokens for the same text.",
    ),
    "workload.tokenizer": Entry(
        description="A tokenizer.json with which texts named by file are counted.",
        source="The model's hub page, among its files.",
        importance="Turns an estimate by words into a count.",
        common_errors="Using another model's tokenizer: vocabularies differ by a third and more.",
    ),
    "workload.calls": Entry(
        description="The model calls that one request of a person sets off, in their order.",
        source="A trace of one request through the application.",
        importance="The load of the fleet is that of all calls, while the promises hold for the chain as a whole.",
        common_errors="Sizing for the final answer and forgetting the rewriting, routing and checking around it.",
    ),
    "workload.calls.name": Entry(
        description="What the report calls this call.",
        source="You: the step's name in the application.",
        importance="Tells the calls of a chain apart.",
        common_errors="Calling two steps alike.",
    ),
    "workload.calls.model": Entry(
        description="The model of this call; left out, the one at the top of the study.",
        source="The application's configuration for that step.",
        importance="Each model of a chain gets replicas of its own.",
        common_errors="Naming a large model for a small step because one endpoint was at hand.",
    ),
    "workload.calls.repeats": Entry(
        description="How many times this call is made, one after the other, for one request.",
        source="Traces: the mean number of turns of an agent's loop.",
        importance="Multiplies the load and the waiting time of that call.",
        common_errors="Giving the limit of the loop instead of its mean.",
    ),
    "length.p50": Entry(
        description="The median of a length: half of the requests are at most so long.",
        source="A histogram of the engine's token counts, or a sorted sample of real requests.",
        importance="With a higher percentile it gives a mean that nobody has measured.",
        common_errors="Entering it as the mean: lengths have long tails, so their mean lies well above the median.",
    ),
    "length.p90": Entry(
        description="The length that nine of ten requests do not exceed.",
        source="A histogram of the engine's token counts, or a sorted sample of real requests.",
        importance="Says how far lengths scatter; long requests hold cache and delay others.",
        common_errors="Reading it off a sample of a few dozen requests.",
    ),
    "length.p95": Entry(
        description="The length that 95 % of the requests do not exceed.",
        source="A histogram of the engine's token counts, or a sorted sample of real requests.",
        importance="Says how far lengths scatter, and so how bad the slow end of the latencies is.",
        common_errors="Entering the context limit or max_tokens, which few requests reach.",
    ),
    "length.p99": Entry(
        description="The length that 99 % of the requests do not exceed.",
        source="A histogram over at least some thousand requests.",
        importance="Shapes the far tail, where the promises at p99 are decided.",
        common_errors="Taking the longest request ever seen.",
    ),
    "length.distribution": Entry(
        description="The shape of a length: lognormal, normal, uniform, exponential or constant, instead of percentiles.",
        source="A look at the histogram; text written by people is close to lognormal.",
        importance="Two loads with one mean but different tails need different fleets.",
        common_errors="Leaving it constant for traffic that varies, which makes every percentile look like the mean.",
    ),
    "length.cv": Entry(
        description="Standard deviation of a length divided by its mean.",
        source="Computed from a sample of token counts.",
        importance="0 is every request alike; near 1 the long ones set the latency of all.",
        common_errors="Giving the standard deviation in tokens.",
    ),
    "length.file": Entry(
        description="A text whose length is counted, in place of a number.",
        source="A typical prompt or answer of your own, saved as plain text.",
        importance="Saves counting by hand; with a tokenizer the count is exact.",
        common_errors="Choosing the longest example at hand as if it were the mean.",
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
    "promises": Entry(
        description="What people who wait are promised: limits on percentiles of times, each to be kept at peak.",
        source="The product owner; a contract where there is one.",
        importance="Decides which options are thrown out before any price is compared.",
        common_errors="Promising more than anybody notices: each limit costs GPUs.",
    ),
    "promises.mode": Entry(
        description="How answers are delivered: streaming, sequential (all at once) or offline.",
        source="The application: whether it shows tokens as they come.",
        importance="Says which promises make sense; left out, it follows from the promises given.",
        common_errors="Promising a first token where the caller only ever sees the whole answer.",
    ),
    "promises.wait": Entry(
        description="The longest wait before the answer begins, for a stated percentile: another word for ttft.",
        source="The product's promise, in the words of people who do not speak of tokens.",
        importance="The same limit as ttft; say one of the two.",
        common_errors="Counting from the click while network and gateway are left out of the study.",
    ),
    "throughput": Entry(
        description="Output tokens per second that offline work must reach over the whole fleet; in place of a deadline.",
        source="Tokens to write divided by the time there is for them.",
        importance="With it, the size of the fleet follows from the throughput of one replica.",
        common_errors="Confusing it with the speed of a single answer, which is tokens_per_second.",
    ),
    # ── what may be bought ──
    "gpu": Entry(
        description="The kinds of GPU to compare, by catalog name; none given means the whole catalog, unless servers are named.",
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
        description="What is bought, and lost, as one: servers for whole machines, gpus for single GPUs.",
        source="How the offer reads: a vendor sells a baseboard of eight as a server, a cloud may rent single cards.",
        importance="Whole servers round the fleet up and fail with all their GPUs; single GPUs are counted, and lost, by the replica.",
        common_errors="Choosing gpus for parts that are only sold eight on a baseboard, which hides up to seven GPUs of the bill.",
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
    "hardware": Entry(
        description="What may be bought, at which prices, in which arrangements.",
        source="Procurement, the cloud contract, the data centre.",
        importance="The answer is the best of what this allows.",
        common_errors="Narrowing it to the GPU already favoured, so that nothing else can turn out better.",
    ),
    "catalog": Entry(
        description="Your own TOML files of GPUs, servers, models or prices, laid over the built-in catalog.",
        source="Datasheets and quotes you hold; docs/catalog.md lists the keys.",
        importance="The way to size hardware or terms the built-in rows do not know.",
        common_errors="Copying a marketing figure with sparsity into the dense speed.",
    ),
    "limits": Entry(
        description="Hard limits on the recommended fleet: cost per hour and number of GPUs.",
        source="The budget and the quota.",
        importance="What exceeds one is rejected with that as its reason.",
        common_errors="Setting them as wishes: when all options break one, the answer is that there is none.",
    ),
    "existing": Entry(
        description="The machines owned today, which the report compares with what is needed.",
        source="The inventory of the data centre or the cloud account.",
        importance="Adds a sentence on which scenario today's fleet reaches and what is missing.",
        common_errors="Expecting it to change the search: the fleet is sized as if from nothing.",
    ),
    "existing.server": Entry(
        description="Catalog name of the servers owned today.",
        source="The inventory; the exact model decides GPU, memory and links.",
        importance="Says what today's fleet consists of, in whole machines.",
        common_errors="Naming server and GPU together; one of them is enough.",
    ),
    "existing.gpu": Entry(
        description="Catalog name of the GPUs owned today, where they are not whole servers.",
        source="nvidia-smi or its like on a node, or the cloud's instance type.",
        importance="Says what today's fleet consists of, GPU by GPU.",
        common_errors="Naming a family whose parts differ in memory, as 40 and 80 GB versions do.",
    ),
    "existing.count": Entry(
        description="How many servers, or GPUs where those are named, are owned today.",
        source="The inventory, less what is promised to others.",
        importance="Compared with each scenario to say what must be added.",
        common_errors="Counting GPUs while a server is named, which makes the fleet eight times as large.",
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
    "hardware.allow_tp_beyond_domain": Entry(
        description="Whether one replica's tensor parallelism may leave the group of GPUs with fast links.",
        source="Leave it false unless the network between servers was built for it.",
        importance="Opens arrangements whose every layer waits for the slower network.",
        common_errors="Switching it on to make a large model fit, where pipeline stages would cost less.",
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
    "memory": Entry(
        description="How much of the GPU memory the plan may fill with cache, and how much other things take.",
        source="Operations policy, and measurements on a running engine.",
        importance="What is left for cache decides the sessions and the batch.",
        common_errors="Tuning it before the dtype of the cache is settled, which matters twice as much.",
    ),
    "runtime_overhead": Entry(
        description="Memory of one server that is not cache: weights, activations and buffers, as one stated amount.",
        source="Leave it out to have it computed; or read it from nvidia-smi on an idle engine.",
        importance="Everything it takes is not there for sessions.",
        common_errors="Using a figure for one size of model with another; forgetting that each replica holds its own weights.",
    ),
    "scenarios": Entry(
        description="The three fleets that are compared: minimum, recommended and ideal, by what each holds back.",
        source="Operations policy.",
        importance="The search is for the recommended one; the others show the price of less and of more.",
        common_errors="Reading the minimum as a proposal: it has nothing left when a machine fails.",
    ),
    "scenarios.minimum": Entry(
        description="The fleet that just carries the load: no headroom and no spare unless stated.",
        source="Leave it as it is; it is the yardstick for the other two.",
        importance="Shows what the load alone costs.",
        common_errors="Buying it because it is the cheapest column.",
    ),
    "scenarios.recommended": Entry(
        description="The fleet the search is for: 20 % headroom and one spare unit unless stated.",
        source="Operations policy on growth and failures.",
        importance="The headline, the limits and the costs are those of this scenario.",
        common_errors="Changing it to reach a price and still calling the result recommended.",
    ),
    "scenarios.ideal": Entry(
        description="The same arrangement with more held back: 30 % headroom and two spare units unless stated.",
        source="What a service may need whose failure is dear.",
        importance="Shows the price of a second failure and of faster growth.",
        common_errors="Expecting other GPUs in it: only their number differs.",
    ),
    "scenarios.kv_budget_fraction": Entry(
        description="The cache share of one scenario, in place of that of the memory section; the ideal takes at most 65 % unless stated.",
        source="Operations policy; a smaller share is a larger reserve.",
        importance="Fewer sessions per server, hence more servers, and more room for long contexts.",
        common_errors="Raising it in the ideal scenario, which takes away what that one is for.",
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
