"""The inputs that all libraries get: drawn from fixed seeds, as numbers that float32 holds exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
# (seed, deviation of the log ratios, deviation of the advantages): usual, far off policy, extreme advantages.
KINDS = ((0, 0.35, 1.0), (1, 3.0, 1.0), (2, 0.05, 100.0), (3, 0.35, 1.0))
MAX_TOKENS = 23


def float32(values: np.ndarray) -> list[Any]:
    return values.astype(np.float32).astype(np.float64).tolist()


def batch(seed: int, ratio: float, size: float) -> dict[str, Any]:
    """(B, T) logprobs of four models, a mask with holes (tool results) and a row of one token, (B,) advantages."""
    rng = np.random.default_rng(seed)
    count, length = 6, MAX_TOKENS
    logprobs = -3 * rng.random((count, length))
    old = logprobs + ratio * rng.normal(size=(count, length))
    mask = np.arange(length) < np.array([23, 20, 17, 11, 5, 1])[:, None]
    for row, (first, end) in enumerate(((6, 11), (3, 9), (8, 10))):
        mask[row, first:end] = False
    advantages = size * rng.normal(size=count)
    if seed == 3:
        advantages[2:4] = 0.0
    return {
        "logprobs": float32(logprobs),
        "old_logprobs": float32(old),
        "reference_logprobs": float32(logprobs + 0.5 * rng.normal(size=(count, length))),
        "sampled_logprobs": float32(old + 0.8 * rng.normal(size=(count, length))),
        "mask": mask.astype(int).tolist(),
        "advantages": float32(advantages),
    }


def batches() -> list[dict[str, Any]]:
    return [batch(*kind) for kind in KINDS]


def returns() -> list[list[list[float]]]:
    """Steps of ragged groups of returns: normal, success or not, large and offset, a group of equal ones."""
    steps = []
    for seed in range(8):
        rng = np.random.default_rng(100 + seed)
        sizes = rng.integers(2, 8, int(rng.integers(2, 6)))
        kinds = (
            lambda n, rng=rng: rng.normal(size=n) * 10,
            lambda n, rng=rng: rng.integers(0, 2, n) * 1.0,
            lambda n, rng=rng: rng.normal(size=n) * 1e4 - 3e4,
        )
        draws = [kinds[seed % 3](n) for n in sizes]
        if seed % 2:
            draws[0][:] = 0.25
        steps.append([float32(draw) for draw in draws])
    return steps


def walks() -> list[dict[str, Any]]:
    """Rewards and values of episodes of 6 tokens, with the discount and lambda of GAE."""
    found = []
    for seed in range(6):
        rng = np.random.default_rng(200 + seed)
        rewards, values = (float32(10 * rng.normal(size=(3, 6))) for _ in range(2))
        found.append({"rewards": rewards, "values": values, "gamma": 1.0 - 0.08 * seed, "lam": 0.2 * seed})
    return found


def pairs(seed: int) -> dict[str, Any]:
    """Three pairs: (6, T) logprobs of policy and reference, the preferred sides first, and (6, T) masks."""
    rng = np.random.default_rng(300 + seed)
    lengths = np.array([9, 4, 7, 9, 2, 6])
    return {
        "logprobs": float32(-2 * rng.random((6, 9))),
        "reference_logprobs": float32(-2 * rng.random((6, 9))),
        "mask": (np.arange(9) < lengths[:, None]).astype(int).tolist(),
        "scores": float32(rng.normal(size=6)),
        "margins": float32(rng.random(3)),
    }


def episodes(vocabulary: int) -> list[dict[str, Any]]:
    """Ragged groups of episodes of several turns; the rewards of one group are all equal."""
    rng = np.random.default_rng(7)
    found = []
    for group, size in enumerate((2, 3, 4, 2)):
        prompt = rng.integers(1, vocabulary, int(rng.integers(2, 7))).tolist()
        for _ in range(size):
            context, turns = list(prompt), []
            for _ in range(int(rng.integers(1, 4))):
                ids = rng.integers(1, vocabulary, int(rng.integers(1, 8))).tolist()
                logprobs = float32(-4.2 + 0.3 * rng.normal(size=len(ids)))
                turns.append({"prompt_ids": list(context), "token_ids": ids, "logprobs": logprobs})
                context += [*ids, *rng.integers(1, vocabulary, int(rng.integers(1, 5))).tolist()]
            reward = float(rng.integers(0, 2)) if group else 1.0
            found.append({"group": group, "turns": turns, "reward": reward})
    return found


def write(name: str, cases: list[dict[str, Any]]) -> None:
    """The inputs and then the cases, one a line, so that a change shows where it is."""
    content = [{"kind": "inputs", "batches": batches(), "pairs": [pairs(seed) for seed in range(3)]}, *cases]
    lines = ",\n".join(json.dumps(case) for case in content)
    (HERE / name).write_text(f"[\n{lines}\n]\n")
    print(f"{name}: {len(content)} cases")
