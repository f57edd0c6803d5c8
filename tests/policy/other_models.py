"""Small models of families that keep other state than keys and values of one width, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.policy.template_families import FAMILIES, tokenizer_of

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_MIXED = ["linear_attention", "full_attention"]
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
OTHER: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3_5": ("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", {**_SIZES, **_LINEAR, "head_dim": 8, "layer_types": _MIXED}),
    "llama4": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {**_SIZES, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 32},
    ),
    "mamba": ("MambaForCausalLM", "MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2}),
    "rwkv": ("RwkvForCausalLM", "RwkvConfig", {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}
"""Those that go on from a cache of their own: the class, that of its configuration, and sizes."""
LATENT = (
    "DeepseekV3ForCausalLM",
    "DeepseekV3Config",
    {**_SIZES, **_LATENT, **_EXPERTS, "num_key_value_heads": 4, "first_k_dense_replace": 1},
)
"""One whose keys and values have widths of their own."""
REFUSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "returns no past_key_values": ("BertLMHeadModel", "BertConfig", _SIZES),
    "takes no cache": ("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "chosen tokens alone": (
        "DeepseekV32ForCausalLM",
        "DeepseekV32Config",
        {**LATENT[2], "index_topk": 16, "index_n_heads": 2, "index_head_dim": 16},
    ),
}
"""Those that are refused, by what is said of them."""
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_heads": 2,
    "depth": 1,
    "out_hidden_size": 32,
    "image_size": 28,
    "patch_size": 14,
}
WITH_IMAGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", {**_SIZES, "head_dim": 8}, {"deepstack_visual_indexes": [0]}),
    "mistral3": (
        "Mistral3ForConditionalGeneration",
        {**_SIZES, "head_dim": 8, "model_type": "mistral"},
        {"model_type": "pixtral"},
    ),
    "llama4": (
        "Llama4ForConditionalGeneration",
        OTHER["llama4"][2],
        {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
    ),
}
"""Those that read images too, by type: the class, and sizes of its text's and of its images' part."""


def folder_with_images(model_type: str, folder: Path) -> Path:
    """A model folder whose model reads text and images."""
    tokenizer = tokenizer_of(FAMILIES["chatml"])
    name, text, vision = WITH_IMAGES[model_type]
    ends = {"pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = transformers.AutoConfig.for_model(
        model_type,
        text_config={"vocab_size": len(tokenizer), **text, **ends},
        vision_config={**_VISION, **vision},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        getattr(transformers, name)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def model_and_tokenizer(kind: tuple[str, str, dict[str, Any]]) -> tuple[Any, Any]:
    """A model in evaluation mode, and its tokenizer."""
    tokenizer = tokenizer_of(FAMILIES["chatml"])
    name, config, sizes = kind
    ends = {"pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    made = getattr(transformers, config)(vocab_size=len(tokenizer), **sizes, **ends)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, name)(made)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.1)
    return model.eval(), tokenizer


def save_folder(kind: tuple[str, str, dict[str, Any]], folder: Path) -> Path:
    """A model folder."""
    for part in model_and_tokenizer(kind):
        part.save_pretrained(folder)
    return folder
