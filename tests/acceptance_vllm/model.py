"""A folder -> a Llama of 26 million random weights in it, with its tokenizer, ready for vLLM.

Run by the Python that has vLLM: `python -m tests.acceptance_vllm.model FOLDER`. Large enough that a
step of a batch on a CPU costs more than vLLM's own bookkeeping, and small enough to start at once.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from tests.servers.llama import CHAT_TEMPLATE, CONTEXT_TOKENS, END, vocabulary


def write_model(folder: Path) -> None:
    """Weights, configuration and tokenizer as `from_pretrained` reads them."""
    tokenizers: Any = importlib.import_module("tokenizers")
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    tokens, merges = vocabulary()
    end = len(tokens) - 1
    bpe = tokenizers.models.BPE({token: number for number, token in enumerate(tokens)}, merges)
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=end,
        eos_token_id=end,
        tie_word_embeddings=False,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
