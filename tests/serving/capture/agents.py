"""Agents for the tests of the proxy, in plain HTTP: they know nothing of AgentRL but a base URL and a key."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from agentrl.serving.capture.agents import Exit

MOST_TURNS = 6


async def chat_loop(client: httpx.AsyncClient, variables: Mapping[str, str], tools: list[Any]) -> list[dict[str, Any]]:
    """Ask and call tools until the model answers. Returns: the conversation."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": variables["AGENTRL_TASK"]}]
    for _ in range(MOST_TURNS):
        body = {"model": "any", "messages": messages, "tools": tools}
        reply = await client.post(f"{variables['OPENAI_BASE_URL']}/chat/completions", json=body)
        reply.raise_for_status()
        message = reply.json()["choices"][0]["message"]
        messages.append(message)
        if not message.get("tool_calls"):
            break
        for call in message["tool_calls"]:
            url = f"{variables['AGENTRL_URL']}/tools/{call['function']['name']}"
            arguments = call["function"]["arguments"]
            result = await client.post(url, content=arguments, headers={"content-type": "application/json"})
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result.text})
    return messages


class ChatAgent:
    """A loop over Chat Completions that calls the environment's tools."""

    name = "chat"

    def __init__(self) -> None:
        self.conversations: list[list[dict[str, Any]]] = []

    async def run(self, variables: Mapping[str, str], waited_s: Callable[[], float]) -> Exit:
        headers = {"authorization": f"Bearer {variables['OPENAI_API_KEY']}"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as client:
            tools = (await client.get(f"{variables['AGENTRL_URL']}/tools")).json()
            self.conversations.append(await chat_loop(client, variables, tools))
        return Exit(0)


def spaced(arguments: str) -> str:
    """Arguments as another JSON writer has them: other blanks, other order."""
    value = json.loads(arguments)
    return json.dumps(dict(sorted(value.items(), reverse=True)), separators=(",", ":"))
