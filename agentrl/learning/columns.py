"""Columns that a model fills, before the update begins. Owns their place in the rows, no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agentrl.learning.batches import MicroBatch
from agentrl.learning.rows import Row
from agentrl.learning.terms import icepop_importance, truncated_importance

Importance = Literal["none", "tis", "icepop"]


def fill(
    rows: Sequence[Row], column: str, batches: Sequence[MicroBatch], predicted: Callable[[MicroBatch], Tensor]
) -> list[Row]:
    """The rows with a column that a model predicts: a number for each trained token, 0 elsewhere.

    Args:
        rows: any rows.
        column: its name.
        batches: a layout of exactly these rows.
        predicted: (N,) of a micro-batch, without gradient.
    """
    filled = [row.with_columns(**{column: np.zeros(len(row), np.float32)}) for row in rows]
    for batch in batches:
        values = predicted(batch).float().cpu().numpy()
        for number, source in enumerate(batch.sources):
            filled[source].columns[column][rows[source].mask] = values[batch.rows == number]
    return filled


def with_sampled_as_old(rows: Sequence[Row]) -> list[Row]:
    """The rows with the sampler's logprobs as the old ones, against which the ratio is taken.

    Raises: ValueError if a sampled token has none.
    """
    _check_known(rows)
    return [row.with_columns(old_logprobs=row.column("sampled_logprobs")) for row in rows]


def with_importance(rows: Sequence[Row], importance: Importance) -> list[Row]:
    """The rows corrected for probabilities that differ between sampler and trainer under the same weights.

    The importance weight multiplies the advantages: every policy loss is proportional to them.

    Args:
        rows: with `sampled_logprobs`, `advantages`, and `old_logprobs` that the trainer filled.
        importance: `none`, truncated (`tis`) or masked (`icepop`) weights.
    Raises: ValueError for another name, or if a sampled token has no log-probability of its sampler.
    """
    if importance not in ("none", "tis", "icepop"):
        raise ValueError(f"importance must be 'none', 'tis' or 'icepop', got {importance!r}")
    if importance == "none":
        return list(rows)
    _check_known(rows)
    weigh = truncated_importance if importance == "tis" else icepop_importance
    return [_weighed(row, weigh) for row in rows]


def _check_known(rows: Sequence[Row]) -> None:
    unknown = sum(int(np.isnan(row.column("sampled_logprobs")[row.mask]).sum()) for row in rows)
    if unknown:
        raise ValueError(
            f"{unknown} sampled tokens have ids but no log-probabilities of their sampler, so their ratio is not "
            'known: set recompute_old_logprobs = true with importance = "none", or sample with temperature 1, '
            "top_p 1 and top_k 0 from a server that returns log-probabilities"
        )


def _weighed(row: Row, weigh: Callable[[Tensor], Tensor]) -> Row:
    log_ratio = torch.from_numpy(row.column("old_logprobs") - row.column("sampled_logprobs"))
    weights = np.where(row.mask, weigh(log_ratio).numpy(), 0.0).astype(np.float32)
    return row.with_columns(advantages=row.column("advantages") * weights)
