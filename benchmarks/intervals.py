"""How often intervals hold the truth, and how often a test calls two equal agents different: simulations.

    python benchmarks/intervals.py [--simulations 2000] [--seed 0] [--kind KIND] [--json]

Each simulated benchmark draws tasks, each with its own chance of success (from a beta distribution), and trials of
them. The truth is the mean of the distribution. Pairs of agents share the tasks' chances, up to a shift by task.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from agentrl.bench.estimates import clustered_proportion, paired_outcomes
from agentrl.bench.statistics.significance import PValue, paired_permutation_test

LEVEL, SWAPS = 0.05, 999
TASKS, TRIALS = (5, 10, 50, 200), (1, 4, 10)
SHAPES = {
    "even": (2.0, 2.0),
    "either": (0.5, 0.5),
    "hard": (1.0, 4.0),
    "easy": (8.0, 1.0),
    "mostly 0": (0.3, 3.0),
    "always or never": (0.2, 0.8),
}
Rng = np.random.Generator


def outcomes(rng: Rng, chances: np.ndarray, trials: int) -> list[list[float]]:
    """Trials of each task, each 0 or 1."""
    return (rng.random((len(chances), trials)) < chances[:, None]).astype(float).tolist()


def covers_rate(rng: Rng, shape: tuple[float, float], tasks: int, trials: int) -> bool:
    """Whether the interval of a success rate holds the distribution's mean."""
    estimate = clustered_proportion(outcomes(rng, rng.beta(*shape, size=tasks), trials))
    return estimate.low <= shape[0] / sum(shape) <= estimate.high


def covers_difference(rng: Rng, shape: tuple[float, float], tasks: int, trials: int) -> bool:
    """Whether the interval of a difference holds its truth: the second agent fails a fifth of what the first can do."""
    first = rng.beta(*shape, size=tasks)
    second = first * rng.choice([1.0, 0.6], size=tasks)
    estimate = paired_outcomes(outcomes(rng, first, trials), outcomes(rng, second, trials))
    return estimate.low <= 0.2 * shape[0] / sum(shape) <= estimate.high


def calls_different(rng: Rng, shape: tuple[float, float], tasks: int, trials: int) -> bool:
    """Whether the paired test (mid-p) calls two agents different that have the same chances on every task."""
    return _p_value(rng, shape, tasks, trials).mid <= LEVEL


def calls_different_exactly(rng: Rng, shape: tuple[float, float], tasks: int, trials: int) -> bool:
    """The same with the exact p-value."""
    return _p_value(rng, shape, tasks, trials).exact <= LEVEL


def _p_value(rng: Rng, shape: tuple[float, float], tasks: int, trials: int) -> PValue:
    chances = rng.beta(*shape, size=tasks)
    pair = [outcomes(rng, chances, trials) for _ in range(2)]
    return paired_permutation_test(*pair, resamples=SWAPS, seed=int(rng.integers(2**31)))


KINDS: dict[str, Callable[[Rng, tuple[float, float], int, int], bool]] = {
    "coverage of a rate": covers_rate,
    "coverage of a difference": covers_difference,
    "false positives of the paired test": calls_different,
    "false positives of its exact form": calls_different_exactly,
}


def cells(simulations: int, seed: int, kinds: Sequence[str]) -> Iterator[dict[str, object]]:
    """One row for each kind, number of tasks and number of trials: the share by shape of the distribution."""
    for kind, one in KINDS.items():
        if kind not in kinds:
            continue
        for tasks in TASKS:
            for trials in TRIALS:
                rng = np.random.default_rng([seed, tasks, trials])
                shares = {
                    name: float(np.mean([one(rng, shape, tasks, trials) for _ in range(simulations)]))
                    for name, shape in SHAPES.items()
                }
                yield {"kind": kind, "tasks": tasks, "trials": trials, **shares}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="one of the tables; repeatable")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if not given.json:
        print("| kind | tasks | trials | " + " | ".join(SHAPES) + " |")
        print("|---|---:|---:|" + "---:|" * len(SHAPES))
    for row in cells(given.simulations, given.seed, given.kind or list(KINDS)):
        if given.json:
            print(json.dumps(row), flush=True)
        else:
            shown = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
            print("| " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()
