"""No objective's gradient depends on micro-batches or layout, whatever its unit, alone or added to another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import OBJECTIVES, Total
from agentrl.learning.objectives.gspo import GSPO
from agentrl.learning.objectives.preference import DPO, IPO, BradleyTerry
from agentrl.learning.objectives.regularizers import ReferenceKL

WIDE = GSPO(clip_low=0.9, clip_high=9.0)
MADE = {name: OBJECTIVES.find(name)() for name in OBJECTIVES.names if name not in ("total", "reference_distance")}
OTHERS = {
    "gspo of turns": GSPO(clip_low=0.9, clip_high=9.0, sequence="turn"),
    "robust dpo": DPO(label_smoothing=0.2, robust=True),
    "centred reward model": BradleyTerry(margin=0.5, center=0.1),
    "corrected kl": ReferenceKL(gradient="ratio"),
    "gspo and ipo": Total(((1.0, WIDE), (0.5, IPO()))),
}


@pytest.mark.parametrize("objective", [*MADE.values(), *OTHERS.values()], ids=[*MADE, *OTHERS])
async def test_no_gradient_depends_on_the_layout(objective, make_model, make_rows):
    """Eight rows: four pairs, of which one side has two turns."""
    model = make_model()
    rows = [with_pair_columns(row) for row in make_rows(lengths=(9, 23, 7, 40, 3, 11, 31, 5))]
    found = []
    for layout, tokens in (("pad", 10_000), ("pad", 1), ("pack", 45), ("pack", 90)):
        settings = LearnerSettings(lr=0.0, max_grad_norm=0.0, layout=layout, micro_batch_tokens=tokens)
        learner = Learner(model, settings, objective)
        if learner.models.value_head is not None:  # zero at first, which would hide the model's own gradient
            with torch.no_grad():
                learner.models.value_head.weight.copy_(torch.linspace(-1, 1, 32)[None])
        await learner.update(rows, objective)
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    whole = found[0]
    largest = max(float(g.abs().max()) for g in whole.values())
    assert largest > 0
    rounding = 1e-5 if objective.needs else 1e-6  # the value head is float32
    for other in found[1:]:
        assert max(float((other[n] - whole[n]).abs().max()) for n in whole) < rounding * largest


def with_pair_columns(row):
    """The row as a side of a pair, with what a reference, a value head and the returns would have said."""
    rng = np.random.default_rng(row.trajectory)
    places = np.flatnonzero(row.mask)
    turns = np.where(row.mask, np.arange(len(row)) > places[len(places) // 2], -1).astype(np.int32)
    last = np.zeros(len(row), np.float32)
    last[places[-1]] = 1.0
    columns = {
        "sign": np.where(row.mask, 1.0 if row.trajectory % 2 else -1.0, 0.0),
        "reference_logprobs": np.where(row.mask, rng.normal(-4, 1, len(row)), 0.0),
        "values": np.where(row.mask, rng.normal(size=len(row)), 0.0),
        "returns": np.where(row.mask, rng.normal(size=len(row)), 0.0),
        "reward_gap": row.mask.astype(float),
        "expert": np.where(row.mask, rng.random(len(row)), 0.0),
    }
    made = row.with_columns(turns=turns, last=last, **{n: v.astype(np.float32) for n, v in columns.items()})
    return type(row)(made.ids, made.mask, made.columns, row.trajectory, row.trajectory // 2)
