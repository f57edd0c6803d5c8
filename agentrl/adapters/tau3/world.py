"""The worlds of tau3: tasks, tools, calls and verdicts, over the package alone and in plain values.

It imports nothing of AgentRL, so that a Python in which only tau2-bench is installed runs this file as a worker:
requests come as lines of JSON, and so do the answers.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "retail": {},
    "banking_knowledge": {"retrieval_variant": "bm25"},
    "mock": {},
}
"""Domain -> arguments of its environment. Airline and telecom work where their data is installed."""
_STATES = frozenset(["DB", "ENV_ASSERTION"])  # checks of how the world ends
_JUDGED = frozenset(["NL_ASSERTION"])  # by a language model


def registry() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import fetches a list of prices
    return import_module("tau2.registry").registry


@lru_cache(maxsize=8)
def package_tasks(domain: str) -> Mapping[str, Any]:
    return {task.id: task for task in registry().get_tasks_loader(domain)(None)}


def arguments_of(domain: str, task: Any) -> dict[str, Any]:
    """How the package makes the environment of a task."""
    found = dict(ARGUMENTS.get(domain, {}))
    if domain == "banking_knowledge":
        found["read_log_allowlist"] = import_module("tau2.runner.build")._derive_read_log_allowlist(task)
    return found


@lru_cache(maxsize=8)
def untouched(domain: str) -> Any:
    """A world of the package that no episode changes: for its policy, its tools, and its databases to compare with."""
    return registry().get_env_constructor(domain)(**ARGUMENTS.get(domain, {}))


def made_world(domain: str, task: Any) -> Any:
    """A world as a task begins."""
    world, first = registry().get_env_constructor(domain)(**arguments_of(domain, task)), task.initial_state
    if first is not None:
        world.set_state(
            initialization_data=first.initialization_data,
            initialization_actions=first.initialization_actions,
            message_history=list(first.message_history or []),
        )
    return world


def verdict(domain: str, task: Any, trajectory: Sequence[Any], *, unchanged: bool = False) -> float:
    """The product of the package's checks that a task counts, without those of a language model.

    Args:
        unchanged: whether the databases are known to be as at the beginning. What the package says of these is asked
            once for each task: it builds two worlds and hashes them.
    """
    counted = {basis.value for basis in task.evaluation_criteria.reward_basis}
    reward = 1.0
    if unchanged and counted & _STATES == {"DB"}:
        reward *= _reward_of_nothing(domain, task.id)
    elif counted & _STATES:
        reward *= _reward_of_state(domain, task, trajectory)
    for kind in ("action", "communicate"):
        if kind.upper() in counted:
            check = getattr(import_module(f"tau2.evaluator.evaluator_{kind}"), f"{kind.title()}Evaluator")
            reward *= check.calculate_reward(task=task, full_trajectory=list(trajectory)).reward
    return float(reward)


def not_judged(task: Any) -> tuple[str, ...]:
    """The parts of a task's verdict that a language model would give, and that are left out."""
    return tuple(sorted({str(basis.value) for basis in task.evaluation_criteria.reward_basis} & _JUDGED))


def same_databases(one: Any, other: Any) -> bool:
    return all(
        getattr(getattr(one, kit), "db", None) == getattr(getattr(other, kit), "db", None)
        for kit in ("tools", "user_tools")
    )


def _reward_of_state(domain: str, task: Any, trajectory: Sequence[Any]) -> float:
    found = import_module("tau2.evaluator.evaluator_env").EnvironmentEvaluator.calculate_reward(
        environment_constructor=registry().get_env_constructor(domain),
        task=task,
        full_trajectory=list(trajectory),
        env_kwargs=arguments_of(domain, task),
    )
    return float(found.reward)


@lru_cache(maxsize=4096)
def _reward_of_nothing(domain: str, task_id: str) -> float:
    return _reward_of_state(domain, package_tasks(domain)[task_id], ())


class Worlds:
    """Worlds by number, in plain values: what a worker offers, and what is used where the package is at hand."""

    def __init__(self) -> None:
        import_module("loguru").logger.disable("tau2")
        self._open: dict[int, tuple[str, Any, Any]] = {}
        self._numbers = itertools.count()

    def version(self) -> str:
        return str(import_module("importlib.metadata").version("tau2"))

    def tasks(self, domain: str) -> dict[str, dict[str, Any]]:
        """The tasks of a domain, by id."""
        return {id: task.model_dump(mode="json") for id, task in package_tasks(domain).items()}

    def beginning(self, domain: str, task: str) -> dict[str, Any]:
        """What the two speakers are told, and their tools."""
        wanted, world = package_tasks(domain)[task], untouched(domain)
        prompts, users = import_module("tau2.agent.llm_agent"), import_module("tau2.user.user_simulator")
        theirs = world.get_user_tools(include=wanted.user_tools) if world.user_tools is not None else []
        user = users.UserSimulator(llm="none", instructions=str(wanted.user_scenario), tools=theirs or None)
        return {
            "agent": prompts.SYSTEM_PROMPT.format(
                domain_policy=world.get_policy(), agent_instruction=prompts.AGENT_INSTRUCTION
            ),
            "user": user.system_prompt,
            "scenario": str(wanted.user_scenario),
            "greeting": import_module("tau2.orchestrator.orchestrator").DEFAULT_FIRST_AGENT_MESSAGE.content,
            "stops": [users.STOP, users.TRANSFER, users.OUT_OF_SCOPE],
            "tools": [tool.openai_schema["function"] for tool in world.get_tools()],
            "user_tools": [tool.openai_schema["function"] for tool in theirs],
            "not_judged": list(not_judged(wanted)),
            "history": bool(wanted.initial_state is not None and wanted.initial_state.message_history),
        }

    def open(self, domain: str, task: str) -> int:
        """A world as a task begins; its number."""
        number, wanted = next(self._numbers), package_tasks(domain)[task]
        self._open[number] = (domain, wanted, made_world(domain, wanted))
        return number

    def call(self, number: int, made: Mapping[str, Any]) -> dict[str, Any]:
        """The message of a tool that answers a call, as the package writes it."""
        world = self._open[number][2]
        told = world.get_response(import_module("tau2.data_model.message").ToolCall.model_validate(dict(made)))
        plain: dict[str, Any] = told.model_dump(mode="json")
        return plain

    def verdict(self, number: int, messages: Sequence[Mapping[str, Any]]) -> float:
        """The verdict on what was said and done in a world."""
        domain, task, _ = self._open[number]
        kinds, forms = import_module("tau2.data_model.message"), []
        names = {"assistant": kinds.AssistantMessage, "user": kinds.UserMessage, "tool": kinds.ToolMessage}
        for message in messages:
            forms.append(names[message["role"]].model_validate(dict(message)))
        try:
            return verdict(domain, task, forms)
        except (OSError, MemoryError, ImportError):  # of the machine or the installation: no verdict
            raise
        except Exception:  # its checks raise on what an agent left undone: they have not accepted it
            return 0.0

    def close(self, number: int) -> None:
        self._open.pop(number, None)


def _serve() -> None:
    """Answer requests until the other end hangs up. What the package prints goes to the errors."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worlds: Worlds | None = None
    for line in sys.stdin:
        try:
            worlds = worlds or Worlds()
            name, given = json.loads(line)
            found: dict[str, Any] = {"value": getattr(worlds, name)(*given)}
        except Exception as error:  # said to the other end, which raises it
            found = {"error": f"{type(error).__name__}: {error}", "lacks": getattr(error, "name", None)}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
