"""Slots: shared prefixes, copies, owners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agentrl.errors import ModelError
from agentrl.policy.engine import memory, slots
from agentrl.policy.engine.prefixes import BLOCK, Donors, Prefixes
from agentrl.policy.engine.slots import KvSlots, SlotOwners


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
    kv.reserve(2, 4)
    keys, values = kv.layer(0, torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 3))
    keys[0], values[0] = 1.0, 2.0
    kv.write_ids(0, [5, 6, 7])
    kv.copy(0, 1, 2)
    assert keys[1, :, :2].eq(1).all()
    assert values[1, :, :2].eq(2).all()
    assert keys[1, :, 2:].eq(0).all()
    assert kv.ids[1, :2].tolist() == [5, 6]
    assert kv.length.tolist() == [3, 2]


def test_storage_grows_with_what_it_holds_and_no_further() -> None:
    kv = KvSlots(10, 1000)
    like = torch.zeros(1, 2, 1, 3)
    kv.reserve(1, 5)
    keys, values = kv.layer(0, like, like)
    assert keys.shape == (1, 2, 257, 3)
    keys.copy_(torch.arange(keys.numel()).view(keys.shape))
    values.copy_(-keys)
    before = keys[0, :, :256].clone()
    growth = [((3, 256), 3, 256), ((4, 257), 6, 512), ((7, 513), 10, 768), ((10, 300), 10, 768), ((10, 900), 10, 1000)]
    for wanted, rows, positions in growth:
        kv.reserve(*wanted)
        keys, values = kv.layer(0, like, like)
        assert keys.shape == values.shape == (rows, 2, positions + 1, 3)
        assert keys[0, :, :256].equal(before)
        assert values[0, :, :256].equal(-before)
        assert keys[1:].eq(0).all()
        assert keys[0, :, 257:].eq(0).all()  # the old scratch position may keep anything finite
    kv.reserve(2, 2)
    assert kv.layer(0, like, like)[0] is keys


def test_no_memory_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    kv = KvSlots(64, 4096)
    kv.reserve(2, 10)
    kv.layer(0, torch.zeros(1, 8, 1, 64), torch.zeros(1, 8, 1, 64))
    kv.write_ids(0, [1, 2])
    monkeypatch.setattr("agentrl.policy.engine.slots.available_bytes", lambda: 40 * 2**20)
    kv.reserve(8, 1000)  # 8 x 1000 x 8 x 64 floats are 16 MiB
    with pytest.raises(ModelError, match=r"16 slots x 4096 tokens: .*GiB.*model\.slots.*model\.max_context"):
        kv.reserve(16, 4096)
    assert kv.layers == []
    assert kv.shared_prefix(np.array([1, 2], np.int32)).max() == 0
    kv.reserve(2, 300)  # less fits again, as twice the first 256
    assert kv.layer(0, torch.zeros(1, 8, 1, 64), torch.zeros(1, 8, 1, 64))[0].shape == (2, 8, 513, 64)


def test_an_allocator_that_refuses_says_the_same() -> None:
    kv = KvSlots(1, 8)
    kv.reserve(1, 1)
    with pytest.raises(ModelError, match=r"model\.slots"):
        kv.layer(
            0,
            torch.zeros(1, 1, 1, 1).expand(1, 1 << 40, 1, 1 << 20),
            torch.zeros(1, 1, 1, 1).expand(1, 1 << 40, 1, 1 << 20),
        )


def test_memory_is_read_from_host_and_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_bytes() == 500 * 1024
    for name, text in [("max", "max"), ("current", "300000"), ("stat", "anon 9\ninactive_file 1000\nactive_file 24\n")]:
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.available_bytes() == 500 * 1024
    (tmp_path / "memory.max").write_text("400000\n")
    assert memory.available_bytes() == 101024
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "none")
    assert memory.available_bytes() is None


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


def test_a_used_slot_comes_before_one_without_memory() -> None:
    owners = SlotOwners(4)
    for name in "aab":
        slot = owners.take(name, ())
        owners.touch(slot)
        owners.release(name)
        assert slot == 0
    assert [owners.take(name, ()) for name in "cdef"] == [0, 1, 2, 3]


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


def test_the_donor_of_many_contexts_is_the_one_of_few() -> None:
    rng = np.random.default_rng(0)
    kv = KvSlots(slots=40, context=64)
    begin = rng.integers(0, 9, 24)
    for slot in range(30):
        kv.write_ids(slot, np.concatenate([begin[: slot % 24], rng.integers(9, 99, 20)]).astype(np.int32))
    few, many = Donors(kv, 1), Donors(kv, 10_000)
    kv.length[23] = 3  # its content has changed since
    for length in range(1, 25):
        ids = np.concatenate([begin[:length], rng.integers(100, 199, 30)]).astype(np.int32)
        slot, shared = many.best(ids)
        assert kv.shared_by(slot, ids) == shared
        assert few.best(ids)[1] - shared < BLOCK
    ids = kv.ids[17, : kv.length[17]]
    assert many.best(ids) == few.best(ids) == (17, len(ids))


def test_beginnings_are_found_in_whole_blocks() -> None:
    begun = Prefixes()
    assert begun.longest(np.arange(50, dtype=np.int32)) == (0, ())
    begun.add(1, np.arange(50, dtype=np.int32))
    begun.add(2, np.arange(20, dtype=np.int32))
    assert begun.longest(np.arange(30, dtype=np.int32)) == (3 * BLOCK, [1])
    assert begun.longest(np.arange(17, dtype=np.int32)) == (2 * BLOCK, [1, 2])
    assert begun.longest(np.arange(1, 40, dtype=np.int32)) == (0, ())


def test_large_storage_that_was_moved_goes_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(slots, "give_back_freed", lambda: asked.append(1))
    monkeypatch.setattr(slots, "_WORTH_BYTES", 2 * 257 * 4)
    kv = KvSlots(4, 1000)
    kv.reserve(1, 5)
    kv.layer(0, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    kv.reserve(2, 5)  # the old storage has that size, and is not above it
    assert not asked
    kv.reserve(2, 600)
    assert asked == [1]
