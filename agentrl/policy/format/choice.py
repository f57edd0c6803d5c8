"""Which chat format a tokenizer gets: by name, or as its template shows. Owns the choice, no format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentrl.errors import ModelError
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.template import template_of
from agentrl.registry import Registry

FORMATS = Registry(
    "chat format",
    "agentrl.chat_formats",
    {
        "hermes": "agentrl.policy.format.hermes:HermesFormat",
        "llama3_json": "agentrl.policy.format.llama3:Llama3Format",
    },
    error=ModelError,
)
"""Chat formats by name. `auto` asks each whether the template is its own, those from outside first."""


def chat_format(
    tokenizer: Any,
    name: str = "auto",
    *,
    chat_template: str | None = None,
    variables: Mapping[str, Any] | None = None,
    stop_ids: Iterable[int] = (),
) -> ChatFormat:
    """The chat format of a tokenizer, by name or as its template shows; arguments as for `ChatFormat`.

    Raises: ModelError if there is no template, or none of the known call syntaxes is in it.
    """
    kind = FORMATS.find(name) if name != "auto" else _detect(chat_template or template_of(tokenizer))
    made: ChatFormat = kind(tokenizer, chat_template=chat_template, variables=variables, stop_ids=stop_ids)
    return made


def _detect(template: str) -> type[ChatFormat]:
    """The first format that says that the template is its own."""
    for name in sorted(FORMATS.names, key=FORMATS.is_built_in):
        kind: type[ChatFormat] = FORMATS.find(name)
        if kind.shows(template):
            return kind
    raise ModelError(
        "the chat template shows no tool-call syntax that is known here: "
        f"choose one with chat_format= (--chat-format), one of {', '.join(FORMATS.names)}"
    )
