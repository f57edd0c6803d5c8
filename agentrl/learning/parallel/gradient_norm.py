"""The norm of a gradient, and its scaling down to a limit; also where ranks hold parts of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from agentrl.learning.parallel.ranks import Ranks

# AdamW keeps squares of gradients: one beyond the root of float32's range would freeze its weight for good.
_LARGEST_UNCLIPPED = 1e18


def clip_gradient(parameters: Sequence[nn.Parameter], limit: float, ranks: Ranks) -> Tensor:
    """Scale the gradient of the parameters down to a norm. Returns: its norm before.

    Args:
        limit: 0 clips nothing; then a norm whose square is too large counts as infinite.
        ranks: that hold parts of those gradients that are distributed tensors.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if any(isinstance(gradient, DTensor) for gradient in gradients):
        norm = _norm_of_parts(gradients, ranks)
        if limit:
            _scale(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    else:
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            norm = _large_norm(gradients)
        if limit:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    if not limit and norm > _LARGEST_UNCLIPPED:
        return norm * float("inf")
    return norm.detach()


def _large_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of gradients whose squares overflow; infinite or NaN if a gradient itself is."""
    largest = torch.stack([g.abs().max() for g in gradients]).max()
    return torch.nn.utils.get_total_norm([g / largest for g in gradients]) * largest


def _norm_of_parts(gradients: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """The norm over all ranks; gradients that every rank holds whole count once.

    Squares are taken of numbers of at most 1, so that none overflows. Infinite if an entry is, or is NaN.
    """
    parts = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    others = [g for g in gradients if not isinstance(g, DTensor)]
    device = parts[0].device
    largest = torch.zeros((), dtype=torch.float64, device=device)
    for tensor in (*parts, *others):
        if tensor.numel():
            largest = torch.maximum(largest, tensor.abs().max().double())
    largest = largest.nan_to_num(nan=torch.inf)  # not every exchange keeps NaN
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=ranks.group)
    if largest == 0 or not torch.isfinite(largest):
        return largest
    squares = _squares(parts, largest)
    dist.all_reduce(squares, group=ranks.group)
    return (squares + _squares(others, largest)).sqrt() * largest


def _squares(tensors: Sequence[Tensor], largest: Tensor) -> Tensor:
    return sum(((tensor.double() / largest).square().sum() for tensor in tensors), torch.zeros_like(largest))


def _scale(gradients: Sequence[Tensor], factor: Tensor) -> None:
    for gradient in gradients:
        own = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        own.mul_(factor.to(own.dtype))
