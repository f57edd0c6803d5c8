"""The loop around an agent that is started once and plays many episodes, several at a time. Knows no agent and no task.

Runs in the agent's own environment, which has httpx but not AgentRL.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

HTTP = httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None))
AT_ONCE = 32
MOST_TURNS = 8


async def tools(variables: Mapping[str, str]) -> list[dict[str, Any]]:
    """The episode's tools: `name`, `description` and `parameters` of each."""
    reply = await HTTP.get(f"{variables['AGENTRL_URL']}/tools", headers=_key(variables["AGENTRL_KEY"]))
    return [tool["function"] for tool in reply.json()]


async def call(variables: Mapping[str, str], tool: str, arguments: str) -> str:
    """What a tool says. Args: arguments: as JSON."""
    headers = {**_key(variables["AGENTRL_KEY"]), "content-type": "application/json"}
    reply = await HTTP.post(f"{variables['AGENTRL_URL']}/tools/{tool}", content=arguments, headers=headers)
    return reply.text


def stay(play: Callable[[Mapping[str, str]], Awaitable[None]]) -> None:
    """Play one episode after the other, for ever. Args: play: an agent plays the episode of these variables."""
    asyncio.run(_all(play))


async def _all(play: Callable[[Mapping[str, str]], Awaitable[None]]) -> None:
    await asyncio.gather(*(_one_after_the_other(play) for _ in range(AT_ONCE)))


async def _one_after_the_other(play: Callable[[Mapping[str, str]], Awaitable[None]]) -> None:
    while True:
        reply = await HTTP.post(os.environ["AGENTRL_NEXT_URL"], headers=_key(os.environ["AGENTRL_NEXT_KEY"]), json={})
        if reply.status_code != 200:
            continue
        variables, error = reply.json(), ""
        try:
            await play(variables)
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"[:300]
        body, headers = {"error": error}, _key(variables["AGENTRL_KEY"])
        await HTTP.post(f"{variables['AGENTRL_URL']}/done", json=body, headers=headers)


def _key(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
