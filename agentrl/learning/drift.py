"""How far the policy is from the one that sampled: before a step, and after it. Owns no model and no rows' order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from agentrl.errors import ModelError
from agentrl.learning.batches import Unit
from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import Objective, Sums
from agentrl.learning.rows import Row

# A ratio of probabilities beyond this factor, up or down, counts as the tail.
_TAIL = math.log(2.0)


def is_measured(objective: Objective) -> bool:
    """Whether the objective compares the policy with the one that sampled."""
    return "old_logprobs" in objective.columns


@torch.no_grad()
def before_sums(batch: Batch, scores: Scores) -> Sums:
    """Sums over the tokens of a step's first update: the distance of the trainer from the sampler, in nats.

    Under the weights that sampled, all of it is numerical: `mismatch/nats` is the mean absolute difference of the two
    log-probabilities, `mismatch/tail` the share of tokens whose probabilities differ by more than a factor of two.
    Tokens whose sampler told no log-probability are left out.
    """
    distance = (scores.logprobs - batch.column("sampled_logprobs")).abs()
    distance = distance[~distance.isnan()]
    first = (scores.logprobs - batch.column("old_logprobs")).abs()
    sums = {"ratio/first": first.sum(), "ratio/count": torch.tensor(float(len(first)))}
    if len(distance):
        sums |= {
            "mismatch/nats": distance.sum(),
            "mismatch/tail": (distance > _TAIL).sum(),
            "mismatch/count": torch.tensor(float(len(distance))),
        }
    return sums


def check_first_ratio(distance: float, most: float) -> None:
    """Refuse a trainer whose probabilities are not those that were sampled from, before its first update.

    Args:
        distance: mean absolute logarithm of the probability ratio, in nats, which should be 0.
        most: the largest that is accepted; 0 accepts any.
    Raises: ModelError that says what to set.
    """
    if not most or distance <= most:
        return
    raise ModelError(
        f"before the first update the trainer gives the sampled tokens other probabilities than the sampler did: "
        f"{distance:.3g} nats a token on average, and learner.max_mismatch is {most:g}. Updates from such ratios teach "
        'noise. Try learner.layout = "pad", learner.attention = "eager", model.dtype = "float32" or learner.autocast = '
        "false; recompute_old_logprobs = true with an importance correction accepts the difference"
    )


@torch.no_grad()
def after_sums(objective: Objective, batch: Batch, scores: Scores) -> Sums:
    """Sums over tokens after the update: what the objective reports as `policy/...`, and `policy/ratio_tail`."""
    _, terms = objective(batch, scores)
    log_ratio = scores.logprobs - batch.column("old_logprobs")
    kept = {name: value for name, value in terms.items() if _moves(name)}
    return {**kept, "policy/ratio_tail": (log_ratio.abs() > _TAIL).sum()}


def named_during(terms: Sums) -> Sums:
    """Sums of an update under way: `update/...` for what `policy/...` says of the policy after the step."""
    return {f"update/{name.removeprefix('policy/')}" if _moves(name) else name: v for name, v in terms.items()}


def _moves(name: str) -> bool:
    return name.startswith("policy/") and name != "policy/entropy"


def sample(rows: Sequence[Row], share: float, unit: Unit) -> list[Row]:
    """About a share of the rows, and one unit at least: every so-many-th, the same for the same rows."""
    keys = [row.unit if unit == "pair" else row.trajectory for row in rows]
    chosen = set(list(dict.fromkeys(keys))[:: max(1, round(1 / share))])
    return [row for row, key in zip(rows, keys, strict=True) if key in chosen]
