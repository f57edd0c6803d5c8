"""Slots: shared prefixes, copies, owners."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agentrl.errors import ModelError
from agentrl.policy.kv import KvSlots, SlotOwners


def test_shared_prefix_counts_only_what_a_slot_holds() -> None:
    kv = KvSlots(4, 8)
    kv.write_ids(0, [1, 2, 3, 4])
    kv.write_ids(1, [1, 2, 9])
    kv.write_ids(2, [1, 2, 3, 4, 5, 6])
    kv.length[2] = 3  # ids beyond the length are stale
    assert kv.shared_prefix(np.array([1, 2, 3, 4, 5], np.int32)).tolist() == [4, 2, 3, 0]
    assert kv.shared_prefix(np.array([], np.int32)).tolist() == [0, 0, 0, 0]
    kv.clear()
    assert kv.shared_prefix(np.array([1, 2], np.int32)).tolist() == [0, 0, 0, 0]


def test_copy_takes_keys_values_and_ids() -> None:
    kv = KvSlots(2, 4)
    keys, values = kv.layer(0, torch.zeros(1, 2, 1, 3))
    keys[0], values[0] = 1.0, 2.0
    kv.write_ids(0, [5, 6, 7])
    kv.copy(0, 1, 2)
    assert keys[1, :, :2].eq(1).all()
    assert values[1, :, :2].eq(2).all()
    assert keys[1, :, 2:].eq(0).all()
    assert kv.ids[1, :2].tolist() == [5, 6]
    assert kv.length.tolist() == [3, 2]


def test_no_memory_says_what_to_reduce() -> None:
    kv = KvSlots(1 << 20, 1)
    kv.context = 1 << 40
    with pytest.raises(ModelError, match="fewer slots"):
        kv.layer(0, torch.zeros(1, 8, 1, 128))


def test_owners_prefer_free_slots_then_the_longest_unused() -> None:
    owners = SlotOwners(3)
    slots = {name: owners.take(name, ()) for name in "abc"}
    assert sorted(slots.values()) == [0, 1, 2]
    for name in "bca":
        owners.touch(slots[name])
    owners.release("c")
    assert owners.take("d", ()) == slots["c"]  # free, though used after b's
    owners.touch(slots["c"])
    assert owners.take("e", ()) == slots["b"]
    assert owners.slot_of("b") == -1
    assert owners.slot_of("a") == slots["a"]


def test_busy_slots_are_never_taken() -> None:
    owners = SlotOwners(2)
    first = owners.take("a", ())
    assert owners.take("b", {first}) == 1 - first
    assert owners.take("c", {0, 1}) == -1
    assert len(owners) == 2
    owners.release("a")
    owners.release("a")
    assert len(owners) == 1


def test_an_owner_that_takes_again_leaves_its_old_slot() -> None:
    owners = SlotOwners(2)
    old = owners.take("a", ())
    new = owners.take("a", {old})
    assert new != old
    assert owners.slot_of("a") == new
    assert len(owners) == 1
    assert owners.take("b", {new}) == old
    assert owners.slot_of("a") == new
