"""From the numbers of episodes to columns of rows, and back: advantages, predicted returns, preferences.

Owns the whole mapping between an episode's turns and a row's tokens. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from agentrl.learning.credit.base import Advantages, Credit, Floats, PerTrajectory
from agentrl.learning.rows import Array, Row
from agentrl.learning.shaping.base import with_rewards
from agentrl.trajectory import Trajectory, TrajectoryGroup

_LARGEST = float(np.finfo(np.float32).max)


def with_advantages(
    rows: Sequence[Row], groups: Sequence[TrajectoryGroup], found: Advantages, credit: Credit
) -> list[Row]:
    """The rows with `advantages`, and `returns` if the estimator has any.

    Args:
        rows: of `build_rows` for these groups.
        found: the estimator's result for these groups.
        credit: the estimator; its level says whether there is a number per turn or per token.
    Raises: ValueError if the numbers do not match the groups, or one is not finite.
    """
    rows = _with_column(rows, groups, "advantages", found.advantages, credit.level)
    if found.returns is None:
        return rows
    return _with_column(rows, groups, "returns", found.returns, credit.level)


def groups_taught(found: Advantages) -> list[bool]:
    """Whether each group has an advantage other than 0."""
    return [any(np.any(values) for values in group) for group in found.advantages]


def _with_column(
    rows: Sequence[Row], groups: Sequence[TrajectoryGroup], name: str, numbers: PerTrajectory, level: str
) -> list[Row]:
    _check(rows, groups, name, numbers, level)
    flat = [np.asarray(values, np.float64) for group in numbers for values in group]
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    return [row.with_columns(**{name: _spread(row, flat[row.trajectory], trajectories, level)}) for row in rows]


def _check(
    rows: Sequence[Row], groups: Sequence[TrajectoryGroup], name: str, numbers: PerTrajectory, level: str
) -> None:
    if (most := max((row.trajectory for row in rows), default=-1)) >= sum(len(g.trajectories) for g in groups):
        raise ValueError(f"the rows are of other groups: one is of trajectory {most}, and the groups have fewer")
    if len(groups) != len(numbers):
        raise ValueError(f"got {len(groups)} groups but {name} of {len(numbers)}")
    for group, values in zip(groups, numbers, strict=True):
        if len(values) != len(group.trajectories):
            raise ValueError(
                f"group {group.group_id!r} has {len(group.trajectories)} trajectories but {len(values)} {name}"
            )
        for number, (trajectory, value) in enumerate(zip(group.trajectories, values, strict=True)):
            size = len(_token_turns(trajectory)) if level == "token" else len(trajectory.turns)
            where = f"trajectory {number} of group {group.group_id!r}"
            if np.shape(value) != (size,):
                raise ValueError(f"{where} has {size} {level}s but {name} of shape {np.shape(value)}: one per {level}")
            if not (np.abs(value) <= _LARGEST).all():
                raise ValueError(
                    f"{where} has a number in its {name} that is not finite in float32: {value}. Rewards of this size "
                    "cannot train: scale them in the environment, or use an estimator that divides by their deviation"
                )


def _spread(row: Row, values: Floats, trajectories: Sequence[Trajectory], level: str) -> Array:
    """(T,) float32: the value of each trained token, 0 elsewhere."""
    index = row.column("turns") if level == "turn" else _token_numbers(row, trajectories[row.trajectory])
    safe = np.where(row.mask, index, 0)
    whole = values[safe] if len(values) else np.zeros(len(row))
    return np.where(row.mask, whole, 0.0).astype(np.float32)


def _token_turns(trajectory: Trajectory) -> list[int]:
    """The turn of each sampled token of an episode, in order."""
    return [i for i, turn in enumerate(trajectory.turns) for _ in turn.action.token_ids or ()]


def _token_numbers(row: Row, trajectory: Trajectory) -> Array:
    """(T,) the number of each trained token among the sampled tokens of its episode."""
    sizes = [len(turn.action.token_ids or ()) for turn in trajectory.turns]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    numbers = np.zeros(len(row), int)
    turns = row.column("turns")
    for turn in np.unique(turns[row.mask]):
        places = np.flatnonzero(row.mask & (turns == turn))
        numbers[places] = starts[turn] + np.arange(len(places))
    return numbers


def per_trajectory(
    rows: Sequence[Row], groups: Sequence[TrajectoryGroup], column: str, credit: Credit
) -> PerTrajectory:
    """A column of the rows as the estimator reads it.

    Returns: group -> trajectory -> (turns,), the value at each turn's first token (0 where none was sampled), or
        (sampled tokens,), by the estimator's level.
    """
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    flat = [np.zeros(len(_token_turns(t))) for t in trajectories]
    for row in rows:
        numbers = _token_numbers(row, trajectories[row.trajectory])
        flat[row.trajectory][numbers[row.mask]] = row.column(column)[row.mask]
    if credit.level == "turn":
        flat = [_at_first_tokens(t, values) for t, values in zip(trajectories, flat, strict=True)]
    found = iter(flat)
    return [[next(found) for _ in group.trajectories] for group in groups]


def _at_first_tokens(trajectory: Trajectory, values: Floats) -> Floats:
    turns = _token_turns(trajectory)
    first = {turn: place for place, turn in reversed(list(enumerate(turns)))}
    return np.array([values[first[i]] if i in first else 0.0 for i in range(len(trajectory.turns))], np.float64)


def note_trainer_logprobs(rows: Sequence[Row], trajectories: Mapping[int, Trajectory]) -> None:
    """Write the column `old_logprobs` of rows to the turns that they are of, as `Turn.trainer_logprobs`.

    Args:
        rows: of which the trained tokens count. A turn is left out if not all its sampled tokens train in one row.
        trajectories: by `Row.trajectory`; rows of others are left out.
    """
    for row in rows:
        trajectory = trajectories.get(row.trajectory)
        if trajectory is None:
            continue
        values, turns = row.column("old_logprobs")[row.mask], row.column("turns")[row.mask]
        for number in np.unique(turns):
            turn, own = trajectory.turns[number], values[turns == number]
            if len(own) == len(turn.action.token_ids or ()):
                turn.trainer_logprobs = tuple(own.astype(np.float64).tolist())


def with_trainer_logprobs(row: Row, trajectory: Trajectory) -> Row:
    """The row with the column `trainer_logprobs`, which is not a number where none was recorded."""
    found, turns = np.full(len(row), np.nan, np.float32), row.column("turns")
    for number, turn in enumerate(trajectory.turns):
        places = np.flatnonzero(row.mask & (turns == number))
        if turn.trainer_logprobs is not None and len(turn.trainer_logprobs) == len(places):
            found[places] = turn.trainer_logprobs
    return row.with_columns(trainer_logprobs=found)


def with_turn_rewards(
    rows: Sequence[Row], groups: Sequence[TrajectoryGroup], added: Callable[[Row], Array]
) -> list[TrajectoryGroup]:
    """The groups with something added to the rewards of their turns: what the tokens of each turn add up to.

    The given groups are not changed; these are for an estimator alone.

    Args:
        rows: of `build_rows` for these groups.
        added: (T,) of a row, of which the trained tokens count.
    """
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    sums = [np.zeros(len(t.turns)) for t in trajectories]
    for row in rows:
        np.add.at(sums[row.trajectory], row.column("turns")[row.mask], added(row)[row.mask].astype(np.float64))
    found = iter(sums)
    return [
        replace(g, trajectories=[with_rewards(t, _rewards(t) + next(found)) for t in g.trajectories]) for g in groups
    ]


def _rewards(trajectory: Trajectory) -> Floats:
    return np.array([turn.reward for turn in trajectory.turns], np.float64)


def pairs(rows: Sequence[Row], groups: Sequence[TrajectoryGroup]) -> list[Row]:
    """Rows of the episodes that are compared, two sides of one `unit` for each preference.

    Returns: rows with `sign` (+1 for the preferred episode, -1 for the other), `last` (1 at the last sampled token of
        each side), `reward_gap` (the preference's margin, or the preferred episode's reward minus the
        other's) and coefficients that give every
        pair the weight 1 / pairs; its number of rows and tokens does not matter.
    """
    by_trajectory: dict[int, list[Row]] = {}
    for row in rows:
        by_trajectory.setdefault(row.trajectory, []).append(row)
    sides: list[tuple[list[Row], list[Row], float]] = []
    first = 0
    for group in groups:
        for number, (better, worse) in enumerate(group.preferences):
            preferred, other = by_trajectory.get(first + better, []), by_trajectory.get(first + worse, [])
            if preferred and other:
                gap = group.margins[number] if group.margins else group.rewards[better] - group.rewards[worse]
                sides.append((preferred, other, gap))
        first += len(group.trajectories)
    weight = 1.0 / max(1, len(sides))
    return [
        row
        for unit, (preferred, other, gap) in enumerate(sides)
        for sign, side in ((1.0, preferred), (-1.0, other))
        for row in _side(side, sign, unit, weight, gap)
    ]


def _side(rows: Sequence[Row], sign: float, unit: int, weight: float, gap: float) -> list[Row]:
    """The rows of one episode of a pair."""
    end = max(range(len(rows)), key=lambda i: int(rows[i].column("turns").max()))  # the row that the last turn is in
    made = []
    for number, row in enumerate(rows):
        last = np.zeros(len(row), np.float32)
        if number == end:
            last[np.flatnonzero(row.mask)[-1]] = 1.0
        constant = {"sign": sign, "coefficients": weight, "reward_gap": gap}
        columns = {name: np.where(row.mask, value, 0.0).astype(np.float32) for name, value in constant.items()}
        made.append(Row(row.ids, row.mask, {**row.columns, **columns, "last": last}, row.trajectory, unit))
    return made
