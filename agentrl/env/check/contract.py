"""Checks against Gymnasium's contract and ours: spaces, masks, messages, rendering, disjoint splits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env as check_with_gymnasium

from agentrl.env.base import Env
from agentrl.env.check.player import Start, Subject, chance
from agentrl.env.check.report import Finding
from agentrl.env.driving.wrapped import WrappedEnv
from agentrl.messages import Message

_STEPS = 20


def check_gymnasium(subject: Subject) -> Iterator[Finding]:
    """Gymnasium's own checker: its assertions become errors, its warnings become warnings."""
    fix = "see gymnasium.farama.org/api/env for the contract of reset, step, spaces and render"
    try:
        # In a thread without an event loop: `reset` of an environment that waits cannot run inside one.
        texts = subject.call(lambda: _warned(subject), "gymnasium.utils.env_checker.check_env")
    except Exception as error:
        yield Finding("gymnasium", "error", f"Gymnasium's checker: {error}", fix)
        return
    for text in dict.fromkeys(texts):
        yield Finding("gymnasium", "warning", f"Gymnasium's checker warns: {text}", fix)


def _warned(subject: Subject) -> list[str]:
    env = subject.create().unwrapped  # Gymnasium compares wrappers by identity
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            # Rendering has a check of its own, which names the mode that fails.
            check_with_gymnasium(env, skip_render_check=True)
        finally:
            env.close()
    return [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]


def check_spaces(subject: Subject) -> Iterator[Finding]:
    """Observations and sampled actions are in their spaces, and an action mask fits and allows something."""
    for index, start in enumerate(subject.starts[:4]):
        problem = subject.run(_space_problem(subject, start, index), "an episode")
        if problem is not None:
            yield problem
            return


async def _space_problem(subject: Subject, start: Start, index: int) -> Finding | None:
    env = subject.create()
    behave, messages = chance(index), list[Message]()
    try:
        observation, info = await env.areset(seed=start.seed, options={"task": start.task})
        for turn in range(_STEPS):
            where = "reset" if turn == 0 else f"step {turn}"
            problem = _of_observation(env, observation, where) or _of_mask(env, info, where)
            if problem is not None:
                return problem
            messages.extend(observation)
            observation, _, terminated, truncated, info = await env.astep(behave(env, messages))
            if terminated or truncated:
                return _of_observation(env, observation, f"step {turn + 1}")
    except Exception:  # reported by check_faults
        return None
    finally:
        await env.aclose()
    return None


def _of_observation(env: Env, observation: Any, where: str) -> Finding | None:
    fix = "return a tuple of agentrl.Message with the new messages only"
    if not env.observation_space.contains(observation):
        problem = f"the observation of {where} is not in observation_space: {str(observation)[:120]}"
        return Finding("bad-space", "error", problem, fix)
    for message in observation:
        if message.role == "assistant":
            problem = f"{where} returns an assistant message; only the policy's turns are assistant messages"
            return Finding("bad-space", "error", problem, fix)
        if not isinstance(message.content, str):
            problem = f"{where} returns a message whose content is {type(message.content).__name__}, not text"
            return Finding("bad-space", "error", problem, fix)
    sample = env.action_space.sample()
    if not env.action_space.contains(sample):
        problem = f"action_space.sample() gave {sample!r}, which action_space does not contain"
        return Finding("bad-space", "error", problem, "make sample and contains of the space agree")
    return None


def _of_mask(env: Env, info: Mapping[str, Any], where: str) -> Finding | None:
    """A mask in info must be one that the action space can sample with."""
    if "action_mask" not in info:
        return None
    mask, space = np.asarray(info["action_mask"]), env.action_space
    fix = "give one int8 per action: 1 if it is allowed, else 0; allow at least one"
    if isinstance(space, gymnasium.spaces.Discrete) and mask.shape != (int(space.n),):
        problem = f"action_mask of {where} has shape {mask.shape}, the action space {int(space.n)} actions"
        return Finding("bad-mask", "error", problem, fix)
    if not np.isin(mask, (0, 1)).all() or not mask.any():
        problem = f"action_mask of {where} must hold 0 and 1 and allow something, got {mask.tolist()}"
        return Finding("bad-mask", "error", problem, fix)
    return None


def check_render(subject: Subject) -> Iterator[Finding]:
    """Every render mode that the class declares works after reset."""
    for mode in subject.env_class.metadata.get("render_modes", ()):
        fix = f"implement render() for {mode!r}, or take it out of metadata['render_modes']"
        try:
            picture = subject.run(_rendered(subject, mode), f"render in mode {mode!r}")
        except Exception as error:
            problem = f"render in mode {mode!r} raised {type(error).__name__}: {error}"
            yield Finding("render", "error", problem, fix)
            continue
        if mode == "ansi" and not isinstance(picture, str):
            problem = f"render in mode 'ansi' must return text, got {type(picture).__name__}"
            yield Finding("render", "error", problem, fix)


async def _rendered(subject: Subject, mode: str) -> Any:
    is_wrapped = isinstance(subject.create(), WrappedEnv)  # a function may take other arguments than its class
    env: Any = subject.create() if is_wrapped else subject.create(render_mode=mode)
    env.unwrapped.render_mode = mode
    start = subject.starts[0]
    try:
        await env.areset(seed=start.seed, options={"task": start.task})
        return env.render()
    finally:
        await env.aclose()


def check_tasks(subject: Subject) -> Iterator[Finding]:
    """Splits are not empty, hold no task twice, and there is one to hold out."""
    env = subject.create()
    splits = {name: env.tasks.split(name) for name in env.tasks.splits}
    empty = [name for name, tasks in splits.items() if not tasks]
    if empty:
        yield Finding("tasks", "error", f"split {empty[0]!r} is empty", "give it tasks or leave it out")
    for name, tasks in splits.items():
        different = len({task.fingerprint for task in tasks})
        if different < len(tasks):
            problem = f"the {len(tasks)} tasks of split {name!r} have {different} different contents"
            fix = "keep one of each: intervals of a benchmark count every task as a further one"
            yield Finding("repeated-tasks", "warning", problem, fix)
    if len(splits) < 2:
        problem = f"there is only one split ({', '.join(splits)}), so nothing is held out to evaluate on"
        yield Finding("no-eval-split", "advice", problem, "add an `eval` split: Tasks.of(train=..., eval=...)")
