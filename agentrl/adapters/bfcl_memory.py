"""BFCL v4, memory: questions about earlier conversations, whose answers stand in a memory that the agent can search.

The memory's functions and the verdict are the package's own. Owns that each episode has a memory of its own, and what
stands in it at first. The conversations in which a model writes the memory belong to `bfcl_memories`. The memory of
vectors, which loads a model from the network, is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from agentrl.adapters.bfcl import HINT, INSTALL, copy_of, rows, schema_of
from agentrl.adapters.suite import SuiteTool, from_package, pass_on_host_fault, splits_of, suite_tool
from agentrl.env.base import StepResult, as_action
from agentrl.env.registry import register
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import ConfigError, did_you_mean
from agentrl.messages import Action, Message
from agentrl.trajectory import Task

BACKENDS: Mapping[str, tuple[str, ...]] = {
    "memory_kv": ("core_memory", "archival_memory"),
    "memory_rec_sum": ("memory",),
}
"""Category -> what a snapshot of its memory holds."""
_SOURCES = "eval_checker/multi_turn_eval/func_source_code"
_WORDS_OF_KEY = 12
_MOST_STEPS = 20  # one more, and BFCL counts the question as failed
Snapshot = Mapping[str, Any]


def _items(category: str, memory: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    answers = {row["id"]: row for row in rows("memory", "possible_answer")}
    questions = rows("memory")
    snapshots = {name: _snapshot(category, name, memory) for name in {row["scenario"] for row in questions}}
    for row in questions:
        scenario, answer = row["scenario"], answers[row["id"]]
        data = {"category": category, "scenario": scenario, "question": row["question"][0][0]["content"]}
        # What the agent finds belongs to the task: another memory is another task, and its fingerprint says so.
        more = {"answer": answer["ground_truth"], "source": answer["source"], "memory": snapshots[scenario]}
        yield row["id"].replace("memory", category, 1), data | more


def _snapshot(category: str, scenario: str, memory: str | None) -> Snapshot:
    """What stands in the memory of a scenario: what a model wrote with BFCL, or the sources of the answers."""
    if memory is None:
        return _of_sources(category, scenario)
    name = f"{category.removeprefix('memory_')}/memory_snapshot/{scenario}_final.json"
    found = sorted(Path(memory).rglob(name))
    if len(found) != 1:
        raise ConfigError(
            f"memory={memory!r} must hold one {name}, as `python -m agentrl.adapters.bfcl_memories` or "
            f"`bfcl generate` writes it; it holds {len(found)}"
        )
    try:
        read = json.loads(found[0].read_text(encoding="utf-8"))
        return {name: read[name] for name in BACKENDS[category]}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{found[0]} is no snapshot of {category}: {type(error).__name__}: {error}") from error


def _of_sources(category: str, scenario: str) -> Snapshot:
    """A memory of the passages in which the package finds the answers, each once, in the order of the questions."""
    answers = {row["id"]: row["source"] for row in rows("memory", "possible_answer")}
    ids = [row["id"] for row in rows("memory") if row["scenario"] == scenario]
    passages = list(dict.fromkeys(answers[id] for id in ids))
    if category == "memory_rec_sum":
        return {"memory": "\n".join(passages)}
    return {"core_memory": {}, "archival_memory": {_key(n, text): text for n, text in enumerate(passages)}}


def _key(number: int, text: str) -> str:
    """A key by which a passage can be found: the package searches keys, not what stands under them."""
    words = re.findall(r"[a-z0-9]+", text.lower())[:_WORDS_OF_KEY]
    return "_".join(["note", *words, str(number)])


def check_category(category: str) -> None:
    """Raises: ValueError for a memory that is not here."""
    if category == "memory_vector":
        raise ValueError(
            "memory_vector is not here: the package searches it with the embedding model all-MiniLM-L6-v2, which it "
            f"loads from a model hub when it is imported; take {' or '.join(BACKENDS)}"
        )
    if category not in BACKENDS:
        raise ValueError(f"BFCL has no category {category!r} of memory here.{did_you_mean(category, BACKENDS)}")


@lru_cache(maxsize=8)
def _tasks(category: str, memory: str | None, train_share: float) -> Any:
    return splits_of(list(_items(category, memory)), train_share)


@lru_cache(maxsize=4)
def _backend(category: str) -> type[Any]:
    """The package's class of a memory, from copies: its own modules make folders next to the package when imported."""
    utils = ModuleType("bfcl_eval.utils")
    for name in ("get_directory_structure_by_id", "is_first_memory_prereq_entry", "is_memory_prereq"):
        setattr(utils, name, None)  # of files, which nothing here reads
    base = copy_of(f"{_SOURCES}/memory_api_metaclass.py", utils)
    base.__name__ = f"bfcl_eval.{_SOURCES}.memory_api_metaclass".replace("/", ".")
    found: type[Any] = getattr(
        copy_of(f"{_SOURCES}/{category}.py", base), f"MemoryAPI_{category.removeprefix('memory_')}"
    )
    return found


@lru_cache(maxsize=4)
def _tools(category: str) -> tuple[SuiteTool, ...]:
    docs = rows(category, "multi_turn_func_doc", prefix="")
    return tuple(
        suite_tool(doc["name"], doc["description"] + HINT, schema_of(doc["parameters"]), BFCLMemory._run)
        for doc in docs
    )


@register("suites/BFCLMemory-v4", max_turns=22)
class BFCLMemory(ToolEnv):
    """A question of BFCL v4 about earlier conversations; tools search and change a memory.

    Reward: 1 if the package's own checker finds a right answer in the last message.

    Args:
        category: `memory_kv` (keys and values) or `memory_rec_sum` (one text).
        memory: a folder that `python -m agentrl.adapters.bfcl_memories` or `bfcl generate` wrote, whose
            `memory_snapshot` holds what a model wrote in the conversations. Without it the memory holds the passages
            that the package names as sources of the answers.
        train_share: a share of the tasks for the split `train`; BFCL itself has no training tasks.
    """

    third_party = ("bfcl-eval",)
    known_flaws = (
        "Without `memory=`, the sources of the answers stand in the memory, so the numbers are no BFCL numbers: they "
        "measure looking up, not remembering. `python -m agentrl.adapters.bfcl_memories` lets a model write it.",
        "A right answer anywhere in the last message counts: a message that lists many things may hold it.",
    )
    score_truncated = True
    not_state = ("tasks",)

    def __init__(
        self,
        *,
        category: str = "memory_kv",
        memory: str | None = None,
        train_share: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        check_category(category)
        self.tasks = _tasks(category, memory, train_share)

    def start(self, task: Task) -> list[Message]:
        told = self._told(task.data)
        prompts = from_package("bfcl_eval.constants.default_prompts", INSTALL)
        system = f"{told}\n\n{prompts.ADDITIONAL_SYSTEM_PROMPT_FOR_AGENTIC_RESPONSE_FORMAT}"
        return [Message("system", system), Message("user", task.data["question"])]

    def _told(self, data: Mapping[str, Any]) -> str:
        """Make the memory, and what the package's prompt says of it."""
        self.steps = 0
        self.memory = _backend(data["category"])()
        for name, value in deepcopy(dict(data["memory"])).items():
            setattr(self.memory, name, value)
        self.use_tools(*_tools(data["category"]))
        prompts = from_package("bfcl_eval.constants.default_prompts", INSTALL)
        kind = "UNIFIED" if data["category"] == "memory_rec_sum" else "CORE_ARCHIVAL"
        told: str = getattr(prompts, f"MEMORY_BACKEND_INSTRUCTION_{kind}").format(
            scenario_setting=prompts.MEMORY_AGENT_SETTINGS[data["scenario"]],
            memory_content=self.memory._dump_core_memory_to_context(),
        )
        return told

    def _run(self, name: str, given: Mapping[str, Any]) -> str:
        """A call, with its result as the package writes it."""
        try:
            result = getattr(self.memory, name)(**given)
        except Exception as error:  # the package's code raises on arguments that it does not expect: the agent is told
            pass_on_host_fault(error)
            return f"Error during execution: {error}"
        return result if isinstance(result, str) else json.dumps(result)

    async def astep(self, action: Any) -> StepResult:
        if as_action(action).tool_calls:
            self.steps += 1
            if self.steps > _MOST_STEPS:
                self.terminate()
        return await super().astep(action)

    def score(self, answer: str | None) -> float:
        return float(is_right(self.task.data, answer))

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Look for the source of the answer, then answer."""
        data = self.task.data
        if not self.steps and data["category"] == "memory_kv":
            words = re.sub(r"[^\w ]", " ", data["source"])
            return call("archival_memory_key_search", query=words)
        if not self.steps:
            return call("memory_retrieve")
        return Action(str({"answer": data["answer"][0], "context": data["source"]}))


def is_right(data: Mapping[str, Any], answer: str | None) -> bool:
    """The verdict of the package's checker on the last message; a question without one has failed."""
    if not answer:
        return False
    check = from_package("bfcl_eval.eval_checker.agentic_eval.agentic_checker", INSTALL).agentic_checker
    return bool(check(answer, list(data["answer"]))["valid"])
