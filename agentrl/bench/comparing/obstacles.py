"""What keeps two measurements from being compared: they are not of the same thing. Computes no difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agentrl.bench.identity import edited_tasks, listed, same_env
from agentrl.errors import ConfigError
from agentrl.trajectory import EnvRef


class Obstacle(str):
    """Why two measurements are not of the same thing, and what to do about it."""

    advice: str = ""

    @classmethod
    def of(cls, why: str, advice: str) -> Obstacle:
        found = cls(why)
        found.advice = advice
        return found


def check_same_tasks(
    envs: tuple[EnvRef, EnvRef],
    fingerprints: tuple[Mapping[str, str], Mapping[str, str]],
    names: tuple[str, str] = ("the first", "the second"),
    *,
    allow_versions: bool,
) -> None:
    """Refuse to compare what was measured on two environments, versions of one, or edited tasks.

    Args: as `obstacles`.
    Raises: ConfigError.
    """
    for found in obstacles(envs, fingerprints, names, allow_versions=allow_versions):
        raise ConfigError(f"cannot compare: {found}. {found.advice}")


def obstacles(
    envs: tuple[EnvRef, EnvRef],
    fingerprints: tuple[Mapping[str, str], Mapping[str, str]],
    names: tuple[str, str] = ("the first", "the second"),
    *,
    allow_versions: bool,
) -> Iterator[Obstacle]:
    """Why two measurements are not of the same thing: other environments, versions of one, edited tasks.

    Args: envs, fingerprints (by task id), names: of the two, for the message.
    """
    (one, other), (first, second) = envs, names
    same = same_env(one, other)
    if not same:
        why = f"{first} was measured on {_shown(one)}, {second} on {_shown(other)}"
        yield Obstacle.of(why, "Play both on one environment, with the same arguments and limits")
    if same and one.version != other.version and not allow_versions:
        versions = one.version or "unknown", other.version or "unknown"
        yield Obstacle.of(
            f"{one} had version {versions[0]!r} in {first} and {versions[1]!r} in {second}",
            "Play both on one version; allow_versions=True (--allow-versions) accepts it where you know that the "
            "change does not matter",
        )
    edited = edited_tasks(*fingerprints)
    if edited:
        yield Obstacle.of(
            f"{listed(edited)} had other content in {first} than in {second}", "Play both on the same tasks"
        )


def _shown(env: EnvRef) -> str:
    return f"{env} (version {env.version})" if env.version else str(env)
