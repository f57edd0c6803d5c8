"""RMS normalisation on a CPU in half the passes over memory. Owns which modules of a model are computed so.

`transformers` writes it as six elementwise operations, whose backward pass takes twelve more: in a tiny model that is a
sixth of an update. One function with a gradient of its own gives the same numbers to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

_EPS_NAMES = ("variance_epsilon", "eps")
_CLOSE = 1e-5
_PROBES = 4


class _RmsNorm(torch.autograd.Function):
    """`w x / sqrt(mean(x^2) + eps)` over the last dimension. Source: Zhang and Sennrich 2019, arXiv:1910.07467."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(size).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normed: Tensor = (x * scale).mul_(weight)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        unit = x * scale
        both = gradient * unit
        to_weight = both.sum(tuple(range(x.ndim - 1))) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, to_weight, None
        along = (both @ weight).div_(x.shape[-1])[..., None]
        to_x = torch.mul(gradient, weight, out=both).sub_(unit.mul_(along)).mul_(scale)
        return to_x, to_weight, None


def fast_norms(model: nn.Module) -> list[nn.Module]:
    """The RMS norms of a float32 model on a CPU that `in_one_function` computes as they do themselves.

    Each is tried, with other weights than its own: some families add one to the weight, or have no epsilon.
    """
    return [module for module in model.modules() if type(module).__name__.endswith("RMSNorm") and _is_plain(module)]


@contextmanager
def in_one_function(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Compute these norms by one function each; restored after. Args: norms: of `fast_norms`."""
    for module in norms:
        module.forward = partial(_normed, module, module.forward)
    try:
        yield
    finally:
        for module in norms:
            vars(module).pop("forward", None)


def _normed(module: Any, own: Callable[..., Tensor], x: Tensor) -> Tensor:
    if x.dtype != torch.float32:  # autocast
        return own(x)
    found: Tensor = _RmsNorm.apply(x, module.weight, _eps(module))  # type: ignore[no-untyped-call]
    return found


def _eps(module: nn.Module) -> float:
    return float(next(getattr(module, name) for name in _EPS_NAMES if hasattr(module, name)))


@torch.no_grad()
def _is_plain(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    names = [name for name, _ in module.named_parameters()]
    if names != ["weight"] or not isinstance(weight, Tensor) or weight.ndim != 1:
        return False
    known = "forward" not in vars(module) and any(isinstance(getattr(module, name, None), float) for name in _EPS_NAMES)
    if not known or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return False
    numbers = torch.linspace(-1.0, 1.0, _PROBES * len(weight)).view(_PROBES, -1)
    x = numbers * torch.tensor([[1e-3], [0.1], [1.0], [100.0]])
    other = torch.linspace(0.5, 2.0, len(weight))
    try:
        own = functional_call(module, {"weight": other}, (x,))
    except (TypeError, RuntimeError, ValueError, AttributeError):
        return False
    mine = _RmsNorm.apply(x, other, _eps(module))  # type: ignore[no-untyped-call]
    return own.shape == mine.shape and bool((own - mine).abs().max() <= _CLOSE)
