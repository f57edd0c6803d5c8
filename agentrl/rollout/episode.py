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
import traceback
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from msgspec import structs

from agentrl.env.author_code import called, watched
from agentrl.env.base import Env, Observation, StepResult, as_action
from agentrl.env.blame import fault_of, is_authors
from agentrl.env.results import plain_components, plain_messages, plain_name, plain_truth
from agentrl.env.started.tasks import guard_loop
from agentrl.env.tool_env import ToolEnv
from agentrl.env.watchdog import limit_of
from agentrl.errors import EnvFault, PolicyError, PolicyFault, TaskError
from agentrl.file_modules import IMPORTER, INSTALLED
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.plain_json import as_json
from agentrl.token_ids import TokenIds
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn

logger = logging.getLogger(__name__)
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FLOORS = ("env", "policy", "rollout", "sandboxed", "serving", "tools")
_OURS = (IMPORTER, *(os.path.join(_HERE, floor, "") for floor in _FLOORS))
_numbers = itertools.count()
# Ways in which a turn ends the episode as a failure, without the environment being asked.
MODEL_ENDED = ("content_filter", "refused")


async def run_episode(
    env: Env,
    policy: Policy,
    task: Task,
    seed: int,
    *,
    ref: EnvRef | None = None,
    sampling: SamplingParams | None = None,
    group_id: str = "",
    episode_id: str = "",
    labels: Labels = Labels(),  # noqa: B008 (frozen)
    on_fault: Callable[[EnvFault | PolicyFault], None] | None = None,
    earlier: Trajectory | None = None,
    key: str = "",
    fork: tuple[str, int] | None = None,
) -> Trajectory:
    """Play one episode to its end.

    A fault (`EnvFault`, `PolicyFault`, or any exception from the environment author's code) is recorded on the
    trajectory with its cause and never raised; the turns before it are kept. Any other exception from the policy is a
    bug and propagates, as does cancellation. An oracle is a method of the environment: its exceptions are faults.

    Args:
        env: is reset here, and stays open; must not serve another episode at the same time.
        policy: asked once per turn with the whole conversation, a list that grows between turns.
        task, seed: what `areset` starts from; the policy's own seed is in `sampling`, which is handed to every `act`.
        ref: the environment's identity, recorded; by default what `make` set on it, or the class's name.
        group_id, episode_id, labels, fork: recorded; a unique id is made where `episode_id` is empty.
        on_fault: called with the fault that ended it.
        earlier: an attempt that ended in a fault, or what the episode continues. Its actions are taken again, without
            asking the policy, for as long as the environment answers as it did then (before the turn of `fork` another
            answer is a fault): a policy gets no second choice by making its episode fault.
        key: under which the policy keeps the episode; the caller releases it. By default a new one, released here.
    Returns: the trajectory, with its ending.
    """
    own_key = key or new_key(episode_id)
    trajectory = Trajectory(
        ref or getattr(env.unwrapped, "ref", None) or EnvRef(type(env).__name__),
        task,
        seed,
        group_id=group_id,
        episode_id=episode_id or f"episode-{own_key.removeprefix('#')}",
        labels=labels,
        fork=fork,
        sampling=sampling,
    )
    players: list[Policy] = [policy]
    if earlier is not None:
        env.unwrapped._agentrl_recall(earlier)  # type: ignore[attr-defined]
    guard_loop()
    try:
        trajectory.info = await _play(trajectory, env, players, own_key, sampling, earlier)
    except (EnvFault, PolicyFault) as fault:
        mark_fault(trajectory, fault)
        if on_fault is not None:
            on_fault(fault)
    finally:
        if not key or players[-1] is not policy:
            await players[-1].release(own_key)
    return trajectory


def new_key(episode_id: str) -> str:
    """A name for an episode that no other episode of this process has."""
    return f"{episode_id}#{next(_numbers)}"


def _taken_before(earlier: Trajectory, now: Trajectory, observation: Observation, anchor: str | None) -> Turn | None:
    """The next turn of an earlier attempt; None where that ended, or where the environment answers otherwise.

    Raises: EnvFault if the environment answers otherwise before the turn at which a continuation begins.
    """
    index = len(now.turns)
    former = earlier.turns[index] if index < len(earlier.turns) else None
    if former is None or former.observation != observation or former.action.finish_reason == "abort":
        if index < now.first_own_turn:
            raise _diverged(now)
        return None
    return Turn(observation, former.action, state_key=anchor, policy_s=former.policy_s)


async def _play(
    trajectory: Trajectory,
    env: Env,
    players: list[Policy],
    key: str,
    sampling: SamplingParams | None,
    earlier: Trajectory | None,
) -> dict[str, Any]:
    """Fill the trajectory's turns and ending; return the final info. Raises EnvFault, PolicyFault."""
    place = "reset"  # what of the environment author's code is running: an exception from there is a fault
    asked_place, given = "", trajectory.first_own_turn
    try:
        started = perf_counter()
        observation, first_info = await _reset(env, trajectory)
        trajectory.tools, place = env.tool_schemas, ""
        policy = players[0].bind(env)
        players.append(policy)
        # A policy that looks into its environment asks a method of it: the author's code again.
        asked_place = "the oracle or demonstrator" if policy is not players[0] else ""
        earlier, tools = None if asked_place and not given else earlier, trajectory.tools
        conversation: list[Message] = list(observation)
        turns, env_s = trajectory.turns, perf_counter() - started
        while True:
            place = "state_key"
            anchor = _state_key(env)
            place = asked_place
            turn = None if earlier is None else _taken_before(earlier, trajectory, observation, anchor)
            if turn is None:
                earlier, asked = None, perf_counter()
                action = await _asked(policy, policy.act(conversation, tools, episode_id=key, sampling=sampling))
                action = action if action.prompt_ids is None else _shared(action, trajectory)
                turn = Turn(observation, action, 0.0, {}, (), anchor, perf_counter() - asked)
            place, action = "", turn.action
            turns.append(turn)
            if action.finish_reason == "abort":
                raise PolicyFault("the policy aborted the turn")
            if action.finish_reason in MODEL_ENDED:
                trajectory.ending = Ending("error", action.finish_reason)
                return {**first_info, "success": False}
            place, answered = "step", perf_counter()
            observation, reward, terminated, truncated, info = await _step(env, action)
            turn.env_s, env_s = env_s + perf_counter() - answered, 0.0
            turn.next_observation, turn.reward = observation, _finite(reward)
            turn.reward_components = info.get("reward_components") or {}
            if terminated or truncated:
                if len(turns) <= given:
                    raise _diverged(trajectory)
                trajectory.ending = ending_of(env, truncated=truncated and not terminated)
                _finite(trajectory.reward)
                return _final_info(env, first_info, info)
            place = ""
            conversation.append(action.to_message())
            conversation.extend(observation)
    except BaseException as error:
        fault = _fault_of(error, place)
        if fault is None:
            raise
        fault.after_action = _acted(trajectory) and (isinstance(fault, PolicyFault) or place != asked_place)
        raise fault from (error if fault is not error else error.__cause__)


async def _asked(policy: Policy, acting: Awaitable[Action]) -> Action:
    """The policy's turn. Raises: PolicyError if it is none, or if the policy's code cancelled what it waits for."""
    try:
        turn = await acting
    except asyncio.CancelledError as error:
        if not is_authors(error):
            raise
        raise PolicyError(f"policy {policy.name!r} awaited something that had been cancelled") from error
    try:
        return as_action(turn)
    except (TypeError, ValueError) as error:
        raise PolicyError(f"what policy {policy.name!r} returned is no turn: {error}") from None


# What an environment hands out is made plain while its own code is at fault for what cannot be: a model may have
# written it, and the store, a measure or the learner would fail on it later, and with it the run.


async def _reset(env: Env, trajectory: Trajectory) -> tuple[Observation, dict[str, Any]]:
    resetting = env.areset(seed=trajectory.seed, options={"task": trajectory.task})
    observation, info = await watched(resetting, (env.unwrapped, "reset", limit_of(env.unwrapped)))
    return plain_messages(observation), info


def _step(env: Env, action: Action) -> Awaitable[StepResult]:
    """The step of an environment. `ToolEnv` watches each hook and tool for itself, and makes plain what they return."""
    stepping = env.astep(action)
    return stepping if type(env).astep is ToolEnv.astep else _plain_step(env, stepping)


async def _plain_step(env: Env, stepping: Awaitable[StepResult]) -> StepResult:
    result = await watched(stepping, (env.unwrapped, "step", limit_of(env.unwrapped)))
    observation, reward, terminated, truncated, info = result
    parts = info.get("reward_components")
    if parts:
        info = {**info, "reward_components": plain_components(parts)}
    over = plain_truth(terminated, "terminated"), plain_truth(truncated, "truncated")
    return plain_messages(observation), _finite(reward), *over, info


def _state_key(env: Env) -> str | None:
    if type(env.unwrapped).state_key is Env.state_key:  # type: ignore[attr-defined]
        return None
    name: str | None = _from_author(env, "state_key", lambda: plain_name(env.state_key()))
    return name


def _final_info(env: Env, first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """What an environment says at the end of an episode, as JSON."""
    info = {**first, **{name: value for name, value in last.items() if name != "reward_components"}}
    if info.get("success") is not None:
        info["success"] = plain_truth(info["success"], "success")
    made: dict[str, Any] = _from_author(env, "info", lambda: as_json(info))
    return made


def _from_author(env: Env, name: str, make: Callable[[], Any]) -> Any:
    """What is made of an author's objects, watched as a hook."""
    return called(make, (env.unwrapped, name, limit_of(env.unwrapped)))


def _shared(action: Action, trajectory: Trajectory) -> Action:
    """The action with its prompt in the list of the prompt before, so that an episode holds each token once."""
    given = action.prompt_ids
    if given is None or isinstance(given, TokenIds):
        return action
    earlier = trajectory.turns[-1].action.prompt_ids if trajectory.turns else None
    return structs.replace(action, prompt_ids=TokenIds.sharing(given, earlier))


def _acted(trajectory: Trajectory) -> bool:
    """Whether the policy acted; the turns of an episode that this one continues were taken before without a fault."""
    return any(turn.action.finish_reason != "abort" for turn in trajectory.turns[trajectory.first_own_turn :])


def _diverged(trajectory: Trajectory) -> EnvFault:
    return EnvFault(
        f"turn {trajectory.fork} cannot be reached again: the same actions were answered differently after turn "
        f"{len(trajectory.turns) - 1}. An environment that is forked must be a function of its task, its seed and the "
        "actions (`agentrl check` shows what is not)",
        who="author",
    )


def _fault_of(error: BaseException, place: str) -> EnvFault | PolicyFault | None:
    """The fault of an exception; None if it is a bug of the policy, bad input or a cancellation, which propagate."""
    if isinstance(error, EnvFault) or (isinstance(error, PolicyFault) and not place):
        return error
    if not place or (isinstance(error, TaskError) and place == "reset") or not is_authors(error):
        return None
    return fault_of(place, error)  # a policy that the author's code asks is a server of the environment


def _finite(reward: float) -> float:
    if not math.isfinite(reward):
        raise EnvFault(f"step returned reward {reward!r}; a reward must be a finite number", who="author")
    return float(reward)


def ending_of(env: Env, *, truncated: bool) -> Ending:
    """Why the episode ended: the environment's own `ending` if it agrees with `truncated`, else a general one."""
    own = getattr(env.unwrapped, "ending", None)
    if isinstance(own, Ending) and (own.kind == "limit") == truncated:
        return own
    return Ending("limit", "truncated") if truncated else Ending("environment")


def mark_fault(trajectory: Trajectory, fault: EnvFault | PolicyFault) -> None:
    """Discard a trajectory: record the cause, with the author's line that raised, in place of the final info."""
    trajectory.info = {"task_id": trajectory.task.id}
    place = _origin(fault)
    detail = f"{type(fault).__name__}: {fault}" + (f" ({place})" if place else "")
    trajectory.ending = Ending("fault", detail, fault.at)
    logger.warning("episode %s of %s is discarded: %s", trajectory.episode_id, trajectory.env.id, trajectory.error)
    logger.debug("the cause of the fault", exc_info=fault)


def _origin(fault: BaseException) -> str:
    """`file:line in function` of the author's deepest frame, from the root cause."""
    cause, seen = fault, {id(fault)}
    while cause.__cause__ is not None and id(cause.__cause__) not in seen:  # an author may raise an error from itself
        cause = cause.__cause__
        seen.add(id(cause))
    frames = [f for f in reversed(traceback.extract_tb(cause.__traceback__)) if not f.filename.startswith(_OURS)]
    own = [f for f in frames if not f.filename.startswith(INSTALLED)] or frames
    return f"{os.path.basename(own[0].filename)}:{own[0].lineno} in {own[0].name}" if own else ""
