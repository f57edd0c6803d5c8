"""Which processes learn: this one, or several ranks of this machine. Owns their beginning and end, and what is refused.

The process that the user starts is rank 0. It alone plays, decides and writes files.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from agentrl.distributed.learners.calls import Begin
from agentrl.distributed.learners.lead import LeadApartLearner, LeadLearner
from agentrl.distributed.learners.team import Team
from agentrl.errors import ConfigError
from agentrl.learning.apart import ApartLearner
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.parallel.sharded import check_parts_suffice
from agentrl.training.checkpoint import LEARNER, STATE, Checkpoint
from agentrl.training.model_setup import device_of
from agentrl.training.settings import ScaleConfig


class Learners:
    """Makes the learners of a run; a context manager, which ends the other ranks. They start with the first learner.

    If a rank is lost, the task that entered the context ends with LearnerLost, also while it waits for episodes.

    Args:
        scale: how many ranks.
        publish: as of `Learner`.
    """

    def __init__(self, scale: ScaleConfig, publish: Callable[[], int]) -> None:
        self._scale, self._publish = scale, publish
        self._team: Team | None = None

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the other ranks."""
        return 0.0 if self._team is None else self._team.cpu_s

    @property
    def metrics(self) -> Mapping[str, float]:
        """How many processes learn, where there are several."""
        return {} if self._team is None else {"scale/learners": float(self._scale.learners)}

    def make(self, model: Any, begin: Begin, saved: Checkpoint | None) -> Learner:
        """A learner of a model, which goes on from a checkpoint if there is one."""
        if self._scale.learners == 1:
            learner = _alone(model, begin, self._publish)
            if saved is not None:
                saved.restore(learner)
            return learner
        if self._team is None:
            self._team = Team(model, self._scale.learners, shard=begin.shard, on_lost=self._cancel).__enter__()
        if begin.apart:
            lead: LeadLearner | LeadApartLearner = LeadApartLearner(self._team, model, begin)
        else:
            lead = LeadLearner(self._team, model, begin, self._publish)
        if saved is not None:
            with lead.loading(saved.path / STATE, LEARNER):
                saved.restore(lead)
        return lead

    def _cancel(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._loop, self._task = asyncio.get_running_loop(), task
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._team is None:
            return
        self._team.close()
        if isinstance(error, asyncio.CancelledError) and self._team.lost is not None and self._task.uncancel() == 0:
            raise self._team.lost from None


def _alone(model: Any, begin: Begin, publish: Callable[[], int]) -> Learner:
    if begin.apart:
        return ApartLearner(model, begin.settings, begin.objective, **begin.numbers)
    return Learner(model, begin.settings, begin.objective, publish=publish, **begin.numbers)


def check_learners(scale: ScaleConfig, device: str, stages: Mapping[str, object]) -> None:
    """Refuse ranks that cannot learn together, before anything is started.

    Args:
        scale: how many.
        device: of the model, as the settings name it.
        stages: by name.
    Raises: ConfigError.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError(
            "agentrl train starts the processes that learn itself, on one machine: leave out torchrun, and set "
            "scale.learners to their number"
        )
    if scale.learners == 1:
        if scale.shard:
            raise ConfigError("scale.shard spreads the weights over the processes that learn: set scale.learners to 2")
        return
    if not dist.is_available() or dist.is_initialized():
        what = "is in use in this process already" if dist.is_available() else "is not part of this torch"
        raise ConfigError(f"scale.learners = {scale.learners} needs torch.distributed, which {what}: set it to 1")
    _check_device(scale.learners, device)
    if scale.shard:
        _check_shard(stages)


def _check_device(count: int, device: str) -> None:
    chosen = torch.device(device_of(device))
    if chosen.type == "cpu":
        return
    if chosen.type != "cuda" or chosen.index is not None:
        raise ConfigError(
            f"model.device = {device!r}: each of {count} learners has a GPU of its own, from the first one on: use "
            "'cuda', and CUDA_VISIBLE_DEVICES to choose them, or 'cpu'"
        )
    if count > torch.cuda.device_count():
        raise ConfigError(
            f"scale.learners = {count}: each has a GPU of its own, and there are {torch.cuda.device_count()}; set it "
            "to that, or model.device = 'cpu'"
        )


def _check_shard(stages: Mapping[str, object]) -> None:
    """Refuse stages whose learner cannot share its weights."""
    for name, stage in stages.items():
        learner = getattr(stage, "learner", None)
        if isinstance(learner, LearnerSettings):
            try:
                check_parts_suffice(learner.optimizer)
            except ValueError as error:
                raise ConfigError(f"stages.{name}.learner: scale.shard = true, and {error}") from error
        if getattr(stage, "trains_reward_model", False):
            raise ConfigError(f"stages.{name}.apart trains a copy of the model: set scale.shard = false")
