"""Checks on tools: none raises or hangs on arguments that fit its schema, and none makes other episodes wait."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentrl.env.check.player import HangError, Start, Subject, is_authors_fault, is_hang
from agentrl.env.check.report import Finding
from agentrl.env.tool_env import ToolEnv, call, tools_of
from agentrl.messages import Action
from agentrl.schemas.values import draw_arguments

_DRAWS = 64
_DRAWS_AT_LEAST = 8
SLOW_INLINE_S = 0.05
_SLOW_CALLS = 3


def check_tools(subject: Subject) -> Iterator[Finding]:
    """Every tool is called with random arguments on fresh episodes."""
    env = subject.create()
    if not isinstance(env, ToolEnv):
        return
    if not env.tool_schemas and not _answers_turns(subject) and env.limits.max_turns != 1:
        fix = "mark methods with @tool, or register with max_turns=1 if an episode is one answer"
        yield Finding("no-tools", "advice", "there are no tools and no `respond`", fix)
    for function, starts in _offered(subject, env).values():
        yield from _check_tool(subject, function, starts)


def _offered(subject: Subject, env: ToolEnv) -> dict[str, tuple[Mapping[str, Any], list[Start]]]:
    """Every tool that an episode offers, with the beginnings of the episodes that do: a task may choose its tools."""
    found: dict[str, tuple[Mapping[str, Any], list[Start]]] = {}
    for start in subject.starts:
        try:
            schemas = subject.run(_schemas(subject, start), "reset")
        except Exception:  # another check says that reset fails
            schemas = env.tool_schemas
        for schema in schemas:
            found.setdefault(schema["function"]["name"], (schema["function"], []))[1].append(start)
    return found


async def _schemas(subject: Subject, start: Start) -> Sequence[Mapping[str, Any]]:
    async with aclosing(subject.create()) as env:
        await env.areset(seed=start.seed, options={"task": start.task})
        return env.tool_schemas


def _answers_turns(subject: Subject) -> bool:
    return getattr(subject.env_class, "respond", None) is not ToolEnv.respond


def _check_tool(subject: Subject, function: Mapping[str, Any], starts: Sequence[Start]) -> Iterator[Finding]:
    name = function["name"]
    if not function.get("description"):
        fix = "write a docstring: the model knows nothing else about the tool"
        yield Finding("tool-undocumented", "warning", f"tool {name!r} has no description", fix)
    slow, answered, began = 0, 0, time.perf_counter()
    failed: tuple[Start, Mapping[str, Any], Exception] | None = None
    for index, (start, arguments) in enumerate(_draws(starts, function)):
        if index >= _DRAWS_AT_LEAST and time.perf_counter() - began > subject.timeout_s / 2:
            break
        try:
            outcome = subject.run(_call(subject, start, call(name, **arguments)), f"tool {name!r}")
        except HangError as error:
            yield _hang(arguments, str(error))
            return
        if outcome.fault is None:
            answered += 1
            slow += outcome.seconds > SLOW_INLINE_S and outcome.inline
        elif is_hang(outcome.fault) or is_authors_fault(outcome.fault):
            yield _raised(name, arguments, outcome.fault)
            return
        else:
            failed = failed or (start, arguments, outcome.fault)
    if failed is not None:
        yield _infrastructure(subject, name, *failed, others_work=answered > 0)
    if slow >= _SLOW_CALLS:
        problem = f"tool {name!r} took more than {SLOW_INLINE_S * 1000:.0f} ms in {slow} of {answered} calls, in place"
        fix = "every other episode waits for it: make it `async def`, or mark it @tool(blocking=True)"
        yield Finding("tool-slow", "advice", problem, fix)


def _draws(starts: Sequence[Start], function: Mapping[str, Any]) -> Iterator[tuple[Start, dict[str, Any]]]:
    """Where to begin, and arguments that fit the schema: every other one odd."""
    rng = np.random.default_rng(len(function["name"]))
    for index in range(_DRAWS if function["parameters"].get("properties") else _DRAWS_AT_LEAST):
        start = starts[index % len(starts)]
        yield start, draw_arguments(function["parameters"], rng, odd=index % 2 == 1)


def _infrastructure(
    subject: Subject, name: str, start: Start, arguments: Mapping[str, Any], fault: Exception, *, others_work: bool
) -> Finding:
    """A fault of something outside; an error if the same call fails again while the tool answers others."""
    given = f"tool {name!r} with arguments {_short(arguments)} raised {type(fault).__name__}: {fault}"
    fix = "if a model's arguments can cause it, raise ToolError instead; EnvFault is for broken infrastructure"
    again = subject.run(_call(subject, start, call(name, **arguments)), f"tool {name!r}").fault
    if again is not None and others_work:
        return Finding("tool-faults", "error", f"{given}, and again, while the tool answers other arguments", fix)
    return Finding("tool-faults", "warning", given, fix)


@dataclass(frozen=True)
class _Outcome:
    """One call: how long it ran, whether in place, and what it raised."""

    seconds: float
    inline: bool
    fault: Exception | None


async def _call(subject: Subject, start: Start, action: Action) -> _Outcome:
    env = subject.create()
    assert isinstance(env, ToolEnv)
    # Shorter than the limit of the thread around it, so that an awaiting tool is cancelled in time.
    env.tool_timeout_s = 0.8 * subject.timeout_s  # type: ignore[misc]
    inline = True
    try:
        await env.areset(seed=start.seed, options={"task": start.task})
        inline = tools_of(env)[action.tool_calls[0].name].is_inline
        began = time.perf_counter()
        try:
            await env.astep(action)
        except Exception as error:
            return _Outcome(time.perf_counter() - began, inline, error)
        return _Outcome(time.perf_counter() - began, inline, None)
    finally:
        await env.aclose()


def _raised(name: str, arguments: Mapping[str, Any], fault: Exception) -> Finding:
    if is_hang(fault):
        return _hang(arguments, str(fault))
    cause = fault.__cause__ or fault
    given = f"tool {name!r} with arguments {_short(arguments)}"
    fix = "raise ToolError with words for the model, or narrow the hint: Literal[...], Annotated[int, Field(ge=1)]"
    return Finding("tool-raises", "error", f"{given} raised {type(cause).__name__}: {cause}", fix)


def _hang(arguments: Mapping[str, Any], text: str) -> Finding:
    fix = "give every wait in it a timeout and every loop a bound; if it is meant to be slow: agentrl check --timeout"
    return Finding("tool-hangs", "error", f"{text}, with arguments {_short(arguments)}", fix)


def _short(arguments: Mapping[str, Any]) -> str:
    text = str(dict(arguments))
    return text if len(text) <= 120 else text[:117] + "..."
