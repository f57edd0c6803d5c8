"""What the panel was paid: members that succeed, that earn a part of it, or that earn more than the oracle."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import NoReturn

from agentrl.bench.audit.playing import Subject
from agentrl.bench.audit.probes import ANY, HALF, Probe, Situation, answers, copier, copying, first_tool, random_tools
from agentrl.bench.audit.reach import attackers
from agentrl.bench.audit.report import Evidence, Flaw
from agentrl.trajectory import Trajectory

_SMALL = 0.1
_FEW = 4
_MOST_TOOLS = 12
_MOST_EVIDENCE = 3
_SLACK = 1e-9


async def check_panel(subject: Subject) -> list[Flaw]:
    """No member of the panel succeeds, and none that does nothing earns a part of the reward."""
    probes = [*answers(), *await _copiers(subject)]
    if subject.tools:
        probes += [*random_tools(), *map(first_tool, subject.tools[:_MOST_TOOLS]), *attackers()]
    with _exits_caught() as exits:
        played = await subject.play(probes)
    free = {t.task.id for name in ("silence", "refusal") for t in played[name] if t.success}
    flaws: list[Flaw] = []
    for probe in probes:
        flaws += _paid(probe, played[probe.name], free if probe.least > ANY else set())
        flaws += _part(probe, played[probe.name], subject.oracle)
    return [*_best_of_each_kind(flaws), *_beaten(subject, probes), *_ran_here(exits, len(subject.tasks))]


async def _copiers(subject: Subject) -> list[Probe]:
    """The rules that win at least half of a few tasks, as members; most rules win none."""
    few = subject.tasks[:_FEW]
    opened = await subject.opened(few)
    rules = dict.fromkeys(rule for _, messages, _ in opened for rule in copying(Situation(messages, [], 0)))
    played = await subject.play([copier(rule) for rule in rules], few)
    wins = {rule: sum(t.success for t in played[copier(rule).name]) for rule in rules}
    return [copier(rule) for rule in rules if wins[rule] >= max(1, len(few) / 2)]


@contextmanager
def _exits_caught() -> Iterator[list[int]]:
    """Collects calls of `os._exit` in this process: only an answer that is run here makes one.

    A process that is forked meanwhile, such as one of `multiprocessing`, ends by `os._exit` and must do so.
    """
    exits: list[int] = []
    real, owner = os._exit, os.getpid()

    def caught(status: int) -> NoReturn:
        if os.getpid() != owner:
            real(status)
        exits.append(status)
        raise RuntimeError("an answer called os._exit in the process of the environment")

    os._exit = caught
    try:
        yield exits
    finally:
        os._exit = real


def _ran_here(exits: Sequence[int], tried: int) -> Iterator[Flaw]:
    if exits:
        problem = (
            "the environment runs the code of an answer in its own process, where it can change the verifier itself"
        )
        fix = "run it in a sandbox: `agentrl.sandboxed.SandboxEnv`, or `agentrl.sandboxed.grading.passes`"
        yield Flaw(
            "runs-answers-here", "error", problem, fix, (), tried, (Evidence("", "an answer called os._exit(0)"),)
        )


def _paid(probe: Probe, episodes: Sequence[Trajectory], free: set[str]) -> Iterator[Flaw]:
    """A flaw if a member succeeds often enough, on tasks that doing nothing does not solve."""
    won = [t for t in episodes if t.success and t.task.id not in free]
    if len(won) < _enough(probe.least, len(episodes)):
        return
    share = sum(t.success for t in episodes) / len(episodes)
    problem = f"{probe.does} solves {share:.0%} of the tasks"
    yield _flaw(probe, "error", problem, won, len(episodes))


def _enough(least: float, count: int) -> int:
    """From how many successes on a flaw is one: two at least where one may be luck."""
    return 1 if least == ANY or count == 1 else max(2, math.ceil(least * count))


def _part(probe: Probe, episodes: Sequence[Trajectory], oracle: Sequence[Trajectory]) -> Iterator[Flaw]:
    """A flaw if doing nothing earns a part of the reward without success."""
    if probe.least > ANY or any(t.success for t in episodes):
        return
    paid = [t for t in episodes if t.reward > _SLACK and t.status != "fault"]
    best = fmean(t.reward for t in oracle) if oracle else 1.0
    mean = fmean(t.reward for t in episodes)
    if paid and mean >= _SMALL * best:
        problem = f"{probe.does} earns {mean:.3g} on average, where a solution earns {best:.3g}"
        yield _flaw(probe, "error" if mean >= HALF * best else "warning", problem, paid, len(episodes))


def _flaw(probe: Probe, severity: str, problem: str, episodes: Sequence[Trajectory], tried: int) -> Flaw:
    evidence = tuple(Evidence.of(t, f"{probe.does}: {_got(t)}") for t in episodes[:_MOST_EVIDENCE])
    tasks = tuple(t.task.id for t in episodes)
    return Flaw(probe.kind, severity, problem, probe.fix, tasks, tried, evidence)  # type: ignore[arg-type]


def _got(episode: Trajectory) -> str:
    return f"reward {episode.reward:.3g}, {'solved' if episode.success else 'not solved'}"


def _best_of_each_kind(flaws: Sequence[Flaw]) -> list[Flaw]:
    """For each kind the flaw that most tasks show, with a word on the others."""
    kinds: dict[str, list[Flaw]] = {}
    for flaw in flaws:
        kinds.setdefault(flaw.kind, []).append(flaw)
    return [max(same, key=lambda flaw: (flaw.severity == "error", len(flaw.tasks))) for same in kinds.values()]


def _beaten(subject: Subject, probes: Sequence[Probe]) -> Iterator[Flaw]:
    """A flaw if a member earns more than a solution does."""
    best = {t.task.id: t.reward for t in subject.oracle if t.success}
    found = []
    for probe in probes:
        more = [t for t in subject.played[probe.name] if t.reward > best.get(t.task.id, math.inf) + _SLACK]
        if len(more) >= _enough(0.2, len(best)):
            found.append((probe, more))
    if found:
        probe, more = max(found, key=lambda pair: len(pair[1]))
        gain = fmean(t.reward - best[t.task.id] for t in more)
        problem = f"{probe.does} earns {gain:.3g} more than a solution, on average over the tasks named"
        fix = "bound what a component can add up to, so that nothing earns more than solving the task"
        evidence = tuple(Evidence.of(t, f"{_got(t)}; a solution earns {best[t.task.id]:.3g}") for t in more[:3])
        tasks = tuple(t.task.id for t in more)
        yield Flaw("beats-the-oracle", "error", problem, fix, tasks, len(best), evidence)
