from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.learning.batches import pack, pad
from agentrl.learning.rows import Row


def draw_rows(rng):
    """Rows whose sampled tokens each have a coefficient of their own; some rows train nothing."""
    rows, serial = [], 0
    for number in range(rng.integers(1, 9)):
        mask = np.r_[False, rng.random(rng.integers(0, 13)) < 0.5]
        old = -np.arange(serial + 1, serial + 1 + len(mask)) / 64
        serial += len(mask)
        rows.append(Row.of(rng.integers(1, 99, len(mask)), mask, old_logprobs=old, trajectory=number))
    return rows


row_lists = st.integers(0, 2**40).map(lambda seed: draw_rows(np.random.default_rng(seed)))


@settings(max_examples=1000, deadline=None)
@given(row_lists, st.integers(1, 40), st.sampled_from([pad, pack]))
def test_a_layout_keeps_every_trained_token_with_exactly_its_context(rows, max_tokens, layout):
    seen = []
    for batch in layout(rows, max_tokens):
        flat, width = batch.ids.reshape(-1), batch.ids.shape[1]
        assert batch.ids.size <= max_tokens or len(batch.sources) == 1
        assert len(set(batch.index.tolist())) == len(batch.index)
        for n, place in enumerate(batch.index):
            row = rows[batch.sources[batch.rows[n]]]
            position = place % width if batch.positions is None else batch.positions.reshape(-1)[place]
            assert flat[place - position : place + 1].tolist() == row.ids[: position + 1].tolist()
            assert row.mask[position + 1]
            assert batch.targets[n] == row.ids[position + 1]
            old = batch.column("old_logprobs")[n]
            assert old == row.column("old_logprobs")[position + 1]
            seen.append(float(old))
    expected = [float(value) for row in rows for value in row.column("old_logprobs")[row.mask]]
    assert sorted(seen) == sorted(expected)


@pytest.mark.parametrize("layout", [pad, pack])
def test_nothing_to_train_gives_no_batches(layout):
    assert layout([], 10) == []
    assert layout([Row.of([1, 2], [False, False])], 10) == []


def test_padding_groups_rows_of_like_length_and_cuts_their_tails():
    sizes = [10, 3, 9, 4]
    rows = [Row.of(range(n), [False, *[True] * (n - 2), False]) for n in sizes]
    batches = pad(rows, 20)
    assert [batch.ids.shape for batch in batches] == [(2, 8), (2, 2)]
    assert [batch.sources for batch in batches] == [(0, 2), (3, 1)]


@pytest.mark.parametrize("pass_tokens", [0, 3, 50])
def test_padding_and_passes_together_cost_the_least_of_all_ways_to_cut(pass_tokens):
    sizes, most = [9, 8, 8, 5, 4, 4, 2, 2], 27
    rows = [Row.of(range(n + 2), [False, *[True] * n, False]) for n in sizes]

    def cost(parts):
        return sum(part[0] * len(part) + pass_tokens for part in parts)

    ways = [[0, *places, len(sizes)] for n in range(len(sizes)) for places in combinations(range(1, len(sizes)), n)]
    cuts = [[sizes[i:j] for i, j in pairwise(way)] for way in ways]
    allowed = [parts for parts in cuts if all(part[0] * len(part) <= most for part in parts)]
    found = [sizes[i] for batch in pad(rows, most, pass_tokens=pass_tokens) for i in batch.sources]
    assert found == sizes
    parts = [[sizes[i] for i in batch.sources] for batch in pad(rows, most, pass_tokens=pass_tokens)]
    assert cost(parts) == min(map(cost, allowed))


def test_packing_fills_lines_first_fit():
    rows = [Row.of(range(n + 1), [False, *[True] * n]) for n in (6, 5, 4, 3)]
    batches = pack(rows, 10)
    assert [batch.sources for batch in batches] == [(0, 2), (1, 3)]
    assert batches[0].positions is not None
    assert batches[0].positions.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3]]


@settings(max_examples=200, deadline=None)
@given(row_lists, st.integers(1, 40), st.sampled_from([pad, pack]))
def test_no_layout_tears_a_pair_apart(rows, max_tokens, layout):
    paired = [replace(row, unit=number // 2) for number, row in enumerate(rows)]
    homes = {}
    for number, batch in enumerate(layout(paired, max_tokens, "pair")):
        assert batch.num_units == len(set(batch.units.tolist()))
        for row, unit in zip(batch.rows, batch.units, strict=True):
            home = homes.setdefault(paired[batch.sources[row]].unit, (number, unit))
            assert home == (number, unit)
