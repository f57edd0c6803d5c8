"""Checks of what an environment over someone's suite changes of it.

Solutions that its oracle corrects, and parts of the verdict that it does not compute: the environment says both, by
`as_shipped` and `not_judged`.
"""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing

from agentrl.bench.audit.playing import Subject
from agentrl.bench.audit.report import Evidence, Flaw

_MOST_EVIDENCE = 3


async def check_shipped(subject: Subject) -> list[Flaw]:
    """The verifier accepts each solution as the suite ships it, not only as the oracle corrects it."""
    if not subject.has_shipped:
        return []
    refused = [t for t in await subject.play_shipped() if not t.success]
    if not refused:
        return []
    solved = {t.task.id for t in subject.oracle if t.success}
    count = sum(t.task.id in solved for t in refused)
    problem = (
        f"the verifier refuses {len(refused)} of the {len(subject.tasks)} solutions that the suite ships, as they "
        f"stand; the oracle solves {count} of these tasks in another way"
    )
    fix = "correct these solutions or the verifier: an agent that does what the suite asks for is counted as wrong"
    seen = [
        Evidence.of(t, f"as shipped: reward {t.reward:.3g}; oracle: {'' if t.task.id in solved else 'not '}solved")
        for t in refused[:_MOST_EVIDENCE]
    ]
    tasks = tuple(t.task.id for t in refused)
    return [Flaw("shipped-solution-refused", "error", problem, fix, tasks, len(subject.tasks), tuple(seen))]


async def check_not_judged(subject: Subject) -> list[Flaw]:
    """No part of a task's verdict is skipped."""
    async with aclosing(subject.make()) as env:
        ask = getattr(env, "not_judged", None)
        skipped = {task.id: tuple(ask(task)) for task in subject.tasks} if callable(ask) else {}
    skipped = {task: parts for task, parts in skipped.items() if parts}
    if not skipped:
        return []
    counts = Counter(part for parts in skipped.values() for part in parts)
    named = ", ".join(f"{part} ({count})" for part, count in counts.most_common())
    problem = f"{len(skipped)} of {len(subject.tasks)} tasks have a part of the verdict that is not computed: {named}"
    fix = "what is not computed counts as passed: compute it, leave these tasks out, or say so with the score"
    seen = [
        Evidence(task, f"not computed: {', '.join(parts)}") for task, parts in list(skipped.items())[:_MOST_EVIDENCE]
    ]
    return [Flaw("skipped-check", "warning", problem, fix, tuple(skipped), len(subject.tasks), tuple(seen))]
