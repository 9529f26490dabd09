"""A coroutine -> its result, on the event loop that keeps time best.

uvloop is part of the extra `measure` and not to be had on every platform; without it everything
works, only slower and less exactly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` as `asyncio.run` does, on uvloop where there is one."""
    try:
        import uvloop  # noqa: PLC0415 — optional
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)
