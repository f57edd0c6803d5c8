"""`agentrl.capture`: sessions of a program's own agents, and the groups that they make."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from agentrl.errors import ConfigError
from agentrl.learning.rows import build_rows
from agentrl.policy.base import SamplingParams
from agentrl.rollout.store import TrajectoryStore
from agentrl.serving.capture.recorder import CapturedGroups, CapturedSession, Recorder, capture
from agentrl.serving.chat_model import ChatModel

GREEDY = SamplingParams(0.0, max_tokens=40)


def answer(session: CapturedSession, question: str) -> str:
    """One request of an agent."""
    body = {"model": "any", "messages": [{"role": "user", "content": question}]}
    headers = {"authorization": f"Bearer {session.key}"}
    reply = httpx.post(f"{session.base_url}/chat/completions", json=body, headers=headers, timeout=60)
    return str(reply.raise_for_status().json()["choices"][0]["message"]["content"])


def play(recorder: Recorder, question: str, reward: float) -> None:
    with recorder.session(question) as session:
        answer(session, question)
        session.reward = reward


def crash(recorder: Recorder) -> None:
    with recorder.session("Lamp 1?") as session:
        session.reward = 1.0
        answer(session, "Lamp 1?")
        raise ZeroDivisionError


async def test_sessions_become_groups(model: ChatModel, tmp_path: Path) -> None:
    with capture(model.policy, out=tmp_path / "out", sampling=GREEDY) as recorder:
        groups = CapturedGroups(recorder, group_size=2)
        for question, reward in (("Lamp 1?", 1.0), ("Lamp 2?", 0.5), ("Lamp 1?", 0.0), ("Lamp 2?", 0.0)):
            play(recorder, question, reward)
        first, second = await groups.take(2)
        assert (first.group_id, first.rewards) == ("Lamp 1?", [1.0, 0.0])
        assert second.rewards == [0.5, 0.0]
        assert len(build_rows([first, second])) == 4
        assert groups.state_dict() == {"taken": 2}
    stored = list(TrajectoryStore(tmp_path / "out" / "trajectories.jsonl"))
    assert [(t.env.id, t.labels.mode) for t in stored] == [("capture:sessions", "captured")] * 4
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        capture(model.policy, out=tmp_path / "out")


def test_an_agent_that_raises_fails_and_one_that_asks_nothing_does_not_count(model: ChatModel) -> None:
    with capture(model.policy, sampling=GREEDY) as recorder:
        with pytest.raises(ZeroDivisionError):
            crash(recorder)
        with recorder.session("Lamp 2?") as session:
            session.reward = 1.0
    raised, silent = recorder.trajectories
    assert (raised.ending.kind, raised.reward, raised.success) == ("error", 0.0, False)
    assert (silent.status, silent.reward) == ("fault", 0.0)
