"""How a conversation becomes token ids, and ids become an `Action`. Owns what is encoded, and when.

The text comes from the tokenizer's own chat template. What was sampled is never rendered again:
`render_more` encodes only what follows the sampled turn. Control tokens are the template's alone: where
a message spells one, it is encoded as ordinary text (`control_tokens`). What cannot be encoded is U+FFFD.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from agentrl.errors import ModelError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.format.call_syntax import split_reasoning
from agentrl.policy.format.control_tokens import ControlTokens
from agentrl.policy.format.template import render_template, template_of, token_variables
from agentrl.safe_json import safe_text

# The text of a sampled turn while its template is rendered; every template must keep it.
_MARK = "4f1c9a7e-sampled-turn"
_USER = Message("user", "x")
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>")

# A template with this comment says: a message's content is inserted as it is, and nothing depends on it.
VERBATIM = "{#- contents are verbatim -#}"


class ChatFormat(ABC):
    """The chat format of one tokenizer.

    Args:
        tokenizer: a `transformers` tokenizer.
        chat_template: Jinja text that replaces the tokenizer's own.
        variables: extra template variables, for example `{"enable_thinking": False}`.
        stop_ids: further ids that end a turn, for example the model's own.
    Raises: ModelError if there is no chat template, or it cannot render a plain conversation.
    """

    name = ""

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat_template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        stop_ids: Iterable[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.template = chat_template or template_of(tokenizer)
        self.variables = {**token_variables(tokenizer), **(variables or {})}
        stop_ids = tuple(stop_ids)
        self.control = ControlTokens(tokenizer, self.template, stop_ids)
        self._encode = lru_cache(maxsize=1024)(self._encode_text)
        self._pieces: dict[tuple[str, ...], list[str]] = {}
        self._prompt = self._render([_USER], (), generation_prompt=True)
        self._opens_thinking = self._prompt.rstrip().endswith("<think>")
        self.closer = self._find_closer()
        self.stop_ids: frozenset[int] = frozenset([*self._find_stop_ids(), *stop_ids])

    # Messages to ids.

    def render_first(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Ids of a whole conversation, up to where the model speaks."""
        return list(self._encode(self._render(messages, tools, generation_prompt=True)))

    def render_more(self, new_messages: Sequence[Message], *, closed: bool = True) -> list[int]:
        """Ids to append after a sampled turn, up to where the model speaks again.

        Args:
            new_messages: what came after the turn; not the turn itself.
            closed: the turn ended with a stop token; without it the template's closing token is added.
        """
        text = self._after_turn(new_messages)
        if not closed:
            return list(self._encode(text))
        # The closing token is encoded too, and its id dropped: some tokenizers pad the start of a text.
        ids = self._encode(text.lstrip())
        return list(ids[1:] if ids and ids[0] in self.stop_ids else self._encode(text))

    def render_action(self, action: Action) -> list[int]:
        """Ids of a turn that was not sampled (a demonstration), stop token included.

        Raises: ModelError if the template renders the turn differently from where the model would begin it.
        """
        text = self._render([_USER, action.to_message()], ())
        if not text.startswith(self._prompt):
            raise ModelError(
                "the chat template begins an assistant turn differently from its generation prompt, so a "
                f"demonstration has no ids: {self._prompt!r} against {text!r}; adjust the template"
            )
        body = text[len(self._prompt) :]
        end = body.rfind(self.closer) if self.closer else -1
        if end < 0:
            raise ModelError("the chat template does not close an assistant turn, so a demonstration would never stop")
        return list(self._encode(body[: end + len(self.closer)]))

    def _after_turn(self, new_messages: Sequence[Message]) -> str:
        """The text after an assistant turn, its closing token included."""
        if VERBATIM in self.template and all(m.role in ("user", "tool") for m in new_messages):
            return self._join(new_messages)
        text = self._render((_USER, Message("assistant", _MARK), *new_messages), (), generation_prompt=True)
        return self._after_mark(text)

    def _join(self, new_messages: Sequence[Message]) -> str:
        """`_after_turn` without Jinja: the text between contents depends on the roles alone."""
        roles = tuple(message.role for message in new_messages)
        pieces = self._pieces.get(roles)
        if pieces is None:
            blanks = [Message(message.role, _MARK) for message in new_messages]
            text = self._render((_USER, Message("assistant", _MARK), *blanks), (), generation_prompt=True)
            pieces = self._pieces[roles] = text.split(_MARK)[1:]
        return pieces[0] + "".join(
            self.control.hide(m.content) + piece for m, piece in zip(new_messages, pieces[1:], strict=True)
        )

    def _after_mark(self, text: str) -> str:
        _, found, after = text.partition(_MARK)
        if not found:
            raise ModelError("the chat template drops assistant turns; give another one with chat_template=")
        return after

    def _find_closer(self) -> str:
        """The special token that the template puts after an assistant turn; empty if there is none."""
        after = self._after_mark(self._render([_USER, Message("assistant", _MARK), _USER], ())).lstrip()
        known = {*self.tokenizer.get_added_vocab(), str(self.tokenizer.eos_token or "")} - {""}
        return max((token for token in known if after.startswith(token)), key=len, default="")

    def _find_stop_ids(self) -> list[int]:
        """Ids that end a turn: the template's closer, the tokenizer's eos, and the usual names."""
        known = self.tokenizer.get_added_vocab()
        ids = [known[name] for name in (*_END_OF_TURN, self.closer) if name in known]
        return ids if self.tokenizer.eos_token_id is None else [int(self.tokenizer.eos_token_id), *ids]

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], **options: Any) -> str:
        hidden = [self.control.hide_in_message(message) for message in messages]
        return render_template(self.template, hidden, self.control.hide_in(tools), **options, **self.variables)

    def _encode_text(self, text: str) -> tuple[int, ...]:
        # A surrogate without its partner, which a model can write in JSON, is no text to a tokenizer.
        return tuple(self.control.encode(safe_text(text)))

    # Ids to an action.

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, special tokens included."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def parse(self, ids: Sequence[int]) -> Action:
        """Read a sampled turn; never raises. A call that cannot be read has `ToolCall.error`."""
        end = len(ids) - 1 if ids and ids[-1] in self.stop_ids else len(ids)
        reasoning, text = split_reasoning(self.decode(ids[:end]), opened=self._opens_thinking)
        text, calls = self.parse_calls(text)
        return Action(text=text, tool_calls=tuple(calls), reasoning=reasoning)

    @classmethod
    @abstractmethod
    def shows(cls, template: str) -> bool:
        """Whether a chat template is written for this format."""

    @abstractmethod
    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        """Split a turn's text into what it says and the calls it makes."""
