"""Corrections for a sampler and a trainer that compute different probabilities under the same weights.

A weight multiplies the advantages of a row, and so its policy loss. A correction is added from outside as a frozen
dataclass: an entry point in the group `agentrl.importances`, or a reference `module:Class`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agentrl.config import NotNegative, Positive
from agentrl.config.field_checks import check_fields
from agentrl.learning.rows import Row, check_sampler_known
from agentrl.learning.terms import masked_importance, sequence_log_ratio, truncated_importance
from agentrl.registry import Registry

Level = Literal["token", "sequence", "geometric"]

IMPORTANCES = Registry(
    "importance correction",
    "agentrl.importances",
    {
        "none": "agentrl.learning.importance:NoCorrection",
        "tis": "agentrl.learning.importance:TIS",
        "icepop": "agentrl.learning.importance:IcePop",
        "mask": "agentrl.learning.importance:Mask",
    },
)


class Importance(ABC):
    """A frozen dataclass of its own numbers; a pure function."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def __call__(self, log_ratio: Tensor) -> Tensor:
        """(N,) weights of the trained tokens of ONE row.

        Args: log_ratio: (N,) trainer's minus sampler's logprob under the same weights.
        """

    @property
    def corrects(self) -> bool:
        """Whether it changes anything, so that the trainer's logprobs must be computed."""
        return True


@dataclass(frozen=True)
class NoCorrection(Importance):
    """Every weight is 1."""

    def __call__(self, log_ratio: Tensor) -> Tensor:
        return torch.ones_like(log_ratio)

    @property
    def corrects(self) -> bool:
        return False


@dataclass(frozen=True)
class TIS(Importance):
    """Truncated importance sampling. Source: `truncated_importance`.

    Attributes:
        cap: the largest weight.
        level: whose ratio it is: each `token`'s, the `sequence`'s (the product of its tokens' ratios), or the
            `geometric` mean of a sequence's ratios. A sequence is a row: the unbroken context of an episode.
    """

    cap: Positive = 2.0
    level: Level = "token"

    def __call__(self, log_ratio: Tensor) -> Tensor:
        return truncated_importance(sequence_log_ratio(log_ratio, self.level), cap=self.cap)


@dataclass(frozen=True)
class IcePop(Importance):
    """The ratio as the weight where it lies in a range, and 0 elsewhere. Source: `masked_importance`.

    Attributes:
        low, high: the range.
        level: as in TIS; above `token` a sequence is kept or left out as a whole.
    """

    low: NotNegative = 0.5
    high: Positive = 5.0
    level: Level = "token"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")

    def __call__(self, log_ratio: Tensor) -> Tensor:
        return masked_importance(sequence_log_ratio(log_ratio, self.level), low=self.low, high=self.high)


@dataclass(frozen=True)
class Mask(Importance):
    """Weight 1 where the ratio lies in a range, and 0 elsewhere: what is left out is not made up for by the rest.

    Source: Liu et al. 2025, as in `sequence_log_ratio` (rejection of sequences by the geometric mean of their ratios).

    Attributes:
        low, high: the range.
        level: as in TIS.
    """

    low: Positive = 0.9
    high: Positive = 1.1
    level: Level = "geometric"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")

    def __call__(self, log_ratio: Tensor) -> Tensor:
        ratio = sequence_log_ratio(log_ratio, self.level).detach().exp()
        return ((ratio >= self.low) & (ratio <= self.high)).to(ratio.dtype)


def with_importance(rows: Sequence[Row], importance: Importance) -> list[Row]:
    """The rows with the weights multiplied into their advantages: every policy loss is proportional to them.

    Args: rows: with `sampled_logprobs`, `advantages`, and `old_logprobs` that the trainer filled.
    Raises: ValueError if a sampled token has no log-probability of its sampler.
    """
    if not importance.corrects:
        return list(rows)
    check_sampler_known(rows)
    return [_weighed(row, importance) for row in rows]


def _weighed(row: Row, importance: Importance) -> Row:
    log_ratio_N = (row.column("old_logprobs") - row.column("sampled_logprobs"))[row.mask]
    weights = np.zeros(len(row), np.float32)
    weights[row.mask] = importance(torch.from_numpy(log_ratio_N)).numpy()
    return row.with_columns(advantages=row.column("advantages") * weights)
