"""Text games that run in Java machines, which are lent to episodes and used again: each costs memory and time.

Owns the pool, and an environment over one game at a time. The games belong to the adapters.
"""

from __future__ import annotations

import asyncio
import atexit
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, ClassVar, TypeVar

from agentrl.env.execution import in_thread
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault, PackageMissing, ToolError
from agentrl.messages import Action, Message
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

T = TypeVar("T")
_LOOK_AGAIN_S = 0.02
_LONGEST_COMMAND = 500


class Machines:
    """A pool of simulators, each in a Java machine of its own. They end with the process.

    Args:
        make: starts one; it takes seconds.
        most: how many run at a time; episodes wait for one that is free.
    """

    def __init__(self, make: Callable[[], Any], most: int) -> None:
        self.most = most
        self._make, self._free, self._count, self._lock = make, list[Any](), 0, Lock()
        atexit.register(self.close)

    async def borrow(self) -> Any:
        """A simulator for one episode. Raises: PackageMissing if there is no Java."""
        granted, machine = self._claim()
        while not granted:  # by asking: episodes may run in several event loops, and an event belongs to one
            await asyncio.sleep(_LOOK_AGAIN_S)
            granted, machine = self._claim()
        if machine is not None:
            return machine
        try:
            return await in_thread(self._started, {})
        except BaseException:
            self._forget()
            raise

    def use(self, action: Callable[[Any], T]) -> T:
        """Run plain code with a simulator, one more than `most` if none is free."""
        with self._lock:
            machine = self._free.pop() if self._free else None
            self._count += machine is None
        if machine is None:
            try:
                machine = self._started()
            except BaseException:
                self._forget()
                raise
        try:
            return action(machine)
        finally:
            self.give_back(machine)

    def _claim(self) -> tuple[bool, Any]:
        """Whether the caller gets a machine, and a free one; None if it is to start one, which is counted already."""
        with self._lock:
            if self._free:
                return True, self._free.pop()
            if self._count < self.most:
                self._count += 1
                return True, None
            return False, None

    def _started(self) -> Any:
        if shutil.which("java") is None:
            raise PackageMissing("this environment needs `java`, which is not on PATH: apt-get install default-jre")
        return self._make()

    def _forget(self) -> None:
        with self._lock:
            self._count -= 1

    def give_back(self, machine: Any) -> None:
        with self._lock:
            self._free.append(machine)

    def discard(self, machine: Any) -> None:
        """End a simulator that may be broken."""
        self._forget()
        with suppress(Exception):
            machine.close()

    def close(self) -> None:
        """End those that are free."""
        with self._lock:
            free, self._free = self._free, []
        for machine in free:
            self.discard(machine)


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


class JavaGame(ToolEnv):
    """Base class: a subclass says how a game is opened, played and solved, given a simulator."""

    machines: ClassVar[Machines]
    can_fork = False
    hook_timeout_s = 3600.0  # an episode waits for a free machine
    score_truncated = True
    not_state = ("tasks", "_machine")
    _machine: Any = None

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
        self._release()
        self.commands: list[str] = []
        self.points = 0.0
        self._gold: list[str] | None = None
        self.success = False
        self._machine = await self.machines.borrow()
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

    async def aclose(self) -> None:
        await super().aclose()
        self._release()

    def _release(self) -> None:
        machine, self._machine = self._machine, None
        if machine is not None:
            self.machines.give_back(machine)

    async def _ask(self, action: Callable[[Any], T]) -> T:
        """Run code of the game in a thread. A machine that it leaves in the middle of something is not used again."""
        machine = self._machine
        if machine is None:
            raise RuntimeError("the game is over: call reset")
        try:
            return await in_thread(partial(action, machine), {})
        except Exception as error:
            if type(error).__name__ == "Py4JJavaError":  # the game's code has failed on this command
                raise ToolError(f"the game cannot do this: {str(error).splitlines()[0]}") from error
            self._lose(machine)
            raise EnvFault(f"the game's Java machine failed: {type(error).__name__}: {error}", who="host") from error
        except BaseException:
            self._lose(machine)
            raise

    def _lose(self, machine: Any) -> None:
        self._machine = None
        self.machines.discard(machine)
