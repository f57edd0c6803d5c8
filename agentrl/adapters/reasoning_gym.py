"""reasoning-gym: about a hundred generators of questions, each with its own verifier (`pip install reasoning-gym`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from agentrl.adapters.answers import is_arithmetic, is_literal
from agentrl.adapters.suite import Seeded, from_package, pass_on_host_fault, seeded_tasks
from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import did_you_mean
from agentrl.messages import Action, Message
from agentrl.seeds import GlobalGenerators
from agentrl.trajectory import Task

INSTALL = "pip install reasoning-gym"
ALL = "all"
NOT_IN_ALL = {"composite": "it is a mixture of other data sets, and needs to be told which"}
_TRAIN, _EVAL = 0, 1_000_000_000  # seeds of the splits; a question depends on seed + index
_SIZE = 2_000  # of a data set: some make all their questions at once
_SOLVED_IN = ("possible_answer", "example_answer", "example_correct_answer", "solution")
_RUN: Mapping[str, Callable[[str], bool]] = {
    **dict.fromkeys(("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"), is_literal),
    **dict.fromkeys(("countdown", "puzzle24", "polynomial_multiplication"), is_arithmetic),
    **dict.fromkeys(("simple_integration", "intermediate_integration"), is_arithmetic),
}
"""Data sets whose verifiers run an answer as Python -> which answers may reach them."""
_UNREADABLE = "("
_ASK = "\n\nWrite the final answer between <answer> and </answer>."
Config = Mapping[str, Any]


def names() -> list[str]:
    """Every data set of the installed package that needs no arguments."""
    return sorted(set(from_package("reasoning_gym.factory", INSTALL).DATASETS) - NOT_IN_ALL.keys())


@lru_cache(maxsize=256)
def _dataset(name: str, config: str, seed: int) -> Any:
    settings = {"size": _SIZE, **json.loads(config), "seed": seed}
    with GlobalGenerators(seed).inside():
        return from_package("reasoning_gym", INSTALL).create_dataset(name, **settings)


def entry(name: str, config: Config, seed: int, index: int) -> dict[str, Any]:
    """A question of a data set, made anew: the same arguments give the same question."""
    with GlobalGenerators(seed + index).inside():  # some generators draw from the process's
        made: dict[str, Any] = _dataset(name, json.dumps(config), seed)[index]
    return made


@lru_cache(maxsize=128)
def _tasks(dataset: str, config: str, train: int, held_out: int) -> Tasks:
    chosen = names() if dataset == ALL else [dataset]
    generators = [Seeded(partial(_question, name, config), most=_SIZE) for name in chosen]
    return seeded_tasks(generators, train, held_out)


def _question(name: str, config: str, split: str, index: int) -> tuple[str, dict[str, Any], str]:
    seed = _EVAL if split == "eval" else _TRAIN
    question = str(entry(name, json.loads(config), seed, index)["question"])
    data = {"dataset": name, "config": json.loads(config), "seed": seed, "index": index, "question": question}
    return f"{name}-{split}-{index}", data, question


@register("suites/ReasoningGym-v0", max_turns=1)
class ReasoningGym(ToolEnv):
    """A question of reasoning-gym, answered in one turn between <answer> and </answer>.

    Reward: that of the data set's own verifier, which may pay a part; success is a reward of 1.

    Args:
        dataset: such as `chain_sum`, or `all` for every data set that needs no arguments.
        config: of the data set, such as {"min_terms": 2}.
        train: questions of the training split, of each data set.
        held_out: questions of the split `eval`, of each data set.
    """

    third_party = ("reasoning-gym",)
    known_flaws = (
        "Most verifiers pay a part for a long answer that contains the right one, and some pay 0.01 to 0.05 for any.",
        "Nine verifiers run an answer as Python (countdown, n_queens and others); what is neither a literal nor "
        "arithmetic does not reach them here.",
        "The verifier of game_of_life_halting takes any text that is not empty for right.",
        "For boxnet and rush_hour the package ships no solution, so there is no oracle.",
    )
    own_random = True
    not_state = ("tasks",)

    def __init__(
        self,
        *,
        dataset: str = "chain_sum",
        config: Config | None = None,
        train: int = 200,
        held_out: int = 50,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        known = names()
        if dataset not in (*known, ALL) and not (config and dataset in NOT_IN_ALL):
            raise ValueError(f"reasoning-gym has no data set {dataset!r}.{did_you_mean(dataset, [*known, ALL])}")
        if config and dataset == ALL:
            raise ValueError("config is for one data set: name it in `dataset`")
        if not (0 <= train <= _SIZE and 1 <= held_out <= _SIZE):
            raise ValueError(f"train must be 0 to {_SIZE} and held_out 1 to {_SIZE}, got {train} and {held_out}")
        self.tasks = _tasks(dataset, json.dumps(dict(config or {}), sort_keys=True), train, held_out)

    def start(self, task: Task) -> str:
        data = task.data
        self.entry = entry(data["dataset"], data["config"], data["seed"], data["index"])
        return f"{self.entry['question']}{_ASK}"

    def score(self, answer: str | None) -> float:
        return self._paid(answer_in(answer or ""))

    def oracle(self, messages: Sequence[Message]) -> Action:
        """The data set's answer; where that is none, a solution among its metadata; an empty answer at last."""
        held = [self.entry["answer"], *(self.entry["metadata"].get(key) for key in _SOLVED_IN)]
        texts = [value if isinstance(value, str) else json.dumps(value) for value in held if value is not None]
        best = max(texts, key=self._paid, default="")
        return Action(f"<answer>{best}</answer>")

    def _paid(self, answer: str) -> float:
        """What the verifier pays. One that raises on an answer has not accepted it."""
        data = self.task.data
        may_run = _RUN.get(self.entry["metadata"].get("source_dataset", data["dataset"]))
        if may_run is not None and answer != self.entry["answer"] and not may_run(answer):
            answer = _UNREADABLE
        dataset = _dataset(data["dataset"], json.dumps(data["config"]), data["seed"])
        try:
            return float(dataset.score_answer(answer, self.entry))
        except Exception as error:  # the package's verifier raises on answers that it does not expect
            pass_on_host_fault(error)
            self.add_info(verifier_raised=f"{type(error).__name__}: {error}"[:200])
            return 0.0

    def state_key(self) -> str:
        return self.task.id


def answer_in(text: str) -> str:
    """What stands between the last pair of tags; the whole text where there is none."""
    found = from_package("reasoning_gym.utils", INSTALL).extract_answer(text)
    return text.strip() if found is None else str(found)
