"""Running a chat template: messages to text. Owns the Jinja call and its errors; knows no token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from agentrl.errors import ModelError
from agentrl.messages import Message


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
    from transformers.utils.chat_template_utils import render_jinja_template  # loads for seconds

    try:
        rendered = render_jinja_template(
            conversations=[[message_for_template(m) for m in messages]],
            tools=[dict(tool) for tool in tools] or None,
            chat_template=template,
            add_generation_prompt=generation_prompt,
            **variables,
        )
    except Exception as error:  # a template is a program from the model's folder: it may raise anything
        raise ModelError(
            f"the chat template cannot render roles {[m.role for m in messages]}: {type(error).__name__}: {error}; "
            "give another template with chat_template="
        ) from error
    text: str = rendered[0][0]
    return text


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
            "into the folder, or give its text with chat_template=; a base model can take the template of its "
            "instruct version"
        )
    return str(template)


def token_variables(tokenizer: Any) -> dict[str, str]:
    """The special tokens that templates refer to by name."""
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    return {name: str(getattr(tokenizer, name)) for name in names if getattr(tokenizer, name, None) is not None}
