"""Tree batches: tokens that several rows begin with go through the model once. Owns the layout, no maths and no torch.

Rows of an agent share much: the tools and the system prompt in every row, the task in a group, whole turns among
episodes that did the same. All of a layer but its attention is computed once for each distinct token; attention is
computed row by row (`tree_attention`), so scores and gradients are those of separate rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np

from agentrl.learning.batches import (
    PASS_TOKENS,
    Branches,
    Distinct,
    MicroBatch,
    Paths,
    Piece,
    Unit,
    flatten,
    pad,
    units_of,
)
from agentrl.learning.rows import Ints, Row

_WORTH = 0.9
"""Rows are laid out as a tree where that costs at most this share of padding."""
_GATHERED = 0.02
"""What gathering a token of a row for attention costs, in tokens that go through the whole model."""
_ROWS = 8
"""Most tokens of a micro-batch's rows, repetitions included, in multiples of the limit of its distinct tokens."""

_FEW = 7
"""Rows with at most one more own token than this attend at once."""


def tree(
    rows: Sequence[Row],
    max_tokens: int,
    keep: Unit = "row",
    *,
    pass_tokens: int = PASS_TOKENS,
    attention_tokens: float = 1000.0,
) -> list[MicroBatch]:
    """Rows in one line in which each common prefix stands once; where that saves little, the rows are padded instead.

    The rows are sorted, so that those with the longest common prefixes are neighbours, and cut into micro-batches where
    distinct tokens, attention and passes together cost least.

    Args:
        rows: rows of any length.
        max_tokens: most distinct tokens of a micro-batch; a longer unit gets its own.
        keep: rows of one such unit stay in one micro-batch.
        pass_tokens: what a pass costs besides its tokens, in tokens.
        attention_tokens: length of a row at which attention to all pairs of its tokens costs as much as all else.
    """
    units = sorted((sorted(pieces, key=_key) for pieces in units_of(rows, keep)), key=lambda unit: _key(unit[0]))
    if not units:
        return []
    cuts, cost = _cut(units, max_tokens, pass_tokens, attention_tokens)
    padded = pad(rows, max_tokens, keep, pass_tokens=pass_tokens)
    if cost > _WORTH * sum(_cost_padded(batch, attention_tokens) + pass_tokens for batch in padded):
        return padded
    return [_laid_out([piece for unit in units[i:j] for piece in unit]) for i, j in pairwise([0, *cuts])]


def in_one_line(rows: Sequence[Row]) -> MicroBatch:
    """All rows as one tree."""
    return _laid_out(sorted((piece for unit in units_of(rows, "row") for piece in unit), key=_key))


def _key(piece: Piece) -> bytes:
    """Sorts as the ids do."""
    return piece.row.ids[: piece.size].astype(">i8").tobytes()


def _shared(one: Piece, other: Piece) -> int:
    """How many tokens two rows have in common at their beginning."""
    size = min(one.size, other.size)
    differ = np.flatnonzero(one.row.ids[:size] != other.row.ids[:size])
    return int(differ[0]) if len(differ) else size


def _cost_padded(batch: MicroBatch, attention_tokens: float) -> float:
    width = batch.ids.shape[1]
    return float(batch.num_tokens * (1 + width / (2 * attention_tokens)))


def _cut(
    units: Sequence[Sequence[Piece]], max_tokens: int, pass_tokens: int, attention_tokens: float
) -> tuple[list[int], float]:
    """Where each micro-batch of sorted units ends, so that their sum of costs is least, and that sum."""
    common = [0, *(_shared(before[-1], unit[0]) for before, unit in pairwise(units))]
    within = [[0, *(_shared(before, piece) for before, piece in pairwise(unit))] for unit in units]
    sizes = [[piece.size for piece in unit] for unit in units]
    alone = [sum(of) - sum(shared) for of, shared in zip(sizes, within, strict=True)]
    gathered = [sum(of) for of in sizes]
    pairs = [
        sum(n * (n - s) for n, s in zip(of, shared, strict=True)) for of, shared in zip(sizes, within, strict=True)
    ]
    # Of all units before each place, each behind the one before it.
    added = list(accumulate((size - shared for size, shared in zip(alone, common, strict=True)), initial=0))
    read = list(accumulate(gathered, initial=0))
    seen = list(accumulate((p - of[0] * c for p, of, c in zip(pairs, sizes, common, strict=True)), initial=0))

    least, begins = [0.0], [0]
    for end in range(1, len(units) + 1):
        best: tuple[float, int] | None = None
        for begin in range(end - 1, -1, -1):
            distinct = added[end] - added[begin] + common[begin]
            rows_tokens = read[end] - read[begin]
            if best is not None and (distinct > max_tokens or rows_tokens > _ROWS * max_tokens):
                break
            attention = (seen[end] - seen[begin] + sizes[begin][0] * common[begin]) / attention_tokens
            found = least[begin] + distinct + _GATHERED * rows_tokens + attention + pass_tokens, begin
            best = found if best is None else min(best, found)
        assert best is not None
        least.append(best[0])
        begins.append(best[1])
    ends = [len(units)]
    while begins[ends[-1]] > 0:
        ends.append(begins[ends[-1]])
    return ends[::-1], least[-1]


def _laid_out(pieces: Sequence[Piece]) -> MicroBatch:
    """One line of a tree of tokens, parents first. Args: pieces: sorted."""
    common = [0, *(_shared(before, piece) for before, piece in pairwise(pieces))]
    paths: list[Ints] = []
    start = 0
    for piece, shared in zip(pieces, common, strict=True):
        own = np.arange(start, start + piece.size - shared)
        paths.append(np.concatenate([paths[-1][:shared], own]) if paths else own)
        start += len(own)
    ids = np.concatenate([piece.row.ids[shared : piece.size] for piece, shared in zip(pieces, common, strict=True)])
    positions = np.concatenate([np.arange(s, piece.size) for piece, s in zip(pieces, common, strict=True)])
    index = [path[np.flatnonzero(piece.row.mask) - 1] for path, piece in zip(paths, pieces, strict=True)]
    batch = flatten(ids[None], positions[None], pieces, index)
    return replace(batch, paths=_paths(paths, common), distinct=Distinct.of(batch.index, batch.targets))


def _paths(paths: Sequence[Ints], common: Sequence[int]) -> Paths:
    """Rows with about as many own tokens, within a factor of two, attend at once; whole rows apart from the others."""
    alike: dict[tuple[bool, int], list[int]] = {}
    for number, (path, shared) in enumerate(zip(paths, common, strict=True)):
        if len(path) > shared:
            key = shared == 0, max(_FEW, len(path) - shared - 1).bit_length()
            alike.setdefault(key, []).append(number)
    owners = np.zeros(sum(len(path) - shared for path, shared in zip(paths, common, strict=True)), np.int64)
    branches, start = [], 0
    for (is_whole, _), numbers in alike.items():
        own = [paths[number][common[number] :] for number in numbers]
        most, longest = max(map(len, own)), max(len(paths[number]) for number in numbers)
        queries, keys = np.zeros((len(numbers), most), np.int64), np.zeros((len(numbers), longest), np.int64)
        for row, (number, places) in enumerate(zip(numbers, own, strict=True)):
            queries[row, : len(places)], keys[row, : len(paths[number])] = places, paths[number]
            owners[places] = start + row * most + np.arange(len(places))
        first = np.array([common[number] for number in numbers])
        seen = np.arange(longest) <= first[:, None, None] + np.arange(most)[:, None]
        branches.append(Branches(queries, keys, None if is_whole else seen))
        start += queries.size
    return Paths(tuple(branches), owners)
