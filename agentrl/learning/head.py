"""The head of a language model in chunks: log-probabilities and entropies of tokens, never all logits at once.

At a vocabulary of 150,000 the logits of 3,000 tokens take 1.8 GB, and a plain softmax with its gradient three times
that. Here a chunk of tokens goes through the head, is reduced to a few numbers a token, and is computed again in the
backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

# Logits that exist at once, in numbers: 64 MiB in float32. The reduction needs a second array of that size.
_CHUNK_NUMBERS = 2**24


class TokenScores(NamedTuple):
    """Scores of N tokens: log-probability and entropy in nats, and whether the token is a most likely one."""

    logprobs: Tensor
    entropy: Tensor
    is_top: Tensor


@dataclass(frozen=True)
class Head:
    """Logits as a linear map of the last hidden state: `cap * tanh(scale * (W h + b) / cap)`, over the temperature.

    Attributes:
        weight: (V, H).
        bias: (V,), or None.
        scale: factor of the logits (Granite, Cohere).
        cap: soft cap (Gemma 2), or None.
        temperature: divides the logits, as it did in sampling.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0

    def logits(self, states: Tensor) -> Tensor:
        """(N, H) to (N, V), in float32 at least."""
        logits = linear(states, self.weight, self.bias)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if self.cap is None:
            factor = self.scale / self.temperature
            return logits if factor == 1.0 else logits.mul_(factor)
        return logits.mul_(self.scale / self.cap).tanh_().mul_(self.cap / self.temperature)

    def slope_(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """From the gradient of the logits to that of `W h + b`, in place. Args: logits: of `logits`, overwritten."""
        if self.cap is not None:
            slope = logits.mul_(self.temperature / self.cap).square_().neg_().add_(1.0)
            gradient.mul_(slope)
        factor = self.scale / self.temperature
        return gradient if factor == 1.0 else gradient.mul_(factor)


def token_scores(head: Head, states: Tensor, targets: Tensor, chunk: int | None = None) -> TokenScores:
    """Log-probabilities, entropies and ranks of tokens; the first two have a gradient.

    Args:
        head: its weight and bias have a gradient if they require one.
        states: (N, H) hidden states that predict the tokens.
        targets: (N,) int64, the tokens.
        chunk: most tokens whose logits exist at once; None makes them take 64 MiB.
    Returns: (N,) each.
    """
    chunk = chunk or max(1, _CHUNK_NUMBERS // head.weight.shape[0])
    found = _Scores.apply(states, head.weight, head.bias, targets, head, chunk)  # type: ignore[no-untyped-call]
    return TokenScores(*found)


class _Scores(torch.autograd.Function):
    """The chunks, forward and backward. One chunk alone keeps its logits; several are computed again."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.head = _without_gradient(head, states)
        ctx.chunk, ctx.logits = chunk, None
        states = states.to(ctx.head.weight.dtype)
        parts = []
        for part in _parts(len(states), chunk):
            logits = ctx.head.logits(states[part])
            parts.append(_reduced(logits, targets[part]))
            if len(states) <= chunk and any(ctx.needs_input_grad):
                ctx.logits = logits
            del logits
        logprobs, entropy, is_top, log_total = (torch.cat(kind) for kind in zip(*parts, strict=True))
        ctx.save_for_backward(states, targets, entropy, log_total)
        ctx.mark_non_differentiable(is_top)
        ctx.set_materialize_grads(False)
        return logprobs, entropy, is_top

    @staticmethod
    def backward(ctx: Any, of_logprobs: Tensor | None, of_entropy: Tensor | None, _: None) -> tuple[Any, ...]:
        states, targets, entropy, log_total = ctx.saved_tensors
        head, needs_states, needs_weight = ctx.head, ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        needs_bias = head.bias is not None and ctx.needs_input_grad[2]
        to_states = torch.empty_like(states) if needs_states else None
        # Chunks add up in float32: thousands of additions would be lost in bfloat16.
        to_weight = torch.zeros_like(head.weight, dtype=_at_least_float32(head.weight)) if needs_weight else None
        to_bias = torch.zeros_like(head.bias, dtype=_at_least_float32(head.weight)) if needs_bias else None
        for part in _parts(len(states), ctx.chunk):
            logits = head.logits(states[part]) if ctx.logits is None else ctx.logits
            ctx.logits = None
            gradient = _gradient_of_logits(
                logits,
                targets[part],
                log_total[part],
                entropy[part],
                None if of_logprobs is None else of_logprobs[part],
                None if of_entropy is None else of_entropy[part],
            )
            # The reduction has overwritten the logits only where there is no cap, which needs none.
            gradient = head.slope_(gradient, head.logits(states[part]) if head.cap is not None else logits)
            del logits
            low = gradient.to(states.dtype)
            if to_states is not None:
                torch.mm(low, head.weight, out=to_states[part])
            if to_weight is not None:
                _add_product(to_weight, low, states[part])
            if to_bias is not None:
                to_bias += gradient.sum(0)
        return to_states, to_weight, to_bias, None, None, None


def _without_gradient(head: Head, states: Tensor) -> Head:
    """The head's numbers in the type of the computation: that of autocast where it is on."""
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
    bias = None if head.bias is None else head.bias.detach().to(dtype)
    return Head(head.weight.detach().to(dtype), bias, head.scale, head.cap, head.temperature)


def _parts(count: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, count)) for start in range(0, max(count, 1), chunk)]


def _reduced(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability, entropy, rank of the target, and the log of the sum of exponentials; (N,) each."""
    largest = logits.amax(-1) if logits.numel() else logits.new_zeros(len(logits))
    weights = (logits - largest[:, None]).exp_()
    total = weights.sum(-1)
    log_total = largest + total.log()
    of_target = logits.gather(-1, targets[:, None])[:, 0]
    # A product of matrices: the mean logit without a third array of the chunk's size.
    mean = torch.bmm(weights[:, None], logits[:, :, None])[:, 0, 0]
    if bool(mean.isnan().any()):  # a logit of minus infinity, of weight 0, rules a token out
        mean = torch.bmm(weights[:, None], logits.clamp(min=torch.finfo(logits.dtype).min)[:, :, None])[:, 0, 0]
    mean = mean / total
    return of_target - log_total, log_total - mean, of_target >= largest, log_total


def _gradient_of_logits(
    logits: Tensor,
    targets: Tensor,
    log_total: Tensor,
    entropy: Tensor,
    of_logprobs: Tensor | None,
    of_entropy: Tensor | None,
) -> Tensor:
    """(N, V) gradient of the logits: g (onehot - p) of log-probabilities, -g p (log p + H) of entropies."""
    if of_entropy is None:
        gradient = logits.sub_(log_total[:, None]).exp_()  # p, in place
        if of_logprobs is None:
            return gradient.zero_()
        gradient.mul_(-of_logprobs[:, None])
    else:
        logs = logits.sub_(log_total[:, None])
        gradient = logs.exp()
        surprise = logs.clamp_(min=torch.finfo(logs.dtype).min).add_(entropy[:, None]).mul_(-of_entropy[:, None])
        if of_logprobs is not None:
            surprise.sub_(of_logprobs[:, None])
        gradient.mul_(surprise)
    if of_logprobs is not None:
        gradient.scatter_add_(-1, targets[:, None], of_logprobs[:, None].to(gradient.dtype))
    return gradient


def _at_least_float32(weight: Tensor) -> torch.dtype:
    return torch.float32 if weight.dtype in (torch.float16, torch.bfloat16) else weight.dtype


def _add_product(total: Tensor, gradient: Tensor, states: Tensor) -> None:
    if total.dtype == states.dtype:
        total.addmm_(gradient.T, states)
    else:
        total += gradient.T @ states
