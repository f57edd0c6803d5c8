"""The APIs of servers that a policy can speak: their paths, and where address and key come from. Imports no client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Api:
    """One API.

    Attributes:
        path: of its requests, after the base URL.
        version: part of the path before that, which a base URL may have or lack.
        url: address of its maker's service.
        url_env: environment variable that holds another address.
        key_env: environment variable that holds the key.
    """

    path: str
    version: str = ""
    url: str = "https://api.openai.com/v1"
    url_env: str = "OPENAI_BASE_URL"
    key_env: str = "OPENAI_API_KEY"

    def address(self, base_url: str | None = None) -> str:
        """The base URL: the given one, else that of the environment, else the maker's."""
        return base_url or os.environ.get(self.url_env) or self.url

    def endpoint(self, path: str) -> str:
        """The path of requests, from the path of a base URL; one that is complete stays as it is."""
        return path.rstrip("/").removesuffix(self.path).removesuffix(self.version) + self.version + self.path


APIS: Mapping[str, Api] = {
    "openai": Api("/chat/completions"),
    "responses": Api("/responses"),
    "anthropic": Api("/messages", "/v1", "https://api.anthropic.com", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
}
"""By the kind of a policy's name: `openai:NAME` speaks the first."""
NAMES = "openai:NAME, responses:NAME or anthropic:NAME"
"""As messages list them."""
