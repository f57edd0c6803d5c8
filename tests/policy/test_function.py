"""An async function as an agent: what it gets, what it may return, and its name and code in records."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agentrl.bench.evaluate import evaluate
from agentrl.bench.runner import run_bench
from agentrl.errors import ConfigError, PolicyError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import Policy
from agentrl.policy.by_name import resolve
from agentrl.policy.function import FunctionPolicy
from tests.bench.toys import Adder

AGENT = """
async def adds(messages, tools):
    last = messages[-1]
    if last["role"] == "tool":
        return last["content"]
    a, b = last["content"].split("+")
    function = {"name": tools[0]["function"]["name"], "arguments": f'{{"a": {a}, "b": {b}}}'}
    return {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
"""


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent.py"
    path.write_text(AGENT)
    return path


def test_an_async_function_plays_a_benchmark(agent: Path) -> None:
    result = run_bench(Adder, f"{agent}:adds", references=False)
    assert (result.policy, result.score.success.mean) == (f"{agent}:adds", 1.0)
    assert result.score.tools["add"].calls == 8


def test_a_function_that_was_edited_needs_a_new_folder(agent: Path, tmp_path: Path) -> None:
    run_bench(Adder, f"{agent}:adds", out=tmp_path / "run", num_tasks=1, references=False)
    agent.write_text(AGENT + "\n# another answer\n")
    with pytest.raises(ConfigError, match="the policy's code was edited"):
        run_bench(Adder, f"{agent}:adds", out=tmp_path / "run", num_tasks=1, references=False)


async def test_it_may_return_a_text_a_message_or_an_action() -> None:
    for turn in ("hi", {"content": "hi"}, Action("hi")):

        async def agent(messages: list[dict[str, Any]], tools: list[dict[str, Any]], turn: Any = turn) -> Any:
            return turn

        assert (await FunctionPolicy(agent).act((), (), episode_id="e")).text == "hi"


async def test_something_else_is_refused() -> None:
    async def agent(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
        return 7

    with pytest.raises(
        PolicyError, match="is no turn: an action is an Action, a str or an OpenAI assistant message, got int"
    ):
        await FunctionPolicy(agent).act((), (), episode_id="e")


@pytest.mark.parametrize("returned", [None, 7, {"answer": "3"}, {"role": "robot", "content": "3"}])
def test_what_is_no_turn_ends_the_run_with_a_sentence(returned: Any) -> None:
    class Broken(Policy):
        name = "broken"

        async def act(self, *args: Any, **kwargs: Any) -> Any:
            return returned

    async def agent(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
        return returned

    with pytest.raises(PolicyError, match="what policy 'broken' returned is no turn: "):
        evaluate(Broken(), Adder, Adder.tasks.split("eval")[:1])
    with pytest.raises(PolicyError, match="what the agent 'mine' returned is no turn: "):
        evaluate(FunctionPolicy(agent, "mine"), Adder, Adder.tasks.split("eval")[:1])


def test_an_agent_that_cancels_what_it_waits_for_is_named() -> None:
    async def agent(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
        waiting = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(waiting.cancel)
        await waiting

    with pytest.raises(PolicyError, match="policy 'mine' awaited something that had been cancelled"):
        evaluate(FunctionPolicy(agent, "mine"), Adder, Adder.tasks.split("eval")[:1])


def test_a_function_that_is_not_async_is_refused(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("def agent(messages, tools):\n    return ''\n")
    with pytest.raises(ConfigError, match=r"is function: name a Policy.*or `async def agent\(messages, tools\)`"):
        resolve(f"{tmp_path}/agent.py:agent")


def test_a_function_of_other_arguments_is_refused(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("async def agent(messages):\n    return ''\n")
    with pytest.raises(ConfigError, match=r"is called as agent\(messages, tools\): too many positional arguments"):
        resolve(f"{tmp_path}/agent.py:agent")


async def test_each_message_is_written_once_and_what_the_function_changes_stays_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written, seen = [], []
    plain = Message.to_openai

    def counted(message: Message) -> dict[str, Any]:
        written.append(message)
        return plain(message)

    async def spoils(messages: list[dict[str, Any]], tools: Any) -> str:
        seen.append([json.dumps(message) for message in messages])
        for message in messages:
            message["content"] = "spoilt"
            for call in message.get("tool_calls", ()):
                call["function"]["name"] = "spoilt"
        messages.clear()
        return "hi"

    monkeypatch.setattr(Message, "to_openai", counted)
    policy, talk = FunctionPolicy(spoils), [Message("user", "a")]
    for number in range(20):
        await policy.act(talk, (), episode_id="e")
        talk += [
            Message("assistant", "", (ToolCall("look", {}, f"c{number}"),)),
            Message("tool", "b", (), f"c{number}"),
        ]
    assert len(written) == 39, "the last two messages were not asked about"
    assert seen[-1][:3] == seen[1]
    assert "spoilt" not in seen[-1][1]
    await policy.act([Message("user", "another attempt")], (), episode_id="e")
    assert len(seen[-1]) == 1
    await policy.release("e")
    await policy.release("e")
