"""OpenEnv's own clients and its `validate --url` against a server. Reads a job as JSON, writes what they saw."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from openenv.cli._validation import validate_running_environment
from openenv.core.generic_client import GenericEnvClient
from openenv.core.mcp_client import MCPToolClient


async def played(url: str, episode: dict[str, Any]) -> list[Any]:
    """(texts, reward, whether it is over) after the reset and after each action."""
    async with GenericEnvClient(base_url=url) as client:
        result = await client.reset(seed=episode["seed"], task_id=episode["task"])
        seen: list[Any] = [[[m["content"] for m in result.observation["messages"]], 0.0, bool(result.done)]]
        for action in episode["actions"]:
            result = await client.step(action)
            texts = [message["content"] for message in result.observation["messages"]]
            seen.append([texts, result.reward, bool(result.done)])
        return seen


async def tools(url: str, episode: dict[str, Any], *, over_http: bool) -> list[str]:
    client = MCPToolClient(base_url=url)
    client.use_production_mode = over_http
    async with client:
        await client.reset(seed=episode["seed"], task_id=episode["task"])
        return sorted(tool.name for tool in await client.list_tools())


async def main(job: dict[str, Any]) -> dict[str, Any]:
    url, episodes = job["url"], job["episodes"]
    report = await asyncio.to_thread(validate_running_environment, url)
    return {
        "transcripts": [await played(url, episode) for episode in episodes],
        "tools": [await tools(url, episodes[0], over_http=over_http) for over_http in (False, True)],
        "failed": report["summary"]["failed_criteria"],
        "checks": report["summary"]["total_count"],
    }


if __name__ == "__main__":
    json.dump(asyncio.run(main(json.load(sys.stdin))), sys.stdout)
