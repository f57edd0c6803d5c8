"""`agentrl.capture`: sessions of a program's own agents, and the groups that they make."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import httpx
import pytest

from agentrl.errors import ConfigError, RolloutError
from agentrl.learning.rows import build_rows
from agentrl.policy.base import SamplingParams
from agentrl.rollout.sources.prefetch import Prefetch
from agentrl.rollout.store import TrajectoryStore
from agentrl.serving.capture.groups import CapturedGroups
from agentrl.serving.capture.recorder import CapturedSession, Recorder, capture
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


def test_a_server_that_cannot_start_is_an_error(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise ConfigError("the address is taken")

    monkeypatch.setattr("agentrl.serving.capture.server.listening", refused)
    with pytest.raises(ConfigError, match="the address is taken"), capture(model.policy, sampling=GREEDY):
        pass


async def test_a_recorder_that_is_closed_says_so(model: ChatModel) -> None:
    with capture(model.policy, sampling=GREEDY) as recorder:
        play(recorder, "Lamp 1?", 1.0)
    with pytest.raises(RolloutError, match="the recorder is closed: 0 of 1 groups of 2"):
        await CapturedGroups(recorder, 2).take(1)
    with pytest.raises(RolloutError, match="the recorder is closed"), recorder.session("Lamp 2?"):
        pass


async def test_a_task_that_comes_again_makes_a_new_group(model: ChatModel) -> None:
    with capture(model.policy, sampling=GREEDY) as recorder:
        groups = CapturedGroups(recorder, 2)
        for reward in (1.0, 0.5):
            play(recorder, "Lamp 1?", reward)
        assert [group.rewards for group in await groups.take(1)] == [[1.0, 0.5]]
        given_up = asyncio.ensure_future(groups.take(1))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        for reward in (0.25, 0.0):
            play(recorder, "Lamp 1?", reward)
        assert [group.rewards for group in await groups.take(1)] == [[0.25, 0.0]]


async def test_a_cancelled_take_leaves_its_groups_to_the_next_one(model: ChatModel) -> None:
    with capture(model.policy, sampling=GREEDY) as recorder:
        groups = CapturedGroups(recorder, 1)
        cancelled = asyncio.ensure_future(groups.take(1))
        await asyncio.sleep(0.05)
        play(recorder, "Lamp 1?", 1.0)
        time.sleep(0.05)  # the group is whole, and the loop has not turned since
        cancelled.cancel()
        await asyncio.wait({cancelled})
        assert cancelled.cancelled()
        waiting = asyncio.ensure_future(groups.take(3))
        play(recorder, "Lamp 2?", 0.5)
        await asyncio.sleep(0.05)
        waiting.cancel()  # two of its three groups are whole
        await asyncio.wait({waiting})
        assert [group.rewards for group in await asyncio.wait_for(groups.take(2), 10)] == [[1.0], [0.5]]


async def test_groups_that_were_taken_ahead_are_given_again(model: ChatModel) -> None:
    """A run that goes on begins again at its position; sessions cannot be played again."""
    with capture(model.policy, sampling=GREEDY) as recorder:
        source = CapturedGroups(recorder, 1)
        ahead = Prefetch(source, max_lag=1)
        for number in range(3):
            play(recorder, f"Lamp {number}?", float(number))
        assert [group.rewards for group in await asyncio.wait_for(ahead.take(1), 10)] == [[0.0]]
        assert ahead.state_dict() == {"taken": 1}
        await ahead.aclose()
        assert [group.rewards for group in await asyncio.wait_for(source.take(2), 10)] == [[1.0], [2.0]]


async def test_a_resumed_source_waits_for_new_sessions(model: ChatModel) -> None:
    with capture(model.policy, sampling=GREEDY) as recorder:
        source = CapturedGroups(recorder, 1)
        source.load_state_dict({"taken": 5})
        play(recorder, "Lamp 1?", 1.0)
        assert [group.rewards for group in await asyncio.wait_for(source.take(1), 10)] == [[1.0]]
        assert source.state_dict() == {"taken": 6}


async def test_what_is_kept_in_memory_is_bounded(model: ChatModel, tmp_path: Path) -> None:
    with capture(model.policy, out=tmp_path / "out", sampling=GREEDY, keep=2) as recorder:
        for number in range(3):
            play(recorder, f"Lamp {number}?", 1.0)
    assert [trajectory.task.id for trajectory in recorder.trajectories] == ["Lamp 1?", "Lamp 2?"]
    assert len(list(TrajectoryStore(tmp_path / "out" / "trajectories.jsonl"))) == 3
    with pytest.raises(RolloutError, match="0 of 1"):
        await CapturedGroups(recorder, 3).take(1)


def test_a_reward_that_is_no_finite_number_is_refused(model: ChatModel) -> None:
    recorder = capture(model.policy, sampling=GREEDY)
    with recorder, pytest.raises(ValueError, match="reward = nan: expected a finite number"):
        play(recorder, "Lamp 1?", math.nan)
    (trajectory,) = recorder.trajectories
    assert (trajectory.status, trajectory.reward) == ("fault", 0.0)
