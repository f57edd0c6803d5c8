"""What rank 0 says to the other ranks of a learner: what each of them does now, in step with it.

A call that rank 0 makes, all ranks make; what they exchange meanwhile is `agentrl.learning.parallel.ranks`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from agentrl.learning.apart import ApartLearner
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import Objective
from agentrl.learning.parallel.ranks import Ranks
from agentrl.learning.parallel.sharded import copy_weights, is_sharded
from agentrl.learning.parallel.whole import in_parts, spread_weights, whole_state
from agentrl.learning.rows import Row


@dataclass(frozen=True)
class Join:
    """The first message to a rank.

    Attributes:
        rank, size: its number, and how many there are.
        port: of this machine, where the ranks find each other.
        backend: of `torch.distributed`.
        device: of its learner.
        whole_device: where it keeps a whole model.
        threads: of torch.
    """

    rank: int
    size: int
    port: int
    backend: str
    device: str
    whole_device: str
    threads: int


@dataclass(frozen=True)
class Gone:
    """To the trainer: the exchange with the other ranks failed; one of them is the cause."""

    error: Exception


class Rank:
    """What a rank other than 0 holds between calls.

    Args:
        ranks: this one and the others.
        model: a whole one, whose weights each learner begins by taking from rank 0.
        device: of its learners.
    """

    def __init__(self, ranks: Ranks, model: nn.Module, device: torch.device) -> None:
        self.ranks, self.model, self.device = ranks, model, device
        self.learner: Learner


class Call(ABC):
    """Something that all ranks do."""

    @abstractmethod
    async def take_part(self, rank: Rank) -> None:
        """Do what rank 0 is doing. Args: rank: another one."""


@dataclass(frozen=True)
class Begin(Call):
    """Make a learner with a new optimizer.

    Attributes:
        settings, objective, temperature, total_steps: as of `Learner`.
        apart: of a copy of the model, as `ApartLearner`.
        shard: as of `Learner`.
    """

    settings: LearnerSettings
    objective: Objective
    temperature: float
    total_steps: int
    apart: bool = False
    shard: bool = False

    async def take_part(self, rank: Rank) -> None:
        if hasattr(rank, "learner"):
            del rank.learner  # its memory is needed
        model = deepcopy(rank.model).to(rank.device) if self.shard else rank.model
        spread_weights(model, rank.ranks)
        given = (model, self.settings, self.objective)
        if self.apart:
            rank.learner = ApartLearner(*given, ranks=rank.ranks, **self.numbers)
        else:
            rank.learner = Learner(*given, ranks=rank.ranks, shard=self.shard, **self.numbers)

    @property
    def numbers(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "total_steps": self.total_steps}


@dataclass(frozen=True)
class Fill(Call):
    """Fill a column of rows."""

    rows: Sequence[Row]
    column: str

    async def take_part(self, rank: Rank) -> None:
        await rank.learner.fill(self.rows, self.column)


@dataclass(frozen=True)
class Update(Call):
    """Update from rows. Attributes: num_steps, total_steps: of the learner, which a stage may set."""

    rows: Sequence[Row]
    objective: Objective
    num_steps: int
    total_steps: int | None

    async def take_part(self, rank: Rank) -> None:
        learner = rank.learner
        learner.num_steps, learner.total_steps = self.num_steps, self.total_steps
        if learner.settings.dropout:  # a rank has no random state of its own that a checkpoint would have to hold
            seeds = np.random.SeedSequence([learner.settings.seed, self.num_steps, rank.ranks.rank])
            torch.manual_seed(int(seeds.generate_state(1)[0]))
        await learner.update(self.rows, self.objective)
        if is_sharded(learner.model):
            copy_weights(learner.model, None)


@dataclass(frozen=True)
class Gather(Call):
    """Give this rank's parts of the learner's state."""

    async def take_part(self, rank: Rank) -> None:
        whole_state(rank.learner, rank.learner.state_dict())


@dataclass(frozen=True)
class Load(Call):
    """Continue from the learner's state in a file. Attributes: key: of the state in it."""

    file: str
    key: str

    async def take_part(self, rank: Rank) -> None:
        state = torch.load(self.file, map_location="cpu", weights_only=True, mmap=True)[self.key]
        rank.learner.load_state_dict(in_parts(rank.learner, state))


@dataclass(frozen=True)
class Stop(Call):
    """End."""

    async def take_part(self, rank: Rank) -> None:
        raise StopFollowing


class StopFollowing(Exception):
    """The trainer needs this rank no longer."""
