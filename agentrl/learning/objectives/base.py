"""The contract of objectives: a batch and the model's scores in, a loss and sums to report out. Owns no model.

An objective is added from outside as a frozen dataclass, or as a function that is a policy loss and whose keyword-only
parameters are its settings: an entry point in the group `agentrl.objectives`, or a reference `module:name`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import Tensor

from agentrl.config.field_checks import check_fields
from agentrl.learning.batches import Unit
from agentrl.learning.forward import Batch, Scores
from agentrl.learning.rows import Row
from agentrl.learning.terms import kl_k3
from agentrl.registry import Registry, part_of_function

Sums = dict[str, Tensor]
"""Scalars that add up over micro-batches and ranks, named `area/name`. The learner makes means of them: `loss/...` per
pass over the rows, an area with a sum `area/count` per count, the others per trained token."""


class Objective(ABC):
    """A loss: a frozen dataclass of its own hyper-parameters, and of their defaults.

    Attributes:
        columns: row columns that it reads.
        needs: what it needs of the model; `values` is a value head.
        unit: rows of one unit stay in one micro-batch: `token`, `row`, `trajectory` or `pair`.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @property
    def unit(self) -> Unit:
        return "token"

    @abstractmethod
    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        """The loss of a micro-batch, summed over its tokens with the rows' coefficients, and sums to report."""

    def ignores(self, row: Row) -> bool:
        """Whether the row cannot change the gradient, so that it need not go through the model."""
        return False


_UNITS: tuple[Unit, ...] = ("token", "row", "trajectory", "pair")


@dataclass(frozen=True)
class Total(Objective):
    """Weighted objectives over one forward pass.

    Attributes:
        terms: (weight, objective) of each.
    """

    terms: tuple[tuple[float, Objective], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, term in self.terms for name in term.columns))

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, term in self.terms for name in term.needs))

    @property
    def unit(self) -> Unit:
        return max((term.unit for _, term in self.terms), key=_UNITS.index)

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        total, sums = scores.logprobs.new_zeros(()), Sums()
        for weight, term in self.terms:
            loss, found = term(batch, scores)
            total = total + weight * loss
            sums |= found
        return total, sums

    def ignores(self, row: Row) -> bool:
        return all(term.ignores(row) for _, term in self.terms)


class PolicyObjective(Objective):
    """What the losses of policy optimisation share: they are proportional to advantages."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("advantages", "old_logprobs", "coefficients")

    def ignores(self, row: Row) -> bool:
        return not row.column("advantages").any()

    def weighed(
        self, loss_N: Tensor, was_clipped_N: Tensor, batch: Batch, scores: Scores, ratio_N: Tensor | None = None
    ) -> tuple[Tensor, Sums]:
        """The summed loss, and sums that say how far the policy is from the one that sampled.

        Args:
            loss_N: (N,) loss of each token.
            was_clipped_N: (N,) bool, whether a clip took the token's gradient or bounded its weight.
            ratio_N: (N,) the ratio that the loss clips, where it is not the token's own.
        """
        loss = (loss_N * batch.column("coefficients")).sum()
        with torch.no_grad():
            logprobs, old = scores.logprobs, batch.column("old_logprobs")
            sums = {
                "loss/policy": loss.detach(),
                "policy/entropy": scores.entropy.sum(),
                "policy/clip_fraction": was_clipped_N.sum(),
                "policy/approx_kl": kl_k3(old, logprobs).sum(),
                "policy/ratio_mean": (torch.exp(logprobs - old) if ratio_N is None else ratio_N).sum(),
            }
        return loss, sums


def _of_function(function: FunctionType) -> type:
    """The policy loss of a function of (N,) logprobs, old logprobs and advantages that returns (N,) losses."""

    def call(self: PolicyObjective, loss: Callable[..., Tensor], batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        loss_N = loss(scores.logprobs, batch.column("old_logprobs"), batch.column("advantages"))
        return self.weighed(loss_N, torch.zeros_like(loss_N), batch, scores)

    return part_of_function(function, PolicyObjective, "__call__", call)


OBJECTIVES = Registry(
    "objective",
    "agentrl.objectives",
    {
        "ppo_clip": "agentrl.learning.objectives.ppo_clip:PPOClip",
        "gspo": "agentrl.learning.objectives.gspo:GSPO",
        "cispo": "agentrl.learning.objectives.cispo:CISPO",
        "policy_gradient": "agentrl.learning.objectives.policy_gradient:PolicyGradient",
        "value": "agentrl.learning.objectives.value:Value",
        "entropy_bonus": "agentrl.learning.objectives.regularizers:EntropyBonus",
        "reference_kl": "agentrl.learning.objectives.regularizers:ReferenceKL",
        "reference_distance": "agentrl.learning.objectives.regularizers:ReferenceDistance",
        "dpo": "agentrl.learning.objectives.preference:DPO",
        "ipo": "agentrl.learning.objectives.preference:IPO",
        "bradley_terry": "agentrl.learning.objectives.preference:BradleyTerry",
        "expert": "agentrl.learning.objectives.expert:Expert",
        "supervised": "agentrl.learning.objectives.supervised:Supervised",
        "total": "agentrl.learning.objectives.base:Total",
    },
    of_function=_of_function,
)


def weighted(terms: Sequence[tuple[float, Objective]]) -> Objective:
    """The terms with a weight other than 0 as one objective; a single term of weight 1 stays itself."""
    kept = tuple((weight, term) for weight, term in terms if weight)
    return kept[0][1] if len(kept) == 1 and kept[0][0] == 1 else Total(kept)


def check_rows(rows: Sequence[Row], objective: Objective) -> None:
    """Raises: ValueError if no token of the rows trains, or a column that the objective reads is missing."""
    if not any(row.num_trained for row in rows):
        raise ValueError(f"none of the {len(rows)} rows has a sampled token: there is nothing to train on")
    missing = sorted({name for name in objective.columns for row in rows if name not in row.columns})
    if missing:
        raise ValueError(
            f"{type(objective).__name__} reads the columns {', '.join(missing)}, which some rows lack: fill them first"
        )
