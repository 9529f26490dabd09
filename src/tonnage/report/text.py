"""A Report -> plain text for a terminal of any width, coloured only when asked.

Nothing is cut: a table that does not fit is turned on its side when it may be, else its prose
columns wrap. No line is longer than `width`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace

from rich.box import Box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from tonnage.report import (
    Block,
    Cell,
    Column,
    Commands,
    Headline,
    Notice,
    Prose,
    Report,
    Section,
    Table,
)

MARGIN = 2
MIN_WIDTH = 60
MAX_WIDTH = 160
MAX_PROSE_WIDTH = 110  # longer lines are hard to read
_GAP = 2  # one space of padding, one of the divider
_WRAPPED_COLUMN = 16  # the narrowest a wrapping column is worth having

_STYLES = {"": "", "good": "green", "bad": "bold red", "strong": "bold", "quiet": "dim"}
_SIGNS = {"info": ("i", "cyan"), "warning": ("!", "yellow"), "critical": ("‼", "bold red")}
_RULED = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")  # one rule under the headings


def render_text(report: Report, *, width: int = 100, colour: bool = False) -> str:
    """The report as lines of at most `width` characters, `width` held to 60–160."""
    width = min(max(width, MIN_WIDTH), MAX_WIDTH)
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        no_color=not colour,
        color_system="standard" if colour else None,
        highlight=False,
        legacy_windows=False,
    )
    with console.capture() as captured:
        if report.title:
            _print(console, Text(report.title, "bold"))
        for line in report.subtitle:
            _print(console, Text(line))
        if report.headline.answer:
            console.print()
            _print_headline(console, report.headline)
        for section in report.sections:
            if not section.detail:
                _print_section(console, section)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def _print(console: Console, renderable: RenderableType, *, indent: int = MARGIN) -> None:
    room = console.width - indent
    spare = max(room - MAX_PROSE_WIDTH, 0) if isinstance(renderable, Text) else 0
    console.print(Padding(renderable, (0, spare, 0, indent), expand=False))


def _print_headline(console: Console, headline: Headline) -> None:
    """Label and answer, then the facts, broken only between facts."""
    label = f"{headline.label}   " if headline.label else ""
    lead = Text(label, _STYLES["quiet"]).append(headline.answer, _STYLES[headline.tone])
    room = console.width - 2 * MARGIN
    line, rest = lead, list(headline.facts)
    lines = []
    while rest:
        fact = rest.pop(0)
        gap = "" if not line.plain.strip() else "   "
        if len(line.plain) + len(gap) + len(fact) > room:
            lines.append(line)
            line, gap = Text(" " * len(label)), ""
        line = line.copy().append(gap + fact)
    for each in (*lines, line):
        console.print(Padding(each, (0, 0, 0, MARGIN), expand=False))
    for note in headline.notes:
        _print(console, Text(note))


def _print_section(console: Console, section: Section) -> None:
    console.print()
    if section.title:
        _print(console, Text(section.title, "bold underline" if console.color_system else ""))
    for position, block in enumerate(section.blocks):
        if (
            position
            and isinstance(block, Table)
            and not isinstance(section.blocks[position - 1], Prose)
        ):
            console.print()
        _print_block(console, block)


def _print_block(console: Console, block: Block) -> None:
    match block:
        case Prose():
            _print(console, Text(block.text, _STYLES[block.tone]), indent=MARGIN + 2)
        case Notice():
            _print_notice(console, block)
        case Commands():
            _print_commands(console, block)
        case Table():
            if block.title:
                _print(console, Text(block.title), indent=MARGIN + 2)
            room = console.width - MARGIN - 2
            for position, piece in enumerate(_pieces(block, room)):
                if position:
                    console.print()
                _print(console, _fit(piece, room), indent=MARGIN + 2)


def _print_notice(console: Console, notice: Notice) -> None:
    sign, style = _SIGNS[notice.severity]
    grid = Grid.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold", max_width=MAX_PROSE_WIDTH)
    scope = f" ({notice.scope})" if notice.scope else ""
    body = Text().append(f"{notice.severity}{scope}: ", style).append(notice.cause)
    for line in (notice.impact, f"→ {notice.action}" if notice.action else ""):
        if line:
            body.append(f"\n{line}")
    grid.add_row(Text(sign, style), body)
    _print(console, grid, indent=MARGIN + 2)


def _print_commands(console: Console, block: Commands) -> None:
    """Command and purpose side by side, or one under the other where that does not fit."""
    longest = max(len(command) for command, _ in block.rows)
    purpose = max(len(why) for _, why in block.rows)
    beside = MARGIN + 2 + longest + 3 + purpose <= console.width
    for command, why in block.rows:
        if beside:
            line = Text(f"{command:<{longest}}   ").append(why, _STYLES["quiet"])
            console.print(Padding(line, (0, 0, 0, MARGIN + 2), expand=False))
        else:
            shown = _continued(command, console.width - MARGIN - 2)
            console.print(Padding(Text(shown), (0, 0, 0, MARGIN + 2), expand=False))
            _print(console, Text(why, _STYLES["quiet"]), indent=MARGIN + 6)


def _continued(command: str, room: int) -> str:
    """The command, continued on further lines where it is too long, ready to be copied."""
    first, *flags = re.split(r" (?=--?[a-z])", command)
    lines = [first]
    for flag in flags:
        if len(lines[-1]) + 1 + len(flag) + len(" \\") <= room:
            lines[-1] += f" {flag}"
        else:
            lines.append(f"  {flag}")
    return " \\\n".join(lines)


def _pieces(table: Table, room: int) -> Iterator[Table]:
    """The table as it is, or on its side where it may be, in as many parts as fit in `room`."""
    if not table.turns or _natural_width(table) <= room:
        yield table
        return
    rows = table.rows
    while rows:
        parts = (_turned(replace(table, rows=rows[:count])) for count in range(len(rows), 1, -1))
        alone = _turned(replace(table, rows=rows[:1]))
        piece = next((part for part in parts if _natural_width(part) <= room), alone)
        yield piece
        rows = rows[len(piece.columns) - 1 :]


def _fit(table: Table, room: int) -> Grid:
    """The table, with as much of it wrapped as it takes to fit in `room`."""
    wrapping = _wrapping_columns(table, room)
    grid = Grid(
        box=_RULED, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim"
    )
    for position, column in enumerate(table.columns):
        grid.add_column(
            column.title,
            justify=column.align,
            no_wrap=position not in wrapping,
            overflow="fold",
            max_width=MAX_PROSE_WIDTH if column.prose else None,
        )
    for row in table.rows:
        grid.add_row(*(Text(cell.text, _STYLES[cell.tone]) for cell in row))
    return grid


def _wrapping_columns(table: Table, room: int) -> set[int]:
    """The prose columns and, when those do not give enough room, the widest of the others."""
    widths = [_column_width(table, position) for position in range(len(table.columns))]
    wrapping = {position for position, column in enumerate(table.columns) if column.prose}
    while True:
        narrowest = sum(
            min(width, _WRAPPED_COLUMN) if position in wrapping else width
            for position, width in enumerate(widths)
        )
        others = [position for position in range(len(widths)) if position not in wrapping]
        if narrowest + _GAP * len(widths) <= room or not others:
            return wrapping
        wrapping.add(max(others, key=widths.__getitem__))


def _column_width(table: Table, position: int) -> int:
    texts = [table.columns[position].title, *(row[position].text for row in table.rows)]
    return max(len(line) for text in texts for line in (text.splitlines() or [""]))


def _natural_width(table: Table) -> int:
    return sum(_column_width(table, i) + _GAP for i in range(len(table.columns)))


def _turned(table: Table) -> Table:
    """Columns as rows: the first column becomes the headings."""
    first, *others = table.columns
    columns = (Column(first.title), *(Column(row[0].text, "right") for row in table.rows))
    rows = tuple(
        (Cell(column.title), *(row[position] for row in table.rows))
        for position, column in enumerate(others, start=1)
    )
    return Table(columns=columns, rows=rows, title=table.title)
