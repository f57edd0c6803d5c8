"""`TokenIds`: a tuple to whoever reads it, and one list for all contexts of an episode."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.token_ids import TokenIds, common_prefix

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=12).map(tuple)


@given(IDS, IDS, IDS)
def test_continuations_are_what_tuples_are_and_never_change_each_other(
    a: tuple[int, ...], b: tuple[int, ...], c: tuple[int, ...]
) -> None:
    first = TokenIds(a)
    one, other = first.followed_by(b), first.followed_by(c)
    again = one.followed_by(c)
    assert (first, one, other, again) == (a, a + b, a + c, a + b + c)
    assert a + b == one
    assert hash(one) == hash(a + b)
    assert list(one) == list(a + b)
    assert one.tolist() == list(a + b)
    assert repr(one) == repr(a + b)
    assert np.asarray(one).tolist() == list(a + b)
    assert (one == other) == (b == c)
    assert one != [*a, *b, 1]


@given(IDS, st.slices(12), st.integers(-13, 13))
def test_slices_and_items_are_those_of_a_tuple(a: tuple[int, ...], part: slice, index: int) -> None:
    ids = TokenIds(a).followed_by((1, 2))
    shorter = TokenIds._first(ids._list, len(a))
    assert shorter[part] == a[part]
    if -len(a) <= index < len(a):
        assert shorter[index] == a[index]
    else:
        with pytest.raises(IndexError, match="token ids"):
            shorter[index]


@given(IDS, IDS)
def test_common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common_prefix(a, b) == common_prefix(TokenIds(a), b) == expected
    assert common_prefix(TokenIds(a).followed_by(b), TokenIds(a)) == len(a)


@given(IDS, IDS)
def test_ids_that_begin_with_earlier_ones_share_their_list(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    earlier = TokenIds(a)
    assert TokenIds.sharing(a + b, earlier).shares_list_with(earlier)
    assert TokenIds.sharing(a + b, earlier) == a + b
    assert TokenIds.sharing((*b, 7), TokenIds((9, *a))) == (*b, 7)
    assert TokenIds.sharing(b, None) == b


def test_copies_and_pickles_of_an_episode_keep_sharing() -> None:
    first = TokenIds(range(1_000))
    contexts = [first]
    for _ in range(99):
        contexts.append(contexts[-1].followed_by((1, 2, 3)))
    assert copy.deepcopy(contexts) == contexts
    written = pickle.dumps(contexts)
    assert len(written) < 10_000
    read = pickle.loads(written)
    assert read == contexts
    assert read[0].shares_list_with(read[-1])


def test_a_hundred_turns_of_thirty_thousand_tokens_take_four_bytes_a_token() -> None:
    tracemalloc.start()
    try:
        contexts = [TokenIds(range(300))]
        for turn in range(99):
            contexts.append(contexts[-1].followed_by(range(turn, turn + 300)))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(map(len, contexts)) > 1_500_000
    assert used < 2 * 4 * 30_000
