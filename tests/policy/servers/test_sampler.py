"""`ServerSampler` over both kinds of servers: the same tokens as the embedded engine, and proved weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agentrl.errors import ModelError
from agentrl.messages import Message
from agentrl.policy import token_policy
from agentrl.policy.base import SamplingParams
from agentrl.policy.local import LocalPolicy
from agentrl.sampling import turn_seed
from tests.policy.servers.conftest import Connect
from tests.policy.servers.fakes import FakeServer

ASKED = [Message("system", "Use the tool."), Message("user", "What is 12 + 34?")]
MORE = Message("user", "And 1 + 2?")


@pytest.fixture
def small_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds that every server takes whole, so that they draw the same numbers as the embedded engine."""
    monkeypatch.setattr(token_policy, "turn_seed", lambda stream, turn: turn_seed(stream, turn) % 2**31)


async def two_turns(policy: Any, name: str = "e", sampling: SamplingParams | None = None) -> list[Any]:
    first = await policy.act(ASKED, (), episode_id=name, sampling=sampling)
    second = await policy.act([*ASKED, first.to_message(), MORE], (), episode_id=name, sampling=sampling)
    return [first, second]


def shake(model: Any) -> None:
    """Change the weights, as an update does."""
    with torch.no_grad():
        torch.manual_seed(3)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


@pytest.mark.usefixtures("small_seeds")
async def test_turns_are_those_of_the_embedded_engine(server: FakeServer, connect: Connect, tiny_folder: Path) -> None:
    local = LocalPolicy.from_folder(tiny_folder, sampling=SamplingParams(max_tokens=12), max_context=256)
    remote = connect(here=server)
    for sampling in (None, SamplingParams(0.0, max_tokens=9), SamplingParams(0.7, max_tokens=9, seed=5)):
        name = f"e{sampling}"
        for ours, theirs in zip(
            await two_turns(local, name, sampling), await two_turns(remote, name, sampling), strict=True
        ):
            assert len(theirs.token_ids) > 1
            assert theirs.token_ids == ours.token_ids
            assert (theirs.prompt_ids, theirs.logprobs) == (ours.prompt_ids, ours.logprobs)
            assert (theirs.text, theirs.finish_reason, theirs.versions) == (
                ours.text,
                ours.finish_reason,
                ours.versions,
            )


async def test_new_weights_sample_the_next_turn_and_are_named_by_it(server: FakeServer, connect: Connect) -> None:
    sampler = connect(here=server)
    await two_turns(sampler)
    shake(sampler.model)
    sampler.weights_changed()
    action = await sampler.act(ASKED, (), episode_id="later")
    assert action.versions == (1,) * len(action.token_ids)
    found = server.logprobs([*action.prompt_ids, *action.token_ids])[len(action.prompt_ids) - 1 :]
    assert action.logprobs == pytest.approx(found, abs=1e-4)
    assert sampler.metrics["scale/server_difference"] < 1e-4
    assert len(list(sampler.servers.weights.iterdir())) == 2


async def test_weights_that_no_turn_needs_are_not_written(server: FakeServer, connect: Connect) -> None:
    sampler = connect(here=server)
    for _ in range(3):
        sampler.weights_changed()
    assert not sampler.servers.weights.exists()
    await sampler.act(ASKED, (), episode_id="e")
    assert [path.name[:7] for path in sampler.servers.weights.iterdir()] == ["v000003"]
    await sampler.aclose()
    assert not sampler.servers.weights.exists()


@pytest.mark.parametrize("fault", ["stale_head", "ignores_update"])
async def test_a_server_that_keeps_old_weights_is_refused(server: FakeServer, connect: Connect, fault: str) -> None:
    setattr(server.faults, fault, True)
    sampler = connect(here=server)
    await sampler.act(ASKED, (), episode_id="e")  # the weights are still those that it was started with
    shake(sampler.model)
    sampler.weights_changed()
    with pytest.raises(ModelError, match=r"http://here does not compute with the weights .*/v000001-\w+ as its model"):
        await sampler.act(ASKED, (), episode_id="e")
    folder = next(path for path in sampler.servers.weights.iterdir() if path.name.startswith("v000001"))
    server.folder = folder  # what the error says to do
    server.faults.ignores_update = False
    server.start()
    assert (await sampler.act(ASKED, (), episode_id="e")).versions[0] == 1


async def test_log_probabilities_before_the_temperature_are_refused(server: FakeServer, connect: Connect) -> None:
    server.faults.raw_logprobs = True
    with pytest.raises(ModelError, match="processed_logprobs"):
        await connect(here=server).act(ASKED, (), episode_id="e")
