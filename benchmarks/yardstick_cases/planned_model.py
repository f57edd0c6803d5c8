"""A model whose turns have a planned shape, whatever its size: the same work for every trainer that runs it.

The residual stream is left alone (the last maps of attention and MLP are zero), so the next token depends on the last
one alone: a few fixed tokens, one word repeated a geometric number of times, one tool call, the stop token. All
products are computed as in any model of that size; only their values are dull. Needs TRL, whose Qwen3 template both
sides use.

    python planned_model.py OUT HIDDEN LAYERS VOCABULARY REPEATS
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from words import WORDS

CALL = '{"name": "lookup", "arguments": {"key": "k"}}'
FIXED = ("alpha1", "alpha2", "alpha3", "omega")
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
SHARP = 40.0  # logit of the planned token


def tokenizer_of() -> Any:
    template = (Path(trl.__file__).parent / "chat_templates/qwen3.jinja").read_text()
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        show_progress=False,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator([template] * 3 + [" ".join(WORDS)] * 4, trainer)
    inner.add_tokens([AddedToken(text, special=False, normalized=False) for text in (*MARKS, *FIXED, CALL)])
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=8192
    )
    found.chat_template = template
    return found


def model_of(tokenizer: Any, hidden: int, layers: int, vocabulary: int) -> Any:
    heads = max(4, hidden // 64)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=11 * hidden // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=hidden // heads,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


@torch.no_grad()
def plan(model: Any, tokenizer: Any, hidden: int, repeats: int) -> None:
    """Make each token of the plan follow the one before it."""

    def one(text: str) -> int:
        (number,) = tokenizer(text, add_special_tokens=False)["input_ids"]
        return int(number)

    begin = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"][-1]
    chain = [begin, *map(one, (*FIXED, "<tool_call>", CALL, "</tool_call>")), tokenizer.eos_token_id]
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    embedded, head = model.model.embed_tokens.weight, model.lm_head.weight
    head.zero_()
    embedded[:, :16] = 0
    for place, token in enumerate(chain[:-1]):
        embedded[token] = 0
        embedded[token, place] = 1.0  # the norm before the head makes it the root of `hidden`
        head[chain[place + 1], place] += SHARP / math.sqrt(hidden)
    stay = (repeats - 1) / repeats
    head[one("omega"), 4] = (SHARP + math.log(stay / (1 - stay))) / math.sqrt(hidden)


def main() -> None:
    out, hidden, layers, vocabulary, repeats = sys.argv[1], *(int(number) for number in sys.argv[2:6])
    tokenizer = tokenizer_of()
    model = model_of(tokenizer, hidden, layers, vocabulary)
    plan(model, tokenizer, hidden, repeats)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
