"""Which weights of a stage are kept, and when it stops: rules over evaluations on held-out tasks. Owns no weights.

The tasks of these evaluations are chosen from; the tasks of a table are reported. `split_held_out` keeps the two apart:
the best of several noisy numbers is too high, so a number that chose is never the one that is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Literal

from agentrl.bench.estimates import paired_difference
from agentrl.bench.evaluate import EvalResult
from agentrl.bench.measures.base import by_task
from agentrl.trajectory import Task

FEWEST = 16
"""Held-out tasks below which nothing is chosen: their success rate says too little."""
Stopped = Literal["", "solved", "worse"]


def split_held_out(tasks: Sequence[Task], reported: int, wanted: int) -> tuple[Sequence[Task], Sequence[Task]]:
    """Held-out tasks to report, and others to choose weights with.

    Where the split has enough tasks, those after the reported ones are chosen with. In a smaller split they are the
    last quarter at most, and the tables report the others.

    Args:
        tasks: the whole held-out split.
        reported: most tasks that a table of the run reports.
        wanted: most tasks to choose with.
    Returns: tasks to report, tasks to choose with; none to choose with where there would be fewer than `FEWEST`.
    """
    if not reported or len(tasks) >= reported + wanted:
        return tasks, tasks[reported : reported + wanted] if wanted >= FEWEST else ()
    count = min(wanted, max(len(tasks) // 4, len(tasks) - reported))
    return (tasks[:-count], tasks[-count:]) if count >= FEWEST else (tasks, ())


@dataclass(frozen=True)
class Checked:
    """One evaluation between two steps.

    Attributes:
        step: of the stage; 0 is before the first one.
        success, low, high: sampled success on the tasks to choose with, and its 95% interval. Discarded episodes count
            as failures: weights must not be chosen because their losing episodes are missing.
        reward: mean, in which a discarded episode has the lowest reward of the others.
        outcomes: success of each task's scored episodes, by task id: what was lost by a fault stops no stage.
    """

    step: int
    success: float
    low: float
    high: float
    reward: float
    outcomes: Mapping[str, list[float]]

    @classmethod
    def of(cls, step: int, result: EvalResult) -> Checked:
        """The evaluation after a step; all its numbers are nan where every episode was discarded."""
        found = result.success_of_attempted if result.n_episodes else result.success
        return cls(step, found.mean, *found.ci95, _reward_at_least(result), result.outcomes)

    def clearly_below(self, other: Checked) -> bool:
        """Whether the paired 95% interval of the difference in success, over the tasks of both, is below 0."""
        return paired_difference(self.outcomes, other.outcomes).high < 0

    def shown(self) -> dict[str, Any]:
        """What the summary shows of it."""
        return {"step": self.step, "success": self.success, "ci95": [self.low, self.high]}


def _reward_at_least(result: EvalResult) -> float:
    """The mean over tasks of their mean rewards, with the lowest reward of a scored episode for each discarded one."""
    lowest = min((t.reward for t in result.trajectories if t.status != "fault"), default=math.nan)
    values = by_task(result.trajectories, lambda t: lowest if t.status == "fault" else t.reward)
    return result.reward_mean if not result.n_faults else fmean(map(fmean, values.values()))


@dataclass(frozen=True)
class Selection:
    """The evaluations of a stage in progress, the best of them, and whether the stage stops.

    Attributes:
        evaluations: step, success and interval of each.
        best: the highest success; among equals the higher reward, then the later.
        last: the newest.
        worse: how many in a row were clearly below the best.
        stopped: the rule that ended the stage.
    """

    evaluations: tuple[dict[str, Any], ...] = ()
    best: Checked | None = None
    last: Checked | None = None
    worse: int = 0
    stopped: Stopped = ""

    def after(self, new: Checked, *, solved: float, worse: int) -> Selection:
        """The selection with one evaluation more.

        Args:
            new: an evaluation; one in which every episode was discarded changes nothing.
            solved: the stage stops where the lower end of the interval is at least this.
            worse: it stops after this many evaluations in a row that are clearly below the best; 0 is never.
        """
        if not math.isfinite(new.success):
            return self
        is_best = self.best is None or (new.success, new.reward) >= (self.best.success, self.best.reward)
        below = 0 if is_best or self.best is None or not new.clearly_below(self.best) else self.worse + 1
        stopped: Stopped = "solved" if new.low >= solved else "worse" if worse and below >= worse else ""
        return replace(
            self,
            evaluations=(*self.evaluations, new.shown()),
            best=new if is_best else self.best,
            last=new,
            worse=below,
            stopped=stopped,
        )

    @property
    def restores(self) -> bool:
        """Whether the best weights are others than the last ones."""
        return self.best is not None and self.last is not None and self.best.step != self.last.step

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Selection:
        """The selection of `state_dict`."""
        best, last = (None if state[name] is None else Checked(**state[name]) for name in ("best", "last"))
        return cls(tuple(state["evaluations"]), best, last, state["worse"], state["stopped"])


def recorded(selection: Selection, tasks: Sequence[Task], *, ended: int, planned: int) -> dict[str, Any]:
    """What summary.json says of a finished stage's choice, as JSON values.

    Args:
        selection: at the end of the stage.
        tasks: that were chosen with; no table reports them.
        ended: number of the last step.
        planned: number of steps that the stage would have had.
    """
    best = selection.best
    return {
        "text": described(selection, len(tasks), ended=ended, planned=planned),
        "best_step": None if best is None else best.step,
        "best": None if best is None else best.shown(),
        "restored": selection.restores,
        "stopped": selection.stopped or None,
        "ended_at_step": ended,
        "planned_steps": planned,
        "evaluations": list(selection.evaluations),
        "tasks": {"split": tasks[0].split, "count": len(tasks), "first": tasks[0].id, "last": tasks[-1].id},
    }


def described(selection: Selection, num_tasks: int, *, ended: int, planned: int) -> str:
    """How a stage ended and which weights it kept, in one sentence."""
    best = selection.best
    if best is None:
        return "No evaluation between the steps was scored, so the last weights were kept"
    of = f"at step {ended} of {planned}"
    ends = {
        "": "All steps were done" if ended >= planned else f"Ended {of}",
        "solved": f"Stopped {of}: solved",
        "worse": f"Stopped {of}: clearly worse than at step {best.step}",
    }
    kept = f"the weights of step {best.step} were restored" if selection.restores else "the last weights were kept"
    return (
        f"{ends[selection.stopped]}; {kept}: {best.success:.3f} [{best.low:.3f}, {best.high:.3f}] on {num_tasks} "
        "held-out tasks that no table reports"
    )
