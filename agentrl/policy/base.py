"""The policy contract: messages and tools in, one `Action` out. Owns no model and no rendering."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from agentrl.messages import Action, Message
from agentrl.sampling import SamplingParams

__all__ = ["Policy", "SamplingParams"]


class Policy(ABC):
    """Chooses the next assistant turn of an episode.

    One policy serves many episodes at once; `episode_id` tells them apart, so that a policy may
    keep what it has already processed (KV cache, token ids). `messages` is the whole conversation so
    far, the policy's own turns included.
    """

    name: str = "policy"
    address: str = ""
    """Where the server stands that it asks, without credentials; empty for a policy that asks none."""

    def bind(self, env: Any) -> Policy:
        """The policy for one episode of `env`; privileged policies (oracles) look inside it."""
        return self

    @abstractmethod
    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        """Choose the next turn.

        Args:
            messages: the conversation so far.
            tools: OpenAI tool definitions.
            episode_id: unique per episode and attempt.
            sampling: overrides the policy's default.
        Raises: PolicyFault if infrastructure failed; the episode is then discarded, not scored.
        """

    async def release(self, episode_id: str) -> None:
        """Forget an episode; safe to call twice, and after a cancelled `act`."""

    async def aclose(self) -> None:
        """Free what the policy holds."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
