"""What happens on the server before the first request of an episode: its state is set anew."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from agentrl.env.author_code import acting_env, episode_state, hold_elsewhere
from agentrl.errors import EnvFault, ToolError, ToolSchemaError, did_you_mean
from agentrl.tools.openapi.tool import Endpoint


class Opening:
    """Calls an operation once in each episode, before its first request.

    Args:
        endpoint: the operation.
        seed: its argument that takes a seed, if any.
    """

    def __init__(self, endpoint: Endpoint, seed: str | None) -> None:
        known = [argument.name for argument in endpoint.arguments.shown]
        if seed is not None and seed not in known:
            raise ToolSchemaError(f"{endpoint.operation.name} has no argument {seed!r}.{did_you_mean(seed, known)}")
        needed = [a.name for a in endpoint.arguments.shown if a.required and a.name != seed]
        if needed:
            raise ToolSchemaError(f"reset={endpoint.operation.name!r} also needs {needed[0]!r}: give it with fix=...")
        self._endpoint, self._seed = endpoint, seed
        self._key = f"reset by {endpoint.operation.name} of {endpoint.api.base_url}"
        self._locks: WeakKeyDictionary[Any, asyncio.Lock] = WeakKeyDictionary()

    async def __call__(self) -> None:
        """Raises: EnvFault if the operation fails; the episode has not begun then."""
        env = acting_env()
        if env is None or self._key in episode_state(env):
            return
        async with self._locks.setdefault(env, asyncio.Lock()):
            if self._key in episode_state(env):  # another call of the same turn did it
                return
            if not self._endpoint.api.offline:
                hold_elsewhere(env, "a server holds its state")
            values = {} if self._seed is None else {self._seed: seed_of(env)}
            try:
                await self._endpoint.api.send_now(self._endpoint.draft(values))
            except ToolError as error:
                raise EnvFault(f"reset={self._endpoint.operation.name!r} failed: {error}", who="author") from error
            episode_state(env)[self._key] = True


def seed_of(env: Any) -> int:
    """The seed of an episode: that of its task's data, or else one of the environment's seed and the task."""
    given = env.task.data.get("seed")
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    entropy = (env.np_random_seed, zlib.crc32(env.task.id.encode()))
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
