"""Tables of features with a number to predict, and their rows as text. Owns no split.

All tables are those of scikit-learn; the extra `numeric` installs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agentrl.errors import ConfigError

Floats = npt.NDArray[np.float64]
Style = Literal["words", "digits", "named"]
_LEVELS = 10  # words of a feature
_SPREAD = 2.5  # standard deviations on either side of the mean that the cells of a feature cover
_GENERATED_ROWS = 1250


@dataclass(frozen=True)
class Table:
    """Features with a number each.

    Attributes:
        names: (F,) of the features.
        features: (N, F).
        numbers: (N,).
        bounds: of the number, where it has some, such as 0 and 1 of a probability.
    """

    names: Sequence[str]
    features: Floats
    numbers: Floats
    bounds: tuple[float, float] | None = None


def table(name: str, seed: int) -> Table:
    """A table by its name.

    Args: seed: of the rows that are drawn: those of the Friedman tables.
    Raises: ConfigError if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise ConfigError(f'data = {name!r} needs scikit-learn: pip install "agentrl[numeric]"') from error
    return TABLES[name](datasets, seed)


def texts_of(table: Table, train: npt.NDArray[np.int64], style: Style, digits: int = 2) -> list[str]:
    """Rows as text: the place of each feature on a scale of equal cells.

    `words` writes a word of two letters, the first of which stands for the feature and the second for one of ten cells.
    A tiny tokenizer makes each a token, so that a model need not learn which feature a digit belongs to: on tables of a
    few hundred rows it does not.

    Args:
        train: rows whose mean and standard deviation set the scale.
        style: `words`, `digits` (a whole number) or `named` (its name in front of it).
        digits: of a feature in the latter two.
    """
    cells = 10**digits if style != "words" else _LEVELS
    mean, deviation = table.features[train].mean(0), table.features[train].std(0) + 1e-12
    place = np.clip((table.features - mean) / deviation / (2 * _SPREAD) + 0.5, 0, 1)
    cell = np.minimum((place * cells).astype(int), cells - 1)
    if style == "words":
        return [" ".join(ascii_letters[i] + ascii_letters[n] for i, n in enumerate(row)) for row in cell]
    names = [f"{name} " if style == "named" else "" for name in table.names]
    return [" ".join(f"{name}{n:0{digits}d}" for name, n in zip(names, row, strict=True)) for row in cell]


def _diabetes(datasets: Any, seed: int) -> Table:
    found = datasets.load_diabetes(scaled=False)
    return Table(found.feature_names, found.data, found.target.astype(float))


def _breast_cancer(datasets: Any, seed: int) -> Table:
    """The number is the probability that the tumour is benign; each row's own is 0 or 1."""
    found = datasets.load_breast_cancer()
    return Table(
        [name.replace(" ", "_") for name in found.feature_names], found.data, found.target.astype(float), (0, 1)
    )


def _wine(datasets: Any, seed: int) -> Table:
    """The number is the alcohol; the cultivar is no feature."""
    found = datasets.load_wine()
    return Table(found.feature_names[1:], found.data[:, 1:], found.data[:, 0])


def _linnerud(datasets: Any, seed: int) -> Table:
    """The number is the waist; there are 20 rows in all."""
    found = datasets.load_linnerud()
    return Table(found.feature_names, found.data, found.target[:, list(found.target_names).index("Waist")])


def _friedman(number: int, noise: float) -> Callable[[Any, int], Table]:
    def make(datasets: Any, seed: int) -> Table:
        draw = getattr(datasets, f"make_friedman{number}")
        features, numbers = draw(_GENERATED_ROWS, noise=noise, random_state=seed)
        return Table([f"x{i}" for i in range(features.shape[1])], features, numbers)

    return make


TABLES: Mapping[str, Callable[[Any, int], Table]] = {
    "diabetes": _diabetes,
    "breast_cancer": _breast_cancer,
    "wine": _wine,
    "linnerud": _linnerud,
    "friedman1": _friedman(1, 1.0),
    "friedman2": _friedman(2, 50.0),
    "friedman3": _friedman(3, 0.1),
}
