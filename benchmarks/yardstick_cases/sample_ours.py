"""Planned turns by AgentRL or by `generate`: python sample_ours.py MODEL DTYPE PLANS exact|engine|generate.

The engine is made once, as in a run; what that costs is a figure of its own. `exact` is its default on a CPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from words import cpu_s, report

sys.path.insert(0, str(Path(__file__).parents[1]))
from engine import Plan, make_engine, play, run_generate

from agentrl.policy import model_folder


def main() -> None:
    folder, dtype, plans, who = sys.argv[1:5]
    torch.set_num_threads(1)
    model, _ = model_folder.load(folder, dtype=getattr(torch, dtype))
    first, plan = (Plan(**json.loads(Path(plans).read_text())[name]) for name in ("first", "whole"))
    started = cpu_s()
    engine = None if who == "generate" else make_engine(model, len(plan.prompts), exact=who == "exact")
    made = cpu_s() - started

    def chosen(of: Plan) -> object:
        return run_generate(model, of) if engine is None else play(engine, of)

    chosen(first)  # memory for keys and values, and prepared products
    started = cpu_s()
    chosen(plan)
    taken = round(cpu_s() - started, 3)
    report(model.config.hidden_size, cpu_s=taken, made_s=round(made, 3), sampled_tokens=plan.sampled, versions={})


if __name__ == "__main__":
    main()
