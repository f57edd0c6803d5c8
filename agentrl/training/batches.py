"""Micro-batches: rows laid out for one forward pass, padded or packed. Owns no maths and no torch.

Coefficients are fixed before rows get here, so the layout cannot change a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentrl.training.rows import Floats, Ints, Row


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward pass, and its N trained tokens as flat arrays.

    Attributes:
        ids: (B, T) int64 token ids, padded with 0 on the right.
        positions: (B, T) int64 position of each token in its row: restarting at 0 where rows are
            packed one behind the other; None where every row has a line of its own.
        index: (N,) flat index into B x T of the position that PREDICTS each trained token.
        targets: (N,) int64 the trained tokens.
        old_logprobs, advantages, coefficients: (N,) float32, as in `Row`.
        versions: (N,) int32, as in `Row`.
        rows: (N,) int64 number of the row in this micro-batch that the token belongs to.
    """

    ids: Ints
    positions: Ints | None
    index: Ints
    targets: Ints
    old_logprobs: Floats
    advantages: Floats
    coefficients: Floats
    versions: npt.NDArray[np.int32]
    rows: Ints

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward pass, padding included."""
        return int(self.ids.size)


def _flatten(ids: Ints, positions: Ints | None, rows: Sequence[Row], starts: Sequence[int]) -> MicroBatch:
    """Gather the trained tokens of rows that begin at the flat indices `starts`."""

    def gather(name: str) -> npt.NDArray[np.generic]:
        return np.concatenate([getattr(row, name)[row.mask] for row in rows])

    return MicroBatch(
        ids=ids,
        positions=positions,
        index=np.concatenate([start + np.flatnonzero(row.mask) - 1 for row, start in zip(rows, starts, strict=True)]),
        targets=gather("ids").astype(np.int64),
        old_logprobs=gather("old_logprobs").astype(np.float32),
        advantages=gather("advantages").astype(np.float32),
        coefficients=gather("coefficients").astype(np.float32),
        versions=gather("versions").astype(np.int32),
        rows=np.repeat(np.arange(len(rows)), [row.num_trained for row in rows]),
    )


def _trainable(rows: Sequence[Row]) -> list[Row]:
    """Rows with a token to train, cut after their last one: what follows cannot reach the loss."""
    return [_cut(row, int(np.flatnonzero(row.mask)[-1]) + 1) for row in rows if row.mask.any()]


def _cut(row: Row, size: int) -> Row:
    """The first `size` tokens of a row."""
    if size == len(row):
        return row
    names = ("ids", "mask", "old_logprobs", "advantages", "coefficients", "versions", "turns")
    parts = {name: getattr(row, name)[:size] for name in names}
    return Row(**parts, trajectory=row.trajectory, group_id=row.group_id)


def pad(rows: Sequence[Row], max_tokens: int) -> list[MicroBatch]:
    """One line a row, padded on the right; rows of like length share a micro-batch.

    Causal attention never looks right, so padding needs no attention mask.

    Args:
        rows: rows of any length.
        max_tokens: most tokens of a micro-batch, padding included; a longer row gets its own.
    """
    batches: list[MicroBatch] = []
    pending: list[Row] = []
    for row in sorted(_trainable(rows), key=len, reverse=True):
        if pending and len(pending[0]) * (len(pending) + 1) > max_tokens:
            batches.append(_padded(pending))
            pending = []
        pending.append(row)
    if pending:
        batches.append(_padded(pending))
    return batches


def _padded(rows: Sequence[Row]) -> MicroBatch:
    width = max(len(row) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row)] = row.ids
    return _flatten(ids, None, rows, [width * i for i in range(len(rows))])


def pack(rows: Sequence[Row], max_tokens: int) -> list[MicroBatch]:
    """Rows one behind the other in a single line; positions restart, attention stays within a row.

    First-fit by falling length. `transformers` derives the block-diagonal mask (or the variable
    lengths of flash attention) from positions that restart.

    Args:
        rows: rows of any length.
        max_tokens: most tokens of a micro-batch; a longer row gets its own.
    """
    bins: list[list[Row]] = []
    room: list[int] = []
    for row in sorted(_trainable(rows), key=len, reverse=True):
        fit = next((i for i, free in enumerate(room) if len(row) <= free), None)
        if fit is None:
            bins.append([row])
            room.append(max_tokens - len(row))
        else:
            bins[fit].append(row)
            room[fit] -= len(row)
    return [_packed(rows_of_bin) for rows_of_bin in bins]


def _packed(rows: Sequence[Row]) -> MicroBatch:
    sizes = [len(row) for row in rows]
    ids = np.concatenate([row.ids for row in rows])[None]
    positions = np.concatenate([np.arange(size) for size in sizes])[None]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist()
    return _flatten(ids, positions, rows, starts)
