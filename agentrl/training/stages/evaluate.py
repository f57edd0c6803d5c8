"""The stage `evaluate`: greedy and sampled success on held-out tasks, as a table of the summary."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from agentrl.bench.environments import environments_to_json, pooled, success_metrics
from agentrl.bench.evaluate import EvalResult
from agentrl.bench.measures.base import measured
from agentrl.bench.measures.by_name import measures_of
from agentrl.config import Count
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.training.stages.base import Context, Stage, StageSettings, Step, check_split
from agentrl.training.stages.environments import PlayedEnv, trained


@dataclass(frozen=True)
class Evaluate(StageSettings):
    """Evaluation on held-out tasks: one greedy episode a task, and `trials` sampled ones at temperature 1.

    Attributes:
        num_tasks: held-out tasks; of several environments, those of each.
        trials: sampled episodes per task.
        measures: further statistics of the episodes, by name, as `agentrl bench --measure` takes them; the arms of a
            file (`agentrl train --controls`) are compared by them.
    """

    num_tasks: Count = 200
    trials: Count = 1
    measures: tuple[str, ...] = ()

    def stage(self, name: str) -> Stage:
        return _EvaluateStage(name, self)

    def check(self, name: str, probe: Env, splits: Mapping[str, str]) -> None:
        check_split(probe, "eval_split", splits["eval"], "to evaluate on")
        try:
            measures_of(self.measures)
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"stages.{name}.measures: {error}") from error


class _EvaluateStage(Stage):
    def __init__(self, name: str, settings: Evaluate) -> None:
        super().__init__(name)
        self._settings = settings
        self.reports = settings.num_tasks
        self.reads_signals = any(one.reads_signals for one in measures_of(settings.measures))
        self._table: dict[str, Any] = {}

    async def steps(self, context: Context) -> AsyncIterator[Step]:
        if self.step:
            return
        settings = self._settings
        tasks = {name: context.reported(name)[: settings.num_tasks] for name in context.environments}
        greedy_sampling = replace(context.sampling, temperature=0.0, top_p=1.0)
        greedy = await context.evaluate_each(tasks, greedy_sampling, trials=1, name=self.name)
        sampled_sampling = replace(context.sampling, temperature=1.0)
        sampled = await context.evaluate_each(tasks, sampled_sampling, trials=settings.trials, name=self.name)
        self._table = _table(pooled(greedy), pooled(sampled), settings.measures)
        if len(tasks) > 1:
            self._table |= _by_environment(context.environments, greedy, sampled, settings.measures)
        self.step = 1
        metrics = {**pooled(sampled).metrics(), "eval/greedy_success": pooled(greedy).mean, **success_metrics(sampled)}
        metrics["time/eval_s"] += pooled(greedy).wall_s
        yield Step(1, 1, metrics)

    def summary(self) -> dict[str, Any]:
        return self._table

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "table": self._table}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._table = state["table"]


def _table(greedy: EvalResult, sampled: EvalResult, measures: Sequence[str]) -> dict[str, Any]:
    table = {
        "greedy": _cell(greedy, measures),
        "sampled": _cell(sampled, measures),
        "n_tasks": sampled.n_tasks,
        "n_faults": greedy.n_faults + sampled.n_faults,
        "outcomes": {"greedy": greedy.outcomes, "sampled": sampled.outcomes},
    }
    if any(one.counts.num_discarded or one.counts.asked_anew for one in (greedy, sampled)):
        of = {"greedy": greedy.outcomes_of_attempted, "sampled": sampled.outcomes_of_attempted}
        table["outcomes_of_attempted"] = of
    return {**table, "measures": list(measures)} if measures else table


def _by_environment(
    played: Mapping[str, PlayedEnv],
    greedy: Mapping[str, EvalResult],
    sampled: Mapping[str, EvalResult],
    measures: Sequence[str],
) -> dict[str, Any]:
    """The table of each environment, and what is said over all of them."""
    trains = [env.name for env in trained(played)]
    rows = {
        name: {
            "env": asdict(env.ref),
            "trains": env.trains,
            "n_tasks": sampled[name].n_tasks,
            "greedy": _cell(greedy[name], measures),
            "sampled": _cell(sampled[name], measures),
        }
        for name, env in played.items()
    }
    over = {"greedy": environments_to_json(greedy, trains), "sampled": environments_to_json(sampled, trains)}
    return {"environments": rows, "over_environments": over}


def _cell(result: EvalResult, measures: Sequence[str]) -> dict[str, Any]:
    found = measured(measures_of(measures), result.trajectories)
    return {
        "mean": result.mean,
        "ci95": list(result.ci95),
        "success_of_attempted": result.success_of_attempted.to_json(),
        **result.counts.to_json(),
        **({"measures": {name: one.to_json() for name, one in found.items()}} if found else {}),
    }
