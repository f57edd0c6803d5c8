"""Advantage estimators: pure functions from returns to advantages. Owns no rows and no model.

Groups are ragged: a step is a sequence of groups, each a sequence of one return per trajectory.
Statistics are per trajectory; how many turns or tokens one has never enters a baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from agentrl.errors import did_you_mean
from agentrl.trajectory import TrajectoryGroup

Values = npt.NDArray[np.float64]
Ragged = Sequence[Sequence[float] | Values]

STD_EPS = 1e-6  # keeps a division by the std of nearly equal returns finite


def grpo(returns: Ragged, *, normalize_std: bool = True) -> list[Values]:
    """Return minus the mean of its group, over the group's sample standard deviation.

    Args:
        returns: per group, one return per trajectory.
        normalize_std: divide by the standard deviation (ddof 1); False is Dr. GRPO.
    Returns: per group, (G,) float64 that sums to zero; a group of one, or of equal returns, gives 0.
    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2 (outcome supervision).
    """
    return [_standardized(group, normalize_std) for group in returns]


def dr_grpo(returns: Ragged) -> list[Values]:
    """Return minus the mean of its group, without division by the std.

    Source: Liu et al. 2025, arXiv:2503.20783, section 3.2.
    """
    return grpo(returns, normalize_std=False)


def _standardized(group: Sequence[float] | Values, normalize_std: bool) -> Values:
    values: Values = np.asarray(group, np.float64)
    if len(values) < 2 or values.max() == values.min():
        return np.zeros(len(values))
    centred: Values = values - values.mean()
    scale = float(values.std(ddof=1)) + STD_EPS if normalize_std else 1.0
    return centred / scale


def rloo(returns: Ragged) -> list[Values]:
    """Return minus the mean of the OTHER trajectories of its group.

    Returns: per group, (G,) float64; a group of one gives 0.
    Source: Ahmadian et al. 2024, arXiv:2402.14740, section 2.2 (RLOO; Kool et al. 2019).
    """
    return [centred * (len(centred) / max(1, len(centred) - 1)) for centred in dr_grpo(returns)]


def reinforce_plus_plus(returns: Ragged, *, group_baseline: bool = False) -> list[Values]:
    """Returns normalised by mean and std of the whole step rather than of each group.

    Args:
        returns: per group, one return per trajectory.
        group_baseline: subtract each group's mean first (REINFORCE++-baseline).
    Returns: per group, (G,) float64; zeros where the step has fewer than two distinct values.
    Source: Hu 2025, arXiv:2501.03262.
    """
    groups = dr_grpo(returns) if group_baseline else [np.asarray(group, np.float64) for group in returns]
    flat = np.concatenate(groups) if groups else np.zeros(0)
    if len(flat) < 2 or flat.max() == flat.min():
        return [np.zeros(len(group)) for group in groups]
    return [(group - flat.mean()) / (flat.std(ddof=1) + STD_EPS) for group in groups]


GROUP_METHODS: dict[str, Callable[[Ragged], list[Values]]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce_plus_plus": reinforce_plus_plus,
}


def group_advantages(groups: Sequence[TrajectoryGroup], method: str = "grpo") -> list[Values]:
    """Advantages of a step's trajectories by the method's name; faults get 0 and enter no statistic.

    Args:
        groups: of any size.
        method: a key of `GROUP_METHODS`.
    Returns: per group as given, (G,) float64, in the order of its trajectories.
    """
    if method not in GROUP_METHODS:
        raise ValueError(f"unknown advantage method {method!r}.{did_you_mean(method, GROUP_METHODS)}")
    kept = [[i for i, t in enumerate(group.trajectories) if t.status != "fault"] for group in groups]
    returns = [[group.trajectories[i].reward for i in ids] for group, ids in zip(groups, kept, strict=True)]
    advantages = [np.zeros(len(group.trajectories)) for group in groups]
    for target, ids, values in zip(advantages, kept, GROUP_METHODS[method](returns), strict=True):
        target[ids] = values
    return advantages
