"""Drawing tokens: frequencies over a grid of uniforms are the probabilities; truncation against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.token_sampling import Draw, DrawTable, draw

LOGITS = torch.tensor([2.0, 0.5, -1.0, 1.5, -torch.inf])


def how(rows: int, uniform: np.ndarray, *, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> Draw:
    return Draw(np.full(rows, temperature), np.full(rows, top_p), np.full(rows, top_k), uniform)


def frequencies(**options: float) -> tuple[np.ndarray, np.ndarray]:
    """Shares of each token over 4,000 evenly spaced uniforms, and the log-probability reported for each."""
    n = 4000
    ids, logprobs = draw(LOGITS.expand(n, -1), how(n, (np.arange(n) + 0.5) / n, **options))  # type: ignore[arg-type]
    shares = np.bincount(ids, minlength=5) / n
    reported = np.full(5, -np.inf)
    reported[ids] = logprobs
    return shares, reported


def brute(temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> np.ndarray:
    """Keep the k best, then the smallest set of those that holds at least top_p; renormalise."""
    p = torch.softmax(LOGITS.double() / temperature, -1).numpy()
    order = np.argsort(-p)
    kept = order[: top_k or len(p)]
    inside = p[kept] / p[kept].sum()
    size = int(np.searchsorted(np.cumsum(inside), top_p - 1e-12)) + 1
    mask = np.zeros(len(p))
    mask[kept[:size]] = p[kept[:size]]
    return mask / mask.sum()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 2},
        {"top_k": 1},
        {"top_p": 0.5},
        {"top_p": 0.8},
        {"top_p": 0.9, "top_k": 2},
    ],
)
def test_frequencies_and_logprobs_are_those_of_the_distribution(options: dict[str, float]) -> None:
    shares, reported = frequencies(**options)
    expected = brute(**options)  # type: ignore[arg-type]
    assert shares == pytest.approx(expected, abs=3 / 4000)
    assert np.exp(reported) == pytest.approx(expected, abs=1e-6)
    assert shares[4] == 0  # a token of probability 0 is never drawn


def test_greedy_takes_the_best_and_reports_the_models_own_logprob() -> None:
    ids, logprobs = draw(LOGITS[None], how(1, np.array([0.999]), temperature=0.0))
    assert ids == [0]
    assert logprobs == pytest.approx([torch.log_softmax(LOGITS, -1)[0].item()])


def test_rows_with_different_parameters_do_not_mix() -> None:
    mixed = Draw(np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.1, 1.0]), np.array([0, 0, 1]), np.array([0.9, 0.99, 0.99]))
    ids, logprobs = draw(LOGITS.expand(3, -1), mixed)
    assert ids == [0, 0, 0]
    assert logprobs[1:] == pytest.approx([0.0, 0.0], abs=1e-6)


def test_the_largest_uniform_still_draws_a_possible_token() -> None:
    for vocab in (5, 512, 50_000):
        logits = torch.full((1, vocab), -3.0)
        logits[0, vocab // 2 :] = -torch.inf
        ids, logprobs = draw(logits, how(1, np.array([np.nextafter(1.0, 0.0)])))
        assert ids[0] < vocab // 2
        assert logprobs[0] == pytest.approx(-np.log(vocab // 2), abs=1e-4)


def test_table_gives_each_slot_its_own_numbers() -> None:
    table = DrawTable(3, 8)
    table.set(2, SamplingParams(temperature=0.5, top_p=0.9, top_k=4), np.array([0.1, 0.2]))
    table.set(0, SamplingParams(), np.array([0.3]))
    rows = table.rows([2, 0], [1, 0])
    assert rows.temperature.tolist() == [0.5, 1.0]
    assert rows.top_p.tolist() == [0.9, 1.0]
    assert rows.top_k.tolist() == [4, 0]
    assert rows.uniform.tolist() == [0.2, 0.3]


@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_cuts_beyond_the_first_tokens_are_those_of_a_sorted_vocabulary(spread: float) -> None:
    """Flat rows need the whole vocabulary sorted, peaked ones the first tokens alone; both at once."""
    torch.manual_seed(0)
    logits = torch.randn(9, 9000) * spread
    logits[4] = torch.randn(9000) * 5
    top_p = np.array([0.5, 0.9, 1.0, 0.999, 0.3, 1.0, 0.95, 1.0, 0.1])
    top_k = np.array([0, 700, 5000, 0, 0, 3, 300, 0, 1])
    kept = []
    for row, (p, k) in zip(logits.double(), zip(top_p, top_k, strict=True), strict=True):
        ordered, order = row.sort(descending=True, stable=True)
        ordered = ordered[: k or None]
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        kept.append(set(order[: len(ordered)][(before < p) | bool(p == 1)].tolist()))
    tokens, logprobs = [], []
    for uniform in np.linspace(0, 1, 60, endpoint=False):
        drawn = draw(logits, Draw(np.ones(9), top_p, top_k, np.full(9, uniform)))
        tokens.append(drawn[0])
        logprobs.append(drawn[1])
    for row, allowed in enumerate(kept):
        drawn_here = [step[row] for step in tokens]
        assert set(drawn_here) <= allowed
        own = torch.full((9000,), -torch.inf, dtype=torch.double)
        own[sorted(allowed)] = logits[row, sorted(allowed)].double()
        expected = own.log_softmax(-1)
        for token, step in zip(drawn_here, logprobs, strict=True):
            assert step[row] == pytest.approx(expected[token].item(), abs=1e-4)
        alone = draw(logits[row : row + 1], Draw(np.ones(1), top_p[[row]], top_k[[row]], np.full(1, 0.7)))
        together = draw(logits, Draw(np.ones(9), top_p, top_k, np.full(9, 0.7)))
        assert (alone[0][0], alone[1][0]) == (together[0][row], together[1][row])
