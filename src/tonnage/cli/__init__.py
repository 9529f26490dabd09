"""The command line: arguments -> the pipeline -> a report on stdout and an exit code.

The only door so far. Results go to stdout, everything else to stderr. Each command imports what it
needs when it runs, so that `tonnage --help` answers at once.

Exit codes: 0 answered, 2 wrong use, 3 bad input, 4 nothing keeps the promises, 130 interrupted.
"""

from __future__ import annotations

import sys

from tonnage.errors import EXIT_INTERRUPTED


def main() -> None:
    """Run the command line and exit."""
    try:
        from tonnage.cli.commands import app  # noqa: PLC0415 — a Ctrl-C may come by now

        app(prog_name="tonnage")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
