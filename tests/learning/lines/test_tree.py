"""Tree batches: each token sees its own row alone, prefixes stand once, and the gradient is that of separate rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from agentrl.learning.batches import MicroBatch, Paths, pad
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.lines.proof import attention_window, why_no_tree
from agentrl.learning.lines.tree import tree
from agentrl.learning.objectives.base import Total
from agentrl.learning.objectives.gspo import GSPO
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.preference import DPO
from agentrl.learning.objectives.value import Value
from agentrl.learning.rows import Row, with_coefficients
from agentrl.policy import adapters
from tests.learning.fixtures import one_thread

__all__ = ["one_thread"]

STILL: dict[str, Any] = {"lr": 0.0, "max_grad_norm": 0.0, "measure_share": 0.0}
SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip
GATED: dict[str, Any] = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
READ: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GATED)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GATED, sliding_window=None)),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**GATED, sliding_window=128)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GATED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GATED, head_dim=8)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**GATED)),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**GATED)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**GATED, head_dim=8, sliding_window=128)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, intermediate_size=48)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=256)),
}
NOT_READ: dict[str, Any] = {
    "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=4)),
    "rwkv": lambda: RwkvForCausalLM(RwkvConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, context_length=64)),
}


def random_tree(
    rng: np.random.Generator, count: int = 12, depth: int = 4, trajectories: int = 6, trained: float = 0.5
) -> list[Row]:
    """Rows whose beginnings are those of others, some of them whole."""
    rows: list[Row] = []
    for number in range(count):
        ids = rng.integers(1, 50, rng.integers(2, 12))
        for _ in range(rng.integers(0, depth)):
            if rows:
                other = rows[rng.integers(len(rows))].ids
                ids = np.concatenate(
                    [other[: rng.integers(1, len(other) + 1)], rng.integers(1, 50, rng.integers(0, 5))]
                )
        mask = rng.random(len(ids)) < trained
        mask[0] = False
        numbers = rng.normal(size=(3, len(ids)))
        rows.append(
            Row.of(
                ids,
                mask,
                trajectory=number % trajectories,
                unit=number % trajectories,
                advantages=numbers[0],
                old_logprobs=numbers[1] - 3,
                returns=numbers[2],
            )
        )
    return rows


def contexts(batch: MicroBatch) -> list[tuple[tuple[int, ...], int, int, int]]:
    """What each trained token is predicted from: the tokens that its place sees, target, row and unit."""
    flat, width, found = batch.ids.reshape(-1), batch.ids.shape[1], []
    sees = seen_by_place(batch)
    for n, place in enumerate(batch.index):
        before = np.arange(place - place % width, place + 1) if sees is None else sees[int(place)]
        source = batch.sources[batch.rows[n]]
        found.append((tuple(flat[before].tolist()), int(batch.targets[n]), source, int(batch.units[n])))
    return found


def causal(keys: Any) -> Any:
    return np.tile(np.tri(keys.shape[1], dtype=bool), (len(keys), 1, 1))


def attended(paths: Paths) -> list[tuple[Any, Any]]:
    """Each query's place in the line, and the places that it attends to."""
    return [
        (branches.queries[row, m], branches.keys[row][seen[row, m]])
        for branches in paths.branches
        for seen in [causal(branches.keys) if branches.seen is None else branches.seen]
        for row, m in np.ndindex(branches.queries.shape)
    ]


def seen_by_place(batch: MicroBatch) -> list[Any] | None:
    """For each token of a tree's line the places that it attends to, in order."""
    if batch.paths is None:
        return None
    assert batch.positions is not None
    every = attended(batch.paths)
    own = [every[place] for place in batch.paths.owners]
    assert [int(place) for place, _ in own] == list(range(batch.ids.shape[1]))
    for place, before in own:
        assert before[-1] == place
        assert batch.positions[0, before].tolist() == list(range(len(before)))
    return [before for _, before in own]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 90), st.sampled_from(["row", "trajectory"]))
def test_every_trained_token_sees_exactly_its_row_before_it(seed: int, max_tokens: int, keep: Any) -> None:
    rows = random_tree(np.random.default_rng(seed))
    found: list[tuple[Any, ...]] = []
    for batch in tree(rows, max_tokens, keep):
        own = contexts(batch)
        found += [(context, target, source) for context, target, source, _ in own]
        units = {source: unit for _, _, source, unit in own}
        key = {source: rows[source].trajectory if keep == "trajectory" else source for source in units}
        assert len({(units[s], key[s]) for s in units}) == len(set(units.values())) == len(set(key.values()))
        if batch.distinct is not None:
            distinct = batch.distinct
            assert (distinct.places[distinct.place_of][distinct.number_of] == batch.index).all()
            assert (distinct.targets[distinct.number_of] == batch.targets).all()
            assert len(set(distinct.places.tolist())) == len(distinct.places)
    expected = [
        (tuple(row.ids[:place].tolist()), int(row.ids[place]), number)
        for number, row in enumerate(rows)
        for place in np.flatnonzero(row.mask)
    ]
    assert sorted(found) == sorted(expected)
    if keep == "trajectory":
        batches = [{rows[s].trajectory for s in batch.sources} for batch in tree(rows, max_tokens, keep)]
        assert sum(map(len, batches)) == len(set().union(*batches)) if batches else True


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from([0.05, 0.3, 1.0]))
def test_a_layer_that_is_asked_at_some_places_sees_the_same_there(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    for batch in tree(random_tree(rng), 90):
        if batch.paths is None:
            continue
        places = np.flatnonzero(rng.random(batch.ids.shape[1]) < share)
        whole, part = batch.paths, batch.paths.at(places)
        every, fewer = attended(whole), attended(part)
        assert len(fewer) <= len(every)
        assert all(branches.queries.shape[1] for branches in part.branches)
        for place in places:
            query, seen = fewer[part.owners[place]]
            assert query == place
            assert seen.tolist() == every[whole.owners[place]][1].tolist()


def test_a_layer_that_is_asked_at_few_places_computes_few() -> None:
    prompt = list(range(1, 41))
    rows = [Row.of([*prompt, 41 + n, *range(30), 42], [False] * 71 + [True]) for n in range(6)]
    (batch,) = tree(rows, 500)
    assert batch.paths is not None
    assert len(attended(batch.paths)) > 200
    assert len(attended(batch.paths.at(batch.index))) == 6


def test_a_common_prefix_stands_once_and_rows_that_share_nothing_are_padded() -> None:
    prompt = list(range(1, 41))
    rows = [Row.of([*prompt, 41 + n, 42], [False] * 40 + [True, True]) for n in range(6)]
    (batch,) = tree(rows, 500)
    assert batch.ids.shape == (1, 46)
    assert batch.paths is not None
    assert batch.distinct is not None
    assert len(batch.distinct.places) == 7
    apart = [Row.of([n, *prompt], [False] + [True] * 40) for n in range(6)]
    assert [b.ids.shape for b in tree(apart, 500)] == [b.ids.shape for b in pad(apart, 500)]
    assert tree([], 10) == []


def test_micro_batches_are_bounded_in_distinct_tokens_and_in_rows() -> None:
    prompt = list(range(1, 33))
    rng = np.random.default_rng(0)
    rows = [Row.of([*prompt, *rng.integers(1, 50, 30)], [False] * 32 + [True] * 30) for _ in range(64)]
    batches = tree(rows, 400)
    assert len(batches) > 2
    assert max(batch.num_tokens for batch in batches) <= 400
    assert max(sum(map(len, batch.laid)) for batch in tree([rows[0]] * 64, 50)) <= 8 * 50 + 64
    assert len(tree([rows[0]] * 64, 50)) > 1


async def gradients(model: Any, rows: list[Row], objective: Any, layout: Any, **more: Any) -> dict[str, torch.Tensor]:
    learner = Learner(model, LearnerSettings(**STILL, layout=layout, **more), objective)
    if "reference_logprobs" in objective.columns:
        rows = await learner.fill(rows, "reference_logprobs")
    if "values" in objective.needs:
        assert learner.models.value_head is not None
        torch.nn.init.normal_(learner.models.value_head.weight, generator=torch.Generator().manual_seed(0))
        rows = await learner.fill(rows, "values")
    await learner.update(rows, objective)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    scale = max(float(g.abs().max()) for g in right.values())
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in right) / scale


def model_of(kind: str, made: dict[str, Any] = READ) -> Any:
    torch.manual_seed(0)
    model = made[kind]().double()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.1)
    return model


@pytest.mark.parametrize("kind", READ)
async def test_the_gradient_of_every_family_is_that_of_separate_rows(kind: str) -> None:
    model = model_of(kind)
    rows = with_coefficients(random_tree(np.random.default_rng(1), count=16), "token")
    assert why_no_tree(model) == ""
    assert any(batch.paths is not None for batch in tree(rows, 200))
    expected = await gradients(model, rows, PPOClip(), "pad")
    for tokens in (60, 2048):
        assert difference(await gradients(model, rows, PPOClip(), "tree", micro_batch_tokens=tokens), expected) < 1e-6


@pytest.mark.parametrize("kind", READ)
async def test_the_gradient_is_the_same_where_few_tokens_train(kind: str) -> None:
    model = model_of(kind)
    rows = with_coefficients(random_tree(np.random.default_rng(2), count=16, trained=0.1), "token")
    expected = await gradients(model, rows, PPOClip(), "pad")
    assert difference(await gradients(model, rows, PPOClip(), "tree"), expected) < 1e-6


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["gspo", "dpo", "ppo with values"])
async def test_objectives_over_units_and_values_have_the_same_gradient(name: str, seed: int) -> None:
    model = model_of("qwen3")
    objective: Any = {
        "gspo": GSPO(),
        "dpo": DPO(),
        "ppo with values": Total(((1.0, PPOClip()), (0.5, Value()))),
    }[name]
    rows = random_tree(np.random.default_rng(seed), count=12)
    if name == "dpo":
        rows = [
            row.with_columns(sign=np.where(row.mask, 1.0 if n < 6 else -1.0, 0).astype(np.float32))
            for n, row in enumerate(rows)
            if row.mask.any()
        ]
    rows = with_coefficients(rows, "sequence")
    expected = await gradients(model, rows, objective, "pad", micro_batch_tokens=10_000)
    assert difference(await gradients(model, rows, objective, "tree", micro_batch_tokens=90), expected) < 1e-6


async def test_checkpointed_layers_and_a_short_window_change_nothing() -> None:
    rows = with_coefficients(random_tree(np.random.default_rng(3), count=16), "token")
    model = model_of("llama")
    expected = await gradients(model, rows, PPOClip(), "pad")
    assert difference(await gradients(model, rows, PPOClip(), "tree", gradient_checkpointing=True), expected) < 1e-6
    short = {"short": lambda: MistralForCausalLM(MistralConfig(**GATED, sliding_window=4))}
    model = model_of("short", short)
    assert attention_window(model) == 4
    expected = await gradients(model, rows, PPOClip(), "pad")
    assert difference(await gradients(model, rows, PPOClip(), "tree"), expected) < 1e-6


@pytest.mark.parametrize("kind", NOT_READ)
async def test_a_model_that_cannot_read_a_tree_gets_its_rows_one_by_one(kind: str, caplog: Any) -> None:
    model = model_of(kind, NOT_READ).float()
    rows = with_coefficients(random_tree(np.random.default_rng(1), count=6), "token")
    assert type(model).__name__ in why_no_tree(model)
    expected = await gradients(model, rows, PPOClip(), "pad")
    with caplog.at_level("INFO"):
        assert difference(await gradients(model, rows, PPOClip(), "tree"), expected) < 1e-6
    assert "go through the model one by one" in caplog.text


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
async def test_attention_implementations_agree(kind: str, attention: str) -> None:
    """The eager softmax of `transformers` is in float32 even for a float64 model."""
    model = model_of(kind)
    rows = with_coefficients(random_tree(np.random.default_rng(5), count=10), "token")
    expected = await gradients(model, rows, PPOClip(), "pad", attention=attention)
    assert difference(await gradients(model, rows, PPOClip(), "tree", attention=attention), expected) < 1e-5


async def test_adapters_have_the_gradient_of_separate_rows() -> None:
    rows = with_coefficients(random_tree(np.random.default_rng(1), count=12), "token")
    torch.manual_seed(0)
    adapted = model_of("llama")
    adapters.add(adapted, rank=4, alpha=8.0)
    adapted.double()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    assert why_no_tree(adapted) == ""
    expected = await gradients(adapted, rows, PPOClip(), "pad")
    assert expected
    assert all("lora" in name for name in expected)
    assert difference(await gradients(adapted, rows, PPOClip(), "tree"), expected) < 1e-6
