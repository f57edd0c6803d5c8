"""Running a chat template: messages to text. Owns the Jinja call and its errors; knows no token ids."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from agentrl.errors import ModelError
from agentrl.messages import Message

_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_DATE = datetime.date(2024, 7, 26)  # the one that Llama's templates fall back to


def render_template(
    template: str,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    generation_prompt: bool = False,
    **variables: Any,
) -> str:
    """The text of a conversation under a Jinja chat template.

    Args:
        template: Jinja text.
        messages: the conversation.
        tools: OpenAI definitions.
        generation_prompt: end where the model speaks.
        variables: further template variables.
    Raises: ModelError if the template refuses the conversation.
    """
    items = [message_for_template(message) for message in messages]
    shown = {"tools": [dict(tool) for tool in tools]} if tools else {}
    return render_items(template, items, generation_prompt=generation_prompt, **shown, **variables)


def render_items(
    template: str, items: Sequence[Mapping[str, Any]], *, generation_prompt: bool = False, **variables: Any
) -> str:
    """As `render_template`, of messages in the form in which the template takes them."""
    from transformers.utils.chat_template_utils import render_jinja_template  # loads for seconds

    try:
        rendered = render_jinja_template(
            conversations=[[dict(item) for item in items]],
            chat_template=template,
            add_generation_prompt=generation_prompt,
            **variables,
        )
    except Exception as error:  # a template is a program from the model's folder: it may raise anything
        raise ModelError(
            f"the chat template cannot render roles {[item['role'] for item in items]}: {type(error).__name__}: "
            f"{error}; give another template: model.chat_template in a training run, --chat-template for a command"
        ) from error
    text: str = rendered[0][0]
    return text


def with_fixed_date(template: str) -> str:
    """The template with one date in place of today's, so that a prompt is the same on every day."""
    return _TODAY.sub(lambda found: repr(_DATE.strftime(found[2])), template)


def message_for_template(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it: arguments are objects there, not JSON strings."""
    item = structs.replace(message, tool_calls=()).to_openai()
    if message.tool_calls:
        item["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.tool_calls
        ]
    return item


def template_of(tokenizer: Any) -> str:
    """The tokenizer's chat template. Raises: ModelError that says how to give one."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    if not template:
        where = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        raise ModelError(
            f"{where} has no chat template, so its conversation format is unknown: put a chat_template.jinja "
            "into the folder, or name such a file: model.chat_template in a training run, --chat-template for a "
            "command; a base model can take the template of its instruct version"
        )
    return str(template)


def token_variables(tokenizer: Any) -> dict[str, str]:
    """The special tokens that templates refer to by name."""
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    return {name: str(getattr(tokenizer, name)) for name in names if getattr(tokenizer, name, None) is not None}
