"""Peak memory of the head over one long row: measured, beside what weights, gradients, hidden states and a chunk take.

    python benchmarks/long_row.py [--tokens 4096] [--vocabulary 150000] [--hidden 512]

The gradient of a model of one layer on one row, all of whose tokens train. Printed: how much the process grew over its
loaded model, what was predicted, and the difference, which should be at most one more chunk.
"""

from __future__ import annotations

import argparse
import json
import resource

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentrl.learning.head import _CHUNK_NUMBERS
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import weighted
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.regularizers import EntropyBonus
from agentrl.learning.rows import Row, with_coefficients

FLOAT_BYTES = 4
MIB = 2**20
STATES_OF_A_LAYER = 16
"""Arrays of the size of the hidden states that one layer keeps for its backward pass, roughly."""


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def model_of(vocabulary: int, hidden: int) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        tie_word_embeddings=False,
        max_position_embeddings=8192,
    )
    return Qwen3ForCausalLM(config)


def row_of(tokens: int, vocabulary: int) -> Row:
    rng = np.random.default_rng(0)
    mask = np.arange(tokens) > 0
    values = {"advantages": rng.normal(size=tokens), "old_logprobs": np.full(tokens, -np.log(vocabulary))}
    return Row.of(rng.integers(1, vocabulary, tokens), mask, **{n: v.astype(np.float32) for n, v in values.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--hidden", type=int, default=512)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = model_of(given.vocabulary, given.hidden)
    objective = weighted([(1.0, PPOClip()), (0.01, EntropyBonus())])
    settings = LearnerSettings(lr=0.0, measure_share=0.0, max_grad_norm=0.0, micro_batch_tokens=given.tokens)
    learner = Learner(model, settings, objective)
    rows = with_coefficients([row_of(given.tokens, given.vocabulary)], "token")
    before = peak_mib()
    with learner._update_mode():  # without the optimizer's state, which is not of this measurement
        for laid_out in learner.layouts.of(rows):
            learner._add_gradient(laid_out, 1.0, objective)
    weights = sum(p.numel() for p in model.parameters()) * FLOAT_BYTES / MIB
    predicted = {
        "gradients": weights,
        "hidden_states": STATES_OF_A_LAYER * given.tokens * given.hidden * FLOAT_BYTES / MIB,
        "chunk_and_its_gradient": 2 * _CHUNK_NUMBERS * FLOAT_BYTES / MIB,
    }
    grown, expected = peak_mib() - before, sum(predicted.values())
    result = {
        "weights_mib": weights,
        "loaded_mib": before,
        "grown_mib": grown,
        **{f"predicted_{name}_mib": value for name, value in predicted.items()},
        "predicted_mib": expected,
        "beyond_in_chunks": (grown - expected) / (_CHUNK_NUMBERS * FLOAT_BYTES / MIB),
        "all_logits_would_take_mib": given.tokens * given.vocabulary * FLOAT_BYTES / MIB,
    }
    print(json.dumps({name: round(value, 1) for name, value in result.items()}, indent=1))


if __name__ == "__main__":
    main()
