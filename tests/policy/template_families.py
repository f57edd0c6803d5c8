# ruff: noqa: E501 (templates read better in long lines)
"""Chat templates of many families, in wording of our own but with the structure of the published ones.

Owns tokenizers and tiny random models of them. A family is a template, its special tokens and a model class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HERMES_MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
LLAMA = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
MISTRAL = (
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
)
GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
PHI = (
    "<|endoftext|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|tool|>",
    "<|/tool|>",
    "<|tool_call|>",
    "<|/tool_call|>",
)
HARMONY = (
    "<|endoftext|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|return|>",
    "<|call|>",
)
DEEPSEEK = (
    "<bos>",
    "<eos>",
    "<|User|>",
    "<|Assistant|>",
    "<|tool▁calls▁begin|>",
    "<|tool▁call▁begin|>",
    "<|tool▁sep|>",
    "<|tool▁call▁end|>",
    "<|tool▁calls▁end|>",
    "<|tool▁outputs▁begin|>",
    "<|tool▁output▁begin|>",
    "<|tool▁output▁end|>",
    "<|tool▁outputs▁end|>",
)
GRANITE = ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>")

_CHATML_HEAD = """\
{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}
{%- endif %}{{- 'Tools:\\n' }}{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}{{- 'HOW<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- for m in messages %}{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}"""
_CHATML_TAIL = """{{- '<|im_end|>\\n' }}
{%- elif m.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
_CALLS = """{{- m.content }}{%- for c in m.tool_calls or [] %}
{%- if loop.index0 or m.content %}{{- '\\n' }}{%- endif %}"""
QWEN25 = (
    _CHATML_HEAD
    + _CALLS
    + """
{{- '<tool_call>\\n{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments | tojson }}
{{- '}\\n</tool_call>' }}{%- endfor %}"""
    + _CHATML_TAIL
)
# The newest turn has a thought, earlier ones have none.
QWEN3 = QWEN25.replace(
    "{{- '<|im_start|>assistant\\n' }}{{- m.content }}",
    """{{- '<|im_start|>assistant\\n' }}
{%- if loop.last or m.reasoning_content %}{{- '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}
{%- endif %}{{- m.content }}""",
)
QWEN3_CODER = (
    _CHATML_HEAD
    + _CALLS
    + """
{{- '<tool_call>\\n<function=' + c.function.name + '>\\n' }}
{%- for k, v in c.function.arguments | items %}{{- '<parameter=' + k + '>\\n' }}
{{- v | tojson if v is mapping or (v is sequence and v is not string) else v | string }}{{- '\\n</parameter>\\n' }}
{%- endfor %}{{- '</function>\\n</tool_call>' }}{%- endfor %}"""
    + _CHATML_TAIL
)
GLM = (
    _CHATML_HEAD
    + _CALLS
    + """
{{- '<tool_call>' + c.function.name }}{%- for k, v in c.function.arguments | items %}
{{- '\\n<arg_key>' + k + '</arg_key>\\n<arg_value>' + (v if v is string else v | tojson) + '</arg_value>' }}
{%- endfor %}{{- '\\n</tool_call>' }}{%- endfor %}"""
    + _CHATML_TAIL
)
# The thought is opened by the prompt, and dropped from what was said earlier.
THINKING = QWEN25.replace(
    "{{- '<|im_start|>assistant\\n' }}{%- endif %}", "{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)
PYTHONIC = (
    _CHATML_HEAD
    + _CALLS
    + """
{{- '[' + c.function.name + '(' }}{%- for k, v in c.function.arguments | items %}{{- k + '=' + v | tojson }}{%- endfor %}
{{- ')]' }}{%- endfor %}"""
    + _CHATML_TAIL
)
CHATML_PLAIN = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
SMOLLM3 = """{{- '<|im_start|>system\\nDate: ' + strftime_now('%d %B %Y') + '\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- endif %}
{%- if xml_tools %}{{- '\\nTools: ' + xml_tools | tojson + '\\nCall with <tool_call>{}</tool_call>.' }}{%- endif %}
{{- '<|im_end|>\\n' }}{%- for m in messages %}{%- if m.role == 'user' or m.role == 'tool' %}
{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}{%- elif m.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' + m.content.lstrip('\\n') + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
LLAMA31 = """{{- bos_token }}{%- if messages[0].role == 'system' %}{%- set sys = messages[0].content | trim %}
{%- set messages = messages[1:] %}{%- else %}{%- set sys = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + strftime_now('%d %b %Y') + '\\n\\n' + sys + '<|eot_id|>' }}
{%- if tools %}{%- set first = messages[0].content | trim %}{%- set messages = messages[1:] %}
{{- '<|start_header_id|>user<|end_header_id|>\\n\\nAnswer in JSON {"name": NAME, "parameters": {}}.\\n\\n' }}
{%- for tool in tools %}{{- tool | tojson(indent=4) + '\\n\\n' }}{%- endfor %}{{- first + '<|eot_id|>' }}{%- endif %}
{%- for m in messages %}{%- if m.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + m.content | tojson + '<|eot_id|>' }}
{%- elif 'tool_calls' in m %}{%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
{%- set c = m.tool_calls[0].function %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + c.name }}
{{- '", "parameters": ' + c.arguments | tojson + '}<|eot_id|>' }}
{%- else %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
LLAMA30 = """{{- bos_token }}{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
_MISTRAL_HEAD = """{%- if messages[0].role == 'system' %}{%- set sys = messages[0].content %}{%- set said = messages[1:] %}
{%- else %}{%- set said = messages %}{%- endif %}{%- set ns = namespace(i=0) %}{%- for m in said %}
{%- if m.role == 'user' or (m.role == 'assistant' and m.tool_calls is not defined) %}
{%- if (m.role == 'user') != (ns.i % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
{%- set ns.i = ns.i + 1 %}{%- endif %}{%- endfor %}{{- bos_token }}
{%- set users = said | selectattr('role', 'equalto', 'user') | list %}{%- for m in said %}{%- if m.role == 'user' %}
{%- if tools and m == users[-1] %}{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{{- '[INST] ' }}{%- if loop.last and sys is defined %}{{- sys + '\\n\\n' }}{%- endif %}{{- m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}{%- if m.tool_call_id | length != 9 %}{{- raise_exception('nine characters') }}{%- endif %}
{{- '[TOOL_RESULTS] {"content": ' + m.content + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- elif m.tool_calls is defined %}"""
_MISTRAL_TAIL = """{%- else %}{{- ' ' + m.content | trim + eos_token }}{%- endif %}{%- endfor %}"""
MISTRAL3 = (
    _MISTRAL_HEAD
    + """{{- '[TOOL_CALLS] [' }}{%- for c in m.tool_calls %}
{%- if c.id | length != 9 %}{{- raise_exception('nine characters') }}{%- endif %}
{{- (c.function | tojson)[:-1] + ', "id": "' + c.id + '"}' + (', ' if not loop.last else ']' + eos_token) }}
{%- endfor %}"""
    + _MISTRAL_TAIL
)
MISTRAL13 = (
    _MISTRAL_HEAD
    + """{%- for c in m.tool_calls %}
{{- '[TOOL_CALLS]' + c.function.name + '[ARGS]' + c.function.arguments | tojson }}{%- endfor %}{{- eos_token }}
"""
    + _MISTRAL_TAIL
)
GEMMA2 = """{{- bos_token }}{%- if messages[0].role == 'system' %}{{- raise_exception('no system role') }}{%- endif %}
{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}{%- endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""
PHI3 = """{%- for m in messages %}{%- if m.role in ['system', 'user', 'assistant'] %}
{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- else %}{{- eos_token }}{%- endif %}"""
PHI4_MINI = """{%- for m in messages %}{%- if m.role == 'system' and m.tools is defined %}
{{- '<|system|>' + m.content + '<|tool|>' + m.tools + '<|/tool|><|end|>' }}
{%- else %}{{- '<|' + m.role + '|>' + m.content + '<|end|>' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""
OLMO2 = """{{- bos_token }}{%- for m in messages %}{%- if m.role in ['system', 'user'] %}
{{- '<|' + m.role + '|>\\n' + m.content + '\\n' }}{%- elif m.role == 'assistant' %}
{{- '<|assistant|>\\n' + m.content + eos_token + ('\\n' if not loop.last else '') }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"""
GPT_OSS = """{{- '<|start|>system<|message|>Date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}
{%- if tools or messages[0].role == 'system' %}{{- '<|start|>developer<|message|>' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- endif %}{%- for t in tools or [] %}
{{- 'type ' + t.function.name + ' = (_: ' + t.function.parameters | tojson + ') => any;' }}{%- endfor %}{{- '<|end|>' }}
{%- endif %}{%- set ns = namespace(call=none) %}{%- for m in messages %}{%- if m.role == 'assistant' %}
{%- if 'tool_calls' in m %}{%- set c = m.tool_calls[0].function %}{%- set ns.call = c.name %}
{%- if m.thinking %}{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{%- endif %}
{{- '<|start|>assistant to=functions.' + c.name + '<|channel|>commentary json<|message|>' }}
{{- c.arguments | tojson + '<|call|>' }}
{%- else %}{{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}
{{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{%- set ns.call = none %}{%- endif %}
{%- elif m.role == 'tool' %}{%- if ns.call is none %}{{- raise_exception('a result without a call') }}{%- endif %}
{{- '<|start|>functions.' + ns.call + ' to=assistant<|channel|>commentary<|message|>' + m.content | tojson + '<|end|>' }}
{%- elif m.role == 'user' %}{{- '<|start|>user<|message|>' + m.content + '<|end|>' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""
DEEPSEEK_V3 = """{%- set ns = namespace(tool=false, first=true, sys='') %}{%- for m in messages %}{%- if m.role == 'system' %}
{%- set ns.sys = ns.sys + m.content %}{%- endif %}{%- endfor %}{{- bos_token + ns.sys }}{%- for m in messages %}
{%- if m.role == 'user' %}{%- set ns.tool = false %}{{- '<|User|>' + m.content }}
{%- elif m.role == 'assistant' and m.content is none %}{%- set ns.tool = false %}{%- for c in m.tool_calls %}
{{- '<|Assistant|><|tool▁calls▁begin|>' if loop.first else '\\n' }}
{{- '<|tool▁call▁begin|>' + c.type + '<|tool▁sep|>' + c.function.name + '\\n```json\\n' + c.function.arguments }}
{{- '\\n```<|tool▁call▁end|>' }}{%- endfor %}{{- '<|tool▁calls▁end|>' + eos_token }}
{%- elif m.role == 'assistant' %}{%- if ns.tool %}{{- '<|tool▁outputs▁end|>' + m.content + eos_token }}
{%- set ns.tool = false %}{%- else %}{{- '<|Assistant|>' + m.content + eos_token }}{%- endif %}
{%- elif m.role == 'tool' %}{%- set ns.tool = true %}{{- '<|tool▁outputs▁begin|>' if ns.first else '\\n' }}
{{- '<|tool▁output▁begin|>' + m.content + '<|tool▁output▁end|>' }}{%- set ns.first = false %}{%- endif %}{%- endfor %}
{%- if ns.tool %}{{- '<|tool▁outputs▁end|>' }}{%- elif add_generation_prompt %}{{- '<|Assistant|>' }}{%- endif %}"""
GRANITE3 = """{%- if messages[0].role == 'system' %}{%- set sys = messages[0].content %}{%- set messages = messages[1:] %}
{%- else %}{%- set sys = 'Date: ' + strftime_now('%B %d, %Y') %}{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + sys + '<|end_of_text|>\\n' }}
{%- if tools %}{{- '<|start_of_role|>available_tools<|end_of_role|>' + tools | tojson(indent=4) + '<|end_of_text|>\\n' }}
{%- endif %}{%- for m in messages %}
{{- '<|start_of_role|>' + ('tool_response' if m.role == 'tool' else m.role) + '<|end_of_role|>' + m.content }}
{%- for c in m.tool_calls or [] %}{{- ('<|tool_call|>[' if loop.first else ', ') + c.function | tojson }}
{{- ']' if loop.last else '' }}{%- endfor %}{{- '<|end_of_text|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"""


@dataclass(frozen=True)
class Family:
    """A template with its tokens and its model class.

    Attributes:
        template: Jinja text.
        special, added: special tokens, and tokens that are added but not special.
        eos, bos: of the tokenizer.
        model: name of the class, without `Config` and `ForCausalLM`.
        sizes: of the model, besides the usual ones.
        several: a turn can hold several calls.
    """

    template: str
    special: Sequence[str]
    eos: str
    bos: str | None = None
    model: str = "Llama"
    added: Sequence[str] = ()
    sizes: Mapping[str, Any] = field(default_factory=dict)
    several: bool = True


def _chatml(template: str, model: str, added: Sequence[str] = HERMES_MARKS, **sizes: Any) -> Family:
    return Family(template, CHATML, "<|im_end|>", None, model, added, sizes)


_MOE = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "qk_nope_head_dim": 8,
}
FAMILIES: Mapping[str, Family] = {
    "qwen2.5": _chatml(QWEN25, "Qwen2"),
    "qwen3": _chatml(QWEN3, "Qwen3", head_dim=8),
    "qwen3_thinking": _chatml(THINKING, "Qwen3", head_dim=8),
    "qwen3_coder": _chatml(
        QWEN3_CODER, "Qwen3Moe", head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
    "glm4.5": _chatml(GLM, "Glm4Moe", head_dim=8, **_MOE),
    "chatml": _chatml(CHATML_PLAIN, "Llama", added=()),
    "smollm3": _chatml(SMOLLM3, "SmolLM3", num_hidden_layers=4),
    "llama3.1": Family(LLAMA31, LLAMA, "<|eot_id|>", "<|begin_of_text|>", several=False),
    "llama3.0": Family(LLAMA30, LLAMA, "<|eot_id|>", "<|begin_of_text|>"),
    "mistral": Family(MISTRAL3, MISTRAL, "</s>", "<s>", "Mistral", sizes={"sliding_window": 64}),
    "mistral_tekken": Family(MISTRAL13, MISTRAL, "</s>", "<s>", "Mistral", sizes={"sliding_window": None}),
    "gemma2": Family(
        GEMMA2,
        GEMMA,
        "<eos>",
        "<bos>",
        "Gemma2",
        sizes={"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8},
    ),
    "gemma3": Family(
        GEMMA2,
        GEMMA,
        "<eos>",
        "<bos>",
        "Gemma3",
        sizes={"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8, "num_hidden_layers": 6},
    ),
    "phi3": Family(PHI3, PHI, "<|endoftext|>", None, "Phi3", sizes={"sliding_window": 64}),
    "phi4_mini": Family(PHI4_MINI, PHI, "<|endoftext|>", None, "Phi3"),
    "olmo2": Family(OLMO2, ("<|endoftext|>", "<|pad|>"), "<|endoftext|>", "<|endoftext|>", "Olmo2"),
    "gpt_oss": Family(
        GPT_OSS,
        HARMONY,
        "<|return|>",
        None,
        "GptOss",
        several=False,
        sizes={"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64},
    ),
    "deepseek_v3": Family(DEEPSEEK_V3, DEEPSEEK, "<eos>", "<bos>", "DeepseekV3", sizes={**_MOE, **_MLA}),
    "granite": Family(GRANITE3, GRANITE, "<|end_of_text|>", "<|end_of_text|>", "Granite"),
}
_TEXT = [
    "You answer questions with tools. What is 12 + 34? Answer with the number alone, or call a function.",
    '{"type": "function", "function": {"name": "calculate", "parameters": {"type": "object"}}}',
] * 10


def tokenizer_of(family: Family) -> Any:
    """A byte-level tokenizer with the family's tokens and template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(_TEXT, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    bpe.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in family.special])
    bpe.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.added])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=family.eos, bos_token=family.bos, chat_template=family.template
    )


def save_folder(name: str, folder: Path) -> Path:
    """A model folder of a family, with random weights."""
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family)
    sizes = {
        "vocab_size": len(tokenizer) + 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,
        "pad_token_id": 0,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    kind = "Gemma3Text" if family.model == "Gemma3" else family.model
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **family.sizes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family.model}ForCausalLM")(config)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
