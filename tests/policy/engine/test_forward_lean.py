"""The lean forward equals the model's own, over ragged rounds of decoding and prefilling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from agentrl.errors import ModelError
from agentrl.policy.engine import forward_lean
from agentrl.policy.engine.forward_hf import HfForward
from agentrl.policy.engine.forward_lean import LeanForward, supports
from agentrl.policy.engine.slots import KvSlots

SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True, rope_parameters=LLAMA3_ROPE))


def qwen2() -> Any:
    return Qwen2ForCausalLM(Qwen2Config(**SMALL))


def qwen3() -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=True))


def mistral() -> Any:
    return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None))


def sliding_mistral() -> Any:
    return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=5))


def sliding_qwen2() -> Any:
    return Qwen2ForCausalLM(Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=4, max_window_layers=1))


def gpt2() -> Any:
    config = GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3)
    return GPT2LMHeadModel(config)


def seeded(make: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = make()
        for parameter in model.parameters():  # biases and norms away from their trivial start
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def check_rounds(model: Any, forward: Any, kv: KvSlots) -> float:
    """Ragged rounds over 5 slots; the largest difference from a full forward of each slot's ids."""
    rng = np.random.default_rng(0)
    held: dict[int, list[int]] = {}
    plan = [((), (0, 3)), ((0, 3), (1,)), ((0, 1, 3), (2, 4)), ((4,), (0,)), ((1, 2, 3, 4), ()), ((2, 4), (0, 1))]
    worst = 0.0
    for decoding, prefilled in plan:
        last = rng.integers(0, 61, len(decoding))
        new = [(slot, rng.integers(0, 61, rng.integers(1, 12)).astype(np.int32)) for slot in prefilled]
        logits = forward(np.array(decoding, np.int64), last, new)
        for slot, token in zip(decoding, last, strict=True):
            kv.write_ids(slot, [int(token)])
            held[slot].append(int(token))
        for slot, ids in new:
            kv.write_ids(slot, ids)
            held.setdefault(slot, []).extend(ids.tolist())
        for row, slot in enumerate([*decoding, *prefilled]):
            with torch.no_grad():
                reference = model(torch.tensor([held[slot]])).logits[0, -1].float()
            worst = max(
                worst, (torch.log_softmax(logits[row], -1) - torch.log_softmax(reference, -1)).abs().max().item()
            )
    return worst


@pytest.mark.parametrize("make", [llama, qwen2, qwen3, mistral])
def test_lean_equals_the_model(make: Any) -> None:
    model = seeded(make)
    assert supports(model)
    kv = KvSlots(5, 100)
    assert check_rounds(model, LeanForward(model, kv), kv) < 2e-5


@pytest.mark.parametrize("make", [llama, qwen2, qwen3])
def test_prefills_attended_at_once_equal_the_model(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_parity(self: LeanForward, counts: Any) -> list[list[int]]:
        groups = [[n for n, count in enumerate(counts) if count % 2 == odd] for odd in (1, 0)]
        return [group for group in groups if group]

    monkeypatch.setattr(LeanForward, "_groups", by_parity)
    model = seeded(make)
    kv = KvSlots(5, 100)
    assert check_rounds(model, LeanForward(model, kv), kv) < 2e-5


@pytest.mark.parametrize("exact", [False, True])
def test_slots_attended_in_ranges_equal_the_model(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_lean, "_COPIED_BYTES", 0)
    model = seeded(qwen3)
    kv = KvSlots(5, 128)
    forward = LeanForward(model, kv, exact=exact)
    assert check_rounds(model, forward, kv) < 2e-5
    kv.length[:] = [7, 8, 9, 100, 10]
    ranges = [group.slots for group in forward._decodes(np.array([0, 2, 4]))]
    assert ranges == [slice(0, 1), slice(2, 3), slice(4, 5)]
    assert [group.slots for group in forward._decodes(np.array([0, 1, 2]))] == [slice(0, 3)]


def test_groups_on_an_accelerator_are_of_like_length() -> None:
    forward = LeanForward(seeded(qwen3), KvSlots(2, 8))
    counts = [3, 400, 16, 17, 300, 1, 30]
    assert forward._groups(counts) == [[n] for n in range(7)]
    forward.cos_TD = forward.cos_TD.to("meta")
    assert forward._groups(counts) == [[0, 2, 5], [1, 4], [3, 6]]


@pytest.mark.parametrize("forward", [LeanForward, HfForward])
def test_half_precision_stays_near_the_model(forward: Any) -> None:
    model = seeded(qwen3)
    half = seeded(qwen3).to(torch.bfloat16)
    kv = KvSlots(5, 100)
    run = forward(half, kv)
    ids = np.arange(40, dtype=np.int32) % 61
    run(np.array([], np.int64), np.array([], np.int64), [(0, ids[:20]), (3, ids[:9])])
    kv.write_ids(0, ids[:20])
    kv.write_ids(3, ids[:9])
    logits = run(np.array([0, 3]), np.array([20, 9]), [(1, ids[:30])])
    assert (logits.dtype, kv.layers[0][0].dtype) == (torch.float32, torch.bfloat16)
    with torch.no_grad():
        expected = [model(torch.from_numpy(ids[:n].astype(np.int64))[None]).logits[0, -1] for n in (21, 10, 30)]
    for row, reference in zip(logits, expected, strict=True):
        assert (torch.log_softmax(row, -1) - torch.log_softmax(reference, -1)).abs().max() < 0.15


@pytest.mark.parametrize("make", [llama, qwen3, sliding_mistral, sliding_qwen2, gpt2])
def test_fallback_equals_the_model(make: Any) -> None:
    model = seeded(make)
    kv = KvSlots(5, 100)
    assert check_rounds(model, HfForward(model, kv), kv) < 2e-5


@pytest.mark.parametrize("make", [sliding_mistral, sliding_qwen2, gpt2])
def test_what_lean_does_not_cover_is_left_to_the_fallback(make: Any) -> None:
    assert not supports(seeded(make))


def test_replaced_layers_are_left_to_the_fallback() -> None:
    class Adapted(torch.nn.Linear):
        pass

    model = seeded(qwen3)
    model.model.layers[1].self_attn.v_proj = Adapted(32, 32, bias=False)
    assert not supports(model)


def test_updates_in_place_are_seen_at_once() -> None:
    model = seeded(qwen3)
    kv = KvSlots(2, 50)
    forward = LeanForward(model, kv)
    prompt = [(0, np.arange(7, dtype=np.int32))]
    before = forward(np.array([], np.int64), np.array([], np.int64), prompt)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
        expected = model(torch.arange(7)[None]).logits[0, -1]
    after = forward(np.array([], np.int64), np.array([], np.int64), prompt)
    assert (before - after).abs().max() > 0.1
    assert torch.allclose(after[0], expected, atol=1e-4)


def test_a_model_with_other_state_is_refused() -> None:
    model = seeded(qwen3)
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ModelError, match="linear_attention"):
        HfForward(model, KvSlots(1, 8))
