"""Training steps of TRL on the planned model: python train_trl.py MODEL DTYPE STEPS PROMPTS GROUP TURNS."""

from __future__ import annotations

import os

os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import random
import sys
import tempfile
from itertools import pairwise
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from words import cpu_s, median, report, text

PROMPT_WORDS, RESULT_WORDS, MOST_TOKENS = 40, 12, 64


class Env:
    """TRL's form of the environment."""

    def __init__(self) -> None:
        self.calls = 0

    def reset(self, **kwargs: Any) -> None:
        self.calls = 0

    def lookup(self, key: str) -> str:
        """Look something up.

        Args:
            key: The key.
        """
        self.calls += 1
        return text(self.calls, RESULT_WORDS)


class Marks(TrainerCallback):  # type: ignore[misc]
    """CPU seconds at the end of each step."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.at.append(cpu_s())


def main() -> None:
    folder, dtype, steps, prompts, group, turns = sys.argv[1], sys.argv[2], *(int(a) for a in sys.argv[3:7])
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [{"prompt": [{"role": "user", "content": text(i, PROMPT_WORDS)}]} for i in range(prompts * steps * 2)]
    marks = Marks()
    with tempfile.TemporaryDirectory() as scratch:
        settings = GRPOConfig(
            output_dir=scratch, use_cpu=True, bf16=dtype == "bfloat16", gradient_checkpointing=False,
            per_device_train_batch_size=prompts * group, num_generations=group, max_steps=steps,
            max_completion_length=turns * (MOST_TOKENS + 60 + 8 * RESULT_WORDS), learning_rate=1e-12,
            lr_scheduler_type="constant", beta=0.0, temperature=1.0, logging_steps=1, save_strategy="no",
            report_to="none", max_tool_calling_iterations=turns - 1, disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=model, reward_funcs=lambda completions, **more: [random.random() for _ in completions],
            args=settings, train_dataset=Dataset.from_list(asked), processing_class=tokenizer,
            environment_factory=Env, callbacks=[marks],
        )  # fmt: skip
        trainer.train()
    logs = [line for line in trainer.state.log_history if "completions/mean_length" in line]
    report(
        model.config.hidden_size,
        step_cpu_s=median([after - before for before, after in pairwise(marks.at)]),
        samples=prompts * group,
        completion_tokens=logs[-1]["completions/mean_length"],
        calls=logs[-1].get("tools/call_frequency"),
        versions={"trl": trl.__version__},
    )


if __name__ == "__main__":
    main()
