"""Preallocated key/value slots, and which token ids each one holds. Owns no model and no schedule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]


class KvSlots:
    """Key/value storage of every layer for a fixed number of sequences.

    Each layer is two tensors (S, H, T + 1, D): S slots, H key/value heads, T positions, D width of a
    head. The last position is scratch: whatever padding writes goes there.

    Attributes:
        length: (S,) tokens whose keys and values a slot holds.
        ids: (S, T) those tokens.
    """

    def __init__(self, slots: int, context: int) -> None:
        self.slots, self.context = slots, context
        self.length = np.zeros(slots, np.int64)
        self.ids: Ids = np.full((slots, context), -1, np.int32)
        self.layers: list[tuple[Tensor, Tensor]] = []

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The storage of a layer, made at its first use in the shape of `like` (B, H, T, D)."""
        while len(self.layers) <= index:
            shape = (self.slots, like.shape[1], self.context + 1, like.shape[3])
            self.layers.append((like.new_zeros(shape), like.new_zeros(shape)))
        return self.layers[index]

    def shared_prefix(self, ids: Ids) -> NDArray[np.int64]:
        """(S,) how many leading tokens of `ids` each slot already holds."""
        n = min(len(ids), self.context)
        same = self.ids[:, :n] == ids[:n]
        first_other = np.where(same.all(axis=1), n, same.argmin(axis=1))
        return np.minimum(first_other, self.length)

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        """Give `target` the first `count` tokens of `source`."""
        for keys, values in self.layers:
            keys[target, :, :count] = keys[source, :, :count]
            values[target, :, :count] = values[source, :, :count]
        self.ids[target, :count] = self.ids[source, :count]
        self.length[target] = count

    def write_ids(self, slot: int, start: int, ids: Sequence[int] | Ids) -> None:
        """Note that `slot` now holds `ids` from position `start` on."""
        end = start + len(ids)
        self.ids[slot, start:end] = ids
        self.length[slot] = end

    def clear(self) -> None:
        """Forget everything: the weights changed."""
        self.length[:] = 0
