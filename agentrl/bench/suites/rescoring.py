"""A recorded suite scored again: each environment's benchmark, into the folder of a new suite. Asks no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl.bench.folder import SUITE
from agentrl.bench.measures.base import Measure
from agentrl.bench.rescoring.rescore import Rescored, next_to, rescore
from agentrl.bench.suites.recorded import read_suite
from agentrl.bench.suites.suite import SuiteResult
from agentrl.env.rubric import Rubric
from agentrl.errors import AgentRLError, ConfigError
from agentrl.rollout.lock import is_empty
from agentrl.rollout.store import write_summary


@dataclass(frozen=True)
class SuiteRescored:
    """A suite with new scores.

    Attributes:
        result: of the new scores; a suite's result like any other.
        envs: what changed in each environment.
    """

    result: SuiteResult
    envs: Mapping[str, Rescored]

    def to_json(self) -> dict[str, Any]:
        """The result's form, with `changed`, `lost` and `other_tasks` of each environment."""
        record = self.result.to_json()
        for name, found in self.envs.items():
            record["envs"][name].update(found.changes())
        return record


def rescore_suite(
    suite: str | Path,
    out: str | Path | None = None,
    *,
    rubric: str | Rubric | Callable[..., Any] | None = None,
    own_tasks: bool = False,
    trust_record: bool = False,
    measures: Sequence[str | Measure] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> SuiteRescored:
    """Score the episodes of every environment of a suite again, without a model.

    An environment that cannot be scored stops none of the others, and is named in the result's `errors`.

    Args:
        suite: the folder of a suite. It is only read.
        out: the new folder, which must not exist or be empty; by default SUITE-rescored next to it.
        rubric, own_tasks, trust_record, measures: as for `agentrl.bench.rescoring.rescore.rescore`, the same for every
            environment.
        on_progress: called with the episodes done and all of them, of one environment after another.
    Raises: ConfigError if there is nothing to score or `out` holds something.
    """
    record = read_suite(suite)
    place = Path(out) if out is not None else next_to(suite)
    if not record.played:
        raise ConfigError(f"{suite} holds no benchmark with results: none of its environments was played")
    if not is_empty(place):
        raise ConfigError(f"{place} is not empty: choose another folder (--out), so that nothing is lost")
    options = {"rubric": rubric, "own_tasks": own_tasks, "trust_record": trust_record, "measures": measures}
    found: dict[str, Rescored] = {}
    errors = dict.fromkeys(record.weights.keys() - record.played.keys(), "it was not played")
    for name, folder in record.played.items():
        try:
            found[name] = rescore(folder, place / name, on_progress=on_progress, **options)
        except AgentRLError as error:
            errors[name] = f"{type(error).__name__}: {error}"
    results = {name: one.result for name, one in found.items()}
    result = SuiteResult(record.policy, results, record.weights, errors)
    if found:
        write_summary(place / SUITE, result.to_json())
    return SuiteRescored(result, found)
