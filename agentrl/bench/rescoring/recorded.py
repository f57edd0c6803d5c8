"""The recorded episodes that are to be scored again, with what their summary says of them. Only reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from agentrl.bench.folder import SUMMARY, TRAJECTORIES, read_summary
from agentrl.bench.result import BenchConfig, Outcome
from agentrl.errors import ConfigError, StoreError
from agentrl.policy.base import SamplingParams
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import EnvRef, Trajectory

MAIN = "bench"
_METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Recorded:
    """Episodes of one policy, and of the references that were played with it.

    Attributes:
        episodes: the final ones; their stage is `bench`, or the name of a reference.
        env, policy, config, status, sampling: of the benchmark.
        identity: that its folder holds.
        num_planned: episodes that were asked for; None where as many are recorded.
        folder, lines: of a benchmark, and the numbers of their lines in its store; None and empty for a training run.
    """

    episodes: tuple[Trajectory, ...]
    env: EnvRef
    policy: str
    config: BenchConfig
    status: Outcome
    sampling: Mapping[str, Any] | None
    identity: Mapping[str, Any]
    num_planned: int | None = None
    folder: Path | None = None
    lines: Collection[int] = ()

    def planned(self, phase: str) -> int:
        """Episodes that were asked for in one phase."""
        own = sum(episode.labels.stage == phase for episode in self.episodes)
        return own if phase != MAIN or self.num_planned is None else self.num_planned

    def of_phase(self, phase: str, lines: Container[int] | None = None) -> Iterator[Trajectory]:
        """The episodes of one phase, whole, read one by one; of those on a line of `lines` alone, if they are given."""
        if self.folder is None:
            yield from (episode for episode in self.episodes if episode.labels.stage == phase)
            return
        store, chosen = TrajectoryStore(self.folder / TRAJECTORIES), self.lines if lines is None else lines
        yield from (episode for _, episode in store.numbered(stage=phase, lines=chosen))


def read_recorded(
    folder: Path,
    stage: str | None = None,
    mode: str | None = None,
    *,
    kept_as: Callable[[Trajectory], Trajectory] | None = None,
) -> Recorded:
    """The episodes of a benchmark's folder, or of one evaluation of a training run: the last one of the stage.

    Args: kept_as: what is kept of each episode of a benchmark, without its identity. None keeps all.
    Raises: ConfigError if there is neither, StoreError for a broken store.
    """
    if (folder / _METRICS).is_file():
        return _of_training(folder, stage, mode)
    if stage is not None or mode is not None:
        raise ConfigError(f"--stage and --mode choose an evaluation of a training run, and {folder} is none")
    summary = read_summary(folder, without=() if kept_as is None else ("tasks", "identity"))
    lines, finals = _finals(folder, kept_as)
    if "tasks" not in summary or MAIN not in {episode.labels.stage for episode in finals.values()}:
        raise ConfigError(f"{folder} holds no benchmark with results: play it with `agentrl bench --out {folder}`")
    try:
        return Recorded(
            tuple(finals.values()),
            EnvRef(**summary["env"]),
            summary["policy"],
            _config(summary["config"]),
            summary["status"],
            summary["sampling"],
            summary["identity"] if kept_as is None else {},
            summary.get("n_planned"),
            folder,
            frozenset(lines.values()),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{folder / SUMMARY} is no benchmark of this version ({type(error).__name__}: {error})"
        ) from None


def _finals(
    folder: Path, kept_as: Callable[[Trajectory], Trajectory] | None
) -> tuple[dict[str, int], dict[str, Trajectory]]:
    """The last episode of each task and trial, and its line; a discarded one never replaces one that counts."""
    lines: dict[str, int] = {}
    finals: dict[str, Trajectory] = {}
    for number, episode in TrajectoryStore(folder / TRAJECTORIES).numbered():
        former = finals.get(episode.group_id)
        if not episode.labels.superseded and (former is None or former.status == "fault" or episode.status != "fault"):
            finals[episode.group_id] = episode if kept_as is None else kept_as(episode)
            lines[episode.group_id] = number
    return lines, finals


def _config(record: Mapping[str, Any]) -> BenchConfig:
    """The configuration as far as it says what was played; prices and budgets are not for a second reading."""
    known = {one.name for one in fields(BenchConfig)} - {"sampling", "price", "budget_usd"}
    sampling = record.get("sampling")
    if sampling is not None:
        sampling = SamplingParams(**{**sampling, "stop": tuple(sampling.get("stop") or ())})
    return BenchConfig(sampling=sampling, **{name: record[name] for name in known if name in record})


def _of_training(folder: Path, stage: str | None, mode: str | None) -> Recorded:
    by_kind: dict[tuple[str, str], list[Trajectory]] = {}
    for episode in TrajectoryStore(folder / TRAJECTORIES):
        if not episode.labels.superseded and episode.fork is None and _trial_of(episode) is not None:
            by_kind.setdefault((episode.labels.stage, episode.labels.mode), []).append(episode)
    fit = [k for k in by_kind if stage in (None, k[0]) and mode in (None, k[1]) and k[1] in ("greedy", "sampled")]
    if not fit:
        there = ", ".join(f"{name} ({how})" for name, how in by_kind) or "none"
        raise ConfigError(f"{folder} has no evaluation of stage {stage!r} and mode {mode!r}; it has: {there}")
    last = fit[-1][0]
    chosen = max((key for key in fit if key[0] == last), key=lambda key: key[1] == "sampled")
    # A stage that is evaluated between steps has one evaluation for each of them.
    newest = max(episode.labels.step for episode in by_kind[chosen])
    episodes = tuple(_as_bench(episode) for episode in by_kind[chosen] if episode.labels.step == newest)
    if len({episode.env.key for episode in episodes}) > 1:
        raise ConfigError(f"{folder} evaluated several environments; only runs over one can be scored again")
    tasks = {episode.task.id: episode.task.fingerprint for episode in episodes}
    trials = len(episodes) // len(tasks)
    return Recorded(
        episodes,
        episodes[0].env,
        f"{folder.name}, {chosen[0]} ({chosen[1]})",
        BenchConfig(episodes[0].task.split, None, trials, _seed_of(folder), references=False),
        "finished",
        None,
        {"env": {"id": episodes[0].env.id}, "tasks": {"fingerprints": tasks}, "policy": str(folder), "stage": chosen},
    )


def _trial_of(episode: Trajectory) -> int | None:
    number = episode.group_id.rpartition("#")[2]
    is_trial = episode.group_id.rpartition("#")[0].endswith(episode.task.id) and number.isdecimal()
    return int(number) if is_trial else None


def _as_bench(episode: Trajectory) -> Trajectory:
    return replace(
        episode,
        group_id=f"{MAIN}/{episode.task.id}#{_trial_of(episode)}",
        labels=replace(episode.labels, stage=MAIN, step=0),
    )


def _seed_of(folder: Path) -> int:
    try:
        return int(json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["seed"])
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(f"{folder / SUMMARY} cannot be read ({type(error).__name__}: {error})") from None
