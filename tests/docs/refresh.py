"""`python -m tests.docs.refresh`: write what commands and examples really print into the pages.

Lines `…` stay where they are. A stated exit code is never changed: a command that ends with another
one is a mistake in the page or in the tool, and is said.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from tests.docs.pages import (
    Block,
    all_blocks,
    all_pages,
    commands_of,
    renewed,
    run_python,
    run_session,
)

WORKERS = 2


def renewed_session(block: Block) -> tuple[str, list[str]]:
    """The text of a console block as it should be, and what is wrong with it."""
    commands = commands_of(block.text)
    parts, problems = [], []
    printed = run_session(tuple(command.to_run for command in commands))
    for command, real in zip(commands, printed, strict=True):
        lines = [f"$ {command.typed}", *renewed(command.shown, real.lines)]
        if command.exit_code:
            lines.append(f"# exit {command.exit_code}")
        if real.exit_code != command.exit_code:
            problems.append(f"{block.name}: exit {real.exit_code}: {command.to_run}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts), problems


def main() -> int:
    """Rewrite the pages; 1 when something is wrong that rewriting does not mend."""
    problems: list[str] = []
    texts: dict[tuple[str, int], str] = {}
    sessions = all_blocks("console")
    with ThreadPoolExecutor(WORKERS) as pool:
        for block, (text, wrong) in zip(sessions, pool.map(renewed_session, sessions), strict=True):
            texts[str(block.page), block.start] = text
            problems += wrong
    for page in all_pages():
        _, examples = run_python(page)
        texts |= {(str(page), start): text for start, text in examples.items()}
    for page in all_pages():
        before = after = page.read_text(encoding="utf-8")
        blocks = [b for b in (*all_blocks("console"), *all_blocks("python")) if b.page == page]
        for block in sorted(blocks, key=lambda block: -block.start):
            text = texts.get((str(page), block.start), block.text)
            after = after[: block.start] + text + after[block.end :]
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"renewed {page.name}\n")
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
