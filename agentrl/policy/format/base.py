"""How a conversation becomes token ids, and ids become an `Action`. Owns what is encoded, and when.

The text comes from the tokenizer's own chat template. What was sampled is never rendered again:
`render_more` encodes only what follows the sampled turn. Control tokens are the template's alone: where
a message spells one, it is encoded as ordinary text (`control_tokens`). What cannot be encoded is U+FFFD.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import msgpack, structs

from agentrl.byte_cache import ByteCache
from agentrl.errors import ModelError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.format.call_syntax import join_unread, split_reasoning
from agentrl.policy.format.control_tokens import ControlTokens
from agentrl.policy.format.dialect import MARK, PROBE_CALL, USER, Dialect, dialect_of
from agentrl.policy.format.json_calls import JsonCalls
from agentrl.policy.format.template import render_items, template_of, token_variables, with_fixed_date
from agentrl.safe_json import safe_text

_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>")
_REMEMBERED_BYTES = 16_000_000  # of what was rendered, and as much of what was encoded
_LONGEST_REMEMBERED = 8192  # bytes of what is rendered
_PIECES_BYTES = 1_000_000
_PLAIN = JsonCalls("<tool_call>", "</tool_call>")

# A template with this comment says: a message's content is inserted as it is, and nothing depends on it.
VERBATIM = "{#- contents are verbatim -#}"


class ChatFormat(ABC):
    """The chat format of one tokenizer.

    Args:
        tokenizer: a `transformers` tokenizer.
        chat_template: Jinja text that replaces the tokenizer's own.
        variables: extra template variables, for example `{"enable_thinking": False}`.
        stop_ids: further ids that end a turn, for example the model's own.
    Attributes:
        dialect: what the template takes.
        closer: the token that the template puts after a turn; empty if there is none.
        stop_ids: ids that end a turn when they are sampled.
    Raises: ModelError if there is no chat template, or it cannot render a plain conversation.
    """

    name = ""
    uses_template_tools = True

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat_template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        stop_ids: Iterable[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.template = with_fixed_date(chat_template or template_of(tokenizer))
        self.variables = {**token_variables(tokenizer), **(variables or {})}
        stop_ids = tuple(stop_ids)
        self.control = ControlTokens(tokenizer, self.template, stop_ids)
        self._encoded: ByteCache[str, array[int]] = ByteCache(_REMEMBERED_BYTES)
        self._rendered: ByteCache[bytes, array[int]] = ByteCache(_REMEMBERED_BYTES)
        self._pieces = ByteCache[tuple[str, ...], list[str]](_PIECES_BYTES)
        self.dialect = Dialect()
        self._prompt = self._render([USER], (), generation_prompt=True)
        self._opens_thinking = self._prompt.rstrip().endswith("<think>")
        self.closer = self._find_closer()
        self.stop_ids: frozenset[int] = frozenset([*self._find_stop_ids(), *stop_ids])
        self.dialect = self._find_dialect()
        if not self.dialect.calls:
            self._without_calls()

    def _find_dialect(self) -> Dialect:
        def render(items: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str | None:
            try:
                return render_items(self.template, items, **{**self.variables, **variables})
            except ModelError:
                return None

        return dialect_of(render, self.template, self.write_call, self._reads, tools_and_calls=self.uses_template_tools)

    def _reads(self, dialect: Dialect) -> bool:
        """Whether calls that the template writes in this dialect are read back."""
        self.dialect = dialect
        text = self.written(Action(tool_calls=(PROBE_CALL,)))
        calls = [] if text is None else self.read_calls(split_reasoning(text)[1], ())[1]
        return [(call.name, call.arguments, call.error) for call in calls] == [
            (PROBE_CALL.name, PROBE_CALL.arguments, None)
        ]

    def _without_calls(self) -> None:
        """Called if the template writes no calls, so that they are text."""

    # Messages to ids.

    def render_first(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Ids of a whole conversation, up to where the model speaks."""
        return self._once(
            (messages, tools), lambda: self._encode(self._render(messages, tools, generation_prompt=True))
        )

    def _once(self, key: Any, render: Callable[[], Sequence[int]]) -> list[int]:
        """What `render` gives for a key, remembered: the episodes of a group begin alike, and scripts repeat turns."""
        try:
            packed = msgpack.encode(key)
        except (TypeError, ValueError, OverflowError):  # numbers of numpy or half a surrogate, which are rare
            return list(render())
        ids = self._rendered.get(packed)
        if ids is None:
            ids = array("i", render())
            if len(packed) <= _LONGEST_REMEMBERED:
                self._rendered.put(packed, ids, len(packed) + ids.itemsize * len(ids))
        return ids.tolist()

    def render_more(self, new_messages: Sequence[Message], *, closed: bool = True) -> list[int]:
        """Ids to append after a sampled turn, up to where the model speaks again.

        Args:
            new_messages: what came after the turn; not the turn itself.
            closed: the turn ended with a stop token; without it the template's closing token is added.
        """
        text = self._after_turn(new_messages)
        if not closed:
            return self._encode(text)
        # The closing token is encoded too, and its id dropped: some tokenizers pad the start of a text.
        ids = self._encode(text.lstrip())
        return list(ids[1:] if ids and self._is_end(ids[0]) else self._encode(text))

    def render_action(self, action: Action, tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Ids of a turn that was not sampled (a demonstration), stop token included.

        Args: tools: definitions, for formats in which a value's type decides how it is written.
        Raises: ModelError if the template renders the turn differently from where the model would begin it, does not
            close it, or the turn does not read back.
        """
        said = ("turn", action.text, action.reasoning, action.tool_calls, tools)
        return self._once(said, lambda: self._rendered_action(action, tools))

    def _rendered_action(self, action: Action, tools: Sequence[Mapping[str, Any]]) -> Sequence[int]:
        ids = self._encode(self._turn(action, tools))
        self._check_reads_back(action, self.parse(ids, tools))
        return ids

    def _turn(self, action: Action, tools: Sequence[Mapping[str, Any]]) -> str:
        """The text of a turn behind the generation prompt, its closing token included."""
        text = self._render([USER, action.to_message()], (), types=tools)
        body = self._behind_prompt(text, action)
        if body is None:
            raise ModelError(
                "the chat template begins an assistant turn differently from its generation prompt, so a "
                f"demonstration has no ids: {self._prompt!r} against {text!r}; adjust the template"
            )
        closed = self._close(body)
        if not closed:
            raise ModelError("the chat template does not close an assistant turn, so a demonstration would never stop")
        return closed

    def _close(self, body: str) -> str:
        """The text of a turn up to the end of its closing token; empty if it has none."""
        end = body.rfind(self.closer) if self.closer else -1
        return body[: end + len(self.closer)] if end >= 0 else ""

    def _end_of_turn(self, text: str) -> int:
        """Where the first closing token of a turn begins; -1 if there is none."""
        return text.find(self.closer) if self.closer else -1

    def _is_end(self, number: int) -> bool:
        """Whether a token is one that the template puts after a turn."""
        return number in self.stop_ids

    def _behind_prompt(self, text: str, action: Action) -> str | None:
        """What follows the generation prompt in a rendered turn; None if the turn does not begin with it."""
        if text.startswith(self._prompt):
            return text[len(self._prompt) :]
        before, opened, _ = self._prompt.rpartition("<think>")
        if self._opens_thinking and opened and text.startswith(before):  # the template drops thoughts of earlier turns
            return f"{self.control.hide(action.reasoning or '')}\n</think>\n\n{text[len(before) :]}"
        return None

    def written(self, action: Action) -> str | None:
        """The text of a turn as the template writes it, from where it begins, without the closing token."""
        try:
            text = self._render([USER, action.to_message()], ())
        except ModelError:
            return None
        body = self._behind_prompt(text, action)
        end = body.rfind(self.closer) if body is not None and self.closer else -1
        return body[:end] if body is not None and end >= 0 else body

    def _check_reads_back(self, action: Action, read: Action) -> None:
        """Raises: ModelError if a demonstrated turn would teach another one.

        Text next to calls may be lost: some templates write calls alone.
        """
        wanted = [[call.name, call.safe().arguments] for call in action.tool_calls]
        found = [[call.name, call.arguments] for call in read.tool_calls]
        said = self.control.normalized(action.text.strip())
        same = found == wanted or self.control.normalized(_json(found)) == self.control.normalized(_json(wanted))
        kept = said in self.control.normalized(read.text) or (bool(wanted) and not read.text)
        if same and kept and not any(call.error for call in read.tool_calls):
            return
        raise ModelError(
            f"the chat format {self.name!r} cannot write the turn {_shown(action)}: it would read back as "
            f"{_shown(read)}, so a demonstration of it would teach something else. Demonstrate what this template can "
            'write (some take one call a turn), or set model.chat_format = "generic" (--chat-format generic)'
        )

    def _after_turn(self, new_messages: Sequence[Message]) -> str:
        """The text after an assistant turn, its closing token included."""
        plain = self.dialect.tool_role and not self.dialect.merges_users
        if plain and VERBATIM in self.template and all(m.role in ("user", "tool") for m in new_messages):
            return self._join(new_messages)
        if new_messages and new_messages[0].role == "tool" and self.dialect.calls and self.dialect.tool_role:
            after = self._after_call(new_messages)
            if after is not None:
                return after
        text = self._render((USER, Message("assistant", MARK), *new_messages), (), generation_prompt=True)
        return self._after_mark(text)

    def _after_call(self, new_messages: Sequence[Message]) -> str | None:
        """`_after_turn` behind a turn that calls, which some templates ask for; None if its end cannot be found."""
        first = new_messages[0]
        call = ToolCall(first.name or PROBE_CALL.name, {"zq_key": MARK}, first.tool_call_id or PROBE_CALL.id)
        try:
            turn = Message("assistant", "", (call,))
            text = self._render((USER, turn, *new_messages), (), generation_prompt=True)
        except ModelError:
            return None
        _, found, after = text.partition(MARK)
        end = self._end_of_turn(after)
        return after[end:] if found and end >= 0 else None

    def _join(self, new_messages: Sequence[Message]) -> str:
        """`_after_turn` without Jinja: the text between contents depends on the roles alone."""
        roles = tuple(message.role for message in new_messages)
        pieces = self._pieces.get(roles)
        if pieces is None:
            blanks = [Message(message.role, MARK) for message in new_messages]
            text = self._render((USER, Message("assistant", MARK), *blanks), (), generation_prompt=True)
            pieces = text.split(MARK)[1:]
            self._pieces.put(roles, pieces, 2 * len(text) + 60 * len(roles))
        return pieces[0] + "".join(
            self.control.hide(m.content) + piece for m, piece in zip(new_messages, pieces[1:], strict=True)
        )

    def _after_mark(self, text: str) -> str:
        _, found, after = text.partition(MARK)
        if not found:
            raise ModelError(
                "the chat template drops assistant turns: give another one (model.chat_template, --chat-template)"
            )
        return after

    def _find_closer(self) -> str:
        """The special token that the template puts after an assistant turn; empty if there is none."""
        after = self._after_mark(self._render([USER, Message("assistant", MARK), USER], ())).lstrip()
        known = {*self.tokenizer.get_added_vocab(), str(self.tokenizer.eos_token or "")} - {""}
        return max((token for token in known if after.startswith(token)), key=len, default="")

    def _find_stop_ids(self) -> list[int]:
        """Ids that end a turn: the template's closer, the tokenizer's eos, and the usual names."""
        known = self.tokenizer.get_added_vocab()
        ids = [known[name] for name in (*_END_OF_TURN, self.closer) if name in known]
        return ids if self.tokenizer.eos_token_id is None else [int(self.tokenizer.eos_token_id), *ids]

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        types: Sequence[Mapping[str, Any]] = (),
        generation_prompt: bool = False,
    ) -> str:
        """The text of a conversation. `types` are definitions of tools that are not shown, but say what values are."""
        hidden = [self.control.hide_in_message(self._writable(message, tools or types)) for message in messages]
        items, variables = self.dialect.given(hidden, self.control.hide_in(tools), self.write_call)
        variables = {**self.variables, **variables}
        return render_items(self.template, items, generation_prompt=generation_prompt, **variables)

    def _writable(self, message: Message, tools: Sequence[Mapping[str, Any]]) -> Message:
        if not message.tool_calls:
            return message
        calls = [structs.replace(call, arguments=self.writable(call, tools)) for call in message.tool_calls]
        return structs.replace(message, tool_calls=tuple(calls))

    def _encode(self, text: str) -> list[int]:
        ids = self._encoded.get(text)
        if ids is None:
            # A surrogate without its partner, which a model can write in JSON, is no text to a tokenizer.
            ids = array("i", self.control.encode(safe_text(text)))
            self._encoded.put(text, ids, 4 * len(text) + ids.itemsize * len(ids))
        return ids.tolist()

    # Ids to an action.

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, special tokens included."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def parse(self, ids: Sequence[int], tools: Sequence[Mapping[str, Any]] = ()) -> Action:
        """Read a sampled turn; never raises. A call that cannot be read has `ToolCall.error`; several are joined.

        Control tokens are told from text that spells them: only the tokens are marks of calls and thoughts.

        Args: tools: definitions, for formats in which a value's type decides how it is read.
        """
        end = len(ids) - 1 if ids and ids[-1] in self.stop_ids else len(ids)
        text = self.control.decode(ids[:end], self.decode)
        reasoning, said, calls = self._read(text, tools)
        action = Action(text=said, tool_calls=tuple(join_unread(calls)), reasoning=reasoning)
        return self.control.shown_in_action(action)

    def _read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str | None, str, list[ToolCall]]:
        """The thought, the text and the calls of a turn."""
        reasoning, rest = split_reasoning(text, opened=self._opens_thinking)
        return reasoning, *self.read_calls(rest, tools)

    # What a format says.

    @classmethod
    @abstractmethod
    def shows(cls, template: str) -> bool:
        """Whether a chat template is written for this format."""

    @abstractmethod
    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        """Split a turn's text into what it says and the calls it makes."""

    def read_calls(self, text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, list[ToolCall]]:
        """As `parse_calls`, where definitions of the tools say what type a value has."""
        return self.parse_calls(text)

    def write_call(self, call: ToolCall) -> str:
        """The text of a call, where the template itself writes none."""
        return _PLAIN.write(call)

    def writable(self, call: ToolCall, tools: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """The arguments as the template is given them, so that they read back."""
        return call.arguments


def _json(calls: Sequence[Any]) -> str:
    return json.dumps(calls, ensure_ascii=False, default=str)


def _shown(action: Action) -> str:
    calls = [f"{call.name}({dict(call.arguments)})" for call in action.tool_calls]
    return repr(" ".join([*([action.text] if action.text else []), *calls]) or "(nothing)")[:300]
