"""Whether a server answers at all, asked once before a benchmark: what retries would take minutes to say."""

from __future__ import annotations

import asyncio

import httpx

from agentrl.errors import ConfigError

_TIMEOUT_S = 5.0


async def check_reachable(url: str, *, tries: int = 3, pause_s: float = 1.0) -> None:
    """Ask for the address, without a key; whatever is answered will do.

    Args:
        url: of the server, such as `http://localhost:8000/v1`.
        tries: a server that is just starting gets more than one.
        pause_s: between tries.
    Raises: ConfigError if no connection is made.
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
                return  # it was reached; what is wrong with it, the policy will say
            if attempt < tries - 1:
                await asyncio.sleep(pause_s)
    raise ConfigError(f"no server answers at {url} ({reason}): start it, or mend the base URL")
