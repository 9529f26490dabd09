"""A Plan or a Capacity -> one Report, which every format renders.

The vocabulary of what is told. A `Report` says the same thing twice: `headline` and `sections` in
words for people, `data` in SI numbers for programs. Renderers (text, Markdown, JSON) add nothing
and drop nothing; they only know how their format looks. Build one with `build.report_plan` or
`capacity.report_capacity`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["", "good", "bad", "strong", "quiet"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: what people read, how it is toned, and the number behind it when there is one."""

    text: str
    tone: Tone = ""
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One column's heading and side; a `prose` column wraps, the others never do."""

    title: str
    align: Literal["left", "right"] = "left"
    prose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headings. `turns`: may be shown on its side where the page is too narrow."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    turns: bool = False


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something to know before buying: what it is, what it does to you, what to do."""

    severity: Literal["info", "warning", "critical"]
    cause: str
    impact: str
    action: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Commands:
    """Command lines to copy, each with what it is good for."""

    rows: tuple[tuple[str, str], ...]


Block = Table | Prose | Notice | Commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One heading and what stands under it. `detail`: left out of the text report for brevity."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    detail: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The answer: one label, one thing, the facts about it, and how sure it is."""

    label: str
    answer: str
    facts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tone: Tone = "strong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole answer: `subtitle` says what was asked, `headline` what to do."""

    title: str
    subtitle: tuple[str, ...]
    headline: Headline
    sections: tuple[Section, ...]
    data: Mapping[str, object] = field(default_factory=dict)
