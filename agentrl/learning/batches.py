"""Micro-batches: rows laid out for one forward pass, padded or packed. Owns no maths and no torch.

Coefficients are fixed before rows get here, so the layout cannot change a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentrl.learning.rows import Floats, Ints, Row


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
        sources: index of each of those rows among the rows that were laid out.
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
    sources: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward pass, padding included."""
        return int(self.ids.size)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A row on its way into a micro-batch, cut after its last trained token: the rest cannot reach the loss."""

    row: Row
    source: int
    size: int


def _pieces(rows: Sequence[Row]) -> list[_Piece]:
    """Rows with a token to train, longest first."""
    ends = [int(np.flatnonzero(row.mask)[-1]) + 1 if row.mask.any() else 0 for row in rows]
    pieces = [_Piece(row, i, end) for i, (row, end) in enumerate(zip(rows, ends, strict=True)) if end]
    return sorted(pieces, key=lambda piece: -piece.size)


def _flatten(ids: Ints, positions: Ints | None, pieces: Sequence[_Piece], starts: Sequence[int]) -> MicroBatch:
    """Gather the trained tokens of rows that begin at the flat indices `starts`."""
    rows = [piece.row for piece in pieces]
    places = [start + np.flatnonzero(row.mask) for row, start in zip(rows, starts, strict=True)]
    return MicroBatch(
        ids=ids,
        positions=positions,
        index=np.concatenate(places) - 1,
        targets=np.concatenate([row.ids[row.mask] for row in rows]),
        old_logprobs=np.concatenate([row.old_logprobs[row.mask] for row in rows]),
        advantages=np.concatenate([row.advantages[row.mask] for row in rows]),
        coefficients=np.concatenate([row.coefficients[row.mask] for row in rows]),
        versions=np.concatenate([row.versions[row.mask] for row in rows]),
        rows=np.repeat(np.arange(len(rows)), [len(place) for place in places]),
        sources=tuple(piece.source for piece in pieces),
    )


def pad(rows: Sequence[Row], max_tokens: int) -> list[MicroBatch]:
    """One line a row, padded on the right; rows of like length share a micro-batch.

    Causal attention never looks right, so padding needs no attention mask.

    Args:
        rows: rows of any length.
        max_tokens: most tokens of a micro-batch, padding included; a longer row gets its own.
    """
    batches: list[MicroBatch] = []
    pending: list[_Piece] = []
    for piece in _pieces(rows):
        if pending and pending[0].size * (len(pending) + 1) > max_tokens:
            batches.append(_padded(pending))
            pending = []
        pending.append(piece)
    if pending:
        batches.append(_padded(pending))
    return batches


def _padded(pieces: Sequence[_Piece]) -> MicroBatch:
    width = max(piece.size for piece in pieces)
    ids = np.zeros((len(pieces), width), np.int64)
    for line, piece in zip(ids, pieces, strict=True):
        line[: piece.size] = piece.row.ids[: piece.size]
    return _flatten(ids, None, pieces, [width * i for i in range(len(pieces))])


def pack(rows: Sequence[Row], max_tokens: int) -> list[MicroBatch]:
    """Rows one behind the other in a single line; positions restart, attention stays within a row.

    First-fit by falling length. `transformers` derives the block-diagonal mask (or the variable
    lengths of flash attention) from positions that restart.

    Args:
        rows: rows of any length.
        max_tokens: most tokens of a micro-batch; a longer row gets its own.
    """
    bins: list[list[_Piece]] = []
    room: list[int] = []
    for piece in _pieces(rows):
        fit = next((i for i, free in enumerate(room) if piece.size <= free), None)
        if fit is None:
            bins.append([piece])
            room.append(max_tokens - piece.size)
        else:
            bins[fit].append(piece)
            room[fit] -= piece.size
    return [_packed(pieces) for pieces in bins]


def _packed(pieces: Sequence[_Piece]) -> MicroBatch:
    sizes = [piece.size for piece in pieces]
    ids = np.concatenate([piece.row.ids[: piece.size] for piece in pieces])[None]
    positions = np.concatenate([np.arange(size) for size in sizes])[None]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist()
    return _flatten(ids, positions, pieces, starts)
