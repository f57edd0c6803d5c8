"""Measures of how episodes end: cut off by a limit, in an error of the model's doing, or discarded after a fault.

Owns the rule that attempted = scored + discarded, and which discards the model may have brought about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from agentrl.bench.estimates import Estimate, ValuesByTask, clustered_proportion
from agentrl.bench.measures.base import SHARE, Measure, PerEpisode, by_task
from agentrl.bench.statistics.families import Families
from agentrl.errors import Who
from agentrl.trajectory import Trajectory, follows_actions

CAUSES: tuple[str, ...] = get_args(Who)
"""What can fail that is not the model; an older record that does not say it counts as `unknown`."""


@dataclass(frozen=True)
class Truncated(PerEpisode):
    """The share of scored episodes that one limit cut off, such as `max_turns`; any limit if none is named."""

    limit: str = ""
    unit = SHARE

    @property
    def name(self) -> str:
        return f"truncated:{self.limit}" if self.limit else "truncated"

    def of(self, episode: Trajectory) -> float:
        return float(episode.ending.kind == "limit" and self.limit in ("", episode.ending.detail))

    def estimate(self, values_by_task: ValuesByTask, families: Families = ()) -> Estimate:
        return clustered_proportion(values_by_task, families=families)


@dataclass(frozen=True)
class Faults(Measure):
    """The share of all episodes that ended in a fault and are discarded."""

    name = "faults"
    unit = SHARE

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        return clustered_proportion(list(by_task(episodes, lambda episode: episode.status == "fault").values()))


def truncations(episodes: Iterable[Trajectory]) -> dict[str, int]:
    """Limit -> how many episodes it cut off, most first."""
    return dict(Counter(e.ending.detail for e in episodes if e.ending.kind == "limit").most_common())


def fault_causes(episodes: Iterable[Trajectory]) -> dict[str, int]:
    """Cause -> how many episodes it discarded, most first."""
    return dict(Counter(e.error or "unknown" for e in episodes if e.status == "fault").most_common())


@dataclass(frozen=True)
class Counts:
    """How the final episodes of one policy ended; attempted = scored + discarded.

    Attributes:
        scored: episodes that count, failures included.
        discarded: episodes that do not count, by what failed: an author's code, a server, the network, a sandbox, or
            this machine.
        errors: scored failures that ended because of what the model sent, by detail.
        failed: those of `errors` in which something failed again on what the model sent, by what failed.
        after_actions: discarded episodes that `follows_actions` names.
        retried: scored episodes whose earlier attempt met a fault.
        asked_anew: those in which the model then acted in another way than before the fault.
    """

    scored: int = 0
    discarded: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    after_actions: int = 0
    retried: int = 0
    asked_anew: int = 0

    @classmethod
    def of(cls, episodes: Iterable[Trajectory]) -> Counts:
        """The counts of final episodes; the caller leaves out superseded attempts."""
        counting = Counting()
        for episode in episodes:
            counting.add(episode)
        return counting.counts

    @property
    def num_discarded(self) -> int:
        return sum(self.discarded.values())

    @property
    def attempted(self) -> int:
        return self.scored + self.num_discarded

    @property
    def errors_shown(self) -> str:
        """`3 (2 model, 1 author)`: failures by what failed on what the model sent; `model` where nothing did."""
        by_model = sum(self.errors.values()) - sum(self.failed.values())
        return by_cause({"model": by_model, **self.failed})

    @property
    def warning(self) -> str | None:
        """What a reader must know before quoting a score of these episodes; None if they can be trusted."""
        if self.scored and self.failed.get("author") == self.scored:
            return (
                f"all {self.scored} scored episodes ended because the environment's own code raised, which says "
                "nothing of the model: run `agentrl check` on the environment"
            )
        if self.scored and sum(self.failed.values()) == self.scored:
            return (
                f"all {self.scored} scored episodes ended because a server failed on what the model said, though it "
                "answered less: read the causes. If the model's answers are right but slow, raise timeout_s of its "
                "server, or lower max_concurrency, and play them again"
            )
        if not self.after_actions:
            return None
        return (
            f"{self.after_actions} of {self.attempted} episodes were discarded after the model had acted, so the model "
            "may have brought that about: do not trust this success rate, nor a comparison with it. Read the causes, "
            "repair what fails, and play those episodes again"
        )

    def to_json(self) -> dict[str, Any]:
        """Numbers of episodes; `discarded` and `failed` name every cause."""
        return {
            "n_attempted": self.attempted,
            "discarded": {**dict.fromkeys(CAUSES, 0), **self.discarded},
            "errors": dict(self.errors),
            "failed": {**dict.fromkeys(CAUSES, 0), **self.failed},
            "n_discarded_after_actions": self.after_actions,
            "n_retried": self.retried,
            "n_asked_anew": self.asked_anew,
        }


class Counting:
    """Counts episodes one by one, for a store that is too large to hold in memory."""

    def __init__(self) -> None:
        self._scored = self._after_actions = self._retried = self._asked_anew = 0
        self._discarded, self._errors, self._failed = Counter[str](), Counter[str](), Counter[str]()

    def add(self, episode: Trajectory) -> None:
        """Count one final episode."""
        ending = episode.ending
        if ending.kind == "fault":
            self._discarded[ending.who or "unknown"] += 1
            self._after_actions += follows_actions(episode)
            return
        self._scored += 1
        self._retried += episode.labels.attempt > 0
        self._asked_anew += episode.labels.asked_anew
        if ending.kind == "error":
            self._errors[ending.detail or "unknown"] += 1
            if ending.who:
                self._failed[ending.who] += 1

    @property
    def counts(self) -> Counts:
        """The counts so far, most first."""
        discarded, errors, failed = (dict(c.most_common()) for c in (self._discarded, self._errors, self._failed))
        retried, asked_anew = self._retried, self._asked_anew
        return Counts(self._scored, discarded, errors, failed, self._after_actions, retried, asked_anew)


def by_cause(numbers: Mapping[str, int]) -> str:
    """`3 (2 server, 1 network)`; `0` if there are none."""
    total = sum(numbers.values())
    return f"{total} ({', '.join(f'{n} {cause}' for cause, n in numbers.items() if n)})" if total else "0"
