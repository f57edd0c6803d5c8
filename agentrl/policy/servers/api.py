"""What is asked of an inference server, whichever it is: turns, log-probabilities of a text, new weights.

Owns the values, and how answers are checked; paths and fields belong to `vllm` and `sglang`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from agentrl.errors import ConfigError
from agentrl.policy.base import SamplingParams
from agentrl.policy.servers.wire import Address, ServerBusy, ServerLost

logger = logging.getLogger(__name__)
Ask = Callable[[], Awaitable[None]]
M = TypeVar("M", bound=BaseModel)
_SHOWN_ERRORS = 2


@dataclass(frozen=True)
class Turn:
    """A turn to be sampled.

    Attributes:
        prompt: ids of the whole context.
        room: most tokens; at least 1.
        sampling: of the turn.
        seed: of its random numbers, below 2**63.
        stop_ids: ids that end it.
    """

    prompt: tuple[int, ...]
    room: int
    sampling: SamplingParams
    seed: int
    stop_ids: frozenset[int]


@dataclass(frozen=True)
class Sampled:
    """A sampled turn as a server answers it.

    Attributes:
        ids: (T,) sampled ids, stop token included.
        logprobs: (T,) nats, of the distribution that they were drawn from.
        finish: why it ended.
        cached: prompt tokens that were not computed again; 0 where the server does not say.
        weights: name of the weights that sampled it; None where the answer does not hold it.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]
    cached: int = 0
    weights: str | None = None


@dataclass(frozen=True)
class Scored:
    """A probe as a server answers it.

    Attributes:
        logprobs: (T - 1,) nats, of each id of the text after the first one.
        drawn: an id that was drawn after the text at the probe's temperature, and its log-probability.
    """

    logprobs: tuple[float, ...]
    drawn: tuple[int, float]


class ServerApi(ABC):
    """The endpoints of one kind of server.

    Args:
        at: where it is.
        model: name of its model.
        timeout_s: longest time of a turn or of loading weights.

    Attributes: adapters: name of those that turns are sampled with; None samples with the server's own model.
    """

    kind: str

    def __init__(self, at: Address, model: str, timeout_s: float) -> None:
        self.at, self.model, self.timeout_s = at, model, timeout_s
        self.adapters: str | None = None

    @abstractmethod
    def check(self, sampling: SamplingParams) -> None:
        """Raises: ConfigError if the server cannot sample so with log-probabilities that are true."""

    @abstractmethod
    async def sample(self, turn: Turn) -> Sampled:
        """Sample a turn. Raises: ServerLost, ServerBusy, ConfigError, as the other methods."""

    @abstractmethod
    async def score(self, ids: Sequence[int], temperature: float) -> Scored:
        """The log-probabilities of a text at temperature 1, and an id drawn after it at another one."""

    @abstractmethod
    async def load(self, folder: Path, name: str) -> None:
        """Take the weights of a folder under a name: pause, load, empty the caches, go on."""

    @abstractmethod
    async def load_adapters(self, folder: Path, name: str) -> None:
        """Take the adapters of a folder under a name, beside others; later turns are sampled with them."""

    @abstractmethod
    async def unload_adapters(self, name: str) -> None:
        """Give up adapters that no turn is sampled with any more."""

    @abstractmethod
    async def weights(self) -> str:
        """Name of the weights that turns are sampled with."""

    @abstractmethod
    async def is_well(self) -> None:
        """Raises: ServerLost, ServerBusy if the server does not work."""


@asynccontextmanager
async def paused(pause: Ask, resume: Ask, shown: str) -> AsyncIterator[None]:
    """A server that samples nothing meanwhile. A pause may have taken effect though its answer was lost.

    Args: shown: its address.
    """
    is_paused = True
    try:
        try:
            await pause()
        except ConfigError:
            is_paused = False
            raise
        yield
    except BaseException:
        if is_paused:
            await _go_on(resume, shown)
        raise
    await resume()


async def _go_on(resume: Ask, shown: str) -> None:
    """End a pause after a failure, which is not to be hidden by another one."""
    try:
        await resume()
    except (ServerLost, ServerBusy, ConfigError) as error:
        logger.warning("%s may still be paused: %s; start it again if it samples nothing", shown, error)


def read(cls: type[M], content: bytes, what: str) -> M:
    """An answer as a model of its fields. Raises: ServerLost if it is something else."""
    try:
        return cls.model_validate_json(content)
    except ValidationError as error:
        shown = "; ".join(
            f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()[:_SHOWN_ERRORS]
        )
        raise ServerLost(f"{what} cannot be read: {shown}") from None


def check_sampled(turn: Turn, sampled: Sampled, what: str) -> Sampled:
    """The turn. Raises: ServerLost if ids and log-probabilities cannot be those of the turn that was asked for."""
    number = len(sampled.ids)
    problem = ""
    if not 1 <= number <= turn.room:
        problem = f"{number} tokens where 1 to {turn.room} were asked for"
    elif len(sampled.logprobs) != number:
        problem = f"{len(sampled.logprobs)} log-probabilities for {number} tokens"
    elif not all(-float("inf") < value <= _MOST_LOGPROB for value in sampled.logprobs):
        problem = "log-probabilities that are not negative numbers"
    elif any(token in turn.stop_ids for token in sampled.ids[:-1]):
        problem = "tokens after the end of the turn"
    elif sampled.finish == "length" and number < turn.room:
        problem = f"a turn cut off after {number} of {turn.room} tokens"
    if problem:
        raise ServerLost(f"{what} gave {problem}")
    return sampled


# A log-probability of 0 may come out of float32 a little above it.
_MOST_LOGPROB = 1e-3


def first(items: Sequence[Any], what: str) -> Any:
    """The only item. Raises: ServerLost if there are none or several."""
    if len(items) != 1:
        raise ServerLost(f"{what} holds {len(items)} answers to one request")
    return items[0]
