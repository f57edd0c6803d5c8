"""Policies without a model."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.policy.scripted import HumanPolicy, NullPolicy, OraclePolicy, RandomPolicy, ScriptedPolicy
from agentrl.tool_schema import Tool

START = [Message("user", "What is 1 + 2?")]


async def act(policy: Any, messages: Sequence[Message] = START, tools: Sequence[Any] = (), name: str = "e") -> Action:
    action: Action = await policy.act(messages, tools, episode_id=name)
    return action


async def test_a_script_is_played_by_turn_in_every_episode() -> None:
    policy = ScriptedPolicy(["one", Action(tool_calls=(ToolCall("f"),)), {"content": "three"}])
    later = [*START, Message("assistant", "one"), Message("user", "go on")]
    last = [*later, Message("assistant", "x"), Message("assistant", "y"), Message("assistant", "z")]
    assert (await act(policy)).text == "one"
    assert (await act(policy, later, name="other")).tool_calls[0].name == "f"
    assert (await act(policy, last)).text == "three"
    with pytest.raises(ValueError, match="at least one action"):
        ScriptedPolicy([])


async def test_a_function_sees_messages_and_tools() -> None:
    policy = ScriptedPolicy(lambda messages, tools: f"{messages[-1].content} {len(tools)}")
    assert (await act(policy, tools=[{}, {}])).text == "What is 1 + 2? 2"


async def test_null_says_nothing() -> None:
    action = await act(NullPolicy(), tools=[{}])
    assert action == Action()


class Env:
    def oracle(self, messages: Sequence[Message]) -> Action:
        return Action(text="right")

    async def hasty(self, messages: Sequence[Message]) -> str:
        await asyncio.sleep(0)
        return "wrong"


async def test_oracle_mixture_keeps_to_one_demonstrator_an_episode() -> None:
    policy = OraclePolicy({"oracle": 0.35, "hasty": 0.65}, seed=3).bind(Env())
    chosen = {f"e{i}": (await act(policy, name=f"e{i}")).text for i in range(400)}
    share = Counter(chosen.values())["right"] / 400
    assert share == pytest.approx(0.35, abs=0.08)
    assert all([(await act(policy, name=name)).text == text for name, text in list(chosen.items())[:50]])
    other = OraclePolicy({"hasty": 0.65, "oracle": 0.35}, seed=3)
    assert all(other.demonstrator_of(n) == {"right": "oracle", "wrong": "hasty"}[t] for n, t in chosen.items())
    again = OraclePolicy({"oracle": 0.35, "hasty": 0.65}, seed=4)
    assert any(again.demonstrator_of(n) != other.demonstrator_of(n) for n in chosen)


def test_a_demonstrator_of_weight_zero_never_plays() -> None:
    policy = OraclePolicy({"hasty": 0.0, "oracle": 1.0, "zz": 0.0})
    assert {policy.demonstrator_of(str(i)) for i in range(200)} == {"oracle"}


async def test_oracle_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"no method careful\(messages\)"):
        OraclePolicy({"careful": 1}).bind(Env())
    with pytest.raises(ValueError, match=r"call bind\(env\)"):
        await act(OraclePolicy())
    with pytest.raises(ValueError, match="weights"):
        OraclePolicy({"oracle": 0.0})


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


def wide(
    a: int,
    b: float,
    c: str,
    d: bool,
    e: Literal["u", 2],
    f: Colour,
    g: list[Point],
    h: Point | None = None,
    i: str = "z",
) -> str:
    """Takes everything."""
    return "ok"


async def test_random_policy_is_seeded_and_uses_every_tool() -> None:
    tools = [Tool.of(wide).schema, {"type": "function", "function": {"name": "stop"}}]
    policy = RandomPolicy(seed=1)
    actions = [await act(policy, tools=tools, name=str(i)) for i in range(200)]
    names = Counter(a.tool_calls[0].name if a.tool_calls else "(answer)" for a in actions)
    assert set(names) == {"wide", "stop", "(answer)"}
    assert names["(answer)"] == pytest.approx(40, abs=25)
    assert actions[:20] == [await act(RandomPolicy(seed=1), tools=tools, name=str(i)) for i in range(20)]
    assert actions[:20] != [await act(RandomPolicy(seed=2), tools=tools, name=str(i)) for i in range(20)]
    assert (await act(policy)).tool_calls == ()
    seeded = SamplingParams(seed=9)
    pair = [await RandomPolicy(seed=s).act(START, tools, episode_id="e", sampling=seeded) for s in (1, 2)]
    assert pair[0] == pair[1]


async def test_a_person_is_asked() -> None:
    async def prompt(messages: Sequence[Message], tools: Sequence[Any]) -> str:
        return messages[-1].content.upper()

    assert (await act(HumanPolicy(prompt))).text == "WHAT IS 1 + 2?"
