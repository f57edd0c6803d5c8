"""What a judge says of a policy's episodes, and how far to believe it. Owns the JSON form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentrl.bench.estimates import Estimate, clustered_proportion, mean_over_trials
from agentrl.bench.judges.agreement import Agreement, Labelled, agreement_of, read_labels
from agentrl.bench.measures.base import scored, task_families
from agentrl.bench.statistics.families import families_of
from agentrl.errors import JudgeFault
from agentrl.rollout.judging.judge import Judge, Verdict, judged
from agentrl.rollout.judging.prompt import PROMPT_VERSION
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class Judged:
    """A judge's result for the scored episodes of one policy.

    Attributes:
        judge: name of the judge's policy.
        rubric: its text.
        score: mean score from 0 to 1, of the episodes with a verdict.
        passed: share of these that pass.
        passed_of_all: share of all scored episodes that pass, where one without a verdict counts as failed: a lower
            bound that no text can raise by leaving the judge without an answer.
        failed: episodes without a verdict, by what went wrong.
        labels: agreement with a labelled set; None where there is none, and then nobody knows what the score means.
        environment: agreement with the environment's own verdicts; None where no episode was judged.
        verdicts: by the id of the episode.
    """

    judge: str
    rubric: str
    score: Estimate
    passed: Estimate
    passed_of_all: Estimate
    failed: Mapping[str, int]
    labels: Agreement | None
    environment: Agreement | None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict, repr=False)

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())

    @property
    def warning(self) -> str | None:
        """What a reader must know before quoting the judge's score."""
        if not self.num_failed:
            return None
        causes = ", ".join(f"{count} {cause}" for cause, count in self.failed.items())
        return (
            f"the judge {self.judge} gave no verdict on {self.num_failed} of {len(self.verdicts) + self.num_failed} "
            f"episodes ({causes}), which its score leaves out: the same command asks again about these"
        )

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return {
            "judge": self.judge,
            "rubric": self.rubric,
            "prompt_version": PROMPT_VERSION,
            "score": self.score.to_json(),
            "passed": self.passed.to_json(),
            "passed_of_all": self.passed_of_all.to_json(),
            "n_judged": len(self.verdicts),
            "failed": dict(self.failed),
            "labels": None if self.labels is None else self.labels.to_json(),
            "environment": None if self.environment is None else self.environment.to_json(),
            "verdicts": {
                name: {"score": verdict.score, "passed": verdict.passed, "reason": verdict.reason}
                for name, verdict in self.verdicts.items()
            },
        }


async def judge_episodes(
    judge: Judge,
    episodes: Sequence[Trajectory],
    *,
    labels: Sequence[Labelled] | None = None,
    max_concurrency: int = 8,
) -> Judged:
    """Judge final episodes; discarded ones and those without a turn are left out.

    Args: labels: a labelled set; by default the file that the rubric names.
    """
    if labels is None:
        labels = labels_of(judge)
    agreement = None if not labels else await label_agreement(judge, labels, max_concurrency=max_concurrency)
    counted = [episode for episode in scored(episodes) if episode.turns]
    found = await judged(judge, [episode.messages() for episode in counted], max_concurrency=max_concurrency)
    known = [(e, v) for e, v in zip(counted, found, strict=True) if isinstance(v, Verdict)]
    return Judged(
        judge=judge.name,
        rubric=judge.rubric.text,
        score=_over_tasks(mean_over_trials, [(e, v.score) for e, v in known]),
        passed=_over_tasks(clustered_proportion, [(e, float(v.passed)) for e, v in known]),
        passed_of_all=_over_tasks(clustered_proportion, [(e, _passed(v)) for e, v in zip(counted, found, strict=True)]),
        failed=dict(Counter(v.cause for v in found if isinstance(v, JudgeFault)).most_common()),
        labels=agreement,
        environment=_environment(known) if known else None,
        verdicts={e.episode_id: v for e, v in known},
    )


def labels_of(judge: Judge) -> list[Labelled]:
    """The labelled set of the rubric; empty where it names none. Raises: ConfigError if it cannot be read."""
    return [] if judge.rubric.labels is None else read_labels(judge.rubric.labels)


async def label_agreement(judge: Judge, labels: Sequence[Labelled], *, max_concurrency: int = 8) -> Agreement:
    """Agreement with a labelled set."""
    asked = [item.messages for item in labels]
    references = [item.reference for item in labels]
    found = await judged(judge, asked, references=references, max_concurrency=max_concurrency)
    return agreement_of(found, [item.passed for item in labels])


def _passed(verdict: Verdict | JudgeFault) -> float:
    return float(isinstance(verdict, Verdict) and verdict.passed)


def _environment(known: Sequence[tuple[Trajectory, Verdict]]) -> Agreement:
    """Agreement with the environment; trials of one task, and tasks of one family, count as one unit."""
    units = [f"family {e.task.family}" if e.task.family else f"task {e.task.id}" for e, _ in known]
    return agreement_of([v for _, v in known], [e.success for e, _ in known], units)


def _over_tasks(estimate: Callable[..., Estimate], values: Sequence[tuple[Trajectory, float]]) -> Estimate:
    found: dict[str, list[float]] = {}
    for episode, value in values:
        found.setdefault(episode.task.id, []).append(value)
    families = families_of(list(found), task_families([episode for episode, _ in values]))
    return estimate(list(found.values()), families=families)
