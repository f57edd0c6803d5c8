"""Losses: pure functions from logprobs to a loss per token. Owns no model, no mask, no aggregation.

All take flat (N,) tensors of trained tokens and return (N,) unless they say otherwise; the caller
weighs each token with its coefficient. Gradients flow through `logprobs` alone.
"""

from __future__ import annotations

import torch
from torch import Tensor


def policy_gradient(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """REINFORCE with importance weights: minus ratio times advantage, no clip.

    On policy its gradient is that of `-advantage * logprob`.

    Source: Williams 1992, Machine Learning 8, eq. 11; ratio as in Schulman et al. 2017,
        arXiv:1707.06347, eq. 6.
    """
    return -torch.exp(logprobs - old_logprobs) * advantages


def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Tensor:
    """Clipped surrogate, with a bound of its own on each side.

    Args:
        logprobs, old_logprobs, advantages: (N,).
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        dual_clip: bound (> 1) on the loss of a negative advantage: at most -dual_clip * advantage.
    Returns: (N,) loss.
    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; clip-higher: Yu et al. 2025,
        arXiv:2503.14476, eq. 10; dual clip: Ye et al. 2019, arXiv:1912.09729, eq. 5.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss = torch.maximum(-ratio * advantages, -clipped * advantages)
    if dual_clip is None:
        return loss
    if dual_clip <= 1.0:
        raise ValueError(f"dual_clip must be above 1, got {dual_clip}")
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL(policy || reference) estimated from samples of the policy: r - 1 - log r, r = ref / policy.

    Unbiased and never negative; its gradient is not that of the KL (see `kl_k2`).

    Source: Schulman 2020, "Approximating KL Divergence", estimator k3; used in arXiv:2402.03300, eq. 4.
    """
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def entropy_of_logits(logits: Tensor) -> Tensor:
    """Entropy in nats of the next-token distribution.

    Args: logits: (N, V).
    Returns: (N,).
    """
    logprobs = torch.log_softmax(logits, -1)
    return -(logprobs.exp() * logprobs).sum(-1)
