"""Updates on a GPU are those of a CPU, and take no more memory than is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentrl.learning.head import _CHUNK_NUMBERS
from agentrl.learning.learner import Learner
from agentrl.learning.objectives.base import weighted
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.regularizers import EntropyBonus
from agentrl.learning.parallel.ranks import Ranks
from agentrl.learning.rows import Row, with_coefficients
from tests.gpu.conftest import DEVICE
from tests.learning.fixtures import model_of, rows_of
from tests.learning.parallel.test_ranks import difference
from tests.learning.parallel.two_ranks import GRADIENTS, PPO, STEPS, STILL, UPDATES, Case, Outcome, outcome_of

ROUNDED = 1e-5
"""Of the largest entry. Columns of rows are float32, and muon orthogonalises in float32: 6e-6 was seen on an H200."""
COUNTED = ("preference/accuracy",)
"""Counts of ties: a margin that is 0 but for rounding falls to either side."""
VOCABULARY, TOKENS, HIDDEN = 150_000, 4096, 512


async def on_gpu(case: Case) -> Outcome:
    """The outcome of a case, moved to the CPU."""
    found = await outcome_of(case, Ranks(), DEVICE)
    on_cpu = [{name: tensor.cpu() for name, tensor in group.items()} for group in (found.gradients, found.weights)]
    return replace(found, gradients=on_cpu[0], weights=on_cpu[1])


@pytest.mark.parametrize("name", GRADIENTS)
async def test_gradients_are_those_of_a_cpu(name: str) -> None:
    alone, found = await outcome_of(GRADIENTS[name], Ranks()), await on_gpu(GRADIENTS[name])
    assert difference(found.gradients, alone.gradients) < ROUNDED
    assert found.metrics == [pytest.approx(step, rel=1e-5, abs=1e-6) for step in alone.metrics]


@pytest.mark.parametrize("name", [name for name in UPDATES if name not in ("not finite", "bfloat16", "float32")])
async def test_updates_are_those_of_a_cpu(name: str) -> None:
    alone, found = await outcome_of(UPDATES[name], Ranks()), await on_gpu(UPDATES[name])
    assert difference(found.weights, alone.weights) < ROUNDED
    steps = [{key: value for key, value in step.items() if key not in COUNTED} for step in alone.metrics]
    assert [{key: step[key] for key in steps[0]} for step in found.metrics] == [
        pytest.approx(step, rel=1e-4, abs=1e-5) for step in steps
    ]


@pytest.mark.parametrize(("name", "most"), [("float32", 1e-3), ("bfloat16", 3e-2)])
async def test_updates_in_a_lower_precision_are_near_those_of_a_cpu(name: str, most: float) -> None:
    alone, found = await outcome_of(UPDATES[name], Ranks()), await on_gpu(UPDATES[name])
    assert difference(found.weights, alone.weights) < most
    assert found.metrics[0]["loss/policy"] == pytest.approx(alone.metrics[0]["loss/policy"], rel=0.05, abs=0.02)


async def test_an_infinite_gradient_is_skipped() -> None:
    found = await on_gpu(UPDATES["not finite"])
    assert [step["grad/skipped"] for step in found.metrics] == [1.0, 0.0]
    assert all(torch.isfinite(weight).all() for weight in found.weights.values())


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"autocast": True}, {"logit_chunk": 3}])
async def test_what_saves_memory_changes_no_gradient(changes: dict[str, object]) -> None:
    case = Case(PPOClip(), rows_of, STILL, dtype=torch.float32)
    plain, found = await on_gpu(case), await on_gpu(replace(case, settings=replace(STILL, **changes)))
    assert difference(found.gradients, plain.gradients) < (0.05 if "autocast" in changes else 1e-4)


@pytest.mark.parametrize("layout", ["pad", "pack"])
async def test_layouts_have_the_gradient_of_a_tree(layout: str) -> None:
    """Rows of a group that share a long prompt."""

    def group(seed: int) -> list[Row]:
        rng = np.random.default_rng(seed)
        prompt = rng.integers(0, 64, 80).tolist()
        rows = []
        for number in range(6):
            own = rng.integers(0, 64, 5 + 3 * number).tolist()
            mask = [False] * len(prompt) + [True] * len(own)
            columns = {"old_logprobs": np.full(len(mask), -4.0), "advantages": float(number - 2.5)}
            rows.append(Row.of(prompt + own, mask, trajectory=number, unit=number, **columns))
        return with_coefficients(rows, "token")

    shared = await on_gpu(Case(PPOClip(), group, replace(STILL, layout="tree")))
    plain = await on_gpu(Case(PPOClip(), group, replace(STILL, layout=layout)))
    assert difference(plain.gradients, shared.gradients) < 1e-6


def test_one_long_row_takes_one_chunk_of_logits_beyond_what_must_be_there() -> None:
    """Weights, gradients, hidden states of a layer, a chunk and its gradient; and at most a chunk more."""
    if DEVICE == "cpu":
        pytest.skip("the memory of a CPU is measured by benchmarks/long_row.py")
    torch.manual_seed(0)
    shape = {"hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_hidden_layers": 1, "head_dim": 64}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    config = Qwen3Config(
        vocab_size=VOCABULARY, **shape, **heads, tie_word_embeddings=False, max_position_embeddings=8192
    )
    model = Qwen3ForCausalLM(config).to(DEVICE)
    objective = weighted([(1.0, PPOClip()), (0.01, EntropyBonus())])
    learner = Learner(model, replace(STILL, measure_share=0.0, micro_batch_tokens=TOKENS), objective)
    rng = np.random.default_rng(0)
    columns = {
        "advantages": rng.normal(size=TOKENS).astype(np.float32),
        "old_logprobs": np.full(TOKENS, -np.log(VOCABULARY), np.float32),
    }
    row = Row.of(rng.integers(1, VOCABULARY, TOKENS), np.arange(TOKENS) > 0, **columns)
    with learner._update_mode():  # without the optimizer's state
        [laid_out] = learner.layouts.of(with_coefficients([row], "token"))
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        learner._add_gradient(laid_out, 1.0, objective)
    grown = torch.cuda.max_memory_allocated() - held
    gradients = sum(p.numel() * p.element_size() for p in model.parameters())
    states, chunk = 16 * 4 * TOKENS * HIDDEN, 4 * _CHUNK_NUMBERS
    assert grown <= gradients + states + 3 * chunk


async def test_one_rank_of_nccl_updates_as_one_process_does(tmp_path) -> None:  # type: ignore[no-untyped-def]
    if DEVICE == "cpu":
        pytest.skip("NCCL needs a GPU")
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        case = Case(PPO, settings=STEPS, steps=2, filled=("old_logprobs", "values"))
        found = await outcome_of(case, Ranks.of(), DEVICE)
    finally:
        dist.destroy_process_group()
    alone = await outcome_of(case, Ranks())
    assert difference({name: w.cpu() for name, w in found.weights.items()}, alone.weights) < 1e-6


def test_a_model_of_another_seed_is_another_model() -> None:
    """The yardstick of this file can tell models apart."""
    weights = [dict(model_of(seed=seed).named_parameters()) for seed in (0, 1)]
    assert difference(*weights) > 0.1
