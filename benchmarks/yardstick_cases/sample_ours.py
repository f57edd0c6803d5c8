"""Planned turns with AgentRL's engine or with `generate`: python sample_ours.py MODEL DTYPE PLANS engine|generate."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from words import cpu_s, report

sys.path.insert(0, str(Path(__file__).parents[1]))
from engine import Plan, run_engine, run_generate

from agentrl.policy import model_folder


def main() -> None:
    folder, dtype, plans, who = sys.argv[1:5]
    torch.set_num_threads(1)
    model, _ = model_folder.load(folder, dtype=getattr(torch, dtype))
    small, plan = (Plan(**json.loads(Path(plans).read_text())[name]) for name in ("small", "whole"))

    def chosen(of: Plan) -> object:
        return run_engine(model, of, len(of.prompts)) if who == "engine" else run_generate(model, of)

    chosen(small)  # allocations and prepared products
    started = cpu_s()
    chosen(plan)
    report(model.config.hidden_size, cpu_s=round(cpu_s() - started, 3), sampled_tokens=plan.sampled, versions={})


if __name__ == "__main__":
    main()
