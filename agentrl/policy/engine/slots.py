"""Key/value slots: which token ids each one holds, and who owns it. Owns no model and no schedule."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentrl.errors import ModelError
from agentrl.policy.engine.memory import available_bytes
from agentrl.policy.kept_memory import give_back_freed

Ids = NDArray[np.int32]

# Positions that each slot has at first, enough for most episodes of a tiny model; later ones come in multiples of it.
_FIRST_POSITIONS = 256
# Old storage of all layers together that is worth the time of returning it: new storage does not fit into its holes.
_WORTH_BYTES = 2**26


class OtherState(ModelError):
    """A model keeps state that the slots do not hold."""


class KvSlots:
    """Key/value storage of every layer for many sequences, no larger than they need.

    Each layer is two tensors (R, H, P + 1, D): R slots and P positions that have memory, H key/value heads, D
    width of a head. Where attention keeps latents (MLA), the two have widths of their own. When one more is needed R
    doubles, up to `slots`, and P grows by half, up to `context`. The last position is scratch space that padding
    writes to.

    Attributes:
        parts: a slot serves contexts that begin with a part of what it holds.
        slots, context: most slots, and most tokens of each.
        rows, positions: slots and positions that have memory.
        length: (S,) tokens whose keys and values a slot holds.
        ids: (S, T) those tokens.
    """

    parts: bool = True

    def __init__(self, slots: int, context: int) -> None:
        self.slots, self.context = slots, context
        self.rows, self.positions = 0, 0
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.length = np.zeros(slots, np.int64)
        self.ids: Ids = np.full((slots, context), -1, np.int32)
        self.drop()

    def layer(self, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The storage of a layer, made at its first use in the shapes of `keys` and `values` (B, H, T, D).

        Raises: ModelError if there is no memory for it.
        """
        while len(self.layers) <= index:
            try:
                self.layers.append((self._zeros(keys), self._zeros(values)))
            except ModelError:
                self.drop()
                raise
        return self.layers[index]

    def reserve(self, rows: int, positions: int) -> None:
        """Make room for at least this many slots and positions.

        Raises: ModelError if there is no memory for them; everything held is then forgotten.
        """
        if rows <= self.rows and positions <= self.positions:
            return
        held = self.rows, self.positions
        if rows > self.rows:
            self.rows = min(self.slots, max(rows, 2 * self.rows))
        if positions > self.positions:
            self.positions = min(self.context, _whole_blocks(max(positions, self.positions * 3 // 2)))
        try:
            freed = sum(self._grow(index, *held) for index in range(len(self.layers)))
        except ModelError:
            self.drop()
            raise
        if freed > _WORTH_BYTES:
            give_back_freed()

    def drop(self) -> None:
        """Free all memory, and forget what was in it."""
        self.rows, self.positions = 0, min(_FIRST_POSITIONS, self.context)
        self.layers = []
        self.clear()

    def _grow(self, index: int, rows: int, positions: int) -> int:
        """Move a layer out of old storage of `rows` and `positions`. Returns: the bytes of the old storage."""
        keys, values = self.layers[index]
        self.layers[index] = self._moved(keys, rows, positions), self._moved(values, rows, positions)
        return keys.nbytes + values.nbytes

    def _moved(self, old: Tensor, rows: int, positions: int) -> Tensor:
        new = self._zeros(old)
        new[:rows, :, :positions] = old[:, :, :positions]
        return new

    def _zeros(self, like: Tensor) -> Tensor:
        """(R, H, P + 1, D) zeros. Never unset memory: a NaN behind a mask would still spoil attention."""
        shape = (self.rows, like.shape[1], self.positions + 1, like.shape[3])
        needed = int(np.prod(shape)) * like.element_size()
        free = available_bytes() if like.device.type == "cpu" else None
        if free is not None and needed > free:
            raise self._no_memory(needed)
        try:
            return like.new_zeros(shape)
        except RuntimeError as error:
            raise self._no_memory(needed) from error

    def _no_memory(self, needed: int) -> ModelError:
        return ModelError(
            f"no memory for the keys and values of {self.rows} slots x {self.positions} tokens: "
            f"{2 * needed / 2**30:.2f} GiB for each of the model's layers. Set fewer model.slots or a smaller "
            "model.max_context (slots= and max_context= of LocalPolicy), or lower run.max_concurrency"
        )

    def shared_prefix(self, ids: Ids) -> NDArray[np.int64]:
        """(S,) how many leading tokens of `ids` each slot already holds."""
        n = min(len(ids), self.context)
        same = self.ids[:, :n] == ids[:n]
        first_other = np.where(same.all(axis=1), n, same.argmin(axis=1)) if n else np.zeros(self.slots, np.int64)
        return np.minimum(first_other, self.length)

    def shared_by(self, slot: int, ids: Ids) -> int:
        """How many leading tokens of `ids` one slot holds."""
        n = min(len(ids), int(self.length[slot]))
        same = self.ids[slot, :n] == ids[:n]
        return n if same.all() else int(same.argmin())

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        """Give `target` the first `count` tokens of `source`."""
        self.reserve(target + 1, count)
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


class OwnCaches(KvSlots):
    """Caches of a model's own making, one for each slot: for models that keep other state than keys and values.

    Such state cannot be cut back, so a slot serves a context alone that begins with all that the slot holds.

    Attributes:
        caches: of each slot that holds something.
    """

    parts: bool = False

    def __init__(self, slots: int, context: int) -> None:
        self.caches: dict[int, Any] = {}
        super().__init__(slots, context)

    def shared_prefix(self, ids: Ids) -> NDArray[np.int64]:
        shared = super().shared_prefix(ids)
        return np.where(shared == self.length, shared, 0)

    def shared_by(self, slot: int, ids: Ids) -> int:
        shared = super().shared_by(slot, ids)
        return shared if shared == self.length[slot] else 0

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        self.caches[target] = copy.deepcopy(self.caches[source])
        self.ids[target, :count] = self.ids[source, :count]
        self.length[target] = count

    def clear(self) -> None:
        super().clear()
        self.caches.clear()


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
        """Give `owner` a slot that is not busy: one that nobody owns, a used one first (its memory is
        there already), else the one unused for longest.

        Returns: the slot, or -1 if all are busy. A former owner prefills again when it comes back.
        """
        idle = [slot for slot in range(len(self._owner)) if slot not in busy]
        if not idle:
            return -1
        slot = min(idle, key=lambda s: (self._owner[s] is not None, not self._used_at[s], self._used_at[s]))
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


def _whole_blocks(positions: int) -> int:
    return -(-positions // _FIRST_POSITIONS) * _FIRST_POSITIONS
