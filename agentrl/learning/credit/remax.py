"""ReMax: the return of a greedy episode of the same task is the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentrl.learning.credit.base import Floats
from agentrl.learning.credit.returns import Ragged


def remax(returns: Ragged, greedy_returns: Sequence[float]) -> list[Floats]:
    """Return minus the return of the greedy episode of the same task.

    Args:
        returns: per group, one return per trajectory.
        greedy_returns: per group, the return of one episode sampled at temperature 0.
    Source: Li et al. 2023, arXiv:2310.10505 (ReMax).
    """
    if len(returns) != len(greedy_returns):
        raise ValueError(f"got {len(returns)} groups but {len(greedy_returns)} greedy returns")
    return [np.asarray(group, np.float64) - greedy for group, greedy in zip(returns, greedy_returns, strict=True)]
