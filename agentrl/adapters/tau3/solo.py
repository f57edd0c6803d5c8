"""tau3 (tau2-bench 1.0): customer service in a shop or a bank, over the package that you have installed.

It needs Python 3.12. The databases, the tools and the checks are the package's own. The user is not simulated here: the
agent reads the user's instructions, and gets the user's tools as well as its own. So this measures the use of tools and
policies, not a conversation, and its numbers are no tau3 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from agentrl.adapters.suite import SuiteTool, from_package, splits_of, suite_tool
from agentrl.adapters.tau3.world import (
    ARGUMENTS,
    made_world,
    not_judged,
    package_tasks,
    same_databases,
    untouched,
    verdict,
)
from agentrl.env.registry import register
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import PackageMissing, ToolError, did_you_mean
from agentrl.messages import Action, Message, ToolCall
from agentrl.trajectory import Task

INSTALL = "with Python 3.12, pip install -e PATH of a checkout of tau2-bench, and pip install rank_bm25"
OTHERS = ("airline", "telecom")
_USER = "user_"
_INTRODUCTION = (
    "The user's instructions, which the user follows in every answer. Tools that begin with user_ are the user's own."
)


def check_domain(domain: str) -> None:
    known = (*ARGUMENTS, *OTHERS)
    if domain not in known:
        raise ValueError(f"tau3 has no domain {domain!r}.{did_you_mean(domain, known)}")


@lru_cache(maxsize=8)
def _tasks(domain: str, train_share: float) -> Any:
    items = [
        (f"{domain}-{id}", {"domain": domain, "task": id, "content": task.model_dump(mode="json")})
        for id, task in package_tasks(domain).items()
    ]
    return splits_of(items, train_share)


@lru_cache(maxsize=8)
def _tools(domain: str) -> tuple[SuiteTool, ...]:
    world = untouched(domain)
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
        check_domain(domain)
        from_package("loguru", INSTALL).logger.disable("tau2")
        if find_spec("tau2") is None:
            raise PackageMissing(f"this environment needs 'tau2', which is not installed: {INSTALL}")
        self.tasks = _tasks(domain, train_share)

    def start(self, task: Task) -> list[Message]:
        data = task.data
        self.wanted = package_tasks(data["domain"])[data["task"]]
        self.made: list[Any] = []
        self.world: Any = None
        if self.wanted.initial_state is not None:
            self.world = made_world(task.data["domain"], self.wanted)
        self.use_tools(*_tools(data["domain"]))
        asked = f"{_INTRODUCTION}\n\n{self.wanted.user_scenario}"
        return [Message("system", untouched(data["domain"]).get_policy()), Message("user", asked)]

    def _run(self, name: str, given: dict[str, Any]) -> str:
        messages = from_package("tau2.data_model.message", INSTALL)
        who = "user" if name.startswith(_USER) else "assistant"
        if self.world is None:
            self.world = made_world(self.task.data["domain"], self.wanted)
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
        unchanged = self.world is None or (
            self.wanted.initial_state is None and same_databases(self.world, untouched(domain))
        )
        return verdict(domain, self.wanted, [*self.made, said], unchanged=unchanged)

    def not_judged(self, task: Task) -> tuple[str, ...]:
        """The parts of a task's verdict that a language model would give, and that are left out."""
        return not_judged(package_tasks(task.data["domain"])[task.data["task"]])

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
