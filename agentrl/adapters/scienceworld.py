"""ScienceWorld: thirty kinds of school experiments in a text world, with solutions (`pip install scienceworld`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from agentrl.adapters.jvm import JavaGame, Played, java_machines
from agentrl.adapters.suite import from_package
from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.errors import did_you_mean
from agentrl.trajectory import Task

INSTALL = "pip install scienceworld, and a Java runtime (apt-get install default-jre)"
ALL = "all"
_MOVES = 10_000  # our limit on turns is what ends an episode
_SPLITS = ("train", "dev", "eval")


def _simulator() -> Any:
    return from_package("scienceworld", INSTALL).ScienceWorldEnv("", envStepLimit=_MOVES)


def names() -> list[str]:
    """The tasks of the installed package."""
    return list(from_package("scienceworld.constants", INSTALL).ID2TASK.values())


@lru_cache(maxsize=32)
def _variations(name: str) -> dict[str, list[int]]:
    """The numbers of a task's variations, by split, as the simulator has them."""

    def ask(machine: Any) -> dict[str, list[int]]:
        machine.load(name, 0, "")
        found = machine.get_variations_train(), machine.get_variations_dev(), machine.get_variations_test()
        return dict(zip(_SPLITS, map(sorted, found), strict=True))

    return ScienceWorld.machines.use(ask)


@lru_cache(maxsize=32)
def _tasks(chosen: tuple[str, ...], simplifications: str, train: int, held_out: int) -> Tasks:
    def one(name: str, split: str, variation: int) -> Task:
        data = {"task": name, "variation": variation, "simplifications": simplifications}
        return Task(f"{name}-{variation}", split, data)

    def splits() -> dict[str, Sequence[Task]]:
        sizes = {"train": train, "dev": held_out, "eval": held_out}
        return {
            split: [one(name, split, number) for name in chosen for number in _variations(name)[split][:size]]
            for split, size in sizes.items()
        }

    return Tasks(splits)


@register("suites/ScienceWorld-v1", max_turns=200)
class ScienceWorld(JavaGame):
    """An experiment of ScienceWorld: boil, grow, measure, connect, and say what was found.

    Reward: the task's own score, from 0 to 1, by steps of it that were done; success is the full score.

    Args:
        task: such as `boil`, or `all`.
        simplifications: of the world, such as `easy`.
        train: variations of each task in the split `train`.
        held_out: variations of each task in `dev` and in `eval` (the simulator's own test variations).
    """

    third_party = ("scienceworld",)
    known_flaws = ("A wrong final choice scores -100 in ScienceWorld; here it is a reward of 0.",)
    machines = java_machines(_simulator, most=2)

    def __init__(
        self,
        *,
        task: str = ALL,
        simplifications: str = "",
        train: int = 10,
        held_out: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        known = names()
        if task not in (*known, ALL):
            raise ValueError(f"ScienceWorld has no task {task!r}.{did_you_mean(task, [*known, ALL])}")
        self.tasks = _tasks(tuple(known) if task == ALL else (task,), simplifications, train, held_out)

    def opened(self, machine: Any, task: Task) -> str:
        data = task.data
        machine.load(data["task"], data["variation"], data["simplifications"])
        text, _ = machine.reset()
        return f"{machine.get_task_description()}\n\n{text}"

    def played(self, machine: Any, command: str) -> Played:
        text = machine.server.step(command)  # `step` of the package also lists every valid command, which takes longer
        score = float(machine.server.getScore())
        over = bool(machine.server.getCompleted()) or score < 0
        return Played(str(text), score, over, score >= 1.0)

    def solution(self, machine: Any, task: Task) -> list[str]:
        data = task.data
        machine.load(data["task"], data["variation"], data["simplifications"], generateGoldPath=True)
        return list(machine.get_gold_action_sequence())
