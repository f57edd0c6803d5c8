"""Losses of preference optimisation: one of two episodes is better.

None is a sum over tokens: a pair must stay together, which a coefficient fixed beforehand cannot say.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from agentrl.config import Positive
from agentrl.learning.batches import Unit
from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import Objective, Sums

NoiseShare = Annotated[float, Field(ge=0, lt=0.5)]


class PairObjective(Objective):
    """What losses over pairs share: a margin and a loss for each pair, and what is reported of them."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("reference_logprobs", "sign", "coefficients")

    @property
    def unit(self) -> Unit:
        return "pair"

    @abstractmethod
    def margins(self, batch: Batch, scores: Scores) -> Tensor:
        """(U,) by how much the preferred side of each pair is ahead."""

    @abstractmethod
    def loss(self, margins: Tensor, batch: Batch) -> Tensor:
        """(U,) loss of each pair.

        Args: margins: (U,).
        """

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        margin_U = self.margins(batch, scores)
        weight_U = batch.unit_mean(batch.column("coefficients"))
        loss = (self.loss(margin_U, batch) * weight_U).sum()
        margins = margin_U.detach()
        return loss, {
            "loss/preference": loss.detach(),
            "preference/accuracy": (margins > 0).sum(),
            "preference/margin": margins.sum(),
            "preference/count": margins.new_tensor(batch.num_units),
        }


@dataclass(frozen=True)
class DPO(PairObjective):
    """Direct preference optimisation over pairs of episodes. Source: `dpo`.

    Attributes:
        beta: strength of the pull towards the reference.
        label_smoothing: share of preferences that are taken to be the wrong way round.
        robust: correct the loss for that share, so that its expectation is that of clean preferences.
    """

    beta: Positive = 0.1
    label_smoothing: NoiseShare = 0.0
    robust: bool = False

    def margins(self, batch: Batch, scores: Scores) -> Tensor:
        return batch.unit_sum(batch.column("sign") * (scores.logprobs - batch.column("reference_logprobs")))

    def loss(self, margins: Tensor, batch: Batch) -> Tensor:
        return dpo(margins, beta=self.beta, label_smoothing=self.label_smoothing, robust=self.robust)


@dataclass(frozen=True)
class IPO(PairObjective):
    """Identity preference optimisation: the margin, per token, is drawn to a target. Source: `ipo`.

    Attributes:
        beta: the target is 1 / (2 beta).
    """

    beta: Positive = 0.1

    def margins(self, batch: Batch, scores: Scores) -> Tensor:
        sign, log_ratio = batch.column("sign"), scores.logprobs - batch.column("reference_logprobs")
        preferred, other = (sign > 0).to(log_ratio.dtype), (sign < 0).to(log_ratio.dtype)
        return _side_mean(batch, log_ratio, preferred) - _side_mean(batch, log_ratio, other)

    def loss(self, margins: Tensor, batch: Batch) -> Tensor:
        return ipo(margins, beta=self.beta)


def _side_mean(batch: Batch, values: Tensor, on_side: Tensor) -> Tensor:
    """(U,) the mean over the tokens of one side of each pair."""
    return batch.unit_sum(values * on_side) / batch.unit_sum(on_side).clamp(min=1.0)


@dataclass(frozen=True)
class BradleyTerry(PairObjective):
    """The loss of a reward model: the value head scores each episode before its last sampled token.

    That token is as a rule the mark that ends the turn, so the score has seen all that was said. Source:
    `bradley_terry`.

    Attributes:
        margin: how much of the difference in reward the difference in score must exceed; feedback may give a margin of
            its own for each preference, which then takes the place of the difference in reward.
        center: weight of the squared sum of both scores, which keeps their mean near 0.
    """

    margin: float = 0.0
    center: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        return ("sign", "last", "reward_gap", "coefficients")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("values",)

    def margins(self, batch: Batch, scores: Scores) -> Tensor:
        return batch.unit_sum(batch.column("sign") * batch.column("last") * scores.values)

    def loss(self, margins: Tensor, batch: Batch) -> Tensor:
        wanted = self.margin * batch.unit_mean(batch.column("reward_gap"))
        return bradley_terry(margins, torch.zeros_like(margins), wanted)

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        loss, sums = super().__call__(batch, scores)
        if not self.center:
            return loss, sums
        both_U = batch.unit_sum(batch.column("last") * scores.values)
        return loss + self.center * (both_U**2 * batch.unit_mean(batch.column("coefficients"))).sum(), sums


def dpo(margins: Tensor, *, beta: float, label_smoothing: float = 0.0, robust: bool = False) -> Tensor:
    """Preference loss on the policy itself: -log sigmoid of beta times the margin over the reference.

    Args:
        margins: (P,) log ratio to the frozen reference, summed over the tokens of the preferred answer, minus that
            of the other answer.
        beta: strength of the pull towards the reference.
        label_smoothing: below 0.5: probability that a preference is the wrong way round.
        robust: subtract, not add, the loss of the reversed preference, and divide by 1 - 2 label_smoothing.
    Returns: (P,) loss per pair.
    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; smoothing: Mitchell 2023, "A note on DPO with noisy
        preferences" (cDPO); robust: Chowdhury et al. 2024, arXiv:2403.00409, eq. 12.
    """
    clean, reversed_ = -logsigmoid(beta * margins), -logsigmoid(-beta * margins)
    if robust:
        return ((1 - label_smoothing) * clean - label_smoothing * reversed_) / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * clean + label_smoothing * reversed_


def ipo(margins: Tensor, *, beta: float) -> Tensor:
    """Squared distance of the margin from 1 / (2 beta).

    Args:
        margins: (P,) mean log ratio to the reference over the tokens of the preferred answer, minus that of the other.
        beta: the paper's tau.
    Returns: (P,) loss per pair.
    Source: Azar et al. 2023, arXiv:2310.12036, eq. 17; the mean over tokens as in TRL, by its authors' advice.
    """
    return (margins - 1 / (2 * beta)) ** 2


def bradley_terry(chosen_scores: Tensor, rejected_scores: Tensor, margins: Tensor | float = 0.0) -> Tensor:
    """Preference loss of a reward model: -log sigmoid of the difference in score, less a margin.

    Args:
        chosen_scores, rejected_scores: (P,).
        margins: (P,) or one number: by how much the scores should differ.
    Returns: (P,) loss per pair.
    Source: Bradley and Terry 1952; as a loss Ouyang et al. 2022, arXiv:2203.02155, eq. 1; margin: Touvron et al.
        2023, arXiv:2307.09288, eq. 2.
    """
    return -logsigmoid(chosen_scores - rejected_scores - margins)
