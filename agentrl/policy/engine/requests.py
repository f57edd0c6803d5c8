"""What is asked of the engine, and what it answers. Owns no schedule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agentrl.messages import FinishReason
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.slots import Ids
from agentrl.policy.engine.token_signals import Sure


@dataclass(frozen=True)
class Completion:
    """One sampled turn.

    Attributes:
        ids: (T,) sampled ids, stop token included.
        logprobs: (T,) nats, see `draw`.
        finish: `stop`, or `length` where a limit cut it off.
        cached: prompt tokens that were not computed again.
        versions: (T,) number of the weights that sampled each id.
        sure: (T,) how sure the model was of each id; empty where that was not asked for.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: FinishReason
    cached: int
    versions: tuple[int, ...]
    sure: tuple[Sure, ...] = ()


OnToken = Callable[[int, float], None]
"""Called with each id and its logprob as soon as it is sampled."""


@dataclass(eq=False)
class Request:
    """A turn that is waited for, or sampled. Fields: see `Engine.sample`."""

    owner: str
    prompt: Ids
    sampling: SamplingParams
    uniform: NDArray[np.float64]
    future: asyncio.Future[Completion]
    on_token: OnToken | None = None
    slot: int = -1
    rest: Ids = field(default_factory=lambda: np.zeros(0, np.int32))  # of the context, not fed yet
    cached: int = 0
    versions: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sure: list[Sure] = field(default_factory=list)

    @property
    def context(self) -> Ids:
        """(P + T,) prompt and what was sampled so far."""
        return np.concatenate([self.prompt, np.asarray(self.ids, np.int32)]) if self.ids else self.prompt
