"""MCP's own client against episodes at their addresses. Reads a job as JSON, writes what it saw as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from typing import Any

from mcp.client.client import Client


def asked(job: dict[str, Any], method: str, path: str, body: Any = None) -> Any:
    """What the side of the one who trains answers."""
    headers = {"Authorization": f"Bearer {job['token']}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(job["url"] + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


async def played(job: dict[str, Any], episode: dict[str, Any]) -> dict[str, Any]:
    """The task, the results of the calls, and the reward that was read out of band."""
    begin = {"seed": episode["seed"], "task": episode["task"]}
    opened = await asyncio.to_thread(asked, job, "POST", "/mcp/episodes", begin)
    seen = []
    async with Client(job["url"] + opened["path"], mode=job["mode"]) as client:
        names = sorted(tool.name for tool in (await client.list_tools()).tools)
        prompt = (await client.get_prompt("task")).messages[0].content.text
        for name, arguments in episode["calls"]:
            result = await client.call_tool(name, arguments)
            seen.append("".join(part.text for part in result.content))
        version = client.protocol_version
    result = await asyncio.to_thread(asked, job, "DELETE", f"/mcp/episodes/{opened['id']}")
    return {"task": prompt, "seen": seen, "tools": names, "version": version, "result": result}


async def main(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [await played(job, episode) for episode in job["episodes"]]


if __name__ == "__main__":
    json.dump(asyncio.run(main(json.load(sys.stdin))), sys.stdout)
