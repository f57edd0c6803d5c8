"""pydantic-ai as its makers wrote it, over Responses, with the episode's tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from openai import AsyncOpenAI
from pydantic_ai import Agent, Tool
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits
from staying import HTTP, MOST_TURNS, call, stay, tools


async def play(variables: Mapping[str, str]) -> None:
    client = AsyncOpenAI(base_url=variables["OPENAI_BASE_URL"], api_key=variables["OPENAI_API_KEY"], http_client=HTTP)
    model = OpenAIResponsesModel("any", provider=OpenAIProvider(openai_client=client))
    own = [_tool(variables, function) for function in await tools(variables)]
    await Agent(model, tools=own).run(variables["AGENTRL_TASK"], usage_limits=UsageLimits(request_limit=MOST_TURNS))


def _tool(variables: Mapping[str, str], function: Mapping[str, Any]) -> Tool[Any]:
    async def invoke(**arguments: Any) -> str:
        return await call(variables, function["name"], json.dumps(arguments))

    return Tool.from_schema(invoke, function["name"], function.get("description", ""), dict(function["parameters"]))


stay(play)
