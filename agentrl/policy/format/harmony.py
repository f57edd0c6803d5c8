"""The harmony format of GPT-OSS: a turn is one or more messages, each in a channel, and a call has a recipient."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentrl.messages import ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.call_syntax import with_arguments
from agentrl.policy.strict_json import read_json

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_END, _CALL, _RETURN = "<|end|>", "<|call|>", "<|return|>"
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([^\s<]+)")
_IN_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_END_OF_MESSAGE = re.compile(r"<\|end\|>|<\|call\|>|<\|return\|>|(?=<\|start\|>)|\Z")


class HarmonyFormat(ChatFormat):
    """Calls as `to=functions.NAME<|channel|>commentary json<|message|>{...}<|call|>` (GPT-OSS).

    `<|end|>` ends a message within a turn, such as a thought, and not the turn.
    """

    name = "harmony"

    @classmethod
    def shows(cls, template: str) -> bool:
        return all(mark in template for mark in (_START, _CHANNEL, _MESSAGE, _CALL))

    def _find_closer(self) -> str:
        return _END

    def _find_stop_ids(self) -> list[int]:
        known = self.tokenizer.get_added_vocab()
        eos = self.tokenizer.eos_token_id
        found = [known[mark] for mark in (_CALL, _RETURN, "<|endoftext|>") if mark in known]
        return [number for number in {*found, *([] if eos is None else [int(eos)])} if number != known.get(_END)]

    def _close(self, body: str) -> str:
        """The turn up to its last closing token, which is the one that the model samples."""
        end = max((body.rfind(mark) + len(mark) for mark in (_CALL, _RETURN) if mark in body), default=-1)
        return body[:end] if end >= 0 else ""

    def _end_of_turn(self, text: str) -> int:
        return min((place for mark in (_CALL, _END, _RETURN) if (place := text.find(mark)) >= 0), default=-1)

    def _is_end(self, number: int) -> bool:
        known = self.tokenizer.get_added_vocab()
        return number in self.stop_ids or number == known.get(_END)

    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        _, said, calls = self._read(text, ())
        return said, calls

    def _read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str | None, str, list[ToolCall]]:
        thoughts: list[str] = []
        said: list[str] = []
        calls: list[ToolCall] = []
        if _MESSAGE not in text:
            return None, text.strip(), calls
        for header, body in _messages(text):
            recipient, channel = _RECIPIENT.search(header), _IN_CHANNEL.search(header)
            if recipient:
                calls.append(_call(recipient[1], body, len(calls)))
            else:
                (thoughts if channel and channel[1] == "analysis" else said).append(body.strip())
        return "\n".join(thoughts) if thoughts else None, "\n".join(said), calls


def _messages(text: str) -> Iterator[tuple[str, str]]:
    """Header and body of each message; one search for each, so that no text takes long."""
    at = 0
    while (start := text.find(_MESSAGE, at)) >= 0:
        end = _END_OF_MESSAGE.search(text, start + len(_MESSAGE))
        assert end is not None  # the end of the text is one
        yield text[at:start], text[start + len(_MESSAGE) : end.start()]
        at = end.end()


def _call(name: str, body: str, index: int) -> ToolCall:
    try:
        return with_arguments(name, read_json(body), f"call_{index}")
    except ValueError as error:
        return ToolCall(name, {}, f"call_{index}", f"not valid JSON: {error}")
