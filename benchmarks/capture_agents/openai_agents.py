"""openai-agents as its makers wrote it, over Chat Completions, with the episode's tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents import Agent, FunctionTool, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI
from staying import HTTP, MOST_TURNS, call, stay, tools


async def play(variables: Mapping[str, str]) -> None:
    client = AsyncOpenAI(base_url=variables["OPENAI_BASE_URL"], api_key=variables["OPENAI_API_KEY"], http_client=HTTP)
    model = OpenAIChatCompletionsModel(model="any", openai_client=client)
    own = [_tool(variables, function) for function in await tools(variables)]
    await Runner.run(Agent(name="agent", model=model, tools=own), variables["AGENTRL_TASK"], max_turns=MOST_TURNS)


def _tool(variables: Mapping[str, str], function: Mapping[str, Any]) -> FunctionTool:
    async def invoke(context: Any, arguments: str) -> str:
        return await call(variables, function["name"], arguments)

    described = function["name"], function.get("description", ""), dict(function["parameters"])
    return FunctionTool(*described, invoke, strict_json_schema=False)


set_tracing_disabled(True)
stay(play)
