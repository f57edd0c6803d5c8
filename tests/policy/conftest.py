"""Model folders for the policy tests: the tiny Hermes model, and a Llama with its own template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agentrl.messages import Message, ToolCall
from agentrl.policy.model_folder import save
from agentrl.policy.tiny import build_tiny, conversation_texts
from tests.policy.chat_server import KEY, ChatServer

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}
DEMO = [
    Message("system", "Use the tool."),
    Message("user", "What is 12 + 34?"),
    Message("assistant", "", (ToolCall("add", {"a": 12, "b": 34}),)),
    Message("tool", "46", tool_call_id="call_0", name="add"),
    Message("assistant", "It is 46."),
]
LLAMA_TEMPLATE = """\
{{- bos_token -}}
{%- if tools -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + tools | tojson + '<|eot_id|>' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' and message.tool_calls -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- for call in message.tool_calls -%}
{{- '{"name": "' + call.function.name + '", "parameters": ' + call.function.arguments | tojson + '}' -}}
{%- if not loop.last -%}{{- '; ' -}}{%- endif -%}
{%- endfor -%}
{{- '<|eot_id|>' -}}
{%- elif message.role == 'tool' -%}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content | tojson + '<|eot_id|>' -}}
{%- else -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tools() -> list[dict[str, Any]]:
    return [TOOL]


@pytest.fixture(scope="session")
def demo() -> list[Message]:
    return DEMO


@pytest.fixture(scope="session")
def tiny(demo: list[Message], tools: list[dict[str, Any]]) -> tuple[Any, Any]:
    return build_tiny(conversation_texts([demo] * 20, tools), hidden_size=32)


@pytest.fixture(scope="session")
def tiny_folder(tiny: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("tiny"), *tiny)


@pytest.fixture(scope="session")
def llama_tokenizer() -> Any:
    specials = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ['{"name": "add", "parameters": {"a": 12, "b": 34}} assistant user system ipython'] * 9,
        trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=specials[0], eos_token=specials[3], chat_template=LLAMA_TEMPLATE
    )


@pytest.fixture(scope="session")
def llama_folder(llama_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(llama_tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                initializer_range=0.2,
                bos_token_id=0,
                eos_token_id=3,
            )
        )
    return save(tmp_path_factory.mktemp("llama"), model.eval(), llama_tokenizer)


@pytest.fixture(scope="module")
def running() -> Iterator[ChatServer]:
    server = ChatServer()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(running: ChatServer, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("agentrl.policy.remote.options._FIRST_BACKOFF_S", 0.01)
    running.script()
    return running
