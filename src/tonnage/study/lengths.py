"""A length as people state it -> a distribution of tokens, with its arithmetic in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

from tonnage.evidence import Evidence
from tonnage.files import load_text
from tonnage.study.document import AnswerSection, LengthSection, PromptSection
from tonnage.study.quantities import TokenAmount
from tonnage.units import format_number
from tonnage.workload import PERCENTILES, Lengths

MAX_TEXT_BYTES = 20_000_000
MAX_NORMAL_CV = 0.5  # beyond, more than 2.3 % of a normal distribution would be negative
MAX_UNIFORM_CV = 1 / math.sqrt(3)  # beyond, a uniform distribution reaches below zero


class ImpossibleLengthError(Exception):
    """No distribution is like this. `field` is the key below the length, "" the length itself."""

    def __init__(self, field_name: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.field, self.message, self.hint = field_name, message, hint


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCount:
    """How long a text is: its words, and its tokens when a tokenizer counted them."""

    words: int
    tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reckoning:
    """A distribution, how it is known, and what was done to reach it.

    `formula` is the arithmetic for people, "" when there was none; `used_words` tells whether
    words became tokens on the way.
    """

    lengths: Lengths
    evidence: Evidence = Evidence.DATASHEET
    formula: str = ""
    used_words: bool = False
    notes: tuple[str, ...] = ()
    cached_share: float = 0.0
    cached_formula: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reckoner:
    """Turns length sections into distributions. `texts` holds the counted files by stated name."""

    words_per_token: float
    texts: Mapping[str, TextCount] = field(default_factory=dict)

    def prompt(self, section: PromptSection) -> Reckoning:
        """A prompt: the sum of its terms or one length, and the cached part of it."""
        terms = {
            name: self.single(part, name)
            for name in ("system", "retrieved", "history", "question")
            if (part := getattr(section, name)) is not None
        }
        if section.images is not None:
            count, each = section.images.count, section.images.tokens_each
            terms["images"] = Reckoning(
                lengths=Lengths.constant(count * each.tokens(self.words_per_token)),
                used_words=each.unit == "words",
            )
        return self._with_cache(self._sum_or_single(section, terms), section)

    def answer(self, section: AnswerSection) -> Reckoning:
        """An answer: reasoning plus what is shown, or one length."""
        terms = {
            name: self.single(part, name)
            for name in ("reasoning", "visible")
            if (part := getattr(section, name)) is not None
        }
        return self._sum_or_single(section, terms)

    def single(self, section: LengthSection, at: str = "") -> Reckoning:
        """One length. Raises ImpossibleLengthError where no distribution is like what is stated."""
        try:
            return self._single(section)
        except ImpossibleLengthError as error:
            if at:
                error.field = f"{at}.{error.field}".rstrip(".")
            raise

    def _single(self, section: LengthSection) -> Reckoning:
        percentiles = {
            percentile: amount
            for percentile in PERCENTILES
            if (amount := getattr(section, f"p{percentile:.0f}")) is not None
        }
        if section.file is not None:
            if section.model_fields_set - {"file", "cached"}:
                raise ImpossibleLengthError(
                    "", "gives a file and a length.", "Keep one of the two."
                )
            return self._from_file(section.file)
        stated = [amount for amount in (section.mean, *percentiles.values()) if amount is not None]
        words = any(amount.unit == "words" for amount in stated)
        tokens = {p: amount.tokens(self.words_per_token) for p, amount in percentiles.items()}
        _refuse_disorder(tokens)
        mean, notes = self._mean(section.mean, tokens)
        if section.distribution is not None or section.cv is not None:
            if tokens:
                raise ImpossibleLengthError(
                    "", "gives percentiles and a distribution.", "Keep one of the two."
                )
            lengths = _distribution(section, mean)
        elif tokens:
            lengths, note = _from_percentiles(mean, tokens)
            notes = (*notes, note)
        else:
            lengths = Lengths.constant(mean)
        formula = ""
        if section.mean is not None and section.mean.unit == "words":
            formula = (
                f"{format_number(section.mean.amount)} words ÷ "
                f"{format_number(self.words_per_token)} words per token = {_tokens(mean)}"
            )
        return Reckoning(lengths=lengths, formula=formula, used_words=words, notes=notes)

    def _mean(
        self, mean: TokenAmount | None, tokens: Mapping[float, float]
    ) -> tuple[float, tuple[str, ...]]:
        """The mean stated, or that of the lognormal through the median and a percentile."""
        if mean is not None:
            return mean.tokens(self.words_per_token), ()
        upper = max(tokens, default=0.0)
        median = tokens.get(50.0)
        if median is None or upper == 50.0:  # noqa: PLR2004 — the median
            raise ImpossibleLengthError("mean", "is missing.", 'Give "350 tokens" or "600 words".')
        z = _z(upper)
        sigma = math.log(tokens[upper] / median) / z
        value = median * math.exp(sigma**2 / 2)
        return value, (f"mean {_tokens(value)} from p50 and p{upper:.0f} of a lognormal",)

    def _from_file(self, name: str) -> Reckoning:
        count = self.texts[name]
        if count.tokens is not None:
            return Reckoning(
                lengths=Lengths.constant(count.tokens),
                evidence=Evidence.MEASURED,
                formula=f"{name} holds {_tokens(count.tokens)} by its tokenizer",
            )
        tokens = count.words / self.words_per_token
        return Reckoning(
            lengths=Lengths.constant(tokens),
            evidence=Evidence.ASSUMED,
            formula=f"{name}: {count.words:,} words ÷ {format_number(self.words_per_token)} "
            f"words per token = {_tokens(tokens)}",
            used_words=True,
        )

    def _sum_or_single(self, section: LengthSection, terms: Mapping[str, Reckoning]) -> Reckoning:
        if not terms:
            result = self._single(section)
        elif section.model_fields_set & set(LengthSection.model_fields):
            raise ImpossibleLengthError(
                "", f"gives both a length and terms ({', '.join(terms)}).", "Keep one of the two."
            )
        else:
            result = _sum_of(terms)
        if result.lengths.mean_tokens < 1:
            raise ImpossibleLengthError("", "is shorter than one token.")
        return result

    def _with_cache(self, result: Reckoning, section: PromptSection) -> Reckoning:
        if section.cached is None:
            return result
        prompt = result.lengths.mean_tokens
        amount, share = section.cached.amount, section.cached.share
        if amount is not None:
            cached = amount.tokens(self.words_per_token)
            if cached > prompt:
                raise ImpossibleLengthError(
                    "cached",
                    f"is longer than the prompt: {_tokens(cached)} of {_tokens(prompt)}.",
                    "It is the part of the prompt that is found in the prefix cache.",
                )
            share = cached / prompt
        else:
            cached = (share or 0.0) * prompt
        return Reckoning(
            lengths=result.lengths,
            evidence=result.evidence,
            formula=result.formula,
            used_words=result.used_words or (amount is not None and amount.unit == "words"),
            notes=result.notes,
            cached_share=share or 0.0,
            cached_formula=f"{_tokens(cached)} cached of {_tokens(prompt)}",
        )


def count_text(path: Path, tokenizer: Any | None) -> TextCount:  # noqa: ANN401 — optional part
    """Words of a UTF-8 text, and its tokens by `tokenizer` (a `tokenizers.Tokenizer`)."""
    text = load_text(path, limit_bytes=MAX_TEXT_BYTES)
    tokens = (
        None if tokenizer is None else len(tokenizer.encode(text, add_special_tokens=False).ids)
    )
    return TextCount(words=len(text.split()), tokens=tokens)


def _sum_of(terms: Mapping[str, Reckoning]) -> Reckoning:
    """Means add; variances add, as for independent parts; a varying sum is taken as lognormal."""
    mean = math.fsum(term.lengths.mean_tokens for term in terms.values())
    deviation = math.hypot(*(term.lengths.standard_deviation_tokens for term in terms.values()))
    varies = deviation > 0 and mean > 0
    parts = " + ".join(
        f"{format_number(term.lengths.mean_tokens)} {name}" for name, term in terms.items()
    )
    notes = [f"{name} {note}" for name, term in terms.items() for note in term.notes]
    if varies:
        notes.append("the sum of its terms is taken as lognormal, their variances added")
    return Reckoning(
        lengths=Lengths(kind="lognormal", mean_tokens=mean, cv=deviation / mean)
        if varies
        else Lengths.constant(mean),
        evidence=min(term.evidence for term in terms.values()),
        formula=f"{parts} = {_tokens(mean)}",
        used_words=any(term.used_words for term in terms.values()),
        notes=tuple(notes),
    )


def _distribution(section: LengthSection, mean: float) -> Lengths:
    kind, cv = section.distribution or "lognormal", section.cv
    if kind == "constant":
        if cv:
            raise ImpossibleLengthError("cv", "must be 0 for a constant length.", "Leave it out.")
        return Lengths.constant(mean)
    if kind == "exponential":
        if cv not in {None, 1.0}:
            raise ImpossibleLengthError("cv", "of an exponential is always 1.", "Leave it out.")
        return Lengths(kind=kind, mean_tokens=mean, cv=1.0)
    if cv is None:
        raise ImpossibleLengthError(
            "cv", "is missing:", f"a {kind} needs its standard deviation ÷ mean, for example 0.5."
        )
    limit = {"normal": MAX_NORMAL_CV, "uniform": MAX_UNIFORM_CV}.get(kind, math.inf)
    if cv > limit:
        raise ImpossibleLengthError(
            "cv",
            f"of a {kind} may be at most {format_number(limit)}: lengths would fall below zero.",
            "Use lognormal for a wider spread.",
        )
    return Lengths(kind=kind, mean_tokens=mean, cv=cv)


def _from_percentiles(mean: float, tokens: Mapping[float, float]) -> tuple[Lengths, str]:
    """The lognormal of this mean through one percentile: p95 first, then p99, p90, p50."""
    for percentile, value in tokens.items():
        if mean > 0 and (value >= mean if percentile == 50.0 else value <= mean):  # noqa: PLR2004
            side = "below" if percentile == 50.0 else "above"  # noqa: PLR2004 — the median
            raise ImpossibleLengthError(
                f"p{percentile:.0f}",
                f"({_tokens(value)}) must lie {side} the mean ({_tokens(mean)}).",
                "Lengths have a long tail; leave the percentile out if they do not vary.",
            )
    chosen = next(percentile for percentile in (95.0, 99.0, 90.0, 50.0) if percentile in tokens)
    try:
        lengths = Lengths.lognormal_from_percentile(
            mean_tokens=mean, percentile=chosen, tokens=tokens[chosen]
        )
    except (ValueError, ArithmeticError):
        hint = "Check both, or state a distribution with its cv."
        if chosen > 50.0 and mean > 0:  # noqa: PLR2004 — the median
            limit = mean * math.exp(_z(chosen) ** 2 / 2)
            hint = f"With this mean it can be at most {_tokens(limit)}. {hint}"
        raise ImpossibleLengthError(
            f"p{chosen:.0f}",
            f"({_tokens(tokens[chosen])}) is too far from the mean ({_tokens(mean)}).",
            hint,
        ) from None
    note = f"taken as lognormal with this mean and p{chosen:.0f}"
    others = [
        f"p{p:.0f} {_tokens(lengths.percentile_tokens(p))} instead of {_tokens(value)}"
        for p, value in tokens.items()
        if p != chosen
    ]
    return lengths, note + (f", which has {' and '.join(others)}" if others else "")


def _refuse_disorder(tokens: Mapping[float, float]) -> None:
    ordered = sorted(tokens.items())
    for (low, low_tokens), (high, high_tokens) in pairwise(ordered):
        if high_tokens < low_tokens:
            raise ImpossibleLengthError(
                f"p{high:.0f}", f"({_tokens(high_tokens)}) is less than p{low:.0f}.", "Swap them?"
            )


def _z(percentile: float) -> float:
    return NormalDist().inv_cdf(percentile / 100)


def _tokens(value: float) -> str:
    return f"{format_number(round(value, 1))} tokens"
