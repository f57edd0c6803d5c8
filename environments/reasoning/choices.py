"""Multiple-choice questions: a short story with several sums, and four answers of which one is right."""

from __future__ import annotations

import numpy as np

from agentrl.environments.reasoning.problem import Problem

LEVELS = range(2, 7)
_LETTERS = "ABCD"
_NAMES = ("Ann", "Bob", "Eve", "Kim")
_THINGS = ("pens", "nuts", "eggs", "jars")


def draw(rng: np.random.Generator, level: int) -> Problem:
    """A question with `level` sums; the mistake is to leave out the last one."""
    now = int(rng.integers(2, 20))
    story, steps = [f"{rng.choice(_NAMES)} has {now} {rng.choice(_THINGS)}"], []
    before = now
    for _ in range(level):
        before = now
        text, step, now = _event(rng, now)
        story.append(text)
        steps.append(step)
    values = [now, before, *_others(rng, {now, before})]
    options = [values[i] for i in rng.permutation(4)]
    shown = " ".join(f"{letter}) {value}" for letter, value in zip(_LETTERS, options, strict=True))
    right, wrong = _LETTERS[options.index(now)], _LETTERS[options.index(before)]
    return Problem(f"{', '.join(story)}. How many are left? {shown}", steps, right, steps[:-1], wrong)


def _event(rng: np.random.Generator, now: int) -> tuple[str, str, int]:
    """What happens to a number of things: as the story tells it, as a sum, and the number after it."""
    kind, by = int(rng.integers(3)), int(rng.integers(1, 10))
    if kind == 0 and now > by:
        return f"gives {by} away", f"{now}-{by}={now - by}", now - by
    if kind == 1 and now < 50:
        return "doubles them", f"{now}*2={now * 2}", now * 2
    return f"gets {by} more", f"{now}+{by}={now + by}", now + by


def _others(rng: np.random.Generator, taken: set[int]) -> list[int]:
    """Two more numbers near those that are taken."""
    near = [n for n in range(max(1, min(taken) - 6), max(taken) + 7) if n not in taken]
    return [int(n) for n in rng.choice(near, 2, replace=False)]
