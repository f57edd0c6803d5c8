"""The tiny model: any text encodes, words keep their ids, and a folder gives back what was saved."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.errors import ModelError
from agentrl.messages import Message
from agentrl.policy.format.template import render_template
from agentrl.policy.model_folder import load, save
from agentrl.policy.tiny import MAX_VOCAB, SPECIAL_TOKENS, build_tiny, build_tokenizer, chat_template

TOKENIZER = build_tokenizer(["the price of tea is 12, the price of milk is 3"] * 20)
TEXTS = [f"{a}{b}{c}ing {i * 37}, {b}{a}: " for i, (a, b, c) in enumerate(product("abcdefghijk", repeat=3))]


@settings(max_examples=400, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert TOKENIZER.unk_token_id is None


def test_vocabulary_is_bounded_and_digits_stand_alone() -> None:
    tokenizer = build_tokenizer(TEXTS)
    assert len(tokenizer) == MAX_VOCAB
    numbers = [entry for entry in tokenizer.get_vocab() if set(entry) & set("0123456789")]
    assert sorted(numbers) == list("0123456789")
    assert [tokenizer.decode([i]) for i in tokenizer.encode("1203")] == ["1", "2", "0", "3"]


def test_words_have_the_same_ids_in_prose_and_in_json() -> None:
    word = TOKENIZER.encode("price")
    for context in ("the price of", '{"name": "price"}', "(price)", "price"):
        ids = TOKENIZER.encode(context)
        assert any(ids[i : i + len(word)] == word for i in range(len(ids)))


def test_special_tokens_are_single_ids() -> None:
    for token in SPECIAL_TOKENS:
        assert len(TOKENIZER.encode(token)) == 1
    assert TOKENIZER.eos_token == "<|im_end|>"
    assert TOKENIZER.pad_token == "<|endoftext|>"


def test_a_vocabulary_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 252"):
        build_tokenizer(["x"], vocab_size=200)


@pytest.mark.parametrize("hidden_size", [2, 12, 100])
def test_a_width_that_the_heads_cannot_share_is_refused(hidden_size: int) -> None:
    with pytest.raises(ModelError, match=f"multiple of 8 for 4 heads, got {hidden_size}"):
        build_tiny(["some text"] * 4, hidden_size=hidden_size)


def test_tools_are_shown_shortly_or_not_at_all(tools: Any) -> None:
    messages = [Message("system", "Be brief."), Message("user", "Hi")]
    shown = render_template(chat_template(), messages, tools)
    hidden = render_template(chat_template(show_tools=False), messages, tools)
    assert shown == "<|im_start|>system\nBe brief.\nTools: add(a, b)<|im_end|><|im_start|>user\nHi<|im_end|>"
    assert hidden == "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nHi<|im_end|>"
    without = render_template(chat_template(), messages[1:], tools)
    assert without == "<|im_start|>system\nTools: add(a, b)<|im_end|><|im_start|>user\nHi<|im_end|>"


def test_size_seed_and_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, _ = build_tiny(TEXTS, seed=1)
    assert torch.equal(torch.rand(3), expected)
    same, _ = build_tiny(TEXTS, seed=1)
    other, _ = build_tiny(TEXTS, seed=2)
    weights = [m.model.layers[0].mlp.up_proj.weight for m in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert 400_000 < sum(p.numel() for p in one.parameters()) < 500_000
    assert one.lm_head.weight is one.model.embed_tokens.weight
    assert weights[0].std().item() == pytest.approx(0.1, rel=0.02)


def test_a_folder_gives_back_the_same_model(tiny: tuple[Any, Any], tmp_path: Any) -> None:
    model, tokenizer = tiny
    loaded, loaded_tokenizer = load(save(tmp_path / "m", model, tokenizer))
    ids = tokenizer.encode('<tool_call>{"name": "add"}</tool_call> 12 é')
    assert loaded_tokenizer.encode('<tool_call>{"name": "add"}</tool_call> 12 é') == ids
    assert loaded_tokenizer.chat_template == tokenizer.chat_template
    with torch.no_grad():
        assert torch.equal(loaded(torch.tensor([ids])).logits, model(torch.tensor([ids])).logits)
    assert not loaded.training
