"""What a server says about its environment before an episode: identity, tasks, limits. Owns no connection."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import partial

from msgspec import structs

from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.env.driving.wrapped import as_env
from agentrl.errors import TaskError
from agentrl.rollout.json_lines import canonical
from agentrl.rollout.plain_json import as_json
from agentrl.serving.envs.episodes import demonstrators_of
from agentrl.serving.envs.wire import PAGE, PROTOCOL, Description, TaskForm, TaskPage
from agentrl.trajectory import EnvRef


class Served:
    """An environment as a server shows it.

    Args:
        ref: of the environment.
        longest_s: seconds that one answer may take.
        demonstrates: clients may ask the oracle and the other demonstrators.
    """

    def __init__(self, ref: EnvRef, *, longest_s: float, demonstrates: bool = True) -> None:
        self.make = partial(registry.make, ref)
        self._probe: Env = as_env(self.make())
        inner: Env = self._probe.unwrapped
        self.tasks = inner.tasks
        self.ref = inner.ref or ref
        self.description = _description(inner, self.ref, longest_s)
        if not demonstrates:
            self.description = structs.replace(self.description, demonstrators=())

    def page(self, split: str, begin: int) -> TaskPage:
        """Tasks of a split from an index on. Raises: TaskError if there is no such split."""
        if split not in self.tasks.splits:
            raise TaskError(f"no split {split!r}; there are {', '.join(self.tasks.splits)}")
        tasks = self.tasks.split(split)[begin : begin + PAGE]
        return TaskPage(tuple(TaskForm(t.id, t.split, t.fingerprint, as_json(dict(t.data))) for t in tasks))

    async def aclose(self) -> None:
        await self._probe.aclose()


def _description(env: Env, ref: EnvRef, longest_s: float) -> Description:
    splits = {name: env.tasks.split(name) for name in env.tasks.splits}
    marks = [(task.id, task.fingerprint) for tasks in splits.values() for task in tasks]
    return Description(
        protocol=PROTOCOL,
        id=ref.id,
        kwargs=as_json(dict(ref.kwargs)),
        limits=dict(ref.limits),
        version=ref.version,
        name=type(env).__name__,
        summary=(type(env).__doc__ or "").strip().split("\n")[0],
        splits={name: len(tasks) for name, tasks in splits.items()},
        fingerprint=hashlib.blake2b(canonical(marks), digest_size=16).hexdigest(),
        own_limits=asdict(env.limits),
        demonstrators=demonstrators_of(env),
        can_fork=env.can_fork,
        has_state_key=type(env).state_key is not Env.state_key,
        recalls=type(env)._agentrl_recall is not Env._agentrl_recall,
        third_party=tuple(env.third_party),
        known_flaws=tuple(env.known_flaws),
        longest_s=longest_s,
        tools=tuple(env.tool_schemas),
    )
