"""Checks on how episodes end and on their rewards: 0 for doing nothing, 1 for the oracle.

Also checks that what an episode returns can be stored: `info` as JSON, rewards as finite numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from agentrl.env.check.player import (
    MAX_STEPS,
    Episode,
    Start,
    Subject,
    chance,
    is_authors_fault,
    is_hang,
    nothing,
    oracle,
    replay,
    say,
)
from agentrl.env.check.report import Finding
from agentrl.env.results import plain_number
from agentrl.messages import Message

_SMALL_REWARD = 0.1
_NO_ANSWER = "I do not know."


def check_faults(subject: Subject) -> Iterator[Finding]:
    """No text and no calls of a model make reset, step or score raise."""
    for index, start in enumerate(subject.starts):
        for name, behaviour in (("empty turns", nothing), ("random calls", chance(index))):
            fault = subject.play(behaviour, start).fault
            if fault is not None:
                yield _faulted(name, start, fault)
                return


def _faulted(name: str, start: Start, fault: Exception) -> Finding:
    """The finding for an episode that would be discarded for what a model did in it."""
    if is_hang(fault):
        return Finding("hangs", "error", f"{name}: {fault} ({_at(start)})", "give every wait a timeout")
    problem = f"{name} made the environment raise {type(fault).__name__}: {fault} ({_at(start)})"
    fix = "handle any text and any order of calls; raise ToolError in a tool to tell the model"
    code = "tool-raises" if str(fault).startswith("tool ") else "raises"
    if not is_authors_fault(fault):
        code = code.replace("raises", "faults") if code == "tool-raises" else code
        return Finding(code, "warning", problem, fix)
    return Finding(code, "error", problem, fix)


def check_oracle(subject: Subject) -> Iterator[Finding]:
    """The environment can be solved: its oracle earns 1 on every task tried."""
    if not hasattr(subject.env_class, "oracle"):
        fix = "add `def oracle(self, messages) -> Action | str`: it proves that tasks can be solved"
        problem = "there is no oracle, so nothing shows that a reward of 1 can be reached"
        yield Finding("no-oracle", "advice", problem, fix)
        return
    for start in subject.starts:
        try:
            episode = subject.play(oracle, start)
        except Exception as error:  # author code can raise anything: that is a finding
            problem = f"the oracle raised {type(error).__name__}: {error} ({_at(start)})"
            yield Finding("oracle-fails", "error", problem, "the oracle needs an action for every turn of its episodes")
            return
        if not episode.won() or episode.reward < 1.0 - 1e-9:
            fix = "fix the oracle, the scoring or the task; the limit on turns may also be too low"
            yield Finding("oracle-below-1", "error", f"the oracle earns {_earned(episode)} ({_at(start)})", fix)
            return


def check_nothing(subject: Subject) -> Iterator[Finding]:
    """Empty answers and refusals earn nothing."""
    for said in ("", _NO_ANSWER):
        episodes = [(start, subject.play(say(said), start)) for start in subject.starts]
        paid = [(start, episode) for start, episode in episodes if episode.reward > 1e-9 or episode.won()]
        if paid:
            start, episode = max(paid, key=lambda pair: pair[1].reward)
            mean = sum(episode.reward for _, episode in episodes) / len(episodes)
            serious = mean >= _SMALL_REWARD or any(episode.won() for _, episode in paid)
            problem = (
                f"answering {said!r} earns reward on {len(paid)} of {len(episodes)} tasks, "
                f"{mean:.3g} on average, at most {_earned(episode)} ({_at(start)})"
            )
            fix = "score what was achieved, not that the episode ended; remove rewards that need no work"
            yield Finding("reward-for-nothing", "error" if serious else "warning", problem, fix)
            return


def check_ends(subject: Subject) -> Iterator[Finding]:
    """An episode ends, whatever the policy does."""
    env = subject.create()
    if env.limits.max_wall_s is not None and env.limits.max_turns is None:
        return
    most = max(MAX_STEPS, (env.limits.max_turns or 0) + 1)
    for index, start in enumerate(subject.starts[:3]):
        first = subject.play(chance(index, talk=0.0), start, max_steps=1).actions
        again = replay([first[0]] * most) if first else nothing
        ways = {"empty turns": nothing, "random calls": chance(index), "one call again and again": again}
        for name, behaviour in ways.items():
            if not subject.play(behaviour, start, max_steps=most).ended:
                problem = f"{name} did not end the episode within {most} steps ({_at(start)})"
                fix = "set `limits = Limits(max_turns=...)`, or register with max_turns"
                yield Finding("never-ends", "error", problem, fix)
                return


def check_storable(subject: Subject) -> Iterator[Finding]:
    """Tasks, info and rewards survive JSON."""
    for start in subject.starts:
        unfit = _not_json(start.task.data)
        if unfit:
            fix = "keep str, int, float, bool, None, lists and dicts in a task's data"
            yield Finding("task-not-json", "error", f"data of task {start.task.id!r}: {unfit}", fix)
            return
    for index, start in enumerate(subject.starts[:4]):
        for behaviour in (nothing, chance(index)):
            for where, info, reward in subject.run(_returned(subject, behaviour, start), "an episode"):
                if not _is_finite(reward):
                    fix = "return a finite Python float"
                    yield Finding("bad-reward", "error", f"reward of {where} is {reward!r}", fix)
                    return
                unfit = _not_json(info)
                if unfit:
                    fix = "put plain numbers, text, lists and dicts into info; `array.tolist()`, `float(x)`"
                    yield Finding("info-not-json", "error", f"info of {where}: {unfit}", fix)
                    return


async def _returned(subject: Subject, behaviour: Any, start: Start) -> list[tuple[str, Mapping[str, Any], Any]]:
    """What reset and each step return, unchanged, up to the first exception."""
    env = subject.create()
    returned: list[tuple[str, Mapping[str, Any], Any]] = []
    messages: list[Message] = []
    try:
        observation, info = await env.areset(seed=start.seed, options={"task": start.task})
        returned.append(("reset", info, 0.0))
        for turn in range(1, MAX_STEPS):
            messages.extend(observation)
            observation, reward, terminated, truncated, info = await env.astep(behaviour(env, messages))
            returned.append((f"step {turn}", info, reward))
            if terminated or truncated:
                break
    except Exception:  # reported by check_faults
        return returned
    finally:
        await env.aclose()
    return returned


def _is_finite(reward: Any) -> bool:
    try:
        return math.isfinite(plain_number(reward, "reward"))
    except TypeError:
        return False


def _not_json(value: Any) -> str | None:
    try:
        json.dumps(dict(value) if isinstance(value, Mapping) else value, allow_nan=False)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _at(start: Start) -> str:
    return f"seed {start.seed}, task {start.task.id!r}"


def _earned(episode: Episode) -> str:
    if episode.fault is not None:
        return f"nothing: {type(episode.fault).__name__}: {episode.fault}"
    end = "" if episode.terminated else " (cut off at a limit)" if episode.ended else " (never ended)"
    verdict = "" if episode.success is None else f", success={episode.success}"
    return f"{episode.reward:.3g}{verdict}{end}"
