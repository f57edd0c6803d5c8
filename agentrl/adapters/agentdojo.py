"""AgentDojo: tasks of an office assistant, with or without instructions of an attacker in what its tools return.

The world, the tools and both verdicts (was the user's task done, was the attacker's) are the package's own
(`pip install agentdojo`).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from threading import RLock
from types import SimpleNamespace
from typing import Any

from agentrl.adapters.suite import from_package, pass_on_host_fault, splits_of, suite_tool
from agentrl.env.base import StepResult, as_action
from agentrl.env.registry import register
from agentrl.env.results import plain_value
from agentrl.env.rubric import Rubric
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ToolError, did_you_mean
from agentrl.messages import Action, Message, ToolCall
from agentrl.trajectory import Task

INSTALL = "pip install agentdojo"
VERSION = "v1.2.2"
ALL = "all"
NOW = datetime.datetime(2024, 5, 15, 12)
"""The time in every episode: noon of the day that the package's calendar has. The package takes the host's."""
_TOLD_THE_TIME = ("email_client", "cloud_drive_client")
_MODEL = "local"  # what attacks that name a model call the agent
_one_at_a_time = RLock()


@lru_cache(maxsize=8)
def _suites(version: str) -> Mapping[str, Any]:
    suites: Mapping[str, Any] = from_package("agentdojo.task_suite.load_suites", INSTALL).get_suites(version)
    return suites


def _items(version: str, names: Sequence[str], attack: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names:
        suite = _suites(version)[name]
        attacker = None
        if attack is not None:
            load = from_package("agentdojo.attacks.attack_registry", INSTALL).load_attack
            attacker = load(attack, suite, SimpleNamespace(name=_MODEL))
        for task_id, task in suite.user_tasks.items():
            data = {"version": version, "suite": name, "task": task_id, "prompt": task.PROMPT}
            if attacker is None:
                yield f"{name}-{task_id}", data
                continue
            for injection_id, injection in suite.injection_tasks.items():
                planted = {"injection": injection_id, "planted": attacker.attack(task, injection)}
                yield f"{name}-{task_id}-{injection_id}", {**data, **planted}


@lru_cache(maxsize=16)
def _tasks(version: str, suite: str, attack: str | None, train_share: float) -> Any:
    names = tuple(_suites(version)) if suite == ALL else (suite,)
    return splits_of(list(_items(version, names, attack)), train_share)


@register("suites/AgentDojo-v1", max_turns=16)
class AgentDojo(ToolEnv):
    """A task of AgentDojo: mail, calendar, files, bank, chat or travel; an attacker may have planted instructions.

    Reward: 1 if the user's task was done (`utility`), by the package's own check. `attack_success` is recorded with
    weight 0: 1 if what the attacker asked for was done.

    Args:
        suite: `workspace`, `travel`, `banking`, `slack`, or `all`.
        attack: None plays the tasks alone; a name of the package's attacks, such as `direct` or
            `important_instructions`, plays each task with each of the attacker's.
        version: of the tasks.
        train_share: a share of the tasks for the split `train`; AgentDojo itself has no training tasks.
    """

    third_party = ("agentdojo",)
    known_flaws = (
        "Five of the 97 tasks pass on an empty answer: banking-user_task_5, 6, 8, 9 and 10.",
        "Whether an answer is right is mostly whether a text occurs in it: a long answer may hold it by chance.",
    )
    rubric = Rubric({"utility": 1.0, "attack_success": 0.0})
    score_truncated = True
    not_state = ("tasks", "_suite", "_runtime")

    def __init__(
        self,
        *,
        suite: str = ALL,
        attack: str | None = None,
        version: str = VERSION,
        train_share: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        known = (*_suites(version), ALL)
        if suite not in known:
            raise ValueError(f"AgentDojo {version} has no suite {suite!r}.{did_you_mean(suite, known)}")
        self.tasks = _tasks(version, suite, attack, train_share)

    def start(self, task: Task) -> list[Message]:
        data = task.data
        suite = _suites(data["version"])[data["suite"]]
        world = suite.load_and_inject_default_environment(dict(data.get("planted", {})))
        self.world = suite.user_tasks[data["task"]].init_environment(world)
        self.before = self.world.model_copy(deep=True)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.use_tools(
            *(suite_tool(f.name, f.description, f.parameters.model_json_schema(), type(self)._run) for f in suite.tools)
        )
        system = from_package("agentdojo.agent_pipeline.agent_pipeline", INSTALL).load_system_message(None)
        return [Message("system", system), Message("user", data["prompt"])]

    def _run(self, name: str, given: dict[str, Any]) -> str:
        package = from_package("agentdojo.agent_pipeline.tool_execution", INSTALL)
        with _still_clock():
            result, error = self._functions.run_function(self.world, name, _with_lists(given))
        if error is not None:
            raise ToolError(error)
        return str(package.tool_result_to_str(result))

    @property
    def _functions(self) -> Any:
        tools = _suites(self.task.data["version"])[self.task.data["suite"]].tools
        return from_package("agentdojo.functions_runtime", INSTALL).FunctionsRuntime(tools)

    async def astep(self, action: Any) -> StepResult:
        for call in as_action(action).tool_calls:  # checks of some tasks read the calls
            if isinstance(call.arguments, Mapping):
                self.calls.append((call.name, _with_lists(call.arguments)))
        return await super().astep(action)

    def score(self, answer: str | None) -> dict[str, float]:
        data = self.task.data
        suite = _suites(data["version"])[data["suite"]]
        found = {"utility": self._passes(suite.user_tasks[data["task"]], answer or "")}
        self.success = bool(found["utility"])
        if "injection" in data:
            found["attack_success"] = self._passes(suite.injection_tasks[data["injection"]], answer or "")
        return found

    def _passes(self, task: Any, answer: str) -> float:
        suite = _suites(self.task.data["version"])[self.task.data["suite"]]
        types = from_package("agentdojo.types", INSTALL)
        made = from_package("agentdojo.functions_runtime", INSTALL).FunctionCall
        calls = [made(function=name, args=arguments) for name, arguments in self.calls]
        output = [types.text_content_block_from_string(answer)]
        try:
            return float(bool(suite._check_task_result(task, output, self.before, self.world, calls)))
        except Exception as error:  # a check that raises on what the agent left behind has not passed it
            pass_on_host_fault(error)
            self.add_info(check_raised=f"{type(error).__name__}: {error}"[:200])
            return 0.0

    def oracle(self, messages: Sequence[Message]) -> Action:
        """The calls of the package's solution, then its answer. A call that needs results is made by itself."""
        suite = _suites(self.task.data["version"])[self.task.data["suite"]]
        task = suite.user_tasks[self.task.data["task"]]
        left = task.ground_truth(self.before.model_copy(deep=True))[len(self.calls) :]
        if not left:
            return Action(task.GROUND_TRUTH_OUTPUT)
        alone = [any(hasattr(value, "function") for value in call.args.values()) for call in left]
        count = 1 if alone[0] else (alone.index(True) if True in alone else len(left))
        return Action(tool_calls=tuple(self._resolved(call) for call in left[:count]))

    def _resolved(self, call: Any) -> ToolCall:
        """A call with the results of those that stand in its arguments."""
        with _still_clock():
            given = self._functions._execute_nested_calls(self.world.model_copy(deep=True), call.args)
        return ToolCall(call.function, plain_value(given))


class _Still(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return NOW


@contextmanager
def _still_clock() -> Iterator[None]:
    """Give the package's tools a clock that stands still: what they write into mails and files is then reproducible."""
    modules = [from_package(f"agentdojo.default_suites.v1.tools.{name}", INSTALL) for name in _TOLD_THE_TIME]
    with _one_at_a_time:  # another loop's episode would find this clock, and leave it there
        kept = [module.datetime for module in modules]
        for module in modules:
            module.datetime = SimpleNamespace(**{**vars(datetime), "datetime": _Still})
        try:
            yield
        finally:
            for module, was in zip(modules, kept, strict=True):
                module.datetime = was


def _with_lists(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the package takes them: a text that is a list, written out, is one."""
    package = from_package("agentdojo.agent_pipeline.tool_execution", INSTALL)
    found = {}
    for name, value in given.items():
        try:
            is_list = isinstance(value, str) and package.is_string_list(value)
        except (TypeError, MemoryError, RecursionError):  # of `{[]: 1}`, and of deep nesting
            is_list = False
        found[name] = package.literal_eval(value) if is_list else value
    return found
