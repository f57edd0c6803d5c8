"""The models that a server offers, as it lists them: its own, and adapters for it."""

from __future__ import annotations

from pydantic import BaseModel

from agentrl.policy.servers.api import read
from agentrl.policy.servers.wire import Address

_PATH = "/v1/models"
_TIMEOUT_S = 30.0


class Card(BaseModel):
    """One model.

    Attributes:
        id: its name.
        owned_by: the kind of the server.
        parent: of adapters: the model that they belong to.
        max_model_len: most tokens of a context.
    """

    id: str
    owned_by: str = ""
    parent: str | None = None
    max_model_len: int | None = None


class _Models(BaseModel):
    data: list[Card]


async def cards(at: Address) -> list[Card]:
    """All models of a server. Raises: as `Address.get`."""
    return read(_Models, await at.get(_PATH, timeout_s=_TIMEOUT_S), f"{at.shown}{_PATH}").data


async def adapters_of(at: Address) -> set[str]:
    """The names of the adapters that a server has loaded. Raises: as `Address.get`."""
    return {card.id for card in await cards(at) if card.parent is not None}
