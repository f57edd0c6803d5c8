"""One episode: an environment and a policy take turns, and a `Trajectory` comes out.

Owns the turn loop and what counts as a fault. Concurrency, retries and storing belong to
`agentrl.rollout.runner`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import sysconfig
import traceback
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from agentrl.env.base import Env, as_action
from agentrl.errors import EnvFault, PolicyFault, TaskError
from agentrl.messages import Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.trajectory import Task, Trajectory, Turn

logger = logging.getLogger(__name__)
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OURS = tuple(os.path.join(_HERE, floor, "") for floor in ("env", "policy", "rollout", "sandboxed", "tools"))
_INSTALLED = tuple(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "purelib", "platlib"))
_numbers = itertools.count()


async def run_episode(
    env: Env,
    policy: Policy,
    task: Task,
    seed: int,
    *,
    env_id: str,
    sampling: SamplingParams | None = None,
    group_id: str = "",
    episode_id: str = "",
    attempt: int = 0,
    info: Mapping[str, Any] | None = None,
) -> Trajectory:
    """Play one episode to its end.

    A fault (`EnvFault`, `PolicyFault`, or any exception from the environment author's code) is
    recorded on the trajectory with its cause and never raised; the turns before it are kept. An
    exception from the policy that is no `PolicyFault` is a bug and propagates, as does cancellation; that of
    an oracle, which is a method of the environment, is a fault.
    The policy is told to release the episode in every case; `env` stays open.

    Args:
        env: is reset here; must serve no other episode meanwhile.
        policy: asked once per turn with the whole conversation, a list that grows between turns.
        task: what `areset` starts from.
        seed: of the environment's randomness.
        env_id: recorded.
        sampling: handed to every `act`; its `seed` is this episode's sampling stream.
        group_id, episode_id, attempt: recorded; a unique id is made where `episode_id` is empty.
        info: added to the final info (`phase`, `step`).
    Returns: the trajectory; `status` is `terminated`, `truncated` or `fault`.
    """
    number = next(_numbers)
    episode_id = episode_id or f"episode-{number}"
    trajectory = Trajectory(
        env_id, task, seed, group_id=group_id, episode_id=episode_id, attempt=attempt, tools=env.tool_schemas
    )
    key = f"{episode_id}#{number}"
    players: list[Policy] = [policy]
    try:
        final = await _play(trajectory, env, players, key, sampling)
    except (EnvFault, PolicyFault) as fault:
        final = {"task_id": task.id}
        mark_fault(trajectory, fault)
    finally:
        await players[-1].release(key)
    trajectory.info = {**final, **info} if info else final
    return trajectory


async def _play(
    trajectory: Trajectory, env: Env, players: list[Policy], key: str, sampling: SamplingParams | None
) -> dict[str, Any]:
    """Fill the trajectory's turns and status; return the final info. Raises EnvFault, PolicyFault."""
    place = "reset"  # what of the environment author's code is running: an exception from there is a fault
    try:
        started = perf_counter()
        observation, first_info = await env.areset(seed=trajectory.seed, options={"task": trajectory.task})
        place = ""
        policy = players[0].bind(env)
        players.append(policy)
        # A policy that looks into its environment asks a method of it: the author's code again.
        asked_place = "the oracle or demonstrator" if policy is not players[0] else ""
        tools = trajectory.tools
        state_key = env.state_key if type(env).state_key is not Env.state_key else None
        conversation: list[Message] = list(observation)
        env_s = perf_counter() - started
        while True:
            anchor = None
            if state_key is not None:
                place = "state_key"
                anchor = state_key()
            asked, place = perf_counter(), asked_place
            action = as_action(await policy.act(conversation, tools, episode_id=key, sampling=sampling))
            answered, place = perf_counter(), ""
            turn = Turn(observation, action, state_key=anchor, policy_s=answered - asked)
            trajectory.turns.append(turn)
            if action.finish_reason == "abort":
                raise PolicyFault("the policy aborted the turn")
            place = "step"
            observation, reward, terminated, truncated, info = await env.astep(action)
            turn.reward = float(reward)
            place = ""
            turn.env_s = env_s + perf_counter() - answered
            env_s = 0.0
            components = info.get("reward_components")
            if components:
                turn.reward_components = components
            turn.next_observation = observation
            if not math.isfinite(turn.reward):
                raise EnvFault(f"step returned reward {reward!r}; a reward must be a finite number")
            if terminated or truncated:
                trajectory.status = "terminated" if terminated else "truncated"
                return {**first_info, **{k: v for k, v in info.items() if k != "reward_components"}}
            conversation.append(action.to_message())
            conversation.extend(observation)
    except (Exception, asyncio.CancelledError) as error:
        fault = _fault_of(error, place) if place else None
        if fault is None:
            raise
        raise fault from error


def _fault_of(error: BaseException, place: str) -> EnvFault | None:
    """The fault that stands for what the author's code raised; None where it is one, or a real cancellation."""
    if isinstance(error, (EnvFault, PolicyFault, TaskError)):
        return None
    if isinstance(error, asyncio.CancelledError):
        return None if _is_cancelled() else EnvFault(f"{place} awaited something that had been cancelled")
    return EnvFault(f"{place} raised {type(error).__name__}: {error}")


def _is_cancelled() -> bool:
    """Whether this very task was asked to stop, as opposed to something that it awaited."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True
    return task is None or task.cancelling() > 0


def mark_fault(trajectory: Trajectory, fault: BaseException) -> None:
    """Void a trajectory and record the cause with the author's line that raised."""
    place = _origin(fault)
    trajectory.status = "fault"
    trajectory.error = f"{type(fault).__name__}: {fault}" + (f" ({place})" if place else "")
    logger.warning("episode %s of %s is void: %s", trajectory.episode_id, trajectory.env_id, trajectory.error)
    logger.debug("the cause of the fault", exc_info=fault)


def _origin(fault: BaseException) -> str:
    """`file:line in function` of the author's deepest frame, from the root cause."""
    cause = fault
    while cause.__cause__ is not None:
        cause = cause.__cause__
    frames = [f for f in reversed(traceback.extract_tb(cause.__traceback__)) if not f.filename.startswith(_OURS)]
    own = [f for f in frames if not f.filename.startswith(_INSTALLED)] or frames
    return f"{os.path.basename(own[0].filename)}:{own[0].lineno} in {own[0].name}" if own else ""
