"""BFCL v4, one turn: which functions does a request call, and with what arguments (`pip install bfcl-eval`).

The verdict is that of the package's own checker. Owns how its tasks become messages and tools. Turns with state belong
to `agentrl.adapters.bfcl_multi_turn`, memory to `bfcl_memory`; the categories for Java and JavaScript are left out.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from agentrl.adapters.suite import from_package, pass_on_host_fault, splits_of, suite_tool
from agentrl.env.base import StepResult, as_action
from agentrl.env.registry import register
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import PackageMissing, did_you_mean
from agentrl.messages import Action, Message, ToolCall
from agentrl.trajectory import Task

INSTALL = (
    "pip install --no-deps bfcl-eval, and pip install mpmath overrides rank_bm25 for several turns and memory "
    "(with its dependencies it brings torch, faiss and the SDKs of six clouds, which nothing here uses)"
)
AST = (
    *("simple_python", "multiple", "parallel", "parallel_multiple"),
    *("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
)
RELEVANCE = ("irrelevance", "live_irrelevance", "live_relevance")
GROUPS = {"ast": AST, "relevance": RELEVANCE, "single_turn": (*AST, *RELEVANCE)}
HINT = " Note that the provided function is in Python 3 syntax."  # what BFCL adds to each description
_FLOAT = " This is a float type value."


def rows(category: str, folder: str = "", *, prefix: str = "BFCL_v4_") -> list[dict[str, Any]]:
    """The rows of a file of the package. Its own loader makes folders next to the installed package: it is not used."""
    root = Path(from_package("bfcl_eval", INSTALL).__file__ or "").parent / "data" / folder
    lines = (root / f"{prefix}{category}.json").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def _items(categories: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for category in categories:
        answers: dict[str, Any] = {}
        if category not in RELEVANCE:
            answers = {row["id"]: row["ground_truth"] for row in rows(category, "possible_answer")}
        for row in rows(category):
            data = {"category": category, "question": row["question"][0], "function": row["function"]}
            yield row["id"], data if category in RELEVANCE else {**data, "answer": answers[row["id"]]}


@lru_cache(maxsize=1)
def checker() -> ModuleType:
    """A copy of the package's checker of our own.

    It asks a table of models whether dots in names are written as underscores; that table imports every SDK. The copy
    is given one entry in its place, and the package's own module is left as it is.
    """
    table = ModuleType("bfcl_eval.constants.model_config")
    table.MODEL_CONFIG_MAPPING = {"agentrl": SimpleNamespace(underscore_to_dot=True)}  # type: ignore[attr-defined]
    from_package("bfcl_eval.constants.type_mappings", INSTALL)
    return copy_of("eval_checker/ast_eval/ast_checker.py", table)


def copy_of(file: str, *stand_ins: ModuleType) -> ModuleType:
    """A copy of a module of the package that finds other modules where it imports some by their names.

    Args:
        file: its path in the package.
        stand_ins: named like the modules that they replace. The package's own modules are left as they are.
    """
    path = Path(from_package("bfcl_eval", INSTALL).__file__ or "").parent / file
    found = importlib.util.spec_from_file_location(f"agentrl_bfcl_{path.stem}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    kept = {stand_in.__name__: sys.modules.get(stand_in.__name__) for stand_in in stand_ins}
    sys.modules.update({stand_in.__name__: stand_in for stand_in in stand_ins})
    try:
        found.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise PackageMissing(f"BFCL's {path.name} needs the module {error.name!r}: {INSTALL}") from error
    finally:
        for name, own in kept.items():
            del sys.modules[name]
            if own is not None:
                sys.modules[name] = own
    return module


def schema_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A function's parameters as JSON schema, as BFCL writes them for servers: its types are those of languages."""
    types = from_package("bfcl_eval.constants.type_mappings", INSTALL).GORILLA_TO_OPENAPI

    def cast(schema: Mapping[str, Any]) -> dict[str, Any]:
        made = deepcopy(dict(schema))
        kind = made.get("type", "string")
        made["type"] = types.get(kind, "string")
        if kind == "float":
            made |= {"format": "float", "description": made.get("description", "") + _FLOAT}
        if "properties" in made:
            made["properties"] = {name: cast(value) for name, value in made["properties"].items()}
        elif isinstance(made.get("items"), Mapping):
            made["items"] = cast(made["items"])
        return made

    return cast(parameters)


def name_of(function: str) -> str:
    """A function's name as a tool: servers take no dots."""
    return function.replace(".", "_")


@register("suites/BFCL-v4", max_turns=1)
class BFCL(ToolEnv):
    """One request and some functions of BFCL v4: the right calls in one turn, or none where no function fits.

    Reward: 1 if the package's own checker accepts the calls.

    Args:
        category: such as `simple_python`; `ast` takes those that want calls, `relevance` those that mostly want none,
            `single_turn` both.
        train_share: a share of the tasks for the split `train`; BFCL itself has no training tasks.
    """

    third_party = ("bfcl-eval",)
    known_flaws = (
        "The checker refuses 7 of the 2,351 answers that the package ships for the ast categories; 4 of these tasks "
        "cannot be solved at all. `agentrl audit` names both.",
        "A list for a tuple counts as right, and types are checked one level deep.",
        "Doing nothing is right in most tasks of the relevance categories: read them apart from ast.",
    )
    score_truncated = True
    not_state = ("tasks",)

    def __init__(self, *, category: str = "ast", train_share: float = 0.0, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        known = (*GROUPS, *AST, *RELEVANCE)
        if category not in known:
            raise ValueError(f"BFCL has no category {category!r} here.{did_you_mean(category, known)}")
        self.tasks = _tasks(category, train_share)
        self.made: tuple[ToolCall, ...] = ()

    def start(self, task: Task) -> list[dict[str, Any]]:
        self.made = ()
        tools = {name_of(f["name"]): f for f in task.data["function"]}
        self.use_tools(
            *(
                suite_tool(name, f["description"] + HINT, schema_of(f["parameters"]), _taken)
                for name, f in tools.items()
            )
        )
        return [dict(message) for message in task.data["question"]]

    async def astep(self, action: Any) -> StepResult:
        self.made = as_action(action).tool_calls  # with those of tools that do not exist
        return await super().astep(action)

    def score(self, answer: str | None) -> float:
        return float(is_right(self.task.data, self.made))

    def oracle(self, messages: Sequence[Message]) -> Action:
        """The first answer of those that the package ships, corrected where the function does not take it."""
        return self._answered(_solution)

    def as_shipped(self, messages: Sequence[Message]) -> Action:
        """The first answer of those that the package ships, as it stands."""
        return self._answered(_shipped)

    def _answered(self, calls: Callable[[Mapping[str, Any]], tuple[ToolCall, ...]]) -> Action:
        data = self.task.data
        if data["category"] in RELEVANCE:
            wanted = data["category"] == "live_relevance"
            return (
                Action(tool_calls=(ToolCall(name_of(data["function"][0]["name"]), {}),)) if wanted else Action("none")
            )
        return Action(tool_calls=calls(data))

    def state_key(self) -> str:
        return self.task.id


@lru_cache(maxsize=32)
def _tasks(category: str, train_share: float) -> Any:
    return splits_of(list(_items(GROUPS.get(category, (category,)))), train_share)


def _taken(env: Any, name: str, given: Mapping[str, Any]) -> str:
    return "ok"  # nothing runs: the calls are compared


def is_right(data: Mapping[str, Any], made: Sequence[ToolCall]) -> bool:
    """The verdict of the package's checker on the calls of one turn."""
    category = data["category"]
    readable = all(isinstance(call.arguments, Mapping) for call in made)
    if category in RELEVANCE:
        called = bool(made) and readable
        return called if category == "live_relevance" else not called
    if not readable:
        return False
    check = partial(checker().ast_checker, deepcopy(data["function"]))
    output = [{call.name: dict(call.arguments)} for call in made]
    language = from_package("bfcl_eval.constants.enums", INSTALL).Language.PYTHON
    try:
        return bool(check(output, deepcopy(data["answer"]), language, category, "agentrl")["valid"])
    except Exception as error:  # the checker raises on values of a kind that it does not expect: they are not accepted
        pass_on_host_fault(error)
        return False


def _solution(data: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls that the package ships as the answer, the first value of each argument."""
    schemas = {f["name"]: f["parameters"] for f in data["function"]}
    found = []
    for one in data["answer"]:
        for name, given in one.items():
            known = schemas[name]["properties"]  # some answers name arguments that the function does not have
            options = {key: values for key, values in given.items() if key in known or "" not in values}
            found.append(ToolCall(name_of(name), _first(options, schemas[name].get("required", ()))))
    return tuple(found)


def _shipped(data: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The same as it stands: also arguments that the function does not have."""
    return tuple(ToolCall(name_of(name), _first(given)) for one in data["answer"] for name, given in one.items())


def _first(options: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """The first value of each argument; the empty text stands for "may be left out"."""
    found = {}
    for name, values in options.items():
        if not isinstance(values, list):  # inside an object, some answers hold a value in the place of a list
            found[name] = values
            continue
        real = [value for value in values if value not in ("", None)]
        if real or (values and (name in required or "" not in values)):
            found[name] = _value(real[0] if real else values[0])
    return found


def _value(value: Any) -> Any:
    """One value: inside objects, too, each field holds a list of those that are right."""
    if isinstance(value, Mapping):
        return _first(value)
    return [_value(item) for item in value] if isinstance(value, list) else value
