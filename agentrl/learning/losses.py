"""Losses: pure functions from logprobs to a loss per token. Owns no model, no mask, no aggregation.

All take flat (N,) tensors of trained tokens and return (N,) unless they say otherwise; the caller
weighs each token with its coefficient. Gradients flow through `logprobs` alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


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


def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    rows: Tensor,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Tensor:
    """Clipped surrogate with one ratio per sequence: the geometric mean of its tokens' ratios.

    A sequence is a row: the unbroken context of a trajectory.

    Args:
        logprobs, old_logprobs, advantages: (N,).
        rows: (N,) int64 number of the sequence that each token belongs to.
        clip_low, clip_high: bounds of the sequence ratio; its spread is far smaller than a token's.
    Returns: (N,) loss, the same for tokens of a sequence with equal advantages.
    Source: Zheng et al. 2025, arXiv:2507.18071, eq. 5 and 7; clip range of section 5.1.
    """
    log_ratio = logprobs - old_logprobs
    size = int(rows.max()) + 1 if len(rows) else 0
    counts = torch.bincount(rows, minlength=size).clamp(min=1).to(log_ratio.dtype)
    mean = log_ratio.new_zeros(size).index_add(0, rows, log_ratio) / counts
    sequence_log_ratio = mean[rows]
    zeros = torch.zeros_like(sequence_log_ratio)
    return ppo_clip(sequence_log_ratio, zeros, advantages, clip_low=clip_low, clip_high=clip_high)


def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 1.0,
    clip_high: float = 0.28,
) -> Tensor:
    """REINFORCE weighed by a clipped importance ratio through which no gradient flows.

    Unlike PPO's clip, it never drops a token's gradient.

    Args:
        clip_low, clip_high: the weight is clipped to [1 - clip_low, 1 + clip_high]; a `clip_low` of 1
            leaves the lower side open.
    Source: MiniMax 2025, arXiv:2506.13585, eq. 4 and 5.
    """
    weight = torch.exp(logprobs - old_logprobs).clamp(1.0 - clip_low, 1.0 + clip_high).detach()
    return -weight * advantages * logprobs


def truncated_importance(log_ratio: Tensor, *, cap: float = 2.0) -> Tensor:
    """Weight that corrects for sampler and trainer computing different probabilities, capped above.

    Args:
        log_ratio: (N,) trainer's minus sampler's logprob under the SAME weights.
        cap: the largest weight.
    Returns: (N,) weight of each token's loss, without gradient.
    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"
        (truncated importance sampling, TIS).
    """
    return log_ratio.detach().exp().clamp(max=cap)


def icepop_importance(log_ratio: Tensor, *, low: float = 0.5, high: float = 5.0) -> Tensor:
    """Importance weight where the two probabilities roughly agree, 0 where they do not.

    Args:
        log_ratio: (N,) trainer's minus sampler's logprob under the same weights.
        low, high: ratios outside [low, high] are left out.
    Returns: (N,) weight, without gradient.
    Source: Ling team 2025, arXiv:2510.18855 (IcePop).
    """
    ratio = log_ratio.detach().exp()
    return torch.where((ratio >= low) & (ratio <= high), ratio, torch.zeros_like(ratio))


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL(policy || reference) from samples of the policy: log p - log ref. Unbiased, may be negative.

    As a LOSS its expected gradient is zero; use it as a reward penalty.

    Source: Schulman 2020, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html.
    """
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio: biased in value, but as a loss its on-policy gradient is the KL's.

    Source: Schulman 2020, as in `kl_k1`.
    """
    return 0.5 * (logprobs - ref_logprobs) ** 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """r - 1 - log r with r = reference / policy: unbiased and never negative.

    As a loss its gradient is that of the reverse direction, KL(reference || policy).

    Source: Schulman 2020, as in `kl_k1`; used as a loss in arXiv:2402.03300, eq. 4.
    """
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def entropy_of_logits(logits: Tensor) -> Tensor:
    """Entropy in nats of the next-token distribution.

    Args: logits: (N, V); minus infinity rules a token out.
    Returns: (N,).
    """
    logprobs = torch.log_softmax(logits, -1)
    logprobs = logprobs.clamp(min=torch.finfo(logprobs.dtype).min)  # 0 * -inf is nan, here and in the gradient
    return -(logprobs.exp() * logprobs).sum(-1)


def value_loss(
    values: Tensor, returns: Tensor, *, old_values: Tensor | None = None, clip: float | None = None
) -> Tensor:
    """Half the squared error of predicted returns; with `clip`, the worse of clipped and not.

    Args:
        values, returns: (N,).
        old_values: (N,) predictions at sampling time; needed with `clip`.
        clip: how far a prediction may move from its old value.
    Source: Engstrom et al. 2020, arXiv:2005.12729, section 3 (value function clipping).
    """
    loss = 0.5 * (values - returns) ** 2
    if clip is None:
        return loss
    if old_values is None:
        raise ValueError("value_loss with clip needs old_values")
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(loss, 0.5 * (clipped - returns) ** 2)


def dpo(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    ref_chosen_logprobs: Tensor,
    ref_rejected_logprobs: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """Preference loss on the policy itself: -log sigmoid of beta times the margin over the reference.

    Args:
        chosen_logprobs, rejected_logprobs: (P,) summed over the sampled tokens of each answer.
        ref_chosen_logprobs, ref_rejected_logprobs: (P,) the same under the frozen reference.
        beta: strength of the pull towards the reference.
    Returns: (P,) loss per pair.
    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7.
    """
    margin = (chosen_logprobs - ref_chosen_logprobs) - (rejected_logprobs - ref_rejected_logprobs)
    return -logsigmoid(beta * margin)


def bradley_terry(chosen_scores: Tensor, rejected_scores: Tensor) -> Tensor:
    """Preference loss of a reward model: -log sigmoid of the difference in score.

    Args: chosen_scores, rejected_scores: (P,).
    Returns: (P,) loss per pair.
    Source: Bradley and Terry 1952; as a loss Ouyang et al. 2022, arXiv:2203.02155, eq. 1.
    """
    return -logsigmoid(chosen_scores - rejected_scores)
