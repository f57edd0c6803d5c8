"""The folder of a suite, read: whose it is, the weights of its environments, and where their benchmarks stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentrl.bench.folder import SUITE, SUMMARY
from agentrl.errors import ConfigError


def is_suite(place: str | Path) -> bool:
    """Whether a folder is that of a suite."""
    return (Path(place) / SUITE).is_file()


@dataclass(frozen=True)
class SuiteRecord:
    """A suite on disk.

    Attributes:
        folder: of the suite.
        policy: that was measured.
        weights: of the environments in the mean, by name.
    """

    folder: Path
    policy: str
    weights: Mapping[str, float]

    @property
    def played(self) -> Mapping[str, Path]:
        """Folders of the environments' benchmarks, by name; an environment that could not be played has none."""
        return {name: self.folder / name for name in self.weights if (self.folder / name / SUMMARY).is_file()}


def read_suite(place: str | Path) -> SuiteRecord:
    """The suite in a folder. Raises: ConfigError if its `suite.json` cannot be read."""
    path = Path(place) / SUITE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        weights = {str(name): float(weight) for name, weight in found["weights"].items()}
        return SuiteRecord(Path(place), str(found["policy"]), weights)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}: {error})") from None
