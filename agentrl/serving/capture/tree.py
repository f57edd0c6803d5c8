"""The turns of a session as a tree, and where in it a request goes on. Owns how a turn is recognised.

A client sends texts. The ids that were sampled for a turn are found again by two keys: the id of the turn, which stands
in our own ids of calls and in signatures of thoughts, and the conversation up to the turn (roles, texts, calls with
sorted arguments, tools sorted by name). A conversation that was edited continues nothing: it is a fork.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from agentrl.messages import Action, Message
from agentrl.rollout.json_lines import canonical
from agentrl.serving.chat_model import Choice
from agentrl.serving.conversations import said

Digest = bytes
NODE_ID = re.compile(r"[a-z]+_([0-9a-f]{12})")
"""The id of a turn within an id that we gave: `call_ID0`, `rs_ID`, `sig_ID`."""


@dataclass(eq=False)
class Node:
    """A sampled turn.

    Attributes:
        id: names it in the session.
        parent: the turn that it goes on from; None for a root.
        new: messages that are new to the model at this turn.
        tools: definitions that the model was shown.
        choice: what was sampled.
        action: the same, with ids, logprobs and versions.
        closed: whether the turn ended with a stop token.
        edited: the client had changed a conversation that was known.
        seconds: that sampling took.
        delivered: a client has read it.
        reward, components: what followed from it.
    """

    id: str
    parent: Node | None
    new: tuple[Message, ...]
    tools: Sequence[Mapping[str, Any]]
    choice: Choice
    action: Action
    closed: bool
    edited: bool = False
    seconds: float = 0.0
    delivered: bool = False
    reward: float = 0.0
    components: dict[str, float] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and sampled ids."""
        return (*(self.action.prompt_ids or ()), *(self.action.token_ids or ()))

    def record(self) -> Action:
        """The turn as it is recorded: one that nobody read has a text, but no ids that could train."""
        return self.action if self.delivered else structs.replace(self.action, token_ids=(), logprobs=(), versions=())


@dataclass(frozen=True)
class Place:
    """Where a request goes on.

    Attributes:
        parent: the turn whose ids it continues; None renders all of it.
        new: messages after that.
        edited: it holds turns of this session, but not as they were.
        digest: of the whole conversation.
    """

    parent: Node | None
    new: tuple[Message, ...]
    edited: bool
    digest: Digest


class Tree:
    """The turns of a session."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._by_id: dict[str, Node] = {}
        self._known: dict[Digest, list[Node]] = defaultdict(list)
        self._unreadable: set[str] = set()  # ids of calls

    def place(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Place:
        """Where a conversation goes on. Args: messages: the model speaks next."""
        digest, at, known = _start(tools), -1, False
        found: list[Node] = []
        for number, message in enumerate(messages):
            digest = _after(digest, self._as_sampled(message))
            if message.role == "assistant":
                found, at = self._known.get(digest, []), number
                known = known or bool(found)
        hint = self._named(messages[at]) if at >= 0 else None
        if not found:
            return Place(None, tuple(messages), known or hint is not None, digest)
        parent = hint if hint in found else found[-1]
        return Place(parent, tuple(messages[at + 1 :]), False, digest)

    def add(self, node: Node, place: Place) -> None:
        """Remember a turn that was sampled at a place."""
        self.nodes.append(node)
        self._by_id[node.id] = node
        self._unreadable.update(node.choice.raw)
        self._known[_after(place.digest, node.choice.action.to_message())].append(node)

    def _as_sampled(self, message: Message) -> Message:
        """A turn whose calls that cannot be read are told by their ids: clients put something else in their place."""
        if self._unreadable.isdisjoint(call.id for call in message.tool_calls):
            return message
        calls = [
            structs.replace(call, error="unreadable") if call.id in self._unreadable else call
            for call in message.tool_calls
        ]
        return structs.replace(message, tool_calls=tuple(calls))

    def _named(self, message: Message) -> Node | None:
        """The turn that an assistant message names in the ids that we gave it."""
        signed = [str(block.get("signature", "")) for block in message.blocks]
        for text in (*(call.id for call in message.tool_calls), *signed):
            match = NODE_ID.match(text)
            if match and match[1] in self._by_id:
                return self._by_id[match[1]]
        return None


def _start(tools: Sequence[Mapping[str, Any]]) -> Digest:
    return _hash(canonical(sorted(tools, key=lambda tool: str(tool["function"]["name"]))))


def _after(digest: Digest, message: Message) -> Digest:
    return _hash(digest + canonical(said(message)))


def _hash(value: bytes) -> Digest:
    return hashlib.blake2b(value, digest_size=16).digest()
