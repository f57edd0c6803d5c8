"""What an address is: vLLM or SGLang, with which model. Owns the list of kinds."""

from __future__ import annotations

from typing import Literal

from agentrl.errors import ConfigError
from agentrl.policy.servers.api import ServerApi, first
from agentrl.policy.servers.cards import Card, cards
from agentrl.policy.servers.sglang import Sglang
from agentrl.policy.servers.vllm import Vllm
from agentrl.policy.servers.wire import Address

_KINDS: dict[str, type[ServerApi]] = {api.kind: api for api in (Vllm, Sglang)}


async def find(at: Address, kind: Literal["auto", "vllm", "sglang"], context: int, timeout_s: float) -> ServerApi:
    """The endpoints of a server.

    Args:
        at: where it is.
        kind: what it is; `auto` asks it.
        context: most tokens that it must take.
        timeout_s: longest time of a turn or of loading weights.
    Raises: ServerLost, ServerBusy; ConfigError if it is of no known kind, or its context is too short.
    """
    card: Card = first([card for card in await cards(at) if card.parent is None], f"the list of models of {at.shown}")
    found = card.owned_by if kind == "auto" else kind
    if found not in _KINDS:
        raise ConfigError(
            f"{at.shown} says that it is {card.owned_by!r}: expected one of {', '.join(_KINDS)}. If it is, set "
            "scale.server_kind"
        )
    if card.max_model_len is not None and card.max_model_len < context:
        raise ConfigError(
            f"{at.shown} takes {card.max_model_len} tokens of context, and an episode may have {context}: start it "
            f"with a longer context, or set model.max_context = {card.max_model_len}"
        )
    return _KINDS[found](at, card.id, timeout_s)
