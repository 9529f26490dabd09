"""A Report -> GitHub-flavoured Markdown, for a proposal, a ticket or a wiki page."""

from __future__ import annotations

import re

from tonnage.report import Block, Cell, Commands, Notice, Prose, Report, Section, Table

_BADGES = {"info": "Note", "warning": "Warning", "critical": "Critical"}


def render_markdown(report: Report) -> str:
    """The whole report, detail sections included."""
    headline = report.headline
    parts = [f"# {_escape(report.title)}"]
    parts += [_escape(line) for line in report.subtitle]
    if headline.answer:
        label = f"{headline.label}: " if headline.label else ""
        lead = f"**{_escape(label + headline.answer)}**"
        parts.append(" · ".join([lead, *map(_escape, headline.facts)]))
    parts += [_escape(note) for note in headline.notes]
    parts += [_section(section) for section in report.sections]
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def _section(section: Section) -> str:
    blocks = (_block(block) for block in section.blocks)
    return "\n\n".join([f"## {_escape(section.title)}", *blocks])


def _block(block: Block) -> str:
    match block:
        case Prose():
            return _escape(block.text)
        case Notice():
            scope = f" ({_escape(block.scope)})" if block.scope else ""
            lines = [f"**{_BADGES[block.severity]}{scope}:** {_escape(block.cause)}"]
            lines += [_escape(line) for line in (block.impact,) if line]
            lines += [f"Do: {_escape(line)}" for line in (block.action,) if line]
            return "\n>\n".join(f"> {line}" for line in lines)
        case Commands():
            longest = max(len(command) for command, _ in block.rows)
            lines = [f"{command:<{longest}}   # {why}" for command, why in block.rows]
            return "\n".join(["```sh", *lines, "```"])
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    heads = [_cell(column.title) or " " for column in table.columns]
    rules = ["---:" if column.align == "right" else "---" for column in table.columns]
    rows = [[_toned(cell) for cell in row] for row in table.rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, rules, *rows)]
    title = [f"{_escape(table.title)}\n"] if table.title else []
    return "\n".join([*title, *lines])


def _toned(cell: Cell) -> str:
    text = _cell(cell.text)
    return f"**{text}**" if cell.tone in {"strong", "bad"} and text.strip() else text


def _cell(text: str) -> str:
    return "<br>".join(_escape(line) for line in text.splitlines())


def _escape(text: str) -> str:
    """Keep what people wrote from being read as Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)
