"""A recorded benchmark, or one evaluation of a training run, scored again into a new folder.

Owns which episodes are scored, and the new folder. The old one is only read. `agentrl.bench.rescoring.rubrics` owns
what scores, `agentrl.bench.rescoring.replayed` how actions are taken again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agentrl.bench.folder import SUMMARY, TRAJECTORIES
from agentrl.bench.measures.base import Measure
from agentrl.bench.measures.by_name import measures_of
from agentrl.bench.provenance import Provenance
from agentrl.bench.records import utc_now, versions_of
from agentrl.bench.rescoring.recorded import Recorded, read_recorded
from agentrl.bench.rescoring.replayed import Replayed
from agentrl.bench.rescoring.rubrics import Scorer
from agentrl.bench.result import BenchResult, score_of
from agentrl.env import registry
from agentrl.env.rubric import Rubric
from agentrl.errors import ConfigError
from agentrl.rollout.lock import FolderLock, is_empty
from agentrl.rollout.store import TrajectoryStore, write_summary
from agentrl.trajectory import EnvRef, Trajectory

MAIN = "bench"


@dataclass(frozen=True)
class Rescored:
    """Recorded episodes with new scores.

    Attributes:
        result: of the new scores; a benchmark's result like any other.
        changed: ids of the tasks on which the reward or the success of one of the policy's trials is another one.
        lost: episodes that were scored before and cannot be scored now, references included.
        other_tasks: ids of the tasks that have other content in the environment here.
    """

    result: BenchResult
    changed: tuple[str, ...]
    lost: int
    other_tasks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The result's form, with `changed`, `lost` and `other_tasks`."""
        return {**self.result.to_json(), **self.changes()}

    def changes(self) -> dict[str, Any]:
        """`changed`, `lost` and `other_tasks`, as JSON can hold them."""
        return {"changed": list(self.changed), "lost": self.lost, "other_tasks": list(self.other_tasks)}


async def arescore(
    run: str | Path,
    out: str | Path | None = None,
    *,
    rubric: str | Rubric | Callable[..., Any] | None = None,
    env: str | EnvRef | None = None,
    own_tasks: bool = False,
    trust_record: bool = False,
    stage: str | None = None,
    mode: str | None = None,
    measures: Sequence[str | Measure] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Rescored:
    """Score the episodes of a benchmark or a training run again, without a model.

    Without a rubric the recorded actions are taken again in the environment, as its code is now. An episode in which
    they are answered differently before their end is discarded: the model would have acted otherwise.

    Args:
        run: a folder of `agentrl bench` or `agentrl train`. It is only read.
        out: the new folder, which must not exist or be empty; by default RUN-rescored next to it.
        rubric: a function of the `Trajectory` that returns a number, named components, or (score, success); with a
            second parameter it is also given the environment after the last action. Or a `Rubric`: new weights of the
            recorded components. Or a reference to one, `module:name` or `./file.py:name`. Or `recorded`.
        env: take the actions in this environment instead of the recorded one.
        own_tasks: take the content of tasks from the environment, where it has them.
        trust_record: the record may name code to import and a place to run it. For records of your own.
        stage, mode: of a training run; by default the last evaluation, sampled if it was.
        measures: further measures of the result.
        on_progress: called with the episodes done and all of them.
    Raises: ConfigError if there is nothing to score or `out` holds something; ReplayError if the record names code.
    """
    source = read_recorded(Path(run), stage, mode)
    place = Path(out) if out is not None else next_to(run)
    if not is_empty(place):
        raise ConfigError(f"{place} is not empty: choose another folder (--out), so that nothing is lost")
    scorer = Scorer.of(rubric)
    needs_env = scorer.needs_env or env is not None
    ref = registry.reference(env) if env is not None else None
    replayed = Replayed(ref, trust_record, own_tasks) if needs_env else None
    started = time.monotonic()
    began = utc_now()
    scored = await _scored(source, scorer, replayed, on_progress)
    scored_by = {
        **scorer.to_json(),
        "env": asdict(ref or source.env) if needs_env else None,
        "own_tasks": own_tasks,
        "of": str(run),
    }
    result = _result(source, scored, measures, scored_by)
    result = replace(result, out=str(place), wall_s=time.monotonic() - started, started_at=began, ended_at=utc_now())
    _write(place, source, scored, result)
    pairs = list(zip(source.episodes, scored, strict=True))
    changed = dict.fromkeys(
        old.task.id for old, new in pairs if old.labels.stage == MAIN and _verdict(old) != _verdict(new)
    )
    lost = sum(new.status == "fault" != old.status for old, new in pairs)
    return Rescored(result, tuple(changed), lost, tuple(replayed.other_tasks) if replayed is not None else ())


def next_to(run: str | Path) -> Path:
    """Where new scores are written if nothing is said: RUN-rescored, beside RUN."""
    place = Path(run).resolve()
    return place.with_name(f"{place.name}-rescored")


def rescore(run: str | Path, out: str | Path | None = None, **options: Any) -> Rescored:
    """`arescore` for code without an event loop; the same arguments."""
    return asyncio.run(arescore(run, out, **options))


async def _scored(
    source: Recorded, scorer: Scorer, replayed: Replayed | None, on_progress: Callable[[int, int], None] | None
) -> list[Trajectory]:
    found = []
    async with aclosing(replayed or Replayed()) as player:
        for number, episode in enumerate(source.episodes, 1):
            if episode.ending.kind == "fault":
                found.append(episode)
            elif replayed is not None:
                found.append(await player.score(episode, scorer))
            else:
                found.append(episode if episode.ending.kind == "error" else await scorer.score(episode, None))
            if on_progress is not None:
                on_progress(number, len(source.episodes))
    return found


def _result(
    source: Recorded, scored: Sequence[Trajectory], measures: Sequence[str | Measure], scored_by: Mapping[str, Any]
) -> BenchResult:
    phases: dict[str, list[Trajectory]] = {}
    for episode in scored:
        phases.setdefault(episode.labels.stage, []).append(episode)
    further = measures_of(measures)
    scores = {
        phase: score_of(
            of, trials=source.config.trials if phase == MAIN else 1, n_planned=source.planned(phase), measures=further
        )
        for phase, of in phases.items()
    }
    return BenchResult(
        env=source.env,
        policy=source.policy,
        config=source.config,
        status=source.status,
        score=scores.pop(MAIN),
        references=scores,
        wall_s=0.0,
        out=None,
        trajectories=phases[MAIN],
        sampling=source.sampling,
        versions=versions_of(source.env),
        scored_by=scored_by,
        provenance=Provenance.here(),
    )


def _write(place: Path, source: Recorded, scored: Sequence[Trajectory], result: BenchResult) -> None:
    fingerprints = {episode.task.id: episode.task.fingerprint for episode in scored}
    identity = {**source.identity, "tasks": {"fingerprints": fingerprints}, "scored_by": result.scored_by}
    with FolderLock(place):
        if not is_empty(place):
            raise ConfigError(f"{place} is not empty: choose another folder (--out), so that nothing is lost")
        with TrajectoryStore(place / TRAJECTORIES) as store:
            for episode in scored:
                store.append(episode)
        write_summary(place / SUMMARY, {"identity": identity, **result.to_json()})


def _verdict(episode: Trajectory) -> tuple[str, float, bool]:
    return episode.ending.kind, episode.reward, episode.success
