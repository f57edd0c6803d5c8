"""The APIs of servers that a policy can speak: their paths, and where address and key come from. Imports no client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from agentrl.errors import ConfigError


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

    def check_key(self, address: str, key_env: str | None = None) -> None:
        """Raises: ConfigError if this is its maker's service, and there is no key for it.

        Args: key_env: the environment variable that holds the key, if it is another one.
        """
        name = key_env or self.key_env
        if address == self.url and not os.environ.get(name, "").strip():
            raise ConfigError(
                f"{self.url} needs a key: set the environment variable {name}, or give the base URL of a server of "
                "yours (--base-url)"
            )

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
