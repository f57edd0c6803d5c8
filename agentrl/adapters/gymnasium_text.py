"""Any Gymnasium environment that can be read and answered as text: text, whole numbers, or what renders as `ansi`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import gymnasium
from gymnasium.spaces import Discrete, Text

from agentrl.env.registry import register
from agentrl.env.results import to_text
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import EnvFault, EnvNotFound
from agentrl.messages import Action, Message
from agentrl.registry import check_reference, load_reference
from agentrl.trajectory import Task

_HELD_OUT = 1_000_000  # the first seed of the split `eval`


@lru_cache(maxsize=32)
def _tasks(train: int, held_out: int) -> Tasks:
    return Tasks.of(
        train=[{"seed": seed} for seed in range(train)],
        eval=[{"seed": seed} for seed in range(_HELD_OUT, _HELD_OUT + held_out)],
    )


@register("suites/Gymnasium-v0", max_turns=100)
class GymnasiumText(ToolEnv):
    """An environment of Gymnasium, played in text: each answer of the agent is one action.

    Reward: the sum of the environment's own. Success is a sum of `success_at` or more.

    Args:
        id: as `gymnasium.make` takes it, `module:Name-v0` for one of another package.
        env_kwargs: for `gymnasium.make`.
        actions: names of the actions of a `Discrete` space, in order; by default they are numbers.
        instruction: what the agent reads first.
        solver: `module:function` or `./file.py:function`, which takes the environment and returns the right next
            action; with it there is an oracle.
        success_at: the sum of rewards from which an episode is a success.
        train: seeds of the split `train`.
        held_out: seeds of the split `eval`.
    """

    third_party = ("gymnasium",)
    score_truncated = True
    not_state = ("tasks", "_solve")

    def __init__(
        self,
        *,
        id: str = "FrozenLake-v1",
        env_kwargs: Mapping[str, Any] | None = None,
        actions: Sequence[str] = (),
        instruction: str = "",
        solver: str | None = None,
        success_at: float = 1.0,
        train: int = 200,
        held_out: int = 50,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        if ":" in id:  # `gymnasium.make` imports what stands before it
            check_reference(id, EnvNotFound)
        try:
            modes = _render_modes(id)
        except (gymnasium.error.Error, ModuleNotFoundError) as error:
            raise EnvNotFound(f"{id!r}: Gymnasium does not find it: {error}") from error
        self.id, self.env_kwargs = id, {**({"render_mode": "ansi"} if "ansi" in modes else {}), **(env_kwargs or {})}
        self.actions, self.instruction, self.success_at = tuple(actions), instruction, success_at
        self._solve = load_reference(solver) if solver else None
        self.tasks = _tasks(train, held_out)
        self.game: Any = None

    def start(self, task: Task) -> str:
        self.close_game()
        self.game = gymnasium.make(self.id, **self.env_kwargs)
        self.space = self.game.action_space
        if not isinstance(self.space, (Text, Discrete)):
            raise TypeError(f"{self.id!r} takes actions of {self.space}: an answer in text can be Text or Discrete")
        if self.actions and not (isinstance(self.space, Discrete) and len(self.actions) == self.space.n):
            raise ValueError(f"{self.id!r} takes actions of {self.space}; {len(self.actions)} names were given")
        seen, _ = self.game.reset(seed=task.data["seed"])
        self.total = 0.0
        return "\n".join(part for part in (self.instruction, self._wanted, self._shown(seen)) if part)

    @property
    def _wanted(self) -> str:
        """What an answer must be."""
        if isinstance(self.space, Text):
            return ""
        first = int(self.space.start)
        numbers = f"a number from {first} to {first + int(self.space.n) - 1}"
        return f"Answer with {', '.join(self.actions) if self.actions else numbers}."

    def _shown(self, seen: Any) -> str:
        picture = self.game.render() if self.game.render_mode == "ansi" else None
        return f"{picture.rstrip()}\n{to_text(seen)}" if isinstance(picture, str) else to_text(seen)

    def respond(self, text: str) -> str | None:
        action = self._action(text.strip())
        if action is None:
            return self._wanted or "That is no action here."
        seen, reward, terminated, truncated, _ = self.game.step(action)
        self.add_reward("reward", reward)
        self.total += float(reward)
        if terminated or truncated:
            self.terminate()
        return self._shown(seen)

    def _action(self, text: str) -> Any:
        """An action of the space; None if the text names none."""
        if isinstance(self.space, Text):
            return text if self.space.contains(text) else None
        word = text.removesuffix(".").lower()
        names = [name.lower() for name in self.actions]
        if word in names:
            return int(self.space.start) + names.index(word)
        if names or not word.isascii() or not word.isdigit() or len(word) > 9:
            return None
        return int(word) if self.space.contains(int(word)) else None

    def score(self, answer: str | None) -> dict[str, float]:
        self.success = self.total >= self.success_at
        self.close_game()
        return {}

    def oracle(self, messages: Sequence[Message]) -> Action:
        """The solver's next action."""
        if self._solve is None:
            raise EnvFault(f"{self.id!r} has no oracle: give one as solver=module:function", who="author")
        found = self._solve(self.game)
        if isinstance(self.space, Text):
            return Action(str(found))
        return Action(self.actions[int(found) - int(self.space.start)] if self.actions else str(int(found)))

    def close_game(self) -> None:
        if self.game is not None:
            self.game.close()
            self.game = None

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            self.close_game()


def _render_modes(id: str) -> Sequence[str]:
    """The ways in which an environment can be shown."""
    found = gymnasium.spec(id).entry_point
    maker = gymnasium.envs.registration.load_env_creator(found) if isinstance(found, str) else found
    modes: Sequence[str] = getattr(maker, "metadata", {}).get("render_modes", ())
    return modes
