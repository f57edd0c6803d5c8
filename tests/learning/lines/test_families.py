"""Tree batches over families of models and random trees: the gradient of separate rows, or a refusal that says why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.learning.lines.proof import why_no_tree
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.rows import with_coefficients
from tests.learning.fixtures import one_thread
from tests.learning.lines.test_tree import GATED, SIZES, difference, gradients, random_tree

__all__ = ["one_thread"]

READ: dict[str, dict[str, Any]] = {
    "Llama": GATED,
    "Mistral": {**GATED, "sliding_window": None},
    "Qwen2": GATED,
    "Qwen3": {**GATED, "head_dim": 8},
    "Phi3": GATED,
    "Olmo2": GATED,
    "Gemma2": {**GATED, "head_dim": 8, "sliding_window": 128},
    "GPTNeoX": {**SIZES, "intermediate_size": 48},
    "Granite": GATED,
    "Cohere": GATED,
    "Starcoder2": {**GATED, "sliding_window": None},
    "StableLm": GATED,
    "SmolLM3": GATED,
    "Phi": GATED,
    "Glm": {**GATED, "head_dim": 8},
    "OPT": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
}
NOT_READ: dict[str, dict[str, Any]] = {
    "Mamba": {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "Rwkv": {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64},
    "FalconMamba": {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "Bloom": {"vocab_size": 50, "hidden_size": 32, "n_layer": 2, "n_head": 4},
}


@cache
def model_of(family: str) -> Any:
    config = {**READ, **NOT_READ}[family]
    torch.manual_seed(0)
    made: Callable[..., Any] = getattr(transformers, f"{family}ForCausalLM")
    model = made(getattr(transformers, f"{family}Config")(**config)).double().eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.1)
    return model


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(READ)), st.integers(0, 2**40), st.integers(2, 14), st.integers(1, 5))
def test_the_gradient_of_a_random_tree_is_that_of_its_rows(family: str, seed: int, count: int, depth: int) -> None:
    model = model_of(family)
    rows = random_tree(np.random.default_rng(seed), count, depth)
    if not any(row.mask.any() for row in rows):
        return
    rows = with_coefficients(rows, "token")
    expected, found = (asyncio.run(gradients(model, rows, PPOClip(), layout)) for layout in ("pad", "tree"))
    if any(bool(gradient.any()) for gradient in expected.values()):
        assert difference(found, expected) < 1e-6
    else:  # every ratio was clipped
        assert not any(bool(gradient.any()) for gradient in found.values())


@pytest.mark.parametrize("family", READ)
def test_the_family_reads_trees(family: str) -> None:
    assert why_no_tree(model_of(family)) == ""


@pytest.mark.parametrize("family", NOT_READ)
def test_the_family_is_refused_by_name(family: str) -> None:
    assert f"{family}ForCausalLM" in why_no_tree(model_of(family).float())
