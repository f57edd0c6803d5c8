"""The loss of a value head: predicted against observed returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.config import Positive
from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import Objective, Sums


@dataclass(frozen=True)
class Value(Objective):
    """Half the squared error of predicted returns. Source: `value_loss`.

    Attributes:
        clip: how far a prediction may move from its old value; None leaves it free.
    """

    clip: Positive | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return ("returns", "values", "coefficients")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("values",)

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        returns, values = batch.column("returns"), scores.values
        loss_N = value_loss(values, returns, old_values=batch.column("values"), clip=self.clip)
        loss = (loss_N * batch.column("coefficients")).sum()
        return loss, {"loss/value": loss.detach(), "value/error": (values.detach() - returns).abs().sum()}


def value_loss(values: Tensor, returns: Tensor, *, old_values: Tensor, clip: float | None) -> Tensor:
    """Half the squared error of predicted returns; with `clip`, the worse of clipped and not.

    Args:
        values, returns: (N,).
        old_values: (N,) predictions at sampling time, read with `clip` alone.
        clip: how far a prediction may move from its old value; None leaves it free.
    Returns: (N,) loss.
    Source: Engstrom et al. 2020, arXiv:2005.12729, section 3 (value function clipping).
    """
    loss = 0.5 * (values - returns) ** 2
    if clip is None:
        return loss
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(loss, 0.5 * (clipped - returns) ** 2)
