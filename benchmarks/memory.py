"""Peak memory of training a user's model by LoRA on a CPU: 100M random weights, a vocabulary of 150,000.

    python benchmarks/memory.py [FOLDER]      the figure that is kept: results/memory-2026-11.md

Makes a Qwen3-like folder, then trains two updates of warm start and two steps from reward on the bundled shop, in this
one process, and prints the peak of its resident memory as one JSON line.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentrl.config import load_config
from agentrl.policy import model_folder, tiny
from agentrl.training.plan import TrainConfig
from agentrl.training.train import train

VOCABULARY = 150_000
SETTINGS = """
[env]
id = "agentrl/Shop-v0"
[model]
path = {path}
max_context = 2048
slots = 8
lora = {{ rank = 16 }}
[sampling]
max_tokens = 64
[stages.warm_start]
kind = "supervise"
demonstrators = {{ oracle = 1.0 }}
num_episodes = 8
epochs = 1
batch_episodes = 4
learner = {{ lr = 2e-4, optimizer = "adamw", micro_batch_tokens = 1024, gradient_checkpointing = true }}
[stages.rl]
kind = "reinforce"
steps = 2
kl_coef = 0.01
entropy_coef = 0.01
playing = {{ prompts_per_step = 2, group_size = 4 }}
learner = {{ lr = 1e-5, micro_batch_tokens = 1024, gradient_checkpointing = true }}
[run]
evaluate_every = 0
tensorboard = false
"""


def peak_gib() -> float:
    """The most resident memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def make_folder(folder: Path) -> float:
    """Write the model. Returns: millions of weights."""
    texts = ["the shop sells items by name and price, in a list of json values " * 4]
    _, tokenizer = tiny.build_tiny(texts, seed=0, vocab_size=512, show_tools=True, hidden_size=32, num_layers=1)
    tokenizer.add_tokens([f"<word{number}>" for number in range(VOCABULARY - len(tokenizer))])
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model_folder.save(folder, model, tokenizer)
    return sum(p.numel() for p in model.parameters()) / 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "model"
        marks: dict[str, float] = {}
        if not (folder / "config.json").exists():
            marks["weights_m"] = make_folder(folder)
        marks["peak_gib_before"] = peak_gib()
        settings = Path(scratch) / "run.toml"
        settings.write_text(SETTINGS.format(path=json.dumps(str(folder))))
        started = time.process_time()
        train(
            load_config(TrainConfig, settings),
            Path(scratch) / "run",
            on_progress=lambda at: marks.__setitem__(f"peak_gib_{at.stage}_{at.step}", peak_gib()),
        )
        marks |= {"peak_gib": peak_gib(), "cpu_s": time.process_time() - started}
        print(json.dumps({name: round(value, 2) for name, value in marks.items()}))


if __name__ == "__main__":
    main()
