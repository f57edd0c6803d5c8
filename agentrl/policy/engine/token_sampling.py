"""Drawing one token a row from logits, each row with its own parameters and its own random number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentrl.policy.base import SamplingParams

# The largest uniform number: times any float32 total it stays below that total.
_BELOW_ONE = 1.0 - 2.0**-23
# A cut of top-p or top-k is looked for among this number of the most likely tokens, and then among all.
_FIRST = 256
# A mass that no sum of probabilities reaches.
_ALL = 2.0


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


class DrawTable:
    """The sampling parameters and random numbers of each slot."""

    def __init__(self, slots: int, context: int) -> None:
        self._temperature = np.ones(slots)
        self._top_p = np.ones(slots)
        self._top_k = np.zeros(slots, np.int64)
        self._uniform = np.zeros((slots, context))

    def set(self, slot: int, sampling: SamplingParams, uniform: NDArray[np.float64]) -> None:
        """Use these from now on; `uniform` has one number per token of the turn."""
        self._temperature[slot] = sampling.temperature
        self._top_p[slot], self._top_k[slot] = sampling.top_p, sampling.top_k
        self._uniform[slot, : len(uniform)] = uniform

    def rows(self, slots: list[int], step: list[int]) -> Draw:
        """What the `step`-th token of each of these slots is drawn with."""
        uniform = self._uniform[slots, step]
        return Draw(self._temperature[slots], self._top_p[slots], self._top_k[slots], uniform)


def draw(logits_BV: Tensor, how: Draw) -> tuple[list[int], list[float]]:
    """Draw a token for each row by inverting its cumulative distribution.

    The log-probability is that of the distribution drawn from: `log_softmax(logits / temperature)`,
    renormalised over the kept tokens where top-p or top-k truncate. At temperature 1 without
    truncation it is the model's own. A greedy row reports the model's own too, since a point mass would
    say 0 for every token.

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
    if greedy.all():
        chosen_B1 = logprobs_BV.argmax(dim=-1, keepdim=True)
    else:
        chosen_B1 = _invert(logprobs_BV, how.uniform)
        if greedy.any():
            best = logprobs_BV.argmax(dim=-1, keepdim=True)
            chosen_B1 = torch.where(torch.from_numpy(greedy)[:, None].to(best.device), best, chosen_B1)
    logprobs = logprobs_BV.gather(1, chosen_B1)
    return chosen_B1[:, 0].tolist(), logprobs[:, 0].tolist()


def _invert(logprobs_BV: Tensor, uniform: NDArray[np.float64]) -> Tensor:
    """(B, 1) the first token whose cumulative probability exceeds u; its own probability is never 0."""
    cumulative = logprobs_BV.exp().cumsum_(dim=-1)
    target = _column(np.minimum(uniform, _BELOW_ONE), cumulative) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)


def _truncate(logits_BV: Tensor, how: Draw, rows: NDArray[np.bool_]) -> Tensor:
    """Set to -inf what top-k, and then top-p among the rest, drop; the most likely token always stays.

    Most cuts lie among the first tokens, which are found without sorting the vocabulary.
    """
    chosen = np.flatnonzero(rows)
    at = torch.from_numpy(chosen).to(logits_BV.device)
    size = logits_BV.shape[1]
    top_k = np.where(how.top_k[chosen] > 0, how.top_k[chosen], size)
    top_p = np.where(how.top_p[chosen] < 1, how.top_p[chosen], _ALL)
    return logits_BV.index_copy(0, at, _cut(logits_BV[at], top_k, top_p, _FIRST))


def _cut(part_RV: Tensor, top_k: NDArray[np.int64], top_p: NDArray[np.float64], first: int) -> Tensor:
    """(R, V) with -inf for what is dropped; rows whose cut is not among the `first` tokens are looked at again."""
    size = part_RV.shape[1]
    first = min(first, size)
    ordered = part_RV.topk(first, dim=-1) if first < size else part_RV.sort(dim=-1, descending=True, stable=True)
    values, order = ordered
    dropped = _dropped(part_RV, values, order, top_k, top_p)
    cut_RV = torch.full_like(part_RV, -torch.inf).scatter_(1, order, values.masked_fill(dropped, -torch.inf))
    known = torch.from_numpy((top_k <= first) | (top_k == size)).to(dropped.device)  # what the mass is shared among
    missing = ~(known & dropped.any(-1)) if first < size else torch.zeros_like(known)
    if missing.any():
        rows = missing.cpu().numpy()
        cut_RV[missing] = _cut(part_RV[missing], top_k[rows], top_p[rows], size)
    return cut_RV


def _dropped(
    part_RV: Tensor, values_RF: Tensor, order_RF: Tensor, top_k: NDArray[np.int64], top_p: NDArray[np.float64]
) -> Tensor:
    """(R, F) which of the F most likely tokens are dropped, the most likely one first."""
    places = torch.arange(values_RF.shape[1], device=values_RF.device)[None, :]
    beyond_k = places >= torch.from_numpy(top_k).to(values_RF.device)[:, None]
    # Sums of a row alone, so that no other row changes a bit.
    among_all = part_RV.softmax(-1).gather(1, order_RF)
    among_k = values_RF.masked_fill(beyond_k, -torch.inf).softmax(-1)
    limited = torch.from_numpy(top_k <= values_RF.shape[1]).to(values_RF.device)[:, None]
    probabilities = torch.where(limited, among_k, among_all)
    mass_before = probabilities.cumsum(-1) - probabilities
    dropped = beyond_k | (mass_before >= _column(top_p, values_RF))
    dropped[:, 0] = False
    return dropped


def _column(values: NDArray[np.float64] | NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(device=like.device, dtype=like.dtype)[:, None]
