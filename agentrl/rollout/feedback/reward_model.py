"""Rewards by a trained reward model. Owns how episodes are scored; trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from agentrl.errors import ConfigError, ModelError
from agentrl.learning.batches import pad
from agentrl.learning.columns import fill
from agentrl.learning.forward import TokenScorer
from agentrl.learning.models import Models
from agentrl.learning.objectives.preference import BradleyTerry
from agentrl.learning.rows import Row, rows_of_trajectory
from agentrl.policy import model_folder
from agentrl.policy.model_folder import VALUE_HEAD
from agentrl.rollout.feedback.base import Feedback, rewarded
from agentrl.trajectory import Trajectory, TrajectoryGroup

PART = "reward_model"
_TOKENS = 4096


@dataclass(frozen=True)
class RewardModel(Feedback):
    """Adds the score of a reward model to the reward of each episode's last turn, as its part `reward_model`.

    Success stays the environment's. The model reads the sampled tokens, so it has to have the policy's tokenizer:
    train it from the same model folder.

    Attributes:
        path: the run that trained it (`algorithm = "reward_model"`), or its `model` folder.
        stage: the earlier stage of the same run that trained it (`apart = true`); give this or `path`.
        weight: of the score.
        keep: factor of the environment's own rewards; 0 leaves the score alone.
        device: where the model is; `auto` is the first GPU, or the CPU where there is none.
    """

    path: str | None = None
    stage: str | None = None
    weight: float = 1.0
    keep: float = 1.0
    device: str = "auto"

    @property
    def stages(self) -> Sequence[str]:
        return [] if self.stage is None else [self.stage]

    def in_run(self, reward_model: Callable[[str], Path]) -> Feedback:
        return self if self.stage is None else replace(self, path=str(reward_model(self.stage)), stage=None)

    def check(self, key: str) -> None:
        if (self.path is None) == (self.stage is None):
            raise ConfigError(
                f"{key}: reward_model needs path, the folder of a run that trained a reward model, or stage, the name "
                "of an earlier stage of this run that did: give one of them"
            )
        if self.path is None:
            return
        folder = _folder(self.path)
        if not (folder / VALUE_HEAD).is_file():
            raise ConfigError(
                f"{key}.path = {self.path!r} is no reward model: there is no {folder / VALUE_HEAD}. Give the folder of "
                'a finished run whose last stage that trains has algorithm = "reward_model"'
            )

    async def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        self.check("feedback")
        device = "cuda" if self.device == "auto" and torch.cuda.is_available() else self.device
        assert self.path is not None
        folder = _folder(self.path).resolve()
        written_ns = (folder / VALUE_HEAD).stat().st_mtime_ns
        model = _loaded(str(folder), "cpu" if device == "auto" else device, written_ns)
        scores = iter(model.scores([t for group in groups for t in group.trajectories]))
        return [replace(g, trajectories=[self._scored(t, next(scores)) for t in g.trajectories]) for g in groups]

    def _scored(self, trajectory: Trajectory, score: float | None) -> Trajectory:
        if score is None:
            return trajectory
        return rewarded(trajectory, PART, score, weight=self.weight, keep=self.keep)


class _Scorer:
    """A language model with a head that scores an episode before its last sampled token, as it was trained to."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        policy, self._tokenizer = model_folder.load(folder, device=device)
        self._models = Models(policy, BradleyTerry(), TokenScorer(policy))
        assert self._models.value_head is not None
        _load_head(folder, self._models.value_head)
        self._is_proved = False

    @torch.no_grad()
    def scores(self, trajectories: Sequence[Trajectory]) -> list[float | None]:
        """The score of each episode; None for a fault and where nothing was sampled."""
        found: list[float | None] = [None] * len(trajectories)
        rows = []
        for number, trajectory in enumerate(trajectories):
            if trajectory.status != "fault":
                self._prove(trajectory)
                rows.extend(_last_token(rows_of_trajectory(trajectory, number)))
        batches = pad(rows, _TOKENS)
        for row in fill(rows, "values", batches, lambda batch: self._models.predicted(batch, "values")):
            found[row.trajectory] = float(row.column("values")[row.mask][0])
        return found

    def _prove(self, trajectory: Trajectory) -> None:
        """Raises: ModelError if the policy's token ids are not text of the episode under this model's tokenizer."""
        first = trajectory.turns[0] if trajectory.turns else None
        if self._is_proved or first is None or not first.observation or first.action.prompt_ids is None:
            return
        read = self._tokenizer.decode(list(first.action.prompt_ids))
        if "".join(first.observation[-1].content.split()) not in "".join(read.split()):
            raise ModelError(
                f"the reward model {self._folder} has another tokenizer than the policy: it reads the task as "
                f"{read[:80]!r}. Train it from the policy's model folder"
            )
        self._is_proved = True


@cache
def _loaded(folder: str, device: str, written_ns: int) -> _Scorer:
    """The reward model of a folder. Args: written_ns: when its head was written."""
    with torch.random.fork_rng(devices=[]):  # a resumed run loads it at another step
        return _Scorer(Path(folder), device)


def _folder(path: str) -> Path:
    """The model folder of a run, or the folder itself."""
    given = Path(path).expanduser()
    return given / "model" if (given / "model").is_dir() else given


def _last_token(rows: Sequence[Row]) -> list[Row]:
    """The row that the last turn is in, with its last sampled token alone; none where nothing was sampled."""
    if not rows:
        return []
    row = max(rows, key=lambda row: int(row.column("turns").max()))
    mask = np.zeros(len(row), bool)
    mask[np.flatnonzero(row.mask)[-1]] = True
    return [Row(row.ids, mask, row.columns, row.trajectory, row.unit)]


def _load_head(folder: Path, value_head: nn.Linear) -> None:
    """Raises: ModelError if the head is of a model of another size."""
    numbers = model_folder.read_value_head(folder)
    if len(numbers["weight"]) != value_head.in_features:
        raise ModelError(
            f"{folder / VALUE_HEAD} is for a hidden size of {len(numbers['weight'])}, the model next to it has "
            f"{value_head.in_features}: the folder is of two models"
        )
    value_head.load_state_dict({"weight": torch.tensor([numbers["weight"]]), "bias": torch.tensor(numbers["bias"])})
