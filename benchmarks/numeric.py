"""How well are numbers predicted? Classical models, a head on the same transformer, cross-entropy, and learning from
reward, on the same splits of every data set.

A seed is the seed of a run and the number of its split (`env.kwargs.split`). Errors are in standard deviations of the
training numbers. Trained arms are those of numeric.toml, with the same settings for every data set: `arms` are the main
arm, cross-entropy alone and continued cross-entropy; the name of another control adds that one. Finished rows are lines
of OUT/cells/DATA-SEED.jsonl and are not computed again; an interrupted run is resumed.

    python benchmarks/numeric.py [--data reports,diabetes] [--seeds 0,1] [--rows classical,head,arms,expert] [--table]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numeric_head import fit_head
from numeric_table import table

from agentrl.bench.arms import ArmRuns
from agentrl.bench.measures.base import scored
from agentrl.bench.measures.by_name import measure
from agentrl.bench.measures.predictions import AGGREGATES, OfTask, predictions_by_task
from agentrl.environments.numeric import datasets, queries
from agentrl.environments.numeric.datasets import DataSet, Numbers
from agentrl.rollout.predictions import IS_NUMBER
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.sweeps.arms import plan_arms, read_arms, take_over
from agentrl.training.sweeps.grid import GridRun, is_done
from agentrl.training.train import resume, train
from agentrl.trajectory import Trajectory

ROOT = Path(__file__).parents[1]
QUERIES = "queries"
DATA = ("reports", "code_cost", QUERIES, "diabetes", "wine", "breast_cancer", "friedman1", "friedman2", "friedman3")
MEASURES = ("rmse", "mae", "r2", "spearman", "crps", "coverage:0.8")
_MOST_NUMBERS = 8  # numbers that are extracted from a text, in its order
ARMS = ("cross_entropy", "continued")
Fit = Callable[[Any, Any, Any, int], Any]


def loaded(name: str, seed: int) -> DataSet:
    return queries.load(seed) if name == QUERIES else datasets.load(name, seed)


def classical(name: str, seed: int) -> dict[str, dict[str, float]]:
    """The measures of each classical model."""
    found = loaded(name, seed)
    train_X, test_X = inputs(found)
    rows = {}
    for model, fit in MODELS.items():
        started = time.process_time()
        predicted = fit(train_X, np.array(found.train.numbers), test_X, seed)
        rows[model] = {**point_measures(found, predicted), "cpu_s": time.process_time() - started}
    return rows


def inputs(found: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """(N, F) of both splits: a table's features; TF-IDF of words and word pairs, and the numbers of a text in order.

    Where there are both, as in the queries, all of these.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    parts = [[], []]
    if found.train.features is not None:
        parts = [[found.train.features], [found.held_out.features]]
    if found.train.features is None or found.train.hidden:
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", min_df=2).fit(found.train.texts)
        for own, split in zip(parts, (found.train, found.held_out), strict=True):
            own += [words.transform(split.texts).toarray(), extracted(split)]
    return np.hstack(parts[0]), np.hstack(parts[1])


def extracted(split: Numbers) -> np.ndarray:
    """(N, 8) the numbers of each text in its order, 0 where there are fewer."""
    import re

    found = [[float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)][:_MOST_NUMBERS] for text in split.texts]
    return np.array([own + [0.0] * (_MOST_NUMBERS - len(own)) for own in found])


def _ridge(train_X: np.ndarray, train_y: np.ndarray, test_X: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 25))).fit(train_X, train_y).predict(test_X)


def _boosting(train_X: np.ndarray, train_y: np.ndarray, test_X: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(
        n_estimators=300, learning_rate=0.05, max_depth=3, subsample=0.7, max_features=0.5, random_state=seed
    )
    return model.fit(train_X, train_y).predict(test_X)


def _forest(train_X: np.ndarray, train_y: np.ndarray, test_X: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(300, min_samples_leaf=2, max_features=0.5, random_state=seed)
    return model.fit(train_X, train_y).predict(test_X)


MODELS: Mapping[str, Fit] = {"ridge": _ridge, "boosting": _boosting, "forest": _forest}


def point_measures(found: DataSet, predicted: np.ndarray) -> dict[str, float]:
    """The measures of one number for each held-out text."""
    return measured(np.array(found.held_out.numbers), predicted[:, None], found.scale)["sample"]


def measured(targets: np.ndarray, samples: np.ndarray, scale: float) -> dict[str, dict[str, float]]:
    """The measures of single answers, and of each aggregate, in units of the scale.

    Args:
        targets: (N,).
        samples: (N, S).
    """
    tasks = [OfTask(own / scale, target / scale) for own, target in zip(samples, targets, strict=True)]
    rows = {"sample": {name: measure(name).of(tasks) for name in MEASURES}}
    for name, one in AGGREGATES.items():
        single = [OfTask(np.array([one(task.predicted)]), task.target) for task in tasks]
        rows[name] = {m: measure(m).of(single) for m in ("rmse", "mae", "r2", "spearman")}
    return rows


def head(name: str, seed: int) -> dict[str, dict[str, float]]:
    """A number read from the last state of the same transformer, trained on the squared error."""
    found = loaded(name, seed)
    train, held_out = found.train.texts, found.held_out.texts
    if name == QUERIES:
        train, held_out = (_with_statistics(split) for split in (found.train, found.held_out))
    started = time.process_time()
    predicted = fit_head(train, found.train.numbers, held_out, seed)
    return {"head": {**point_measures(found, predicted), "cpu_s": time.process_time() - started}}


def _with_statistics(split: Numbers) -> list[str]:
    """The texts with all statistics, which the head has no tools to ask for."""
    shown = [" ".join(f"{value:.1f}" for value in row) for row in split.features]
    return [f"{text} {numbers}" for text, numbers in zip(split.texts, shown, strict=True)]


def arms(name: str, seed: int, out: Path, controls: Sequence[str] = ARMS) -> dict[str, dict[str, float]]:
    """Train the main arm and controls of numeric.toml with this seed, and measure their held-out episodes.

    Everything runs in this process, which saves the start of one for each arm.
    """
    env = {"env.id": "agentrl/NumericQueries-v0"} if name == QUERIES else {"env.kwargs.data": name}
    given = {**env, "env.kwargs.split": seed, "run.tensorboard": "false", "run.threads": 1}
    overrides = [f"{key}={value}" for key, value in given.items()]
    found = read_arms(ROOT / "numeric.toml", overrides, only=controls)
    rows: dict[str, dict[str, float]] = {}
    for run in plan_arms(found, out / "runs" / f"{name}-{seed}", [seed]):
        _trained(run)
        rows |= _rows_of(ArmRuns(run.cell, "", {seed: run.folder}), seed, loaded(name, seed).scale)
    return rows if set(controls) == set(ARMS) else {row: v for row, v in rows.items() if row.split()[0] in controls}


def _trained(run: GridRun) -> None:
    """Train a run to its end, from where it was interrupted, or from the end of the stages that it shares."""
    if is_done(run):
        return
    begun = (run.folder / "config.toml").exists()
    if run.after is not None and not begun:
        begun = take_over(run.config, run.folder, *run.after)
    if begun:
        resume(run.folder)
    else:
        train(run.config, run.folder)


def _rows_of(arm: ArmRuns, seed: int, scale: float) -> dict[str, dict[str, float]]:
    """One row for single answers, one for each aggregate, and one for the greedy answer."""
    folder = arm.runs[seed]
    cost = json.loads((folder / "summary.json").read_text())["cost"]["cpu_s"]
    episodes = scored(list(TrajectoryStore(folder / "trajectories.jsonl").read(stage="after")))
    rows = {}
    for mode in ("sampled", "greedy"):
        tasks = predictions_by_task([e for e in episodes if e.labels.mode == mode])
        trials = min(len(task.predicted) for task in tasks)
        samples = np.array([task.predicted[:trials] for task in tasks])
        found = measured(np.array([task.target for task in tasks]), samples, scale)
        found["sample"] |= _of_numbers([e for e in episodes if e.labels.mode == mode], scale)
        for row, values in found.items() if mode == "sampled" else [("greedy", found["sample"])]:
            rows[f"{arm.name} {row}"] = {**values, "cpu_s": cost}
    return rows


def _of_numbers(episodes: Sequence[Trajectory], scale: float) -> dict[str, float]:
    """The share of answers that are no number, and the RMSE of the others: the former count as far away in `rmse`."""
    told = [e for e in episodes if e.info.get(IS_NUMBER, False)]
    tasks = predictions_by_task(told)
    rmse = measure("rmse").of(tasks) / scale if tasks else math.nan
    return {"no_number": 1 - len(told) / len(episodes), "rmse_of_numbers": rmse}


def work(name: str, seed: int, kinds: Sequence[str], out: Path) -> None:
    """Compute the cells of a data set and seed that are not there yet, a kind at a time."""
    cells = out / "cells" / f"{name}-{seed}.jsonl"
    cells.parent.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)["kind"] for line in cells.read_text().splitlines()} if cells.exists() else set()
    compute = {"classical": classical, "head": head, "arms": lambda n, s: arms(n, s, out)}
    for kind in kinds:
        if kind in done:
            continue
        rows = compute[kind](name, seed) if kind in compute else arms(name, seed, out, [kind])
        with cells.open("a") as file:
            for row, values in rows.items():
                plain = {k: round(v, 6) if math.isfinite(v) else None for k, v in values.items()}
                file.write(json.dumps({"data": name, "seed": seed, "kind": kind, "row": row, **plain}) + "\n")
        shown = ", ".join(f"{row} {values['rmse']:.3f}" for row, values in rows.items())
        print(f"{name} seed {seed} {kind}: rmse {shown}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=",".join((*DATA, QUERIES)))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--rows", default="classical,head,arms")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "numeric")
    parser.add_argument("--table", action="store_true", help="only print the table of the cells there are")
    given = parser.parse_args()
    if not given.table:
        for seed in map(int, given.seeds.split(",")):
            for name in given.data.split(","):
                work(name, seed, given.rows.split(","), given.out)
    print(table(given.out / "cells"))


if __name__ == "__main__":
    main()
