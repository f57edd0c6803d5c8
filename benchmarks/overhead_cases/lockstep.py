"""The loop around frameworks whose step is a plain function: 64 live episodes, recorded as `bare` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from overhead_cases.bare import record
from overhead_cases.task import CONCURRENCY, Problem

Step = Callable[[Any, str], tuple[str, float, bool]]


def run_lockstep(
    problems: Sequence[Problem], path: Path, make: Callable[[Problem], Any], step: Step, script: str
) -> None:
    """Play every problem.

    Args:
        problems: one episode each.
        path: of the JSONL transcript.
        make: an environment that has been reset to a problem.
        step: (environment, action text) -> (observation text, reward, over).
        script: the attribute of `Problem` that holds the actions.
    """
    with path.open("w") as file:
        for start in range(0, len(problems), CONCURRENCY):
            batch = problems[start : start + CONCURRENCY]
            live = [(p, make(p), getattr(p, script), [{"role": "user", "content": p.prompt}]) for p in batch]
            turn = 0
            while live:
                still = []
                for problem, env, actions, messages in live:
                    action = actions[turn]
                    messages.append({"role": "assistant", "content": action})
                    observation, reward, over = step(env, action)
                    if over:
                        record(file, problem, messages, reward)
                    else:
                        messages.append({"role": "tool", "content": observation})
                        still.append((problem, env, actions, messages))
                live = still
                turn += 1
