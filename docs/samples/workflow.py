"""A workflow to try `tonnage measure` on: 50 ms, and 5 ms more for each question in flight."""

from __future__ import annotations

import asyncio

in_flight = 0


async def answer(question: str) -> str:
    """Answer after a while."""
    global in_flight  # noqa: PLW0603 — the load this workflow is under
    in_flight += 1
    try:
        await asyncio.sleep(0.05 + 0.005 * in_flight)
    finally:
        in_flight -= 1
    return f"You ask: {question}"
