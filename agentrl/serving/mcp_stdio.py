"""One episode as an MCP server over standard input and output. Needs the extra `mcp`. Owns where the reward goes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from mcp.server.stdio import stdio_server

from agentrl.errors import ConfigError
from agentrl.serving.envs.describe import Served
from agentrl.serving.envs.mcp_door import mcp_server
from agentrl.serving.envs.seats import Seat, Start
from agentrl.serving.envs.sessions import Bounds, Sessions
from agentrl.trajectory import EnvRef


def serve_stdio(ref: EnvRef, start: Start, result: Path | None = None) -> None:
    """Serve one episode until the client hangs up.

    Args:
        ref: of the environment.
        start: of the episode.
        result: a new file for the reward, which the agent must not be able to read; written at the end.
    Raises: ConfigError if the file is there already; TaskError if there is no such task.
    """
    if result is not None and result.exists():
        raise ConfigError(f"{result} is there already: name a new file")
    asyncio.run(_serve(ref, start, result))


async def _serve(ref: EnvRef, start: Start, result: Path | None) -> None:
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
        if result is not None and seat.has_begun:
            _write(result, seat)
        await sessions.aclose()
        await served.aclose()


def _write(result: Path, seat: Seat) -> None:
    result.write_text(json.dumps(seat.result.to_json()) + "\n", encoding="utf-8")
