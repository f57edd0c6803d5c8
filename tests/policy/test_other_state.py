"""Models that keep other state than keys and values: sampled in caches of their own, or refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from agentrl.errors import ModelError
from agentrl.policy import adapters
from agentrl.policy.base import SamplingParams
from agentrl.policy.local import LocalPolicy
from agentrl.policy.model_folder import load, save
from tests.policy.other_models import LATENT, OTHER, REFUSED, WITH_IMAGES, folder_with_images, model_and_tokenizer
from tests.policy.test_families import episode, worst_difference


async def check_episodes(policy: LocalPolicy) -> None:
    """Three episodes of three turns at the same time: each sampled token has the model's own log-probability."""
    for actions in await asyncio.gather(*(episode(policy, number) for number in range(3))):
        for action in actions:
            assert action.token_ids
            assert worst_difference(policy.model, action) < 1e-5


@pytest.mark.parametrize("name", OTHER)
async def test_episodes_are_sampled_in_the_models_own_caches(name: str, caplog: Any) -> None:
    policy = LocalPolicy(*model_and_tokenizer(OTHER[name]))
    assert policy.engine.options.state == ("stepwise" if name == "mamba" else "own")
    assert not policy.exact
    assert "an inference server is faster" in caplog.text
    await check_episodes(policy)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.02)
    policy.weights_changed()
    await check_episodes(policy)


async def test_fewer_caches_than_episodes() -> None:
    await check_episodes(LocalPolicy(*model_and_tokenizer(OTHER["qwen3_5"]), slots=2))


async def test_a_model_that_goes_on_a_token_at_a_time(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """As Mamba does, which is 1e-3 nats off where more than one token follows; this one forgets its whole state."""
    model, tokenizer = model_and_tokenizer(OTHER["qwen3_5"])
    forward = type(model).forward

    def forgetful(self: Any, input_ids: Any, past_key_values: Any = None, **rest: Any) -> Any:
        if past_key_values is not None and input_ids.shape[1] > 1:
            past_key_values = None
        return forward(self, input_ids=input_ids, past_key_values=past_key_values, **rest)

    monkeypatch.setattr(type(model), "forward", forgetful)
    policy = LocalPolicy(model, tokenizer)
    assert policy.engine.options.state == "stepwise"
    assert "one token at a time" in caplog.text
    await check_episodes(policy)


async def test_keys_and_values_of_other_widths_share_slots() -> None:
    policy = LocalPolicy(*model_and_tokenizer(LATENT))
    assert policy.engine.options.state == "slots"
    await check_episodes(policy)
    keys, values = policy.engine.kv.layers[0]
    assert (keys.shape[-1], values.shape[-1]) == (24, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["mamba", "rwkv", "bloom"])
def test_hidden_state_is_noticed_in_half_precision_too(name: str, dtype: torch.dtype) -> None:
    model, tokenizer = model_and_tokenizer(OTHER[name])
    assert LocalPolicy(model.to(dtype), tokenizer).engine.options.state != "slots"


@pytest.mark.parametrize("model_type", WITH_IMAGES)
async def test_a_model_that_reads_images_too_is_sampled_on_text(model_type: str, tmp_path: Path) -> None:
    policy = LocalPolicy.from_folder(folder_with_images(model_type, tmp_path / "from"))
    assert type(policy.model).__name__ == WITH_IMAGES[model_type][0]
    await check_episodes(policy)
    save(tmp_path / "to", policy.model, policy.tokenizer)
    kept = dict(load(tmp_path / "to")[0].named_parameters())
    assert all(torch.equal(kept[name], weight) for name, weight in policy.model.named_parameters())


def test_a_type_without_a_causal_model_is_named(tmp_path: Path) -> None:
    _, tokenizer = model_and_tokenizer(OTHER["bloom"])
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="'t5', of which transformers has no causal"):
        load(tmp_path)


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_sampled_is_refused(why: str) -> None:
    with pytest.raises(ModelError, match=f"(?s){why}.*openai:"):
        LocalPolicy(*model_and_tokenizer(REFUSED[why]))


def test_no_exact_sampling_in_a_models_own_cache() -> None:
    with pytest.raises(ModelError, match=r"sampling\.exact"):
        LocalPolicy(*model_and_tokenizer(OTHER["bloom"]), exact=True)


async def test_what_goes_on_from_a_whole_episode_gets_a_copy_of_its_cache() -> None:
    policy = LocalPolicy(*model_and_tokenizer(OTHER["qwen3_5"]))
    engine, greedy = policy.engine, SamplingParams(temperature=0.0, max_tokens=8)
    first = await engine.sample("first", list(range(40)), greedy, 0)
    context = [*range(40), *first.ids]
    others = [engine.sample(owner, [*context, *more], greedy, 0) for owner, more in (("a", [50, 51]), ("b", [60]))]
    for more, found in zip(([50, 51], [60]), await asyncio.gather(*others), strict=True):
        assert found.cached == len(context) - 1  # the last id that was sampled is fed with what follows
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([[*context, *more, *found.ids]])).logits[0]
        own = torch.log_softmax(logits[len(context) + len(more) - 1 : -1], -1)
        expected = own.gather(1, torch.tensor(found.ids)[:, None])[:, 0]
        assert torch.allclose(expected, torch.tensor(found.logprobs), atol=1e-5)


async def test_a_part_of_what_a_cache_holds_serves_nobody() -> None:
    engine = LocalPolicy(*model_and_tokenizer(OTHER["qwen3_5"])).engine
    greedy = SamplingParams(temperature=0.0, max_tokens=4)
    await engine.sample("first", list(range(40)), greedy, 0)
    assert (await engine.sample("other", [*range(30), 99], greedy, 0)).cached == 0
    assert (await engine.sample("first", [*range(30), 99], greedy, 0)).cached == 0


NOT_ADAPTED = {"mamba": ".out_proj", "llama4": ".router"}


@pytest.mark.parametrize("name", ["qwen3_5", *NOT_ADAPTED])
async def test_adapters_are_put_where_a_model_of_that_kind_takes_them(name: str) -> None:
    model, tokenizer = model_and_tokenizer(OTHER[name])
    adapters.add(model, rank=2, alpha=4.0)
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert adapted
    assert not [found for found in adapted if NOT_ADAPTED.get(name, "vision") in found]
    await check_episodes(LocalPolicy(model, tokenizer))


def test_what_reads_images_gets_no_adapters(tmp_path: Path) -> None:
    model, _ = load(folder_with_images("qwen3_vl", tmp_path))
    adapters.add(model, rank=2, alpha=4.0)
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert adapted
    assert all("language_model" in name for name in adapted)


def test_a_model_without_a_limit_of_its_own_gets_the_usual_context() -> None:
    model, tokenizer = model_and_tokenizer(OTHER["bloom"])
    model.config.max_position_embeddings = -1  # as XLNet says
    assert LocalPolicy(model, tokenizer).engine.options.context == 4096
