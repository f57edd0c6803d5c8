"""Agreement with the answer that most episodes of the group give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.learning.confidence.span import answer_of
from agentrl.rollout.feedback.intrinsic.self_reward import SelfReward
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class MajorityVote(SelfReward):
    """1 for episodes whose answer is the group's most frequent one, 0 for the others.

    Of equally frequent answers the one that came first counts; no answer is never the majority.

    Source: TTRL, arXiv:2504.16084, eq. 2.
    """

    def scores(self, group: Sequence[Trajectory]) -> Sequence[float]:
        answers = [answer_of(episode.turns[-1].action.text).casefold() for episode in group]
        counts = Counter(answer for answer in answers if answer)
        majority = counts.most_common(1)[0][0] if counts else None
        return [float(answer == majority) for answer in answers]
