"""The contract of simulated users, and scripted ones. A policy as a user is `agentrl.rollout.users.PolicyUser`."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from agentrl.messages import Action, Message


class LastWords(str):
    """What a user says and then leaves: the assistant's turn before it is its answer."""

    __slots__ = ()


Reply = str | None
"""What a user says: a text, `LastWords`, or None to leave without a word."""
Move = Reply | Action
"""What a user does: it says something, or calls tools of its own (an `Action` with calls) and is then asked again."""


@dataclass(frozen=True)
class Heard:
    """What a user knows when it is to speak.

    Attributes:
        messages: what the user and the assistant said, in order; no system prompt and no tools of the assistant.
            The user's own calls stand between them, as messages of the user with `tool_calls` and of its tools. Empty
            where the user begins.
        goal: what it wants in this episode.
        turn: how often it has spoken.
        seed: of this reply; a function of the episode's seed and the turn.
        tools: schemas of the user's own tools, in OpenAI form.
    """

    messages: tuple[Message, ...]
    goal: str
    turn: int
    seed: int
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def last(self) -> str:
        """What was said last, or what the user's last call gave; empty at the beginning."""
        return self.messages[-1].content if self.messages else ""


Script = Callable[[Heard], Move | Awaitable[Move]]


class User(ABC):
    """Says what a user says.

    It keeps nothing of an episode: one user serves any number of them at once, and copies of an environment share it.
    """

    @abstractmethod
    async def reply(self, heard: Heard) -> Move:
        """What it says or does next. Raises: EnvFault if its server fails; the episode is then not scored."""

    def join(self, env: object) -> None:
        """An environment is going to ask; called before each reply."""

    async def leave(self, env: object) -> None:
        """That environment is closed: free what no other one needs. Safe to call twice."""

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Self:
        return self


class ScriptedUser(User):
    """Says the texts of a list in order and then leaves, or asks a function.

    Args: script: texts, or `script(heard) -> text`, which may be `async`. None, or the end of the list, is its stop
        rule: the assistant's turn is then the answer. A function may also return calls of the user's own tools, such as
        `call("look", at=3)`: it is asked again when they have run.
    """

    def __init__(self, script: Sequence[str] | Script) -> None:
        if isinstance(script, str):
            raise TypeError("a script is a list of texts or a function, got one text: write [text]")
        self.script = script

    async def reply(self, heard: Heard) -> Move:
        if not callable(self.script):
            return self.script[heard.turn] if heard.turn < len(self.script) else None
        said = self.script(heard)
        return await said if inspect.isawaitable(said) else said
