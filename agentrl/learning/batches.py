"""Micro-batches: rows laid out for one forward pass, padded or packed, and shares of rows. Owns no maths and no torch.

`tree` lays out rows that share a prefix. Coefficients are fixed before rows get here, so the layout cannot change a
gradient. Rows of one unit (`keep`) stay in one micro-batch, and in one share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from agentrl.learning.rows import Array, Bools, Ints, Row

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
        paths: where the tokens of each row are, if rows share tokens: then the line holds each once. Else None.
        index: (N,) flat index into B x T of the position that PREDICTS each trained token.
        targets: (N,) int64 the trained tokens.
        rows: (N,) int64 number of the row in this micro-batch that the token belongs to.
        units: (N,) int64 number of the unit in this micro-batch that the token belongs to.
        num_units: how many there are.
        laid: the rows, in the order of `rows`.
        sources: index of each of those rows among the rows that were laid out.
        distinct: the different ones among the trained tokens, where rows share positions; None where all differ.
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
    paths: Paths | None = None
    distinct: Distinct | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward pass, padding included."""
        return int(self.ids.size)

    def column(self, name: str) -> Array:
        """(N,) a column of the rows at the trained tokens."""
        return np.concatenate([row.column(name)[row.mask] for row in self.laid])


@dataclass(frozen=True, slots=True)
class Branches:
    """R rows of a tree whose own tokens attend at once.

    Attributes:
        queries: (R, M) int64 place in the line of each token that is a row's own, 0 behind its last one.
        keys: (R, L) int64 place of each token of the row, 0 behind its end.
        seen: (R, M, L) bool, whether an own token sees a token of its row: itself and those before it. None where all
            tokens of the rows are their own, so that this is plain causal attention.
    """

    queries: Ints
    keys: Ints
    seen: Bools | None

    def at(self, chosen: Bools) -> tuple[Branches, Bools]:
        """Fewer queries, if that saves much: those of the chosen ones, and where they are among the new ones.

        Plain causal attention reads half of the keys, and a mask reads all.
        """
        count, most = chosen.shape
        size = int(chosen.sum(1).max())
        if size > most * (0.8 if self.seen is not None else 0.4):
            return self, chosen
        order = np.argsort(~chosen, axis=1, kind="stable")[:, :size]
        rows = np.arange(count)[:, None]
        seen = order[..., None] >= np.arange(self.keys.shape[1]) if self.seen is None else self.seen[rows, order]
        return Branches(self.queries[rows, order], self.keys, seen), chosen[rows, order]


@dataclass(frozen=True, slots=True)
class Paths:
    """The rows of a line in which each token that rows share stands once.

    Attributes:
        branches: the rows, each in one of them; a row that adds no token to the tree is in none.
        owners: (U,) int64 for each token of the line its place among the queries of all branches, flattened in order.
    """

    branches: tuple[Branches, ...]
    owners: Ints

    def at(self, places: Ints) -> Paths:
        """The same for a layer whose output is needed at some places of the line alone: `owners` elsewhere is 0."""
        asked = np.zeros(len(self.owners), np.bool_)
        asked[places] = True
        owners, branches, start, made = np.zeros_like(self.owners), [], 0, 0
        for branch in self.branches:
            own = self.owners[branch.queries] == start + np.arange(branch.queries.size).reshape(branch.queries.shape)
            start += branch.queries.size
            found, chosen = branch.at(own & asked[branch.queries])
            if chosen.any():
                owners[found.queries[chosen]] = made + np.flatnonzero(chosen)
                branches.append(found)
                made += found.queries.size
        return Paths(tuple(branches), owners)


@dataclass(frozen=True, slots=True)
class Distinct:
    """Trained tokens without repetition: rows that share a position may train the same token after it.

    Attributes:
        places: (P,) flat index of the positions that predict a trained token, each once and rising.
        place_of: (U,) number among `places` of the position that predicts each distinct token.
        targets: (U,) the distinct tokens.
        number_of: (N,) number of each trained token among the distinct ones.
    """

    places: Ints
    place_of: Ints
    targets: Ints
    number_of: Ints

    @classmethod
    def of(cls, index: Ints, targets: Ints) -> Distinct:
        """Args: index, targets: (N,) as in `MicroBatch`."""
        tokens, number_of = np.unique(np.stack([index, targets], axis=1), axis=0, return_inverse=True)
        places, place_of = np.unique(tokens[:, 0], return_inverse=True)
        return cls(places, place_of, np.ascontiguousarray(tokens[:, 1]), number_of.reshape(-1))


@dataclass(frozen=True, slots=True)
class Piece:
    """A row for a micro-batch, cut before its last trained token: nothing is predicted from that one or a later one."""

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


def units_of(rows: Sequence[Row], keep: Unit) -> list[list[Piece]]:
    """Rows with a token to train, those of one unit together; the longest unit first."""
    units: dict[int, list[Piece]] = {}
    for source, row in enumerate(rows):
        if row.mask.any():
            unit = _UNIT_OF[keep](source, row)
            units.setdefault(unit, []).append(Piece(row, source, _size(row), unit))
    return sorted(units.values(), key=lambda pieces: -max(piece.size for piece in pieces))


def _size(row: Row) -> int:
    """Tokens of a row that go through the model: those before its last trained one."""
    trained = np.flatnonzero(row.mask)
    return int(trained[-1]) if len(trained) else 0


def flatten(ids: Ints, positions: Ints | None, pieces: Sequence[Piece], index: Sequence[Ints]) -> MicroBatch:
    """Gather the trained tokens of rows. Args: index: for each row the flat indices that predict its trained tokens."""
    rows = [piece.row for piece in pieces]
    sizes = [len(places) for places in index]
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(piece.unit for piece in pieces))}
    return MicroBatch(
        ids=ids,
        positions=positions,
        index=np.concatenate(index),
        targets=np.concatenate([row.ids[row.mask] for row in rows]),
        rows=np.repeat(np.arange(len(rows)), sizes),
        units=np.repeat([numbers[piece.unit] for piece in pieces], sizes),
        num_units=len(numbers),
        laid=tuple(rows),
        sources=tuple(piece.source for piece in pieces),
    )


def _from_starts(pieces: Sequence[Piece], starts: Sequence[int]) -> list[Ints]:
    """The flat indices that predict the trained tokens of rows that begin at `starts`."""
    return [start + np.flatnonzero(piece.row.mask) - 1 for piece, start in zip(pieces, starts, strict=True)]


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
    units = units_of(rows, keep)
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


def _padded(pieces: Sequence[Piece]) -> MicroBatch:
    width = max(piece.size for piece in pieces)
    ids = np.zeros((len(pieces), width), np.int64)
    for line, piece in zip(ids, pieces, strict=True):
        line[: piece.size] = piece.row.ids[: piece.size]
    return flatten(ids, None, pieces, _from_starts(pieces, [width * i for i in range(len(pieces))]))


def pack(rows: Sequence[Row], max_tokens: int, keep: Unit = "row") -> list[MicroBatch]:
    """Rows one behind the other in a single line; positions restart, attention stays within a row.

    First-fit by falling length. `transformers` derives the block-diagonal mask (or the variable
    lengths of flash attention) from positions that restart.

    Args:
        rows: rows of any length.
        max_tokens: most tokens of a micro-batch; a longer unit gets its own.
        keep: rows of one such unit stay in one micro-batch.
    """
    bins: list[list[Piece]] = []
    room: list[int] = []
    for pieces in units_of(rows, keep):
        size = sum(piece.size for piece in pieces)
        fit = next((i for i, free in enumerate(room) if size <= free), None)
        if fit is None:
            bins.append(list(pieces))
            room.append(max_tokens - size)
        else:
            bins[fit].extend(pieces)
            room[fit] -= size
    return [_packed(pieces) for pieces in bins]


def _packed(pieces: Sequence[Piece]) -> MicroBatch:
    sizes = [piece.size for piece in pieces]
    ids = np.concatenate([piece.row.ids[: piece.size] for piece in pieces])[None]
    positions = np.concatenate([np.arange(size) for size in sizes])[None]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist()
    return flatten(ids, positions, pieces, _from_starts(pieces, starts))


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
