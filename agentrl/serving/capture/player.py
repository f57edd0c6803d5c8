"""What plays the episodes of a run or a benchmark: the model itself, or an agent in front of it. Loads no server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agentrl.errors import PackageMissing
from agentrl.rollout.episode import run_episode
from agentrl.rollout.runner import Play
from agentrl.serving.capture.settings import AgentConfig


@asynccontextmanager
async def player(agent: AgentConfig | None) -> AsyncIterator[Play]:
    """The `play` of `Rollouts`; an agent's server and processes live as long as the context. Raises: PackageMissing."""
    if agent is None:
        yield run_episode
        return
    try:
        from agentrl.serving.capture.playing import playing  # an optional extra
    except ImportError as error:
        raise PackageMissing(f"an agent needs a server ({error.name}): pip install 'agentrl[serve]'") from error
    async with playing(agent) as play:
        yield play
