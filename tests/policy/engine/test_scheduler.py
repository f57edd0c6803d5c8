"""The engine: exact against the model, whatever is batched, shared, evicted, cancelled or updated."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from agentrl.errors import ModelError
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.scheduler import Engine, EngineOptions

GREEDY = SamplingParams(temperature=0, max_tokens=12)
FREE = SamplingParams(max_tokens=12)


class Watched:
    """Counts what reaches the forward pass."""

    def __init__(self, engine: Engine) -> None:
        self.inner, self.prefilled, self.rounds, self.rows, self.new = engine.forward, 0, 0, [], []
        engine.forward = self  # type: ignore[assignment]

    def __call__(self, rows: Any, last: Any, prefills: Any) -> Any:
        self.rounds += 1
        self.rows.append(len(rows) + len(prefills))
        self.new.append(sum(len(ids) for _, ids in prefills))
        self.prefilled += self.new[-1]
        return self.inner(rows, last, prefills)


def engine_of(tiny: tuple[Any, Any], *, stop: bool = False, **options: Any) -> Engine:
    model, tokenizer = tiny
    stop_ids = frozenset([tokenizer.eos_token_id]) if stop else frozenset()
    sizes = {"slots": 4, "context": 200, **options}
    return Engine(model, stop_ids=stop_ids, decode=tokenizer.decode, options=EngineOptions(**sizes))


def prompts(count: int, *, seed: int = 0, low: int = 5, high: int = 40) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(9, 250, rng.integers(low, high)).tolist() for _ in range(count)]


def full_logprobs(model: Any, prompt: Sequence[int], ids: Sequence[int]) -> list[float]:
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([[*prompt, *ids]])).logits[0], -1)
    return [logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(ids)]


async def turns(engine: Engine, name: str, prompt: list[int], count: int, sampling: SamplingParams) -> list[Any]:
    """A multi-turn episode: (prompt, completion) of each turn; observations follow from the name."""
    rng = np.random.default_rng(sum(map(ord, name)))
    seen, context = [], list(prompt)
    for turn in range(count):
        await asyncio.sleep(0)
        done = await engine.sample(name, context, sampling, seed=100 * sum(map(ord, name)) + turn)
        seen.append((list(context), done))
        context += [*done.ids, *rng.integers(9, 250, rng.integers(1, 9)).tolist()]
    engine.release(name)
    return seen


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize(("slots", "prefill_tokens"), [(2, 16384), (5, 60), (32, 16384)])
async def test_logprobs_are_a_full_forwards(tiny: tuple[Any, Any], lean: bool, slots: int, prefill_tokens: int) -> None:
    engine = engine_of(tiny, slots=slots, prefill_tokens=prefill_tokens, lean=lean)
    shared = prompts(3)
    for episode in await asyncio.gather(*(turns(engine, f"e{i}", shared[i % 3], 4, FREE) for i in range(9))):
        for prompt, done in episode:
            assert len(done.ids) == 12
            assert list(done.logprobs) == pytest.approx(full_logprobs(tiny[0], prompt, done.ids), abs=1e-4)
    assert engine.busy == 0
    assert len(engine.owners) == 0


async def test_greedy_is_generate(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny, slots=3)
    questions = prompts(5, seed=3)
    completions = await asyncio.gather(*(engine.sample(str(i), p, GREEDY, 0) for i, p in enumerate(questions)))
    config = GenerationConfig(do_sample=False, max_new_tokens=12, pad_token_id=0, eos_token_id=-1)
    for prompt, done in zip(questions, completions, strict=True):
        reference = tiny[0].generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :]
        assert list(done.ids) == reference.tolist()
        assert done.finish == "length"


async def test_a_sample_does_not_depend_on_its_company(tiny: tuple[Any, Any]) -> None:
    questions = prompts(8, seed=1)

    async def run(chosen: Sequence[int], **options: Any) -> dict[int, tuple[int, ...]]:
        engine = engine_of(tiny, **options)
        completions = await asyncio.gather(*(engine.sample(str(i), questions[i], FREE, 100 + i) for i in chosen))
        return {i: done.ids for i, done in zip(chosen, completions, strict=True)}

    together = await run(range(8), slots=8)
    assert await run([7, 2, 5], slots=1) == {i: together[i] for i in (7, 2, 5)}
    assert await run(range(7, -1, -1), slots=3, prefill_tokens=50) == together
    assert len(set(together.values())) == 8


async def test_the_seed_decides(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny)
    prompt = prompts(1)[0]
    first, second, third = [await engine.sample("e", prompt, FREE, seed) for seed in (5, 6, 5)]
    assert first.ids == third.ids
    assert first.ids != second.ids


async def test_a_group_prefills_its_prompt_once(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny, slots=8)
    watched = Watched(engine)
    prompt = prompts(1, low=40, high=41)[0]
    done = await asyncio.gather(*(engine.sample(str(i), prompt, FREE, i) for i in range(8)))
    assert watched.prefilled == 40 + 7  # the others take the prompt but for its last token, which gives logits
    assert sorted(c.cached for c in done) == [0, *[39] * 7]


async def test_a_long_prompt_does_not_stall_running_turns(tiny: tuple[Any, Any]) -> None:
    """It is prefilled in parts, and each running turn gets a token in every round."""
    engine = engine_of(tiny, chunk_tokens=16)
    long, short = prompts(1, seed=4, low=100, high=101)[0], prompts(1, seed=5)[0]
    heard: list[str] = []
    running = asyncio.create_task(
        engine.sample("short", short, FREE, 1, on_token=lambda token, logprob: heard.append("short"))
    )
    while not heard:
        await asyncio.sleep(0)
    watched = Watched(engine)
    late = await engine.sample("long", long, FREE, 2, on_token=lambda token, logprob: heard.append("long"))
    await running
    assert watched.new[:7] == [16] * 6 + [4]
    assert heard.index("long") == 1 + 7  # the short turn's first token, and one in each of those rounds
    assert list(late.logprobs) == pytest.approx(full_logprobs(tiny[0], long, late.ids), abs=1e-4)


async def test_a_group_shares_a_prompt_that_is_prefilled_in_parts(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny, slots=5, chunk_tokens=16)
    running = asyncio.create_task(engine.sample("short", [9, 10, 11], FREE, 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    watched = Watched(engine)
    prompt = prompts(1, low=50, high=51)[0]
    together = await asyncio.gather(running, *(engine.sample(f"m{n}", prompt, FREE, n) for n in range(3)))
    assert watched.prefilled < 50 + 2 * 8  # the others wait until less than a block is left
    alone = [await engine_of(tiny).sample("a", prompt, FREE, n) for n in range(3)]
    assert [done.ids for done in together[1:]] == [done.ids for done in alone]


async def test_a_prompt_in_parts_can_be_cancelled_and_begun_again(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny, slots=2, chunk_tokens=8)
    running = asyncio.create_task(engine.sample("short", [9, 10, 11], SamplingParams(max_tokens=60), 1))
    long = prompts(1, low=90, high=91)[0]
    task = asyncio.create_task(engine.sample("long", long, FREE, 2))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    again = asyncio.create_task(engine.sample("long", long, FREE, 2))
    for _ in range(5):
        await asyncio.sleep(0)
    engine.weights_changed()  # drops the part that was fed
    done, _ = await asyncio.gather(again, running)
    assert list(done.logprobs) == pytest.approx(full_logprobs(tiny[0], long, done.ids), abs=1e-4)


async def test_later_turns_prefill_only_new_tokens(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny)
    watched = Watched(engine)
    episode = await turns(engine, "a", prompts(1, low=30, high=31)[0], 3, FREE)
    new = [len(later[0]) - len(earlier[0]) - 12 for earlier, later in pairwise(episode)]
    # The last sampled token was never fed, so it belongs to the next prefill.
    assert watched.prefilled == 30 + sum(n + 1 for n in new)
    assert [done.cached for _, done in episode[1:]] == [len(p) + 11 for p, _ in episode[:-1]]


async def test_a_finished_slot_is_refilled_in_the_next_round(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny, slots=2)
    watched = Watched(engine)
    questions = prompts(6, seed=2)
    lengths = [3, 9, 4, 5, 2, 6]
    params = [SamplingParams(temperature=0, max_tokens=n) for n in lengths]
    work = zip(questions, params, strict=True)
    await asyncio.gather(*(engine.sample(str(i), p, s, 0) for i, (p, s) in enumerate(work)))
    ends = [0, 0]
    for length in lengths:  # two machines, jobs in order, no gap
        ends[ends.index(min(ends))] += length
    assert watched.rounds == max(ends)
    assert sum(watched.rows) == sum(lengths)


async def test_stop_tokens_and_stop_strings(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    prompt = prompts(1)[0]
    whole = await engine_of(tiny).sample("e", prompt, SamplingParams(max_tokens=40), 1)
    text = tokenizer.decode(whole.ids)
    stop = text[8:11]
    end = next(n for n in range(1, 41) if stop in tokenizer.decode(whole.ids[:n]))
    done = await engine_of(tiny).sample("e", prompt, SamplingParams(max_tokens=40, stop=("@never@", stop)), 1)
    assert done.ids == whole.ids[:end]
    assert done.finish == "stop"

    token = whole.ids[5]
    options = EngineOptions(slots=1, context=200)
    engine = Engine(model, stop_ids=frozenset([token]), decode=tokenizer.decode, options=options)
    done = await engine.sample("e", prompt, SamplingParams(max_tokens=40), 1)
    assert done.ids == whole.ids[: whole.ids.index(token) + 1]
    assert done.finish == "stop"


async def test_cancelling_leaves_no_slot_taken(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny, slots=2)
    long = SamplingParams(max_tokens=150)
    questions = prompts(5)
    tasks = [asyncio.create_task(engine.sample(str(i), p, long, i)) for i, p in enumerate(questions)]
    for _ in range(6):
        await asyncio.sleep(0)
    assert engine.busy == 5
    for i, task in enumerate(tasks):
        task.cancel()
        engine.release(str(i))
    await asyncio.gather(*tasks, return_exceptions=True)
    done = await engine.sample("new", questions[0], FREE, 9)
    assert engine.busy == 0
    assert len(engine.owners) == 1
    assert list(done.logprobs) == pytest.approx(full_logprobs(tiny[0], questions[0], done.ids), abs=1e-4)


def test_a_loop_that_dies_does_not_block_the_next(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny)
    prompt = prompts(1)[0]

    async def abandoned() -> None:
        task = asyncio.create_task(engine.sample("a", prompt, SamplingParams(max_tokens=150), 0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    with asyncio.Runner() as loop:  # this test is about several event loops
        loop.run(abandoned())
    with asyncio.Runner() as loop:
        done = loop.run(engine.sample("b", prompt, FREE, 0))
    assert list(done.logprobs) == pytest.approx(full_logprobs(tiny[0], prompt, done.ids), abs=1e-4)
    assert engine.busy == 0


async def test_a_failing_forward_reaches_every_caller_and_the_engine_recovers(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny)
    inner, broken = engine.forward, True

    def forward(*arguments: Any) -> Any:
        if broken:
            raise RuntimeError("out of memory")
        return inner(*arguments)

    engine.forward = forward  # type: ignore[assignment]
    questions = prompts(6)
    work = [engine.sample(str(i), p, FREE, i) for i, p in enumerate(questions)]
    assert all(isinstance(result, RuntimeError) for result in await asyncio.gather(*work, return_exceptions=True))
    broken = False
    done = await engine.sample("0", questions[0], FREE, 0)
    assert list(done.logprobs) == pytest.approx(full_logprobs(tiny[0], questions[0], done.ids), abs=1e-4)


@pytest.mark.parametrize("lean", [True, False])
async def test_memory_follows_the_longest_context(tiny: tuple[Any, Any], lean: bool) -> None:
    engine = engine_of(tiny, slots=64, context=1500, lean=lean)
    kv, questions = engine.kv, prompts(3, low=240, high=250)
    short = await asyncio.gather(*(turns(engine, f"s{i}", p[:9], 1, FREE) for i, p in enumerate(questions)))
    assert (kv.rows, kv.positions) == (3, 256)
    long = await asyncio.gather(*(turns(engine, f"l{i}", p, 3, FREE) for i, p in enumerate(questions)))
    assert (kv.rows, kv.positions) == (3, 512)
    for episode in [*short, *long]:
        for prompt, done in episode:
            assert list(done.logprobs) == pytest.approx(full_logprobs(tiny[0], prompt, done.ids), abs=1e-4)


async def test_too_little_memory_reaches_every_caller(tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(tiny, slots=64)
    prompt = prompts(1)[0]
    monkeypatch.setattr("agentrl.policy.engine.slots.available_bytes", lambda: 5 * 257 * 32 * 4)
    work = [engine.sample(str(i), [*prompt, *([i] * (i % 2))], FREE, i) for i in range(9)]
    results = await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 30)
    assert all(isinstance(result, ModelError) and "model.slots" in str(result) for result in results)
    done = await engine.sample("0", prompt, FREE, 0)
    assert list(done.logprobs) == pytest.approx(full_logprobs(tiny[0], prompt, done.ids), abs=1e-4)


async def test_new_weights_in_the_middle_of_a_turn(tiny: tuple[Any, Any]) -> None:
    model = copy.deepcopy(tiny[0])
    engine = engine_of((model, tiny[1]))
    prompt = prompts(1)[0]
    task = asyncio.create_task(engine.sample("a", prompt, SamplingParams(max_tokens=30), 3))
    for _ in range(8):
        await asyncio.sleep(0)
    sampled = len(next(iter(engine._active.values())).ids)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    engine.weights_changed()
    done = await task
    later = await engine.sample("a", [*prompt, *done.ids, 9], FREE, 4)
    assert 0 < sampled < 30
    old, new = (full_logprobs(m, prompt, done.ids) for m in (tiny[0], model))
    assert list(done.logprobs[:sampled]) == pytest.approx(old[:sampled], abs=1e-4)
    assert list(done.logprobs[sampled:]) == pytest.approx(new[sampled:], abs=1e-4)
    assert max(abs(a - b) for a, b in zip(old, new, strict=True)) > 0.05
    assert done.versions == (0,) * sampled + (1,) * (len(done.ids) - sampled)
    assert set(later.versions) == {1}
    assert list(later.logprobs) == pytest.approx(full_logprobs(model, [*prompt, *done.ids, 9], later.ids), abs=1e-4)


async def test_the_context_limit_cuts_off(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny, context=30)
    short, full, over = (list(range(9, 9 + n)) for n in (25, 30, 50))
    first, second, third = [await engine.sample("e", p, SamplingParams(max_tokens=20), 0) for p in (short, full, over)]
    assert (len(first.ids), first.finish) == (5, "length")
    assert list(first.logprobs) == pytest.approx(full_logprobs(tiny[0], short, first.ids), abs=1e-4)
    assert (second.ids, second.finish) == ((), "length")
    assert (third.ids, third.finish) == ((), "length")


async def test_dropout_is_off_while_sampling(tiny: tuple[Any, Any]) -> None:
    engine = engine_of(tiny)
    tiny[0].train()
    await engine.sample("e", prompts(1)[0], FREE, 0)
    assert not tiny[0].training


async def test_bad_sizes_and_empty_prompts(tiny: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EngineOptions(slots=0)
    with pytest.raises(ValueError, match="at least one token"):
        await engine_of(tiny).sample("e", [], FREE, 0)
