"""Text games that run in Java machines.

Owns an environment over one game at a time, and what is needed to start a machine. The games belong to the adapters.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agentrl.adapters.lent import LentEnv, Machines
from agentrl.env.tool_env import call
from agentrl.errors import PackageMissing, ToolError
from agentrl.messages import Action, Message
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

_LONGEST_COMMAND = 500


def java_machines(make: Callable[[], Any], most: int) -> Machines:
    """A pool of simulators, each in a Java machine of its own.

    Args: make, most: as for `Machines`.
    """

    def started() -> Any:
        if shutil.which("java") is None:
            raise PackageMissing("this environment needs `java`, which is not on PATH: apt-get install default-jre")
        return make()

    return Machines(started, most)


@dataclass(frozen=True)
class Played:
    """What a command brought about.

    Attributes:
        text: what the player reads.
        score: of the game so far, at most 1.
        over, won: whether the game has ended, and with success.
    """

    text: str
    score: float
    over: bool
    won: bool


class JavaGame(LentEnv):
    """Base class: a subclass says how a game is opened, played and solved, given a simulator."""

    of_the_game = ("Py4JJavaError",)

    def opened(self, machine: Any, task: Task) -> str:
        """Start the game of a task; returns the first message."""
        raise NotImplementedError

    def played(self, machine: Any, command: str) -> Played:
        """Do one command."""
        raise NotImplementedError

    def solution(self, machine: Any, task: Task) -> list[str]:
        """The commands that win the game. The game may be anywhere afterwards."""
        raise NotImplementedError

    async def start(self, task: Task) -> str:
        self.commands: list[str] = []
        self.points = 0.0
        self._gold: list[str] | None = None
        self.success = False
        await self._borrow()
        return await self._ask(partial(self.opened, task=task))

    @tool
    async def act(self, command: str) -> str:
        """Do one thing in the game, such as `look around` or `take apple`.

        Args:
            command: in the words of the game.
        """
        command = " ".join(command.split())
        if not command or len(command) > _LONGEST_COMMAND:
            raise ToolError(f"a command has 1 to {_LONGEST_COMMAND} characters")
        found = await self._ask(partial(self.played, command=command))
        self.commands.append(command)
        self.points, self.success = found.score, found.won
        if found.over:
            self.terminate()
        return found.text

    async def score(self, answer: str | None) -> float:
        self._release()
        self.add_info(game_score=self.points)
        return max(self.points, 0.0)

    async def oracle(self, messages: Sequence[Message]) -> Action:
        """The next command of the game's own solution."""
        if self._gold is None:
            self._gold = await self._ask(self._solved)
        done = len(self.commands)
        return call("act", command=self._gold[done]) if done < len(self._gold) else Action("Done.")

    def _solved(self, machine: Any) -> list[str]:
        found = self.solution(machine, self.task)
        self.opened(machine, self.task)
        for command in self.commands:
            self.played(machine, command)
        return found
