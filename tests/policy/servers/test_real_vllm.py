"""vLLM itself: `AGENTRL_VLLM=VENV/bin/python pytest -m vllm tests/policy/servers`, a minute a start."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from agentrl.errors import ModelError
from agentrl.messages import Message
from agentrl.policy import adapters, model_folder
from agentrl.policy.base import SamplingParams
from agentrl.policy.servers.addresses import Servers
from agentrl.policy.servers.api import ServerApi
from agentrl.policy.servers.find import find
from agentrl.policy.servers.probe import Probe
from agentrl.policy.servers.sampler import ServerSampler
from agentrl.policy.servers.wire import Address
from agentrl.policy.tiny import build_tiny, conversation_texts
from tests.policy.servers.test_lora import own, train
from tests.policy.servers.test_sampler import ASKED, shake

pytestmark = pytest.mark.vllm
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
IDS = list(range(20, 60))


@pytest.fixture(scope="module")
def folder(demo: list[Message], tools: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model whose heads have 32 numbers: vLLM on a CPU takes none that are as small as those of other tests."""
    model, tokenizer = build_tiny(conversation_texts([demo] * 20, tools))
    return model_folder.save(tmp_path_factory.mktemp("start") / "model", model, tokenizer)


@pytest.fixture(scope="module")
def process(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("vllm_process", BENCHMARKS / "vllm_process.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.VllmProcess(
        Path(os.environ["AGENTRL_VLLM"]),
        folder,
        tmp_path_factory.mktemp("log") / "vllm.log",
        options=("--max-model-len", "256", "--enable-lora", "--max-lora-rank", "8"),
        settings={"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
    ) as started:
        yield started


@pytest.fixture
async def api(process: Any) -> AsyncIterator[ServerApi]:
    async with httpx.AsyncClient(timeout=None) as client:
        yield await find(Address(process.url, client), "auto", 256, 600.0)


def sampler(folder: Path, process: Any, weights: Path, lora: str | None = None) -> ServerSampler:
    model, tokenizer = model_folder.load(folder)
    if lora is not None:
        adapters.add(model, rank=4, alpha=8.0)
    servers = Servers((process.url,), weights, tolerance=1e-3, lora="swapped" if lora == "swapped" else "merged")
    return ServerSampler(model, tokenizer, servers, sampling=SamplingParams(max_tokens=12), max_context=256)


async def test_swapped_adapters(folder: Path, process: Any, tmp_path: Path) -> None:
    """First of all: the server has the weights that it was started with."""
    async with sampler(folder, process, tmp_path / "weights", "swapped") as policy:
        for version in (1, 2, 3):
            train(policy)
            action = await policy.act(ASKED, (), episode_id="e")
            assert action.versions[0] == version
            assert action.logprobs == pytest.approx(own(policy, action), abs=1e-3)


async def test_a_stale_head_is_found(folder: Path, process: Any, api: ServerApi, tmp_path: Path) -> None:
    """An ordinary folder of a model whose head is its embedding: vLLM answers 200 and keeps the old head."""
    model, tokenizer = model_folder.load(folder)
    assert model.config.tie_word_embeddings
    shake(model)
    ordinary = model_folder.save(tmp_path / "ordinary", model, tokenizer)
    await api.load(ordinary, "ordinary")
    probe = Probe.of(model, IDS)
    with pytest.raises(ModelError, match="does not compute with the weights"):
        probe.compare(await api.score(IDS, probe.temperature), 0.05)


async def test_updates_and_a_kill(folder: Path, process: Any, tmp_path: Path) -> None:
    async with sampler(folder, process, tmp_path / "weights") as policy:
        await policy.act(ASKED, (), episode_id="e")
        shake(policy.model)
        policy.weights_changed()
        assert (await policy.act(ASKED, (), episode_id="e")).versions[0] == 1
        process.kill()
        process.start()
        action = await policy.act(ASKED, (), episode_id="e")
        assert action.versions[0] == 1
        assert action.logprobs == pytest.approx(own(policy, action), abs=1e-3)
        assert policy.metrics["scale/server_losses"] == 1


async def test_merged_adapters(folder: Path, process: Any, tmp_path: Path) -> None:
    async with sampler(folder, process, tmp_path / "weights", "merged") as policy:
        torch.manual_seed(0)
        train(policy)
        action = await policy.act(ASKED, (), episode_id="e")
        assert action.logprobs == pytest.approx(own(policy, action), abs=1e-3)
