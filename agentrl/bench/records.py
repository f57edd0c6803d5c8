"""A benchmark's record, task by task: enough to compare two benchmarks without their trajectories.

Owns its JSON form.
"""

from __future__ import annotations

import json
import platform
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from agentrl.bench.folder import SUMMARY, read_summary
from agentrl.bench.identity import package_version
from agentrl.errors import ConfigError, Who
from agentrl.trajectory import Ending, EndingKind, EnvRef, Trajectory, follows_actions

_MOST_EQUAL = 4096
_ButSeed = tuple[int, float | None, bool, Ending, bool, bool]
"""The fields of a `TrialResult` without its seed, in their order."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """How one episode ended.

    Attributes:
        trial: number of the trial, from 0.
        seed: of the environment.
        reward: of the episode; None where it was discarded.
        success: whether it solved the task.
        ending: why it stopped.
        after_actions: it was discarded after an action of the model reached the environment.
        asked_anew: a fault gave the model a second choice.
    """

    trial: int
    seed: int
    reward: float | None
    success: bool
    ending: Ending
    after_actions: bool = False
    asked_anew: bool = False

    @property
    def is_scored(self) -> bool:
        return self.ending.kind != "fault"


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The episodes of one task, with the fingerprint of its content and its family, if it has one."""

    fingerprint: str
    trials: Sequence[TrialResult]
    family: str = ""


@dataclass(frozen=True)
class BenchRecord:
    """What one benchmark measured.

    Attributes:
        env, split, seed: what was played.
        policy, sampling: who played, and how it sampled.
        status: of the benchmark; only a finished one has every episode.
        tasks: id -> results of the policy.
        versions: of packages.
        scored_by: what scored the episodes again; None for the environment that they were played in.
    """

    env: EnvRef
    policy: str
    split: str
    seed: int
    status: str
    tasks: Mapping[str, TaskResult]
    sampling: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    scored_by: Mapping[str, Any] | None = None

    @property
    def scorer(self) -> str:
        """What scored the episodes, in words."""
        by = self.scored_by
        if by is None:
            return "the environment they were played in"
        code = f" (code {by['code']})" if by.get("code") else ""
        env = f" in {by['env']['id']} {by['env']['version']}".rstrip() if by.get("env") else ""
        return f"{by['rubric']}{code}{env}"

    @property
    def fingerprints(self) -> dict[str, str]:
        """Task id -> fingerprint of its content."""
        return {task: result.fingerprint for task, result in self.tasks.items()}

    @property
    def families(self) -> dict[str, str]:
        """Task id -> its family, of the tasks that have one."""
        return {task: result.family for task, result in self.tasks.items() if result.family}

    @property
    def num_attempted(self) -> int:
        return sum(len(result.trials) for result in self.tasks.values())

    @property
    def num_discarded(self) -> int:
        return sum(not trial.is_scored for result in self.tasks.values() for trial in result.trials)

    @property
    def num_after_actions(self) -> int:
        """Episodes that were discarded after the model had acted."""
        return sum(trial.after_actions for result in self.tasks.values() for trial in result.trials)

    @property
    def num_asked_anew(self) -> int:
        """Scored episodes in which a fault gave the model a second choice."""
        return sum(t.is_scored and t.asked_anew for result in self.tasks.values() for t in result.trials)

    @classmethod
    def from_json(cls, summary: Mapping[str, Any]) -> BenchRecord:
        """Read what `BenchResult.to_json` wrote. Raises: KeyError, TypeError or AttributeError for something else."""
        tasks = _Tasks(_one_by_one(summary["tasks"]))
        config = summary["config"]
        return cls(
            env=EnvRef(**summary["env"]),
            policy=summary["policy"],
            split=config["split"],
            seed=config["seed"],
            status=summary["status"],
            tasks=tasks,
            sampling=summary["sampling"],
            versions=summary["versions"],
            scored_by=summary.get("scored_by"),
        )


def read_record(place: str | Path) -> BenchRecord:
    """The record of a benchmark.

    Args: place: its folder, or its summary.json.
    Raises: ConfigError if there is none, or if it has not ended yet.
    """
    path = Path(place)
    folder = path.parent if path.name == SUMMARY else path
    summary = read_summary(folder, raw=["tasks"], without=["identity"])
    if "tasks" not in summary:
        raise ConfigError(
            f"{folder} holds a benchmark that was stopped before its results were written: the same `agentrl bench` "
            f"command with --out {folder} plays what is missing"
        )
    try:
        return BenchRecord.from_json(summary)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{folder / SUMMARY} is no benchmark of this version ({type(error).__name__}: {error})"
        ) from None


def _one_by_one(tasks: Mapping[str, Any] | msgspec.Raw) -> Iterator[tuple[str, Any]]:
    """Task ids and what is recorded of them. A summary that was not decoded is decoded a task at a time."""
    if not isinstance(tasks, msgspec.Raw):
        yield from tasks.items()
        return
    for task, result in msgspec.json.decode(tasks, type=dict[str, msgspec.Raw]).items():
        yield task, json.loads(bytes(result))


def task_results(episodes: Sequence[Trajectory]) -> dict[str, TaskResult]:
    """The results of final episodes, by task."""
    by_task: dict[str, list[Trajectory]] = {}
    for episode in episodes:
        by_task.setdefault(episode.task.id, []).append(episode)
    return {
        task: TaskResult(of[0].task.fingerprint, [_result(one) for one in of], of[0].task.family)
        for task, of in by_task.items()
    }


def _result(episode: Trajectory) -> TrialResult:
    return TrialResult(
        trial=int(episode.group_id.rpartition("#")[2]),
        seed=episode.seed,
        reward=episode.reward if episode.ending.kind != "fault" else None,
        success=episode.success,
        ending=episode.ending,
        after_actions=follows_actions(episode),
        asked_anew=episode.labels.asked_anew,
    )


def tasks_to_json(tasks: Mapping[str, TaskResult]) -> dict[str, Any]:
    """`{id: {fingerprint, trials: [{trial, seed, reward, success, ending, ...}]}}`; empty fields are left out."""
    return {
        task: {
            "fingerprint": result.fingerprint,
            **({"family": result.family} if result.family else {}),
            "trials": [_trial_to_json(trial) for trial in result.trials],
        }
        for task, result in tasks.items()
    }


def _trial_to_json(trial: TrialResult) -> dict[str, Any]:
    ending = trial.ending
    further: dict[str, Any] = {"detail": ending.detail, "who": ending.who}
    further |= {"after_actions": trial.after_actions, "asked_anew": trial.asked_anew}
    return {
        "trial": trial.trial,
        "seed": trial.seed,
        "reward": trial.reward,
        "success": trial.success,
        "ending": ending.kind,
        **{name: value for name, value in further.items() if value},
    }


class _Tasks(Mapping[str, TaskResult]):
    """The results of tasks from their JSON, in columns: about 0.3 kB each. A `TaskResult` is made when it is asked for.

    Args: records: id and JSON form of each task.
    Raises: KeyError, TypeError or AttributeError for something else.
    """

    def __init__(self, records: Iterable[tuple[str, Any]]) -> None:
        self._rows: dict[str, int] = {}
        self._fingerprints: list[str] = []
        self._families: list[str] = []
        self._ends = array("q")
        self._trials: list[_ButSeed] = []
        self._seeds: list[int] = []
        equal: dict[Any, Any] = {}
        for task, record in records:
            self._rows[task] = len(self._ends)
            self._fingerprints.append(record["fingerprint"])
            family = record.get("family", "")
            self._families.append(equal.setdefault(family, family) if len(equal) < _MOST_EQUAL else family)
            for trial in record["trials"]:
                found = _but_seed(trial)
                self._trials.append(equal.setdefault(found, found) if len(equal) < _MOST_EQUAL else found)
                self._seeds.append(trial["seed"])
            self._ends.append(len(self._trials))

    def __getitem__(self, task: str) -> TaskResult:
        row = self._rows[task]
        numbers = range(self._ends[row - 1] if row else 0, self._ends[row])
        trials = tuple(_trial(self._seeds[number], self._trials[number]) for number in numbers)
        return TaskResult(self._fingerprints[row], trials, self._families[row])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _but_seed(record: Mapping[str, Any]) -> _ButSeed:
    ending = _ending(record["ending"], record.get("detail", ""), record.get("who", ""))
    after_actions, asked_anew = record.get("after_actions", False), record.get("asked_anew", False)
    return record["trial"], record["reward"], record["success"], ending, after_actions, asked_anew


def _trial(seed: int, others: _ButSeed) -> TrialResult:
    trial, reward, success, ending, after_actions, asked_anew = others
    return TrialResult(trial, seed, reward, success, ending, after_actions, asked_anew)


@lru_cache(maxsize=256)
def _ending(kind: EndingKind, detail: str, who: Who | Literal[""]) -> Ending:
    return Ending(kind, detail, who)


def versions_of(env: EnvRef) -> dict[str, str]:
    """Versions of what produced a result; torch and transformers only where they are loaded."""
    loaded = [name for name in ("torch", "transformers") if name in sys.modules]
    return {
        "agentrl": package_version("agentrl"),
        "python": platform.python_version(),
        "environment": env.version,
        **{name: package_version(name) for name in loaded},
    }


def utc_now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
