"""Checks of the verifier itself: what it says of solutions, of an untouched world, and of the same episode twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from agentrl.bench.audit.playing import ORACLE, Subject
from agentrl.bench.audit.probes import answers, random_tools
from agentrl.bench.audit.report import Evidence, Flaw
from agentrl.bench.evaluate import episode_seed
from agentrl.env.author_code import ask
from agentrl.env.blame import fault_of
from agentrl.env.results import plain_number
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import EnvFault
from agentrl.trajectory import Trajectory

_SMALL = 0.1
_MOST_EVIDENCE = 3
_MOST_REPEATED = 16


async def check_oracle(subject: Subject) -> list[Flaw]:
    """Every task can be solved: the oracle earns 1."""
    if not subject.has_oracle:
        problem = "there is no oracle, so nothing shows that the tasks can be solved, nor what a solution earns"
        fix = "add `def oracle(self, messages) -> Action | str`, or give runs that solved the tasks (`runs`)"
        return [Flaw("no-oracle", "advice", problem, fix)]
    subject.played[ORACLE] = await subject.play_oracle()
    below = [t for t in subject.oracle if not t.success]
    if not below:
        return []
    seen = [Evidence.of(t, t.error or f"the oracle earns {t.reward:.3g}") for t in below[:_MOST_EVIDENCE]]
    share = len(below) / len(subject.oracle)
    problem = f"the oracle does not solve {share:.0%} of the tasks"
    fix = "correct the task, its solution or the verifier; a task without a solution measures nothing"
    return [Flaw("oracle-below-1", "error", problem, fix, _ids(below), len(subject.oracle), tuple(seen))]


async def check_unsolved(subject: Subject) -> list[Flaw]:
    """Some member or the oracle solves each task."""
    if not subject.has_oracle:
        return []
    solved = {t.task.id for episodes in subject.played.values() for t in episodes if t.success}
    left = [t for t in subject.oracle if t.task.id not in solved]
    if not left:
        return []
    problem = f"nothing that was tried solves {len(left)} of {len(subject.tasks)} tasks"
    fix = "look at the tasks: a wrong reference, a check that cannot pass, or a limit that is too low"
    seen = tuple(Evidence.of(t, f"the oracle earns {t.reward:.3g}") for t in left[:_MOST_EVIDENCE])
    return [Flaw("unsolvable-task", "error", problem, fix, _ids(left), len(subject.tasks), seen)]


async def check_untouched(subject: Subject) -> list[Flaw]:
    """The world as it begins scores nothing."""
    paid: list[tuple[str, float]] = []
    failed: list[tuple[str, EnvFault]] = []
    async with aclosing(subject.make()) as env:
        if not isinstance(env, ToolEnv):
            return []
        for task in subject.tasks:
            await env.areset(seed=episode_seed(subject.seed, task.id, 0), options={"task": task})
            try:
                score = await ask(env, "score", env.score, None)
            except Exception as error:  # author code can raise anything
                fault = fault_of("score(None)", error)
                # An author need not score a world without an answer; what hangs or is out of reach is another matter.
                if fault is error or fault.at != "author":
                    failed.append((task.id, fault))
                continue
            reward = _total(env, score)
            if reward > 1e-9 or env.success:
                paid.append((task.id, reward))
    return [*_not_scored(failed, len(subject.tasks)), *_paid_untouched(paid, len(subject.tasks))]


def _not_scored(failed: Sequence[tuple[str, EnvFault]], tried: int) -> Iterator[Flaw]:
    """A flaw if the score of an untouched world could not be had."""
    if failed:
        problem = f"the score of an untouched world could not be had on {len(failed)} of {tried} tasks: {failed[0][1]}"
        fix = "let score return in time also without an answer; start the servers that it needs, then audit again"
        seen = tuple(Evidence(task, f"{fault.at}: {fault}") for task, fault in failed[:_MOST_EVIDENCE])
        yield Flaw("untouched-world-not-scored", "warning", problem, fix, tuple(t for t, _ in failed), tried, seen)


def _paid_untouched(paid: Sequence[tuple[str, float]], tried: int) -> list[Flaw]:
    if not paid:
        return []
    mean = sum(reward for _, reward in paid) / tried
    problem = f"a world that nobody touched earns {mean:.3g} on average"
    fix = "score the difference that the agent made, and give every task a state that is not yet as asked for"
    seen = tuple(Evidence(task, f"`score(None)` right after the start is {r:.3g}") for task, r in paid[:3])
    severity = "error" if mean >= _SMALL or any(r >= 1 - 1e-9 for _, r in paid) else "warning"
    tasks = tuple(task for task, _ in paid)
    return [Flaw("untouched-world-scores", severity, problem, fix, tasks, tried, seen)]  # type: ignore[arg-type]


def _total(env: ToolEnv, score: Any) -> float:
    parts = score if isinstance(score, Mapping) else {"reward": score}
    return env.rubric.total({str(name): plain_number(value, str(name)) for name, value in parts.items()})


async def check_repeatable(subject: Subject) -> list[Flaw]:
    """The same actions from the same seed give the same episode, and the same verdict."""
    probes = [
        probe for probe in [*answers(), *random_tools()] if probe.name in ("silence", "everything", "random tools")
    ]
    pairs: list[tuple[Trajectory, Trajectory]] = []
    for probe in probes:
        if probe.name in subject.played:
            pairs += zip(subject.played[probe.name], await subject.again(probe), strict=True)
    if subject.has_oracle:
        pairs += zip(subject.oracle, await subject.replay(subject.oracle), strict=True)
    other = [(one, two) for one, two in pairs if _observations(one) != _observations(two)]
    verdict = [(one, two) for one, two in pairs if (one, two) not in other and _verdict(one) != _verdict(two)]
    flaws = []
    if other:
        problem = (
            f"{len(other)} of {len(pairs)} episodes differ when they are played again with the same seed and actions"
        )
        fix = "take all randomness from self.np_random; no clock, no state that episodes share, no live service"
        flaws.append(_differs("does-not-reproduce", problem, fix, other, len(subject.tasks)))
    if verdict:
        problem = (
            f"the verdict on the same episode differs between two calls on {len(verdict)} of {len(pairs)} episodes"
        )
        fix = "make the verifier a function of the episode: no clock, no chance, no state of its own"
        flaws.append(_differs("verifier-differs", problem, fix, verdict, len(subject.tasks)))
    return flaws


def _differs(kind: str, problem: str, fix: str, pairs: Sequence[tuple[Trajectory, Trajectory]], tried: int) -> Flaw:
    seen = tuple(
        Evidence.of(one, f"first {_verdict(one)[0]:.3g}, then {_verdict(two)[0]:.3g}") for one, two in pairs[:3]
    )
    tasks = tuple(dict.fromkeys(one.task.id for one, _ in pairs))
    return Flaw(kind, "error", problem, fix, tasks, tried, seen)


def _observations(episode: Trajectory) -> list[Any]:
    return [message.to_openai() for turn in episode.turns for message in (*turn.observation, *turn.next_observation)]


def _verdict(episode: Trajectory) -> tuple[float, bool, str]:
    return episode.reward, episode.success, episode.status


async def check_raises(subject: Subject) -> list[Flaw]:
    """No answer of the panel makes the author's code raise."""
    raised = [
        (name, t)
        for name, episodes in subject.played.items()
        for t in episodes
        if t.ending.who == "author" and t.ending.kind in ("error", "fault")
    ]
    if not raised:
        return []
    names = ", ".join(list(dict.fromkeys(name for name, _ in raised))[:4])
    problem = f"the environment's code raises where an agent does this: {names}"
    fix = "let the verifier and the tools take any text and any arguments; what they cannot read is wrong, not an error"
    seen = tuple(Evidence.of(t, f"{name}: {t.ending.detail}") for name, t in raised[:_MOST_EVIDENCE])
    tasks = tuple(dict.fromkeys(t.task.id for _, t in raised))
    return [Flaw("verifier-raises", "warning", problem, fix, tasks, len(subject.tasks), seen)]


async def check_components(subject: Subject) -> list[Flaw]:
    """No part of the reward is the same whatever an agent does."""
    everyone = [t for episodes in subject.played.values() for t in episodes if t.status != "fault"]
    # Where a limit cut an episode off there may be nothing to score.
    scored = [t for t in everyone if t.reward_components or t.ending.kind != "limit"]
    names = dict.fromkeys(name for t in scored for name in t.reward_components)
    return [flaw for name in names for flaw in _vacuous(name, scored, len(subject.tasks))]


def _vacuous(name: str, episodes: Sequence[Trajectory], tried: int) -> Iterator[Flaw]:
    """A flaw if a part of the reward has one value above 0 on a task, whatever was done, solved or not."""
    values: dict[str, set[float]] = defaultdict(set)
    unsolved = set()
    for t in episodes:
        value = round(t.reward_components.get(name, 0.0), 9)
        values[t.task.id].add(value)
        if value > 0 and not t.success:
            unsolved.add(t.task.id)
    same = [task for task, all_seen in values.items() if len(all_seen) == 1 and task in unsolved]
    if not same:
        return
    problem = f"the part {name!r} of the reward is the same whatever is done on {len(same)} of {len(values)} tasks"
    fix = "give the check something to check on these tasks, or leave the part out of their reward"
    shown = tuple(Evidence(task, f"{name} is {min(values[task]):.3g} for all") for task in same[:_MOST_EVIDENCE])
    yield Flaw("vacuous-check", "error", problem, fix, tuple(same), tried, shown)


def _ids(episodes: Sequence[Trajectory]) -> tuple[str, ...]:
    return tuple(t.task.id for t in episodes)
