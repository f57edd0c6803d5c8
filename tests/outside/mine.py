"""What a stranger writes: one part of each kind, in one file outside the package. The tests copy it into a folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from agentrl import SandboxEnv, Tasks, Tool, ToolEnv, call, register, tool
from agentrl.bench.measures.base import PerEpisode
from agentrl.learning.credit.base import Advantages, Credit
from agentrl.learning.objectives.base import PolicyObjective
from agentrl.policy.format.hermes import HermesFormat
from agentrl.sandbox import Backend, make_backend
from agentrl.training.stages.base import Context, Stage, StageSettings, Step


def doubled(n: int) -> int:
    """Twice a number."""
    return 2 * n


@register("mine/Twice-v0", max_turns=3)
class Twice(ToolEnv):
    """Say what twice a number is."""

    tasks = Tasks.of(train=[{"n": n} for n in range(6)], eval=[{"n": n} for n in range(6, 9)])
    extra_tools = (Tool.of(doubled),)

    def start(self, task):
        return f"Twice {task.data['n']}?"

    def score(self, answer):
        return float(answer == str(2 * self.task.data["n"]))

    def oracle(self, messages):
        last = messages[-1]
        return last.content if last.role == "tool" else call("doubled", n=self.task.data["n"])


@register("mine/Coded-v0", max_turns=3)
class Coded(SandboxEnv):
    """Say what a program prints."""

    tasks = Tasks.of(train=[{"n": 1}], eval=[{"n": 2}, {"n": 3}])

    def start(self, task):
        return f"Run print({task.data['n']})."

    @tool
    async def run(self, n: int) -> str:
        """Print a number."""
        sandbox = await self.sandbox()
        return (await sandbox.run_python(f"print({n})")).text.strip()

    def score(self, answer):
        return float(answer == str(self.task.data["n"]))

    def oracle(self, messages):
        last = messages[-1]
        return last.content if last.role == "tool" else call("run", n=self.task.data["n"])


class Noted(Backend):
    """The backend without isolation, for this trusted program; a file says that it was asked."""

    def __init__(self) -> None:
        self._inner = make_backend("subprocess", unsafe=True)

    async def start(self, spec):
        Path("sandbox_started").touch()
        return await self._inner.start(spec)

    async def doctor(self):
        return await self._inner.doctor()

    async def reap(self) -> int:
        return await self._inner.reap()


@dataclass(frozen=True)
class Scaled(PolicyObjective):
    """Minus scale times advantage times logprob; it reports the advantages that it read."""

    scale: float = 0.5

    def __call__(self, batch, scores):
        loss = -self.scale * scores.logprobs * batch.column("advantages")
        total, sums = self.weighed(loss, torch.zeros_like(loss, dtype=torch.bool), batch, scores)
        return total, {**sums, "mine/scaled": (self.scale * batch.column("advantages")).sum()}


@dataclass(frozen=True)
class Below(Credit):
    """Each turn's credit is how far the reward is above a fixed number, below 0 included."""

    wanted: float = 0.5

    @property
    def compares(self) -> bool:
        return False

    def __call__(self, groups, values):
        return Advantages([[np.full(len(t.turns), t.reward - self.wanted) for t in g.trajectories] for g in groups])


@dataclass(frozen=True)
class Counted(StageSettings):
    """A stage that counts the tasks to train on."""

    times: int = 1

    def stage(self, name: str) -> Stage:
        return CountedStage(name, self.times)


class CountedStage(Stage):
    def __init__(self, name: str, times: int) -> None:
        super().__init__(name)
        self.times, self.found = times, 0

    async def steps(self, context: Context) -> AsyncIterator[Step]:
        if self.step == 0:
            self.found, self.step = self.times * len(context.tasks("train")), 1
            yield Step(1, 1, {"mine/tasks": self.found})

    def summary(self):
        return {"tasks": self.found}


class Marked(HermesFormat):
    """Hermes calls; what a turn says is marked as read by this format."""

    name = "marked"

    def parse_calls(self, text):
        text, calls = super().parse_calls(text)
        return f"[marked] {text}", calls


@dataclass(frozen=True)
class Letters(PerEpisode):
    """Letters and digits of what the agent said, per episode."""

    name = "letters"
    unit = "letters"

    def of(self, episode):
        return sum(len(turn.action.text) for turn in episode.turns)
