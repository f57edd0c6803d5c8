"""What the page counts of a run's episodes, so that it need not hold them: how they ended, and each task's trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agentrl.trajectory import Ending, Trajectory

Trials = tuple[int, int]
"""Of a task: solved ones, and all that are scored."""


@dataclass(frozen=True)
class Tally:
    """The counts of one run.

    Attributes:
        num_episodes: all of them.
        endings: how they ended, in words, in the order in which the ways first occurred.
        trials: task id -> its trials, in the order in which the tasks first occurred.
    """

    num_episodes: int
    endings: Mapping[str, int]
    trials: Mapping[str, Trials]

    @classmethod
    def of(cls, episodes: Iterable[Trajectory]) -> Tally:
        """Count episodes; discarded ones are no trials."""
        endings, trials, equal = Counter[str](), dict[str, Trials](), dict[Trials, Trials]()
        for episode in episodes:
            is_solved = episode.success
            endings["solved" if is_solved else _failure(episode.ending)] += 1
            if episode.ending.kind != "fault":
                won, played = trials.get(episode.task.id, (0, 0))
                found = won + is_solved, played + 1
                trials[episode.task.id] = equal.setdefault(found, found)
        return cls(endings.total(), dict(endings), trials)


def _failure(ending: Ending) -> str:
    """The kind of a failure in words."""
    kind, detail, who = ending.kind, ending.detail, ending.who
    if kind == "limit":
        return f"cut off: {detail or 'by a limit'}"
    if kind == "error":
        return f"error of the model: {detail[:60] or 'unknown'}" + (f" ({who})" if who else "")
    if kind == "fault":
        return f"discarded: {who or 'unknown'}"
    return "answered, but not solved" if kind == "answer" else f"ended by the {kind}, not solved"
