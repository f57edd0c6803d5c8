"""Which sequences of ids begin alike: found by hashes of whole blocks, so that not every pair is compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from agentrl.policy.engine.slots import Ids, KvSlots

BLOCK = 8
"""Ids of a block."""
_MOST_PAIRS = 4096
_MOST_COMPARED = 8


class Prefixes:
    """Sequences by the blocks that they begin with. Finding one takes time linear in its length, and in that of those
    that were added since."""

    def __init__(self) -> None:
        self._having: dict[int, list[int]] = {}
        self._added: list[tuple[int, Ids]] = []

    def add(self, number: int, ids: Ids) -> None:
        """Note that the sequence of this number begins with these ids, which must stay until one is looked for."""
        self._added.append((number, ids))

    def longest(self, ids: Ids) -> tuple[int, Sequence[int]]:
        """How many leading ids another sequence shares in whole blocks, and the numbers of those that share as many.

        Returns: (0, ()) if none begins with the same block.
        """
        for number, begun in self._added:
            for key in _keys(begun):
                self._having.setdefault(key, []).append(number)
        self._added.clear()
        blocks = 0
        found: Sequence[int] = ()
        for key in _keys(ids):
            having = self._having.get(key)
            if having is None:
                break
            blocks, found = blocks + 1, having
        return blocks * BLOCK, found


class Donors:
    """The slot that holds the longest beginning of a context.

    Args:
        kv: the slots; their content may change afterwards, which is noticed.
        asked: for how many contexts it will be asked. Of few, all slots are compared with each; of many, the slots are
            put into an index first.
    """

    def __init__(self, kv: KvSlots, asked: int) -> None:
        self._kv = kv
        used = np.flatnonzero(kv.length)
        self._index: Prefixes | None = None
        if asked * len(used) > _MOST_PAIRS:
            self._index = Prefixes()
            for slot in used:
                self._index.add(int(slot), kv.ids[slot, : kv.length[slot]])

    def best(self, ids: Ids) -> tuple[int, int]:
        """A slot, and how many leading ids it holds."""
        if self._index is None:
            shared = self._kv.shared_prefix(ids)
            slot = int(shared.argmax())
            return slot, int(shared[slot])
        slots = self._index.longest(ids)[1][-_MOST_COMPARED:]
        counts = [self._kv.shared_by(slot, ids) for slot in slots]
        return (slots[int(np.argmax(counts))], max(counts)) if slots else (0, self._kv.shared_by(0, ids))


def _keys(ids: Ids) -> Iterator[int]:
    """A hash of each prefix of whole blocks, the shortest first."""
    key = 0
    for start in range(0, len(ids) - BLOCK + 1, BLOCK):
        key = hash((key, ids[start : start + BLOCK].tobytes()))
        yield key
