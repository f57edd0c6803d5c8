"""Packed rows: a model that lets them see each other is refused before it trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM, OPTConfig, OPTForCausalLM, Qwen3Config, Qwen3ForCausalLM

from agentrl.errors import ModelError
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.lines.proof import check_packing
from agentrl.learning.objectives.supervised import Supervised

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    made: Any = {
        "qwen3": lambda: Qwen3ForCausalLM(
            Qwen3Config(**SIZES, intermediate_size=48, num_key_value_heads=2, head_dim=8)
        ),
        "opt": lambda: OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32)),
        "gpt_oss": lambda: GptOssForCausalLM(
            GptOssConfig(
                **SIZES,
                intermediate_size=48,
                num_key_value_heads=2,
                head_dim=8,
                num_local_experts=2,
                num_experts_per_tok=1,
            )
        ),
    }[kind]()
    for weight in made.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return made


def test_a_model_that_keeps_rows_apart_is_accepted_and_left_as_it_was() -> None:
    model = model_of("qwen3").train()
    check_packing(model)
    assert model.training


@pytest.mark.parametrize("kind", ["opt", "gpt_oss"])
def test_a_model_that_does_not_is_refused_with_what_to_set(kind: str) -> None:
    model = model_of(kind)
    with pytest.raises(ModelError, match='layout = "pad"'):
        Learner(model, LearnerSettings(layout="pack"), Supervised())
    Learner(model, LearnerSettings(layout="pad"), Supervised())
