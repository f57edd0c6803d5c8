"""How a conversation becomes token ids, and ids become an `Action`. Owns rendering and tool-call syntax.

The text comes from the tokenizer's own chat template. What was sampled is never rendered again:
`render_more` encodes only what follows the sampled turn.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from agentrl.errors import ModelError, did_you_mean
from agentrl.messages import Action, Message, ToolCall

# Stands for a sampled turn in a rendered template; it must survive any template unchanged.
_MARK = "4f1c9a7e sampled turn"


def message_for_template(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it: arguments are objects there, not JSON strings."""
    item = message.to_openai()
    for call, source in zip(item.get("tool_calls", ()), message.tool_calls, strict=True):
        call["function"]["arguments"] = dict(source.arguments)
    return item


def render_template(
    template: str,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    generation_prompt: bool = False,
    **variables: Any,
) -> str:
    """The text of a conversation under a Jinja chat template.

    Raises: ModelError if the template refuses the conversation.
    """
    try:
        rendered = render_jinja_template(
            conversations=[[message_for_template(m) for m in messages]],
            tools=[dict(tool) for tool in tools] or None,
            chat_template=template,
            add_generation_prompt=generation_prompt,
            **variables,
        )
    except Exception as error:  # a template is a program of the model's folder: it may raise anything
        raise ModelError(
            f"the chat template cannot render this conversation: {type(error).__name__}: {error}"
        ) from error
    text: str = rendered[0][0]
    return text


class ChatFormat(ABC):
    """The chat format of one tokenizer.

    Args:
        tokenizer: a `transformers` tokenizer.
        chat_template: Jinja text that replaces the tokenizer's own.
        variables: extra template variables, for example `enable_thinking=False`.
    Raises: ModelError if there is no chat template.
    """

    name = ""

    def __init__(self, tokenizer: Any, *, chat_template: str | None = None, variables: Mapping[str, Any] | None = None):
        self.tokenizer = tokenizer
        self.template = chat_template or template_of(tokenizer)
        self.variables = {**_token_variables(tokenizer), **(variables or {})}
        self.stop_ids: frozenset[int] = frozenset(_stop_ids(tokenizer))
        self._encode = lru_cache(maxsize=1024)(self._encode_text)

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
        return list(self._encode(self._after_turn(new_messages, closed)))

    def render_action(self, action: Action) -> list[int]:
        """Ids of a turn as the model would sample it, stop token included: for demonstrations."""
        before = (Message("user", "x"),)
        prompt = self._render(before, (), generation_prompt=True)
        text = self._render((*before, action.to_message()), ())
        if not text.startswith(prompt):
            raise ModelError("the chat template renders an assistant turn differently from its generation prompt")
        ids = self._encode(text[len(prompt) :])
        end = next((i for i, token in enumerate(ids) if token in self.stop_ids), None)
        if end is None:
            raise ModelError("the chat template does not close an assistant turn with a stop token")
        return list(ids[: end + 1])

    def _after_turn(self, new_messages: Sequence[Message], closed: bool) -> str:
        before = (Message("user", "x"), Message("assistant", _MARK))
        text = self._render((*before, *new_messages), (), generation_prompt=True)
        _, found, after = text.partition(_MARK)
        if not found:
            raise ModelError("the chat template drops assistant turns; give another one with chat_template=")
        return self._without_closer(after) if closed else after

    def _without_closer(self, text: str) -> str:
        """`text` without the stop token that ends the turn before it."""
        for token in self._closers:
            if text.startswith(token):
                return text[len(token) :]
        return text

    @property
    def _closers(self) -> list[str]:
        return [self.tokenizer.convert_ids_to_tokens(i) for i in self.stop_ids]

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], **options: Any) -> str:
        return render_template(self.template, messages, tools, **options, **self.variables)

    def _encode_text(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    # Ids to an action.

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, special tokens included."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def parse(self, ids: Sequence[int]) -> Action:
        """Read a sampled turn; never raises. A call that cannot be read has `ToolCall.error`."""
        end = len(ids) - 1 if ids and ids[-1] in self.stop_ids else len(ids)
        text = self.decode(ids[:end])
        reasoning, text = split_reasoning(text)
        text, calls = self.parse_calls(text)
        return Action(text=text, tool_calls=tuple(calls), reasoning=reasoning)

    @abstractmethod
    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        """Split a turn's text into what it says and the calls it makes."""


class HermesFormat(ChatFormat):
    """Calls as `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen)."""

    name = "hermes"
    _CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)

    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        bodies = self._CALL.findall(text)
        calls = [read_call(body, index, "arguments") for index, body in enumerate(bodies)]
        return self._CALL.sub("", text).strip() if bodies else text.strip(), calls


class Llama3Format(ChatFormat):
    """Calls as bare JSON, `{"name": ..., "parameters": {...}}`, several joined by `;` (Llama 3)."""

    name = "llama3"
    _TAG = "<|python_tag|>"

    def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
        said, tagged, body = text.partition(self._TAG)
        if not tagged:
            said, body = "", text
            if not re.match(r'\s*\{\s*"(?:type|name)"', body):
                return text.strip(), []
        return said.strip(), [read_call(part, i, "parameters") for i, part in enumerate(_json_parts(body))]


def read_call(body: str, index: int, arguments_key: str) -> ToolCall:
    """Read one call's JSON; what is wrong with it goes to `ToolCall.error`."""
    call_id = f"call_{index}"
    try:
        call = json.loads(body)
    except (ValueError, RecursionError) as error:
        return ToolCall(_name_in(body), {}, call_id, f"not valid JSON: {error}")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return ToolCall("", {}, call_id, f'expected {{"name": ..., "{arguments_key}": {{...}}}}')
    arguments = call.get(arguments_key, {})
    if not isinstance(arguments, dict):
        kind = type(arguments).__name__
        return ToolCall(call["name"], {}, call_id, f"{arguments_key} must be a JSON object, got {kind}")
    return ToolCall(call["name"], arguments, call_id)


def _name_in(body: str) -> str:
    found = re.search(r'"name"\s*:\s*"([^"\\]*)"', body)
    return found.group(1) if found else ""


def _json_parts(body: str) -> list[str]:
    """Split `{...}; {...}` at the semicolons between objects; the rest of a broken text is one part."""
    parts: list[str] = []
    rest, decoder = body.strip(), json.JSONDecoder()
    while rest:
        try:
            _, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return [*parts, rest]
        parts.append(rest[:end])
        rest = rest[end:].lstrip().removeprefix(";").lstrip()
    return parts or [""]


def split_reasoning(text: str) -> tuple[str | None, str]:
    """Split `<think>...</think>` from the front; a thought that was cut off has no text after it."""
    thought, closed, rest = text.partition("</think>")
    if closed:
        return thought.replace("<think>", "", 1).strip(), rest
    opened = text.lstrip()
    if opened.startswith("<think>"):
        return opened.removeprefix("<think>").strip(), ""
    return None, text


FORMATS: dict[str, type[ChatFormat]] = {f.name: f for f in (HermesFormat, Llama3Format)}


def chat_format(
    tokenizer: Any,
    name: str = "auto",
    *,
    chat_template: str | None = None,
    variables: Mapping[str, Any] | None = None,
) -> ChatFormat:
    """The chat format of a tokenizer, by name or as its template shows.

    Raises: ModelError if there is no template, or none of the known call syntaxes is in it.
    """
    if name != "auto" and name not in FORMATS:
        raise ModelError(f"unknown chat format {name!r}.{did_you_mean(name, FORMATS)}")
    kind = FORMATS[name] if name != "auto" else _detect(chat_template or template_of(tokenizer))
    return kind(tokenizer, chat_template=chat_template, variables=variables)


def _detect(template: str) -> type[ChatFormat]:
    if "<tool_call>" in template:
        return HermesFormat
    if "<|start_header_id|>" in template or "<|python_tag|>" in template:
        return Llama3Format
    raise ModelError(
        "the chat template shows no tool-call syntax that is known here: "
        f"choose one with chat_format= (--chat-format), one of {', '.join(sorted(FORMATS))}"
    )


def template_of(tokenizer: Any) -> str:
    """The tokenizer's chat template. Raises: ModelError that says how to give one."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    if not template:
        where = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        raise ModelError(
            f"{where} has no chat template, so its conversation format is unknown: put a chat_template.jinja "
            "into the folder, or give one with chat_template=; a base model needs one of its instruct version"
        )
    return str(template)


def _token_variables(tokenizer: Any) -> dict[str, str]:
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    return {name: str(getattr(tokenizer, name)) for name in names if getattr(tokenizer, name, None) is not None}


def _stop_ids(tokenizer: Any) -> list[int]:
    """Ids that end a turn: the tokenizer's eos and the end-of-turn tokens of the known formats."""
    known = tokenizer.get_added_vocab()
    names = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>")
    ids = [known[name] for name in names if name in known]
    return ids if tokenizer.eos_token_id is None else [tokenizer.eos_token_id, *ids]
