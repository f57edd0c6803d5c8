"""Training steps of AgentRL on the planned model: python train_ours.py MODEL DTYPE STEPS PROMPTS GROUP TURNS."""

from __future__ import annotations

import random
import sys
import tempfile
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from words import cpu_s, median, report, text

from agentrl import Tasks, ToolEnv, register, tool
from agentrl.learning.learner import LearnerSettings
from agentrl.policy import model_folder
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.train import train

PROMPT_WORDS, RESULT_WORDS, MOST_TOKENS = 40, 12, 64


@register("bench/Words-v0", max_turns=int(sys.argv[6]))
class Words(ToolEnv):
    """Look things up."""

    tasks = Tasks.of(train=[{"n": n} for n in range(2000)], eval=[{"n": 5000}])

    def start(self, task: Any) -> str:
        self.calls = 0
        return text(task.data["n"], PROMPT_WORDS)

    @tool
    def lookup(self, key: str) -> str:
        """Look something up.

        Args:
            key: The key.
        """
        self.calls += 1
        return text(self.calls, RESULT_WORDS)

    score_truncated = True

    def score(self, answer: str | None) -> float:
        return random.random()


def main() -> None:
    folder, dtype, steps, prompts, group = sys.argv[1], sys.argv[2], *(int(a) for a in sys.argv[3:6])
    torch.set_num_threads(1)
    marks: list[tuple[float, dict[str, float]]] = []
    rl = Reinforce(
        steps=steps, playing=Playing(prompts, group), checkpoint_every=10**6, learner=LearnerSettings(lr=1e-12)
    )
    config = TrainConfig(
        env=EnvConfig("bench/Words-v0"),
        model=ModelConfig(path=folder, device="cpu", dtype=cast(Literal["float32", "bfloat16"], dtype)),
        sampling=SamplingConfig(max_tokens=MOST_TOKENS),
        stages={"rl": rl},
        run=RunConfig(evaluate_every=0, tensorboard=False),
    )
    with tempfile.TemporaryDirectory() as scratch:
        train(config, f"{scratch}/run", on_progress=lambda p: marks.append((cpu_s(), dict(p.metrics or {}))))
    seen = [(at, metrics) for at, metrics in marks if "train/tokens" in metrics]
    last = seen[-1][1]
    report(
        model_folder.width_of(folder),
        step_cpu_s=median([after[0] - before[0] for before, after in pairwise(seen)]),
        samples=prompts * group,
        sampled_tokens=last["train/tokens"] / (prompts * group),
        context_tokens=last["train/context_tokens"] / (prompts * group),
        turns=last.get("rollout/turns_mean"),
        sample_s=median([metrics["time/sample_s"] for _, metrics in seen]),
        learn_s=median([metrics["time/learn_s"] for _, metrics in seen]),
        mismatch_nats=last.get("mismatch/nats"),
        versions={},
    )


if __name__ == "__main__":
    main()
