"""One instance on the server: requests become calls of the environment, and what it raises becomes an answer.

Owns what a client may ask of an instance. A client gets what the code of the environment would have given in its own
process: the same observations, and faults of the same blame.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import pickle
import time
from collections.abc import Awaitable, Callable
from typing import Any

from agentrl.byte_cache import ByteCache
from agentrl.env import watchdog
from agentrl.env.author_code import called, watched
from agentrl.env.base import Env, Limits
from agentrl.env.blame import culprit, fault_of, is_authors
from agentrl.env.results import plain_messages, plain_name, plain_truth
from agentrl.env.started.tasks import guard_loop
from agentrl.errors import AgentRLError, EnvFault, JudgeFault, TaskError
from agentrl.messages import Action
from agentrl.rollout.env_pool import EnvPool
from agentrl.rollout.records import trajectory_from_json
from agentrl.serving.envs.wire import Raised, Reply, Request, TaskForm, plain_info, sent_number
from agentrl.trajectory import Ending, Task

logger = logging.getLogger(__name__)


async def _no_fork(env: Any) -> str:
    raise RuntimeError("this session cannot be forked")


class Episodes:
    """The episodes of one session, one after the other, on one instance.

    Args:
        pool: lends the instance.
        longest_s: seconds that one episode may take.
        most_saved_bytes: of the states that are kept; those that were not used for longest leave first.
        takes_any_task: whether a task that the environment does not have is taken.
    """

    def __init__(self, pool: EnvPool, longest_s: float, most_saved_bytes: int, *, takes_any_task: bool) -> None:
        self._pool, self._longest_s = pool, longest_s
        self._takes_any_task = takes_any_task
        self._env: Any = None
        self._own_limits = Limits()
        self._is_lent, self._well = False, True
        self._has_begun, self._is_over = False, True
        self._began_s = time.monotonic()
        self.saved: ByteCache[int, Any] = ByteCache(most_saved_bytes)
        self._num_saved = 0
        self.forked: Callable[[Any], Awaitable[str]] = _no_fork
        self.saved_in: Callable[[str, int], Any] = lambda session, number: None

    def adopt(self, env: Any) -> None:
        """Go on with an instance of its own: a fork."""
        self._env, self._is_lent, self._well = env, False, False
        self._own_limits = env.unwrapped.limits
        self._has_begun, self._is_over = True, False

    @property
    def instance(self) -> Any:
        """The environment itself, without wrappers; None where none is lent."""
        return None if self._env is None else self._env.unwrapped

    @property
    def never_waits(self) -> bool:
        """Whether a step of the present episode needs no event loop."""
        return self._env is not None and self._has_begun and not self._env.unwrapped._agentrl_waits()

    async def execute(self, request: Request) -> Reply:
        """The answer to a request. What the environment raises is in it; a cancellation passes."""
        place = request.op
        try:
            if self._env is None:
                self._env, self._is_lent = await self._pool.lend(), True
                self._own_limits = self._env.unwrapped.limits
            self._check(request)
            if request.op == "step" and self.never_waits:  # no event loop may run here, and nothing can hang in it
                return await self._step(request)
            return await self._in_time(request)
        except BaseException as error:
            if not isinstance(error, Exception) and not is_authors(error):
                raise
            self._well = False
            return Reply(request.n, raised=raised_of(error, place))

    async def _in_time(self, request: Request) -> Reply:
        """Raises: EnvFault where the time of the episode is over before the environment has answered."""
        left_s = self._longest_s
        if request.op not in ("reset", "load", "close"):
            left_s -= time.monotonic() - self._began_s
        try:
            async with asyncio.timeout(left_s) as limit:
                return await getattr(self, f"_{request.op}")(request)  # type: ignore[no-any-return]
        except TimeoutError:
            if not limit.expired():
                raise
            self._is_over = True
            raise self._too_long() from None

    def _too_long(self) -> EnvFault:
        return EnvFault(f"the server gives an episode {self._longest_s:g} s, and this one took longer")

    def _check(self, request: Request) -> None:
        """Refuse what no episode of this session can answer: an instance may have served another one before."""
        if request.op in ("reset", "load", "close"):
            return
        if not self._has_begun:
            raise RuntimeError(f"the episode is over (or never began): call reset before {request.op}")
        if time.monotonic() - self._began_s > self._longest_s:
            raise self._too_long()

    # What a client may ask.

    async def _reset(self, request: Request) -> Reply:
        inner = self._env.unwrapped
        self._began_s = time.monotonic()
        guard_loop()
        inner.limits = Limits(**request.limits) if request.limits else self._own_limits
        if request.readable:
            inner.make_readable(frozenset(request.readable))
            self._well = False  # an instance that reads faults serves no other session
        if request.recall is not None:
            inner._agentrl_recall(trajectory_from_json(request.recall))
        options: dict[str, Any] = {}
        if request.task is not None:
            options["task"] = self._task(request.task)
        elif request.split is not None:
            options["split"] = request.split
        self._has_begun = self._is_over = False
        resetting = self._env.areset(seed=request.seed, options=options)
        observation, info = await watched(resetting, self._running_as("reset"))
        self._has_begun = True
        task: Task = inner.task
        return Reply(
            request.n,
            observation=plain_messages(observation),
            info={**plain_info(info), "task_id": task.id},
            tools=tuple(self._env.tool_schemas),
            state_key=self._state_key(),
        )

    def _running_as(self, name: str) -> watchdog.Running:
        inner = self._env.unwrapped
        return inner, name, watchdog.limit_of(inner)

    def _state_key(self) -> str | None:
        return plain_name(called(self._env.state_key, self._running_as("state_key")))

    def _task(self, form: TaskForm) -> Task:
        """The task that a client names. Raises: TaskError."""
        if form.data is not None and self._takes_any_task:
            return Task(form.id, form.split, form.data)
        task: Task = self._env.unwrapped.tasks[form.id]
        if form.fingerprint and task.fingerprint != form.fingerprint:
            raise TaskError(
                f"task {form.id!r} has another content on the server (fingerprint {task.fingerprint}, asked for "
                f"{form.fingerprint}): start it with --any-task if it is to take tasks of its clients"
            )
        return task

    async def _step(self, request: Request) -> Reply:
        stepping = watched(self._env.astep(request.action or Action()), self._running_as("step"))
        observation, reward, terminated, truncated, info = await stepping
        inner = self._env.unwrapped
        terminated, truncated = plain_truth(terminated, "terminated"), plain_truth(truncated, "truncated")
        self._is_over = terminated or truncated
        ending: Any = getattr(inner, "ending", None)
        return Reply(
            request.n,
            observation=plain_messages(observation),
            reward=sent_number(reward),
            terminated=terminated,
            truncated=truncated,
            info=called(lambda: plain_info(info), self._running_as("info")),
            state_key=self._state_key(),
            ending=ending if isinstance(ending, Ending) else None,
        )

    async def _demonstrate(self, request: Request) -> Reply:
        inner = self._env.unwrapped
        if request.name not in demonstrators_of(inner):
            raise ValueError(f"there is no demonstrator {request.name!r}")
        answer = getattr(inner, request.name)(list(request.messages))
        return Reply(request.n, action=Action.of(await answer if inspect.isawaitable(answer) else answer))

    async def _fork(self, request: Request) -> Reply:
        return Reply(request.n, session=await self.forked(await self._env.afork()))

    async def _save(self, request: Request) -> Reply:
        state = await self._env.aget_state()
        self._num_saved += 1
        self.saved.put(self._num_saved, state, size_of(state))
        if self._num_saved not in self.saved:
            most = self.saved.max_bytes >> 20
            raise ValueError(f"the state is larger than the {most} MiB that a session keeps: start with --saved-mib")
        return Reply(request.n, saved=self._num_saved)

    async def _load(self, request: Request) -> Reply:
        state = self.saved_in(request.session, request.saved)
        if state is None:
            raise ValueError("the server no longer has that state")
        await self._env.aset_state(state)
        self._has_begun, self._is_over = True, False
        return Reply(request.n, tools=tuple(self._env.tool_schemas), state_key=self._state_key())

    async def _close(self, request: Request) -> Reply:
        await self.close()
        return Reply(request.n)

    async def close(self) -> None:
        """Give the instance back; one that may be in any state, or in the middle of an episode, is closed."""
        env, self._env = self._env, None
        if env is None:
            return
        if self._is_lent and self._well and self._is_over:
            env.unwrapped.limits = self._own_limits
            self._pool.give_back(env)
        elif self._is_lent:
            await self._pool.discard(env)
        else:
            try:
                await asyncio.wait_for(env.aclose(), 10)
            except Exception as error:
                logger.warning("closing a fork failed: %s: %s", type(error).__name__, error)


def size_of(state: Any) -> int:
    """About how many bytes a state takes: those of its pickle, or of its text where it cannot be pickled."""
    try:
        return len(pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL))
    except Exception:  # an author's object
        return len(repr(state))


def raised_of(error: BaseException, place: str) -> Raised:
    """What an exception is on the wire."""
    if isinstance(error, EnvFault):
        kind = "JudgeFault" if isinstance(error, JudgeFault) else "EnvFault"
        cause = error.cause if isinstance(error, JudgeFault) else ""
        return Raised(kind, str(error), error.at, error.answers, error.tool, cause)
    if isinstance(error, AgentRLError):
        return Raised(type(error).__name__, str(error))
    if not isinstance(error, Exception):  # sys.exit of author code
        return raised_of(fault_of(place, error), place)
    return Raised(type(error).__name__, _text(error), culprit(error))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an author's exception may fail at that too
        return "(it has no text)"


def demonstrators_of(env: Env) -> tuple[str, ...]:
    """The methods of an environment that know the right action."""
    names = dict.fromkeys(("oracle", *env.demonstrators))
    return tuple(name for name in names if callable(getattr(env, name, None)))
