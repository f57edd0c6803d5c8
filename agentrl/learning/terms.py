"""Terms that several losses share: divergences, entropy, importance weights. Pure functions.

All take flat (N,) tensors of trained tokens and return (N,) unless they say otherwise. Gradients flow through
`logprobs` alone.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


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


def masked_importance(log_ratio: Tensor, *, low: float = 0.5, high: float = 5.0) -> Tensor:
    """Importance weight where the two probabilities roughly agree, 0 where they do not.

    Args:
        log_ratio: (N,) trainer's minus sampler's logprob under the same weights.
        low, high: ratios outside [low, high] are left out.
    Returns: (N,) weight, without gradient.
    Source: Ling team 2025, arXiv:2510.18855 (IcePop).
    """
    ratio = log_ratio.detach().exp()
    return torch.where((ratio >= low) & (ratio <= high), ratio, torch.zeros_like(ratio))


def sequence_log_ratio(log_ratio: Tensor, level: Literal["token", "sequence", "geometric"]) -> Tensor:
    """The log ratio by which each token of a sequence is weighed.

    Args:
        log_ratio: (N,) of the tokens of ONE sequence.
        level: `token`: the token's own; `sequence`: the sum, which is the log ratio of the whole sequence;
            `geometric`: the mean, which is the log of the geometric mean of its ratios.
    Returns: (N,).
    Source: Liu et al. 2025, "When speed kills stability: demystifying RL collapse from the training-inference
        mismatch" (sequence level); GSPO, arXiv:2507.18071, eq. 7 (geometric mean).
    """
    if level == "token" or not len(log_ratio):
        return log_ratio
    whole = log_ratio.sum() if level == "sequence" else log_ratio.mean()
    return whole.expand_as(log_ratio)


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL(policy || reference) from samples of the policy: log policy - log reference. Unbiased, may be negative.

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


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, name: Literal["k1", "k2", "k3"]) -> Tensor:
    """KL(policy || reference) by the estimator of that name. Source: Schulman 2020, as in `kl_k1`."""
    return {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}[name](logprobs, ref_logprobs)


def kl_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    *,
    estimator: Literal["k1", "k2", "k3"],
    gradient: Literal["own", "k2", "ratio"],
    old_logprobs: Tensor | None = None,
) -> Tensor:
    """A KL penalty whose value and gradient are chosen apart.

    Args:
        logprobs, ref_logprobs: (N,).
        estimator: gives the value.
        gradient: `own`: that of the estimator as it stands, which is the KL's for k2 alone. `k2`: that of k2, whatever
            the value (straight through). `ratio`: the estimator times the ratio to the policy that sampled, whose
            expected gradient is that of the exact KL, also off policy.
        old_logprobs: (N,) of the policy that sampled; read by `ratio` alone.
    Returns: (N,) penalty.
    Source: k2 and the gradients of the estimators: Schulman 2020, as in `kl_k1`; ratio: DeepSeek-AI 2025,
        arXiv:2512.02556, section 3.1 (unbiased KL estimate).
    """
    value = kl_estimate(logprobs, ref_logprobs, estimator)
    if gradient == "own":
        return value
    if gradient == "k2":
        straight = kl_k2(logprobs, ref_logprobs)
        return straight - straight.detach() + value.detach()
    if old_logprobs is None:
        raise ValueError("gradient 'ratio' needs old_logprobs, those of the policy that sampled")
    return torch.exp(logprobs - old_logprobs) * value


def entropy_of_logits(logits: Tensor) -> Tensor:
    """Entropy in nats of the next-token distribution.

    Args: logits: (N, V); minus infinity rules a token out.
    Returns: (N,).
    """
    logprobs = torch.log_softmax(logits, -1)
    logprobs = logprobs.clamp(min=torch.finfo(logprobs.dtype).min)  # 0 * -inf is nan, here and in the gradient
    return -(logprobs.exp() * logprobs).sum(-1)
