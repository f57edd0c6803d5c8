"""tau3 (tau2-bench 1.0): customer service in a shop or a bank, over the package that you have installed.

It needs Python 3.12. The databases, the tools and the checks are the package's own. The user is not simulated here: the
agent reads the user's instructions, and gets the user's tools as well as its own. So this measures the use of tools and
policies, not a conversation, and its numbers are no tau3 numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from agentrl.adapters.suite import SuiteTool, from_package, splits_of, suite_tool
from agentrl.env.registry import register
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ToolError, did_you_mean
from agentrl.messages import Action, Message, ToolCall
from agentrl.trajectory import Task

INSTALL = "with Python 3.12, pip install -e PATH of a checkout of tau2-bench, and pip install rank_bm25"
DOMAINS: Mapping[str, Mapping[str, Any]] = {
    "retail": {},
    "banking_knowledge": {"retrieval_variant": "bm25"},
    "mock": {},
}
"""Domain -> arguments of its environment. Airline and telecom work where their data is installed."""
OTHERS = ("airline", "telecom")
_USER = "user_"
_STATES = frozenset(["DB", "ENV_ASSERTION"])  # checks of how the world ends
_JUDGED = frozenset(["NL_ASSERTION"])  # by a language model
_INTRODUCTION = (
    "The user's instructions, which the user follows in every answer. Tools that begin with user_ are the user's own."
)


def _registry() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import fetches a list of prices
    return from_package("tau2.registry", INSTALL).registry


@lru_cache(maxsize=8)
def _package_tasks(domain: str) -> Mapping[str, Any]:
    return {task.id: task for task in _registry().get_tasks_loader(domain)(None)}


def _arguments(domain: str, task: Any) -> dict[str, Any]:
    """How the package makes the environment of a task."""
    found = dict(DOMAINS.get(domain, {}))
    if domain == "banking_knowledge":
        found["read_log_allowlist"] = from_package("tau2.runner.build", INSTALL)._derive_read_log_allowlist(task)
    return found


@lru_cache(maxsize=8)
def _tasks(domain: str, train_share: float) -> Any:
    items = [
        (f"{domain}-{id}", {"domain": domain, "task": id, "content": task.model_dump(mode="json")})
        for id, task in _package_tasks(domain).items()
    ]
    return splits_of(items, train_share)


@lru_cache(maxsize=8)
def _untouched(domain: str) -> Any:
    """A world of the package that no episode changes: for its policy, its tools, and its databases to compare with."""
    return _registry().get_env_constructor(domain)(**DOMAINS.get(domain, {}))


@lru_cache(maxsize=8)
def _tools(domain: str) -> tuple[SuiteTool, ...]:
    world = _untouched(domain)
    theirs = world.get_user_tools() if world.user_tools is not None else []
    return (*(_tool(tool, "") for tool in world.get_tools()), *(_tool(tool, _USER) for tool in theirs))


@register("suites/Tau3Solo-v1", max_turns=60)
class Tau3Solo(ToolEnv):
    """A customer's request of tau3, with the customer's instructions in sight and without a simulated user.

    Reward: 1 if the databases end as the package's solution leaves them, and the actions and facts that the task counts
    are there. What a language model would judge (`NL_ASSERTION`) is left out, and named in `info["not_judged"]`.

    Args:
        domain: `retail`, `banking_knowledge`, `mock`, or `airline` and `telecom` where their data is installed.
        train_share: a share of the tasks for the split `train`.
    """

    third_party = ("tau2",)
    known_flaws = (
        "Eleven of the 114 retail tasks pass by doing nothing: their solution changes nothing.",
        "112 of the 114 retail tasks have a part that a language model judges; it is left out here. 72 of them list "
        "nothing to judge.",
        "The user is not simulated: these are no tau3 numbers.",
    )
    score_truncated = True
    not_state = ("tasks",)

    def __init__(self, *, domain: str = "retail", train_share: float = 0.0, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        known = (*DOMAINS, *OTHERS)
        if domain not in known:
            raise ValueError(f"tau3 has no domain {domain!r}.{did_you_mean(domain, known)}")
        from_package("loguru", INSTALL).logger.disable("tau2")
        self.tasks = _tasks(domain, train_share)

    def start(self, task: Task) -> list[Message]:
        data = task.data
        self.wanted = _package_tasks(data["domain"])[data["task"]]
        self.made: list[Any] = []
        self.world: Any = None
        if self.wanted.initial_state is not None:
            self._make_world()
        self.use_tools(*_tools(data["domain"]))
        asked = f"{_INTRODUCTION}\n\n{self.wanted.user_scenario}"
        return [Message("system", _untouched(data["domain"]).get_policy()), Message("user", asked)]

    def _make_world(self) -> None:
        """Load the databases as the task begins: at the first call, unless they have a history that may not fit."""
        domain, first = self.task.data["domain"], self.wanted.initial_state
        self.world = _registry().get_env_constructor(domain)(**_arguments(domain, self.wanted))
        if first is not None:
            self.world.set_state(
                initialization_data=first.initialization_data,
                initialization_actions=first.initialization_actions,
                message_history=list(first.message_history or []),
            )

    def _run(self, name: str, given: dict[str, Any]) -> str:
        messages = from_package("tau2.data_model.message", INSTALL)
        who = "user" if name.startswith(_USER) else "assistant"
        if self.world is None:
            self._make_world()
        made = messages.ToolCall(id=str(len(self.made)), name=name.removeprefix(_USER), arguments=given, requestor=who)
        told = self.world.get_response(made)
        kind = messages.UserMessage if who == "user" else messages.AssistantMessage
        self.made += [kind(role=who, content=None, tool_calls=[made]), told]
        if told.error:
            raise ToolError(str(told.content).removeprefix("Error: "))
        return str(told.content)

    def score(self, answer: str | None) -> float:
        said = from_package("tau2.data_model.message", INSTALL).AssistantMessage(
            role="assistant", content=answer or "-"
        )
        self.add_info(not_judged=list(self.not_judged(self.task)))
        domain = self.task.data["domain"]
        untouched = self.world is None or (
            self.wanted.initial_state is None and _same_databases(self.world, _untouched(domain))
        )
        return verdict(domain, self.wanted, [*self.made, said], untouched=untouched)

    def not_judged(self, task: Task) -> tuple[str, ...]:
        """The parts of a task's verdict that a language model would give, and that are left out."""
        wanted = _package_tasks(task.data["domain"])[task.data["task"]]
        counted = {str(basis.value) for basis in wanted.evaluation_criteria.reward_basis}
        return tuple(sorted(counted & _JUDGED))

    def oracle(self, messages: Sequence[Message]) -> Action:
        """The package's next action, then what is to be told."""
        criteria = self.wanted.evaluation_criteria
        actions, done = criteria.actions or [], len(self.made) // 2
        if done < len(actions):
            name = f"{_USER if actions[done].requestor == 'user' else ''}{actions[done].name}"
            return Action(tool_calls=(ToolCall(name, actions[done].arguments),))
        return Action(", ".join(criteria.communicate_info or []) or "Done.")


def _tool(tool: Any, prefix: str) -> SuiteTool:
    function = tool.openai_schema["function"]
    return suite_tool(f"{prefix}{function['name']}", function["description"], function["parameters"], Tau3Solo._run)


def verdict(domain: str, task: Any, trajectory: Sequence[Any], *, untouched: bool = False) -> float:
    """The product of the package's checks that a task counts, without those of a language model.

    Args:
        untouched: whether the databases are known to be as at the beginning. What the package says of these is asked
            once for each task: it builds two worlds and hashes them.
    """
    counted = {basis.value for basis in task.evaluation_criteria.reward_basis}
    reward = 1.0
    if untouched and counted & _STATES == {"DB"}:
        reward *= _reward_of_nothing(domain, task.id)
    elif counted & _STATES:
        reward *= _reward_of_state(domain, task, trajectory)
    if "ACTION" in counted:
        check = from_package("tau2.evaluator.evaluator_action", INSTALL).ActionEvaluator
        reward *= check.calculate_reward(task=task, full_trajectory=list(trajectory)).reward
    if "COMMUNICATE" in counted:
        check = from_package("tau2.evaluator.evaluator_communicate", INSTALL).CommunicateEvaluator
        reward *= check.calculate_reward(task=task, full_trajectory=list(trajectory)).reward
    return float(reward)


def _reward_of_state(domain: str, task: Any, trajectory: Sequence[Any]) -> float:
    found = from_package("tau2.evaluator.evaluator_env", INSTALL).EnvironmentEvaluator.calculate_reward(
        environment_constructor=_registry().get_env_constructor(domain),
        task=task,
        full_trajectory=list(trajectory),
        env_kwargs=_arguments(domain, task),
    )
    return float(found.reward)


@lru_cache(maxsize=4096)
def _reward_of_nothing(domain: str, task_id: str) -> float:
    return _reward_of_state(domain, _package_tasks(domain)[task_id], ())


def _same_databases(one: Any, other: Any) -> bool:
    return all(
        getattr(getattr(one, kit), "db", None) == getattr(getattr(other, kit), "db", None)
        for kit in ("tools", "user_tools")
    )
