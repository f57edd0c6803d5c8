"""TextWorldExpress: eight kinds of text games in rooms, each seed with a solution (`pip install textworld-express`)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from agentrl.adapters.jvm import JavaGame, Played, java_machines
from agentrl.adapters.suite import from_package
from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.errors import did_you_mean
from agentrl.trajectory import Task

INSTALL = "pip install textworld-express orjson, and a Java runtime (apt-get install default-jre)"
GAMES = ("cookingworld", "twc", "coin", "mapreader", "arithmetic", "sorting", "simonsays", "peckingorder")
ALL = "all"
FOLDS = {"train": ("train", 0), "dev": ("dev", 10_000), "eval": ("test", 20_000)}
"""Split -> the game's own fold and its first seed; each fold has 1,000."""
_PER_FOLD = 1000
_MOVES = 10_000  # our limit on turns is what ends an episode


def _simulator() -> Any:
    return from_package("textworld_express", INSTALL).TextWorldExpressEnv(envStepLimit=_MOVES)


@lru_cache(maxsize=32)
def _tasks(game: str, params: str, train: int, held_out: int) -> Tasks:
    sizes = {"train": train, "dev": held_out, "eval": held_out}
    games = GAMES if game == ALL else (game,)

    def one(name: str, split: str, index: int) -> Task:
        fold, first = FOLDS[split]
        data = {"game": name, "params": params, "fold": fold, "seed": first + index}
        return Task(f"{name}-{data['seed']}", split, data)

    return Tasks(lambda: {s: [one(name, s, i) for name in games for i in range(size)] for s, size in sizes.items()})


@register("suites/TextWorldExpress-v1", max_turns=100)
class TextWorldExpress(JavaGame):
    """A text game of TextWorldExpress: cook, tidy up, find a coin, read a map, sort, do as Simon says.

    Reward: the game's own score, from 0 to 1; success is that the game says so.

    Args:
        game: one of the eight, or `all`.
        params: of the game, such as `numLocations=3,includeDoors=0`.
        train: seeds of each game in the split `train` (the fold of the same name), at most 1,000.
        held_out: seeds of each game in `dev` and in `eval` (the fold `test`), at most 1,000.
    """

    third_party = ("textworld-express",)
    known_flaws = (
        "The game draws its own solution anew each time, so two episodes of the oracle differ; the worlds do not.",
        "The game knows which commands are valid; they are not shown here, so scores are lower than with them.",
    )
    machines = java_machines(_simulator, most=4)

    def __init__(
        self,
        *,
        game: str = ALL,
        params: str = "",
        train: int = 100,
        held_out: int = 5,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        from_package("textworld_express.constants", INSTALL)
        if game not in (*GAMES, ALL):
            raise ValueError(f"TextWorldExpress has no game {game!r}.{did_you_mean(game, [*GAMES, ALL])}")
        if not (0 <= train <= _PER_FOLD and 1 <= held_out <= _PER_FOLD):
            raise ValueError(f"train must be 0 to {_PER_FOLD}, held_out 1 to {_PER_FOLD}; got {train} and {held_out}")
        self.tasks = _tasks(game, params, train, held_out)

    def opened(self, machine: Any, task: Task) -> str:
        return _opened(machine, task, gold=False)

    def played(self, machine: Any, command: str) -> Played:
        text, _, _, info = machine.step(command)
        won, lost = bool(info.get("tasksuccess")), bool(info.get("taskfailure"))
        return Played(str(text), float(info.get("score", 0.0)), won or lost, won)

    def solution(self, machine: Any, task: Task) -> list[str]:
        _opened(machine, task, gold=True)
        return list(machine.getGoldActionSequence())


def _opened(machine: Any, task: Task, *, gold: bool) -> str:
    data = task.data
    text, info = machine.reset(
        seed=data["seed"],
        gameFold=data["fold"],
        gameName=data["game"],
        gameParams=data["params"],
        generateGoldPath=gold,
    )
    return f"{info['taskDescription']}\n\n{text}\n\n{info['inventory']}"
