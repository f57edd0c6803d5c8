"""`check_env` says whether an environment may be trained on, and what to fix if not. Owns the order of checks.

Each family of checks has a module of its own in this folder. The checks play episodes with random calls,
empty turns and the environment's oracle. They find problems that such episodes show, and no others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from agentrl.env.base import Env, made_with
from agentrl.env.blame import fault_of, is_authors
from agentrl.env.check.contract import check_gymnasium, check_render, check_spaces, check_tasks
from agentrl.env.check.determinism import check_determinism, check_fork
from agentrl.env.check.hidden_inputs import check_inputs
from agentrl.env.check.outcomes import check_ends, check_faults, check_nothing, check_oracle, check_storable
from agentrl.env.check.player import HangError, Start, Subject, is_hang, nothing
from agentrl.env.check.prompt import check_prompt
from agentrl.env.check.report import CheckReport, Finding, worst_first
from agentrl.env.check.tool_calls import check_tools
from agentrl.env.registry import make
from agentrl.env.registry import spec as spec_of
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import TaskError

__all__ = ["CheckReport", "Finding", "check_env"]

_DEADLINE = 0.8
Check = Callable[[Subject], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    check_tasks,
    check_tools,
    check_gymnasium,
    check_spaces,
    check_faults,
    check_storable,
    check_determinism,
    check_inputs,
    check_fork,
    check_nothing,
    check_prompt,
    check_oracle,
    check_ends,
    check_render,
)


def check_env(
    env: str | type[Env] | Env, *, tasks: int = 8, timeout_s: float = 10.0, processes: bool = True, **kwargs: Any
) -> CheckReport:
    """Check an environment and say what is wrong and how to fix it.

    Takes some seconds. Code that hangs goes on in a daemon thread, which is abandoned.

    Args:
        env: a registered id, `package.module:Class`, `./file.py:Class`, a class, or an instance (whose
            class is made anew with the same arguments; the instance itself is not touched).
        tasks: how many tasks of each split to try.
        timeout_s: seconds that one episode, or one tool call, may take.
        processes: also play in two fresh processes, which takes a second or two.
        kwargs: given to the constructor.
    Returns: the findings, worst first; `report.ok` is whether none is an error.
    Raises: EnvNotFound if there is no such id.
    """
    if tasks < 1 or timeout_s <= 0:
        raise ValueError(f"tasks must be 1 or more and timeout_s more than 0, got {tasks} and {timeout_s}")
    name, env_class, make_one, reference = _source(env, kwargs)
    create = _hurried(make_one, timeout_s)
    try:
        starts = _starts(create(), tasks)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_authors(error):
            raise
        return _cannot_make(name, error)
    subject = Subject(name, env_class, create, starts, timeout_s, reference if processes else None, kwargs)
    problem = _first_reset(subject)
    if problem is not None:
        return CheckReport(name, (problem,), ("reset",))
    findings: list[Finding] = []
    ran: list[str] = []
    for check in CHECKS:
        findings += _run(check, subject)
        ran.append(_name(check))
        if any(finding.code in ("hangs", "tool-hangs") for finding in findings):
            break  # every other check would hang in the same place
    return CheckReport(name, worst_first(findings), tuple(ran))


def _source(
    env: str | type[Env] | Env, kwargs: Mapping[str, Any]
) -> tuple[str, type[Env], Callable[..., Env], str | None]:
    """Name, class, how to make a fresh instance, and the id or path by which another process can make it."""
    if isinstance(env, str):
        return env, spec_of(env).env_class, lambda **more: make(env, **{**kwargs, **more}), env
    if isinstance(env, type):
        return env.__qualname__, env, _creator(env, (), kwargs, None), _reference(env)
    env_class, (arguments, given) = type(env), made_with(env)
    create = _creator(env_class, arguments, {**given, **kwargs}, env)
    plain = not arguments and not given and env.limits == env_class.limits
    return env_class.__qualname__, env_class, create, _reference(env_class) if plain else None


def _hurried(make_one: Callable[..., Env], timeout_s: float) -> Callable[..., Env]:
    """Makes instances whose hooks have a deadline shorter than the limit of the thread that an episode runs in."""

    def create(**more: Any) -> Env:
        try:
            env = make_one(**more)
        except Exception:
            raise
        except BaseException as error:  # sys.exit must not end the check
            if not is_authors(error):
                raise
            raise fault_of("creating it", error) from error
        if isinstance(env, ToolEnv):
            env.hook_timeout_s = min(env.hook_timeout_s, _DEADLINE * timeout_s)  # type: ignore[misc]
        return env

    return create


def _creator(
    env_class: type[Env], arguments: tuple[Any, ...], kwargs: Mapping[str, Any], like: Env | None
) -> Callable[..., Env]:
    def create(**more: Any) -> Env:
        env = env_class(*arguments, **{**kwargs, **more})
        if like is not None:
            env.limits = like.limits
        env.spec = gymnasium.envs.registration.EnvSpec(
            id=env_class.__name__, entry_point=create, order_enforce=False, disable_env_checker=True
        )
        return env

    return create


def _reference(env_class: type[Env]) -> str | None:
    """`module:Class`, or None if another process cannot import it."""
    if env_class.__module__ == "__main__" or "." in env_class.__qualname__:
        return None
    return f"{env_class.__module__}:{env_class.__qualname__}" if env_class.__module__ in sys.modules else None


def _starts(env: Env, count: int) -> tuple[Start, ...]:
    """Seeds and tasks to begin from: `count` of each split, evenly spread over it."""
    starts = []
    seeds = iter(np.random.SeedSequence(20_261_122).generate_state(count * len(env.tasks.splits)).tolist())
    for name in env.tasks.splits:
        tasks = env.tasks.split(name)
        for place in np.linspace(0, len(tasks) - 1, min(count, len(tasks))).astype(int):
            starts.append(Start(int(next(seeds)), tasks[int(place)]))
    # Few tasks would give few episodes: begin each task from more seeds.
    first = [start.task for start in starts]
    while starts and len(starts) < count:
        starts.append(Start(int(next(seeds)), first[len(starts) % len(first)]))
    if not starts:
        raise TaskError("no split has a task")
    return tuple(starts)


def _cannot_make(name: str, error: BaseException) -> CheckReport:
    if isinstance(error, TaskError):
        found = Finding("tasks", "error", str(error), "make the splits disjoint, ids unique and no split empty")
    else:
        fix = "a constructor must work without arguments, or with those given to `register`"
        found = Finding("cannot-make", "error", f"creating it raised {type(error).__name__}: {error}", fix)
    return CheckReport(name, (found,), ("make",))


def _first_reset(subject: Subject) -> Finding | None:
    """A finding if reset fails; every other check needs it."""
    try:
        for start in subject.starts[:2]:
            fault = subject.play(nothing, start, max_steps=0).fault
            if is_hang(fault):
                return _hung(f"{fault} (task {start.task.id!r})")
            if fault is not None:
                problem = f"reset raised {type(fault).__name__}: {fault} (task {start.task.id!r})"
                return Finding("reset-fails", "error", problem, "fix `start`: it must work for every task")
    except HangError as error:
        return _hung(str(error))
    return None


def _run(check: Check, subject: Subject) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(check(subject))
    except HangError as error:
        found.append(_hung(str(error)))
    except Exception as error:  # author code can raise anything: that is a finding
        problem = f"the check {_name(check)!r} raised {type(error).__name__}: {error}"
        found.append(Finding("raises", "error", problem, "play an episode yourself to see the traceback"))
    return found


def _hung(text: str) -> Finding:
    fix = "give every wait a timeout; if the environment is meant to be slow: agentrl check --timeout SECONDS"
    return Finding("hangs", "error", text, fix)


def _name(check: Check) -> str:
    return check.__name__.removeprefix("check_")
