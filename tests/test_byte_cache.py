"""`ByteCache`: its bytes never pass the bound, and what was used last stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.byte_cache import ENTRY_BYTES, ByteCache

CALLS = st.lists(st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 5), st.integers(0, 900)), max_size=40)


@given(CALLS, st.integers(1, 3_000))
def test_it_is_a_dictionary_of_what_was_used_last_within_its_bytes(
    calls: list[tuple[str, int, int]], most: int
) -> None:
    cache = ByteCache[int, int](most)
    kept: dict[int, int] = {}  # what a plain list of uses would keep
    for call, key, size in calls:
        if call == "get":
            assert cache.get(key) == kept.get(key)
            if key in kept:
                kept[key] = kept.pop(key)
            continue
        cache.put(key, size, size)
        kept.pop(key, None)
        if size + ENTRY_BYTES <= most:
            kept[key] = size
        while sum(kept.values()) + ENTRY_BYTES * len(kept) > most:
            del kept[next(iter(kept))]
        assert len(cache) == len(kept)
        assert cache.used_bytes == sum(kept.values()) + ENTRY_BYTES * len(kept) <= most


def test_clear_and_bad_bounds() -> None:
    cache = ByteCache[str, str](1_000)
    cache.put("a", "b", 2)
    assert "a" in cache
    cache.clear()
    assert cache.used_bytes == len(cache) == 0
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ByteCache[str, str](0)
