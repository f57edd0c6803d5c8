"""Which recorded episodes of a store are training data. Owns the choice, not what is learnt from them.

Faults and superseded attempts are never data, and held-out tasks only by name. What was sampled keeps its token ids
where they are those of the model that is trained (`agentrl.policy.format.demonstrations`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agentrl.config import Count
from agentrl.errors import ConfigError, StoreError
from agentrl.rollout.sources.chat_file import IMPORTED
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class Recorded:
    """Episodes of a store: of a run, a benchmark or `agentrl import`.

    Attributes:
        path: the folder of a run, a benchmark or an import, or a `trajectories.jsonl`.
        stage: only those that the stage of this name recorded.
        split: only those of tasks of this split; another one than `train` spoils what is measured on its tasks.
        success: only those that succeeded.
        min_reward: only those with at least this reward.
        per_task: at most this many of each task, the best rewarded first.
    """

    path: str
    stage: str | None = None
    split: str = "train"
    success: bool = False
    min_reward: float | None = None
    per_task: Count | None = None

    @property
    def file(self) -> Path:
        """The file of the store."""
        path = Path(self.path).expanduser()
        return path / "trajectories.jsonl" if path.is_dir() else path

    def read(self) -> list[Trajectory]:
        """The chosen episodes, in the order of the store; each is labelled a demonstration.

        Raises: StoreError if there are none: how many there are, and why each was left out.
        """
        chosen: list[Trajectory] = []
        left_out: Counter[str] = Counter()
        for trajectory in TrajectoryStore(self.file).read():
            reason = self._left_out(trajectory)
            if reason:
                left_out[reason] += 1
            else:
                chosen.append(replace(trajectory, labels=replace(trajectory.labels, mode="demonstration")))
        if not chosen:
            raise StoreError(self._nothing(left_out))
        return chosen if self.per_task is None else _best_of_each(chosen, self.per_task)

    def check(self, key: str) -> None:
        """Raise ConfigError if there is nothing to read. Args: key: of this table in the configuration."""
        try:
            self.read()
        except StoreError as error:
            raise ConfigError(f"{key}: {error}") from error

    def _left_out(self, trajectory: Trajectory) -> str:
        """Why an episode is no data; empty if it is."""
        if trajectory.labels.superseded or trajectory.ending.kind == "fault" or not trajectory.turns:
            return "discarded"
        if self.stage is not None and trajectory.labels.stage != self.stage:
            return f"of the stage {trajectory.labels.stage!r}"
        if trajectory.task.split != self.split:
            split = trajectory.task.split
            return f"of tasks of the split {split!r}, which split = {split!r} takes (do not measure on them afterwards)"
        wants_score = self.success or self.min_reward is not None
        if wants_score and trajectory.env.id == IMPORTED and not trajectory.info.get("rewarded"):
            return "imported without a reward"
        if self.success and not trajectory.success:
            return "not successful"
        if self.min_reward is not None and trajectory.reward < self.min_reward:
            return f"rewarded below {self.min_reward:g}"
        return ""

    def _nothing(self, left_out: Mapping[str, int]) -> str:
        total = sum(left_out.values())
        if not total:
            return f"{self.file} holds no episodes"
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        return f"{self.file} holds {total} episodes, and none of them can be used: {reasons}"


def _best_of_each(trajectories: Sequence[Trajectory], most: int) -> list[Trajectory]:
    """At most `most` episodes of each task, in their order."""
    of_task: dict[tuple[str, str, str], list[int]] = {}
    for number, trajectory in enumerate(trajectories):
        task = trajectory.task
        of_task.setdefault((trajectory.env.key, task.id, task.fingerprint), []).append(number)
    kept = {
        number
        for numbers in of_task.values()
        for number in sorted(numbers, key=lambda n: -trajectories[n].reward)[:most]
    }
    return [trajectory for number, trajectory in enumerate(trajectories) if number in kept]


def digest_of(files: Sequence[Path]) -> str:
    """A hash of the bytes of files, so that a resumed run learns from what it began with; empty without files."""
    if not files:
        return ""
    hashes = []
    for path in files:
        with path.open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:32]


def check_digest(was: str, now: str, files: Sequence[Path]) -> None:
    """Raise ConfigError if a resumed run would learn from other data."""
    if was != now:
        names = ", ".join(map(str, files))
        raise ConfigError(
            f"the data of the run are not those that it began with: one of {names} has changed. Put it back to resume, "
            "or start a new run"
        )
