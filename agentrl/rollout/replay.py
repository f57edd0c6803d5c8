"""Replay: executes recorded actions again and names the first step that differs.

Owns the comparison. A transcript is equal when its JSON is equal byte for byte: messages, rewards,
components, state keys, how the episode ended, and the final info.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agentrl.env.base import Env
from agentrl.env.registry import env_ids, make
from agentrl.errors import ReplayError
from agentrl.messages import Message
from agentrl.rollout.json_lines import canonical
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import EnvRef, Trajectory, Turn

_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference between a record and its replay.

    Attributes:
        turn: index (from 0) of the action whose result differs; None for the first observation.
        part: what differs: `observation`, `reward`, `reward_components`, `state_key`, `status`, `info`
            or `error` (the environment raised).
        recorded, replayed: the two as JSON.
    """

    turn: int | None
    part: str
    recorded: str
    replayed: str

    def __str__(self) -> str:
        where = "reset" if self.turn is None else f"turn {self.turn}"
        start = max(0, _common_prefix(self.recorded, self.replayed) - _SHOWN // 2)
        recorded, replayed = self.recorded[start : start + _SHOWN], self.replayed[start : start + _SHOWN]
        return f"{where}: {self.part} differs\n  recorded: {recorded}\n  replayed: {replayed}"


def _common_prefix(one: str, other: str) -> int:
    """Length of the common prefix of two texts."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What one replay found. A discarded episode is `skipped`."""

    episode_id: str
    env_id: str
    outcome: Literal["same", "differs", "skipped"]
    difference: Difference | None = None

    def __str__(self) -> str:
        return f"{self.episode_id} of {self.env_id}: {self.difference or self.outcome}"


@dataclass(slots=True)
class StoreReplay:
    """What replaying a store found: counts per outcome, and the reports of those that differ."""

    counts: Counter[str] = field(default_factory=Counter)
    differing: list[ReplayReport] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether something was replayed, and all of it the same."""
        return not self.differing and self.counts["same"] > 0

    def __str__(self) -> str:
        names = ("same", "differs", "skipped")
        lines = [", ".join(f"{self.counts[name]} {name}" for name in names), *map(str, self.differing)]
        return "\n".join(lines)


def replay(trajectory: Trajectory, env: Env) -> ReplayReport:
    """Execute the recorded actions again, from the same task and seed.

    Args:
        trajectory: as recorded, or as read from a store.
        env: an instance of its environment; is reset.
    Raises: RuntimeError where the environment waits and an event loop is running; use `areplay` there.
    """
    return env.unwrapped._drive(areplay(trajectory, env))  # type: ignore[attr-defined,no-any-return]


async def areplay(trajectory: Trajectory, env: Env) -> ReplayReport:
    """`replay`, inside an event loop."""
    if trajectory.status == "fault":
        return ReplayReport(trajectory.episode_id, trajectory.env.id, "skipped")
    difference = await _first_difference(trajectory, env)
    outcome: Literal["same", "differs"] = "same" if difference is None else "differs"
    return ReplayReport(trajectory.episode_id, trajectory.env.id, outcome, difference)


async def _first_difference(trajectory: Trajectory, env: Env) -> Difference | None:
    if not trajectory.turns:
        raise ReplayError(f"episode {trajectory.episode_id!r} has no turns and is no fault: there is nothing to replay")
    try:
        observation, first_info = await env.areset(seed=trajectory.seed, options={"task": trajectory.task})
    except Exception as error:
        return _raised(None, error)
    found = _compare(None, "observation", _plain(trajectory.turns[0].observation), _plain(observation))
    if found is not None:
        return found
    last = len(trajectory.turns) - 1
    for index, turn in enumerate(trajectory.turns):
        try:
            state_key = env.state_key()
            observation, reward, terminated, truncated, info = await env.astep(turn.action)
        except Exception as error:
            return _raised(index, error)
        status = "terminated" if terminated else "truncated" if truncated else "running"
        recorded = {**_recorded(turn), "status": trajectory.status if index == last else "running"}
        replayed = {
            "state_key": state_key,
            "observation": _plain(observation),
            "reward": float(reward),
            "reward_components": dict(info.get("reward_components") or {}),
            "status": status,
        }
        if status != "running" and index == last:
            recorded["info"] = _environment_info(trajectory.info)
            replayed["info"] = _environment_info({**first_info, **info})
        for part, value in recorded.items():
            found = _compare(index, part, value, replayed.get(part))
            if found is not None:
                return found
    return None


def _recorded(turn: Turn) -> dict[str, Any]:
    return {
        "state_key": turn.state_key,
        "observation": _plain(turn.next_observation),
        "reward": turn.reward,
        "reward_components": dict(turn.reward_components),
    }


def _plain(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    return [message.to_openai() for message in messages]


def _environment_info(info: Any) -> dict[str, Any]:
    """The final info without what the turns hold already."""
    return {key: value for key, value in info.items() if key != "reward_components"}


def _compare(turn: int | None, part: str, recorded: Any, replayed: Any) -> Difference | None:
    was, came = canonical(recorded), canonical(replayed)
    if was == came:
        return None
    return Difference(turn, part, was.decode(errors="replace"), came.decode(errors="replace"))


def _raised(turn: int | None, error: Exception) -> Difference:
    return Difference(turn, "error", "none", f"{type(error).__name__}: {error}")


def replay_store(
    path: str | Path,
    make_env: Callable[[EnvRef], Env] | None = None,
    *,
    stage: str | None = None,
    limit: int | None = None,
    on_report: Callable[[ReplayReport], None] | None = None,
) -> StoreReplay:
    """Replay a whole store; one instance per environment serves all of its episodes.

    Args:
        path: a `trajectories.jsonl`.
        make_env: makes an environment from its recorded reference; by default only what is registered is made, so
            that a record cannot name code to import.
        stage: only trajectories of this stage.
        limit: stop after this many.
        on_report: called after each, for progress.
    Returns: counts, and a report for each trajectory that differs.
    Raises: StoreError, EnvNotFound; ReplayError if the record names code that is not registered.
    """
    result = StoreReplay()
    envs: dict[str, Env] = {}
    try:
        for trajectory in _first(TrajectoryStore(path).read(stage=stage), limit):
            key = trajectory.env.key
            if key not in envs:
                envs[key] = (make_env or make_registered)(trajectory.env)
            report = replay(trajectory, envs[key])
            result.counts[report.outcome] += 1
            if report.outcome == "differs":
                result.differing.append(report)
            if on_report is not None:
                on_report(report)
    finally:
        for env in envs.values():
            env.close()
    return result


def make_registered(ref: EnvRef) -> Env:
    """Make an environment that is registered here; `ref` may come from anybody's record.

    Raises: ReplayError if it names a file or a module.
    """
    if ref.id not in env_ids():
        raise ReplayError(
            f"the record names {ref.id!r}, which is not registered here. If you trust that code, name it yourself: "
            f"--env {ref.id} (in Python: make_env=agentrl.make)"
        )
    return make(ref)


def _first(trajectories: Iterator[Trajectory], limit: int | None) -> Iterator[Trajectory]:
    for number, trajectory in enumerate(trajectories):
        if limit is not None and number >= limit:
            return
        yield trajectory
