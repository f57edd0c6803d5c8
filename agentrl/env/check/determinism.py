"""Checks that an episode depends on its seed, its task and its actions, and on nothing else.

Another run, another instance, another process and a fork must all give the same transcript. Inputs that an
episode must not read belong to `agentrl.env.check.hidden_inputs`.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

import numpy as np

from agentrl.env.base import Env
from agentrl.env.check.fresh_process import marks_of, play_elsewhere
from agentrl.env.check.player import (
    Episode,
    Start,
    Subject,
    advance,
    begin,
    chance,
    first_difference,
    oracle,
    play_on,
    replay,
)
from agentrl.env.check.report import Finding
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ForkRefused
from agentrl.messages import Action

Marks = Mapping[str, Sequence[Sequence[str]]]
SEED_FIX = (
    "draw every random number from `self.np_random`, and sort a set before you use its order; where a library draws "
    "from the global generators, set `own_random = True`; files and `os.environ` outlive an episode: make new "
    "ones in `start`"
)
_SHARE_FIX = "create it in `start` or `__init__`, on `self`, never on the class or the module"


def check_determinism(subject: Subject) -> Iterator[Finding]:
    """The same actions give the same transcript: on two instances, in two processes, and next to another episode."""
    scripts = [(start, episode) for start, episode in _recorded(subject)]
    for start, first in scripts:
        again = subject.play(replay(first.actions), start, max_steps=len(first.actions))
        difference = first_difference(first.steps, again.steps)
        if difference is not None:
            yield _divergence(subject, start, first, difference)
            return
    yield from _interleaved(subject, scripts)
    yield from _elsewhere(subject, scripts)


def _recorded(subject: Subject) -> Iterator[tuple[Start, Episode]]:
    """Episodes to repeat: of random calls, and of the oracle, which gets further."""
    for index, start in enumerate(subject.starts):
        yield start, subject.play(chance(index), start)
    if hasattr(subject.env_class, "oracle"):
        for start in subject.starts[:3]:
            yield start, subject.play(oracle, start)


def _divergence(subject: Subject, start: Start, first: Episode, difference: str) -> Finding:
    """The cause of a difference: state that instances share, if such state was seen to change; else randomness."""
    where = f"seed {start.seed}, task {start.task.id!r}: {difference}"
    changed = _changed_by(subject, start, first.actions)
    if changed:
        return _shared(f"an earlier episode changes a later one ({where}); {', '.join(changed)} changed in between")
    problem = f"the same seed, task and actions gave a different episode ({where})"
    return Finding("nondeterministic", "error", problem, SEED_FIX)


def _shared(problem: str) -> Finding:
    return Finding("shared-state", "error", problem, _SHARE_FIX)


def _changed_by(subject: Subject, start: Start, actions: Sequence[Action]) -> list[str]:
    """Attributes of the class and globals of its module that an episode changes."""
    before = _common_values(subject.env_class)
    subject.play(replay(actions), start, max_steps=len(actions))
    after = _common_values(subject.env_class)
    return sorted(name for name, value in after.items() if before.get(name) != value)


def _common_values(env_class: type[Env]) -> dict[str, str]:
    """The values that instances share, as text: plain attributes of classes, plain globals of modules."""
    values = {}
    for base in env_class.__mro__:
        if base in ToolEnv.__mro__:
            continue
        places = {f"{base.__name__}.": vars(base), f"{base.__module__}.": vars(sys.modules[base.__module__])}
        for prefix, names in places.items():
            for name, value in names.items():
                if not name.startswith("__") and isinstance(value, (int, float, str, list, dict, set, bytearray)):
                    values[prefix + name] = repr(value)
                elif type(value).__module__ == "itertools" or isinstance(value, (random.Random, np.random.Generator)):
                    values[prefix + name] = repr(getattr(value, "bit_generator", value)) + str(_position(value))
    return values


def _position(value: Any) -> Any:
    """The position of a counter or generator."""
    if isinstance(value, random.Random):
        return hash(value.getstate())
    return value.bit_generator.state if isinstance(value, np.random.Generator) else repr(value)


def _interleaved(subject: Subject, scripts: Sequence[tuple[Start, Episode]]) -> Iterator[Finding]:
    """An episode reads the same when another instance plays in between its steps."""
    for (start, alone), (other_start, other) in itertools.pairwise(scripts):
        mixed = subject.run(_interleave(subject, start, alone, other_start, other), "two interleaved episodes")
        difference = first_difference(alone.steps, mixed.steps)
        if difference is not None:
            where = f"seed {start.seed}, task {start.task.id!r}: {difference}"
            yield _shared(f"an episode reads differently when another instance plays in between ({where})")
            return


async def _interleave(subject: Subject, start: Start, alone: Episode, other_start: Start, other: Episode) -> Episode:
    mine, theirs = Episode(), Episode()
    async with aclosing(subject.create()) as env, aclosing(subject.create()) as neighbour:
        await begin(env, mine, start)
        await begin(neighbour, theirs, other_start)
        for index in range(max(len(alone.actions), len(other.actions))):
            if index < len(other.actions) and not theirs.ended:
                await advance(neighbour, theirs, other.actions[index])
            if index < len(alone.actions) and not mine.ended:
                await advance(env, mine, alone.actions[index])
    return mine


def _elsewhere(subject: Subject, scripts: Sequence[tuple[Start, Episode]]) -> Iterator[Finding]:
    """Another process, with another order of sets, makes the same tasks and gives the same transcript."""
    tasks = subject.create().tasks
    here = marks_of(tasks)
    found = play_elsewhere(subject, scripts)
    for other in [one.tasks for one in found] or [marks_of(tasks.made_again())]:
        difference = _other_tasks(here, other)
        if difference is not None:
            problem = f"made again, the environment has other tasks: {difference}"
            fix = "make the same tasks in every process: draw from the generator that Tasks.generate gives, with a seed"
            yield Finding("tasks-differ", "error", problem, fix)
            return
    for one in found:
        for (start, episode), steps in zip(scripts, one.transcripts, strict=True):
            difference = first_difference(json.loads(json.dumps(episode.steps)), steps)
            if difference is not None:
                where = f"seed {start.seed}, task {start.task.id!r}: {difference}"
                problem = f"another process, with another PYTHONHASHSEED, gave a different episode ({where})"
                yield Finding("nondeterministic", "error", problem, SEED_FIX)
                return


def _other_tasks(here: Marks, there: Marks) -> str | None:
    """The first difference between two makings of the tasks."""
    if list(here) != list(there):
        return f"splits {', '.join(here)} against {', '.join(there)}"
    for name, tasks in here.items():
        if len(tasks) != len(there[name]):
            return f"split {name!r} has {len(tasks)} tasks against {len(there[name])}"
        for (one, mark), (other, other_mark) in zip(tasks, there[name], strict=True):
            if one != other:
                return f"task {one!r} of split {name!r} stands where {other!r} is"
            if mark != other_mark:
                return f"task {one!r} of split {name!r} has other data"
    return None


def check_fork(subject: Subject) -> Iterator[Finding]:
    """At any turn, a fork and its origin continue alike, and neither disturbs the other."""
    for start, episode in list(_recorded(subject))[-4:]:
        for turn in range(min(len(episode.actions), 5)):
            try:
                tails = subject.run(_forked(subject, start, episode, turn), "a fork")
            except ForkRefused:  # the environment says so itself
                return
            except (TypeError, AttributeError, ValueError, RuntimeError, NotImplementedError) as error:
                fix = "list what cannot be copied in `not_state`, and give its content in save_extra/load_extra"
                yield Finding("fork-fails", "error", f"fork at turn {turn} raised {error!r}", fix)
                return
            for name, steps in tails.items():
                difference = first_difference(episode.steps[turn + 1 :], steps)
                if difference is not None:
                    problem = (
                        f"the {name} continues differently from turn {turn} "
                        f"(seed {start.seed}, task {start.task.id!r}, {difference} from there)"
                    )
                    fix = "keep all of an episode's state on `self`, or in save_extra/load_extra"
                    yield Finding("fork-diverges", "error", problem, fix)
                    return


async def _forked(subject: Subject, start: Start, episode: Episode, turn: int) -> dict[str, list[Any]]:
    async with AsyncExitStack() as opened:
        env = await opened.enter_async_context(aclosing(subject.create()))
        played = await play_on(env, replay(episode.actions), start, max_steps=turn)
        state = await env.aget_state()
        twin = await opened.enter_async_context(aclosing(await env.afork()))
        loaded = await opened.enter_async_context(aclosing(subject.create()))
        await loaded.aset_state(state)
        tails: dict[str, list[Any]] = {}
        for name, instance in (("fork", twin), ("origin of a fork", env), ("instance after set_state", loaded)):
            tail = Episode(ended=played.ended)
            for action in episode.actions[turn:]:
                if not tail.ended:
                    await advance(instance, tail, action)
            tails[name] = list(tail.steps)
            await instance.aclose()  # closing one must not disturb the others
        return tails
