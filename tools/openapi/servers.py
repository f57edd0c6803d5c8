"""Which server an operation is sent to: that of the document, of its path, or its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from agentrl.errors import ToolSchemaError
from agentrl.tools.openapi.document import Operation

_TEMPLATE = re.compile(r"\{[^{}]*\}")


def server_url(servers: Any, address: str | None) -> str:
    """The address of the first of some servers, with the default values of its variables.

    Args:
        servers: as a document gives them; none means `/`.
        address: what a relative address is relative to; None if there is nothing.
    Raises: ToolSchemaError if it is not a full address.
    """
    server = servers[0] if isinstance(servers, list) and servers else {}
    server = server if isinstance(server, Mapping) else {}
    url, variables = str(server.get("url", "")), server.get("variables")
    for name, variable in variables.items() if isinstance(variables, Mapping) else ():
        if isinstance(variable, Mapping) and "default" in variable:
            url = url.replace("{" + str(name) + "}", str(variable["default"]))
    if left := _TEMPLATE.search(url):
        raise ToolSchemaError(f"the server {url!r} has no value for {left[0]}: give base_url=...")
    if address is not None:
        url = str(httpx.URL(address).join(url))
    if not url.startswith(("http://", "https://")):
        raise ToolSchemaError(f"the document names no full server address (its server is {url!r}): give base_url=...")
    return url


class Servers:
    """The servers of a document.

    Args:
        document: the document.
        address: where it was fetched from, if it was.
        base_url: what the caller gives in the place of the document's server.
        allow_hosts: hosts that may be reached.
    Attributes:
        base: the address of the API.
    """

    def __init__(
        self, document: Mapping[str, Any], address: str | None, base_url: str | None, allow_hosts: Sequence[str] | None
    ) -> None:
        self.base = base_url or server_url(document.get("servers"), address)
        self._replaces = base_url is not None
        self._relative_to = address if base_url is None and address is not None else self.base
        self._allowed = allow_hosts
        try:
            self._own = server_url(document.get("servers"), address)
        except ToolSchemaError:
            self._own = self.base

    def of(self, operation: Operation) -> str | None:
        """The server of an operation; None if it is that of the API.

        Raises: ToolSchemaError if it may not be reached.
        """
        if not operation.servers:
            return None
        url = server_url(operation.servers, self._relative_to)
        if url.rstrip("/") == self._own.rstrip("/"):
            return None
        there, host = httpx.URL(url), httpx.URL(self.base).netloc.decode()
        is_allowed = there.netloc.decode() == host or {there.host, there.netloc.decode()} & set(self._allowed or ())
        if is_allowed or (self._allowed is None and not self._replaces):
            return url
        given = (
            "base_url replaces the server of the document alone" if self._replaces else "allow_hosts does not name it"
        )
        raise ToolSchemaError(
            f"its server is {url}, and {given}: allow_hosts=[{there.netloc.decode()!r}, {host!r}] allows it"
        )

    def further(self, found: Sequence[Operation]) -> list[str]:
        """The servers other than the base URL that operations are sent to."""
        urls = set()
        for operation in found:
            try:
                urls.add(self.of(operation))
            except ToolSchemaError:
                continue
        return sorted(url for url in urls if url is not None)
