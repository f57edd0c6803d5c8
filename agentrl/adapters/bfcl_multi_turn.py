"""BFCL v4, several turns: a user asks for one thing after another of a file system, a car, a shop and the like.

The world, its calls and the verdict are the package's own. Owns that each episode has a world of its own: the package
keeps the worlds in the globals of its module. Web search, which needs the network, is left out.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from threading import RLock
from typing import Any

from agentrl.adapters.bfcl import HINT, INSTALL, rows, schema_of
from agentrl.adapters.suite import SuiteTool, from_package, pass_on_host_fault, splits_of, suite_tool
from agentrl.env.base import StepResult, as_action
from agentrl.env.registry import register
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import did_you_mean
from agentrl.messages import Action, Message, ToolCall
from agentrl.trajectory import Task

CATEGORIES = tuple(f"multi_turn_{name}" for name in ("base", "miss_func", "miss_param", "long_context"))
ALL = "multi_turn"
_PACKAGE = "bfcl_eval.eval_checker.multi_turn_eval"
_MOST_STEPS = 20  # of one user turn; one more, and BFCL counts the whole task as failed
_MOST_DIGITS = 1000
_COUNTS_OF_DIGITS = ("precision", "decimal_places", "exponent")  # arguments that the package does not bound
_MODEL = "agentrl"
_one_at_a_time = RLock()
Steps = list[list[list[str]]]
"""Calls as Python text, by user turn and step."""


def _package(module: str) -> Any:
    return from_package(f"{_PACKAGE}.{module}", INSTALL)


def _items(categories: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for category in categories:
        answers = {row["id"]: row["ground_truth"] for row in rows(category, "possible_answer")}
        for row in rows(category):
            kept = {key: row[key] for key in ("question", "initial_config", "involved_classes")}
            yield row["id"], {**kept, "held_back": row.get("missed_function", {}), "answer": answers[row["id"]]}


@lru_cache(maxsize=8)
def _tasks(category: str, train_share: float) -> Any:
    return splits_of(list(_items(CATEGORIES if category == ALL else (category,))), train_share)


@lru_cache(maxsize=16)
def _functions(involved: tuple[str, ...]) -> Mapping[str, Mapping[str, Any]]:
    """The documentation of the functions of some classes, by name."""
    files = from_package("bfcl_eval.constants.executable_backend_config", INSTALL).MULTI_TURN_FUNC_DOC_FILE_MAPPING
    found: dict[str, Mapping[str, Any]] = {}
    for name in involved:
        stem = files[name].removesuffix(".json")
        found |= {doc["name"]: doc for doc in rows(stem, "multi_turn_func_doc", prefix="")}
    return found


@register("suites/BFCLMultiTurn-v4", max_turns=200)
class BFCLMultiTurn(ToolEnv):
    """A user of BFCL v4 asks for several things in turn; tools change a simulated world.

    Reward: 1 if, after every turn, the package's own checker finds the world and the results as its solution has them.

    Args:
        category: `multi_turn_base`, `multi_turn_miss_func`, `multi_turn_miss_param`, `multi_turn_long_context`, or
            `multi_turn` for all four.
        train_share: a share of the tasks for the split `train`; BFCL itself has no training tasks.
    """

    third_party = ("bfcl-eval",)
    known_flaws = (
        "The package writes calls as Python text, and changes what looks like one of its calls inside a text, too.",
        "Turns in which nothing should be called are not checked: a call there that changes nothing is not punished.",
        "In miss_func, functions that come later are described in the user's message, not in the list of tools.",
    )
    not_state = ("tasks",)

    def __init__(self, *, category: str = ALL, train_share: float = 0.0, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        known = (ALL, *CATEGORIES)
        if category not in known:
            raise ValueError(f"BFCL has no category {category!r} of several turns.{did_you_mean(category, known)}")
        self.tasks = _tasks(category, train_share)
        self.hidden: frozenset[str] = frozenset()

    @property
    def tool_schemas(self) -> Sequence[Mapping[str, Any]]:
        return [tool for tool in super().tool_schemas if tool["function"]["name"] not in self.hidden]

    def start(self, task: Task) -> list[dict[str, Any]]:
        self.steps: Steps = [[]]
        self.world: dict[str, Any] = {}
        self.gave_up = False
        self.hidden = frozenset(name for names in task.data["held_back"].values() for name in names)
        self.use_tools(*(self._tool(doc) for doc in self._documented.values()))
        return [dict(message) for message in task.data["question"][0]]

    def _tool(self, doc: Mapping[str, Any]) -> SuiteTool:
        return suite_tool(doc["name"], doc["description"] + HINT, schema_of(doc["parameters"]), type(self)._run)

    def _run(self, name: str, given: Mapping[str, Any]) -> str:
        endless = _endless(given)
        if endless is not None:
            return f"Error during execution: {endless} must be from -{_MOST_DIGITS} to {_MOST_DIGITS}."
        return self._executed([written(name, given)])[0]

    def _executed(self, calls: list[str]) -> list[str]:
        """The package's results of some calls in this episode's world."""
        module, data = _package("multi_turn_utils"), self.task.data
        run = partial(module.execute_multi_turn_func_call, model_name=_MODEL, test_entry_id=self.task.id)
        with _worlds(module, self.world):
            results, _ = run(
                calls,
                json.loads(json.dumps(data["initial_config"])),
                data["involved_classes"],
                long_context="long_context" in self.task.id,
            )
        return list(results)

    async def astep(self, action: Any) -> StepResult:
        calls = as_action(action).tool_calls
        if calls:
            self.steps[-1].append([self._as_text(call) for call in calls])
            if len(self.steps[-1]) > _MOST_STEPS:
                self.gave_up = True
                self.terminate()
        return await super().astep(action)

    def _as_text(self, call: ToolCall) -> str:
        """The call for the package's checker, which runs it as Python: names that are no tools never reach it."""
        known = call.name in self._documented and isinstance(call.arguments, Mapping)
        runs = known and _endless(call.arguments) is None
        return written(call.name, call.arguments) if runs else "no_such_function()"

    def respond(self, text: str) -> str | None:
        questions, turn = self.task.data["question"], len(self.steps)
        if turn == len(questions):
            return None
        self.steps.append([])
        held = self.task.data["held_back"].get(str(turn), ())
        if not held:
            return "\n".join(message["content"] for message in questions[turn])
        prompts = from_package("bfcl_eval.constants.default_prompts", INSTALL)
        docs = [
            {**self._documented[name], "parameters": schema_of(self._documented[name]["parameters"])} for name in held
        ]
        return f"{prompts.DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC}\n{json.dumps(docs)}"

    def score(self, answer: str | None) -> float:
        complete = len(self.steps) == len(self.task.data["question"])
        return float(complete and not self.gave_up and is_right(self.task.id, self.task.data, self.steps))

    def oracle(self, messages: Sequence[Message]) -> Action:
        """The package's solution of this turn in one step, then the end of the turn."""
        wanted = self.task.data["answer"][len(self.steps) - 1]
        if self.steps[-1] or not wanted:
            return Action("Done.")
        return Action(tool_calls=tuple(self._call(text) for text in wanted))

    def _call(self, text: str) -> ToolCall:
        """A call that is written as Python, such as `sort('a.txt')`: arguments without a name get theirs."""
        node = ast.parse(text.strip(), mode="eval").body
        assert isinstance(node, ast.Call)
        name = ast.unparse(node.func)
        names = self._documented[name]["parameters"]["properties"] if not node.args else self._signature(name)
        given = dict(zip(names, map(ast.literal_eval, node.args), strict=False))
        return ToolCall(name, given | {str(k.arg): ast.literal_eval(k.value) for k in node.keywords})

    def _signature(self, name: str) -> list[str]:
        files = from_package("bfcl_eval.constants.executable_backend_config", INSTALL).CLASS_FILE_PATH_MAPPING
        for owner in self.task.data["involved_classes"]:
            method = getattr(getattr(from_package(files[owner], INSTALL), owner), name, None)
            if method is not None:
                return list(inspect.signature(method).parameters)[1:]
        return []

    @property
    def _documented(self) -> Mapping[str, Mapping[str, Any]]:
        return _functions(tuple(self.task.data["involved_classes"]))


def _endless(given: Mapping[str, Any]) -> str | None:
    """The argument that asks for more digits than a call can compute in time; nothing could interrupt that call."""
    numbers = {name: given.get(name) for name in _COUNTS_OF_DIGITS}
    return next(
        (n for n, count in numbers.items() if isinstance(count, (int, float)) and abs(count) > _MOST_DIGITS), None
    )


def written(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as the package writes it. Names of arguments come from the model: only identifiers stand bare in it."""
    if all(key.isidentifier() for key in arguments):
        return f"{name}({','.join(f'{key}={value!r}' for key, value in arguments.items())})"
    return f"{name}(**{dict(arguments)!r})"


def is_right(task_id: str, data: Mapping[str, Any], steps: Steps) -> bool:
    """The verdict of the package's checker on the calls of each turn; nothing of it stays in the package's globals."""
    entry = {"id": task_id, "initial_config": data["initial_config"], "involved_classes": data["involved_classes"]}
    check = _package("multi_turn_checker").multi_turn_checker
    with _worlds(_package("multi_turn_utils"), {}):
        try:
            return bool(check(steps, data["answer"], json.loads(json.dumps(entry)), "", _MODEL)["valid"])
        except Exception as error:  # the package's code raises on what calls left behind: it has not accepted them
            pass_on_host_fault(error)
            return False


@contextmanager
def _worlds(module: Any, world: dict[str, Any]) -> Iterator[None]:
    """Put the objects of one episode into the package's globals, and take them out again."""
    with _one_at_a_time:
        space = vars(module)
        space.update(world)
        try:
            yield
        finally:
            for name in [name for name in space if re.match(rf"{_MODEL}_.*_instance$", name)]:
                world[name] = space.pop(name)
