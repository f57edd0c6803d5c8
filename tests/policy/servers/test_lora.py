"""Models with adapters: merged into a whole model for a server, or swapped as adapters alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agentrl.errors import ConfigError, ModelError
from agentrl.policy.servers.sampler import ServerSampler
from tests.policy.servers.conftest import Connect
from tests.policy.servers.fakes import FakeServer, FakeVllm
from tests.policy.servers.test_sampler import ASKED


def train(sampler: ServerSampler) -> None:
    """Change the adapters, as an update does."""
    with torch.no_grad():
        for name, parameter in sampler.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    sampler.weights_changed()


@torch.no_grad()
def own(sampler: ServerSampler, action: Any) -> list[float]:
    """The log-probabilities that the model itself gives for a turn."""
    ids = torch.tensor([[*action.prompt_ids, *action.token_ids]])
    logprobs = torch.log_softmax(sampler.model(input_ids=ids).logits[0].float(), -1)
    return [float(logprobs[at - 1, ids[0, at]]) for at in range(len(action.prompt_ids), ids.shape[1])]


@pytest.mark.parametrize("lora", ["merged", "swapped"])
async def test_turns_are_sampled_with_the_adapters_of_the_last_update(
    server: FakeServer, connect: Connect, lora: str
) -> None:
    sampler = connect(lora=lora, here=server)
    before = await sampler.act(ASKED, (), episode_id="a")
    train(sampler)
    action = await sampler.act(ASKED, (), episode_id="b")
    assert action.versions == (1,) * len(action.token_ids)
    assert action.logprobs == pytest.approx(own(sampler, action), abs=1e-4)
    assert before.logprobs != pytest.approx(own(sampler, before), abs=1e-2)
    assert sampler.metrics["scale/server_difference"] < 1e-4


async def test_swapped_adapters_have_new_names_and_old_ones_go(server: FakeServer, connect: Connect) -> None:
    sampler = connect(lora="swapped", here=server)
    for _ in range(3):
        await sampler.act(ASKED, (), episode_id="a")
        train(sampler)
    await sampler.act(ASKED, (), episode_id="a")
    (name,) = server.adapters
    assert name.startswith("v000003-")
    folders = sorted(sampler.servers.weights.iterdir())
    assert folders[-1].name == name
    assert {path.name for path in folders[-1].iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not list(folders[-1].glob("model*.safetensors"))
    assert server.name == "default"  # its own weights are those that it was started with


async def test_a_server_that_began_again_gets_its_adapters_before_it_samples(
    server: FakeServer, connect: Connect
) -> None:
    sampler = connect(lora="swapped", here=server)
    train(sampler)
    await sampler.act(ASKED, (), episode_id="a")
    server.start()
    action = await sampler.act(ASKED, (), episode_id="b")
    assert action.logprobs == pytest.approx(own(sampler, action), abs=1e-4)
    assert len(server.adapters) == 1
    assert sampler.metrics["scale/server_losses"] == 1


async def test_a_server_whose_own_weights_were_replaced_is_refused(server: FakeServer, connect: Connect) -> None:
    """Adapters on other weights would be another model."""
    sampler, other = connect(lora="swapped", here=server), connect(here=server)
    await sampler.act(ASKED, (), episode_id="a")
    await other.act(ASKED, (), episode_id="b")
    with pytest.raises(ConfigError, match=r"http://here has the weights 'v\S+' of another run"):
        await sampler.act(ASKED, (), episode_id="a")


async def test_adapters_that_change_nothing_at_the_server_are_refused(server: FakeServer, connect: Connect) -> None:
    server.faults.ignores_adapters = True
    sampler = connect(lora="swapped", here=server)
    train(sampler)
    with pytest.raises(ModelError, match=r"does not compute with the weights.* belong to .*scale.server_lora"):
        await sampler.act(ASKED, (), episode_id="a")


async def test_a_load_whose_answer_was_lost_is_not_an_error(server: FakeServer, connect: Connect) -> None:
    sampler = connect(lora="swapped", here=server)
    await sampler.act(ASKED, (), episode_id="a")
    (name,) = server.adapters
    replica = sampler._pools.get()[0].replicas[0]
    replica._loaded = None  # as after an answer that did not arrive
    await sampler.act(ASKED, (), episode_id="b")
    assert list(server.adapters) == [name]


async def test_a_server_that_does_not_offer_adapters_says_how_to_start_it(tiny_folder: Path, connect: Connect) -> None:
    server = FakeVllm(tiny_folder)
    server.app.router.routes = [route for route in server.app.router.routes if "lora" not in route.path]  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"--enable-lora and the environment variable VLLM_ALLOW_RUNTIME_LORA"):
        await connect(lora="swapped", here=server).act(ASKED, (), episode_id="a")
