"""GGUF files become model folders: the model's own numbers, its tokenizer, a template that shows tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

from agentrl.cli import main
from agentrl.errors import ModelError
from agentrl.messages import Message
from agentrl.policy import model_folder
from agentrl.policy.convert import gguf_file
from agentrl.policy.format import proof
from agentrl.policy.format.choice import chat_format

HEADS, KEY_HEADS, SIZE = 4, 2, 64
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGED = ["te", "tea"]
VOCABULARY = 256 + len(SPECIAL) + len(MERGED)
PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
BLOCK_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Offers of a kind.",
        "parameters": {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]},
    },
}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=SIZE,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def file(model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as llama.cpp would write it: one matrix in blocks of 8 bits, the others in float32."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    write_settings(writer)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":
            write_tensor(writer, name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_settings(writer: gguf.GGUFWriter) -> None:
    writer.add_block_count(2)
    writer.add_context_length(2048)
    writer.add_embedding_length(SIZE)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(5000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*SPECIAL, *sorted(ByteLevel.alphabet()), *MERGED])
    writer.add_token_types([gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (256 + len(MERGED)))
    writer.add_token_merges(["t e", "te a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(PLAIN)


def write_tensor(writer: gguf.GGUFWriter, name: str, weight: np.ndarray) -> None:
    if name.endswith("up_proj.weight"):
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(gguf_name(name), gguf.quantize(weight, kind), raw_dtype=kind)
        return
    for projection, heads in (("q_proj", HEADS), ("k_proj", KEY_HEADS)):
        if projection in name:  # llama.cpp pairs neighbouring dimensions in its rotation
            parts = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
            weight = np.ascontiguousarray(parts.swapaxes(1, 2).reshape(weight.shape))
    writer.add_tensor(gguf_name(name), weight)


def gguf_name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
    number, _, rest = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
    return f"blk.{number}.{BLOCK_NAMES[rest]}.weight"


@pytest.fixture(scope="module")
def converted(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The model and tokenizer of the folder that the command makes with the bundled template."""
    out = tmp_path_factory.mktemp("converted") / "model"
    words = ["import-gguf", file, "--out", out, "--chat-template", "hermes", "--dtype", "float32", "--json"]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["architecture"], said["dtype"]) == ("LlamaForCausalLM", "float32")
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    return model_folder.load(out)


def test_the_folder_is_the_model_of_the_file(model: LlamaForCausalLM, converted: tuple[Any, Any]) -> None:
    """All but the matrix in blocks are equal bit for bit; that one to half a step, whose size is a float16."""
    found = converted[0].state_dict()
    for name, weight in model.state_dict().items():
        step = weight.abs().max() / 127 if name.endswith("up_proj.weight") else 0.0
        assert (found[name] - weight).abs().max() <= 0.6 * step, name
    ids = torch.arange(0, 250, 7)[None]
    with torch.inference_mode():
        assert torch.allclose(converted[0](input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-3)
    config = converted[0].config
    assert (config.rope_parameters["rope_theta"], config.max_position_embeddings) == (5000.0, 2048)
    assert config.tie_word_embeddings
    assert not hasattr(config, "quantization_config")


def test_the_tokenizer_is_that_of_the_file(converted: tuple[Any, Any]) -> None:
    tokenizer = converted[1]
    ids = tokenizer("<|im_start|>tea é<|im_end|>", add_special_tokens=False).input_ids
    assert (ids[0], ids[-1], len(ids)) == (1, 2, 6)  # tea, the space, and two bytes
    assert tokenizer.decode(ids) == "<|im_start|>tea é<|im_end|>"
    assert tokenizer.eos_token_id == 2


def test_the_bundled_template_shows_tools_and_its_calls_read_back(converted: tuple[Any, Any]) -> None:
    form = chat_format(converted[1])
    proof.prove(form)
    prompt = form.decode(form.render_first([Message("system", "Be brief."), Message("user", "Buy tea.")], [SEARCH]))
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert '{"name": "search", "description": "Offers of a kind."' in prompt
    assert prompt.endswith("<|im_end|>\n<|im_start|>user\nBuy tea.<|im_end|>\n<|im_start|>assistant\n")


def test_without_a_template_the_files_own_stays(file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["import-gguf", str(file), "--out", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    model, tokenizer = model_folder.load(tmp_path / "model")
    assert tokenizer.chat_template == PLAIN
    assert "bfloat16" in done.stdout
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())


def test_what_cannot_be_converted_leaves_nothing(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(b"not a model")
    (tmp_path / "torn.gguf").write_bytes(file.read_bytes()[:2000])
    for name, message in (("other", "not a GGUF file"), ("torn", "cannot be converted"), ("absent", "cannot be read")):
        done = CliRunner().invoke(main, ["import-gguf", str(tmp_path / f"{name}.gguf"), "--out", str(tmp_path / "m")])
        assert done.exit_code == 1
        assert message in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.gguf", "torn.gguf"]


def test_missing_packages_are_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ModelError, match=r"pip install \"agentrl\[gguf\]\""):
        gguf_file.convert(file, tmp_path / "model")
