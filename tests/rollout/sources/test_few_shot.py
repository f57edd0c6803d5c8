"""The schedule of demonstrations, and what a policy sees of them."""

from __future__ import annotations

from typing import Any

import pytest

from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ConfigError
from agentrl.messages import Action
from agentrl.policy.base import Policy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.sources.few_shot import FewShot, FewShotRollouts
from agentrl.trajectory import EnvRef, Task


@register("test/Double-v0", max_turns=1)
class Double(ToolEnv):
    """Say twice the number."""

    system_prompt = "Double it."
    tasks = Tasks.of(train=[{"n": n} for n in range(6)], eval=[{"n": 9}])

    def start(self, task: Task) -> str:
        return f"{task.data['n']}?"

    def score(self, answer: str | None) -> float:
        return float(answer == str(2 * self.task.data["n"]))

    def oracle(self, messages: Any) -> str:
        return str(2 * self.task.data["n"])

    def wrong(self, messages: Any) -> str:
        return "no"


class Listens(Policy):
    """Remembers the conversations that it was asked about."""

    def __init__(self, reason: str = "stop") -> None:
        self.heard: dict[str, list[tuple[str, str]]] = {}
        self.reason = reason

    async def act(self, messages, tools, *, episode_id, sampling=None) -> Action:
        self.heard[episode_id.partition("#")[0]] = [(m.role, m.content) for m in messages]
        return Action("0", finish_reason=self.reason)


REF = EnvRef("test/Double-v0")
TASKS = Double.tasks.split("train")


async def heard(numbers: list[int], seed: int = 0, policy: Listens | None = None, **settings: Any):
    """What the policy was asked in groups of these numbers, each on the task of its number; two groups a step."""
    policy = policy or Listens()
    async with Rollouts(REF, policy) as rollouts:
        shown = FewShotRollouts(rollouts, REF, TASKS, FewShot(**settings), seed=seed, groups_per_step=2)
        groups = await shown.run([GroupRequest(TASKS[n % 6], n, 2, f"own-{n}") for n in numbers])
        await shown.aclose()
    assert [g.trajectories[0].turns[0].observation[-1].content for g in groups] == [f"{n % 6}?" for n in numbers]
    return policy.heard


def test_the_schedule_falls_to_none() -> None:
    assert [FewShot(count=3, steps=6).shown(step) for step in range(8)] == [3, 3, 2, 2, 1, 1, 0, 0]


async def test_demonstrations_stand_between_the_instructions_and_the_task() -> None:
    found = await heard([0, 1, 2, 3, 4], count=2, steps=2)
    for number, count in ((0, 2), (1, 2), (2, 1), (3, 1), (4, 0)):
        for index in (0, 1):
            system, *shown, (role, asked) = found[f"own-{number}/{index}"]
            assert system[0] == "system"
            assert (role, asked) == ("user", f"{number}?")
            assert len(shown) == 2 * count
            for (asks, question), (answers, answer) in zip(shown[::2], shown[1::2], strict=True):
                assert (asks, answers) == ("user", "assistant")
                assert int(answer) == 2 * int(question.rstrip("?"))
                assert question != asked
    assert found["own-0/0"] == found["own-0/1"]
    assert found["own-0/0"][1:-1] != found["own-1/0"][1:-1]


async def test_which_are_shown_depends_on_seed_and_number_alone() -> None:
    whole = await heard([0, 1, 2, 3])
    assert (await heard([3]))["own-3/0"] == whole["own-3/0"]
    assert (await heard([3], seed=1))["own-3/0"] != whole["own-3/0"]


async def test_a_demonstrator_that_solves_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="'wrong' solved 0 of 6 tasks"):
        await heard([0], demonstrator="wrong")


async def test_a_template_that_refuses_demonstrations_ends_the_run() -> None:
    with pytest.raises(ConfigError, match="the model's chat template refuses the demonstrations"):
        await heard([0], policy=Listens("refused"))
