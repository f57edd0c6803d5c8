"""Training rows: the sampled tokens of trajectories as numpy arrays with named columns. Owns masks and coefficients.

No torch and no model here. Three promises, tested over generated trajectories: every sampled token
trains exactly once, no observation token ever trains, and sampled ids are never re-tokenised.
`agentrl.learning.batches` lays rows out in micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agentrl.trajectory import Trajectory, TrajectoryGroup, Turn

Aggregation = Literal["token", "sequence", "constant"]
Weight = Literal["all", "differing"]
Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
_ROUNDING = 0.02
"""How far above 0 a sampler of few bits may round a log-probability: bfloat16 has steps of 0.008 at 1."""


@dataclass(frozen=True, slots=True)
class Row:
    """One training sequence: context and sampled tokens of one trajectory.

    Who makes which column: the builder `sampled_logprobs` (nats under the distribution that sampled; not a number
    where they are not known, as in demonstrations), `versions`
    (of the weights that sampled), `turns` (which sampled) and `coefficients` (weight of the token's loss in the
    step); a credit estimator `advantages` and `returns`; `Learner.fill` `old_logprobs`, `reference_logprobs` and
    `values`; `pairs` `sign` (+1 for the preferred side, -1 for the other).

    Attributes:
        ids: (T,) int64 token ids.
        mask: (T,) bool, True where the token trains; position 0 never does, because no token predicts it.
        columns: name -> (T,) array; float32 columns are 0, `versions` and `turns` -1 where the token does not train.
        trajectory: index of the trajectory in the step; rows forked from one trajectory share it.
        unit: rows of one number are kept in one micro-batch by objectives over pairs.
    """

    ids: Ints
    mask: Bools
    columns: Mapping[str, Array] = field(default_factory=dict)
    trajectory: int = 0
    unit: int = 0

    def __post_init__(self) -> None:
        size = len(self.ids)
        for name, values in (("mask", self.mask), *self.columns.items()):
            if values.shape != (size,):
                raise ValueError(f"Row.{name} must have shape ({size},) like ids, got {values.shape}")
        if size == 0:
            raise ValueError("a Row needs at least one token, got none")
        if self.mask[0]:
            raise ValueError(
                "the first token of a Row cannot train, because no token predicts it: begin with a prompt token"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_trained(self) -> int:
        """Number of tokens that train."""
        return int(self.mask.sum())

    def column(self, name: str) -> Array:
        """(T,) values of a column. Raises: ValueError that lists the columns there are."""
        if name not in self.columns:
            raise ValueError(f"the row has no column {name!r}, only {', '.join(sorted(self.columns)) or 'none'}")
        return self.columns[name]

    def with_columns(self, **columns: Array) -> Row:
        """The row with columns added or replaced."""
        return replace(self, columns={**self.columns, **columns})

    @classmethod
    def of(
        cls,
        ids: Sequence[int] | Ints,
        mask: Sequence[bool] | Bools,
        *,
        trajectory: int = 0,
        unit: int = 0,
        **columns: float | Sequence[float] | Array,
    ) -> Row:
        """A row from ids and mask alone, as a demonstration has them; every trained token weighs 1.

        Args:
            ids: (T,) token ids.
            mask: (T,) True where the token trains.
            trajectory, unit: as in `Row`.
            columns: one number for every trained token, or (T,) of which the trained ones count.
        """
        mask_T = np.asarray(mask, bool)
        whole = {"turns": 0, "versions": 0}
        values = {"sampled_logprobs": 0.0, "coefficients": 1.0, **columns}
        made = {name: np.where(mask_T, value, -1).astype(np.int32) for name, value in whole.items()}
        made |= {name: np.where(mask_T, value, 0.0).astype(np.float32) for name, value in values.items()}
        return cls(np.asarray(ids, np.int64), mask_T, made, trajectory, unit)


class _RowBuilder:
    """A row under construction: its ids, and which of them were sampled."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.mask: list[bool] = []
        self.sampled_logprobs: list[float] = []
        self.versions: list[int] = []
        self.turns: list[int] = []

    def extends_to(self, prompt_ids: Sequence[int]) -> bool:
        """Whether `prompt_ids` begins with exactly this context."""
        size = len(self.ids)
        return size <= len(prompt_ids) and list(prompt_ids[:size]) == self.ids

    def add_context(self, ids: Sequence[int]) -> None:
        """Append ids that do not train."""
        self._add(ids, False, [0.0] * len(ids), [-1] * len(ids), -1)

    def add_sampled(self, ids: Sequence[int], logprobs: Sequence[float], versions: Sequence[int], turn: int) -> None:
        """Append the sampled ids of a turn, with one logprob and one version each."""
        self._add(ids, True, logprobs, versions, turn)

    def _add(
        self, ids: Sequence[int], sampled: bool, logprobs: Sequence[float], versions: Sequence[int], turn: int
    ) -> None:
        self.ids.extend(ids)
        self.mask.extend([sampled] * len(ids))
        self.sampled_logprobs.extend(logprobs)
        self.versions.extend(versions)
        self.turns.extend([turn] * len(ids))

    def row(self, trajectory: int) -> Row:
        mask_T = np.asarray(self.mask, bool)
        logprobs_T = np.asarray(self.sampled_logprobs, np.float32)
        impossible = logprobs_T[mask_T & ((logprobs_T > _ROUNDING) | np.isneginf(logprobs_T))]
        if impossible.size:
            raise ValueError(
                f"{impossible.size} sampled tokens have log-probabilities that no sampled token can have, such as "
                f"{impossible[0]:g}: natural logarithms are expected, finite and at most 0"
            )
        columns: dict[str, Array] = {
            "sampled_logprobs": logprobs_T,
            "versions": np.asarray(self.versions, np.int32),
            "turns": np.asarray(self.turns, np.int32),
            "coefficients": mask_T.astype(np.float32),
        }
        return Row(np.asarray(self.ids, np.int64), mask_T, columns, trajectory, trajectory)


@dataclass(frozen=True, slots=True)
class _Sampled:
    """The tokens of a turn, checked."""

    prompt_ids: Sequence[int]
    ids: Sequence[int]
    logprobs: Sequence[float]
    versions: Sequence[int]


def _tokens_of(turn: Turn, index: int) -> _Sampled:
    action = turn.action
    if action.prompt_ids is None or action.token_ids is None:
        raise ValueError(
            f"turn {index} has no token ids, so it cannot train: sample with a policy that records "
            "prompt_ids and token_ids (LocalPolicy), or render the trajectory as a demonstration"
        )
    size = len(action.token_ids)
    logprobs = action.logprobs if action.logprobs is not None else (math.nan,) * size
    versions = action.versions if action.versions is not None else (0,) * size
    if len(logprobs) != size or len(versions) != size:
        raise ValueError(
            f"turn {index} has {size} sampled ids but {len(logprobs)} logprobs and {len(versions)} versions"
        )
    if action.token_ids and not action.prompt_ids:
        raise ValueError(f"turn {index} has sampled ids but an empty prompt: the first token has nothing before it")
    return _Sampled(action.prompt_ids, action.token_ids, logprobs, versions)


def rows_of_trajectory(trajectory: Trajectory, number: int = 0) -> list[Row]:
    """The rows of one trajectory, with coefficient 1 at every sampled token.

    A turn whose prompt begins with exactly the context of a row extends that row (the longest such
    row, so that interleaved sub-conversations each keep theirs). Any other prompt (thinking dropped, history
    rewritten, a stop token left out) forks a new row, in which the context does not train. The turns of an episode that
    this one continues are context.

    Args: number: of the trajectory in the step.
    Raises: ValueError if a turn has sampled tokens but no ids, no context or mismatched logprobs.
    """
    builders: list[_RowBuilder] = []
    for index, turn in enumerate(trajectory.turns):
        if index < trajectory.first_own_turn:
            continue
        sampled = _tokens_of(turn, index)
        if not sampled.ids:
            continue
        matching = [builder for builder in builders if builder.extends_to(sampled.prompt_ids)]
        if matching:
            builder = max(matching, key=lambda b: len(b.ids))
        else:
            builder = _RowBuilder()
            builders.append(builder)
        builder.add_context(sampled.prompt_ids[len(builder.ids) :])
        builder.add_sampled(sampled.ids, sampled.logprobs, sampled.versions, index)
    return [builder.row(number) for builder in builders]


def build_rows(groups: Sequence[TrajectoryGroup]) -> list[Row]:
    """All rows of a step; faults and greedy episodes never become rows.

    Args: groups: trajectories are numbered through in this order, those without rows included.
    """
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    return [
        row
        for number, trajectory in enumerate(trajectories)
        if trajectory.trains
        for row in rows_of_trajectory(trajectory, number)
    ]


def with_coefficients(
    rows: Sequence[Row],
    aggregation: Aggregation,
    *,
    max_tokens: int | None = None,
    counted: Collection[int] | None = None,
) -> list[Row]:
    """Fix each sampled token's weight in the step's loss, before any batching.

    `token`: 1 / sampled tokens of the step (DAPO, arXiv:2503.14476, eq. 8).
    `sequence`: 1 / (trajectories x sampled tokens of the trajectory) (GRPO, arXiv:2402.03300, eq. 3).
    `constant`: 1 / (trajectories x max_tokens) (Dr. GRPO, arXiv:2503.20783, section 3.2).

    A trajectory counts once however many rows it forked into.

    Args:
        rows: all rows of the step.
        aggregation: which of the three.
        max_tokens: most tokens that a trajectory may sample; needed by `constant`.
        counted: numbers of the trajectories that the step consists of; the others weigh 0. None counts all.
    Raises: ValueError for another aggregation, or `constant` without `max_tokens`.
    """
    tokens: dict[int, int] = {}
    for row in rows:
        size = row.num_trained if counted is None or row.trajectory in counted else 0
        tokens[row.trajectory] = tokens.get(row.trajectory, 0) + size
    weight = _weights(tokens, aggregation, max_tokens)
    return [
        row.with_columns(coefficients=row.mask.astype(np.float32) * np.float32(weight[row.trajectory])) for row in rows
    ]


def _weights(tokens: Mapping[int, int], aggregation: Aggregation, max_tokens: int | None) -> dict[int, float]:
    """The per-token weight of each trajectory, from its count of sampled tokens."""
    trained = {number: count for number, count in tokens.items() if count}
    empty = dict.fromkeys(tokens, 0.0)
    if aggregation == "token":
        total = sum(trained.values())
        return empty | dict.fromkeys(trained, 1.0 / max(1, total))
    if aggregation == "sequence":
        return empty | {number: 1.0 / (len(trained) * count) for number, count in trained.items()}
    if aggregation == "constant":
        if not max_tokens or max_tokens < 1:
            raise ValueError(f"aggregation 'constant' needs max_tokens of at least 1, got {max_tokens}")
        return empty | {number: 1.0 / (len(trained) * max_tokens) for number in trained}
    raise ValueError(f"aggregation must be 'token', 'sequence' or 'constant', got {aggregation!r}")


def check_sampler_known(rows: Sequence[Row]) -> None:
    """Raises: ValueError if a sampled token has no log-probability of its sampler."""
    unknown = sum(int(np.isnan(row.column("sampled_logprobs")[row.mask]).sum()) for row in rows)
    if unknown:
        raise ValueError(
            f"{unknown} sampled tokens have ids but no log-probabilities of their sampler, so their ratio is not "
            'known: set recompute_old_logprobs = true with importance = "none", or sample with temperature 1, '
            "top_p 1 and top_k 0 from a server that returns log-probabilities"
        )
