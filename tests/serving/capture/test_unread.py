"""Turns that an agent did not wait for, and samplers that fail: whose failure it is, and what is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentrl.env import registry
from agentrl.errors import RolloutError
from agentrl.learning.rows import build_rows
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.scheduler import Engine, EngineOptions
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.store import TrajectoryStore
from agentrl.serving.capture import session
from agentrl.serving.capture.agents import Exit
from agentrl.serving.capture.playing import AgentPlayer
from agentrl.serving.capture.recorder import capture
from agentrl.serving.capture.server import CaptureServer
from agentrl.serving.chat_model import ChatModel
from agentrl.trajectory import Trajectory, TrajectoryGroup
from tests.serving.conftest import ENV


class Mouth:
    """An engine whose turns do not end, or fail: `said` tokens come, then nothing; `failures` turns raise."""

    def __init__(self, engine: Any, said: int = 0, failures: int = 0) -> None:
        self._engine, self.release, self.options, self.busy = engine, engine.release, engine.options, 0
        self.has_begun = engine.has_begun
        self._said, self._failures, self.spoke = said, failures, asyncio.Event()

    async def sample(self, *arguments: Any, on_token: Callable[[int, float], None], **named: Any) -> Any:
        if self._failures:
            self._failures -= 1
            raise MemoryError("no memory")
        done = await self._engine.sample(*arguments, **named)
        if not self._said and self._failures == 0 and self._ends:
            return done
        for token, logprob in list(zip(done.ids, done.logprobs, strict=True))[: self._said]:
            on_token(token, logprob)
        self.spoke.set()
        await asyncio.Event().wait()

    _ends = False


class Recovering(Mouth):
    """Fails, then answers."""

    _ends = True


class Impatient:
    """An agent whose client hangs up when the model has begun to speak, as one whose time is over does."""

    name = "impatient"

    def __init__(self, mouth: Mouth, *, status: int, stream: bool = False) -> None:
        self._mouth, self._status, self._stream = mouth, status, stream

    async def run(self, variables: Mapping[str, str], waited_s: Callable[[], float]) -> Exit:
        self._mouth.spoke.clear()
        request = asyncio.create_task(asked(variables, stream=self._stream))
        await self._mouth.spoke.wait()
        request.cancel()
        with suppress(asyncio.CancelledError):
            await request
        return Exit(self._status)


class Retrying:
    """An agent that asks again where the server failed."""

    name = "retrying"

    def __init__(self, times: int) -> None:
        self._times = times

    async def run(self, variables: Mapping[str, str], waited_s: Callable[[], float]) -> Exit:
        for _ in range(self._times):
            if (await asked(variables)).status_code == 200:
                return Exit(0)
        return Exit(1)


async def asked(variables: Mapping[str, str], *, stream: bool = False) -> httpx.Response:
    headers = {"authorization": f"Bearer {variables['OPENAI_API_KEY']}"}
    body = {"model": "any", "messages": [{"role": "user", "content": variables["AGENTRL_TASK"]}], "stream": stream}
    async with httpx.AsyncClient(headers=headers, timeout=60) as client:
        return await client.post(f"{variables['OPENAI_BASE_URL']}/chat/completions", json=body)


async def played(model: ChatModel, mouth: Mouth, agent: Any, store: Path) -> tuple[TrajectoryGroup, Trajectory]:
    """An episode as it is trained on, and as it is stored."""
    policy = model.policy
    policy.engine = mouth  # type: ignore[assignment]
    (task, *_) = registry.make(ENV).tasks.split("eval")
    async with CaptureServer() as server:
        play = AgentPlayer(server, agent, max_turns=16).play
        with TrajectoryStore(store) as records:
            async with Rollouts(ENV, policy, store=records, play=play, backoff_s=0.0) as rollouts:
                (group,) = await rollouts.run([GroupRequest(task, 1, 1)])
    return group, list(TrajectoryStore(store))[-1]


@pytest.mark.parametrize("status", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_first_turn_that_takes_too_long_is_a_failure(
    model: ChatModel, tmp_path: Path, status: int, stream: bool
) -> None:
    mouth = Mouth(model.policy.engine, said=3)
    group, stored = await played(model, mouth, Impatient(mouth, status=status, stream=stream), tmp_path / "t.jsonl")
    (trajectory,) = group.trajectories
    assert (trajectory.ending.kind, trajectory.success, trajectory.reward) == ("error", False, 0.0)
    assert "gave up on the model's turn" in trajectory.ending.detail
    (turn,) = stored.turns
    assert (turn.action.finish_reason, turn.action.usage["completion_tokens"]) == ("length", 3)
    assert trajectory.trains
    assert build_rows([group]) == []  # it counts, and none of its tokens trains


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_client_that_hangs_up_at_once_does_not_hide_its_episode(
    model: ChatModel, tmp_path: Path, has_begun: bool
) -> None:
    mouth = Mouth(model.policy.engine)
    mouth.has_begun = lambda owner: has_begun
    group, stored = await played(model, mouth, Impatient(mouth, status=0), tmp_path / "t.jsonl")
    (trajectory,) = group.trajectories
    assert (trajectory.ending.kind, trajectory.success, trajectory.labels.attempt) == ("error", False, 0)
    (turn,) = stored.turns
    assert (turn.action.text, turn.action.usage["completion_tokens"]) == ("", 0)
    assert build_rows([group]) == []


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_sampler_that_is_too_busy_to_begin_is_a_fault(
    model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    """A turn that has no place yet is the engine's matter after a second; one that has a place, after half a minute."""
    monkeypatch.setattr(session, "_PATIENT_S" if has_begun else "_IMPATIENT_S", 0.0)
    mouth = Mouth(model.policy.engine)
    mouth.has_begun = lambda owner: has_begun
    with pytest.raises(RolloutError, match="too busy to begin its turn"):
        await played(model, mouth, Impatient(mouth, status=1), tmp_path / "t.jsonl")


async def test_an_engine_knows_which_turns_wait_for_a_place(model: ChatModel) -> None:
    """Seen from outside: of two turns in an engine with one slot, the one that waits is the engine's matter."""
    engine = Engine(
        model.policy.model,
        stop_ids=frozenset(),
        decode=model.policy.format.decode,
        options=EngineOptions(slots=1, context=64),
    )
    began = asyncio.Event()
    turns = [
        asyncio.create_task(
            engine.sample(name, [1, 2], SamplingParams(max_tokens=40), 1, on_token=lambda *_: began.set())
        )
        for name in ("first", "second")
    ]
    await began.wait()
    assert [engine.has_begun(name) for name in ("first", "second", "third")] == [True, False, False]
    for turn in turns:
        turn.cancel()
    await asyncio.gather(*turns, return_exceptions=True)


async def test_a_failure_of_the_sampler_counts_unless_a_retry_got_the_turn(model: ChatModel, tmp_path: Path) -> None:
    engine = model.policy.engine
    group, _ = await played(model, Recovering(engine, failures=1), Retrying(2), tmp_path / "well.jsonl")
    assert (group.trajectories[0].status, len(group.trajectories[0].turns)) == ("terminated", 1)
    assert group.trajectories[0].labels.attempt == 0
    with pytest.raises(RolloutError, match="the sampler failed: MemoryError"):
        await played(model, Recovering(engine, failures=9), Retrying(1), tmp_path / "never.jsonl")


def test_a_session_whose_turn_nobody_read_has_failed(model: ChatModel) -> None:
    with capture(model.policy) as recorder:
        mouth = Mouth(model.policy.engine, said=2)
        recorder.policy.engine = mouth  # type: ignore[assignment]
        with recorder.session("Lamp 1?") as open_session:
            open_session.reward = 1.0
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(
                    f"{open_session.base_url}/chat/completions",
                    json={"model": "any", "messages": [{"role": "user", "content": "Lamp 1?"}]},
                    headers={"authorization": f"Bearer {open_session.key}"},
                    timeout=1.0,
                )
    (trajectory,) = recorder.trajectories
    assert (trajectory.ending.kind, trajectory.reward, len(trajectory.turns)) == ("error", 0.0, 1)
