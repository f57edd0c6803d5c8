"""A harness of verifiers that is a loop in its own process: it asks the model, calls tools over MCP, and asks again.

The harnesses of verifiers are programs, which fetch what they need when they start; this one starts nothing.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import httpx
import verifiers.v1 as vf
from verifiers.v1.harnesses.utils.mcp import connect_mcp, mcp_content_to_chat_content
from verifiers.v1.runtimes import ProgramResult

Json = dict[str, Any]


class AgentRLLoop(vf.Harness[vf.HarnessConfig]):  # type: ignore[misc]
    """Ends with the first message without calls, or where verifiers ends the rollout."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False
    SUPPORTS_MCP = True
    SUPPORTS_RESUME = True

    async def launch(
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: dict[str, str], data: Any
    ) -> ProgramResult:
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(httpx.AsyncClient(headers=headers, timeout=None))
            servers = {name: {"url": url} for name, url in mcp_urls.items()}
            tools, places, connections = await connect_mcp({"mcpServers": servers}, stack)
            messages = self._first(data)
            while True:
                body = {"model": ctx.model, "messages": messages, **({"tools": tools} if tools else {})}
                reply = await client.post(f"{endpoint}/chat/completions", content=json.dumps(body))
                if reply.is_error:
                    return ProgramResult(0 if trace.stop_condition else 1, "", reply.text)
                messages.append(said := reply.json()["choices"][0]["message"])
                if not said.get("tool_calls"):
                    return ProgramResult(0, "", "")
                for call in said["tool_calls"]:
                    result = await _called(call["function"], places, connections)
                    messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})

    def _first(self, data: Any) -> list[Json]:
        system, prompt = self.resolve_prompt(data)
        found: list[Json] = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            return [*found, {"role": "user", "content": prompt}]
        return [*found, *(message.model_dump(mode="json", exclude_none=True) for message in prompt or ())]


async def _called(function: Json, places: Json, connections: Json) -> Any:
    """The result of a call; what is wrong with it is for the model to read."""
    if function["name"] not in places:
        return f"Error: there is no tool {function['name']!r}"
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError as error:
        return f"Error: the arguments are no JSON: {error}"
    server, tool = places[function["name"]]
    result = await connections[server].run(lambda client: client.call_tool(tool, arguments))
    return mcp_content_to_chat_content(result.content)
