"""Drawing one token a row from logits, each row with its own parameters and its own random number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """What each row of a batch is drawn with; all fields (B,).

    Attributes:
        temperature: 0 is greedy.
        top_p, top_k: truncation; 1 and 0 keep all.
        uniform: a number in [0, 1) per row, from that row's own stream.
    """

    temperature: NDArray[np.float64]
    top_p: NDArray[np.float64]
    top_k: NDArray[np.int64]
    uniform: NDArray[np.float64]


def draw(logits_BV: Tensor, how: Draw) -> tuple[list[int], list[float]]:
    """Draw a token for each row by inverting its cumulative distribution.

    The log-probability is that of the distribution drawn from: `log_softmax(logits / temperature)`,
    renormalised over the kept tokens where top-p or top-k truncate. A greedy row reports the model's
    own log-probability (temperature 1), since a point mass would say 0 for every token.

    Args:
        logits_BV: (B, V) float32.
        how: parameters per row.
    Returns: (B,) token ids and (B,) log-probabilities in nats.
    """
    greedy = how.temperature == 0
    scale = np.where(greedy, 1.0, how.temperature)
    if (scale != 1.0).any():
        logits_BV = logits_BV / _column(scale, logits_BV)
    truncated = ~greedy & ((how.top_p < 1) | (how.top_k > 0))
    if truncated.any():
        logits_BV = _truncate(logits_BV, how, truncated)
    logprobs_BV = torch.log_softmax(logits_BV, dim=-1)
    chosen_B1 = _invert(logprobs_BV, how.uniform)
    if greedy.any():
        best = logprobs_BV.argmax(dim=-1, keepdim=True)
        chosen_B1 = torch.where(torch.from_numpy(greedy)[:, None].to(best.device), best, chosen_B1)
    logprobs = logprobs_BV.gather(1, chosen_B1)
    return chosen_B1[:, 0].tolist(), logprobs[:, 0].tolist()


def _invert(logprobs_BV: Tensor, uniform: NDArray[np.float64]) -> Tensor:
    """(B, 1) the first token whose cumulative probability exceeds u; its own probability is never 0."""
    cumulative = logprobs_BV.exp().cumsum(dim=-1)
    target = _column(uniform, cumulative) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)
    last = (logprobs_BV > -torch.inf).long().cumsum(-1).argmax(dim=-1, keepdim=True)
    return torch.minimum(chosen, last)


def _truncate(logits_BV: Tensor, how: Draw, rows: NDArray[np.bool_]) -> Tensor:
    """Set to -inf what top-k or top-p drop; at least the most likely token stays."""
    size = logits_BV.shape[1]
    ordered, order = logits_BV.sort(dim=-1, descending=True)
    mass_before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    keep_p = mass_before < _column(np.where(rows, how.top_p, 1.0), logits_BV)
    top_k = np.where(rows & (how.top_k > 0), how.top_k, size)
    keep = keep_p & (torch.arange(size, device=logits_BV.device)[None, :] < _column(top_k, logits_BV))
    keep |= torch.from_numpy(~rows).to(logits_BV.device)[:, None]
    keep[:, 0] = True
    return logits_BV.masked_fill(~keep.gather(1, order.argsort(dim=-1)), -torch.inf)


def _column(values: NDArray[np.float64] | NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(device=like.device, dtype=like.dtype)[:, None]
