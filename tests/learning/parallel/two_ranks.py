"""What the tests of ranks run, alone and as two processes of one gloo group: this module is imported by both."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from agentrl.errors import ModelError
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import OBJECTIVES, Objective, Total
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.supervised import Supervised
from agentrl.learning.objectives.value import Value
from agentrl.learning.parallel.ranks import Ranks
from agentrl.learning.rows import Row
from tests.learning.fixtures import model_of, rows_of
from tests.learning.objectives.test_any_layout import MADE, OTHERS, with_pair_columns

STILL = LearnerSettings(lr=0.0, max_grad_norm=0.0)  # an update that only leaves its gradient behind
PACKED = replace(STILL, layout="pack", micro_batch_tokens=45)
UNEVEN, PAIRED = (2, 23, 7, 40, 3, 11, 31), (9, 23, 7, 40, 3, 11, 31, 5)
PPO = Total(((1.0, PPOClip()), (0.5, Value())))
STEPS = LearnerSettings(lr=1e-4, max_grad_norm=0.01, num_epochs=2, num_minibatches=3, weight_decay=0.1)


def in_pairs(seed: int) -> list[Row]:
    """Eight rows: four pairs, of which one side has two turns."""
    return [with_pair_columns(row) for row in rows_of(seed, PAIRED)]


def one_row(seed: int) -> list[Row]:
    """All of it is one rank's: the other has nothing to do."""
    return in_pairs(seed)[3:4]


def one_pair(seed: int) -> list[Row]:
    return in_pairs(seed)[2:4]


def infinite(seed: int) -> list[Row]:
    """The first step has a row of infinite weight, which one rank has; the second step has none."""
    rows = rows_of(seed, UNEVEN)
    weight = np.where(rows[3].mask, np.inf, 0).astype(np.float32)
    return rows if seed else [*rows[:3], rows[3].with_columns(coefficients=weight), *rows[4:]]


@dataclass(frozen=True)
class Case:
    """One or more updates from the same start.

    Attributes:
        rows: of a step's number; each process calls it.
        steps: how many.
        filled: columns that the learner fills before each.
        dtype, kind: of the model.
    """

    objective: Objective
    rows: Callable[[int], list[Row]] = in_pairs
    settings: LearnerSettings = STILL
    steps: int = 1
    filled: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float64
    kind: str = "qwen3"


@dataclass(frozen=True)
class ByAggregation:
    """Rows of one aggregation, as a value that can be compared."""

    aggregation: str

    def __call__(self, seed: int) -> list[Row]:
        return rows_of(seed, UNEVEN, self.aggregation)  # type: ignore[arg-type]


_ALL = {**MADE, **OTHERS}
_TO_PACK = ("ppo_clip", "value", "supervised", "gspo of turns", "centred reward model", "gspo and ipo")
GRADIENTS: dict[str, Case] = {
    **{f"{name} padded": Case(objective) for name, objective in _ALL.items()},
    **{f"{name} packed": Case(_ALL[name], settings=PACKED) for name in _TO_PACK},
    **{
        f"{name} by {aggregation}": Case(OBJECTIVES.find(name)(), ByAggregation(aggregation))
        for name in ("ppo_clip", "gspo", "cispo", "policy_gradient")
        for aggregation in ("token", "sequence", "constant")
    },
    **{f"{name} with an idle rank": Case(_ALL[name], one_row) for name in ("ppo_clip", "supervised", "value")},
    "dpo with an idle rank": Case(_ALL["dpo"], one_pair),
}
UPDATES: dict[str, Case] = {
    "ppo": Case(PPO, settings=STEPS, steps=2, filled=("old_logprobs", "values")),
    "ppo packed": Case(PPO, settings=replace(STEPS, layout="pack", micro_batch_tokens=45), steps=2, filled=("values",)),
    "ppo with an idle rank": Case(PPO, one_row, replace(STEPS, num_minibatches=1), steps=2, filled=("values",)),
    "float32": Case(PPOClip(), settings=STEPS, steps=2, dtype=torch.float32),
    "bfloat16": Case(PPOClip(), settings=STEPS, steps=2, dtype=torch.bfloat16),
    "muon": Case(PPOClip(), settings=replace(STEPS, optimizer="muon"), steps=2),
    "dpo": Case(_ALL["dpo"], settings=STEPS, steps=2, filled=("reference_logprobs",)),
    # The head of an untied model has no gradient on any rank: weight decay must not move it.
    "unused head": Case(Value(), settings=STEPS, steps=2, filled=("values",), kind="llama"),
    "not finite": Case(PPOClip(), infinite, replace(STEPS, num_minibatches=1, num_epochs=1), steps=2),
}


@dataclass(frozen=True)
class Outcome:
    """What a case left: gradients (of the masters, where there are any), weights, metrics of each step, filled rows."""

    gradients: Mapping[str, torch.Tensor]
    weights: Mapping[str, torch.Tensor]
    metrics: list[dict[str, float]]
    filled: list[Mapping[str, np.ndarray]] = field(default_factory=list)


async def outcome_of(case: Case, ranks: Ranks) -> Outcome:
    model = model_of(case.kind, case.dtype)
    learner = Learner(model, case.settings, case.objective, ranks=ranks)
    head = learner.models.value_head
    if head is not None:  # zero at first, which would hide the model's own gradient
        with torch.no_grad():
            head.weight.copy_(torch.linspace(-1, 1, 32)[None])
    metrics, filled = [], []
    for step in range(case.steps):
        rows = case.rows(step)
        for column in case.filled:
            rows = await learner.fill(rows, column)
        filled += [{name: row.column(name) for name in case.filled} for row in rows]
        metrics.append(await learner.update(rows, case.objective))
    named = [*model.named_parameters(), *([] if head is None else head.named_parameters(prefix="value_head"))]
    owned = {name: learner.masters.of(p) for name, p in named}
    gradients = {name: p.grad.clone() for name, p in owned.items() if p.grad is not None}
    return Outcome(gradients, {name: p.detach().clone() for name, p in owned.items()}, metrics, filled)


async def refusals(ranks: Ranks) -> dict[str, str]:
    """What each rank is told where they cannot work together."""
    said = {}
    try:
        Learner(model_of(seed=ranks.rank), STILL, Supervised(), ranks=ranks)
    except ValueError as error:
        said["weights"] = str(error)
    try:
        Learner(model_of(), replace(STILL, seed=ranks.rank), Supervised(), ranks=ranks)
    except ValueError as error:
        said["settings"] = str(error)
    learner = Learner(model_of(), STILL, Supervised(), ranks=ranks)
    try:
        await learner.update(ranks.part(in_pairs(0)), Supervised())
    except ValueError as error:
        said["rows"] = str(error)
    learner = Learner(model_of(), replace(STILL, max_mismatch=0.1), PPOClip(), ranks=ranks)
    try:
        await learner.update(one_row(0), PPOClip())
    except ModelError as error:
        said["mismatch"] = str(error)
    try:
        ranks.whole([1, 2] if ranks.rank else [1])
    except ValueError as error:
        said["parts"] = str(error)
    return said


async def _all_of(ranks: Ranks) -> dict[str, Any]:
    found: dict[str, Any] = {name: await outcome_of(case, ranks) for name, case in {**GRADIENTS, **UPDATES}.items()}
    items = [f"item {number}" for number in range(7)]
    return {**found, "refusals": await refusals(ranks), "whole": ranks.whole(ranks.part(items))}


def work(rank: int, folder: str) -> None:
    """One of two processes: all cases, saved as FOLDER/RANK.pt."""
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    meeting, patience = f"file://{Path(folder).as_posix()}/meeting", timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=patience)
    try:
        torch.save(asyncio.run(_all_of(Ranks.of())), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
