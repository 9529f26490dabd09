"""The end of a server of this event loop: no connection of it is left open."""

import asyncio
from collections.abc import Collection

SETTLES_S = 0.01
TURNS = 10  # of the loop: more than lie between the accept of a connection and its first task step


async def end(server: asyncio.Server, tasks: Collection[asyncio.Task[None]]) -> None:
    """Stop listening and cancel `tasks`, one for each connection, each of which closes its own.

    A task that is cancelled before its first step closes nothing, and asyncio loses a connection it
    accepts while the server is closed: those made a moment ago are given time to begin.
    """
    await asyncio.sleep(SETTLES_S)
    server.close()
    await _turn()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await server.wait_closed()
    await _turn()


async def _turn() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)
