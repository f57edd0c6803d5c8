"""A loss during which one rank of a learner fails, in a way of its own."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import Sums
from agentrl.learning.objectives.ppo_clip import PPOClip


@dataclass(frozen=True)
class Fatal(PPOClip):
    """The loss of PPO.

    Attributes:
        counts: a file that grows with each micro-batch of the rank, also over several processes.
        how: `raise`, `memory`, or the name of a signal.
        rank: that fails.
        at: number of the micro-batch in which it does, from 1.
    """

    counts: str = ""
    how: str = "SIGKILL"
    rank: int = 1
    at: int = 1

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        if self.counts and dist.is_initialized() and dist.get_rank() == self.rank:
            with Path(self.counts).open("a") as file:
                file.write(".")
            if Path(self.counts).stat().st_size == self.at:
                _fail(self.how, self.rank)
        return super().__call__(batch, scores)


def _fail(how: str, rank: int) -> None:
    if how == "raise":
        raise ValueError(f"rank {rank} cannot compute this loss")
    if how == "memory":
        raise torch.OutOfMemoryError(f"rank {rank} has no memory left")
    os.kill(os.getpid(), signal.Signals[how])


def no_children() -> bool:
    """Whether this process has no process of its own, apart from that which watches over shared memory."""
    return not children()


def children() -> list[int]:
    """The processes that this one has started, and not waited for."""
    found: list[Any] = []
    for path in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        found += path.read_text().split()
    return [int(pid) for pid in found if "learners.follower" in Path(f"/proc/{pid}/cmdline").read_text()]
