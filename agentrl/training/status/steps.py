"""What the lines of metrics.jsonl say about how a run is getting on. Pure functions of the lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.bench.measures.endings import CAUSES

_NEWEST = 10
Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Pace:
    """How fast the newest steps of a stage were, evaluations and checkpoints between them included.

    Attributes:
        steps: how many they were.
        step_s: seconds of one.
        tokens_per_s, episodes_per_s: sampled; None where the stage samples nothing.
    """

    steps: int
    step_s: float
    tokens_per_s: float | None
    episodes_per_s: float | None


@dataclass(frozen=True)
class Success:
    """A success rate. Attributes: low, high: its 95% interval, where there is one; stage, step: where it is from."""

    mean: float
    low: float | None
    high: float | None
    stage: str
    step: int


@dataclass(frozen=True)
class Played:
    """The episodes that lines report.

    Attributes:
        episodes: how many ended, those of evaluations included.
        faults: discarded ones by cause; causes without any are left out.
        lag_max, lag_mean: how many updates old the tokens of the newest step were; None where that is not known.
        training: success of the newest step that played episodes.
        held_out: success of the newest evaluation.
    """

    episodes: int
    faults: Mapping[str, int]
    lag_max: float | None
    lag_mean: float | None
    training: Success | None
    held_out: Success | None


def pace(lines: Lines, stage: str) -> Pace | None:
    """The pace of a stage; None before its second line, or where its lines are not in order."""
    own = [line for line in lines if line["stage"] == stage][-_NEWEST - 1 :]
    if len(own) < 2:
        return None
    seconds = own[-1]["time_s"] - own[0]["time_s"]
    steps = own[-1]["step"] - own[0]["step"]
    if seconds <= 0 or steps <= 0:
        return None
    tokens, episodes = (_sum(own[1:], name) for name in ("rollout/tokens", "rollout/episodes"))
    return Pace(
        steps=steps,
        step_s=seconds / steps,
        tokens_per_s=None if tokens is None else tokens / seconds,
        episodes_per_s=None if episodes is None else episodes / seconds,
    )


def played(lines: Lines) -> Played:
    """What all lines say about episodes."""
    faults: Counter[str] = Counter()
    for line in lines:
        for cause in (*CAUSES, "unknown"):
            for kind in ("rollout", "eval"):
                faults[cause] += int(line.get(f"{kind}/discarded_{cause}") or 0)
    lag = _newest(lines, "rollout/lag_max") or {}
    ended = (_sum(lines, "rollout/episodes") or 0) + (_sum(lines, "eval/attempted") or 0)
    return Played(
        episodes=int(ended),
        faults={cause: number for cause, number in faults.most_common() if number},
        lag_max=lag.get("rollout/lag_max"),
        lag_mean=lag.get("rollout/lag_mean"),
        training=_success(lines, "rollout/success", None),
        held_out=_success(lines, "eval/success", "eval/ci95"),
    )


def _success(lines: Lines, name: str, interval: str | None) -> Success | None:
    line = _newest(lines, name)
    if line is None:
        return None
    return Success(line[name], line.get(f"{interval}_low"), line.get(f"{interval}_high"), line["stage"], line["step"])


def _newest(lines: Lines, name: str) -> Mapping[str, Any] | None:
    return next((line for line in reversed(lines) if line.get(name) is not None), None)


def _sum(lines: Lines, name: str) -> float | None:
    found = [line[name] for line in lines if line.get(name) is not None]
    return sum(found) if found else None
