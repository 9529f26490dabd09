"""A number of tokens and a seed -> a text of that many, unlike every other.

A text is common short words with a space between them. Each of `WORDS` is one token, at the start
of a text and after a space, in every vocabulary that was tried: cl100k and o200k (GPT-4 and later;
Llama 3 and Qwen extend the first), Claude's, Mistral's of SentencePiece (32k) and Tekken (131k).
Others are not known to count alike: give a tokenizer, or read what the server counted.

Which words is drawn by SHAKE-128, a byte to a word, so that any text of a stream can be made
without those before it, and the same everywhere.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tonnage.errors import UnsupportedError

_COMMON = """
able act add age ago air all also and any area arm art ask away back bad bag ball bank bar base
bed best big bird bit blue boat body bone book born both box boy burn bus but buy call camp can
car card care case cat city code come cool copy corn cost cup cut dark data date day dead deal
deep do dog door down draw drop each ear edge egg else end even ever eye face fact fall fast
feed file fill find fine fire fish five fix flag flat flow fly food foot form four free full fun
game gas gate get gift girl give go gold good gray hair half hall hand hard hat have head heat
help here high hill hit hold hole home hot hour how ice idea inch iron item job join just keep
key kind king know lake land last late law lead leaf left leg less let life like line lion list
live lock long look lose lost lot love low mail main make man many map mark may meal mean mile
mind miss more most move much must name near need net new news next nice none note now off old
once one only open out over own page pair park part pass past path pay pen plan play post pot
pull push put race rain rate red row run say sea see set sit six sky son sun tea ten too top try
two up use war way who why yes yet you
"""
WORDS = tuple(_COMMON.split())
_WORD_COUNT = 256  # as many as a byte has values
_LEAD = 4  # words that number the texts of a stream
_ODD = 0x9E3779B1  # odd, so that multiplying by it permutes numbers of _LEAD bytes


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes texts of words that are one token each."""

    words: tuple[str, ...] = WORDS

    def text(self, tokens: int, *, stream: str, index: int) -> str:
        """The text at `index` of `stream`: the start of one endless text of its own.

        No two of a stream begin with the same four words, or with the same n where texts are of
        n < 4 words and there are no more than 256^n of them; so none finds another's prefix cached.
        """
        number = (index * _ODD + _offset(stream)) % 256**_LEAD
        lead = number.to_bytes(_LEAD, "little")  # the low byte alone already differs
        rest = hashlib.shake_128(f"{stream}/{index}".encode()).digest(max(tokens - _LEAD, 0))
        words = self.words
        return " ".join([words[byte] for byte in (lead + rest)[:tokens]])


def writer_for(tokenizer: Any) -> Writer:  # noqa: ANN401 — optional part
    """A writer whose every word is one token of `tokenizer` (a `tokenizers.Tokenizer`).

    Ours where they are, and words of its own vocabulary in the place of those that are not. Raises
    UnsupportedError for a tokenizer without 256 words of one token.
    """
    own = sorted(word.lstrip("Ġ▁") for word in tokenizer.get_vocab())  # marks of a space before
    candidates = dict.fromkeys(
        (*WORDS, *(word for word in own if word.isascii() and word.isalpha()))
    )
    single = (
        word
        for word in candidates
        if _count(f"{word} {word}", tokenizer) == 2  # noqa: PLR2004 — at the start and after a space
    )
    words = tuple(islice(single, _WORD_COUNT))
    if len(words) < _WORD_COUNT or _count(" ".join(words), tokenizer) != _WORD_COUNT:
        raise UnsupportedError(
            "This tokenizer has too few words of one token to write texts of a given length.",
            hint="Leave the tokenizer out, and read how many tokens the server counts.",
        )
    return Writer(words)


def _count(text: str, tokenizer: Any) -> int:  # noqa: ANN401 — as above
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


@functools.cache  # there is a stream for each kind of text, and a text for each request
def _offset(stream: str) -> int:
    """Where the numbering of a stream begins, so that two streams do not begin alike."""
    return int.from_bytes(hashlib.shake_128(stream.encode()).digest(_LEAD))
