"""`audit` asks whether a benchmark's score means something. Owns the order of the checks.

It needs no model: a panel of members that do no work is played, the oracle if there is one, and the tasks' data are
read. What it does not find may still be there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from statistics import fmean

import numpy as np

from agentrl.bench.audit.data import check_empty, check_prompt, check_reach, check_splits
from agentrl.bench.audit.declared import check_not_judged, check_shipped
from agentrl.bench.audit.payments import check_panel
from agentrl.bench.audit.playing import AS_SHIPPED, ORACLE, Subject
from agentrl.bench.audit.report import AuditReport, Earned, Flaw, worst_first
from agentrl.bench.audit.verifier import (
    check_components,
    check_oracle,
    check_raises,
    check_repeatable,
    check_unsolved,
    check_untouched,
)
from agentrl.bench.evaluate import Which, env_maker
from agentrl.errors import did_you_mean
from agentrl.trajectory import Task

Check = Callable[[Subject], Awaitable[list[Flaw]]]
CHECKS: tuple[Check, ...] = (
    check_oracle,
    check_shipped,
    check_not_judged,
    check_panel,
    check_untouched,
    check_reach,
    check_prompt,
    check_splits,
    check_empty,
    check_components,
    check_raises,
    check_repeatable,
    check_unsolved,
)


async def aaudit(
    env: Which,
    *,
    split: str = "eval",
    num_tasks: int | None = 30,
    seed: int = 0,
    max_concurrency: int = 16,
    checks: Sequence[str] | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> AuditReport:
    """Look for reasons why scores on an environment may mean nothing.

    Args:
        env: a registered id, a reference, or a function that makes one instance.
        split: whose tasks are played; those of the other splits are compared with them.
        num_tasks: how many, spread over the split; None takes all.
        seed: of the episodes.
        max_concurrency: episodes alive at the same time.
        checks: names of those to run, such as `untouched`; None runs all. The panel is what costs most.
        on_progress: called with the check that runs and the number of episodes so far.
    Returns: the flaws, worst first; `report.ok` is whether none is an error.
    Raises: EnvNotFound, TaskError for a split that the environment does not have, ValueError for an unknown check.
    """
    if num_tasks is not None and num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1, got {num_tasks}")
    chosen = _checks(checks)
    subject = await _subject(env, split, num_tasks, seed, max_concurrency)
    flaws: list[Flaw] = []
    for name, check in chosen.items():
        if on_progress is not None:
            on_progress(name, subject.count)
            subject.on_progress = partial(on_progress, name)
        flaws += await check(subject)
    panel = {
        name: Earned(fmean(t.success for t in episodes), fmean(t.reward for t in episodes))
        for name, episodes in subject.played.items()
    }
    best = dict(sorted(panel.items(), key=lambda item: (-item[1].success, -item[1].reward)))
    return AuditReport(subject.ref, split, len(subject.tasks), worst_first(flaws), tuple(chosen), best)


def audit(env: Which, **options: object) -> AuditReport:
    """`aaudit` for code without an event loop; the same arguments."""
    return asyncio.run(aaudit(env, **options))  # type: ignore[arg-type]


def _checks(names: Sequence[str] | None) -> dict[str, Check]:
    """The checks of these names, in the order in which they run."""
    known = {check.__name__.removeprefix("check_"): check for check in CHECKS}
    for name in names or ():
        if name not in known:
            raise ValueError(f"the audit has no check {name!r}.{did_you_mean(name, known)}")
    return {name: check for name, check in known.items() if names is None or name in names}


async def _subject(env: Which, split: str, num_tasks: int | None, seed: int, max_concurrency: int) -> Subject:
    probe = env_maker(env)()
    try:
        tasks = probe.tasks.split(split)
        others = {name: probe.tasks.split(name) for name in probe.tasks.splits if name != split}
        tools = tuple(str(tool["function"]["name"]) for tool in probe.tool_schemas)
        has_oracle, has_shipped = (callable(getattr(probe, name, None)) for name in (ORACLE, AS_SHIPPED))
    finally:
        await probe.aclose()
    return Subject(env, split, _chosen(tasks, num_tasks), others, has_oracle, tools, max_concurrency, seed, has_shipped)


def _chosen(tasks: tuple[Task, ...], count: int | None) -> list[Task]:
    """That many tasks, evenly spread over the split."""
    if count is None or count >= len(tasks):
        return list(tasks)
    return [tasks[int(i)] for i in np.linspace(0, len(tasks) - 1, count)]
