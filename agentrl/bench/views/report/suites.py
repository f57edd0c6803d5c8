"""Suites in a report: the benchmarks of their environments, and a table of each environment and the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentrl.bench.estimates import Estimate
from agentrl.bench.suites.recorded import SuiteRecord, is_suite, read_suite
from agentrl.bench.suites.suite import weighted_mean
from agentrl.bench.views.report.runs import folder_names
from agentrl.bench.views.table import percent
from agentrl.errors import ConfigError


@dataclass(frozen=True)
class SuiteTable:
    """Success in each environment of the suites of a report.

    Attributes:
        head: names of the suites.
        rows: an environment's name, and its success in each suite; the last row holds the weighted means.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def benchmark_folders(places: Sequence[Path]) -> tuple[list[Path], list[SuiteRecord]]:
    """The folders of benchmarks that `places` name, those of a suite one by one, and the suites among them.

    Raises: ConfigError for a suite of which nothing was played.
    """
    folders: list[Path] = []
    suites = []
    for place in places:
        if is_suite(place):
            suite = read_suite(place)
            if not suite.played:
                raise ConfigError(f"{place} holds no benchmark with results: none of its environments was played")
            suites.append(suite)
            folders.extend(suite.played.values())
        else:
            folders.append(place)
    return folders, suites


def suite_table(suites: Sequence[SuiteRecord], success: Mapping[Path, Estimate]) -> SuiteTable | None:
    """The table of the suites, from the success in each folder; None where there are none.

    A mean is given where every environment has a score. Weights that differ between suites are those of each suite.
    """
    if not suites:
        return None
    names = dict.fromkeys(name for suite in suites for name in suite.weights)
    rows = [(name, tuple(_shown(suite, name, success) for suite in suites)) for name in names]
    means = tuple(_mean(suite, success) for suite in suites)
    return SuiteTable(tuple(folder_names([suite.folder for suite in suites])), (*rows, ("weighted mean", means)))


def _shown(suite: SuiteRecord, name: str, success: Mapping[Path, Estimate]) -> str:
    if name not in suite.weights:
        return ""
    folder = suite.played.get(name)
    weight = f", weight {suite.weights[name]:g}" if suite.weights[name] != 1 else ""
    return "not played" if folder is None else f"{percent(success[folder])}{weight}"


def _mean(suite: SuiteRecord, success: Mapping[Path, Estimate]) -> str:
    played = suite.played
    if played.keys() != suite.weights.keys():
        return "an environment is missing"
    return percent(weighted_mean({name: success[folder] for name, folder in played.items()}, suite.weights))
