"""Whose failure is it, where an environment asks a judge or a simulated user? As tests/test_whose_failure.py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.users.user import ScriptedUser
from agentrl.env.users.user_env import UserEnv
from agentrl.errors import ConfigError, ModelError, PolicyFault
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy
from agentrl.rollout.judging.judge import Judge
from agentrl.rollout.users.policy_user import PolicyUser
from agentrl.trajectory import Task, Trajectory
from tests.rollout.judging.judges import fair
from tests.test_whose_failure import COUNTS, FAILED, NETWORK, SERVER, Cause, Steps, lands, second_of


class Server(Policy):
    """A model behind a server that fails on the word `poison`, and, if it is `always` so, on everything after it.

    Args:
        answers: what it says otherwise.
        fails: what it raises or says then; None is no answer at all, a number how many tokens it thinks.
        most: tokens of an answer that the server takes.
    """

    name = "server"

    def __init__(
        self, answers: Callable[..., str], fails: Exception | str | int | None, *, always: bool, most: int = 10**6
    ) -> None:
        self.answers, self.fails, self.always, self.down, self.most = answers, fails, always, False, most

    async def act(self, messages, tools, *, episode_id, sampling=None):
        poisoned = any("poison" in message.content for message in messages)
        self.down = self.down or (poisoned and self.always)
        if not (poisoned or self.down):
            return Action(self.answers(messages, tools))
        if isinstance(self.fails, Exception):
            raise self.fails
        if isinstance(self.fails, int):
            if sampling.max_tokens > self.most:
                raise ConfigError("the server refused the request: max_tokens is too large")
            enough = sampling.max_tokens > self.fails
            return Action(self.answers(messages, tools)) if enough else Action("", finish_reason="length")
        if self.fails is None:
            await asyncio.Event().wait()
        return Action(str(self.fails))


class Talk(UserEnv):
    """A user says two things, and then a judge scores the answer, or the fixed score of 0 stands."""

    tasks = Tasks.of(train=[{"n": 0}, {"n": 1}])
    limits = Limits(max_turns=4)
    hook_timeout_s = 0.5
    user = ScriptedUser(["Hello.", "And?"])
    judge: Judge | None = None

    async def start(self, task: Task) -> str:
        return await self.opening()

    async def score(self, answer: str | None) -> float:
        return 0.0 if self.judge is None else (await self.judge.answer("?", answer)).score


def played(**attributes: Any) -> Callable[[], Any]:
    async def play() -> Trajectory:
        made = {name: make() for name, make in attributes.items()}
        return await second_of(type("Talk", (Talk,), made), Steps(["hm", "wrong"], ["poison", "poison"]))

    return play


def judge(
    fails: Exception | str | int | None, lands: str, *, always: bool = False, most: int = 10**6, attempts: int = 2
) -> Cause:
    server = partial(Server, fair, fails, always=always, most=most)
    return Cause(lands, played(judge=lambda: Judge(server(), "Right?", attempts=attempts)))


def user(fails: Exception | str | None, lands: str, *, always: bool = False) -> Cause:
    def says(messages: list[Message], tools: object) -> str:
        return "And?"

    return Cause(lands, played(user=lambda: PolicyUser(Server(says, fails, always=always), max_replies=2)))


DOWN, GONE = PolicyFault("503", who="server"), PolicyFault("refused", who="network")
REFUSED = ConfigError("the server refused the request: 401")
FULL = ModelError("no memory for the keys and values")
CAUSES = {
    "a judge's server is down": judge(DOWN, SERVER, always=True),
    "a judge's server cannot be reached": judge(GONE, NETWORK, always=True),
    "a judge's server does not answer": judge(None, SERVER, always=True),
    "a judge's server does not answer what the model said": judge(None, SERVER),
    "a judge's server refuses the key": judge(REFUSED, SERVER, always=True),
    "a judge's model has no memory": judge(FULL, SERVER, always=True),
    "a judge's server fails on what the model said": judge(DOWN, SERVER),
    "a judge gives no verdict on what the model said": judge("Hm.", FAILED),
    "a judge says nothing to what the model said": judge("", FAILED),
    "a judge thinks longer than its max_tokens on what the model said": judge(5000, COUNTS, attempts=1),
    "a judge thinks without an end on what the model said": judge(10**6, FAILED, most=4096),
    "a judge thinks without an end on anything": judge(10**6, SERVER, always=True),
    "a judge gives no verdict on anything": judge("Hm.", SERVER, always=True),
    "a simulated user's server is down": user(DOWN, SERVER, always=True),
    "a simulated user's server cannot be reached": user(GONE, NETWORK, always=True),
    "a simulated user's server does not answer": user(None, SERVER, always=True),
    "a simulated user's server refuses the key": user(REFUSED, SERVER, always=True),
    "a simulated user's model has no memory": user(FULL, SERVER, always=True),
    "a simulated user's server fails on what the model said": user(DOWN, FAILED),
    "a simulated user says nothing to what the model said": user(" ", FAILED),
}


@pytest.mark.parametrize("name", CAUSES)
async def test_a_cause_lands_in_its_column(name: str) -> None:
    trajectory = await CAUSES[name].play()
    assert lands(trajectory) == CAUSES[name].lands, trajectory.ending
    assert not trajectory.success


def test_the_page_lists_every_cause_in_its_column() -> None:
    page = (Path(__file__).parent.parent / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page.partition("## Causes")[2], re.M))
    assert {name: rows.get(name) for name in CAUSES} == {name: cause.lands for name, cause in CAUSES.items()}
