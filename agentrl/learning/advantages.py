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


def remax(returns: Ragged, greedy_returns: Sequence[float]) -> list[Values]:
    """Return minus the return of the greedy episode of the same task.

    Args:
        returns: per group, one return per trajectory.
        greedy_returns: per group, the return of one episode sampled at temperature 0.
    Source: Li et al. 2023, arXiv:2310.10505 (ReMax).
    """
    if len(returns) != len(greedy_returns):
        raise ValueError(f"got {len(returns)} groups but {len(greedy_returns)} greedy returns")
    return [np.asarray(group, np.float64) - greedy for group, greedy in zip(returns, greedy_returns, strict=True)]


def gae(
    rewards: Sequence[float] | Values,
    values: Sequence[float] | Values,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: float = 0.0,
) -> tuple[Values, Values]:
    """Generalised advantage estimation over the turns of one trajectory.

    Args:
        rewards: (turns,) reward of each turn.
        values: (turns,) predicted return before each turn.
        gamma, lam: discount per turn, and the weight between one step (0) and the whole return (1).
        bootstrap: predicted return after the last turn: 0 if the episode terminated.
    Returns: (turns,) advantages, and (turns,) targets for the value function.
    Source: Schulman et al. 2015, arXiv:1506.02438, eq. 16.
    """
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    if rewards.shape != values.shape or rewards.ndim != 1:
        raise ValueError(f"rewards and values must be (turns,) alike, got {rewards.shape} and {values.shape}")
    deltas = rewards + gamma * np.append(values[1:], bootstrap) - values if len(values) else rewards
    advantages = _discounted_sums(deltas, gamma * lam)
    return advantages, advantages + values


def gigpo(
    rewards: Sequence[Sequence[float] | Values],
    state_keys: Sequence[Sequence[str | None]],
    *,
    gamma: float = 0.95,
    step_weight: float = 1.0,
    normalize_std: bool = True,
) -> list[Values]:
    """Group advantage of the episode, plus one among all turns that began in the same state.

    Args:
        rewards: of ONE group: per trajectory, (turns,) rewards.
        state_keys: per trajectory, the `Turn.state_key` of each turn; None belongs to no state group.
        gamma: discount per turn of the return that turns are compared by.
        step_weight: weight of the second advantage.
        normalize_std: divide both by the standard deviation of their group.
    Returns: per trajectory, (turns,) float64. A state seen once adds 0.
    Source: Feng et al. 2025, arXiv:2505.10978, section 4 (GiGPO).
    """
    steps = [np.asarray(turns, np.float64) for turns in rewards]
    if [len(turns) for turns in steps] != [len(keys) for keys in state_keys]:
        raise ValueError("rewards and state_keys must have the same number of turns in each trajectory")
    episode = _standardized([turns.sum() for turns in steps], normalize_std)
    advantages = [np.full(len(turns), value) for turns, value in zip(steps, episode, strict=True)]
    returns = [_discounted_sums(turns, gamma) for turns in steps]
    for members in _anchor_groups(state_keys):
        relative = _standardized([returns[i][t] for i, t in members], normalize_std)
        for (i, t), value in zip(members, relative, strict=True):
            advantages[i][t] += step_weight * value
    return advantages


def _anchor_groups(state_keys: Sequence[Sequence[str | None]]) -> list[list[tuple[int, int]]]:
    """(trajectory, turn) of the turns that share a state, one list per state."""
    groups: dict[str, list[tuple[int, int]]] = {}
    for i, keys in enumerate(state_keys):
        for t, key in enumerate(keys):
            if key is not None:
                groups.setdefault(key, []).append((i, t))
    return list(groups.values())


def _discounted_sums(rewards: Values, discount: float) -> Values:
    """Each turn's reward plus the discounted rewards after it."""
    sums = np.zeros(len(rewards))
    following = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = sums[t] = rewards[t] + discount * following
    return sums
