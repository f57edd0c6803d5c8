"""Agents over HTTP become episodes: exact ids, rewards of the environment, and whose failure it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agentrl.env import registry
from agentrl.errors import EnvNotFound
from agentrl.learning.rows import rows_of_trajectory
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.store import TrajectoryStore
from agentrl.serving.capture.playing import AgentPlayer
from agentrl.serving.capture.server import CaptureServer
from agentrl.serving.chat_model import ChatModel
from agentrl.trajectory import TrajectoryGroup
from tests.serving.capture.agents import ChatAgent
from tests.serving.conftest import ENV


async def played(policy: LocalPolicy, agent: ChatAgent, store: Path, *, groups: int = 2) -> list[TrajectoryGroup]:
    tasks = registry.make(ENV).tasks.split("eval")
    async with CaptureServer() as server:
        player = AgentPlayer(server, agent, max_turns=16)
        with TrajectoryStore(store) as records:
            async with Rollouts(ENV, policy, store=records, play=player.play) as rollouts:
                return await rollouts.run([GroupRequest(task, 1, 2) for task in tasks[:groups]])


async def test_an_agent_over_http_gives_exact_episodes(model: ChatModel, tmp_path: Path) -> None:
    policy = model.policy
    agent = ChatAgent()
    groups = await played(policy, agent, tmp_path / "trajectories.jsonl")
    recorded = list(TrajectoryStore(tmp_path / "trajectories.jsonl"))
    assert len(recorded) == len(agent.conversations) == 4
    for trajectory in (t for group in groups for t in group.trajectories):
        assert trajectory.ending.kind == "answer"
        assert (trajectory.success, trajectory.reward) == (True, 1.0)
        assert trajectory.env.id == f"capture:{ENV}"
        (row,) = rows_of_trajectory(trajectory)
        ids = torch.tensor(row.ids)[None]
        with torch.inference_mode():
            logprobs = torch.log_softmax(policy.model(ids).logits[0, :-1].float(), -1)
        own = logprobs.gather(1, ids[0, 1:, None])[:, 0]
        mask = torch.tensor(row.mask[1:])
        sampled = torch.tensor(row.column("sampled_logprobs")[1:])
        assert (own[mask] - sampled[mask]).abs().max() < 1e-4
        assert int(mask.sum()) == trajectory.num_sampled_tokens
    with pytest.raises(EnvNotFound, match="cannot be made"):
        registry.make(recorded[0].env)
