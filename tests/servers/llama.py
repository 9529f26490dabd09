"""A real LLM server: llama.cpp with continuous batching, on a tiny model of random weights.

`with llama_server() as url:` is an OpenAI-compatible API at `url` (it ends in /v1), in a process of
its own that ends with the block, or with the process that opened it. Its tokenizer makes one token
of each of tonnage's synthetic words, so that `prompt_tokens` of a chat is words + 1.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tonnage.measurement.load.synthetic import WORDS

MODEL = "tiny"
CONTEXT_TOKENS = 2048  # of each sequence
START_TIMEOUT_S = 60.0

_ROOT = Path(__file__).parents[2]
_LAYERS, _HEADS, _WIDTH, _INNER = 2, 4, 64, 128
# The space before a message makes its first word the token it is everywhere else.
CHAT_TEMPLATE = "{% for message in messages %} {{ message['content'] }}\n{% endfor %}"
END = "<|end|>"


@contextmanager
def llama_server(*, parallel: int = 4) -> Iterator[str]:
    """Base URL of a server that decodes `parallel` sequences at once and queues the rest."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, folder, str(parallel)],
            stdin=subprocess.PIPE,  # closed when we end, however we end: then so does the server
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
                url = process.stdout.readline().decode().strip() if ready else ""
                if not url:
                    log.seek(0)
                    raise RuntimeError(f"llama.cpp did not start: {log.read().decode()[-2000:]}")
                yield f"{url}/v1"
            finally:
                process.kill()  # its state is worth nothing, and its threads need not agree


def vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges of a byte-level BPE: printable ASCII, and each word after a space.

    Merges of words are ranked by the length of what they make, so that a word is always put
    together from its space onwards, whatever pairs of letters other words have. Every token is
    ASCII: each one that is generated is shown at once.
    """
    tokens = ["Ġ", "Ċ", *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    starts = {f"Ġ{word}"[:length] for word in WORDS for length in range(2, len(word) + 2)}
    merged = sorted(starts, key=lambda start: (len(start), start))
    return [*tokens, *merged, END], [(start[:-1], start[-1]) for start in merged]


def write_model(path: Path, *, seed: int = 0) -> None:
    """A Llama of two layers with random weights, in GGUF."""
    import gguf  # noqa: PLC0415 — the tokenizer alone is used where it is not installed

    tokens, merges = vocabulary()
    normal, control = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
    end = len(tokens) - 1
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(MODEL)
    writer.add_block_count(_LAYERS)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([normal] * end + [control])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)  # noqa: FBT003 — gguf's own signature
    writer.add_chat_template(CHAT_TEMPLATE)
    generator = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        weights = generator.normal(0, shape[-1] ** -0.5, shape)
        writer.add_tensor(f"{name}.weight", weights.astype(np.float32))

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))

    add("token_embd", len(tokens), _WIDTH)
    add("output", len(tokens), _WIDTH)
    add_norm("output_norm")
    for layer in range(_LAYERS):
        add_norm(f"blk.{layer}.attn_norm")
        add_norm(f"blk.{layer}.ffn_norm")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{part}", _WIDTH, _WIDTH)
        add(f"blk.{layer}.ffn_gate", _INNER, _WIDTH)
        add(f"blk.{layer}.ffn_up", _INNER, _WIDTH)
        add(f"blk.{layer}.ffn_down", _WIDTH, _INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _serve(folder: Path, parallel: int) -> None:
    import xllamacpp  # noqa: PLC0415 — as gguf above

    write_model(folder / "tiny.gguf")
    params = xllamacpp.CommonParams()
    params.model.path = str(folder / "tiny.gguf")
    params.model_alias = {MODEL}
    params.n_parallel = parallel
    params.n_ctx = CONTEXT_TOKENS * parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_threads_http = parallel + 4
    params.port = 0
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # noqa: T201 — how the address reaches the parent
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
