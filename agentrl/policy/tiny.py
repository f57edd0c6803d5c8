"""A from-scratch model and tokenizer, small enough to train on a CPU in minutes.

Owns the byte-level BPE tokenizer, its compact Hermes chat template, and a Qwen3 of about 0.45M parameters.
Saving and loading them, an ordinary model folder, is `agentrl.policy.model_folder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from agentrl.errors import ModelError
from agentrl.messages import Message
from agentrl.policy.format.base import VERBATIM
from agentrl.policy.format.template import render_template
from agentrl.safe_json import safe_text

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
MAX_VOCAB = 512

# Words never carry their leading space, so that a word copied from a tool's answer into an argument has the
# same ids in both places. Every digit is a piece of its own. All other characters may merge with each other.
_PIECES = Regex(r"\p{L}+|\p{N}|[^\p{L}\p{N}]+")

# These bytes never occur in UTF-8.
_NEVER = frozenset([0xC0, 0xC1, *range(0xF5, 0x100)])

_TEMPLATE = (
    VERBATIM
    + """\
{%- set show_tools = SHOW_TOOLS -%}
{%- set called = namespace(tools=false) -%}
{%- if show_tools and tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if messages[0].role == 'system' -%}{{- messages[0].content + '\\n' -}}{%- endif -%}
{{- 'Tools: ' -}}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{{- function.name + '(' + function.parameters.properties.keys() | join(', ') + ')' -}}
{%- if not loop.last -%}{{- ', ' -}}{%- endif -%}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- set called.tools = true -%}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<tool_response>' + message.content + '</tool_response>' -}}
{%- elif message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if message.reasoning_content -%}{{- '<think>' + message.reasoning_content + '</think>' -}}{%- endif -%}
{{- message.content -}}
{%- for tool_call in message.tool_calls or [] -%}
{%- set call = tool_call.function if tool_call.function is defined else tool_call -%}
{{- '<tool_call>{"name": ' + call.name | tojson + ', "arguments": ' + call.arguments | tojson + '}</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- elif not (loop.first and called.tools and message.role == 'system') -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
)


def chat_template(*, show_tools: bool = True) -> str:
    """The tiny model's chat template (Jinja): Hermes calls, without the line breaks that cost tokens.

    Args:
        show_tools: name the tools and their parameters in the system turn; without it the model learns
            them from demonstrations alone, which is cheaper by some tokens an episode.
    """
    return _TEMPLATE.replace("SHOW_TOOLS", "true" if show_tools else "false")


def build_tokenizer(
    texts: Iterable[str], *, vocab_size: int = MAX_VOCAB, show_tools: bool = True
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with single digits.

    Args:
        texts: what to train on, for example rendered demonstrations; special tokens in them are skipped.
        vocab_size: entries in all, at least the 243 bytes of UTF-8 and the special tokens.
        show_tools: see `chat_template`.
    Raises: ValueError if `vocab_size` is too small for every text to have an encoding.
    """
    alphabet = sorted(_utf8_alphabet())
    if vocab_size < len(alphabet) + len(SPECIAL_TOKENS):
        raise ValueError(f"vocab_size must be at least {len(alphabet) + len(SPECIAL_TOKENS)}, got {vocab_size}")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator((piece for text in texts for piece in _between_specials(safe_text(text))), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=chat_template(show_tools=show_tools),
        clean_up_tokenization_spaces=False,
    )


def build_tiny(
    texts: Iterable[str],
    *,
    seed: int = 0,
    vocab_size: int = MAX_VOCAB,
    show_tools: bool = True,
    **config: Any,
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Build an untrained model and its tokenizer.

    Args:
        texts: what the tokenizer is trained on.
        seed: of the initial weights; the global generator is left as it was.
        vocab_size: most entries of the tokenizer.
        show_tools: see `chat_template`.
        config: overrides of `Qwen3Config`, for example `hidden_size=256`.
    Returns: the model (float32, evaluation mode) and the tokenizer.
    """
    tokenizer = build_tokenizer(texts, vocab_size=vocab_size, show_tools=show_tools)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(tiny_config(len(tokenizer), tokenizer, **config))
    model.eval()  # type: ignore[no-untyped-call]
    return model, tokenizer


def tiny_config(vocab_size: int, tokenizer: Any, **overrides: Any) -> Qwen3Config:
    """The configuration of the tiny model; `hidden_size` also sets the widths that follow from it.

    Raises: ModelError for a hidden size that its heads cannot share.
    """
    hidden: int = overrides.pop("hidden_size", 128)
    heads: int = overrides.pop("num_attention_heads", 4)
    if hidden < 2 * heads or hidden % (2 * heads):  # rotary positions turn pairs of each head's numbers
        raise ModelError(f"hidden_size must be a multiple of {2 * heads} for {heads} heads, got {hidden}")
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": 11 * hidden // 4,
        "num_hidden_layers": overrides.pop("num_layers", 2),
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "head_dim": hidden // heads,
        # Short contexts: a small base spreads the rotary frequencies over hundreds of tokens, not millions.
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return Qwen3Config(**{**values, **overrides})


def conversation_texts(
    conversations: Iterable[Sequence[Message]], tools: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """Conversations as the tiny template renders them, to train the tokenizer on.

    Args:
        conversations: the messages of each.
        tools: OpenAI definitions shown in the system turn.
    """
    template = chat_template(show_tools=bool(tools))
    return [render_template(template, messages, tools) for messages in conversations]


def _utf8_alphabet() -> list[str]:
    """The characters that byte-level BPE uses for the bytes that UTF-8 can contain."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [name for byte, name in names.items() if byte not in _NEVER]


def _between_specials(text: str) -> list[str]:
    for token in SPECIAL_TOKENS:
        text = text.replace(token, "\0")
    return [piece for piece in text.split("\0") if piece]
