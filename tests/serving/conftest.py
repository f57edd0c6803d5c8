"""A model that has learnt to call a tool and repeat its answer, for the tests of the endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.learning.learner import LearnerSettings
from agentrl.messages import Action, ToolCall
from agentrl.serving.app import make_app
from agentrl.serving.chat_model import ChatModel
from agentrl.tool_schema import tool
from agentrl.training.export import export
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train
from agentrl.trajectory import Task
from tests.learning.fixtures import one_thread

__all__ = ["one_thread"]
ENV = "test/Lamp-v0"
COLOURS = ("red", "blue", "green")


@register(ENV, max_turns=4)
class Lamp(ToolEnv):
    """Look at the lamp, then say its colour."""

    tasks = Tasks.of(
        train=[{"n": n, "colour": COLOURS[n % 3]} for n in range(12)],
        eval=[{"n": n, "colour": COLOURS[n % 3]} for n in range(12, 24)],
    )

    def start(self, task: Task) -> str:
        self.task_colour = task.data["colour"]
        return f"Lamp {task.data['n']}?"

    @tool
    def look(self, lamp: int) -> str:
        """Look at a lamp.

        Args: lamp: its number.
        """
        return f"It is {self.task_colour}."

    def score(self, answer: str | None) -> float:
        return float(answer == self.task_colour)

    def oracle(self, messages: Any) -> Action | str:
        last = messages[-1]
        if last.role != "tool":
            return Action("", (ToolCall("look", {"lamp": int(last.content.split()[1].strip("?"))}),))
        return last.content.removeprefix("It is ").strip(".")


CONFIG = TrainConfig(
    env=EnvConfig(ENV),
    model=ModelConfig(hidden_size=64, num_layers=2, vocab_size=400, max_context=256),
    sampling=SamplingConfig(max_tokens=40),
    stages={
        "copy": Supervise(
            {"oracle": 1.0},
            num_episodes=480,
            epochs=2,
            batch_episodes=16,
            learner=LearnerSettings(lr=0.02, optimizer="muon"),
        )
    },
    run=RunConfig(evaluate_every=0, tensorboard=False),
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model folder, named `lamp`."""
    base = tmp_path_factory.mktemp("served")
    train(CONFIG, base / "run")
    export(base / "run", base / "lamp")
    return base / "lamp"


@pytest.fixture
def model(folder: Path) -> ChatModel:
    return ChatModel.from_folder(folder, slots=8)


@pytest.fixture
async def client(model: ChatModel) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without a socket."""
    transport = httpx.ASGITransport(make_app(model))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/v1") as client:
        yield client
