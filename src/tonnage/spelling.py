"""A word that is not known -> the known ones it was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHORTEST_BEGINNING = 3  # letters; fewer begin too many names
NEAR = 0.1  # a name may be so much less alike than the nearest and still be told


def nearest(word: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.6) -> list[str]:
    """The names that `word` was probably meant to be, the likeliest first; at most `most`.

    Names with the same letters come alone, then names that begin with `word`, then those that
    are about as alike as the nearest one and by no less than `cutoff` (difflib's ratio, 0 to 1).
    """
    names = list(dict.fromkeys(known))
    swapped = [name for name in names if sorted(name) == sorted(word)]
    begun = [name for name in names if len(word) >= SHORTEST_BEGINNING and name.startswith(word)]
    if swapped or begun:
        return (swapped or begun)[:most]
    alike = difflib.get_close_matches(word, names, n=most, cutoff=cutoff)
    ratios = {name: difflib.SequenceMatcher(None, name, word).ratio() for name in alike}
    return [name for name in alike if ratios[name] >= ratios[alike[0]] - NEAR]
