"""The flags of `tonnage measure`: a table, as light as help needs it."""

from __future__ import annotations

from tonnage.cli.flags import Flag, percentile_flags
from tonnage.cli.flags import own_flag as _flag
from tonnage.cli.workers import worker_flags

TARGET = "What is asked, and how"
LOAD = "How much is asked"
PROMPTS = "Which prompts"
LIMITS = "What is promised (for --search, and to mark the levels that keep it)"
SERVER = "What answers (kept with the run)"


DEFAULT_CONCURRENCIES = "1,2,4,8,16"
DEFAULT_PROMPT_TOKENS, DEFAULT_OUTPUT_TOKENS = 512, 128


FLAGS: tuple[Flag, ...] = (
    _flag("--api", TARGET, "NAME",
          "chat (default for a URL) or completions, OpenAI-compatible; nat, a server of NeMo Agent"
          " Toolkit; json, any other HTTP workflow."),
    _flag("--model", TARGET, "NAME", "Model to ask for; left out, the only one the server has."),
    _flag("--api-key", TARGET, "VARIABLE",
          "Environment variable that holds the API key; the key itself is never written anywhere."),
    _flag("--header", TARGET, "NAME=VARIABLE",
          "Header to send, its value from an environment variable; repeatable.", many=True),
    _flag("--body", TARGET, "JSON", "More keys of the request: '{\"temperature\": 0}'."),
    _flag("--request-template", TARGET, "JSON",
          'Of --api json, the request: \'{"input": "$prompt"}\'. Also $item and $field.NAME.'),
    _flag("--answer-path", TARGET, "PATH",
          "Of --api json, where the answer stands: choices.0.message.content."),
    _flag("--tokenizer", TARGET, "FILE",
          "A tokenizer.json: synthetic prompts to the exact token, and a count where the server"
          " gives none."),
    _flag("--timeout", TARGET, "TIME", 'The longest a request may take: "5 min" (default).'),
    _flag("--stall-timeout", TARGET, "TIME",
          'The longest silence within an answer: "60 s" (default).'),
    _flag("--record-llm", TARGET, "URL",
          "Put a recording proxy before this OpenAI-compatible API and give its address to the"
          " command after --, in OPENAI_BASE_URL."),
    # ── load ──
    _flag("--concurrency", LOAD, "LIST",
          f'Closed loop: clients that send, wait and send again: "1,2,4,…,128". Default'
          f" {DEFAULT_CONCURRENCIES}."),
    _flag("--think-time", LOAD, "TIME", "Of --concurrency, the pause after each answer."),
    _flag("--rate", LOAD, "LIST",
          'Open loop: arrivals that wait for nobody: "2,4,8" requests/s.'),
    _flag("--arrivals", LOAD, "PROCESS",
          "Of --rate: poisson (default), constant, or gamma with --burstiness."),
    _flag("--burstiness", LOAD, "CV",
          "Of gamma arrivals, the standard deviation of the gaps over their mean; 1 is Poisson."),
    _flag("--trace", LOAD, "FILE",
          "Replay a recording: CSV or JSONL with arrival_s, input_tokens, output_tokens."),
    _flag("--search", LOAD, "WHAT",
          "Find the highest rate or concurrency that keeps the promises below, starting at the"
          " first of --rate or --concurrency."),
    _flag("--duration", LOAD, "TIME", 'Each level measures for so long: "30 s" (default).'),
    _flag("--requests", LOAD, "COUNT",
          "Each level measures so many; without --duration, only these."),
    _flag("--warmup", LOAD, "TIME|COUNT",
          "Before each level, in no latency: a time or a number of requests (default: one request a"
          " client, or 5 s)."),
    _flag("--ramp", LOAD, "TIME", "Clients start, or the rate rises, over this part of it."),
    _flag("--seed", LOAD, "N", "Arrivals and prompts are the same for the same seed (0)."),
    # ── prompts ──
    _flag("--dataset", PROMPTS, "FILE",
          "Prompts from JSON, JSONL, CSV, Parquet, ShareGPT or a text file with one a line."),
    _flag("--id-key", PROMPTS, "NAME", "Of --dataset, the column that names a row (id)."),
    _flag("--text-key", PROMPTS, "NAME", "Of --dataset, the column with the prompt (question)."),
    _flag("--prompt-tokens", PROMPTS, "N",
          f"Synthetic prompts of so many tokens (default {DEFAULT_PROMPT_TOKENS})."),
    _flag("--prompt-cv", PROMPTS, "CV",
          "Their standard deviation over their mean (lognormal); 0: all alike."),
    _flag("--output-tokens", PROMPTS, "N",
          f"Force answers to so many tokens (default {DEFAULT_OUTPUT_TOKENS} for synthetic prompts,"
          " unforced for a dataset)."),
    _flag("--output-cv", PROMPTS, "CV", "As --prompt-cv, of the answers."),
    _flag("--shared-prefix-tokens", PROMPTS, "N",
          "Leading tokens that the prompts of a group share, for a prefix cache to find."),
    _flag("--prefix-groups", PROMPTS, "N", "How many different prefixes there are (1)."),
    _flag("--turns", PROMPTS, "N", "Prompts of one conversation, each with what was said before."),
    # ── limits ──
    *percentile_flags("ttft", "ttft", "TIME", 'Time to first token at most: "1.5 s".',
                      group=LIMITS),
    *percentile_flags("tpot", "tpot", "TIME", 'Time per output token at most: "50 ms".',
                      group=LIMITS),
    *percentile_flags("e2e", "e2e", "TIME", 'Whole answer within: "12 s".', group=LIMITS),
    # ── processes ──
    *worker_flags("load"),
    # ── server ──
    _flag("--gpus", SERVER, "N", "How many GPUs serve it."),
    _flag("--gpu", SERVER, "NAME", "Which GPU serves it; a catalog name lets it be sized."),
    _flag("--name", SERVER, "TEXT", "Name of the run."),
)  # fmt: skip
