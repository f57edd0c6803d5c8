"""What a run is made of: environments, tasks, sampling and packages. Owns their comparison when a run is resumed.

The settings are `checkpoint.fingerprint`'s; a run that was begun with something else is refused by name.
"""

from __future__ import annotations

import hashlib
import platform
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Protocol

from agentrl.bench.identity import package_version
from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.rollout.json_lines import canonical, decode_line, encode_line
from agentrl.trajectory import EnvRef, Task

_PACKAGES = ("agentrl", "torch", "transformers")
"""Packages whose versions must be the same; that of Python is recorded only."""
_SHOWN = 3
_MOST_NAMED = 20_000
"""Tasks of a split up to which each one's fingerprint is kept, so that a refusal can name those that differ."""


class Settings(Protocol):
    """The part of a run's configuration that its identity reads."""

    @property
    def env(self) -> EnvSettings: ...
    @property
    def envs(self) -> Mapping[str, EnvSettings]: ...
    @property
    def sampling(self) -> Any: ...


class EnvSettings(Protocol):
    """Which environment, and which of its splits."""

    @property
    def ref(self) -> EnvRef: ...
    @property
    def train_split(self) -> str: ...
    @property
    def eval_split(self) -> str: ...


def identity_of(config: Settings, probe: Env, others: Iterable[EnvRef] = ()) -> dict[str, Any]:
    """What a run is begun or resumed with, as JSON values.

    Args:
        config: of the run.
        probe: an instance of its environment, made by `registry.make`.
        others: environments that its stages play as well, on their split `train`.
    """
    environments = [_environment(probe, (config.env.train_split, config.env.eval_split))]
    for ref in others:
        with closing(registry.make(ref)) as other:
            environments.append(_environment(other, ("train",)))
    for name, env in config.envs.items():
        if env.ref.key == config.env.ref.key:
            environments[0]["name"] = name
            continue
        with closing(registry.make(env.ref)) as other:
            environments.append({**_environment(other, (env.train_split, env.eval_split)), "name": name})
    identity = {
        "run": uuid.uuid4().hex,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "environments": environments,
        "sampling": {name: value for name, value in asdict(config.sampling).items() if name != "exact"},
        "packages": {**{name: package_version(name) for name in _PACKAGES}, "python": platform.python_version()},
    }
    plain: dict[str, Any] = decode_line(encode_line(identity))
    return plain


def _environment(env: Env, splits: Iterable[str]) -> dict[str, Any]:
    ref = env.ref or EnvRef(type(env).__name__)
    on_disk = ref.version if ref.url else registry.version_of(registry.spec(ref.id), on_disk=True)
    edited = "" if on_disk == ref.version else f" (its file has changed since it was loaded: {on_disk})"
    known = [name for name in dict.fromkeys(splits) if name in env.tasks.splits]
    shown = asdict(ref) | {"version": ref.version + edited}
    del shown["url"]  # where it was served is no part of what it is
    return {
        "env": shown,
        "splits": {name: _split(env.tasks.split(name)) for name in known},
    }


def _split(tasks: Sequence[Task]) -> dict[str, Any]:
    marks = {task.id: task.fingerprint for task in tasks}
    digest = hashlib.blake2b(canonical(list(marks.items())), digest_size=16).hexdigest()
    return {"count": len(tasks), "fingerprint": digest, "tasks": marks if len(marks) <= _MOST_NAMED else {}}


def check_same(recorded: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuse to resume a run with another environment, tasks, sampling or packages.

    Args:
        recorded: of `identity_of`, when the run began.
        now: of `identity_of`, here.
        where: the run, for the message.
    Raises: ConfigError that names each difference.
    """
    found = [
        *_environments_differ(recorded.get("environments", []), now["environments"]),
        *_values_differ("sampling.", recorded.get("sampling", {}), now["sampling"]),
        *_values_differ("the version of ", recorded.get("packages", {}), {p: now["packages"][p] for p in _PACKAGES}),
    ]
    if found:
        differences = "".join(f"\n  {difference}" for difference in found)
        raise ConfigError(
            f"{where} cannot be resumed, because its next steps would not be those of the run that began:{differences}"
            "\nUndo that (install those versions, restore those files) and resume, or start a new run with another "
            f"--out; set model.path to a checkpoint in {where} to continue from its model"
        )


def _environments_differ(recorded: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    if len(recorded) != len(now):
        return [f"it played {len(recorded)} environments, here it would play {len(now)}"]
    return [text for was, here in zip(recorded, now, strict=True) for text in _environment_differs(was, here)]


def _environment_differs(was: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    old, new = EnvRef(**was["env"]), EnvRef(**here["env"])
    if old.key != new.key:
        return [f"the environment was {old}, here it is {new}"]
    found = [] if old.version == new.version else [_pair(f"the version of the environment {old.id}", old, new)]
    for name in dict.fromkeys((*was["splits"], *here["splits"])):
        one, other = was["splits"].get(name), here["splits"].get(name)
        if one is None or other is None:
            found.append(f"{old.id} has {'no longer a' if other is None else 'a new'} split {name!r}")
        elif one["fingerprint"] != other["fingerprint"]:
            found.append(f"the tasks of {old.id} in the split {name!r} are others: {_tasks_differ(one, other)}")
    return found


def _pair(what: str, old: EnvRef, new: EnvRef) -> str:
    return f"{what} was {old.version!r}, here it is {new.version!r}"


def _tasks_differ(was: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What is different about the tasks of a split, with up to three ids."""
    old, new = was["tasks"], here["tasks"]
    if not old or not new:
        return f"there were {was['count']}, here are {here['count']}"
    parts = {
        "with another content": [id for id, mark in old.items() if new.get(id, mark) != mark],
        "missing": [id for id in old if id not in new],
        "new": [id for id in new if id not in old],
    }
    texts = [
        f"{len(ids)} {what} ({', '.join(ids[:_SHOWN])}{', …' if len(ids) > _SHOWN else ''})"
        for what, ids in parts.items()
        if ids
    ]
    return ", ".join(texts) or "they are in another order"


def _values_differ(what: str, was: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    names = [name for name in here if canonical(was.get(name)) != canonical(here[name])]
    return [f"{what}{name} was {was.get(name)!r}, here it is {here[name]!r}" for name in names]
