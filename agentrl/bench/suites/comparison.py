"""Two suites compared, environment by environment. Owns the pairing of environments, and the mean of differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl.bench.compare import Comparison, comparison
from agentrl.bench.estimates import Estimate
from agentrl.bench.measures.success import Success, SuccessOfAttempted
from agentrl.bench.records import read_record
from agentrl.bench.statistics.significance import holm
from agentrl.bench.suites.recorded import read_suite
from agentrl.bench.suites.suite import weighted_mean
from agentrl.errors import ConfigError

_AVERAGED = (Success.name, SuccessOfAttempted.name)


@dataclass(frozen=True)
class SuiteComparison:
    """Two suites, environment by environment.

    Attributes:
        envs: the comparisons of the environments that both played, by name.
        adjusted: their p-values, corrected for their number.
        mean: the weighted mean of the differences.
        alone: environments that only one of them has.
    """

    envs: Mapping[str, Comparison]
    adjusted: Mapping[str, float]
    mean: Estimate
    alone: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        return [f"{name}: {warning}" for name, one in self.envs.items() for warning in one.warnings]

    @property
    def forced(self) -> list[str]:
        """Why environments are not of the same thing, where they were compared nevertheless."""
        return [f"{name}: {why}" for name, one in self.envs.items() for why in one.forced]

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return {
            "mean": self.mean.to_json(),
            "alone": list(self.alone),
            "forced": self.forced,
            "warnings": self.warnings,
            "envs": {
                name: {**one.to_json(), "p_value_adjusted": self.adjusted[name]} for name, one in self.envs.items()
            },
        }


def compare_suites(
    first: str | Path,
    second: str | Path,
    measure: str = Success.name,
    *,
    allow_versions: bool = False,
    force: bool = False,
) -> SuiteComparison:
    """The first suite minus the second, on the tasks of each environment that both played.

    The weights are those of the first.

    Raises: ConfigError where they have no environment in common, as `agentrl.bench.compare.compare`, and for rewards,
        which have no common unit.
    """
    if measure not in _AVERAGED:
        raise ConfigError(
            f"suites are compared by {' or '.join(_AVERAGED)}: rewards of environments have no common unit"
        )
    weights, others = read_suite(first).weights, read_suite(second).weights
    shared = [name for name in weights if name in others]
    if not shared:
        raise ConfigError(f"cannot compare: {first} and {second} have no environment of the same name")
    found = {
        name: comparison(
            read_record(Path(first) / name),
            read_record(Path(second) / name),
            measure,
            allow_versions=allow_versions,
            force=force,
        )
        for name in shared
    }
    adjusted = dict(zip(shared, holm([one.tests.p_value for one in found.values()]), strict=True))
    mean = weighted_mean({name: one.difference for name, one in found.items()}, {n: weights[n] for n in shared})
    alone = tuple(sorted(weights.keys() ^ others.keys()))
    return SuiteComparison(found, adjusted, mean, alone)
