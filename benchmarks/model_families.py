"""Which causal language models of `transformers` can be trained: one small random model of every family.

Each is saved as a folder, loaded, proved, and trained for two RL steps on an environment that pays by chance. Said of
each is where the engine keeps an episode's state, and how far the log-probabilities of sampling and of training are
apart, or why it was refused. A family whose own forward pass fails at these sizes is `not built`: that says nothing of
AgentRL. Finished families are not tried again.

    python benchmarks/model_families.py --out runs/model-families [--only qwen3_5_text,mamba] [--table]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import queue
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from agentrl import Tasks, ToolEnv, register, tool
from agentrl.errors import ModelError
from agentrl.policy.local import LocalPolicy
from agentrl.policy.tiny import build_tokenizer
from agentrl.training.plan import TrainConfig
from agentrl.training.train import train

MOST_WEIGHTS, MOST_S = 30_000_000, 150
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width", "embedding_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "intermediate_size_mlp"), 128),
    **dict.fromkeys(("num_attention_heads", "n_head", "decoder_attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 1024),
    **dict.fromkeys(("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 64),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "n_shared_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "num_key_value_heads", "altup_num_inputs"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim", "mamba_chunk_size", "chunk_size"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "laurel_rank", "adapter_rank", "state_size"), 8),
    **dict.fromkeys(("hidden_size_per_layer_input", "index_head_dim", "global_head_dim"), 16),
}
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
_LINEAR, _FULL, _SLIDING = "linear_attention", "full_attention", "sliding_attention"
_LATENT = {"num_key_value_heads": 4}
_WINDOWS: dict[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": [_SLIDING, _FULL] * 2,
    "num_kv_shared_layers": 0,
    "sliding_window": 32,
}
_CHOSEN = {**_LATENT, "index_topk": 64, "index_n_heads": 2}
_CONVOLVED: dict[str, Any] = {"num_hidden_layers": 3, "layer_types": ["conv", _FULL, "conv"]}
_FOUR = {"num_hidden_layers": 4}
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu", "axk1"), _LATENT),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _CHOSEN),
    "bamba": {"num_hidden_layers": 3, "attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {**_WINDOWS, "intermediate_size": 128, "activation_sparsity_pattern": None},
    "gemma4_text": {**_WINDOWS, "head_dim": 16},
    "granitemoehybrid": {"num_hidden_layers": 3, "layer_types": [_LINEAR, _FULL, _LINEAR]},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    **dict.fromkeys(("lfm2", "lfm2_moe"), _CONVOLVED),
    "llama4_text": {"num_hidden_layers": 4, "num_local_experts": 2, "attention_chunk_size": 32},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "nemotron_h": {"layers_block_type": [_LINEAR, "moe", _FULL, "mlp"], "moe_shared_expert_intermediate_size": 64},
    **dict.fromkeys(("olmo_hybrid", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _FOUR),
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 32},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": [_LINEAR, "hybrid"] * 2, "num_mem_blocks": 1},
}
"""Sizes that a family needs as well as the others, or instead of them."""


@register("bench/Chance-v0", max_turns=4)
class Chance(ToolEnv):
    """Pays by chance, so that the episodes of a group differ."""

    tasks = Tasks.of(train=[{"n": n} for n in range(100)], eval=[{"n": 100}])
    score_truncated = True

    async def start(self, task: Any) -> str:
        return f"What is {task.data['n']} and what comes after it?"

    @tool
    def look_up(self, key: str) -> str:
        """Look something up."""
        return key * 3

    async def score(self, answer: str | None) -> float:
        return random.random()


def build(family: str, folder: Path) -> str:
    """Save a small model of a family. Returns: its class. Raises: whatever the family raises at these sizes."""
    tokenizer = build_tokenizer([Chance.__doc__ or ""], vocab_size=400)
    usual = AutoConfig.for_model(family).to_dict()
    known = {name: value for name, value in SIZES.items() if name in usual}
    known |= {name: 2 for name in LAYERS if name in usual} | {"vocab_size": len(tokenizer)}
    if "vocab_size_per_layer_input" in usual:
        known["vocab_size_per_layer_input"] = len(tokenizer)
    if "head_dim" in usual and "qk_rope_head_dim" not in usual:
        known["head_dim"] = 16
    if "rotary_dim" in usual:
        known["rotary_dim"] = 8
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": 1}
    config = AutoConfig.for_model(family, **{**known, **ends, **OWN.get(family, {})})
    from_config: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        count = sum(p.numel() for p in from_config(config).parameters())
    if count > MOST_WEIGHTS:
        raise ValueError(f"{count:,} weights at these sizes")
    torch.manual_seed(0)
    model = from_config(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.05)
        model(input_ids=torch.arange(20, 40)[None])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return type(model).__name__


def trained(folder: Path, run: Path) -> dict[str, Any]:
    """Two RL steps. Returns: where state is kept, and the largest mean difference of log-probabilities, in nats."""
    state = LocalPolicy.from_folder(folder, max_context=512).engine.options.state
    table = {
        "env": {"id": "bench/Chance-v0"},
        "model": {"path": str(folder), "max_context": 512},
        "sampling": {"max_tokens": 24},
        "run": {"tensorboard": False, "evaluate_every": 0},
        "stages": {"rl": {"kind": "reinforce", "steps": 2, "playing": {"prompts_per_step": 2, "group_size": 4}}},
    }
    train(TrainConfig.of(table), run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {"state": state, "nats": max(line["mismatch/nats"] for line in lines if "mismatch/nats" in line)}


def try_family(family: str, scratch: Path, found: Any) -> None:
    """Put what was found out about a family into a queue."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    cell: dict[str, Any] = {"family": family, "state": "not built"}
    try:
        cell["class"] = build(family, scratch / "model")
        cell["state"] = "failed"
        cell |= trained(scratch / "model", scratch / "run")
    except ModelError as error:
        cell |= {"state": "refused", "why": " ".join(str(error).split())[:300]}
    except Exception as error:
        cell["why"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    found.put(cell)


def run_family(family: str, out: Path) -> dict[str, Any]:
    """Try a family in a process of its own."""
    context = multiprocessing.get_context("fork")
    found: Any = context.Queue()
    scratch = out / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    process = context.Process(target=try_family, args=(family, scratch, found))
    process.start()
    try:
        cell: dict[str, Any] = found.get(timeout=MOST_S)
    except queue.Empty:
        cell = {"family": family, "state": "failed", "why": f"not done after {MOST_S} s, or its process ended"}
    process.kill()
    process.join()
    shutil.rmtree(scratch, ignore_errors=True)
    return cell


def table(cells: list[dict[str, Any]]) -> str:
    lines = ["| family | class | state is kept in | apart, nats | why not |", "|---|---|---|---:|---|"]
    for cell in sorted(cells, key=lambda cell: str(cell["family"])):
        if cell["state"] != "not built":
            nats = f"{cell['nats']:.0e}" if "nats" in cell else ""
            why = str(cell.get("why", "")).split(". An inference")[0].replace("|", "\\|")
            lines.append(f"| {cell['family']} | {cell['class']} | {cell['state']} | {nats} | {why} |")
    counts = Counter(str(cell["state"]) for cell in cells)
    return "\n".join([*lines, "", ", ".join(f"{count} {state}" for state, count in counts.most_common())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/model-families"))
    parser.add_argument("--only", help="comma-separated")
    parser.add_argument("--table", action="store_true", help="print what is there, and try nothing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "families.jsonl"
    cells = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {cell["family"] for cell in cells}
    wanted = given.only.split(",") if given.only else sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    for family in [] if given.table else [name for name in wanted if name not in done]:
        cells.append(run_family(family, given.out))
        with file.open("a") as lines:
            lines.write(json.dumps(cells[-1]) + "\n")
        print(f"{family}: {cells[-1]['state']} {cells[-1].get('nats', cells[-1].get('why', ''))}", flush=True)
    print(table(cells))


if __name__ == "__main__":
    main()
