"""Training rows: the sampled tokens of trajectories as numpy arrays. Owns token masks and coefficients.

No torch and no model here. Three promises, tested over generated trajectories: every sampled token
trains exactly once, no observation token ever trains, and sampled ids are never re-tokenised.
`agentrl.learning.batches` lays rows out in micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agentrl.trajectory import Trajectory, TrajectoryGroup, Turn

Aggregation = Literal["token", "sequence", "constant"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Row:
    """One training sequence: context and sampled tokens of one trajectory.

    Attributes:
        ids: (T,) int64 token ids.
        mask: (T,) bool, True where the token was sampled; position 0 never is, nothing predicts it.
        old_logprobs: (T,) float32 nats under the distribution that sampled the token, 0 elsewhere.
        advantages: (T,) float32, 0 where not sampled.
        coefficients: (T,) float32 weight of each token's loss in the step, 0 where not sampled.
        versions: (T,) int32 version of the weights that sampled the token, -1 where not sampled.
        turns: (T,) int32 index of the turn that sampled the token, -1 where not sampled.
        trajectory: index of the trajectory in the step; rows forked from one trajectory share it.
        group_id: the group of that trajectory.
    """

    ids: Ints
    mask: Bools
    old_logprobs: Floats
    advantages: Floats
    coefficients: Floats
    versions: npt.NDArray[np.int32]
    turns: npt.NDArray[np.int32]
    trajectory: int = 0
    group_id: str = ""

    def __post_init__(self) -> None:
        size = len(self.ids)
        for name in ("mask", "old_logprobs", "advantages", "coefficients", "versions", "turns"):
            shape = getattr(self, name).shape
            if shape != (size,):
                raise ValueError(f"Row.{name} must have shape ({size},) like ids, got {shape}")
        if size == 0:
            raise ValueError("a Row needs at least one token, got none")
        if self.mask[0]:
            raise ValueError(
                "the first token of a Row cannot train, nothing stands before it: begin with a prompt token"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_trained(self) -> int:
        """How many of its tokens were sampled, and so train."""
        return int(self.mask.sum())

    @classmethod
    def of(
        cls,
        ids: Sequence[int] | Ints,
        mask: Sequence[bool] | Bools,
        *,
        old_logprobs: Sequence[float] | Floats | None = None,
        advantage: float = 1.0,
        trajectory: int = 0,
        group_id: str = "",
    ) -> Row:
        """A row from ids and mask alone, as a demonstration has them; every sampled token weighs 1.

        Args:
            ids: (T,) token ids.
            mask: (T,) True where the token trains.
            old_logprobs: (T,) nats; zeros if left out.
            advantage: the same for every sampled token.
            trajectory, group_id: as in `Row`.
        """
        mask_T = np.asarray(mask, bool)
        old_T = np.zeros(len(mask_T)) if old_logprobs is None else np.asarray(old_logprobs)
        return cls(
            ids=np.asarray(ids, np.int64),
            mask=mask_T,
            old_logprobs=np.where(mask_T, old_T, 0.0).astype(np.float32),
            advantages=np.where(mask_T, advantage, 0.0).astype(np.float32),
            coefficients=mask_T.astype(np.float32),
            versions=np.where(mask_T, 0, -1).astype(np.int32),
            turns=np.where(mask_T, 0, -1).astype(np.int32),
            trajectory=trajectory,
            group_id=group_id,
        )


class _RowBuilder:
    """A row under construction: the context so far, and which of it was sampled."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.mask: list[bool] = []
        self.old_logprobs: list[float] = []
        self.versions: list[int] = []
        self.turns: list[int] = []

    def extends_to(self, prompt_ids: Sequence[int]) -> bool:
        """Whether `prompt_ids` begins with exactly this context."""
        size = len(self.ids)
        return size <= len(prompt_ids) and list(prompt_ids[:size]) == self.ids

    def add(self, ids: Sequence[int], logprobs: Sequence[float] | None, version: int, turn: int) -> None:
        """Append sampled ids, or context where `logprobs` is None."""
        sampled = logprobs is not None
        self.ids.extend(ids)
        self.mask.extend([sampled] * len(ids))
        self.old_logprobs.extend([0.0] * len(ids) if logprobs is None else logprobs)
        self.versions.extend([version if sampled else -1] * len(ids))
        self.turns.extend([turn if sampled else -1] * len(ids))

    def row(self) -> Row:
        mask_T = np.asarray(self.mask, bool)
        return Row(
            ids=np.asarray(self.ids, np.int64),
            mask=mask_T,
            old_logprobs=np.asarray(self.old_logprobs, np.float32),
            advantages=np.zeros(len(mask_T), np.float32),
            coefficients=mask_T.astype(np.float32),
            versions=np.asarray(self.versions, np.int32),
            turns=np.asarray(self.turns, np.int32),
        )


def _tokens_of(turn: Turn, index: int) -> tuple[Sequence[int], Sequence[int], Sequence[float]]:
    """Prompt ids, sampled ids and logprobs of a turn, checked."""
    action = turn.action
    if action.prompt_ids is None or action.token_ids is None:
        raise ValueError(
            f"turn {index} has no token ids, so it cannot train: sample with a policy that records "
            "prompt_ids and token_ids (LocalPolicy), or render the trajectory as a demonstration"
        )
    logprobs = action.logprobs if action.logprobs is not None else (0.0,) * len(action.token_ids)
    if len(logprobs) != len(action.token_ids):
        raise ValueError(f"turn {index} has {len(action.token_ids)} sampled ids but {len(logprobs)} logprobs")
    if action.token_ids and not action.prompt_ids:
        raise ValueError(f"turn {index} has sampled ids but an empty prompt: the first token has nothing before it")
    return action.prompt_ids, action.token_ids, logprobs


def rows_of_trajectory(trajectory: Trajectory) -> list[Row]:
    """The rows of one trajectory, with advantage 0 and coefficient 1 at every sampled token.

    A turn whose prompt begins with exactly the context of a row extends that row (the longest such
    row, so that interleaved sub-conversations each keep theirs). Any other prompt (thinking dropped, history
    rewritten, a stop token left out) forks a new row, in which the context does not train.

    Raises: ValueError if a turn has sampled tokens but no ids, no context or mismatched logprobs.
    """
    builders: list[_RowBuilder] = []
    for index, turn in enumerate(trajectory.turns):
        prompt_ids, token_ids, logprobs = _tokens_of(turn, index)
        if not token_ids:
            continue
        matching = [builder for builder in builders if builder.extends_to(prompt_ids)]
        if matching:
            builder = max(matching, key=lambda b: len(b.ids))
        else:
            builder = _RowBuilder()
            builders.append(builder)
        builder.add(prompt_ids[len(builder.ids) :], None, -1, -1)
        builder.add(token_ids, logprobs, turn.action.policy_version, index)
    return [builder.row() for builder in builders]


def build_rows(
    groups: Sequence[TrajectoryGroup],
    advantages: Sequence[Sequence[float] | Sequence[npt.NDArray[Any]] | npt.NDArray[Any]],
    *,
    aggregation: Aggregation = "token",
    max_tokens: int | None = None,
) -> list[Row]:
    """All rows of a step, with advantages and coefficients set; faults never become rows.

    Args:
        groups: the step's groups; trajectories are numbered through in this order, faults included.
        advantages: per group, per trajectory: one number, or a (turns,) array of one per turn.
        aggregation, max_tokens: as in `with_coefficients`.
    Raises: ValueError if the advantages do not match the groups.
    """
    if len(groups) != len(advantages):
        raise ValueError(f"got {len(groups)} groups but advantages of {len(advantages)}")
    rows: list[Row] = []
    number = 0
    for group, values in zip(groups, advantages, strict=True):
        if len(values) != len(group.trajectories):
            raise ValueError(
                f"group {group.group_id!r} has {len(group.trajectories)} trajectories but {len(values)} advantages"
            )
        for trajectory, value in zip(group.trajectories, values, strict=True):
            if trajectory.status != "fault":
                rows.extend(_with_advantage(r, value, number, group.group_id) for r in rows_of_trajectory(trajectory))
            number += 1
    return with_coefficients(rows, aggregation, max_tokens=max_tokens)


def _with_advantage(row: Row, value: float | npt.NDArray[Any], number: int, group_id: str) -> Row:
    """The row with its trajectory's advantage at sampled tokens: one number, or one per turn."""
    per_turn = np.asarray(value, np.float64)
    if per_turn.ndim > 1 or (per_turn.ndim == 1 and len(per_turn) <= row.turns.max()):
        raise ValueError(
            f"an advantage is one number or one per turn; trajectory {number} has at least "
            f"{row.turns.max() + 1} turns, its advantages the shape {per_turn.shape}"
        )
    if not np.isfinite(per_turn).all():
        raise ValueError(f"trajectory {number} of group {group_id!r} has a non-finite advantage: {per_turn}")
    token_T = per_turn[row.turns] if per_turn.ndim else np.full(len(row), per_turn)
    advantages = np.where(row.mask, token_T, 0.0).astype(np.float32)
    return replace(row, advantages=advantages, trajectory=number, group_id=group_id)


def with_coefficients(rows: Sequence[Row], aggregation: Aggregation, *, max_tokens: int | None = None) -> list[Row]:
    """Fix each sampled token's weight in the step's loss, before any batching.

    `token`: 1 / sampled tokens of the step (DAPO, arXiv:2503.14476, eq. 8).
    `sequence`: 1 / (trajectories x sampled tokens of the trajectory) (GRPO, arXiv:2402.03300, eq. 3).
    `constant`: 1 / (trajectories x max_tokens) (Dr. GRPO, arXiv:2503.20783, section 3.2).

    A trajectory counts once however many rows it forked into.

    Args:
        rows: all rows of the step.
        aggregation: which of the three.
        max_tokens: most tokens that a trajectory may sample; needed by `constant`.
    """
    tokens: dict[int, int] = {}
    for row in rows:
        tokens[row.trajectory] = tokens.get(row.trajectory, 0) + row.num_trained
    weight = _weights(tokens, aggregation, max_tokens)
    return [replace(row, coefficients=row.mask.astype(np.float32) * np.float32(weight[row.trajectory])) for row in rows]


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
