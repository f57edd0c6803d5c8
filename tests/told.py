"""What a model reads from a tool."""

from __future__ import annotations

from typing import Any

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.messages import Action, ToolCall


def told(function: Any, /, **arguments: Any) -> str:
    """The answer to one call in a new environment that has only this tool."""

    class Desk(ToolEnv):
        tasks = Tasks.of(train=[{}])
        extra_tools = (function,)

        def start(self, task):
            return "go"

    env = Desk()
    env.reset(seed=0)
    name = env.tool_schemas[0]["function"]["name"]
    content: str = env.step(Action(tool_calls=(ToolCall(name, arguments),)))[0][0].content
    env.close()
    return content
