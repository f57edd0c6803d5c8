"""A user with tools of its own: who sees them, what is recorded, and the same calls when its words are remembered."""

from __future__ import annotations

import pytest

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import call
from agentrl.env.users.user import Heard, ScriptedUser
from agentrl.env.users.user_env import UserEnv
from agentrl.messages import Action
from agentrl.policy.base import Policy
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.episode import run_episode
from agentrl.rollout.users.policy_user import PolicyUser
from agentrl.trajectory import Task
from tests.env.users.test_user_env import words


class Phone(UserEnv):
    """A user whose phone is off; only the user can look at it and switch it on."""

    tasks = Tasks.of(train=[{}])
    limits = Limits(max_turns=6)

    def look(self) -> str:
        """What the phone shows."""
        return "on" if self.on else "off"

    def switch(self) -> str:
        """Press the button."""
        self.on = True
        return "pressed"

    user_tools = (look, switch)

    def start(self, task: Task) -> str:
        self.on = False
        return "My phone is dead."

    def score(self, answer: str | None) -> float:
        return float(self.on)


def asked_to_switch(heard: Heard) -> object:
    """Calls what it is told, says what it saw, and leaves at a farewell."""
    if heard.messages[-1].role == "tool":
        return f"It says {heard.last}."
    if "bye" in heard.last:
        return None
    return call("switch") if "on" in heard.last else call("look")


class Told(Phone):
    user = ScriptedUser(asked_to_switch)


async def test_a_user_has_tools_of_its_own_that_the_assistant_does_not_see():
    env = Told()
    trajectory = await run_episode(env, ScriptedPolicy(["Look.", "Switch it on.", "bye"]), env.tasks["train-0"], 1)
    assert not env.tool_schemas
    assert words(trajectory)[2:] == ["u: It says off.", "a: Switch it on.", "u: It says pressed.", "a: bye"]
    assert trajectory.reward == 1.0
    assert [[[c["name"] for c in some] for some in one] for one in trajectory.info["user_calls"]] == [
        [["look"]],
        [["switch"]],
        [],
    ]


async def test_what_a_user_called_is_called_again_when_its_words_are_remembered():
    env = Told()
    trajectory = await run_episode(env, ScriptedPolicy(["Look.", "Switch it on.", "bye"]), env.tasks["train-0"], 1)

    class Changed(Phone):
        user = ScriptedUser(lambda heard: pytest.fail("asked"))

    again = Changed()
    again._agentrl_recall(trajectory)
    told = await run_episode(again, ScriptedPolicy(["Look.", "Switch it on.", "bye"]), again.tasks["train-0"], 1)
    assert words(told) == words(trajectory)
    assert told.reward == 1.0
    assert told.info["user_calls"] == trajectory.info["user_calls"]


async def test_a_user_that_only_calls_is_a_fault_of_the_user():
    class Mute(Phone):
        user = ScriptedUser(lambda heard: call("look"))

    env = Mute()
    trajectory = await run_episode(env, ScriptedPolicy(["Look."]), env.tasks["train-0"], 1)
    assert (trajectory.ending.kind, trajectory.ending.who) == ("fault", "server")
    assert "said nothing" in trajectory.ending.detail


async def test_a_policy_as_a_user_sees_its_calls_as_an_assistant_does():
    class Asked(Policy):
        def __init__(self) -> None:
            self.seen = []

        async def act(self, messages, tools, *, episode_id, sampling=None):
            self.seen.append((list(messages), [tool["function"]["name"] for tool in tools]))
            return Action("It is off.") if messages[-1].role == "tool" else call("look")

    asked = Asked()

    class Modelled(Phone):
        user = PolicyUser(asked, max_replies=1)

    env = Modelled()
    await run_episode(env, ScriptedPolicy(["Look.", "bye"]), env.tasks["train-0"], 1)
    messages, tools = asked.seen[1]
    assert tools == ["look", "switch"]
    assert [(m.role, m.content) for m in messages[2:]] == [
        ("assistant", "My phone is dead."),
        ("user", "Look."),
        ("assistant", ""),
        ("tool", "off"),
    ]
    assert messages[4].tool_calls[0].name == "look"
