"""The policy contract: messages and tools in, one `Action` out. Owns no model and no rendering."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from agentrl.messages import Action, Message


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one turn.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1].
        top_k: keep the k most likely tokens; 0 keeps all.
        max_tokens: most tokens of one turn.
        stop: texts that end a turn; the text itself is kept in the ids.
        seed: of this episode's sampling stream; None lets the policy choose.
        signals: record how sure the model was of each token (`Action.signals`).
        first_rank: the first token of a turn is not drawn: it is the most likely one (0), the next one (1), and so on.
            None draws it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int | None = None
    signals: bool = False
    first_rank: int | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0 or self.max_tokens < 1:
            raise ValueError(f"top_k must be >= 0 and max_tokens >= 1, got {self.top_k} and {self.max_tokens}")
        if self.first_rank is not None and self.first_rank < 0:
            raise ValueError(f"first_rank must be 0 (the most likely token) or more, got {self.first_rank}")


class Policy(ABC):
    """Chooses the next assistant turn of an episode.

    One policy serves many episodes at once; `episode_id` tells them apart, so that a policy may
    keep what it has already processed (KV cache, token ids). `messages` is the whole conversation so
    far, the policy's own turns included.
    """

    name: str = "policy"

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
