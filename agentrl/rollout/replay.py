"""Replay: executes recorded actions again and names the first step that differs.

Owns the comparison. A transcript is equal when its JSON is equal byte for byte: messages, rewards,
components, state keys, how the episode ended, and the final info. The code that replays may come from nobody but the
one who calls: a record names neither code nor a place to run it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from agentrl.env import registry
from agentrl.env.base import Env, drive
from agentrl.errors import ReplayError
from agentrl.messages import Message
from agentrl.registry import names_only
from agentrl.rollout.episode import MODEL_ENDED
from agentrl.rollout.json_lines import canonical
from agentrl.rollout.plain_json import as_json
from agentrl.rollout.store import TrajectoryStore
from agentrl.sandbox.registry import BACKENDS
from agentrl.trajectory import CAPTURED, EnvRef, Trajectory, Turn

_SHOWN = 300
_SHOWN_TASKS = 3
_ADVICE = "If you trust the record, allow it: --trust-record (in Python: trust_record=True)"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference between a record and its replay.

    Attributes:
        turn: index (from 0) of the action whose result differs; None for the first observation.
        part: what differs: `observation`, `reward`, `reward_components`, `state_key`, `status`, `info`
            or `error` (the environment raised).
        recorded, replayed: the two as JSON.
        tool: whose fault it was, if a tool raised one.
    """

    turn: int | None
    part: str
    recorded: str
    replayed: str
    tool: str = ""

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


class OtherVersion(NamedTuple):
    """An environment whose version here is not the recorded one."""

    env_id: str
    recorded: str
    here: str

    def __str__(self) -> str:
        return f"{self.env_id} was recorded with version {self.recorded!r}, here it is {self.here!r}"


@dataclass(slots=True)
class StoreReplay:
    """What replaying a store found.

    Attributes:
        counts: episodes per outcome.
        differing: reports of those that differ.
        versions: environments of another version than recorded, and the number of episodes of each.
        tasks: ids of tasks that have another content here; the recorded content was replayed.
    """

    counts: Counter[str] = field(default_factory=Counter)
    differing: list[ReplayReport] = field(default_factory=list)
    versions: Counter[OtherVersion] = field(default_factory=Counter)
    tasks: dict[str, None] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether something was replayed, and all of it the same."""
        return not self.differing and self.counts["same"] > 0

    def __str__(self) -> str:
        names = ("same", "differs", "skipped")
        lines = [", ".join(f"{self.counts[name]} {name}" for name in names)]
        lines += [f"{other} ({count} episodes)" for other, count in self.versions.items()]
        if self.tasks:
            shown = ", ".join(list(self.tasks)[:_SHOWN_TASKS])
            lines.append(f"{len(self.tasks)} tasks have another content here ({shown}); the recorded one was replayed")
        return "\n".join([*lines, *map(str, self.differing)])


def replay(trajectory: Trajectory, env: Env) -> ReplayReport:
    """Execute the recorded actions again, from the same task and seed.

    Args:
        trajectory: as recorded, or as read from a store.
        env: an instance of its environment; is reset.
    Raises: RuntimeError where the environment waits and an event loop is running; use `areplay` there.
    """
    return drive(env.unwrapped, areplay(trajectory, env))  # type: ignore[arg-type]


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
    env.unwrapped._agentrl_recall(trajectory)  # type: ignore[attr-defined]
    try:
        observation, first_info = await env.areset(seed=trajectory.seed, options={"task": trajectory.task})
    except Exception as error:  # author code can raise anything; the record has an episode, so it is a difference
        return _raised(None, error)
    found = _compare(None, "observation", _plain(trajectory.turns[0].observation), _plain(observation))
    if found is not None:
        return found
    last = len(trajectory.turns) - 1
    for index, turn in enumerate(trajectory.turns):
        if turn.action.finish_reason in MODEL_ENDED:
            return None  # the environment was not asked
        try:
            state_key = env.state_key()
            observation, reward, terminated, truncated, info = await env.astep(turn.action)
        except Exception as error:
            # Code that raised again after the model had acted made the episode a failure.
            return None if index == last and trajectory.ending.kind == "error" else _raised(index, error)
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
    """The final info, as it is stored, without what the turns hold already."""
    return {key: value for key, value in as_json(info).items() if key != "reward_components"}


def _compare(turn: int | None, part: str, recorded: Any, replayed: Any) -> Difference | None:
    was, came = canonical(recorded), canonical(replayed)
    if was == came:
        return None
    return Difference(turn, part, was.decode(errors="replace"), came.decode(errors="replace"))


def _raised(turn: int | None, error: Exception) -> Difference:
    return Difference(turn, "error", "none", f"{type(error).__name__}: {error}", getattr(error, "tool", ""))


def replay_store(
    path: str | Path,
    make_env: Callable[[EnvRef], Env] | None = None,
    *,
    env_id: str | None = None,
    trust_record: bool = False,
    stage: str | None = None,
    limit: int | None = None,
    on_report: Callable[[ReplayReport], None] | None = None,
) -> StoreReplay:
    """Replay a whole store; one instance per environment serves all of its episodes.

    Args:
        path: a `trajectories.jsonl`.
        make_env: makes an environment from its recorded reference, under no rule but its own. By default only what is
            registered is made, and no recorded argument may name code.
        env_id: replay on this environment, with the recorded arguments and limits.
        trust_record: the record may name code to import and a place to run it. For records of your own.
        stage: only trajectories of this stage.
        limit: stop after this many.
        on_report: called after each, for progress.
    Returns: counts, and a report for each trajectory that differs.
    Raises: StoreError, EnvNotFound; ReplayError if the record names code that is not registered.
    """
    player = _Player(make_env, env_id, trust_record)
    result = StoreReplay()
    try:
        for trajectory in _first(TrajectoryStore(path).read(stage=stage), limit):
            report = player.play(trajectory, result)
            result.counts[report.outcome] += 1
            if report.outcome == "differs":
                result.differing.append(report)
            if on_report is not None:
                on_report(report)
    finally:
        player.close()
    return result


class _Player:
    """Replays episodes, each on the instance of its environment, and notes what is not as it was recorded."""

    def __init__(self, make_env: Callable[[EnvRef], Env] | None, env_id: str | None, trust_record: bool) -> None:
        self._make_env, self._env_id = make_env, env_id
        self._trusts = trust_record or make_env is not None
        self._envs: dict[str, Env] = {}

    def play(self, trajectory: Trajectory, result: StoreReplay) -> ReplayReport:
        ref = trajectory.env if self._env_id is None else replace(trajectory.env, id=self._env_id)
        with naming_rule(ref, given=self._env_id is not None, trusts=self._trusts):
            if ref.key not in self._envs:
                self._envs[ref.key] = (self._make_env or registry.make)(ref)
            env = self._envs[ref.key]
            _note_what_changed(trajectory, env, result)
            report = replay(trajectory, env)
            fault = report.difference is not None and report.difference.tool
            return self._reading(trajectory, ref, report) if fault else report

    def _reading(self, trajectory: Trajectory, ref: EnvRef, report: ReplayReport) -> ReplayReport:
        """Replay with faults as errors that the model read (see docs/faults.md), on instances of their own."""
        tools: set[str] = set()
        again = report
        while again.difference is not None and again.difference.tool and again.difference.tool not in tools:
            tools.add(again.difference.tool)
            env = (self._make_env or registry.make)(ref)
            env.unwrapped.make_readable(tools)  # type: ignore[attr-defined]
            try:
                again = replay(trajectory, env)
            finally:
                env.close()
        return again if again.outcome == "same" else report

    def close(self) -> None:
        for env in self._envs.values():
            env.close()


def naming_rule(ref: EnvRef, *, given: bool, trusts: bool) -> AbstractContextManager[None]:
    """Under what rule an environment that a record names may be made and played: it brings no code of its own.

    Args:
        ref: with the recorded arguments.
        given: the caller, not the record, named the environment.
        trusts: the caller trusts the record: there is no rule.
    Raises: ReplayError if the record names code that is not registered.
    """
    if trusts:
        return nullcontext()
    if not given:
        check_registered(ref)
    found = registry.spec(ref.id)
    check_arguments(ref, found)
    return names_only({ref.id, *_texts(found.kwargs)}, advice=_ADVICE)


def _note_what_changed(trajectory: Trajectory, env: Env, result: StoreReplay) -> None:
    ref, task = env.unwrapped.ref, trajectory.task  # type: ignore[attr-defined]
    recorded = trajectory.env.version
    if ref is not None and recorded and ref.version and ref.version != recorded:
        result.versions[OtherVersion(trajectory.env.id, recorded, ref.version)] += 1
    try:
        known = env.unwrapped.tasks[task.id].data  # type: ignore[attr-defined]
    except Exception:  # no such task, or the author's own kind of tasks: there is nothing to compare with
        return
    if canonical(known) != canonical(task.data):
        result.tasks.setdefault(task.id)


def check_registered(ref: EnvRef) -> None:
    """Refuse a reference, which may come from anybody's record, to an environment that is not registered here.

    Raises: ReplayError if it names a file or a module.
    """
    if ref.id.startswith(CAPTURED):
        raise ReplayError(
            f"the record names {ref.id!r}: an agent's own program played these episodes, and it cannot be executed "
            "again from its turns; `agentrl capture` plays it anew"
        )
    if ref.id not in registry.env_ids():
        raise ReplayError(
            f"the record names {ref.id!r}, which is not registered here. If you trust that code, name it yourself: "
            f"--env {ref.id} (in Python: env_id={ref.id!r})"
        )


def check_arguments(ref: EnvRef, found: registry.EnvSpec) -> None:
    """Refuse recorded arguments that choose code to import, or where a sandbox runs the model's code.

    Args: found: the registration of the environment.
    Raises: ReplayError.
    """
    file = next((text for text in _texts(ref.kwargs) if text.endswith(".py") or ".py:" in text), None)
    if file is not None:
        raise ReplayError(f"an argument of {ref.id} in the record names the code {file!r}. {_ADVICE}")
    if not hasattr(found.env_class, "sandbox_limits"):  # no `SandboxEnv`
        return
    backend, options = ref.kwargs.get("backend", "auto"), ref.kwargs.get("backend_options")
    isolates = backend == "auto" or (backend in BACKENDS.names and getattr(BACKENDS.find(backend), "isolates", False))
    if not isolates or options:
        asked = f"backend {backend!r}" + (f" with options {sorted(options)}" if options else "")
        raise ReplayError(
            f"the record of {ref.id} asks for the sandbox {asked}: the recorded actions of a model would run there. "
            f"{_ADVICE}"
        )


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (*_texts(key), *_texts(item))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _first(trajectories: Iterator[Trajectory], limit: int | None) -> Iterator[Trajectory]:
    for number, trajectory in enumerate(trajectories):
        if limit is not None and number >= limit:
            return
        yield trajectory
