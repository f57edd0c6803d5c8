"""A session of the proxy and a client of it, without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from agentrl.env import registry
from agentrl.policy.base import SamplingParams
from agentrl.serving.capture.app import Proxy
from agentrl.serving.capture.episode import Episode
from agentrl.serving.capture.session import Session
from agentrl.serving.chat_model import ChatModel
from tests.serving.conftest import ENV


@pytest.fixture
def proxy() -> Proxy:
    return Proxy(["localhost"], ping_s=0.02)


@pytest.fixture
async def episode(model: ChatModel, proxy: Proxy) -> Episode:
    """An episode of the lamp whose session samples greedily."""
    env = registry.make(ENV)
    session = Session(model, SamplingParams(0.0, max_tokens=40), max_turns=16, name="one")
    found = Episode(session, env, env.tasks.split("eval")[0])
    await found.begin(1)
    proxy.add(found)
    return found


@pytest.fixture
async def client(proxy: Proxy, episode: Episode) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {episode.session.key}"}
    transport = httpx.ASGITransport(proxy.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/s/one/", headers=headers) as client:
        yield client
