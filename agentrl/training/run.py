"""A run in progress: it executes its stages in order and saves what a resumed run needs.

Imports no stage, objective or source: `plan` makes the stages. The files of the folder belong to `folder`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agentrl.bench.environments import by_environment, pooled, requests_of_each, success_metrics
from agentrl.bench.evaluate import EvalResult
from agentrl.bench.views.run_report import write_report
from agentrl.bench.views.run_tally import EVALUATION
from agentrl.distributed.learners.calls import Begin
from agentrl.learning.apart import ApartLearner
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import Objective
from agentrl.learning.rows import Row, build_rows
from agentrl.policy import model_folder
from agentrl.policy.base import SamplingParams
from agentrl.policy.format.demonstrations import with_tokens
from agentrl.rollout.plain_json import plain
from agentrl.rollout.sources.tasks import Player
from agentrl.rollout.store import TrajectoryStore
from agentrl.seeds import Purpose, integer
from agentrl.training import checkpoint, model_setup
from agentrl.training.clock import Clock
from agentrl.training.files.kept_weights import KeptWeights
from agentrl.training.files.run_state import RunState
from agentrl.training.files.summary import summary_of
from agentrl.training.folder import RunFolder
from agentrl.training.progress import OnProgress, Progress
from agentrl.training.scale.learners import Learners
from agentrl.training.scale.players import Players, sampler
from agentrl.training.selection import FEWEST, Checked, Selection, recorded, split_held_out
from agentrl.training.settings import RunSettings
from agentrl.training.stages.base import Stage, Step
from agentrl.training.stages.environments import PlayedEnv, environments_of, trained
from agentrl.training.stages.health import speeds
from agentrl.training.status.beat import Now
from agentrl.trajectory import Labels, Mode, Task, Trajectory, TrajectoryGroup


class Run:
    """One run: `finish` executes all that is not done yet. It is the `Context` of its stages.

    Args:
        folder: of the run.
        config: of the run.
        stages: in order.
        fingerprint: of all settings that change the next step.
        on_progress: called after each step, and after each episode of an evaluation.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: RunSettings,
        stages: Sequence[Stage],
        fingerprint: str,
        on_progress: OnProgress,
    ) -> None:
        self.folder, self.config, self.stages, self.on_progress = folder, config, stages, on_progress
        self._fingerprint, self._identity = fingerprint, folder.identity()
        self.state, self.clock = RunState(), Clock()
        self.store = TrajectoryStore(folder.trajectories_path)
        self.seed = config.seed
        signals = any(stage.reads_signals for stage in stages)
        self.sampling = config.sampling.params(signals=signals)
        self.environments: Mapping[str, PlayedEnv] = environments_of(config)
        self.env = trained(self.environments)[0].ref
        self._split_held_out()
        self._kept = KeptWeights(folder.path)
        self.max_turns = max(env.max_turns for env in trained(self.environments))
        self._saved: checkpoint.Checkpoint | None = None
        self.rollouts: Player
        self._learners = Learners(config.scale, self._publish)
        self._learner: Learner | None = None
        self._weights_before = 0
        self._saved_at_s = time.monotonic()

    def _split_held_out(self) -> None:
        """Held-out tasks of each environment to report, and of those that it learns from also some to choose with."""
        taught = trained(self.environments)
        most = max((stage.reports for stage in self.stages), default=0)
        wanted = self.config.run.evaluate_tasks
        share = wanted if len(taught) == 1 else max(FEWEST, wanted // len(taught))
        split = {env.name: split_held_out(env.held_out, most, share) for env in taught}
        unused = {name: env.held_out for name, env in self.environments.items()}
        self._reported = {**unused, **{name: reported for name, (reported, _) in split.items()}}
        self._between = {name: chosen for name, (_, chosen) in split.items() if chosen}
        self._chooses = self.config.run.keep_best and self.config.run.evaluate_every > 0 and len(self._between) > 0
        self._between = self._between or {env.name: self._reported[env.name][:share] for env in taught}

    async def finish(self) -> dict[str, Any]:
        """Execute every stage that is not finished yet.

        Returns: the summary, as in summary.json.
        Raises: CheckpointError, ConfigError, ModelError, RolloutError, StoreError.
        """
        found = checkpoint.latest(self.folder.checkpoints_path)
        self._go_on_from(found)
        if found is not None:
            self._keep_stage_end(found)
        await self._set_up_model(found)
        self.policy = sampler(
            self.config,
            self.model,
            self.tokenizer,
            sampling=self.sampling,
            version=self.state.weights,
            run=self.folder.path,
        )
        if self._saved is not None:
            self._saved.restore()
        refs = [self.env, *(env.ref for env in self.environments.values()), *self.config.other_environments()]
        self._players = Players(self.config, self.policy, refs, self.state.weights)
        self.clock.elsewhere = lambda: self._players.cpu_s() + self._learners.cpu_s
        async with self._learners, self._players:
            self.rollouts = self._players.training
            for stage in self.stages[self.state.stage :]:
                await self._pass_through(stage)
        return self._conclude()

    def _go_on_from(self, found: Path | None) -> None:
        if found is not None:
            self._saved = checkpoint.read(found, config_fingerprint=self._fingerprint)
            self.state = RunState(**self._saved.extra["state"])
            self.clock.go_on_from(self.state.wall_s, self.state.cpu_s)
        self.folder.rewind({} if self._saved is None else self._saved.extra["logs"])

    async def _set_up_model(self, found: Path | None) -> None:
        folder = found or self.config.model.path
        if folder is not None:
            self.model, self.tokenizer = model_setup.load(self.config.model, folder, self.seed)
            return
        conversations = [conversation for stage in self.stages for conversation in await stage.conversations(self)]
        self.model, self.tokenizer = model_setup.build(self.config.model, self.seed, conversations)

    async def _pass_through(self, stage: Stage) -> None:
        if self.state.stage_state is not None:
            stage.load_state_dict(self.state.stage_state)
        self._weights_before = self.state.weights
        if stage.plays and self._chooses and self.state.selection is None:
            await self._evaluate_in_between(stage, 0, stage.total)
        async with aclosing(stage.steps(self)) as steps:  # type: ignore[type-var]
            while not self._stopped:
                step = await anext(steps, None)
                if step is None:
                    break
                await self._after(stage, step)
        self._keep_reward_model(stage)
        self.state.summaries[stage.name] = plain({**stage.summary(), **self._settle(stage)})
        self.state.cpu_s_by_stage[stage.name] = self.clock.cpu_s - sum(self.state.cpu_s_by_stage.values())
        self.state.stage, self.state.stage_state = self.state.stage + 1, None
        self.policy.forget()
        self.state.selection = self.state.best = None
        self._learner = self._saved = None
        self._keep_stage_end(self._save())

    @property
    def _stopped(self) -> bool:
        """Whether a rule has ended the stage in progress."""
        return self.state.selection is not None and Selection.of_state(self.state.selection).stopped != ""

    def _settle(self, stage: Stage) -> dict[str, Any]:
        """Give the model the best weights of the finished stage. Returns: what the summary says of that."""
        if self.state.selection is None or self.state.best is None:
            return {}
        selection = Selection.of_state(self.state.selection)
        if selection.restores:
            self._kept.restore(*self.state.best, self.model)
            self._publish()
        between = [task for tasks in self._between.values() for task in tasks]
        return {"selection": recorded(selection, between, ended=stage.step, planned=stage.total)}

    async def _after(self, stage: Stage, step: Step) -> None:
        """Record a step; evaluate and save where that is due.

        Rounding depends on which slots are used and how much memory they have. The sampler therefore begins each step
        as a new one would, so that neither an evaluation nor a checkpoint before it changes it.
        """
        self.state.updates += 1
        self.state.version += self.state.weights > self._weights_before
        self._weights_before = self.state.weights
        self.state.stage_state = stage.state_dict()
        self._saved = None
        started = time.perf_counter()
        self._record(step.groups, stage.name, step.number)
        timing = {"time/record_s": time.perf_counter() - started} if step.groups else {}
        self.state.count_step(step.metrics)
        learners = self._learners.metrics if self._learner is not None else {}
        scale = {**learners, **(self._players.metrics if step.groups else {})}
        metrics = {**step.metrics, **timing, **scale}
        self._log(stage.name, step.number, step.total, {**metrics, **speeds(metrics)})
        every = self.config.run.evaluate_every
        is_last = step.number >= step.total
        if every and step.groups and (self._chooses if is_last else step.number % every == 0):
            await self._evaluate_in_between(stage, step.number, step.total)
        self.policy.forget()
        if step.number < step.total and self._save_is_due(stage, step):
            self._save()

    def _save_is_due(self, stage: Stage, step: Step) -> bool:
        """Whether to save after a step: the first one, every `checkpoint_every`, and after `checkpoint_seconds`."""
        limit = self.config.run.checkpoint_seconds
        late = limit > 0 and time.monotonic() - self._saved_at_s >= limit
        return late or step.number == 1 or step.number % stage.checkpoint_every == 0

    async def _evaluate_in_between(self, stage: Stage, number: int, total: int) -> None:
        """Evaluate on the tasks to choose with; keep the weights if they are the best so far."""
        self.policy.forget()
        with checkpoint.same_random_states():
            found = await self.evaluate_each(self._between, replace(self.sampling), trials=1, name=EVALUATION)
        result = pooled(found)
        self.policy.forget()
        self._log(EVALUATION, number, total, {**result.metrics(), **success_metrics(found)})
        if not (self._chooses and stage.plays):
            return
        run, state = self.config.run, self.state
        selection = Selection() if state.selection is None else Selection.of_state(state.selection)
        checked = Checked.of(number, result)
        selection = selection.after(checked, solved=run.stop_when_solved, worse=run.stop_when_worse)
        state.selection = selection.state_dict()
        if selection.best is checked:
            self._kept.keep(stage.name, number, self.model)
            state.best = (stage.name, number)

    def now(self) -> Now:
        """Where the run is; any thread may ask."""
        players: Players | None = getattr(self, "_players", None)  # there is none while the model is loaded
        sampling = None if players is None else players.state()
        return Now(self.state.stage, self.state.weights, self.clock.wall_s, self.clock.cpu_s, sampling)

    # What a stage sees.

    def tasks(self, split: str) -> Sequence[Task]:
        """Tasks of the run's environment in the split that the settings name for `train` or `eval`."""
        own = trained(self.environments)[0]
        return own.train if split == "train" else self._reported[own.name]

    def reported(self, environment: str) -> Sequence[Task]:
        """Held-out tasks of an environment that stages may report."""
        return self._reported[environment]

    async def learner(
        self,
        settings: LearnerSettings,
        objective: Objective,
        *,
        temperature: float = 1.0,
        total_steps: int,
        apart: bool = False,
    ) -> Learner:
        """A learner with a new optimizer; in a resumed run it has the saved state of the stage in progress."""
        begin = Begin(settings, objective, temperature, total_steps, apart, self.config.scale.shard)
        saved = self._saved if self.state.stage_state is not None else None
        self._learner = self._learners.make(self.model, begin, saved)
        return self._learner

    def reward_model(self, stage: str) -> Path:
        """The model folder of the reward model that an earlier stage trained apart."""
        return self.folder.reward_model(stage)

    def _keep_reward_model(self, stage: Stage) -> None:
        """Write the copy that a stage trained apart."""
        learner = self._learner
        if not isinstance(learner, ApartLearner):
            return

        def save(folder: Path) -> None:
            model_folder.save(folder, learner.model, self.tokenizer)
            model_folder.write_value_head(folder, learner.models.value_head_numbers())

        self.folder.write_reward_model(stage.name, save)

    def _publish(self) -> int:
        """Tell the sampler that the weights changed; it drops its caches. Returns: the version of the weights."""
        self.state.weights += 1
        self._players.publish(self.state.weights)
        return self.state.weights

    def rows(self, groups: Sequence[TrajectoryGroup]) -> list[Row]:
        """The rows of groups. Demonstrations get their token ids from the policy's chat format."""
        return build_rows([replace(g, trajectories=[self._with_ids(t) for t in g.trajectories]) for g in groups])

    def _with_ids(self, trajectory: Trajectory) -> Trajectory:
        known = trajectory.labels.mode != "demonstration" or trajectory.status == "fault"
        return trajectory if known else with_tokens(trajectory, self.policy.format)

    async def evaluate(self, tasks: Sequence[Task], sampling: SamplingParams, *, trials: int, name: str) -> EvalResult:
        """`evaluate_each` for tasks of the run's environment, of several the first one that it learns from."""
        own = trained(self.environments)[0].name
        return (await self.evaluate_each({own: tasks}, sampling, trials=trials, name=name))[own]

    async def evaluate_each(
        self, tasks: Mapping[str, Sequence[Task]], sampling: SamplingParams, *, trials: int, name: str
    ) -> dict[str, EvalResult]:
        """Play held-out tasks of environments together, record the episodes under a name, and score them by name."""
        mode: Mode = "greedy" if sampling.temperature == 0 else "sampled"
        labels = Labels(name, self.state.version, mode)
        started = time.perf_counter()
        seed = integer(self.seed, Purpose.EVALUATION)
        refs = {name: env.ref for name, env in self.environments.items()}
        requests = requests_of_each(tasks, refs, trials, seed, labels)
        done, total = 0, sum(request.num_episodes for request in requests)

        def count(episodes: int) -> None:
            nonlocal done
            done += episodes
            self.tell(name, done, total)

        groups = await self._players.evaluate(requests, sampling, count)
        wall_s = time.perf_counter() - started
        played = [trajectory for group in groups for trajectory in group.trajectories]
        for trajectory in played:
            self.store.append(trajectory)
        self.state.count_evaluated(sum(trajectory.num_sampled_tokens for trajectory in played))
        return by_environment(played, {name: refs[name] for name in tasks}, wall_s=wall_s)

    def before_update(self) -> None:
        """Free what the sampler keeps of episodes; an update needs the memory."""
        self.policy.forget()

    def tell(self, name: str, number: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Report progress to `on_progress`."""
        self.on_progress(Progress(name, number, total, metrics or {}))

    # Records and checkpoints.

    def _record(self, groups: Sequence[TrajectoryGroup], stage: str, step: int) -> None:
        if not self.config.run.record_trajectories:
            return
        for group in groups:
            for trajectory in group.trajectories:
                labels = replace(trajectory.labels, stage=stage, step=step)
                self.store.append(replace(trajectory, labels=labels))

    def _log(self, name: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.folder.log(name, step, self.state.version, self.clock.wall_s, metrics)
        self.tell(name, step, total, metrics)

    def _save(self) -> Path:
        saved = self._spent()
        path = checkpoint.save(
            self.folder.checkpoints_path,
            saved.updates,
            self.model,
            learner=self._learner,
            tokenizer=self.tokenizer,
            extra={"state": asdict(saved), "logs": self.folder.marks()},
            config_fingerprint=self._fingerprint,
            run=self._identity.get("run", ""),
            keep=self.config.run.keep_checkpoints,
        )
        self._kept.remove_unused(*([saved.best] if saved.best is not None else []))
        self._saved_at_s = time.monotonic()
        return path

    def _keep_stage_end(self, saved: Path) -> None:
        """Keep a checkpoint beyond those that follow if it is that of the end of a stage named by the settings."""
        if self.state.stage and self.state.stage_state is None:
            ended = self.stages[self.state.stage - 1].name
            if ended in self.config.run.keep_stages:
                self.folder.keep_stage_end(ended, saved)

    def _spent(self) -> RunState:
        """The state with the seconds that are spent so far."""
        return replace(self.state, wall_s=self.clock.wall_s, cpu_s=self.clock.cpu_s)

    def _conclude(self) -> dict[str, Any]:
        heads = {name: s.pop("value_head") for name, s in self.state.summaries.items() if "value_head" in s}
        summary = summary_of(
            self._spent(),
            self.folder,
            self.config,
            identity=self._identity,
            environments=self.environments,
            device=str(self.model.device),
        )

        def save(folder: Path) -> None:
            model_folder.save(folder, self.model, self.tokenizer)
            if self.state.last_taught in heads:
                model_folder.write_value_head(folder, heads[self.state.last_taught])

        self.folder.write_model(save)
        self.folder.write_summary(summary)
        self._kept.remove()
        write_report(self.folder.path)
        return summary
