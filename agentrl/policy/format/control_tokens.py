"""Keeping control tokens out of what others write: text like `<|im_end|>` in a tool's answer stays text.

Owns which tokens are control tokens, and how text that spells one is encoded. In a conversation such
text is replaced by a placeholder before the chat template runs, so that every control token in the
rendered text was written by the template. Text without control tokens is encoded exactly as
the tokenizer does it. Does not protect against a template that joins two messages' texts directly, or
that writes half a control token itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import structs

from agentrl.messages import Action, Message, ToolCall

# Around the number of a placeholder: private characters, which have no meaning to a template.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_PLACEHOLDER = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
# What chat formats read; some tokenizers hold these as ordinary added tokens.
_SYNTAX = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")


class ControlTokens:
    """The control tokens of a tokenizer under one chat template.

    They are its special tokens, and those added tokens that the template or a chat format uses.

    Args:
        tokenizer: a `transformers` tokenizer.
        template: Jinja text.
        stop_ids: further ids that end a turn.
    Attributes:
        ids: of the control tokens.
    """

    def __init__(self, tokenizer: Any, template: str, stop_ids: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        named = {*(getattr(tokenizer, "chat_control_tokens", None) or ()), *_SYNTAX}
        stops = set(stop_ids)
        control = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or number in stops or token.content in named or _is_markup(token.content, template)
        }
        self.ids = frozenset(control.values())
        longest_first = sorted(control, key=len, reverse=True)
        self._table = [*longest_first, _OPEN, _CLOSE]
        self._number = {text: number for number, text in enumerate(self._table)}
        self._tokens = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._hidden = re.compile("|".join(map(re.escape, self._table)))
        self._first_characters = {text[0] for text in self._table}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._normalizer = None if backend is None else backend.normalizer
        self._normalizes = self._normalizer is not None
        self._newline = self._ids("\n")
        self._pads_start = self._ids("\nx") != self._newline + self._ids("x")

    def normalized(self, text: str) -> str:
        """The text as the tokenizer changes it before it looks for tokens; ids hold no more of it."""
        return text if self._normalizer is None else str(self._normalizer.normalize_str(text))

    # Before the template.

    def hide(self, text: str) -> str:
        """`text` with a placeholder for everything in it that spells a control token."""
        if not any(character in text for character in self._first_characters):
            return text
        return self._hidden.sub(lambda found: f"{_OPEN}{self._number[found[0]]}{_CLOSE}", text)

    def hide_in(self, value: Any) -> Any:
        """`hide` for every string in nested lists and mappings, keys included."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, Mapping):
            return {self.hide_in(key): self.hide_in(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.hide_in(item) for item in value]
        return value

    def hide_in_message(self, message: Message) -> Message:
        """`hide` for all that a message says; its role stays."""
        return structs.replace(
            message,
            content=self.hide(message.content),
            tool_calls=tuple([self._hide_in_call(call) for call in message.tool_calls]),
            tool_call_id=self.hide_in(message.tool_call_id),
            name=self.hide_in(message.name),
            reasoning=self.hide_in(message.reasoning),
        )

    def _hide_in_call(self, call: ToolCall) -> ToolCall:
        arguments = self.hide_in(call.arguments)
        return structs.replace(call, name=self.hide(call.name), arguments=arguments, id=self.hide(call.id))

    # After sampling.

    def decode(self, ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> str:
        """The text of sampled ids, with a placeholder for text that spells a control token and is none."""
        text = decode(ids)
        if len(self._hidden.findall(text)) == sum(number in self.ids for number in ids):
            return text
        parts: list[str] = []
        start = 0
        for place in [*(place for place, number in enumerate(ids) if number in self.ids), len(ids)]:
            before = list(ids[start - 1 : start]) if start else []  # some decoders drop the first blank of a text
            parts.append(self.hide(decode([*before, *ids[start:place]])[len(decode(before)) if before else 0 :]))
            parts += [decode([ids[place]])] if place < len(ids) else []
            start = place + 1
        return "".join(parts)

    def shown(self, text: str) -> str:
        """The text with what its placeholders stand for; undoes `hide`."""
        return _PLACEHOLDER.sub(self._spelling, text) if _OPEN in text else text

    def _spelling(self, found: re.Match[str]) -> str:
        number = int(found[1]) if len(found[1]) < 9 else len(self._table)
        return self._table[number] if number < len(self._table) else found[0]

    def shown_in_action(self, action: Action) -> Action:
        """`shown` for all that a turn says."""
        calls = action.tool_calls
        if not calls and _OPEN not in action.text and _OPEN not in (action.reasoning or ""):
            return action
        return structs.replace(
            action,
            text=self.shown(action.text),
            reasoning=self._shown_in(action.reasoning),
            tool_calls=tuple(
                structs.replace(
                    call,
                    name=self.shown(call.name),
                    arguments=self._shown_in(call.arguments),
                    error=self._shown_in(call.error),
                )
                for call in calls
            ),
        )

    def _shown_in(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.shown(value)
        if isinstance(value, dict):
            return {self.shown(key): self._shown_in(item) for key, item in value.items()}
        return [self._shown_in(item) for item in value] if isinstance(value, list) else value

    # After the template.

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered text: placeholders as ordinary text, the rest as the tokenizer encodes it."""
        pieces = _PLACEHOLDER.split(text)  # text, number, text, number, ..., text
        ids = self._plain(pieces[0])
        for number, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            ids += self._inside(self._spelled, self._table[int(number)])
            ids += self._inside(self._plain, piece)
        return ids

    def _plain(self, text: str) -> list[int]:
        """Ids of a text whose control tokens are the template's; the ids hold no others."""
        ids = self._ids(text)
        if self._normalizes and len(self._tokens.findall(text)) != sum(i in self.ids for i in ids):
            return self._without_disguised(text, ids)
        return ids

    def _without_disguised(self, text: str, ids: list[int]) -> list[int]:
        """`_plain` of a text in which normalising makes control tokens, for example of full-width letters."""
        spans = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        for number, (start, end) in zip(ids, spans, strict=True):
            if number in self.ids and not self._tokens.fullmatch(text[start:end].strip()):
                return self._plain(text[:start]) + self._spelled(text[start:end]) + self._plain(text[end:])
        return ids

    def _spelled(self, text: str) -> list[int]:
        """Ids of a control token's spelling, none of which is a control token's."""
        ids = self._ids(text, split_special_tokens=True)
        if self.ids.isdisjoint(ids):
            return ids
        # It is not a special token to the tokenizer, so it has to be broken; a single character cannot be.
        return self._spelled(text[0]) + self._spelled(text[1:]) if len(text) > 1 else []

    def _inside(self, encode: Callable[[str], list[int]], text: str) -> list[int]:
        """Ids of a text that others precede, without the space that some tokenizers put at a start."""
        if not text or not self._pads_start:
            return encode(text)
        after_newline = encode("\n" + text)
        size = len(self._newline)
        return after_newline[size:] if after_newline[:size] == self._newline else encode(text)

    def _ids(self, text: str, **options: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False, **options))


def _is_markup(token: str, template: str) -> bool:
    """Whether the template writes this token as markup; words and blanks may be ordinary text there."""
    return token in template and not token.isspace() and not token.isalnum()
