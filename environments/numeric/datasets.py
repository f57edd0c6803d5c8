"""Texts with numbers, split into training and held-out ones: tables, generated texts, and files of a user."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.environments.numeric.reports import program, report
from agentrl.environments.numeric.tables import TABLES, Floats, Style, table, texts_of
from agentrl.errors import ConfigError, did_you_mean

TEXTS: Mapping[str, Callable[[np.random.Generator], tuple[str, float]]] = {"reports": report, "code_cost": program}
_GENERATED_TEXTS = 2500
_HELD_OUT = 0.2
_SEED = 5_220


@dataclass(frozen=True, eq=False)
class Numbers:
    """One split of a data set.

    Attributes:
        texts, numbers: (N,) each.
        features: (N, F) of a table; None where there is only text.
        hidden: further data of each task, which its text does not show.
    """

    texts: tuple[str, ...]
    numbers: tuple[float, ...]
    features: Floats | None = None
    hidden: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class DataSet:
    """Both splits.

    Attributes:
        low, high: bounds of the numbers: known ones, else the smallest and largest of the training split.
        scale: standard deviation of the training numbers.
    """

    train: Numbers
    held_out: Numbers
    low: float
    high: float

    @property
    def scale(self) -> float:
        return float(np.std(self.train.numbers))

    @property
    def mean(self) -> float:
        return float(np.mean(self.train.numbers))


def names() -> list[str]:
    """The names of the data sets."""
    return [*TABLES, *TEXTS]


@lru_cache(maxsize=16)
def load(name: str, split: int, *, style: Style = "words", digits: int = 2) -> DataSet:
    """A data set, a fifth of it held out.

    Args:
        name: one of `names()`.
        split: which rows are held out; generated data are drawn anew for each.
        style, digits: of a table's features, as `texts_of` takes them.
    Raises: ConfigError if there is no such data set, or scikit-learn is missing.
    """
    if name in TEXTS:
        texts, numbers = _drawn(TEXTS[name], split)
        return _data_set(texts, np.asarray(numbers), split)
    if name not in TABLES:
        raise ConfigError(
            f"data = {name!r} is no data set.{did_you_mean(name, names())} For a file of your own set file"
        )
    found = table(name, split)
    train, _ = _rows(len(found.numbers), split)
    texts = texts_of(found, train, style, digits)
    return _data_set(texts, found.numbers, split, found.features, found.bounds)


@lru_cache(maxsize=16)
def load_file(file: str, text: str, number: str, split: int) -> DataSet:
    """A CSV file with a header, or a JSONL file, of texts with numbers.

    Args:
        file: its path.
        text, number: names of its columns, or keys.
        split: which lines are held out.
    Raises: ConfigError that names the file and line that cannot be used.
    """
    lines = list(_lines(Path(file).expanduser(), text, number))
    if len(lines) < 5 or len({value for _, value in lines}) < 2:
        raise ConfigError(
            f"file = {file!r}: needs at least 5 lines with at least 2 different numbers, has {len(lines)}"
        )
    return _data_set([line for line, _ in lines], np.asarray([value for _, value in lines]), split)


def _drawn(draw: Callable[[np.random.Generator], tuple[str, float]], split: int) -> tuple[list[str], list[float]]:
    """Different texts with their numbers."""
    rng = np.random.default_rng([_SEED, split])
    found: dict[str, float] = {}
    while len(found) < _GENERATED_TEXTS:
        text, number = draw(rng)
        found.setdefault(text, number)
    return list(found), list(found.values())


def _rows(count: int, split: int) -> tuple[Any, Any]:
    """Training and held-out rows."""
    order = np.random.default_rng([_SEED, split]).permutation(count)
    held_out = max(1, round(_HELD_OUT * count))
    return order[held_out:], order[:held_out]


def _data_set(
    texts: Sequence[str],
    numbers: Floats,
    split: int,
    features: Floats | None = None,
    bounds: tuple[float, float] | None = None,
) -> DataSet:
    def part(rows: Any) -> Numbers:
        own = None if features is None else features[rows]
        return Numbers(tuple(texts[i] for i in rows), tuple(float(n) for n in numbers[rows]), own)

    train, held_out = map(part, _rows(len(numbers), split))
    low, high = bounds or (min(train.numbers), max(train.numbers))
    if low == high:
        raise ConfigError("all training numbers are equal: there is nothing to predict")
    return DataSet(train, held_out, low, high)


def _lines(path: Path, text: str, number: str) -> Iterator[tuple[str, float]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file) if path.suffix.lower() == ".csv" else map(json.loads, filter(str.strip, file))
            for count, row in enumerate(rows, start=1):
                yield _line(row, text, number, f"{path}, entry {count}")
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ConfigError(f"file = {str(path)!r} cannot be read: {error}") from error


def _line(row: Any, text: str, number: str, where: str) -> tuple[str, float]:
    if not isinstance(row, Mapping) or text not in row or number not in row:
        has = ", ".join(map(str, row)) if isinstance(row, Mapping) else f"no keys: {row!r}"
        raise ConfigError(f"{where}: expected {text!r} and {number!r}, got {has}; set text and number to their names")
    try:
        value = float(row[number])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{where}: {number} = {row[number]!r} is no number")
    return str(row[text]), value
