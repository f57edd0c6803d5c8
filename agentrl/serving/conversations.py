"""The ids of turns that were answered before, so that a conversation goes on with what was sampled.

A client sends texts. Rendered anew they may become other ids than those that the model sampled; so a conversation
whose beginning is known continues those ids, as an episode does in training. Owns how a beginning is recognised: by its
tools, roles, texts and calls; ids of calls and reasoning do not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentrl.byte_cache import ByteCache
from agentrl.messages import Message
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.remote.history import NO_TEXT
from agentrl.rollout.json_lines import canonical

_KNOWN_BYTES = 250
"""Of a key, an array and what holds it."""


@dataclass(frozen=True, slots=True)
class _Known:
    ids: NDArray[np.int32]
    closed: bool


class Conversations:
    """Remembers the newest answered turns.

    Args: max_bytes: of all remembered turns together; those that were not continued for longest are forgotten first.
    """

    def __init__(self, max_bytes: int = 32_000_000) -> None:
        self._known = ByteCache[bytes, _Known](max_bytes)

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], chat_format: ChatFormat
    ) -> tuple[int, ...]:
        """Ids of a conversation, up to where the model speaks."""
        last = max((number for number, message in enumerate(messages) if message.role == "assistant"), default=-1)
        known = self._known.get(_key(messages[: last + 1], tools)) if last >= 0 else None
        if known is None:
            return tuple(chat_format.render_first(messages, tools))
        return (*known.ids.tolist(), *chat_format.render_more(messages[last + 1 :], closed=known.closed))

    def remember(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], ids: Sequence[int], *, closed: bool
    ) -> None:
        """Keep the ids of a conversation that ends with the model's turn.

        Args: closed: whether the turn ended with a stop token.
        """
        known = _Known(np.asarray(ids, np.int32), closed)
        self._known.put(_key(messages, tools), known, known.ids.nbytes + _KNOWN_BYTES)


def _key(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> bytes:
    shown = [said(message) for message in messages]
    return hashlib.blake2b(canonical([shown, list(tools)]), digest_size=16).digest()


def said(message: Message) -> list[Any]:
    """What counts of a message. Arguments that cannot be read do not: clients send those back as they like."""
    calls = [[call.name, {} if call.error else call.arguments] for call in message.tool_calls]
    content = "" if message.role == "assistant" and message.content.strip() in ("", NO_TEXT) else message.content
    return [message.role, content, calls]
