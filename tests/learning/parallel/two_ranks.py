"""What the tests of ranks run, alone and as two processes of one gloo group: this module is imported by both."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from agentrl.errors import ModelError
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import OBJECTIVES, Objective, Total
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.supervised import Supervised
from agentrl.learning.objectives.value import Value
from agentrl.learning.parallel.checkpoint import load_parts, save_parts
from agentrl.learning.parallel.ranks import Ranks
from agentrl.learning.parallel.sharded import copy_weights
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
        shard: whether two ranks share the weights too.
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
    shard: bool = False


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
SHARDED: dict[str, Case] = {
    name: replace(case, shard=True)
    for name, case in {**GRADIENTS, **UPDATES}.items()
    if name not in ("muon", "bfloat16")
}


@dataclass(frozen=True)
class Outcome:
    """What a case left: gradients (of the masters, where there are any), weights, metrics of each step, filled rows."""

    gradients: Mapping[str, torch.Tensor]
    weights: Mapping[str, torch.Tensor]
    metrics: list[dict[str, float]]
    filled: list[Mapping[str, np.ndarray]] = field(default_factory=list)


async def outcome_of(case: Case, ranks: Ranks, device: str = "cpu") -> Outcome:
    model = model_of(case.kind, case.dtype).to(device)  # type: ignore[arg-type]
    learner = Learner(model, case.settings, case.objective, ranks=ranks, shard=case.shard and ranks.size > 1)
    head = learner.models.value_head
    if head is not None:  # zero at first, which would hide the model's own gradient
        with torch.no_grad():
            head.weight.copy_(torch.linspace(-1, 1, 32, device=device)[None])
    metrics, filled = [], []
    for step in range(case.steps):
        rows = case.rows(step)
        for column in case.filled:
            rows = await learner.fill(rows, column)
        filled += [{name: row.column(name) for name in case.filled} for row in rows]
        metrics.append(await learner.update(rows, case.objective))
    named = [*model.named_parameters(), *([] if head is None else head.named_parameters(prefix="value_head"))]
    owned = {name: learner.masters.of(p) for name, p in named}
    gradients = {name: whole(p.grad) for name, p in owned.items() if p.grad is not None}
    return Outcome(gradients, {name: whole(p.detach()) for name, p in owned.items()}, metrics, filled)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor, put together where ranks hold parts of it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


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
    found |= {f"{name}, sharded": await outcome_of(case, ranks) for name, case in SHARDED.items()}
    items = [f"item {number}" for number in range(7)]
    return {**found, "refusals": await refusals(ranks), "whole": ranks.whole(ranks.part(items))}


CHECKPOINT = Case(PPO, settings=STEPS, steps=2, filled=("old_logprobs", "values"))


async def first_step(ranks: Ranks, folder: Path, *, shard: bool = True) -> None:
    """One update, and a checkpoint of it in the folder."""
    learner = Learner(model_of(CHECKPOINT.kind, CHECKPOINT.dtype), STEPS, PPO, ranks=ranks, shard=shard)
    await learner.update(await filled_rows(learner, 0), PPO)
    save_parts(learner, folder)


async def second_step(
    ranks: Ranks, folder: Path, *, shard: bool = True
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Weights and metrics after the second update, from the checkpoint of the first one."""
    learner = Learner(model_of(CHECKPOINT.kind, CHECKPOINT.dtype, seed=9), STEPS, PPO, ranks=ranks, shard=shard)
    load_parts(learner, folder)
    metrics = await learner.update(await filled_rows(learner, 1), PPO)
    return {name: whole(p.detach()) for name, p in learner.model.named_parameters()}, metrics


async def filled_rows(learner: Learner, step: int) -> list[Row]:
    rows = CHECKPOINT.rows(step)
    for column in CHECKPOINT.filled:
        rows = await learner.fill(rows, column)
    return rows


async def _copied(ranks: Ranks) -> bool:
    """Whether a whole model that took the weights of one that ranks share answers as one that never was shared."""
    learner = Learner(model_of(), STILL, Supervised(), ranks=ranks, shard=True)
    sampler = model_of(seed=9)
    copy_weights(learner.model, sampler)
    expected = dict(model_of().named_parameters())
    return all(torch.equal(p, expected[name]) for name, p in sampler.named_parameters())


async def _kept(ranks: Ranks, folder: Path) -> dict[str, Any]:
    await first_step(ranks, folder / "two")
    said = ""
    try:
        await first_step(ranks, folder / "two")
    except FileExistsError as error:
        said = str(error)
    return {"second": await second_step(ranks, folder / "two"), "refused": said, "copied": await _copied(ranks)}


def work_of_three(rank: int, folder: str) -> None:
    """One of three processes: the second step, from a checkpoint of two."""
    with _group(rank, 3, Path(folder)):
        torch.save(asyncio.run(second_step(Ranks.of(), Path(folder).parent / "two")), Path(folder) / f"{rank}.pt")


def work(rank: int, folder: str) -> None:
    """One of two processes: all cases, saved as FOLDER/RANK.pt."""
    with _group(rank, 2, Path(folder)):
        found = asyncio.run(_all_of(Ranks.of()))
        torch.save(found | asyncio.run(_kept(Ranks.of(), Path(folder))), Path(folder) / f"{rank}.pt")


@contextmanager
def _group(rank: int, size: int, folder: Path) -> Iterator[None]:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    meeting, patience = f"file://{folder.as_posix()}/meeting", timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=patience)
    try:
        yield
    finally:
        dist.destroy_process_group()
