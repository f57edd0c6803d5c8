"""Servers with the model of the tests, and samplers that ask them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import httpx
import pytest

from agentrl.policy import adapters, model_folder
from agentrl.policy.base import SamplingParams
from agentrl.policy.servers.sampler import Servers, ServerSampler
from tests.policy.servers.fakes import FakeServer, FakeSglang, FakeVllm, Net

Connect = Callable[..., ServerSampler]


@pytest.fixture(params=[FakeVllm, FakeSglang])
def server(request: pytest.FixtureRequest, tiny_folder: Path) -> FakeServer:
    made: FakeServer = request.param(tiny_folder)
    return made


@pytest.fixture
async def connect(tiny_folder: Path, tmp_path: Path) -> AsyncIterator[Connect]:
    """Makes a sampler of the tests' model for servers by their host."""
    async with AsyncExitStack() as stack:

        def make(
            wait_s: float = 5.0, lora: Literal["merged", "swapped"] | None = None, **servers: FakeServer
        ) -> ServerSampler:
            model, tokenizer = model_folder.load(tiny_folder)
            if lora is not None:
                adapters.add(model, rank=4, alpha=8.0)
            client = httpx.AsyncClient(transport=Net(**servers))
            urls = tuple(f"http://{host}" for host in servers)
            made = ServerSampler(
                model,
                tokenizer,
                Servers(urls, tmp_path / "weights", "auto", 1e-3, 60.0, wait_s, lora or "merged"),
                sampling=SamplingParams(max_tokens=12),
                max_context=256,
                client=client,
            )
            stack.push_async_callback(client.aclose)
            stack.push_async_callback(made.aclose)
            return made

        yield make
