"""What is changed on an author's class when it is defined: its `close` is called, its draws come from own generators.

Owns the methods that take the place of the author's. Which class needs them is decided by `agentrl.env.tool_env`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentrl.env.base import Env, Observation, StepResult
from agentrl.seeds import GlobalGenerators


def call_own_close(cls: type[Env]) -> None:
    """Let `aclose`, which a rollout calls, call the `close` that an author has written as in Gymnasium."""
    own: Callable[[Any], None] = cls.__dict__["close"]

    def close(self: Any) -> None:
        self._agentrl_in_close = True
        try:
            own(self)
        finally:
            self._agentrl_in_close = False

    async def aclose(self: Any) -> None:
        await super(cls, self).aclose()
        if self.__dict__.get("_agentrl_in_close") or self.__dict__.get("_agentrl_in_aclose"):
            return
        self._agentrl_in_aclose = True
        try:
            own(self)
        finally:
            self._agentrl_in_aclose = False

    cls.close, cls.aclose = close, aclose  # type: ignore[method-assign]


def draw_from_own_generators(cls: type[Env]) -> None:
    """Run the episodes of a class with global generators of their own."""
    reset, step = cls.areset, cls.astep

    async def areset(
        self: Any, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        own = self.__dict__.get("_agentrl_random")
        if own is None or not own.is_in:  # not inside the reset of a subclass
            self._agentrl_random = GlobalGenerators(seed)
        return await self._agentrl_random.around(reset(self, seed=seed, options=options))  # type: ignore[no-any-return]

    async def astep(self: Any, action: Any) -> StepResult:
        return await self._agentrl_random.around(step(self, action))  # type: ignore[no-any-return]

    cls.areset, cls.astep = areset, astep  # type: ignore[method-assign]
