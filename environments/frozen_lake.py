"""FrozenLake as text: walk over the ice to the goal, around the holes.

Owns the maps, one a task, so held-out maps are not trained on. The demonstrator `hasty` walks straight down and then
right, and falls into a hole on most maps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.messages import Action, Message
from agentrl.trajectory import Task

SIZES = {1: 4, 2: 6, 3: 8}
MOVES = {"down": (1, 0), "right": (0, 1), "up": (-1, 0), "left": (0, -1)}
HOLE_RATE = 0.25
ICE, HOLE, GOAL, PLAYER = "FHGP"
Cell = tuple[int, int]


def make_task(rng: np.random.Generator, size: int) -> dict[str, Any]:
    """Draw a map on which the goal, the last cell, can be reached from the first: rows of the letters F, H and G."""
    while True:
        holes = rng.random((size, size)) < HOLE_RATE
        holes[0, 0] = holes[-1, -1] = False
        rows = ["".join(HOLE if hole else ICE for hole in row) for row in holes]
        rows[-1] = rows[-1][:-1] + GOAL
        if shortest_path(rows, (0, 0)):
            return {"rows": rows}


def shortest_path(rows: Sequence[str], start: Cell) -> list[Cell]:
    """The cells of a shortest way to the goal, the start included; none if there is no way.

    Among shortest ways it is the first in the order of `MOVES`.
    """
    before: dict[Cell, Cell | None] = {start: None}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        if rows[here[0]][here[1]] == GOAL:
            path: list[Cell] = []
            step: Cell | None = here
            while step is not None:
                path.append(step)
                step = before[step]
            return path[::-1]
        for move in MOVES:
            there = moved(here, move, len(rows))
            if there not in before and rows[there[0]][there[1]] != HOLE:
                before[there] = here
                queue.append(there)
    return []


def moved(cell: Cell, move: str, size: int) -> Cell:
    """The cell after a move; at the edge of the map it stays the same."""
    row, column = cell[0] + MOVES[move][0], cell[1] + MOVES[move][1]
    return min(max(row, 0), size - 1), min(max(column, 0), size - 1)


@lru_cache(maxsize=3)
def _tasks(level: int) -> Tasks:
    return Tasks.generate(partial(make_task, size=SIZES[level]), seed=71_000 + level, train=2000, eval=200)


@register("agentrl/FrozenLake-v0", max_turns=30)
class FrozenLake(ToolEnv):
    """Walk to the goal on a frozen lake with holes; each turn is one move, answered with the map.

    Reward: 1 if the goal is reached. A hole ends the episode; there is no slipping.

    Args:
        level: 1 (maps of 4 x 4 cells), 2 (6 x 6) or 3 (8 x 8).
    """

    tasks = _tasks(1)
    rubric = Rubric({"correct": 1.0})
    demonstrators = ("oracle", "hasty")
    not_state = ("tasks",)

    def __init__(self, *, level: int = 1, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        if level not in SIZES:
            raise ValueError(f"level must be 1, 2 or 3, got {level!r}")
        self.tasks = _tasks(level)

    async def start(self, task: Task) -> str:
        self.cell: Cell = (0, 0)
        return f"Walk P to G, not into H: down, right, up or left.\n{self._map()}"

    async def respond(self, text: str) -> str | None:
        move = text.strip().lower().removesuffix(".")
        if move not in MOVES:
            return "Say down, right, up or left."
        rows = self._rows
        self.cell = moved(self.cell, move, len(rows))
        if self._letter == GOAL:
            return None
        if self._letter == HOLE:
            self.terminate()
            return "You fell into a hole."
        return self._map()

    async def score(self, answer: str | None) -> dict[str, float]:
        return {"correct": float(self._letter == GOAL)}

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Take the next step of a shortest way."""
        here, there = shortest_path(self._rows, self.cell)[:2]
        return Action(text=next(move for move in MOVES if moved(here, move, len(self._rows)) == there))

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A wrong habit: go straight down, then right, without looking at the holes."""
        return Action(text="down" if self.cell[0] < len(self._rows) - 1 else "right")

    def state_key(self) -> str:
        return f"{self.task.id}|{self.cell}"

    @property
    def _rows(self) -> list[str]:
        rows: list[str] = self.task.data["rows"]
        return rows

    @property
    def _letter(self) -> str:
        return self._rows[self.cell[0]][self.cell[1]]

    def _map(self) -> str:
        """The map with the player. Spaces keep the cells apart, so that each is a token of its own."""
        cells = [list(row) for row in self._rows]
        cells[self.cell[0]][self.cell[1]] = PLAYER
        return "\n".join(" ".join(row) for row in cells)
