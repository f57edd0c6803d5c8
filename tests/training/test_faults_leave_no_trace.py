"""A run in which a tenth of everything fails learns what the run without faults learns: bit for bit."""

from __future__ import annotations

import asyncio
import errno
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from msgspec import structs
from safetensors.numpy import load_file

from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault, PolicyFault
from agentrl.learning.credit.group_relative import GRPO
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.optimizers import Schedule
from agentrl.messages import Action
from agentrl.policy.local import LocalPolicy
from agentrl.rollout import runner
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train
from agentrl.trajectory import Task
from tests.learning.fixtures import one_thread

__all__ = ["one_thread"]
EVERY = 10  # one call in so many fails
MOST = 2  # times that a group meets a fault: a third attempt is an episode's last one
# Metrics that depend on the clock, or that count the faults themselves.
OTHERWISE = ("time", "speed/", "share/", "rollout/faults", "rollout/retried")


class Faults:
    """Which calls of a place fail: each tenth one, whatever episode it belongs to."""

    def __init__(self) -> None:
        self.begin("", RuntimeError)

    def begin(self, place: str, error: Callable[[], BaseException]) -> None:
        self.place, self.error, self.calls, self.counts = place, error, 0, Counter[Any]()

    def falls_on(self, place: str, group: Any) -> bool:
        if place != self.place:
            return False
        self.calls += 1
        if self.calls < EVERY * (self.total + 1) or self.counts[group] >= MOST:
            return False
        self.counts[group] += 1
        return True

    def may_raise(self, place: str, group: Any) -> None:
        if self.falls_on(place, group):
            raise self.error()

    @property
    def total(self) -> int:
        return sum(self.counts.values())


FAULTS = Faults()


@register("test/Breaks-v0", max_turns=3)
class Breaks(ToolEnv):
    """Look, then say yes. Everything in it can fail."""

    tasks = Tasks.of(train=[{"n": n} for n in range(12)], eval=[{"n": n} for n in range(12, 16)])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        FAULTS.may_raise("constructor", FAULTS.calls)

    async def start(self, task: Task) -> str:
        self.ticket = int(self.np_random.integers(10**6))
        FAULTS.may_raise("start", self.ticket)
        return f"Number {task.data['n']}: yes or no?"

    @tool(timeout_s=0.2)
    async def look(self) -> str:
        """Look at the number."""
        if FAULTS.falls_on("timeout", self.ticket):
            await asyncio.Event().wait()
        FAULTS.may_raise("tool", self.ticket)
        return f"it is {self.task.data['n']}, ticket {self.np_random.integers(10)}"

    async def score(self, answer: str | None) -> float:
        FAULTS.may_raise("score", self.ticket)
        return float(answer == "yes")

    def yes(self, messages: Any) -> Any:
        return "yes" if messages[-1].role == "tool" else call("look")

    def no(self, messages: Any) -> Any:
        return "no" if messages[-1].role == "tool" else call("look")


def status(code: int) -> Callable[[], BaseException]:
    def error() -> BaseException:
        request = httpx.Request("GET", "http://server/")
        return httpx.HTTPStatusError(f"{code}", request=request, response=httpx.Response(code, request=request))

    return error


KINDS: dict[str, tuple[str, Callable[[], BaseException]]] = {
    "a tool raises": ("tool", lambda: RuntimeError("the tool broke")),
    "a tool does not return": ("timeout", RuntimeError),
    "the API refuses the connection": ("tool", lambda: httpx.ConnectError("refused")),
    "the API answers 500": ("tool", status(500)),
    "the API answers 429": ("score", status(429)),
    "the sandbox is lost": ("tool", lambda: EnvFault("the sandbox does not answer", who="sandbox")),
    "the disk is full": ("score", lambda: OSError(errno.ENOSPC, "No space left on device")),
    "a worker's task is cancelled": ("tool", asyncio.CancelledError),
    "the environment cannot be made": ("constructor", lambda: EnvFault("no container", who="host")),
    "an episode does not start": ("start", lambda: ConnectionResetError("reset by peer")),
    "the score raises": ("score", lambda: LookupError("no such row")),
    "the model's server fails": ("policy", lambda: PolicyFault("503")),
    "the model's answer is lost": ("answer", lambda: PolicyFault("connection lost")),
    "the model's server aborts": ("abort", PolicyFault),
}
LEARNER = LearnerSettings(lr=3e-4)
CONFIG = TrainConfig(
    env=EnvConfig("test/Breaks-v0"),
    model=ModelConfig(hidden_size=32, num_layers=1),
    sampling=SamplingConfig(max_tokens=12),
    run=RunConfig(evaluate_every=0, tensorboard=False, max_concurrency=24),
    stages={"rl": Reinforce(steps=3, playing=Playing(4, 6), credit=GRPO(), learner=LEARNER)},
)


@pytest.fixture(scope="module")
def undecided(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """A model that looks, and then says yes about as often as no."""
    run = tmp_path_factory.mktemp("undecided") / "run"
    warm = LearnerSettings(lr=0.03, optimizer="muon", schedule=Schedule("linear", warmup_steps=3))
    stage = Supervise({"yes": 0.5, "no": 0.5}, num_episodes=512, epochs=2, batch_episodes=16, learner=warm)
    train(replace(CONFIG, stages={"copy": stage}), run)
    return ModelConfig(path=str(run / "model"))


def watch(patch: pytest.MonkeyPatch) -> list[Any]:
    """The columns of every row that trains, update by update: advantages and all."""
    trained: list[Any] = []
    update = Learner.update

    async def noted(self: Learner, rows: Any, objective: Any) -> Any:
        trained.append([{name: np.asarray(v).tobytes() for name, v in row.columns.items()} for row in rows])
        return await update(self, rows, objective)

    patch.setattr(Learner, "update", noted)
    return trained


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """As `watch`, with a policy that can fail before and after it is asked."""
    act = LocalPolicy.act

    async def unreliable(self: LocalPolicy, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Any:
        group = episode_id.partition("/")[0]
        FAULTS.may_raise("policy", group)
        if FAULTS.falls_on("abort", group):
            return Action(finish_reason="abort")
        action = await act(self, messages, tools, episode_id=episode_id, sampling=sampling)
        FAULTS.may_raise("answer", group)
        return action

    monkeypatch.setattr(LocalPolicy, "act", unreliable)
    monkeypatch.setattr(runner, "_MAX_BACKOFF_S", 0.001)
    yield watch(monkeypatch)
    FAULTS.place = ""


def left_by(run: Path) -> dict[str, Any]:
    """Weights, metrics and episodes of a run, without times and discarded attempts."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    episodes = [t for t in TrajectoryStore(run / "trajectories.jsonl") if not t.labels.superseded]
    return {
        "weights": {name: value.tobytes() for name, value in load_file(run / "model" / "model.safetensors").items()},
        "metrics": [{k: v for k, v in m.items() if not k.startswith(OTHERWISE)} for m in metrics],
        "episodes": sorted(
            (t.labels.step, t.episode_id, t.reward, t.success, *[_sampled(turn.action) for turn in t.turns])
            for t in episodes
        ),
    }


def _sampled(action: Action) -> Any:
    return structs.astuple(structs.replace(action, signals=None, served=None, usage=None, tool_calls=()))


@pytest.fixture(scope="module")
def clean(undecided: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("clean") / "run"
    with pytest.MonkeyPatch.context() as patch:
        trained = watch(patch)
        train(replace(CONFIG, model=undecided), run)
    return {**left_by(run), "rows": trained}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_faults_equals_the_run_without(
    kind: str, undecided: ModelConfig, clean: dict[str, Any], watched: list[Any], tmp_path: Path
) -> None:
    FAULTS.begin(*KINDS[kind])
    train(replace(CONFIG, model=undecided), tmp_path / "run")
    assert FAULTS.total >= 2
    assert FAULTS.total == FAULTS.calls // EVERY
    assert watched == clean["rows"]
    assert left_by(tmp_path / "run") == {name: of for name, of in clean.items() if name != "rows"}


def test_the_runs_that_are_compared_learn_something(clean: dict[str, Any]) -> None:
    """Else equal runs would say nothing: rewards differ within groups, and every step moves the weights."""
    assert [m["grad/norm"] > 0 for m in clean["metrics"] if m["stage"] == "rl"] == [True] * 3
    assert 0 < sum(success for _, _, _, success, *_ in clean["episodes"]) < len(clean["episodes"])
