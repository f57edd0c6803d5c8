"""What scores a recorded episode again, and its name. Owns the reading of a rubric; replaying is not its business."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentrl.bench.identity import files_fingerprint
from agentrl.env.base import Env
from agentrl.env.results import plain_number
from agentrl.env.rubric import Rubric
from agentrl.errors import ConfigError
from agentrl.registry import load_reference
from agentrl.trajectory import Trajectory, Turn

RECORDED = "recorded"
ENVIRONMENT = "environment"


@dataclass(frozen=True)
class Scorer:
    """Gives recorded episodes another score.

    Attributes:
        name: what scores: `recorded`, `environment`, or the reference of the rubric.
        code: a fingerprint of the file that the rubric stands in; empty where it has none.
        rubric: a function of the episode, or of the episode and its environment in the final state; new weights of
            recorded components; None leaves the rewards as they are.
        needs_env: whether the actions must be taken again first.
    """

    name: str
    code: str = ""
    rubric: Rubric | Callable[..., Any] | None = None
    needs_env: bool = False

    @classmethod
    def of(cls, given: str | Rubric | Callable[..., Any] | None) -> Scorer:
        """The scorer that a caller names. None is the environment, as it is now.

        Args: given: `recorded`, `package.module:name`, `./file.py:name`, a function, or weights.
        Raises: ConfigError for what is neither a function nor weights.
        """
        if given is None:
            return cls(ENVIRONMENT, needs_env=True)
        if given == RECORDED:
            return cls(RECORDED)
        name = given if isinstance(given, str) else f"{type(given).__module__}:{type(given).__qualname__}"
        rubric = load_reference(given) if isinstance(given, str) else given
        if isinstance(rubric, Rubric):
            return cls(f"{name} {dict(rubric.weights)}", rubric=rubric)
        if not callable(rubric):
            raise ConfigError(
                f"{name!r} is no rubric: give a function of the episode (or of the episode and its environment), or an "
                f"agentrl.env.rubric.Rubric, not a {type(rubric).__name__}"
            )
        if not isinstance(given, str):
            name = f"{rubric.__module__}:{getattr(rubric, '__qualname__', type(rubric).__qualname__)}"
        return cls(name, _code_of(rubric), rubric, _num_arguments(rubric, name) > 1)

    def to_json(self) -> dict[str, Any]:
        """`{rubric, code}`."""
        return {"rubric": self.name, "code": self.code}

    async def score(self, episode: Trajectory, env: Env | None) -> Trajectory:
        """The episode with its new score, given at the last turn.

        Args: env: after the last action, where `needs_env`.
        Raises: whatever the rubric raises; TypeError or ValueError for what is no finite number; ConfigError if a
            recorded component has no weight.
        """
        if self.rubric is None or not episode.turns:
            return episode
        if isinstance(self.rubric, Rubric):
            return _weighed(episode, self.rubric)
        found = self.rubric(episode, env) if self.needs_env else self.rubric(episode)
        if inspect.isawaitable(found):
            found = await found
        if isinstance(found, tuple) and len(found) != 2:
            raise ValueError(f"{self.name} must return a score, or (score, success), got {len(found)} values")
        value, success = found if isinstance(found, tuple) else (found, None)
        parts = value if isinstance(value, Mapping) else {"reward": value}
        components = {str(name): _finite(part, f"{self.name}: {name}") for name, part in parts.items()}
        return _with_score(episode, math.fsum(components.values()), components, success)


def _finite(value: Any, what: str) -> float:
    number = plain_number(value, what)
    if not math.isfinite(number):
        raise ValueError(f"{what} must be a finite number, got {number}")
    return number


def _weighed(episode: Trajectory, rubric: Rubric) -> Trajectory:
    """The recorded components with other weights."""
    components = episode.reward_components
    try:
        total = rubric.total(components)
    except KeyError as error:
        raise ConfigError(f"{error.args[0]} Weights name every recorded component; 0 leaves one out") from None
    return _with_score(episode, total, components, episode.info.get("success"))


def _with_score(
    episode: Trajectory, reward: float, components: Mapping[str, float], success: bool | None
) -> Trajectory:
    turns = [_without_reward(turn) for turn in episode.turns]
    turns[-1].reward, turns[-1].reward_components = reward, dict(components)
    info = {name: value for name, value in episode.info.items() if name not in ("success", "reward_components")}
    if success is not None:
        info["success"] = bool(success)
    return replace(episode, turns=turns, info=info)


def _without_reward(turn: Turn) -> Turn:
    copied = copy(turn)
    copied.reward, copied.reward_components = 0.0, {}
    return copied


def _num_arguments(rubric: Callable[..., Any], name: str) -> int:
    """How many arguments without a default a rubric takes: the episode, and perhaps the environment."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(rubric).parameters.values()
    number = sum(one.kind in kinds and one.default is inspect.Parameter.empty for one in parameters)
    if number not in (1, 2):
        raise ConfigError(f"{name!r} takes {number} arguments: a rubric takes the episode, or the episode and the env")
    return number


def _code_of(rubric: Callable[..., Any]) -> str:
    try:
        path = inspect.getsourcefile(inspect.unwrap(rubric))
        if path is not None and Path(path).is_file():
            return files_fingerprint(Path(path))
        return hashlib.blake2b(inspect.getsource(rubric).encode(), digest_size=8).hexdigest()
    except (TypeError, OSError):
        return ""
