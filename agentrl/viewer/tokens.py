"""The tokens of an episode as training saw them: one line of ids per row, with the mask and numbers of each token.

Owns no estimator: advantages are those of the run's own, applied again to what it recorded.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from agentrl.config import OneOf, from_table
from agentrl.errors import AgentRLError
from agentrl.learning.credit.base import CREDITS, Credit, without_faults
from agentrl.learning.credit.by_environment import by_environment
from agentrl.learning.credit.group_relative import GRPO
from agentrl.learning.episode_columns import with_advantages, with_trainer_logprobs
from agentrl.learning.rows import Row, rows_of_trajectory
from agentrl.registry import names_only
from agentrl.safe_json import for_terminal
from agentrl.trajectory import Trajectory, TrajectoryGroup
from agentrl.viewer.episodes import read_episode
from agentrl.viewer.index import Index
from agentrl.viewer.sources import Source

MOST_TOKENS = 4096
_MOST_EPISODES, _MOST_STEP_BYTES = 1024, 64 << 20
# Settings of a stage under which rewards or groups are changed before the estimator sees them, with the plain value.
_PLAIN = {
    "shaping": [],
    "feedback": [],
    "keep_groups": 1.0,
    "dynamic_sampling": False,
    "pass_rate_band": [0.0, 1.0],
}


@dataclass(frozen=True)
class _Estimator:
    credit: Annotated[Credit, OneOf(CREDITS)] = GRPO()


class Unknown(AgentRLError):
    """Why something is not known of an episode."""


def tokens_json(index: Index, source: Source, line: int, *, row: int, start: int) -> dict[str, Any]:
    """A piece of a row of an episode's tokens.

    Args:
        row: number of the row: an episode has more than one where its history was rewritten.
        start: first token; at most `MOST_TOKENS` are given.
    Returns: `rows`, the number of rows; `size`, of this one; for each token `ids`, `texts` (null without a tokenizer),
        `mask`, `logprobs`, `versions`, `turns`, `advantages`, and `ratios` of the probability for the model that
        learned from it to that for the sampler (null where they are not known); `notes`.
    """
    episode = read_episode(index, source, line)
    try:
        rows = rows_of_trajectory(episode)
    except ValueError as error:
        return {"rows": 0, "notes": [for_terminal(str(error))]}
    if not rows:
        return {"rows": 0, "notes": ["No token was sampled in this episode."]}
    notes = [_trained(source, episode)]
    try:
        rows = _with_advantages(index, source, line, episode, rows)
    except Unknown as unknown:
        notes.append(f"Advantages are not known: {unknown}.")
    chosen = with_trainer_logprobs(rows[min(row, len(rows) - 1)], episode)
    piece = slice(start, start + MOST_TOKENS)
    return {
        "rows": len(rows),
        "row": min(row, len(rows) - 1),
        "size": len(chosen.ids),
        "start": start,
        "ids": chosen.ids[piece].tolist(),
        "texts": _texts(source, chosen.ids[piece].tolist()),
        "mask": chosen.mask[piece].tolist(),
        "logprobs": _numbers(chosen, "sampled_logprobs", piece),
        "versions": chosen.columns["versions"][piece].tolist(),
        "turns": chosen.columns["turns"][piece].tolist(),
        "advantages": _numbers(chosen, "advantages", piece) if "advantages" in chosen.columns else None,
        "ratios": _ratios(chosen, piece),
        "notes": [note for note in notes if note],
    }


def _numbers(row: Row, name: str, piece: slice) -> list[float | None]:
    """The numbers of the tokens that train; None elsewhere, and where a number is not known."""
    values, mask = row.columns[name][piece].tolist(), row.mask[piece].tolist()
    return [v if trains and math.isfinite(v) else None for v, trains in zip(values, mask, strict=True)]


def _ratios(row: Row, piece: slice) -> list[float | None]:
    """Of the trainer's probability to the sampler's; None where one of them is not known."""
    both = zip(_numbers(row, "trainer_logprobs", piece), _numbers(row, "sampled_logprobs", piece), strict=True)
    return [None if ours is None or theirs is None else math.exp(ours - theirs) for ours, theirs in both]


def _trained(source: Source, episode: Trajectory) -> str:
    """Why the tokens of an episode did not train; empty if they did, or if nothing says so."""
    if episode.ending.kind == "fault" or episode.labels.superseded:
        return "This attempt was discarded: it did not train."
    if source.kind == "benchmark":
        return "A benchmark trains nothing: the marked tokens are those that were sampled."
    kind = _stage(source, episode.labels.stage).get("kind")
    if episode.labels.mode == "greedy" or kind == "evaluate" or (source.kind == "training" and kind is None):
        return "This episode measures: the marked tokens were sampled, and did not train."
    return ""


def _stage(source: Source, name: str) -> dict[str, Any]:
    """The settings of a stage of a training run; empty where they cannot be read."""
    if source.kind != "training":
        return {}
    try:
        table = tomllib.loads((source.folder / "config.toml").read_text(encoding="utf-8"))["stages"][name]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return table if isinstance(table, dict) else {}


def _with_advantages(index: Index, source: Source, line: int, episode: Trajectory, rows: Sequence[Row]) -> list[Row]:
    """The rows with the advantages of the run's estimator, computed again. Raises: Unknown."""
    credit = _credit(_stage(source, episode.labels.stage))
    if not episode.trains or episode.labels.superseded:
        raise Unknown("the episode did not train")
    groups, number = _step(index, source, line, episode)
    try:
        found = by_environment(credit, groups, None)
        return with_advantages([_numbered(row, number) for row in rows], groups, found, credit)
    except (ValueError, ArithmeticError) as error:
        raise Unknown(str(error)) from None


def _numbered(row: Row, number: int) -> Row:
    return Row(row.ids, row.mask, row.columns, number, row.unit)


def _credit(stage: dict[str, Any]) -> Credit:
    """The estimator of a stage. Raises: Unknown where advantages do not follow from what is recorded."""
    if stage.get("kind") != "reinforce":
        raise Unknown("the episode is of no stage that learns from reward")
    changed = [name for name, plain in _PLAIN.items() if stage.get(name, plain) != plain]
    if stage.get("kl_in") == "reward" and stage.get("kl_coef"):
        changed.append("kl_in")
    if stage.get("truncated") == "leave_out":
        changed.append("truncated")
    if changed:
        raise Unknown(f"the stage changes rewards or groups by {', '.join(changed)}")
    try:
        with names_only():
            credit = from_table(_Estimator, {"credit": stage.get("credit", {"kind": "grpo"})}).credit
    except (AgentRLError, ValueError) as error:
        raise Unknown(str(error)) from None
    if credit.needs_values:
        raise Unknown(f"{CREDITS.name_of(type(credit))} needs predicted values, which are not recorded")
    return credit


def _step(index: Index, source: Source, line: int, episode: Trajectory) -> tuple[list[TrajectoryGroup], int]:
    """The groups of an episode's step, and the number of the episode among their trajectories. Raises: Unknown."""
    lines = index.rows(
        "SELECT line, size FROM episodes WHERE source = ? AND stage = ? AND step = ? AND superseded = 0 "
        "AND line BETWEEN ? AND ? ORDER BY line LIMIT ?",
        (
            source.id,
            episode.labels.stage,
            episode.labels.step,
            line - _MOST_EPISODES,
            line + _MOST_EPISODES,
            _MOST_EPISODES + 1,
        ),
    )
    if len(lines) > _MOST_EPISODES or sum(found["size"] for found in lines) > _MOST_STEP_BYTES:
        raise Unknown("the step has too many episodes to be read for a page")
    groups: dict[str, list[tuple[int, Trajectory]]] = {}
    for found in lines:
        trajectory = episode if found["line"] == line else read_episode(index, source, found["line"])
        if trajectory.ending.kind != "fault":
            groups.setdefault(trajectory.group_id, []).append((found["line"], trajectory))
    flat = [number for group in groups.values() for number, _ in group]
    made = [TrajectoryGroup(name, [trajectory for _, trajectory in group]) for name, group in groups.items()]
    return [without_faults(group) for group in made], flat.index(line)


def _texts(source: Source, ids: Sequence[int]) -> list[str] | None:
    """The text of each token, by the tokenizer in the run's own folder; None where there is none."""
    path = _tokenizer_file(source.folder)
    tokenizer = None if path is None else _tokenizer(path, path.stat().st_mtime_ns)
    if tokenizer is None:
        return None
    return [for_terminal(tokenizer.decode([token], skip_special_tokens=False)) for token in ids]


def _tokenizer_file(folder: Path) -> Path | None:
    found = [folder / "model" / "tokenizer.json", *sorted(folder.glob("checkpoints/step-*/tokenizer.json"))[-1:]]
    return next((path for path in found if path.is_file()), None)


@lru_cache(maxsize=4)
def _tokenizer(path: Path, changed: int) -> Any:
    try:
        from tokenizers import Tokenizer  # of the extra `train`: without it, ids are shown

        return Tokenizer.from_file(str(path))
    except Exception:  # tokenizers raises bare exceptions; a file of another kind shows ids
        return None
