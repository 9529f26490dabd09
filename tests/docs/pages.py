"""Pages of Markdown -> their blocks, and what the commands and examples in them really print.

A ```console block is a session at the root of the repository: lines that begin with `$ ` are typed
(`> ` continues one that ends in a backslash), the lines below are what is printed, stdout before
stderr. A line `…` stands for any lines left out. `# exit 4` at the end says that the command ends
with that code; without it, it ends with 0.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = "…"
COLUMNS = 100
BEGINNING = 14  # characters by which a line is known again

_FENCE = re.compile(r"^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_EXIT = re.compile(r"^# exit (?P<code>\d+)$")
_HEADING = re.compile(r"^#{1,6} (?P<title>.+?)\s*$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of `page`; `start` and `end` are where its text stands in it."""

    page: Path
    kind: str
    text: str
    start: int
    end: int
    line: int

    @property
    def name(self) -> str:
        """The place of the block, for people."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """What is typed, what the page shows under it, and the exit code it states."""

    typed: str
    shown: tuple[str, ...]
    exit_code: int

    @property
    def to_run(self) -> str:
        """The command in one piece."""
        return re.sub(r"\\\n> ?", "", self.typed)


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command really printed, and its exit code."""

    lines: tuple[str, ...]
    exit_code: int


def all_pages() -> list[Path]:
    """Every page whose blocks are kept true."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks_of(page: Path, kind: str) -> list[Block]:
    """The blocks of `kind` ("console", "python", …), from the top of the page down."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            kind=kind,
            text=match["text"],
            start=match.start("text"),
            end=match.end("text"),
            line=text.count("\n", 0, match.start()) + 1,
        )
        for match in _FENCE.finditer(text)
        if match["kind"] == kind
    ]


def all_blocks(kind: str) -> list[Block]:
    """The blocks of `kind` on every page."""
    return [block for page in all_pages() for block in blocks_of(page, kind)]


# ── console ─────────────────────────────────────────────────────────────────────────────────────


def commands_of(text: str) -> list[Command]:
    """The commands of a console block. Raises ValueError for a block that begins with output."""
    found: list[tuple[list[str], list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif not found:
            msg = f"a console block begins with a command, not with: {line}"
            raise ValueError(msg)
        elif found[-1][0][-1].endswith("\\") and not found[-1][1]:
            found[-1][0].append(line)
        else:
            found[-1][1].append(line.rstrip())
    commands = []
    for typed, shown in found:
        while shown and not shown[-1]:
            shown.pop()
        stated = _EXIT.match(shown[-1]) if shown else None
        code = int(stated["code"]) if stated else 0
        printed = shown[:-1] if stated else shown
        commands.append(Command("\n".join(typed), tuple(printed), code))
    return commands


@cache
def run_session(typed: tuple[str, ...]) -> tuple[Printed, ...]:
    """Run commands one after the other where the repository's root is the working directory.

    The directory is a copy made of links, so that a command may write beside what is tracked.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        here, home, programs = scratch / "tonnage", scratch / "home", scratch / "bin"
        for folder in (here, home, programs):
            folder.mkdir()
        for entry in ROOT.iterdir():
            if not entry.name.startswith("."):
                (here / entry.name).symlink_to(entry)
        python = shlex.quote(sys.executable)
        for program, arguments in (("tonnage", "-m tonnage"), ("python3", "")):
            (programs / program).write_text(f'#!/bin/sh\nexec {python} {arguments} "$@"\n')
            (programs / program).chmod(0o755)
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(home),
            "COLUMNS": str(COLUMNS),
            "LC_ALL": "C.UTF-8",
            "PYTHONUTF8": "1",
            "NO_COLOR": "1",
        }
        return tuple(_run(each, here, environment) for each in typed)


def _run(typed: str, here: Path, environment: dict[str, str]) -> Printed:
    done = subprocess.run(
        ["/bin/sh", "-c", typed],
        cwd=here,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    lines = [line.rstrip() for line in (done.stdout + done.stderr).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return Printed(tuple(lines), done.returncode)


def difference(shown: Sequence[str], real: Sequence[str]) -> str:
    """Where the page first departs from what is printed; "" when it does not."""
    pieces = list(_pieces(shown))
    place = 0
    for number, (piece, gap_before) in enumerate(pieces):
        last = number == len(pieces) - 1
        if not gap_before:
            starts = [0]
        elif last and piece:
            starts = [len(real) - len(piece)] if len(real) - len(piece) >= place else []
        else:
            starts = list(range(place, len(real) - len(piece) + 1))
        found = next((s for s in starts if tuple(real[s : s + len(piece)]) == piece), None)
        if found is None:
            return _first_difference(piece, real[place:] if gap_before else real)
        place = found + len(piece)
    open_end = bool(shown) and shown[-1].strip() == LEFT_OUT
    if not open_end and place < len(real):
        return f"the page ends before: {real[place]}"
    return ""


def _pieces(shown: Sequence[str]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Runs of shown lines, each with whether lines are left out before it."""
    piece: list[str] = []
    gap_before = False
    for line in shown:
        if line.strip() == LEFT_OUT:
            if piece or not gap_before:
                yield tuple(piece), gap_before
            piece, gap_before = [], True
        else:
            piece.append(line)
    yield tuple(piece), gap_before


def _first_difference(piece: Sequence[str], real: Sequence[str]) -> str:
    for line in piece:
        if line not in real:
            return f"the page shows a line that is not printed there: {line}"
    return f"these lines are not printed in a row: {' / '.join(piece)}"


def renewed(shown: Sequence[str], real: Sequence[str]) -> list[str]:
    """What the page should show: the same parts of `real`, the same lines left out.

    The first and the last line of each part are looked up again by likeness, digits aside.
    """
    if not difference(shown, real):
        return list(shown)
    if not shown or LEFT_OUT not in {line.strip() for line in shown}:
        return list(real)
    result: list[str] = []
    place = 0
    pieces = list(_pieces(shown))
    for number, (piece, gap_before) in enumerate(pieces):
        last = number == len(pieces) - 1
        if gap_before:
            result.append(next(line for line in shown if line.strip() == LEFT_OUT))
        if not piece:
            continue
        start = _alike(piece[0], real, place) if gap_before else 0
        end = len(real) if last else _alike(piece[-1], real, start + min(len(piece) - 1, 1)) + 1
        result += real[start:end]
        place = end
    return result


def _alike(line: str, real: Sequence[str], place: int) -> int:
    """The index of the line most like `line`, the first of several, from `place` on.

    Lines that begin alike come before lines that only hold the same letters.
    """
    wanted = re.sub(r"\d", "0", line)

    def likeness(index: int) -> float:
        other = re.sub(r"\d", "0", real[index])
        same = SequenceMatcher(None, wanted, other, autojunk=False).ratio()
        return same + other.startswith(wanted[:BEGINNING].rstrip())

    return max(range(place, len(real)), key=lambda index: (likeness(index), -index), default=place)


# ── python ──────────────────────────────────────────────────────────────────────────────────────


class _Recorder(doctest.DocTestRunner):
    """Notes what every example printed."""

    def __init__(self) -> None:
        super().__init__(verbose=False, optionflags=doctest.ELLIPSIS)
        self.printed: dict[int, str] = {}
        self.problems: list[str] = []

    def report_failure(
        self,
        out: object,  # noqa: ARG002 — doctest's signature
        test: doctest.DocTest,  # noqa: ARG002 — as above
        example: doctest.Example,
        got: str,
    ) -> None:
        """Keep what was printed where the page says something else."""
        self.printed[example.lineno] = got
        self.problems.append(f"{example.source.strip()}\n shown: {example.want} real: {got}")

    def report_unexpected_exception(
        self,
        out: object,  # noqa: ARG002 — as above
        test: doctest.DocTest,  # noqa: ARG002 — as above
        example: doctest.Example,
        exc_info: object,
    ) -> None:
        """An example that fails is a problem that no rewriting mends."""
        self.problems.append(f"{example.source.strip()} raised {exc_info}")


@contextmanager
def at_root() -> Iterator[None]:
    """The repository's root as working directory."""
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        yield
    finally:
        os.chdir(before)


def run_python(page: Path) -> tuple[list[str], dict[int, str]]:
    """Run a page's ```python blocks in one namespace, from the top.

    Returns what is wrong, and the text of each block with what its examples really print, by the
    place of the block. A block without `>>>` is run as it stands.
    """
    space: dict[str, object] = {"__name__": "page"}
    problems: list[str] = []
    renewed_texts: dict[int, str] = {}
    with at_root():
        for block in blocks_of(page, "python"):
            if ">>> " not in block.text:
                exec(compile(block.text, block.name, "exec"), space)  # noqa: S102 — our own page
                continue
            test = doctest.DocTestParser().get_doctest(block.text, space, block.name, None, None)
            runner = _Recorder()
            runner.run(test, out=lambda _: None, clear_globs=False)
            space = test.globs
            problems += [f"{block.name}: {problem}" for problem in runner.problems]
            lines = block.text.splitlines(keepends=True)
            for example in reversed(test.examples):
                if example.lineno in runner.printed:
                    first = example.lineno + example.source.count("\n")
                    lines[first : first + example.want.count("\n")] = [
                        runner.printed[example.lineno]
                    ]
            renewed_texts[block.start] = "".join(lines)
    return problems, renewed_texts


# ── links ───────────────────────────────────────────────────────────────────────────────────────


def anchors_of(page: Path) -> set[str]:
    """What links to headings of `page` may end in."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {slug(match["title"]) for match in _HEADING.finditer(text)}


def slug(title: str) -> str:
    """A heading as Markdown renderers write it in a link."""
    plain = re.sub(r"[^\w\- ]", "", title.replace("`", "").lower())
    return plain.strip().replace(" ", "-")


def links_of(page: Path) -> list[str]:
    """Targets of the links on `page`, those to other sites left out."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [match["target"] for match in _LINK.finditer(text)]
    return [target for target in targets if not re.match(r"[a-z]+:", target)]
