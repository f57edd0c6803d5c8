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
        "harmony": "agentrl.policy.format.harmony:HarmonyFormat",
        "template": "agentrl.policy.format.derived:TemplateFormat",
        "generic": "agentrl.policy.format.hermes:GenericFormat",
        "hermes": "agentrl.policy.format.hermes:HermesFormat",
        "llama3_json": "agentrl.policy.format.llama3:Llama3Format",
    },
    error=ModelError,
)
"""Chat formats by name. `auto` asks those from outside whether the template is theirs, then what the template shows."""


def chat_format(
    tokenizer: Any,
    name: str = "auto",
    *,
    chat_template: str | None = None,
    variables: Mapping[str, Any] | None = None,
    stop_ids: Iterable[int] = (),
) -> ChatFormat:
    """The chat format of a tokenizer, by name or as its template shows; arguments as for `ChatFormat`.

    Raises: ModelError if there is no template, or no format of that name.
    """
    kind = FORMATS.find(name) if name != "auto" else _detect(chat_template or template_of(tokenizer))
    made: ChatFormat = kind(tokenizer, chat_template=chat_template, variables=variables, stop_ids=stop_ids)
    return made


def _detect(template: str) -> type[ChatFormat]:
    """The first format that says that the template is its own; else what the template itself shows."""
    foreign = [name for name in FORMATS.names if not FORMATS.is_built_in(name)]
    for name in (*foreign, "harmony"):
        kind: type[ChatFormat] = FORMATS.find(name)
        if kind.shows(template):
            return kind
    derived: type[ChatFormat] = FORMATS.find("template")
    return derived
