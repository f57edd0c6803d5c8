"""tau3 with a simulated user: the package's rules and prompts of both speakers, and any policy as the user.

The worlds may stand in a worker process, in the Python of the suite's own virtual environment: then tau2-bench need not
be installed next to AgentRL. Owns the conversation and its record in the package's form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

from agentrl.adapters.suite import SuiteTool, splits_of, suite_tool
from agentrl.adapters.tau3.solo import INSTALL, check_domain
from agentrl.adapters.tau3.worker import Worker
from agentrl.adapters.tau3.world import Worlds
from agentrl.env.base import StepResult, as_action
from agentrl.env.execution import in_thread
from agentrl.env.registry import register
from agentrl.env.tool_env import call
from agentrl.env.users.user import Heard, LastWords, Move, Reply, ScriptedUser, User
from agentrl.env.users.user_env import UserEnv
from agentrl.errors import PackageMissing, ToolError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.by_name import PolicySetup
from agentrl.rollout.users.policy_user import PolicyUser, seen_by_the_user
from agentrl.trajectory import Task

SCRIPTED = "scripted"
_TOLD = "Please call this: "  # how the oracle asks the scripted user to use a tool of its own
_MOST_ERRORS = 10  # of tools; then the package ends the conversation, which counts as failed
_WORKER_S = 300.0
_STOP = "###STOP###"


@lru_cache(maxsize=4)
def _worlds(python: str | None) -> Worlds | Worker:
    if python is not None:
        return Worker(python)
    if find_spec("tau2") is None:
        raise PackageMissing(
            f"this environment needs 'tau2', which is not installed: {INSTALL}. Or name the Python of another virtual "
            "environment that has it: --kwarg python=PATH/bin/python"
        )
    return Worlds()


@lru_cache(maxsize=8)
def _tasks(domain: str, python: str | None, train_share: float) -> Any:
    worlds = _worlds(python)
    version, found = worlds.version(), worlds.tasks(domain)
    items = [
        (f"{domain}-{id}", {"domain": domain, "task": id, "content": content, "package": version})
        for id, content in found.items()
        if not (content.get("initial_state") or {}).get("message_history")  # a conversation that has begun
    ]
    return splits_of(items, train_share)


class _Customer(PolicyUser):
    """A policy under the package's own prompt, which is the goal of the episode."""

    def __init__(self, policy: str, setup: PolicySetup) -> None:
        super().__init__(policy, setup=setup)

    async def reply(self, heard: Heard) -> Move:
        prompt, _, greeting = heard.goal.rpartition("\n\n")
        spoken = [m for m in seen_by_the_user(heard) if (m.role, m.content) != ("user", greeting)]
        action = await self.ask([Message("system", prompt), Message("user", greeting), *spoken], heard)
        return Action(tool_calls=action.tool_calls) if action.tool_calls else action.text.strip()


def _scripted(heard: Heard) -> Move:
    """Says its instructions, calls what it is asked to call, and ends the conversation at the next answer."""
    if not heard.turn:
        return heard.goal
    if heard.messages[-1].role == "tool":
        return f"It says: {heard.last}"
    if heard.last.startswith(_TOLD):
        asked = json.loads(heard.last.removeprefix(_TOLD))
        return call(asked["name"], **asked["arguments"])
    return _STOP


@register("suites/Tau3-v1", max_turns=100)
class Tau3(UserEnv):
    """A customer of tau3 talks with the agent, which has tools and a policy to keep to.

    Reward: 1 if the databases end as the package's solution leaves them, and the actions and facts that the task counts
    are there. It is 0 where the user has not ended the conversation. What a language model would judge (`NL_ASSERTION`)
    is left out, and named in `info["not_judged"]`.

    Args:
        domain: `retail`, `banking_knowledge`, `mock`, or `airline` and `telecom` where their data is installed.
        user: the policy that plays the user, such as `openai:NAME`. `scripted` says all instructions at once, and ends
            the conversation at the second answer.
        base_url: of the user's server.
        api_key_env: the environment variable with the key of that server; None is the API's own.
        python: an interpreter for which tau2-bench is installed: the worlds then stand in a process of it.
        train_share: a share of the tasks for the split `train`.
    """

    known_flaws = (
        "Eleven of the 114 retail tasks pass by doing nothing: their solution changes nothing.",
        "112 of the 114 retail tasks have a part that a language model judges; it is left out here.",
        "With the scripted user, these are no tau3 numbers. With a policy, they depend on which one it is: two runs of "
        "one agent must differ by several points before that says something.",
        "`update_task_with_user_tools` of `mock` cannot be solved: its check wants the user's database changed, and "
        "its solution leaves that as it is, which the comparison of databases then wants.",
        "Tasks that begin in the middle of a conversation (some of `mock`) are left out.",
    )
    third_party = ("tau2",)
    can_fork = False  # a world may stand in another process
    score_truncated = True
    tool_timeout_s = _WORKER_S
    not_state = ("tasks", "user")

    def __init__(
        self,
        *,
        domain: str = "retail",
        user: str = SCRIPTED,
        base_url: str | None = None,
        api_key_env: str | None = None,
        python: str | None = None,
        train_share: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        check_domain(domain)
        self._python = python
        self._world: int | None = None
        self.tasks = _tasks(domain, python, train_share)
        self.user: User = (
            ScriptedUser(_scripted)
            if user == SCRIPTED
            else _Customer(user, PolicySetup(base_url=base_url, api_key_env=api_key_env))
        )

    async def _ask(self, name: str, *given: Any) -> Any:
        """What a method of the worlds returns; a worker is waited for in a thread."""
        action = partial(getattr(_worlds(self._python), name), *given)
        return action() if self._python is None else await in_thread(action, {})

    async def start(self, task: Task) -> list[Message]:
        data = task.data
        await self._leave_world()
        self.said: list[dict[str, Any]] = []
        self.errors, self.done, self.stopped = 0, 0, False
        self.beginning = await self._ask("beginning", data["domain"], data["task"])
        self._world = await self._ask("open", data["domain"], data["task"])
        self.use_tools(*(self._tool(function, type(self)._run) for function in self.beginning["tools"]))
        self.user_tools = tuple(self._tool(function, type(self)._run_user) for function in self.beginning["user_tools"])
        greeting = self.beginning["greeting"]
        scripted = isinstance(self.user, ScriptedUser)
        self.goal = self.beginning["scenario"] if scripted else f"{self.beginning['user']}\n\n{greeting}"
        self.said.append({"role": "assistant", "content": greeting})
        opening = await self.opening()
        self.said.append({"role": "user", "content": opening})
        system = Message("system", self.beginning["agent"])
        return [system, Message("assistant", greeting), Message("user", opening)]

    def _tool(self, function: Mapping[str, Any], run: Any) -> SuiteTool:
        made = suite_tool(function["name"], function["description"], function["parameters"], run)
        return replace(made, blocking=self._python is not None)

    def _run(self, name: str, given: dict[str, Any]) -> str:
        return self._called("assistant", name, given)

    def _run_user(self, name: str, given: dict[str, Any]) -> str:
        return self._called("user", name, given)

    def _called(self, who: str, name: str, given: Mapping[str, Any]) -> str:
        made = {"id": str(len(self.said)), "name": name, "arguments": dict(given), "requestor": who}
        assert self._world is not None
        told = _worlds(self._python).call(self._world, made)  # in a thread, where a worker answers
        self.said += [{"role": who, "content": None, "tool_calls": [made]}, told]
        self.done += 1
        if told["error"]:
            self.errors += 1
            raise ToolError(str(told["content"]).removeprefix("Error: "))
        return str(told["content"])

    async def respond(self, text: str) -> Reply:
        self.said.append({"role": "assistant", "content": text or "-"})
        said = await super().respond(text)
        if said is None:
            return None
        self.said.append({"role": "user", "content": str(said)})
        self.stopped = any(stop in said for stop in self.beginning["stops"])
        return LastWords(said) if self.stopped else said

    async def astep(self, action: Any) -> StepResult:
        action = as_action(action)
        if action.tool_calls and self.errors >= _MOST_ERRORS:
            self.terminate()
        return await super().astep(action)

    async def score(self, answer: str | None) -> float:
        self.add_info(not_judged=self.beginning["not_judged"], tau2=self.task.data["package"])
        reward = await self._ask("verdict", self._world, self.said) if self.stopped else 0.0
        await self._leave_world()
        return float(reward)

    async def _leave_world(self) -> None:
        world, self._world = self._world, None
        if world is not None:
            await self._ask("close", world)

    async def aclose(self) -> None:
        try:
            await self._leave_world()
        finally:
            await super().aclose()

    def not_judged(self, task: Task) -> tuple[str, ...]:
        """The parts of a task's verdict that a language model would give, and that are left out."""
        counted = task.data["content"]["evaluation_criteria"]["reward_basis"]
        return tuple(basis for basis in counted if basis == "NL_ASSERTION")

    def oracle(self, messages: Sequence[Message]) -> Action:
        """The package's next action, by the agent or by the scripted user, then what is to be told."""
        criteria = self.task.data["content"]["evaluation_criteria"]
        actions = criteria["actions"] or []
        if self.done < len(actions):
            wanted = actions[self.done]
            if wanted["requestor"] == "user":
                return Action(_TOLD + json.dumps({"name": wanted["name"], "arguments": wanted["arguments"]}))
            return Action(tool_calls=(ToolCall(wanted["name"], wanted["arguments"]),))
        return Action(", ".join(criteria["communicate_info"] or []) or "Done.")
