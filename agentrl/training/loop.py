"""The training program: model, warm start, RL from environment reward, evaluation, checkpoints.

Owns the order of phases and what a resumed run must remember. The update is `training.learner`, the
episodes are `rollout`, the statistics are `bench`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from agentrl.bench.evaluate import EvalResult, aevaluate
from agentrl.bench.views.run_report import write_report
from agentrl.env.base import Env
from agentrl.env.registry import make
from agentrl.errors import CheckpointError, StoreError
from agentrl.learning.columns import with_sampled_as_old
from agentrl.learning.credit.base import CREDITS, Credit, differs, without_faults
from agentrl.learning.episode_columns import with_advantages
from agentrl.learning.learner import Learner
from agentrl.learning.objectives.supervised import Supervised
from agentrl.learning.rows import build_rows, rows_of_trajectory, with_coefficients
from agentrl.policy import model_folder
from agentrl.policy.base import SamplingParams
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.runner import GroupRequest, Rollouts
from agentrl.rollout.sources.tasks import TaskOrder
from agentrl.rollout.store import TrajectoryStore
from agentrl.seeds import Purpose, integer, sequence
from agentrl.training import checkpoint, model_setup, preflight, warm_start
from agentrl.training.config import EnvConfig, TrainConfig
from agentrl.training.groups import eval_metrics, rollout_metrics
from agentrl.training.learners import rl_learner, rl_objective, warm_start_learner, warm_start_steps
from agentrl.training.run_folder import RunFolder
from agentrl.trajectory import Mode, Trajectory, TrajectoryGroup

logger = logging.getLogger(__name__)
Phase = Literal["warm_start", "rl", "finished"]


@dataclass(frozen=True)
class Progress:
    """What a progress display is told: where the run is, and the newest metrics."""

    phase: str
    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]


@dataclass
class RunState:
    """Where a run is; saved with every checkpoint.

    Attributes:
        cursor: position in the order of training tasks.
        version: number of RL updates so far.
        updates: number of updates of any kind; names the checkpoint.
        wall_s, cpu_s: seconds spent before this process began.
        before, after: the tables of the summary.
    """

    phase: Phase = "warm_start"
    step: int = 0
    cursor: int = 0
    version: int = 0
    updates: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


def train(config: TrainConfig, out_dir: str | Path, *, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Train an agent and write a run folder.

    Args:
        config: what to train, on what, for how long.
        out_dir: the run's folder; it must not hold a run yet.
        on_progress: called after each step and evaluation.
    Returns: the summary, as in summary.json.
    Raises: ConfigError, ModelError, RolloutError: the run cannot begin, and leaves no folder; StoreError,
        CheckpointError: the disk is full or fails, and the run can be resumed.
    """
    probe = make_env(config.env)
    preflight.check(config, probe)
    probe.close()
    folder = RunFolder.create(out_dir, config)
    try:
        return _run(folder, config, on_progress)
    except (StoreError, CheckpointError):
        raise
    except Exception:
        folder.abandon()
        raise


def resume(out_dir: str | Path, *, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Go on with an interrupted run from its newest valid checkpoint, exactly as it would have gone on."""
    folder, config = RunFolder.open(out_dir)
    return _run(folder, config, on_progress)


def make_env(settings: EnvConfig) -> Env:
    """One instance of a run's environment."""
    limit = {} if settings.max_turns is None else {"max_turns": settings.max_turns}
    return make(settings.id, **settings.kwargs, **limit)


def _run(folder: RunFolder, config: TrainConfig, on_progress: OnProgress | None) -> dict[str, Any]:
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    with asyncio.Runner() as runner:
        try:
            return runner.run(Trainer(folder, config, on_progress or (lambda progress: None)).run())
        finally:
            folder.close()


class Trainer:
    """One run in progress: `run` goes from wherever the folder stands to the summary."""

    def __init__(self, folder: RunFolder, config: TrainConfig, on_progress: OnProgress) -> None:
        self.folder, self.config, self.on_progress = folder, config, on_progress
        self.state = RunState()
        self.store = TrajectoryStore(folder.trajectories_path)
        self._began_wall_s, self._began_cpu_s = time.perf_counter(), time.process_time()
        probe = self._make_env()
        self.eval_tasks = probe.tasks.split(config.env.eval_split)
        self.train_tasks = probe.tasks.split(config.env.train_split)
        self.order = TaskOrder(self.train_tasks, config.seed)
        self.max_turns = probe.limits.max_turns or 1
        probe.close()

    async def run(self) -> dict[str, Any]:
        """Every phase that is still to do. Returns: the summary."""
        found = checkpoint.latest(self.folder.checkpoints_path)
        saved = None if found is None else checkpoint.read(found, config_fingerprint=self._fingerprint())
        if saved is not None:
            self.state = RunState(**saved.extra["state"])
        self.folder.rewind({} if saved is None else saved.extra["offsets"])
        demos = await self._demonstrations() if self.state.phase == "warm_start" else []
        self.model, self.tokenizer = model_setup.prepare(self.config, found or self.config.model.path, demos)
        self.policy = self._new_policy()
        self.learner = self._new_learner(len(demos))
        if saved is not None:
            saved.restore(self.learner)
        async with self.policy:
            if self.state.phase == "warm_start":
                await self._warm_start(demos)
            if self.state.phase == "rl":
                await self._reinforce()
        return self._finish()

    # Warm start.

    async def _demonstrations(self) -> list[Trajectory]:
        settings = self.config.warm_start
        if not settings.demonstrators:
            return []
        self._tell("demonstrations", 0, settings.num_episodes)
        return await warm_start.collect_demonstrations(
            self._make_env,
            self.config.env.id,
            self.train_tasks,
            settings.demonstrators,
            num_episodes=settings.num_episodes,
            seed=sequence(self.config.seed, Purpose.DEMONSTRATIONS),
        )

    async def _warm_start(self, demos: Sequence[Trajectory]) -> None:
        settings = self.config.warm_start
        rows = [row for t in demos for row in rows_of_trajectory(warm_start.with_tokens(t, self.policy.format))]
        order = warm_start.epoch_order(
            sequence(self.config.seed, Purpose.WARM_START_ORDER), len(rows), settings.epochs if rows else 0
        )
        total = max(1, len(order) // settings.batch_episodes) if rows else 0
        for step in range(self.state.step, total):
            batch = order[step * settings.batch_episodes : (step + 1) * settings.batch_episodes]
            metrics = await self.learner.update(with_coefficients([rows[i] for i in batch], "token"), Supervised())
            self.state.step, self.state.updates = step + 1, self.state.updates + 1
            self._log("warm_start", self.state.step, total, metrics)
            if self.state.step % settings.checkpoint_every == 0:
                self._save()
            await asyncio.sleep(0)  # where Ctrl-C, which cancels this task, can reach it
        self.state.phase, self.state.step = "rl", 0
        self.learner = self._new_learner(len(rows))
        self.policy.weights_changed()
        self._save()

    # Reinforcement.

    async def _reinforce(self) -> None:
        settings, state = self.config.train, self.state
        if state.before is None:
            state.before = await self._table("eval_before")
            self._save()
        async with Rollouts(
            self._make_env,
            self.policy,
            env_id=self.config.env.id,
            max_concurrency=settings.max_concurrency,
        ) as rollouts:
            while state.step < settings.steps:
                await self._step(rollouts)
                if self.config.eval.every and state.step % self.config.eval.every == 0 and state.step < settings.steps:
                    await self._evaluate_in_between()
                if state.step % self.config.run.checkpoint_every == 0 or state.step == settings.steps:
                    self._save()
        state.after = await self._table("eval_after")
        state.phase = "finished"
        self._save()

    async def _step(self, rollouts: Rollouts) -> None:
        settings, state = self.config.train, self.state
        started = time.perf_counter()
        groups, sampled = await self._sample(rollouts)
        sampled_s = time.perf_counter()
        metrics = await self._learn(groups)
        state.version, state.updates = state.version + 1, state.updates + 1
        self.policy.weights_changed()
        learned_s = time.perf_counter()
        state.step += 1
        self._record(sampled, "train")
        metrics = {
            **rollout_metrics(sampled),
            **metrics,
            "rollout/groups_trained": float(len(groups)),
            "time/sample_s": sampled_s - started,
            "time/learn_s": learned_s - sampled_s,
            "time/record_s": time.perf_counter() - learned_s,
        }
        self._log("rl", state.step, settings.steps, metrics)

    async def _learn(self, groups: Sequence[TrajectoryGroup]) -> Mapping[str, float]:
        """One update from the groups; none where no group teaches anything."""
        if not groups:
            logger.warning(
                "step %d: within each group every episode earned the same, so there is nothing to learn from it",
                self.state.step + 1,
            )
            return {}
        settings = self.config.train
        credit: Credit = CREDITS.find(settings.advantage)()
        objective = rl_objective(settings)
        rows = with_coefficients(
            build_rows(groups), settings.aggregation, max_tokens=settings.max_tokens * self.max_turns
        )
        rows = with_advantages(rows, groups, credit(groups, None), credit)
        # Below 1, the sampler's logprobs are of the truncated distribution, and no ratio with the whole one is fair.
        rows = await self.learner.fill(rows, "old_logprobs") if settings.top_p < 1 else with_sampled_as_old(rows)
        if "reference_logprobs" in objective.columns:
            rows = await self.learner.fill(rows, "reference_logprobs")
        return await self.learner.update(rows, objective)

    async def _sample(self, rollouts: Rollouts) -> tuple[list[TrajectoryGroup], list[TrajectoryGroup]]:
        """Groups that train, and all that were sampled (faults are in the second alone)."""
        settings = self.config.train
        wanted = settings.prompts_per_step
        most = wanted * (settings.dynamic_sampling_max if settings.dynamic_sampling else 1)
        kept: list[TrajectoryGroup] = []
        sampled: list[TrajectoryGroup] = []
        while len(kept) < wanted and len(sampled) < most:
            count = min(wanted - len(kept), most - len(sampled)) if sampled else wanted
            new = await rollouts.run(self._requests(count))
            sampled.extend(new)
            healthy = [without_faults(group) for group in new]
            kept.extend(g for g in healthy if g.trajectories and (differs(g) or not settings.skip_zero_advantage))
            if not settings.dynamic_sampling:
                break
        return kept, sampled

    def _requests(self, count: int) -> list[GroupRequest]:
        state, size = self.state, self.config.train.group_size
        tasks = self.order.take(state.cursor, count)
        requests = [
            GroupRequest(task, integer(self.config.seed, Purpose.GROUPS, position), size, f"{position}")
            for position, task in enumerate(tasks, start=state.cursor)
        ]
        state.cursor += count
        return requests

    # Evaluation.

    async def _evaluate(self, phase: str, temperature: float, num_tasks: int, trials: int) -> EvalResult:
        done = 0

        def count(trajectory: Trajectory) -> None:
            nonlocal done
            done += 1
            self._tell(phase, done, len(tasks) * trials)

        tasks = self.eval_tasks[:num_tasks]
        result = await aevaluate(
            self.policy,
            self._make_env,
            tasks,
            trials=trials,
            sampling=self._sampling(temperature),
            seed=integer(self.config.seed, Purpose.EVALUATION),
            env_id=self.config.env.id,
            max_concurrency=self.config.train.max_concurrency,
            on_trajectory=count,
        )
        mode: Mode = "greedy" if temperature == 0 else "sampled"
        self._store(result.trajectories, phase, mode)
        return result

    async def _evaluate_in_between(self) -> None:
        result = await self._evaluate("eval", self.config.train.temperature, self.config.eval.num_tasks, 1)
        self._log("eval", self.state.step, self.config.train.steps, eval_metrics(result))

    async def _table(self, phase: str) -> dict[str, Any]:
        """Greedy and sampled success on the held-out tasks, as the summary has it."""
        settings = self.config.eval
        greedy = await self._evaluate(phase, 0.0, settings.final_num_tasks, 1)
        sampled = await self._evaluate(phase, 1.0, settings.final_num_tasks, settings.final_trials)
        metrics = {**eval_metrics(sampled), "eval/greedy_success": greedy.mean}
        metrics["time/eval_s"] += greedy.wall_s
        self._log("eval", self.state.step, self.config.train.steps, metrics)
        return {
            "greedy": {"mean": greedy.mean, "ci95": list(greedy.ci95)},
            "sampled": {"mean": sampled.mean, "ci95": list(sampled.ci95)},
            "n_tasks": sampled.n_tasks,
            "n_faults": greedy.n_faults + sampled.n_faults,
        }

    # Records and checkpoints.

    def _record(self, groups: Sequence[TrajectoryGroup], phase: str) -> None:
        if self.config.run.record_trajectories:
            trajectories = [t for group in groups for t in group.trajectories]
            self._store(trajectories, phase, "sampled")

    def _store(self, trajectories: Sequence[Trajectory], stage: str, mode: Mode) -> None:
        for trajectory in trajectories:
            labels = replace(trajectory.labels, stage=stage, step=self.state.step, mode=mode)
            self.store.append(replace(trajectory, labels=labels))

    def _log(self, phase: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.folder.log(phase, step, self._wall_s(), metrics)
        self._tell(phase, step, total, metrics)

    def _tell(self, phase: str, step: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        self.on_progress(Progress(phase, step, total, metrics or {}))

    def _save(self) -> None:
        saved = replace(self.state, wall_s=self._wall_s(), cpu_s=self._cpu_s())
        extra = {"state": asdict(saved), "offsets": self.folder.offsets()}
        checkpoint.save(
            self.folder.checkpoints_path,
            saved.updates,
            self.model,
            learner=self.learner,
            tokenizer=self.tokenizer,
            extra=extra,
            config_fingerprint=self._fingerprint(),
            keep=self.config.run.keep_checkpoints,
        )

    def _fingerprint(self) -> str:
        """Of all that decides the next step; how many checkpoints are kept, say, may be edited."""
        return checkpoint.fingerprint({k: v for k, v in asdict(self.config).items() if k != "run"})

    def _finish(self) -> dict[str, Any]:
        summary = {
            "env_id": self.config.env.id,
            "seed": self.config.seed,
            "before": self.state.before,
            "after": self.state.after,
            "steps": self.state.step,
            "wall_s": round(self._wall_s(), 1),
            "cpu_s": round(self._cpu_s(), 1),
        }
        self._save_model()
        self.folder.write_summary(summary)
        write_report(self.folder.path)
        return summary

    def _save_model(self) -> None:
        """The trained model as an ordinary folder, for `local:RUN/model`."""
        model_folder.save(self.folder.model_path, self.model, self.tokenizer)

    def _wall_s(self) -> float:
        return self.state.wall_s + time.perf_counter() - self._began_wall_s

    def _cpu_s(self) -> float:
        return self.state.cpu_s + time.process_time() - self._began_cpu_s

    # Making things.

    def _make_env(self) -> Env:
        return make_env(self.config.env)

    def _new_policy(self) -> LocalPolicy:
        return LocalPolicy(
            self.model,
            self.tokenizer,
            chat_format=self.config.model.chat_format,
            sampling=self._sampling(self.config.train.temperature),
            **model_setup.kv_limits(self.config),
            version=self.state.version,
        )

    def _new_learner(self, num_demos: int) -> Learner:
        """The learner of the phase that the run is in."""
        if self.state.phase == "warm_start":
            settings = self.config.warm_start
            total = warm_start_steps(settings, num_demos)
            return Learner(self.model, warm_start_learner(settings, num_demos), Supervised(), total_steps=total)
        return Learner(
            self.model,
            rl_learner(self.config.train),
            rl_objective(self.config.train),
            temperature=self.config.train.temperature,
            total_steps=max(1, self.config.train.steps),
        )

    def _sampling(self, temperature: float) -> SamplingParams:
        settings = self.config.train
        top_p = settings.top_p if temperature > 0 else 1.0
        return SamplingParams(temperature=temperature, top_p=top_p, max_tokens=settings.max_tokens)
