"""Micro-batches: rows laid out for one forward pass, padded or packed, and shares of rows. Owns no maths and no torch.

Coefficients are fixed before rows get here, so the layout cannot change a gradient. Rows of one unit (`keep`) stay
in one micro-batch, and in one share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from agentrl.learning.rows import Array, Ints, Row

Unit = Literal["token", "row", "trajectory", "pair"]

# What a forward and backward pass of the tiny model costs on a CPU besides its tokens, in tokens.
PASS_TOKENS = 128


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward pass, and its N trained tokens as flat arrays.

    Attributes:
        ids: (B, T) int64 token ids, padded with 0 on the right.
        positions: (B, T) int64 position of each token in its row: restarting at 0 where rows are
            packed one behind the other; None where every row has a line of its own.
        index: (N,) flat index into B x T of the position that PREDICTS each trained token.
        targets: (N,) int64 the trained tokens.
        rows: (N,) int64 number of the row in this micro-batch that the token belongs to.
        units: (N,) int64 number of the unit in this micro-batch that the token belongs to.
        num_units: how many there are.
        laid: the rows, in the order of `rows`.
        sources: index of each of those rows among the rows that were laid out.
    """

    ids: Ints
    positions: Ints | None
    index: Ints
    targets: Ints
    rows: Ints
    units: Ints
    num_units: int
    laid: tuple[Row, ...]
    sources: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward pass, padding included."""
        return int(self.ids.size)

    def column(self, name: str) -> Array:
        """(N,) a column of the rows at the trained tokens."""
        return np.concatenate([row.column(name)[row.mask] for row in self.laid])


@dataclass(frozen=True, slots=True)
class _Piece:
    """A row for a micro-batch, cut after its last trained token: later tokens do not change the loss."""

    row: Row
    source: int
    size: int
    unit: int


_UNIT_OF: dict[str, Callable[[int, Row], int]] = {
    "token": lambda source, row: source,
    "row": lambda source, row: source,
    "trajectory": lambda source, row: row.trajectory,
    "pair": lambda source, row: row.unit,
}


def _units(rows: Sequence[Row], keep: Unit) -> list[list[_Piece]]:
    """Rows with a token to train, those of one unit together; the longest unit first."""
    units: dict[int, list[_Piece]] = {}
    for source, row in enumerate(rows):
        if row.mask.any():
            unit = _UNIT_OF[keep](source, row)
            units.setdefault(unit, []).append(_Piece(row, source, _size(row), unit))
    return sorted(units.values(), key=lambda pieces: -max(piece.size for piece in pieces))


def _size(row: Row) -> int:
    """Tokens of a row that go through the model: up to its last trained one."""
    trained = np.flatnonzero(row.mask)
    return int(trained[-1]) + 1 if len(trained) else 0


def _flatten(ids: Ints, positions: Ints | None, pieces: Sequence[_Piece], starts: Sequence[int]) -> MicroBatch:
    """Gather the trained tokens of rows that begin at the flat indices `starts`."""
    rows = [piece.row for piece in pieces]
    places = [start + np.flatnonzero(row.mask) for row, start in zip(rows, starts, strict=True)]
    sizes = [len(place) for place in places]
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(piece.unit for piece in pieces))}
    return MicroBatch(
        ids=ids,
        positions=positions,
        index=np.concatenate(places) - 1,
        targets=np.concatenate([row.ids[row.mask] for row in rows]),
        rows=np.repeat(np.arange(len(rows)), sizes),
        units=np.repeat([numbers[piece.unit] for piece in pieces], sizes),
        num_units=len(numbers),
        laid=tuple(rows),
        sources=tuple(piece.source for piece in pieces),
    )


def pad(
    rows: Sequence[Row], max_tokens: int, keep: Unit = "row", *, pass_tokens: int = PASS_TOKENS
) -> list[MicroBatch]:
    """One line a row, padded on the right; rows of similar length share a micro-batch.

    Causal attention never looks right, so padding needs no attention mask. The rows are sorted by length, and cut into
    micro-batches where the padding and the passes together cost least.

    Args:
        rows: rows of any length.
        max_tokens: most tokens of a micro-batch, padding included; a longer unit gets its own.
        keep: rows of one such unit stay in one micro-batch.
        pass_tokens: what a pass costs besides its tokens, in tokens.
    """
    units = _units(rows, keep)
    ends = _ends(
        [max(piece.size for piece in pieces) for pieces in units], list(map(len, units)), max_tokens, pass_tokens
    )
    return [_padded([piece for pieces in units[i:j] for piece in pieces]) for i, j in pairwise([0, *ends])]


def _ends(widths: Sequence[int], lines: Sequence[int], max_tokens: int, pass_tokens: int) -> list[int]:
    """Where each micro-batch ends, so that the sum of tokens, padding included, and costs of the passes is least.

    Args:
        widths: of each unit, falling.
        lines: rows of each unit.
        max_tokens, pass_tokens: as in `pad`.
    """
    least, begins = [0], [0]  # of the units before each place: the least cost, and where its last micro-batch begins
    for end in range(1, len(widths) + 1):
        count = lines[end - 1]
        found = [(least[end - 1] + widths[end - 1] * count + pass_tokens, end - 1)]
        for begin in range(end - 2, -1, -1):
            count += lines[begin]
            if widths[begin] * count > max_tokens:
                break
            found.append((least[begin] + widths[begin] * count + pass_tokens, begin))
        cost, begin = min(found)
        least.append(cost)
        begins.append(begin)
    ends = [len(widths)] if widths else []
    while ends and begins[ends[-1]] > 0:
        ends.append(begins[ends[-1]])
    return ends[::-1]


def _padded(pieces: Sequence[_Piece]) -> MicroBatch:
    width = max(piece.size for piece in pieces)
    ids = np.zeros((len(pieces), width), np.int64)
    for line, piece in zip(ids, pieces, strict=True):
        line[: piece.size] = piece.row.ids[: piece.size]
    return _flatten(ids, None, pieces, [width * i for i in range(len(pieces))])


def pack(rows: Sequence[Row], max_tokens: int, keep: Unit = "row") -> list[MicroBatch]:
    """Rows one behind the other in a single line; positions restart, attention stays within a row.

    First-fit by falling length. `transformers` derives the block-diagonal mask (or the variable
    lengths of flash attention) from positions that restart.

    Args:
        rows: rows of any length.
        max_tokens: most tokens of a micro-batch; a longer unit gets its own.
        keep: rows of one such unit stay in one micro-batch.
    """
    bins: list[list[_Piece]] = []
    room: list[int] = []
    for pieces in _units(rows, keep):
        size = sum(piece.size for piece in pieces)
        fit = next((i for i, free in enumerate(room) if size <= free), None)
        if fit is None:
            bins.append(list(pieces))
            room.append(max_tokens - size)
        else:
            bins[fit].extend(pieces)
            room[fit] -= size
    return [_packed(pieces) for pieces in bins]


def _packed(pieces: Sequence[_Piece]) -> MicroBatch:
    sizes = [piece.size for piece in pieces]
    ids = np.concatenate([piece.row.ids[: piece.size] for piece in pieces])[None]
    positions = np.concatenate([np.arange(size) for size in sizes])[None]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist()
    return _flatten(ids, positions, pieces, starts)


def shares(rows: Sequence[Row], count: int, keep: Unit = "row") -> list[list[int]]:
    """Rows shared out evenly by tokens: the longest unit first, each to the share that has the fewest so far.

    Args:
        rows: rows of any length.
        count: of shares, one for each process.
        keep: rows of one such unit stay in one share.
    Returns: indices of the rows of each share, rising; the same for the same rows. A share may be empty.
    """
    units: dict[int, list[int]] = {}
    for source, row in enumerate(rows):
        units.setdefault(_UNIT_OF[keep](source, row), []).append(source)
    sizes = [_size(row) for row in rows]
    chosen: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for sources in sorted(units.values(), key=lambda sources: -sum(sizes[source] for source in sources)):
        least = loads.index(min(loads))
        chosen[least].extend(sources)
        loads[least] += sum(sizes[source] for source in sources)
    return [sorted(share) for share in chosen]
