"""A served environment as an `Env`: what is asked of it is asked of the server. Owns no connection.

The class is made of the server's description, so that it has the name, tasks, limits and demonstrators of the
environment that is served. Its reference is that environment's too, so a record of a served episode is that of a local
one. The token is in no reference and no record; a pickle holds it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, replace
from functools import cache, partial
from typing import Any, ClassVar, Self
from urllib.parse import quote

import httpx
import msgspec

from agentrl import errors
from agentrl.env.base import Env, Limits, Observation, StepResult, as_action, drive
from agentrl.env.tasks import Tasks
from agentrl.errors import AgentRLError, ConfigError, EnvFault, JudgeFault
from agentrl.messages import Action, Message
from agentrl.rollout.records import trajectory_record
from agentrl.serving.envs.link import Link, Place, place_of
from agentrl.serving.envs.wire import (
    DESCRIPTION,
    PAGE,
    PROTOCOL,
    TASKS,
    Description,
    Raised,
    Reply,
    Request,
    TaskForm,
    TaskPage,
    decoded,
)
from agentrl.trajectory import EnvRef, Task, Trajectory

TOKEN_VARIABLE = "AGENTRL_ENV_TOKEN"
_TIMEOUT_S = 30.0
_ON_THE_SERVER = Task("")
"""Stands for the task until the server has chosen it."""
_PLAIN = {kind.__name__: kind for kind in (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError)}
_tokens: dict[str, str] = {}
"""URL -> token that was given in this process."""


def connect(url: str, token: str | None = None, **limits: Any) -> Env:
    """The environment that a server has at a URL (`agentrl serve` prints it), as an `Env`.

    Args:
        url: such as http://127.0.0.1:8765.
        token: of the server; by default that of the variable AGENTRL_ENV_TOKEN.
        limits: names of `Limits`, such as `max_turns`.
    Raises: ConfigError if the URL or the token is wrong; EnvFault if no server answers.
    """
    if token is not None:
        _tokens[place_of(url).url] = token
    known = resolved(url)
    return made(replace(known, limits={**known.limits, **limits}))


def resolved(url: str) -> EnvRef:
    """The reference of the environment that is served at a URL."""
    place = _place(url)
    found = description_of(place)
    return EnvRef(found.id, dict(found.kwargs), dict(found.limits), found.version, place.url)


def class_of(url: str) -> type[RemoteEnv]:
    """The class of the environment that is served at a URL."""
    place = _place(url)
    return _class(place, _fingerprint(place))


def made(ref: EnvRef) -> RemoteEnv:
    """An instance of a reference that names a server."""
    found = class_of(ref.url)
    env = found(ref.url)
    env.ref = ref
    if ref.limits:
        try:
            env.limits = replace(env.limits, **ref.limits)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{ref.id!r} cannot have these limits: {error}") from error
    return env


def _place(url: str) -> Place:
    place = place_of(url)
    return Place(place.url, _tokens.get(place.url) or os.environ.get(TOKEN_VARIABLE, "").strip())


# What a server says, asked once per process and server.

_descriptions: dict[Place, Description] = {}


def description_of(place: Place, *, again: bool = False) -> Description:
    """What a server says about its environment; asked once in this process.

    Args: again: ask now.
    Raises: EnvFault if no server answers; ConfigError if it refuses, or speaks another version of the protocol.
    """
    if again or place not in _descriptions:
        found = _read(_get(place, DESCRIPTION), Description, place)
        if found.protocol != PROTOCOL:
            raise ConfigError(f"{place.url} speaks version {found.protocol} of the protocol, this is {PROTOCOL}")
        _descriptions[place] = found
    return _descriptions[place]


def _fingerprint(place: Place) -> bytes:
    return msgspec.json.encode(description_of(place))


def _get(place: Place, path: str) -> bytes:
    headers = {"Authorization": f"Bearer {place.token}"} if place.token else {}
    try:
        reply = httpx.get(place.url + path, headers=headers, timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise EnvFault(
            f"no server of environments answers at {place.url} ({type(error).__name__}): `agentrl serve` starts one",
            who="network",
        ) from error
    if reply.status_code == 200:
        return reply.content
    text = reply.text[:300]
    if reply.status_code in (401, 403, 421):
        raise ConfigError(f"{place.url} refused ({reply.status_code}): {text}; the token is read from {TOKEN_VARIABLE}")
    raise EnvFault(f"{place.url} answered {reply.status_code}: {text}")


def _read(data: bytes, kind: type[Any], place: Place) -> Any:
    try:
        return decoded(data, kind)
    except ValueError as error:
        raise EnvFault(f"{place.url} is no server of environments: {error}") from error


def _tasks_of(place: Place, split: str, count: int) -> list[Task]:
    found: list[Task] = []
    while len(found) < count:
        page: TaskPage = _read(_get(place, f"{TASKS}/{quote(split, safe='')}?from={len(found)}"), TaskPage, place)
        if not page.tasks:
            raise EnvFault(f"{place.url} has {len(found)} of {count} tasks of the split {split!r}")
        found += [Task(form.id, form.split, dict(form.data or {})) for form in page.tasks[:PAGE]]
    return found


def _all_tasks(place: Place, splits: Mapping[str, int]) -> Mapping[str, Sequence[Task]]:
    return {name: _tasks_of(place, name, count) for name, count in splits.items()}


@cache
def _class(place: Place, described: bytes) -> type[RemoteEnv]:
    found = description_of(place)
    attributes: dict[str, Any] = {
        "__doc__": found.summary,
        "__module__": __name__,
        "tasks": Tasks(partial(_all_tasks, place, found.splits)),
        "limits": Limits(**found.own_limits),
        "demonstrators": found.demonstrators,
        "can_fork": found.can_fork,
        "third_party": found.third_party,
        "known_flaws": found.known_flaws,
        "described": found,
        **{name: _demonstrator(name) for name in found.demonstrators},
    }
    if not found.has_state_key:
        attributes["state_key"] = Env.state_key
    return type(found.name, (RemoteEnv,), attributes)


def _demonstrator(name: str) -> Callable[..., Any]:
    async def ask(self: RemoteEnv, messages: Sequence[Message]) -> Action:
        reply = await self._ask(Request(0, "demonstrate", name=name, messages=tuple(messages)))
        return reply.action or Action()

    ask.__name__ = name
    return ask


class RemoteEnv(Env):
    """An environment that a server has. `connect` makes one.

    Args: url: of the server.
    """

    described: ClassVar[Description]
    not_state: ClassVar[tuple[str, ...]] = ("_link", "_place")

    def __init__(self, url: str = "", *, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self._place = _place(url)
        self._begin_link("")
        self._tools: Sequence[Mapping[str, Any]] = self.described.tools
        self._key: str | None = None
        self._readable: tuple[str, ...] = ()
        self._earlier: Trajectory | None = None

    def _begin_link(self, session: str) -> None:
        self._link = Link(self._place, self.described.version, self.described.longest_s, session)

    @property
    def tool_schemas(self) -> Sequence[Mapping[str, Any]]:
        return self._tools

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        options = options or {}
        task, earlier, self._earlier = options.get("task"), self._earlier, None
        self._begin(seed, {"task": _ON_THE_SERVER})
        reply = await self._ask(
            Request(
                0,
                "reset",
                seed=seed,
                task=None if task is None else self._form(task),
                split=options.get("split"),
                limits=asdict(self.limits),
                readable=self._readable,
                recall=None if earlier is None else msgspec.to_builtins(trajectory_record(earlier)),
            )
        )
        self.task = task if isinstance(task, Task) else self.tasks[str(reply.info.get("task_id"))]
        self._tools, self._key = reply.tools or (), reply.state_key
        return reply.observation, dict(reply.info)

    def _form(self, task: Task | str) -> TaskForm:
        if isinstance(task, str):
            return TaskForm(task)
        return TaskForm(task.id, task.split, task.fingerprint, msgspec.to_builtins(task.data))

    async def astep(self, action: Any) -> StepResult:
        reply = await self._ask(Request(0, "step", action=_without_ids(as_action(action))))
        self._key = reply.state_key
        if reply.ending is not None:
            self.ending = reply.ending
        return reply.observation, float(reply.reward), reply.terminated, reply.truncated, dict(reply.info)

    async def aclose(self) -> None:
        await self._link.close()

    def state_key(self) -> str | None:
        return self._key

    def make_readable(self, tools: Set[str]) -> None:
        self._readable = tuple(sorted(tools))

    def _agentrl_recall(self, earlier: Trajectory) -> None:
        if self.described.recalls:
            self._earlier = earlier

    async def _ask(self, request: Request) -> Reply:
        reply = await self._link.ask(request)
        if reply.raised is not None:
            raise exception_of(reply.raised)
        return reply

    # State: it is on the server.

    async def aget_state(self) -> dict[str, Any]:
        saved = (await self._ask(Request(0, "save"))).saved
        return {**super().get_state(), "saved": saved, "session": self._link.session}

    async def aset_state(self, state: Mapping[str, Any]) -> None:
        reply = await self._ask(Request(0, "load", saved=state["saved"], session=state["session"]))
        super().set_state(state)
        self._tools, self._key = reply.tools or (), reply.state_key

    def get_state(self) -> dict[str, Any]:
        return drive(self, self.aget_state())

    def set_state(self, state: Mapping[str, Any]) -> None:
        drive(self, self.aset_state(state))

    async def afork(self) -> Self:
        reply = await self._ask(Request(0, "fork"))
        twin = type(self)(self._place.url)
        twin.limits, twin.spec, twin.ref = self.limits, self.spec, self.ref
        twin.task, twin._tools, twin._key, twin.ending = self.task, self._tools, self._key, self.ending
        twin._begin_link(reply.session)
        return twin

    def fork(self) -> Self:
        return drive(self, self.afork())

    def __reduce__(self) -> Any:
        """Pickled as where it is served; the episode stays on the server, so the copy begins anew."""
        return _again, (self.ref, self._place.url, self._place.token, self.limits, self.spec)


def _again(ref: EnvRef | None, url: str, token: str, limits: Limits, spec: Any) -> RemoteEnv:
    if token:
        _tokens.setdefault(url, token)
    env = made(ref or resolved(url))
    env.limits, env.spec = limits, spec
    return env


def _without_ids(action: Action) -> Action:
    """The action as an environment reads it: of ids and log-probabilities only their number is sent."""
    if action.token_ids is None and action.prompt_ids is None and action.served is None:
        return action
    usage = dict(action.usage or {})
    if action.token_ids:
        usage["completion_tokens"] = len(action.token_ids)
    return msgspec.structs.replace(
        action, prompt_ids=None, token_ids=None, logprobs=None, versions=None, served=None, usage=usage or None
    )


class ServedError(Exception):
    """An exception of the environment's author on the server; its class has the name of the one there."""


def exception_of(raised: Raised) -> Exception:
    """The exception that the environment raised on the server, with the same text and blame."""
    who: Any = raised.who or None
    if raised.kind == "EnvFault":
        fault = EnvFault(raised.text, who=who, answers=raised.answers)
        fault.tool = raised.tool
        return fault
    if raised.kind == "JudgeFault":
        return JudgeFault(raised.text, who=who, answers=raised.answers, cause=raised.cause)
    ours = getattr(errors, raised.kind, None)
    if isinstance(ours, type) and issubclass(ours, AgentRLError):
        return ours(raised.text)
    error = _named(raised.kind)(raised.text)
    error.__cause__ = EnvFault(raised.text, who=who)  # what the blame is read from
    return error


@cache
def _named(kind: str) -> type[Exception]:
    return _PLAIN.get(kind) or type(kind, (ServedError,), {})
