"""Gymnasium spaces of conversations: the messages an environment shows and the turns it takes."""

from __future__ import annotations

from typing import Any

import gymnasium

from agentrl.messages import Action, Message

_WORDS = ("hello", "search", "42", "yes", "I do not know", "price", "")


class MessagesSpace(gymnasium.Space[tuple[Message, ...]]):
    """Tuples of new messages; any text."""

    def sample(self, mask: Any = None, probability: Any = None) -> tuple[Message, ...]:
        return (Message("user", str(self.np_random.choice(_WORDS))),)

    def contains(self, x: Any) -> bool:
        return isinstance(x, tuple) and all(isinstance(message, Message) for message in x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MessagesSpace)

    def __hash__(self) -> int:
        return hash(MessagesSpace)

    @property
    def is_np_flattenable(self) -> bool:
        return False


class ActionSpace(gymnasium.Space[Any]):
    """Assistant turns: an `Action`, plain text, or an OpenAI assistant message."""

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        return str(self.np_random.choice(_WORDS))

    def contains(self, x: Any) -> bool:
        return isinstance(x, (Action, str, dict))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActionSpace)

    def __hash__(self) -> int:
        return hash(ActionSpace)

    @property
    def is_np_flattenable(self) -> bool:
        return False
