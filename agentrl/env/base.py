"""The environment contract: a Gymnasium environment that is written with asynchronous methods.

Owns seeding, the choice of a task, the names of limits, state and forking, and how `reset`, `step` and `close`
run the asynchronous methods. Tools and scoring belong to `agentrl.env.tool_env`.
"""

from __future__ import annotations

import asyncio
import copy
import weakref
from collections.abc import Coroutine, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self, TypeVar

import gymnasium
import numpy as np
from gymnasium.utils import seeding

from agentrl.env.author_code import forget_episode, held_elsewhere
from agentrl.env.driving.without_loop import contains_await, loop_is_running, run_without_loop
from agentrl.env.driving.wrapped import awaited_for_a_wrapper
from agentrl.env.spaces import ActionSpace, MessagesSpace
from agentrl.env.tasks import Tasks
from agentrl.errors import ForkRefused, TaskError
from agentrl.messages import Action, Message
from agentrl.registry import load_reference, reference_to
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory

T = TypeVar("T")
Observation = tuple[Message, ...]
StepResult = tuple[Observation, float, bool, bool, dict[str, Any]]


@dataclass(frozen=True)
class Limits:
    """When an episode is cut off (`truncated`); None means no such limit.

    Attributes:
        max_turns: model turns.
        max_tokens: sampled tokens over the episode, where the policy reports them.
        max_wall_s: wall seconds since reset.
    """

    max_turns: int | None = 10
    max_tokens: int | None = None
    max_wall_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_turns", "max_tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} must be a whole number from 1 on, or None for no limit, got {value!r}")
        seconds = self.max_wall_s
        if seconds is None:
            return
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
            raise ValueError(f"max_wall_s must be a number of seconds from 0 on, or None for no limit, got {seconds!r}")


class Env(gymnasium.Env[Observation, Any]):
    """A multi-turn environment: observations are the NEW messages only, actions are assistant turns.

    Subclasses implement `areset` and `astep`; `reset` and `step` run them. Randomness comes from
    `self.np_random` alone. A method `oracle(messages)` is optional: it returns the right next action,
    for demonstrations and checks.
    """

    # Gymnasium requires a frame rate of every environment that renders; for text it means nothing.
    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012
    observation_space = MessagesSpace()
    action_space = ActionSpace()
    tasks: Tasks = Tasks.of(train=[{}])
    limits: Limits = Limits()
    demonstrators: ClassVar[tuple[str, ...]] = ("oracle",)
    # Whether `get_state` holds all of an episode's state. False where a server holds a part of it: forks are refused.
    can_fork: bool = True
    # Distributions whose versions belong to the environment's version: those of a third-party suite.
    third_party: ClassVar[tuple[str, ...]] = ()
    # What is known to be wrong with the tasks or their scores, a sentence each; shown where results are read.
    known_flaws: ClassVar[tuple[str, ...]] = ()
    # Attributes that are not part of an episode's state: never copied by get_state.
    not_state: ClassVar[tuple[str, ...]] = ()

    task: Task
    render_mode: str | None = None
    # Set by `registry.make`: what this environment is.
    ref: EnvRef | None = None
    # Why the episode ended, where the environment tells; set by the step that ends it.
    ending: Ending | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.__init_arguments = (args, kwargs)
        self.__runner = None
        self.observation_space = cls.observation_space.for_instance()
        self.action_space = cls.action_space.for_instance()
        return self

    __init_arguments: tuple[tuple[Any, ...], dict[str, Any]]
    __runner: asyncio.Runner | None

    def __init__(self, *, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    @property
    def tool_schemas(self) -> Sequence[Mapping[str, Any]]:
        """OpenAI definitions of the tools that the model may call; none by default."""
        return ()

    # The asynchronous methods.

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of `self.np_random`; the same seed and task give the same episode.
            options: `task` (a Task or its id) or `split` (a name, from which a task is drawn).
        Returns: the first messages, and info.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement areset")

    async def astep(self, action: Any) -> StepResult:
        """Take one assistant turn: an `Action`, plain text, or an OpenAI assistant message."""
        raise NotImplementedError(f"{type(self).__name__} must implement astep")

    async def aclose(self) -> None:
        """Free what the environment holds; safe to call twice."""

    def make_readable(self, tools: Set[str]) -> None:
        """Answer faults of these tools as errors that the model reads, for as long as this instance lives.

        A rollout asks for it where a fault has come again on the same actions while the tools serve others. By default
        nothing changes, and the episode then counts as failed.
        """

    def _agentrl_recall(self, earlier: Trajectory) -> None:
        """Let the next episode hear what simulated users said in a record of it; by default there are none.

        Args: earlier: of the same task and seed.
        """

    def _begin(self, seed: int | None, options: Mapping[str, Any] | None) -> Task:
        """Seed the generator and choose the task; the first thing that `areset` does."""
        if type(seed) is int and seed >= 0:
            self.__seeded_generator, self._np_random_seed, self.__unused_seed = None, seed, seed
        else:
            super().reset(seed=seed)
        options = options or {}
        task = options.get("task")
        if isinstance(task, str):
            task = self.tasks[task]
        elif task is None:
            split = options.get("split", self.tasks.splits[0])
            tasks = self.tasks.split(split)
            if not tasks:
                raise TaskError(f"split {split!r} of {type(self).__name__} is empty: give it tasks, or choose another")
            task = tasks[int(self.np_random.integers(len(tasks)))]
        self.task, self.ending = task, None
        forget_episode(self)
        return task

    # Making a generator costs as much as several steps, and most episodes are given their task and draw
    # nothing. So the generator of a seed is made on first use.

    __seeded_generator: np.random.Generator | None = None
    __unused_seed: int | None = None

    @property
    def _np_random(self) -> np.random.Generator | None:
        if self.__unused_seed is not None:
            self.__seeded_generator, _ = seeding.np_random(self.__unused_seed)
            self.__unused_seed = None
        return self.__seeded_generator

    @_np_random.setter
    def _np_random(self, generator: np.random.Generator | None) -> None:
        self.__seeded_generator, self.__unused_seed = generator, None

    # The synchronous methods.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        return self.__drive(self.areset(seed=seed, options=options))

    def step(self, action: Any) -> StepResult:
        return self.__drive(self.astep(action))

    def close(self) -> None:
        if self.__dict__.get("_agentrl_in_aclose"):  # by an author's own `close`, which `aclose` has called
            return
        try:
            self.__drive(self.aclose())
        finally:
            if self.__runner is not None and not loop_is_running():
                self.__runner.close()
                self.__runner = None

    def _agentrl_waits(self) -> bool:
        """Whether `areset`, `astep` or `aclose` may wait, so that they need an event loop."""
        return any(contains_await(getattr(type(self), name)) for name in ("areset", "astep", "aclose"))

    def __drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if not self._agentrl_waits():
            return run_without_loop(coroutine)
        wait = awaited_for_a_wrapper()
        if wait is not None:
            return wait(coroutine)
        if loop_is_running():
            coroutine.close()
            raise RuntimeError(
                f"{type(self).__name__} waits inside a step, and an event loop is running here: "
                "use `await env.areset()`, `await env.astep(action)` and `await env.aclose()` instead, "
                "for state `await env.aget_state()`, `await env.aset_state(state)` and `await env.afork()`"
            )
        if self.__runner is None:
            self.__runner = asyncio.Runner()
            # Not the runner's own `close`: it runs the loop, and another loop may be running when this is dropped.
            weakref.finalize(self, self.__runner.get_loop().close)
        return self.__runner.run(coroutine)

    # State.

    def get_state(self) -> dict[str, Any]:
        """A copy of the episode so far; `set_state` on an instance of this class continues from it.

        An attribute that cannot be deep-copied (a connection, a file) belongs in `not_state`, and
        its content in `save_extra`/`load_extra`.

        Raises: TypeError that names an attribute which cannot be copied.
        """
        skip = self.__skipped()
        # In the copy, a reference to this instance becomes one to the instance that continues.
        memo: dict[int, Any] = {id(self): _SELF}
        state = {name: self.__copied(name, value, memo) for name, value in self.__dict__.items() if name not in skip}
        return {"attributes": state, "extra": self.save_extra()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what `get_state` returned; the state may be used again."""
        skip = self.__skipped()
        for name in [name for name in self.__dict__ if name not in skip]:
            del self.__dict__[name]
        memo: dict[int, Any] = {id(_SELF): self}
        self.__dict__.update({name: copy.deepcopy(value, memo) for name, value in state["attributes"].items()})
        self.load_extra(state["extra"])

    @classmethod
    @cache
    def __skipped(cls) -> frozenset[str]:
        return _NOT_STATE.union(*(c.__dict__.get("not_state", ()) for c in cls.__mro__))

    def __copied(self, name: str, value: Any, memo: dict[int, Any]) -> Any:
        try:
            return copy.deepcopy(value, memo)
        except Exception as error:
            raise TypeError(
                f"{type(self).__name__}.{name} cannot be copied ({error}): list it in `not_state`, and keep "
                "its content with save_extra/load_extra"
            ) from error

    def save_extra(self) -> Any:
        """What `get_state` must add for attributes in `not_state`."""
        return None

    def load_extra(self, extra: Any) -> None:
        """Restore what `save_extra` returned."""

    def fork(self) -> Self:
        """A new instance that continues this episode independently.

        Raises: ForkRefused if `can_fork` is False, or if a server holds a session of this episode.
        """
        _check_fork(self)
        twin = self.__twin()
        twin.set_state(self.get_state())
        return twin

    def __twin(self) -> Self:
        """A new instance made as this one was."""
        args, kwargs = self.__init_arguments
        twin = type(self)(*args, **kwargs)
        twin.limits, twin.spec, twin.ref = self.limits, self.spec, self.ref
        return twin

    def __reduce__(self) -> Any:
        """Pickled as what it was made of and the state of its episode; also where the class came from a file."""
        made_of = self.limits, self.spec, self.ref, self.render_mode
        return _made_again, (reference_to(type(self)), *self.__init_arguments, made_of), self.get_state()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.set_state(state)

    # State, asynchronous: an environment whose state is elsewhere (a sandbox, a server) overrides these methods.

    async def aget_state(self) -> dict[str, Any]:
        """`get_state`, for callers that may wait."""
        return self.get_state()

    async def aset_state(self, state: Mapping[str, Any]) -> None:
        """`set_state`, for callers that may wait."""
        self.set_state(state)

    async def afork(self) -> Self:
        """`fork`, for callers that may wait."""
        _check_fork(self)
        twin = self.__twin()
        await twin.aset_state(await self.aget_state())
        return twin

    def state_key(self) -> str | None:
        """A name of the current state, for step-level baselines (GiGPO); None if it has no name."""
        return None

    def render(self) -> str | None:
        """The task as text, for `render_mode="ansi"`."""
        return str(getattr(self, "task", None)) if self.render_mode == "ansi" else None


def _check_fork(env: Env) -> None:
    kept = held_elsewhere(env)
    if kept is None and env.can_fork:
        return
    raise ForkRefused(
        f"{type(env).__name__} cannot be forked: {kept or 'can_fork is False'}, so that two episodes would share it; "
        "to reach the same point in another episode, reset with the same seed and task and repeat the actions"
    )


# Attributes of every environment that say how it was made, not how far its episode is.
_NOT_STATE = frozenset(
    (
        *("_Env__init_arguments", "_Env__runner", "spec", "render_mode", "observation_space", "action_space"),
        *("limits", "ref"),
    )
)


class _SelfReference:
    """Stands for the environment itself in a saved state; unpickling gives the same object."""

    def __reduce__(self) -> str:
        return "_SELF"


_SELF = _SelfReference()


def _made_again(
    env_class: type[Env] | str, args: tuple[Any, ...], kwargs: dict[str, Any], made_of: tuple[Any, ...]
) -> Env:
    """An instance made as a pickled one was."""
    found: type[Env] = load_reference(env_class) if isinstance(env_class, str) else env_class
    env = found(*args, **kwargs)
    env.limits, env.spec, env.ref, env.render_mode = made_of
    return env


def made_with(env: Env) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that an environment was constructed with."""
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = env._Env__init_arguments  # type: ignore[attr-defined]
    return arguments


def drive(env: Env, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine over an environment in a program without an event loop, as `reset` and `step` do.

    Raises: RuntimeError where the environment waits and an event loop is running.
    """
    result: T = env._Env__drive(coroutine)  # type: ignore[attr-defined]
    return result


def as_action(action: Any) -> Action:
    """`Action.of`, made safe: no text holds half of a character, and every call can be sent, stored and rendered."""
    global _checked
    checked = _checked
    if action is not checked:
        _checked = checked = (action if type(action) is Action else Action.of(action)).safe()
    return checked


# The action that was checked last: a rollout checks one, records it, and hands it to the environment.
_checked = Action()
