"""How sure a model is of a token: its margin over the others, the entropy, and the distance from uniform."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Sure = tuple[float, float, float]
"""Margin, entropy and KL of the uniform distribution, as `agentrl.messages.TokenSignals` has them."""


def signals_of(logits_BV: Tensor, tokens: Sequence[int]) -> list[Sure]:
    """(B,) how sure each row is of its token, at temperature 1 and without truncation.

    The entropy is that of all tokens. KL(U || p) = -log V - (1/V) sum_v log p_v.

    Args:
        logits_BV: (B, V) of the model itself; V is at least 2.
        tokens: (B,) the token of each row.
    """
    logprobs_BV = torch.log_softmax(logits_BV.float(), dim=-1)
    probabilities_BV = logprobs_BV.exp()
    best_B2, which_B2 = probabilities_BV.topk(2, dim=-1)
    chosen_B1 = torch.tensor(tokens, device=logits_BV.device)[:, None]
    own = probabilities_BV.gather(1, chosen_B1)[:, 0]
    other = torch.where(which_B2[:, 0] == chosen_B1[:, 0], best_B2[:, 1], best_B2[:, 0])
    entropy = -(probabilities_BV * logprobs_BV).sum(-1)
    uniform_kl = -math.log(logits_BV.shape[1]) - logprobs_BV.mean(-1)
    rows = torch.stack([own - other, entropy, uniform_kl], dim=1).tolist()
    return [(margin, entropy, kl) for margin, entropy, kl in rows]


def ranked(logits_V: Tensor, rank: int) -> tuple[int, float]:
    """The token at a place among the most likely ones, from 0, and its log-probability; at most the last place."""
    place = min(rank, len(logits_V) - 1)
    token = int(logits_V.topk(place + 1).indices[place])
    return token, float(torch.log_softmax(logits_V.float(), dim=-1)[token])
