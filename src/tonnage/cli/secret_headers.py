"""Names of environment variables -> HTTP headers with the secrets that those hold.

A secret on a command line is in the shell's history and in the list of processes; so a flag takes
the name of a variable, and no error repeats what was given, which may be the secret itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from tonnage.errors import UsageError


def secret_headers(key: str | None, headers: Iterable[str]) -> dict[str, str]:
    """Headers of `--api-key VARIABLE` and of each `--header NAME=VARIABLE`."""
    found = {}
    if key is not None:
        found["Authorization"] = f"Bearer {_from_environment('--api-key', key)}"
    for text in headers:
        name, equals, variable = text.partition("=")
        if not (name.strip() and equals and variable.strip()):
            raise UsageError(
                "--header names a header and an environment variable,",
                hint="for example --header X-Api-Key=MY_KEY.",
            )
        found[name.strip()] = _from_environment("--header", variable.strip())
    return found


def _from_environment(flag: str, variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise UsageError(
            f"{flag}: there is no environment variable of that name.",
            hint="Name the variable, do not give the secret: export MY_KEY=…, then MY_KEY.",
        )
    return value
