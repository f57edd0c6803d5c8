"""A quick check that a server answers, made once before a benchmark. Retries would take minutes to fail."""

from __future__ import annotations

import asyncio

import httpx

from agentrl.errors import ConfigError
from agentrl.wire.redaction import without_credentials

_TIMEOUT_S = 5.0


async def check_reachable(url: str, *, tries: int = 3, pause_s: float = 1.0) -> None:
    """Send a GET request without a key; any answer counts, an error status too.

    Args:
        url: address of the server, such as `http://localhost:8000/v1`.
        tries: requests in total; more than one gives a server time to start.
        pause_s: seconds between tries.
    Raises: ConfigError if no try connects.
    """
    reason = ""
    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
        for attempt in range(tries):
            try:
                async with client.stream("GET", url):
                    return
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                reason = str(error) or type(error).__name__
            except httpx.HTTPError:
                return  # the server was reached; the policy's own requests will report what is wrong with it
            if attempt < tries - 1:
                await asyncio.sleep(pause_s)
    raise ConfigError(
        f"no server answers at {without_credentials(url)} ({without_credentials(reason)}): start it, or correct the "
        "base URL"
    )
