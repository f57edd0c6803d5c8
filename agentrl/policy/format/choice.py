"""Which chat format a tokenizer gets: by name, or as its template shows. Owns the choice, no format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentrl.errors import ModelError, did_you_mean
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.hermes import HermesFormat
from agentrl.policy.format.llama3 import Llama3Format
from agentrl.policy.format.template import template_of

FORMATS: dict[str, type[ChatFormat]] = {f.name: f for f in (HermesFormat, Llama3Format)}


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
    if name != "auto" and name not in FORMATS:
        raise ModelError(f"unknown chat format {name!r}.{did_you_mean(name, ['auto', *FORMATS])}")
    kind = FORMATS[name] if name != "auto" else _detect(chat_template or template_of(tokenizer))
    return kind(tokenizer, chat_template=chat_template, variables=variables, stop_ids=stop_ids)


def _detect(template: str) -> type[ChatFormat]:
    """The first format that says that the template is its own."""
    for kind in FORMATS.values():
        if kind.shows(template):
            return kind
    raise ModelError(
        "the chat template shows no tool-call syntax that is known here: "
        f"choose one with chat_format= (--chat-format), one of {', '.join(sorted(FORMATS))}"
    )
