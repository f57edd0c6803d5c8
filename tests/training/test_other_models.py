"""Models with linear attention, latents or chunks, through training: what was sampled is what is trained on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from agentrl import Tasks, ToolEnv, register, tool
from agentrl.learning.learner import LearnerSettings
from agentrl.policy.local import LocalPolicy
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.train import train
from tests.policy.other_models import LATENT, OTHER, folder_with_images, save_folder

KINDS = {"qwen3_5": OTHER["qwen3_5"], "llama4": OTHER["llama4"], "latent": LATENT}


def folder_of(kind: str, folder: Path) -> Path:
    return save_folder(KINDS[kind], folder) if kind in KINDS else folder_with_images(kind, folder)


@register("tests/Chance-v0", max_turns=3)
class Chance(ToolEnv):
    """Pays by chance, so that the episodes of a group differ."""

    tasks = Tasks.of(train=[{"n": n} for n in range(20)], eval=[{"n": 100}])
    score_truncated = True

    async def start(self, task):  # type: ignore[no-untyped-def]
        return f"Say something about {task.data['n']}."

    @tool
    def look_up(self, key: str) -> str:
        """Look something up."""
        return key

    async def score(self, answer: str | None) -> float:
        return random.random()


@pytest.mark.parametrize("kind", [*KINDS, "mistral3"])
def test_what_is_trained_on_has_the_probability_with_which_it_was_sampled(kind: str, tmp_path: Path) -> None:
    config = TrainConfig(
        env=EnvConfig("tests/Chance-v0"),
        model=ModelConfig(path=str(folder_of(kind, tmp_path / "model")), max_context=600, slots=6),
        sampling=SamplingConfig(max_tokens=12),
        stages={"rl": Reinforce(steps=2, playing=Playing(2, 4), learner=LearnerSettings(lr=1e-3))},
        run=RunConfig(evaluate_every=0, tensorboard=False),
    )
    train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    mismatches = [line["mismatch/nats"] for line in lines if "mismatch/nats" in line]
    assert len(mismatches) == 2
    assert max(mismatches) < 1e-5
    assert LocalPolicy.from_folder(tmp_path / "run" / "model").version == 0
