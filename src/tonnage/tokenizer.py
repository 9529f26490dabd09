"""A tokenizer.json -> what counts the tokens of a text.

The `tokenizers` package is an extra: an exact count is worth it only where a user asks for one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tonnage.errors import InputError, MissingExtraError
from tonnage.files import load_text

MAX_TOKENIZER_BYTES = 200_000_000


def load_tokenizer(path: Path) -> Any:  # noqa: ANN401 — optional part
    """A tokenizers JSON file -> its `tokenizers.Tokenizer`."""
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 — optional, and heavy
    except ImportError:
        raise MissingExtraError(
            "Counting the tokens of a text needs the tokenizers package.",
            hint='pip install "tonnage[tokenizers]", or leave the tokenizer out.',
        ) from None
    text = load_text(path, limit_bytes=MAX_TOKENIZER_BYTES)
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001 — the package raises nothing narrower
        raise InputError(f"is not a tokenizer: {error}.", file=str(path)) from None
