"""Preallocated key/value slots: which token ids each one holds, and who owns it. Owns no model and no schedule."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentrl.errors import ModelError

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
        """The storage of a layer, made at its first use in the shape of `like` (B, H, T, D).

        Raises: ModelError if there is no memory for it.
        """
        while len(self.layers) <= index:
            shape = (self.slots, like.shape[1], self.context + 1, like.shape[3])
            try:
                self.layers.append((like.new_zeros(shape), like.new_zeros(shape)))
            except RuntimeError as error:
                needed = 2 * np.prod(shape) * like.element_size() / 2**30
                raise ModelError(
                    f"no memory for the keys and values of {self.slots} slots x {self.context} tokens "
                    f"({needed:.2f} GiB a layer): use fewer slots= or a smaller max_context="
                ) from error
        return self.layers[index]

    def shared_prefix(self, ids: Ids) -> NDArray[np.int64]:
        """(S,) how many leading tokens of `ids` each slot already holds."""
        n = min(len(ids), self.context)
        same = self.ids[:, :n] == ids[:n]
        first_other = np.where(same.all(axis=1), n, same.argmin(axis=1)) if n else np.zeros(self.slots, np.int64)
        return np.minimum(first_other, self.length)

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        """Give `target` the first `count` tokens of `source`."""
        for keys, values in self.layers:
            keys[target, :, :count] = keys[source, :, :count]
            values[target, :, :count] = values[source, :, :count]
        self.ids[target, :count] = self.ids[source, :count]
        self.length[target] = count

    def write_ids(self, slot: int, ids: Sequence[int] | Ids) -> None:
        """Note that `slot` now also holds `ids`, after what it held."""
        start = int(self.length[slot])
        end = start + len(ids)
        self.ids[slot, start:end] = ids
        self.length[slot] = end

    def clear(self) -> None:
        """Forget everything: the weights changed."""
        self.length[:] = 0


class SlotOwners:
    """Who owns which slot. A released slot keeps its content, which may serve others as a prefix."""

    def __init__(self, slots: int) -> None:
        self._owner: list[str | None] = [None] * slots
        self._slot: dict[str, int] = {}
        self._used_at = [0] * slots
        self._clock = 0

    def __len__(self) -> int:
        """Slots that somebody owns."""
        return len(self._slot)

    def slot_of(self, owner: str) -> int:
        """The owner's slot, or -1."""
        return self._slot.get(owner, -1)

    def take(self, owner: str, busy: Container[int]) -> int:
        """Give `owner` a slot that is not busy: one nobody owns, else the one unused for longest.

        Returns: the slot, or -1 if all are busy. A former owner prefills again when it comes back.
        """
        idle = [slot for slot in range(len(self._owner)) if slot not in busy]
        if not idle:
            return -1
        slot = min(idle, key=lambda s: (self._owner[s] is not None, self._used_at[s]))
        former = self._owner[slot]
        if former is not None:
            del self._slot[former]
        self.release(owner)
        self._owner[slot], self._slot[owner] = owner, slot
        return slot

    def release(self, owner: str) -> None:
        """Give up the owner's slot, if it has one."""
        slot = self._slot.pop(owner, None)
        if slot is not None:
            self._owner[slot] = None

    def touch(self, slot: int) -> None:
        """Note that the slot was used just now."""
        self._clock += 1
        self._used_at[slot] = self._clock
