"""Sampling on a GPU: what is recorded is the model's own, whatever is batched."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from agentrl.errors import ModelError
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.scheduler import Engine, EngineOptions
from agentrl.policy.tiny import build_tiny
from tests.gpu.conftest import DEVICE
from tests.policy.engine.test_scheduler import FREE, GREEDY, engine_of, prompts, turns

TEXTS = [f"the price of item {number} is {number * 7}" for number in range(200)]
LENGTHS = {"short": (5, 40), "of several tiles": (100, 150)}


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    model, tokenizer = build_tiny(TEXTS, seed=3, vocab_size=300)
    return model.to(DEVICE).eval(), tokenizer


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("slots", "prefill_tokens"), [(2, 16384), (5, 60), (32, 16384)])
async def test_logprobs_are_a_full_forwards(
    tiny: tuple[Any, Any], lean: bool, lengths: str, slots: int, prefill_tokens: int
) -> None:
    engine = engine_of(tiny, slots=slots, prefill_tokens=prefill_tokens, lean=lean, context=400)
    low, high = LENGTHS[lengths]
    shared = prompts(3, low=low, high=high)
    episodes = await asyncio.gather(*(turns(engine, f"e{i}", shared[i % 3], 4, FREE) for i in range(9)))
    for prompt, done in (turn for one in episodes for turn in one):
        ids = torch.tensor([[*prompt, *done.ids]], device=DEVICE)
        with torch.no_grad():
            logprobs = torch.log_softmax(tiny[0](ids).logits[0].double(), -1)
        expected = [logprobs[len(prompt) - 1 + at, token].item() for at, token in enumerate(done.ids)]
        assert list(done.logprobs) == pytest.approx(expected, abs=1e-4)


async def test_greedy_turns_are_those_of_a_cpu(tiny: tuple[Any, Any]) -> None:
    on_cpu, tokenizer = build_tiny(TEXTS, seed=3, vocab_size=300)
    asked = prompts(8, seed=3)
    found = []
    for model in (on_cpu.eval(), tiny[0]):
        engine = engine_of((model, tokenizer), slots=4)
        done = await asyncio.gather(*(engine.sample(str(i), prompt, GREEDY, 0) for i, prompt in enumerate(asked)))
        found.append([one.ids for one in done])
    assert found[0] == found[1]


def test_exact_sampling_is_refused(tiny: tuple[Any, Any]) -> None:
    """Shapes that passed the trial of bfloat16 on an H200 gave other bits among other neighbours."""
    if DEVICE == "cpu":
        pytest.skip("it is known to be possible on a CPU")
    options = EngineOptions(exact=True)
    with pytest.raises(ModelError, match="known for a CPU alone"):
        Engine(tiny[0], stop_ids=frozenset(), decode=tiny[1].decode, options=options)
    assert not Engine(tiny[0], stop_ids=frozenset(), decode=tiny[1].decode).exact


async def test_truncated_distributions_are_those_of_the_logits(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny, slots=4)
    prompt = prompts(1)[0]
    cut = SamplingParams(temperature=0.7, top_p=0.6, top_k=5, max_tokens=8)
    done = await engine.sample("cut", prompt, cut, 5)
    context = list(prompt)
    for token, logprob in zip(done.ids, done.logprobs, strict=True):
        with torch.no_grad():
            logits = tiny[0](torch.tensor([context], device=DEVICE)).logits[0, -1].double() / 0.7
        values, order = logits.topk(5)
        kept = values.softmax(-1)
        kept = kept[(kept.cumsum(-1) - kept) < 0.6]
        place = order.tolist().index(token)
        assert place < len(kept)
        assert logprob == pytest.approx((kept / kept.sum())[place].log().item(), abs=1e-4)
        context.append(token)
