"""Exact sampling: the bits of a turn do not depend on what else is sampled, in which order, or in which slot."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.errors import ModelError
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine import exact
from agentrl.policy.engine.scheduler import Engine, EngineOptions
from agentrl.policy.tiny import build_tiny

Bits = list[tuple[tuple[int, ...], tuple[float, ...]]]
_TEXTS = [f"the price of item {number} is {number * 7}" for number in range(200)]


def model_of(**config: Any) -> tuple[Any, Any]:
    dtype = config.pop("dtype", torch.float32)
    model, tokenizer = build_tiny(_TEXTS, seed=3, **{"vocab_size": 300, **config})
    return model.to(dtype), tokenizer


async def episode(engine: Engine, number: int, gate: asyncio.Semaphore, temperature: float) -> Bits:
    """Three turns; some episodes begin alike, and others truncate the distribution."""
    rng, most = np.random.default_rng(number % 3), engine.model.config.vocab_size
    context = rng.integers(9, most, int(rng.integers(20, 430))).tolist()
    seen: Bits = []
    async with gate:
        for turn in range(3):
            await asyncio.sleep(0)
            top_p, top_k = (0.9, 0) if number % 3 == 1 else (1.0, 20 if number % 4 == 2 else 0)
            sampling = SamplingParams(temperature, top_p=top_p, top_k=top_k, max_tokens=9)
            done = await engine.sample(f"e{number}", context, sampling, seed=100 * number + turn)
            seen.append((done.ids, done.logprobs))
            more = np.random.default_rng((number, turn)).integers(9, most, 1 + 13 * turn)
            context = [*context, *done.ids, *more.tolist()]
        engine.release(f"e{number}")
    return seen


async def sampled(
    tiny: tuple[Any, Any], concurrency: int, *, slots: int = 64, backwards: bool = False, temperature: float = 1.0
) -> list[Bits]:
    model, tokenizer = tiny
    options = EngineOptions(slots=slots, context=600, exact=True)
    engine = Engine(model, stop_ids=frozenset(), decode=tokenizer.decode, options=options)
    gate, numbers = asyncio.Semaphore(concurrency), range(12)
    order = list(reversed(numbers)) if backwards else list(numbers)
    found = await asyncio.gather(*(episode(engine, number, gate, temperature) for number in order))
    return list(reversed(found)) if backwards else found


# Query heads that share a key head, widths of heads, sizes of vocabularies that no vector register divides.
_MODELS = {
    "tiny": {},
    "no shared heads": {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4},
    "three share": {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "vocab_size": 289},
    "wide heads": {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1},
    "bfloat16": {"dtype": torch.bfloat16},
}


@pytest.mark.parametrize("name", _MODELS)
async def test_turns_are_the_same_bits_whatever_is_sampled_at_the_same_time(name: str) -> None:
    tiny = model_of(**_MODELS[name])
    alone = await sampled(tiny, 1)
    assert await sampled(tiny, 12, backwards=True) == alone
    assert await sampled(tiny, 5, slots=3) == alone  # prefixes are copied, slots are lost and filled again


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Gives torch a number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def engine_of(tiny: tuple[Any, Any], *, exactly: bool | None = True) -> Engine:
    options = EngineOptions(slots=4, context=600, exact=exactly)
    return Engine(tiny[0], stop_ids=frozenset(), decode=tiny[1].decode, options=options)


async def test_a_number_of_threads_that_divides_no_batch_evenly(threads: Callable[[int], None]) -> None:
    """The ends of the threads' shares are in the middle of rows, where elementwise kernels compute otherwise."""
    threads(3)
    wide = model_of(intermediate_size=1376, vocab_size=289)
    assert await sampled(wide, 12, backwards=True) == await sampled(wide, 1)


async def test_a_later_change_of_the_threads_is_noticed(threads: Callable[[int], None]) -> None:
    tiny, prompt, sampling = model_of(intermediate_size=1376, vocab_size=289), list(range(9, 200)), SamplingParams()
    threads(1)
    engine = engine_of(tiny)
    first = await engine.sample("e", prompt, sampling, seed=1)
    context = [*prompt, *first.ids]
    threads(3)
    after = await engine.sample("e", context, sampling, seed=2)
    assert after.cached == 0  # no keys and values of other threads
    assert after == await engine_of(tiny).sample("e", context, sampling, seed=2)
    assert (await engine.sample("e", context, sampling, seed=2)).cached == len(context) - 1


async def test_threads_that_change_within_a_turn(threads: Callable[[int], None]) -> None:
    threads(1)
    engine = engine_of(model_of())
    done = await engine.sample(
        "e", list(range(9, 40)), SamplingParams(max_tokens=9), seed=1, on_token=lambda *token: threads(2)
    )
    assert len(done.ids) == 9


async def test_threads_without_exact_shapes_are_refused_or_told(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_for_three(shape: exact.AttentionShape) -> int:
        if shape.threads == 3:
            raise exact.NotExact("three threads")
        return query_rows(shape)

    query_rows = exact._query_rows
    monkeypatch.setattr(exact, "_query_rows", none_for_three)
    exact.exact_shapes.cache_clear()
    tiny, prompt, sampling = model_of(), list(range(9, 40)), SamplingParams(max_tokens=3)
    threads(1)
    strict, free = engine_of(tiny), engine_of(tiny, exactly=None)
    before = await strict.sample("e", prompt, sampling, seed=1)
    threads(3)
    with pytest.raises(ModelError, match="three threads"):
        await strict.sample("e", prompt, sampling, seed=1)
    assert len((await free.sample("e", prompt, sampling, seed=1)).ids) == 3
    assert (strict.exact, free.exact) == (True, False)
    assert "has 3 threads now, and had 1" in caplog.text
    threads(1)
    assert (await strict.sample("e", prompt, sampling, seed=1)).logprobs == before.logprobs
    exact.exact_shapes.cache_clear()


async def test_at_high_temperature_and_for_greedy_turns() -> None:
    tiny = model_of()
    for temperature in (2.5, 0.0):
        alone = await sampled(tiny, 1, temperature=temperature)
        assert await sampled(tiny, 12, temperature=temperature) == alone


async def test_a_changed_weight_is_seen() -> None:
    tiny = model_of()
    before = await sampled(tiny, 12)
    with torch.no_grad():
        tiny[0].model.layers[1].mlp.down_proj.weight.mul_(1.001)
    assert await sampled(tiny, 12) != before


async def test_adapters_are_exact_too() -> None:
    peft = pytest.importorskip("peft")
    model, tokenizer = model_of()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    tiny = adapted.base_model.model.eval(), tokenizer
    assert await sampled(tiny, 12) == await sampled(tiny, 1)


def test_what_cannot_be_exact_is_refused_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = model_of()

    def engine(**options: Any) -> Engine:
        sizes = EngineOptions(slots=2, context=64, **options)
        return Engine(model, stop_ids=frozenset(), decode=tokenizer.decode, options=sizes)

    assert engine().exact
    assert not engine(exact=False).exact
    assert not engine(lean=False).exact
    with pytest.raises(ModelError, match="Leave out"):
        engine(lean=False, exact=True)
    with pytest.raises(ModelError, match="the model is on meta"):
        Engine(copy.deepcopy(model).to("meta"), stop_ids=frozenset(), decode=str, options=EngineOptions(exact=True))
    monkeypatch.setattr(exact, "_FEWEST_QUERIES", ())
    exact.exact_shapes.cache_clear()
    assert not engine().exact
    with pytest.raises(ModelError, match="depends on the number of queries"):
        engine(exact=True)
    exact.exact_shapes.cache_clear()


def test_batches_are_filled_up_to_the_least_rows_that_all_layers_take(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = {(64, 64): (4, 12, 16, 32), (96, 64): (4, 8, 16, 32, 48), (64, 96): (2, 4, 16)}
    monkeypatch.setattr(exact, "row_sizes", lambda product, like, draws: alike[tuple(product(like[:1]).shape)[1:]])
    monkeypatch.setattr(exact, "_trial_of", lambda layer: (lambda x: layer.weight[None, :, :], 1))
    shape = exact.AttentionShape(2, 2, 32, 256, torch.float32, torch.device("cpu"), torch.get_num_threads())
    shapes = exact.ExactShapes(shape)
    assert [shapes.rows(count) for count in (1, 16, 17)] == [16, 16, 32]  # nothing is known yet
    layers = [torch.nn.Linear(width, size) for size, width in alike]
    for layer in layers:
        shapes.linear(layer, torch.randn(16, layer.in_features))
    assert [shapes.rows(count) for count in (1, 4, 5, 16, 17, 40)] == [4, 4, 16, 16, 32, 48]
    x = torch.randn(12, 96)
    assert shapes.linear(layers[2], x).shape == (12, 64)  # which the layer does not take by itself


def test_a_width_that_fills_no_register_keeps_whole_tiles() -> None:
    shapes = exact.ExactShapes(
        exact.AttentionShape(1, 1, 12, 256, torch.float32, torch.device("cpu"), torch.get_num_threads())
    )
    shapes.linear(torch.nn.Linear(12, 12), torch.randn(16, 12))
    assert [shapes.rows(count) for count in (1, 17)] == [16, 32]


def test_a_product_that_depends_on_its_neighbours_is_found() -> None:
    weight = torch.randn(8, 8)
    like = torch.zeros(0, 8)

    def spoilt(x: torch.Tensor) -> torch.Tensor:
        return x @ weight + (1e-6 if len(x) == 48 else 0.0)

    sizes = exact.row_sizes(spoilt, like)
    assert 48 not in sizes
    assert {16, 32} <= set(sizes)
    assert exact.parts_of(112, [16, 32, 64]) == [64, 32, 16]
    with pytest.raises(exact.NotExact):
        exact.row_sizes(lambda x: x + x[:1], like)
