"""How a step's episodes say that a run is well: which groups teach, why episodes end, whether replies follow prompts.

Pure functions of groups. Measures of the update itself belong to the objectives and the learner.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from agentrl.trajectory import Trajectory, TrajectoryGroup, counted_successes, follows_actions

_ENDINGS = ("answer", "tool", "environment", "limit", "error")


def group_kinds(groups: Sequence[TrajectoryGroup]) -> dict[str, float]:
    """The shares of groups in which no episode succeeds, in which all do, and in which some do.

    An episode counts as `counted_successes` says; groups without any are left out.
    """
    kinds = Counter[str]()
    for group in groups:
        successes = set(counted_successes(group.trajectories))
        if successes:
            kinds["mixed" if len(successes) > 1 else "solved" if True in successes else "failed"] += 1
    total = max(kinds.total(), 1)
    return {f"rollout/groups_{kind}": kinds[kind] / total for kind in ("failed", "solved", "mixed")}


def endings(episodes: Sequence[Trajectory]) -> dict[str, float]:
    """The share of scored episodes of each kind of ending, and the share of their turns cut off by `max_tokens`."""
    scored = [t for t in episodes if t.trains]
    kinds = Counter[str](t.ending.kind for t in scored)
    reasons = [turn.action.finish_reason for t in scored for turn in t.turns]
    return {
        **{f"rollout/ended_{kind}": kinds[kind] / max(len(scored), 1) for kind in _ENDINGS},
        "rollout/turns_cut_off": sum(reason == "length" for reason in reasons) / max(len(reasons), 1),
    }


def discards(episodes: Sequence[Trajectory]) -> dict[str, float]:
    """The number of discarded episodes by cause, and of those after an action; causes without any are left out.

    What was discarded after an action teaches nothing, and the model may have brought that about where it would lose.
    """
    causes = Counter(t.ending.who or "unknown" for t in episodes if t.status == "fault")
    found = {f"rollout/discarded_{cause}": float(number) for cause, number in sorted(causes.items())}
    acted = sum(map(follows_actions, episodes))
    return {**found, "rollout/discarded_after_actions": float(acted)} if acted else found


def lags(groups: Sequence[TrajectoryGroup], version: int) -> dict[str, float]:
    """How many updates old the sampled tokens of a step are: the oldest, and the mean; nothing where that is not known.

    Args: version: of the weights that train on them.
    """
    found = [
        version - sampled
        for group in groups
        for t in group.trajectories
        for turn in t.turns[t.first_own_turn :]
        for sampled in turn.action.versions or ()
    ]
    return {"rollout/lag_max": float(max(found)), "rollout/lag_mean": sum(found) / len(found)} if found else {}


def prompt_information(groups: Sequence[TrajectoryGroup]) -> float:
    """How much a first reply says about its prompt, in nats: 0 where replies are the same whatever the prompt.

    The mutual information of a group (one prompt each) and a sampled token of the first reply, each group with the same
    weight, minus what is expected of groups of these sizes whose episodes are mixed at random (`_by_chance`). Under
    template collapse it falls while the entropy stays. RAGEN-2 estimates the information of prompts and whole replies
    by scoring each reply under other prompts; this needs no model, and sees only which tokens a reply is made of.

    Returns: nan with fewer than two groups that sampled a token.
    Source: the gauge is that of Wang et al. 2026, arXiv:2604.06268; the estimator is the plug-in of Shannon 1948.
    """
    replies = [[_first_reply(t) for t in group.trajectories if t.trains] for group in groups]
    replies = [own for own in ([reply for reply in group if reply] for group in replies) if own]
    if len(replies) < 2:
        return math.nan
    return max(0.0, _information(replies) - _by_chance(replies))


def _first_reply(episode: Trajectory) -> tuple[int, ...]:
    return tuple(episode.turns[0].action.token_ids or ()) if episode.turns else ()


def _information(replies: Sequence[Sequence[tuple[int, ...]]]) -> float:
    """Entropy of the mean of the groups' token distributions, minus the mean of their entropies."""
    distributions = [_distribution(own) for own in replies]
    mean: dict[int, float] = {}
    for distribution in distributions:
        for token, share in distribution.items():
            mean[token] = mean.get(token, 0.0) + share / len(distributions)
    return _entropy(mean) - sum(map(_entropy, distributions)) / len(distributions)


def _distribution(replies: Sequence[tuple[int, ...]]) -> dict[int, float]:
    counts = Counter(token for reply in replies for token in reply)
    return {token: count / counts.total() for token, count in counts.items()}


def _entropy(distribution: Mapping[int, float]) -> float:
    return -sum(share * math.log(share) for share in distribution.values())


def _by_chance(replies: Sequence[Sequence[tuple[int, ...]]], shuffles: int = 4) -> float:
    """Mean information of groups of the same sizes whose episodes are dealt anew; the order is always the same."""
    rng, every = np.random.default_rng(0), [reply for own in replies for reply in own]
    ends = np.cumsum([len(own) for own in replies])
    found = []
    for _ in range(shuffles):
        dealt = [every[i] for i in rng.permutation(len(every))]
        starts = [0, *ends[:-1]]
        found.append(_information([dealt[start:end] for start, end in zip(starts, ends, strict=True)]))
    return float(np.mean(found))


def speeds(metrics: Mapping[str, float]) -> dict[str, float]:
    """Tokens a second, and the share of a step's seconds that each part took.

    Args: metrics: of a step; parts that it does not name are left out.
    """
    seconds = {name: value for name, value in metrics.items() if name.startswith("time/") and name.endswith("_s")}
    total = sum(seconds.values())
    pairs = {"sampled": ("rollout/tokens", "time/sample_s"), "trained": ("train/tokens", "time/learn_s")}
    found = {
        f"speed/{what}_tokens_per_s": metrics[tokens] / seconds[time]
        for what, (tokens, time) in pairs.items()
        if tokens in metrics and seconds.get(time, 0.0) > 0
    }
    if total > 0:
        found |= {f"share/{name[5:-2]}": value / total for name, value in seconds.items()}
    return found
