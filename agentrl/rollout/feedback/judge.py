"""Rewards by a judge: any policy with a rubric. Owns what becomes of an episode that the judge gives no verdict on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentrl.config import Count, from_table
from agentrl.errors import JudgeFault
from agentrl.policy.by_name import PolicySetup
from agentrl.policy.remote.options import ChatOptions
from agentrl.rollout.fault_tally import FaultTally
from agentrl.rollout.feedback.base import Feedback, rewarded
from agentrl.rollout.judging.judge import SAMPLING, Judge, Verdict, check_name, judged
from agentrl.rollout.judging.rubric import rubric_of
from agentrl.trajectory import Ending, Trajectory, TrajectoryGroup

logger = logging.getLogger(__name__)
PART = "judge"
_MOST_FAILED = 0.9


@dataclass(frozen=True)
class ByJudge(Feedback):
    """Adds a judge's score, from 0 to 1, to the reward of each episode's last turn, as its part `judge`.

    Success stays the environment's. An episode without a verdict does not train, unless its text is the reason: where
    the judge gives verdicts on other texts and says what is no verdict on this one, the score is 0.

    Attributes:
        policy: name of the judge, such as `openai:NAME` or `local:DIR`.
        rubric: a text, or a `.toml`, `.md` or `.txt` file.
        weight: of the score.
        keep: factor of the environment's own rewards; 0 leaves the score alone.
        base_url: address of its server, for `openai:NAME` and the like.
        api_key_env: variable that holds its key; None is the API's own.
        cache: SQLite file of verdicts, which later runs use too; by default the run remembers them while it lives.
        attempts: requests for a verdict that can be read.
        max_concurrency: requests at the same time.
        max_tokens: of one answer, its thinking included.
        chat: settings of the requests to an `openai:` judge: fields of `ChatOptions`.
    """

    policy: str
    rubric: str
    weight: float = 1.0
    keep: float = 0.0
    base_url: str | None = None
    api_key_env: str | None = None
    cache: str | None = None
    attempts: Count = 3
    max_concurrency: Count = 8
    max_tokens: Count = SAMPLING.max_tokens
    chat: Mapping[str, Any] = field(default_factory=dict)

    def check(self, key: str) -> None:
        check_name(self.policy, f"{key}.policy = ")
        rubric_of(self.rubric)
        from_table(ChatOptions, self.chat)

    @property
    def metrics(self) -> Mapping[str, float]:
        counts = _judge_of(self).counts
        return {
            "judge/asked": float(counts.asked),
            "judge/cached": float(counts.cached),
            "judge/failed": float(counts.failed.total()),
        }

    async def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        known = [t for group in groups for t in group.trajectories if t.status != "fault" and t.turns]
        found = await judged(_judge_of(self), [t.messages() for t in known], max_concurrency=self.max_concurrency)
        after = {id(t): self._with(t, verdict) for t, verdict in zip(known, found, strict=True)}
        tally = FaultTally(_MOST_FAILED, len(known) + 1)
        for trajectory, verdict in zip(known, found, strict=True):
            tally.add(_without(trajectory, verdict) if isinstance(verdict, JudgeFault) else trajectory)
        tally.finish()
        if tally.causes:
            unread = sum(isinstance(verdict, JudgeFault) and verdict.is_of_the_text for verdict in found)
            logger.warning(
                "the judge gave no verdict on %d of %d episodes: %d score 0, as it says of them what is no verdict and "
                "gives verdicts on others; the others do not train",
                tally.causes.total(),
                len(known),
                unread,
            )
        return [replace(g, trajectories=[after.get(id(t), t) for t in g.trajectories]) for g in groups]

    def _with(self, episode: Trajectory, verdict: Verdict | JudgeFault) -> Trajectory:
        if isinstance(verdict, JudgeFault) and not verdict.is_of_the_text:
            return _without(episode, verdict)
        score = verdict.score if isinstance(verdict, Verdict) else 0.0
        return rewarded(episode, PART, score, weight=self.weight, keep=self.keep)


def _without(episode: Trajectory, fault: JudgeFault) -> Trajectory:
    """The episode without a verdict, which does not train."""
    return replace(episode, ending=Ending("fault", f"{JudgeFault.__name__}: {fault}", fault.at))


_judges: dict[str, Judge] = {}


def _judge_of(settings: ByJudge) -> Judge:
    """One judge for all uses of the same settings in this process."""
    key = repr(settings)
    if key not in _judges:
        setup = PolicySetup(settings.base_url, settings.api_key_env, chat=settings.chat)
        _judges[key] = Judge(
            settings.policy,
            settings.rubric,
            setup=setup,
            cache=settings.cache,
            attempts=settings.attempts,
            sampling=replace(SAMPLING, max_tokens=settings.max_tokens),
        )
    return _judges[key]
