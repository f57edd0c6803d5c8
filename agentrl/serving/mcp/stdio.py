"""One episode as an MCP server over standard input and output. Needs the extra `mcp`. Owns where the reward goes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from mcp.server.stdio import stdio_server

from agentrl.errors import ConfigError
from agentrl.serving.envs.describe import Served
from agentrl.serving.envs.seats import Seat, Start
from agentrl.serving.envs.sessions import Bounds, Sessions
from agentrl.serving.mcp.door import mcp_server
from agentrl.trajectory import EnvRef


def serve_stdio(ref: EnvRef, start: Start, result: Path | None = None) -> None:
    """Serve one episode until the client hangs up.

    Args:
        ref: of the environment.
        start: of the episode.
        result: a new file for the reward, which the agent must not be able to read; empty until the end.
    Raises: ConfigError if the file is there already, or cannot be made; TaskError if there is no such task.
    """
    with _made(result) if result is not None else nullcontext() as file:
        asyncio.run(_serve(ref, start, file))


@contextmanager
def _made(path: Path) -> Iterator[IO[str]]:
    """A new file, made at once so that no other episode takes its name; removed if nothing is written.

    Raises: ConfigError if it cannot be made, or something else was put in its place meanwhile.
    """
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        raise ConfigError(f"{path} is there already: name a new file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error}; name a file in a folder that you may write to") from error
    with file:
        try:
            yield file
        finally:
            file.flush()
            found = os.fstat(file.fileno())
            is_ours = path.exists() and os.path.samestat(found, path.stat())
            if not found.st_size and is_ours:
                path.unlink()
    if found.st_size and not is_ours:
        raise ConfigError(
            f"{path} was removed or replaced during the episode, so its reward is not there: name a file that nothing "
            "else writes, and play it again"
        )


async def _serve(ref: EnvRef, start: Start, file: IO[str] | None) -> None:
    bounds = Bounds(sessions=1)
    served = Served(ref, longest_s=bounds.episode_s)
    sessions = Sessions(served.make, bounds)
    seat = await Seat.at(sessions)
    try:
        await seat.reset(start)
        server = mcp_server(served.ref.id, lambda ctx: seat)
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
    finally:
        if file is not None and seat.has_begun:
            file.write(json.dumps(seat.result.to_json()) + "\n")
        await sessions.aclose()
        await served.aclose()
