"""What a dialect is: the fields of one API's requests and replies. Owns what is asked, and no fields.

A new API is a new file with a subclass of `Dialect`, a line in `apis.py`, and a policy in `agentrl.policy.chat`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from msgspec import structs

from agentrl.errors import ConfigError
from agentrl.messages import Action, Message
from agentrl.policy.base import SamplingParams
from agentrl.policy.control import control_messages, has_spoken
from agentrl.policy.remote.apis import APIS, Api
from agentrl.policy.remote.errors import ServerError
from agentrl.policy.remote.options import ChatOptions


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation that waits for its next turn."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    sampling: SamplingParams

    @property
    def has_spoken(self) -> bool:
        """Whether the conversation holds a model's words."""
        return has_spoken(self.messages)

    @property
    def has_blocks(self) -> bool:
        """Whether the conversation holds what a server wrote for itself."""
        return any(message.blocks for message in self.messages)

    @property
    def control(self) -> Asked:
        """A conversation of the same form that no model had a hand in."""
        return replace(self, messages=control_messages(self.tools))

    @property
    def without_blocks(self) -> Asked:
        """The conversation without what a server wrote for itself."""
        return replace(self, messages=[structs.replace(message, blocks=()) for message in self.messages])

    def with_room(self, max_tokens: int) -> Asked:
        """The conversation with a shorter answer."""
        return replace(self, sampling=replace(self.sampling, max_tokens=max_tokens))


class Dialect(ABC):
    """One API. Each policy has a dialect of its own, which may remember how its server differs from others."""

    kind: ClassVar[str]
    # Options of `ChatOptions` that the API has no field for.
    unsupported: ClassVar[tuple[str, ...]] = ()

    @property
    def api(self) -> Api:
        return APIS[self.kind]

    def headers(self, key: str) -> dict[str, str]:
        """HTTP headers that give the key. Args: key: empty where there is none."""
        return {"Authorization": f"Bearer {key}"} if key else {}

    def request_headers(self, body: Mapping[str, Any], options: ChatOptions) -> dict[str, str]:
        """Further HTTP headers of a request with this body."""
        return {}

    def check(self, options: ChatOptions) -> None:
        """Raises: ConfigError for an option that this API has no field for."""
        wrong = [name for name in self.unsupported if name in options.given]
        if wrong:
            raise ConfigError(f"{self.kind}:NAME has no option {wrong[0]}; it goes with openai:NAME")

    @abstractmethod
    def body(self, model: str, asked: Asked, options: ChatOptions) -> dict[str, Any]:
        """The JSON body of a request. No field is in it that was not asked for: strict servers refuse unknown ones."""

    @abstractmethod
    def action(self, reply: Mapping[str, Any], asked: Asked, options: ChatOptions) -> Action:
        """The action in a reply. Raises: ResponseError if it holds none, or the server failed within the turn."""

    @abstractmethod
    def error_inside(self, reply: Any) -> ServerError | None:
        """The error in a reply with status 200; None if there is none."""


def with_extra(body: dict[str, Any], options: ChatOptions) -> dict[str, Any]:
    """A body with the fields of `extra_body`, which come last, and without those that are None or to be omitted."""
    merged = {**body, **options.extra_body}
    return {name: value for name, value in merged.items() if value is not None and name not in options.omit}
