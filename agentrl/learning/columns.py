"""Columns that a model fills, before the update begins. Owns their place in the rows, no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from agentrl.learning.batches import MicroBatch
from agentrl.learning.rows import Row, check_sampler_known


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
    check_sampler_known(rows)
    return [row.with_columns(old_logprobs=row.column("sampled_logprobs")) for row in rows]
