"""One server among several: which weights it has, how it gets new ones, and whether it can be asked.

While it loads weights it samples no turn, so all tokens of a turn are of one version.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TypeVar

from agentrl.errors import ConfigError, ModelError, StoreError
from agentrl.policy.servers.api import Sampled, ServerApi, Turn
from agentrl.policy.servers.cards import adapters_of
from agentrl.policy.servers.weights import Published
from agentrl.policy.servers.wire import ServerBusy, ServerLost
from agentrl.wire.retry import Failed, NoMoreAttempts, Retry, with_retries

T = TypeVar("T")
logger = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 15.0
_REMEDY = (
    "A server may answer 200 and keep the output head of a model that shares it with its embedding: start the server "
    "with {folder} as its model, where the head is a tensor of its own, and begin or resume the run again"
)
_REMEDY_ADAPTERS = (
    "Start the server with the model that the adapters in {folder} belong to (base_model_name_or_path in "
    "adapter_config.json), or have them merged (scale.server_lora)"
)
_SHARED = (
    "{shown} has the weights {name!r} of another run: two runs cannot share a server, as each would replace the "
    "weights of the other. Give this run its own server (scale.server), then resume it"
)
_BUSY = Retry(attempts=8, max_asked_s=120.0, jitter="half")


class Replica:
    """One server.

    Args:
        find: asks the server what it is; gives its endpoints.
        shown: its address, without secrets.
        probe: ids of the text whose log-probabilities are compared.
        tolerance: their largest difference, nats.

    Attributes:
        busy: turns that it is sampling.
        difference: the largest that the last comparison found, nats.
        loads: how often it took weights.
        losses: how often it could not be reached, or had lost its weights.
    """

    def __init__(
        self, find: Callable[[], Awaitable[ServerApi]], shown: str, probe: Sequence[int], tolerance: float
    ) -> None:
        self._find, self.shown, self._probe, self._tolerance = find, shown, probe, tolerance
        self._api: ServerApi | None = None
        self.busy, self.difference, self.loads, self.losses = 0, 0.0, 0, 0
        self._loaded: str | None = None
        self._is_lost = False
        self._lock, self._idle = asyncio.Lock(), asyncio.Event()
        self._idle.set()
        self._failures, self._closed_until_s, self._reason = 0, 0.0, ""
        self._random = random.Random()

    @property
    def is_ready(self) -> bool:
        """Whether it has weights, and was not lost since."""
        return self._loaded is not None

    @property
    def closed_s(self) -> float:
        """Seconds until it may be asked again after it could not be reached; 0 if it may now."""
        return max(0.0, self._closed_until_s - monotonic())

    async def greet(self) -> str:
        """Ask the server what it is. Returns: why it could not be asked; empty if it could. Raises: ConfigError."""
        async with self._lock:
            try:
                self._api = await self._patient(self._find)
            except ServerLost as lost:
                return str(lost)
        return ""

    async def sample(self, turn: Turn, published: Callable[[], Published]) -> tuple[Sampled, int]:
        """Sample a turn. Returns: it, and the version of the weights that sampled it.

        Args: published: gives the newest weights; the server takes them first if it has others.
        Raises: ServerLost; ModelError if it does not compute with the weights that it was given; ConfigError
            if it refuses, or another run gave it weights.
        """
        api, weights = await self._admitted(turn, published)
        try:
            sampled = await self._patient(lambda: api.sample(turn))
            name = sampled.weights if sampled.weights is not None else await self._patient(api.weights)
            if name != weights.name:
                if weights.is_of_another_run(name):
                    raise ConfigError(_SHARED.format(shown=self.shown, name=name))
                raise ServerLost(f"{self.shown} has the weights {name!r} and not {weights.name!r}", "weights")
        except ServerLost as lost:
            self._note(lost)
            raise
        finally:
            self.busy -= 1
            if not self.busy:
                self._idle.set()
        self._failures = 0
        return sampled, weights.version

    async def _admitted(self, turn: Turn, published: Callable[[], Published]) -> tuple[ServerApi, Published]:
        """Wait until the server has the newest weights, and take a place."""
        async with self._lock:
            if self.closed_s:
                raise ServerLost(self._reason, "network")
            try:
                while self._api is None or self._loaded != published().name:
                    await self._idle.wait()  # turns under way may still find that the server was lost
                    if self._api is None:
                        self._api = await self._patient(self._find)
                    await self._take(self._api, published())
                self._api.check(turn.sampling)
            except ServerLost as lost:
                self._note(lost)
                if lost.cause == "answer":  # turns that wait for it are not to ask for the same, one after the other
                    self._close(str(lost))
                raise
            self.busy += 1
            self._idle.clear()
            return self._api, published()

    async def _take(self, api: ServerApi, weights: Published) -> None:
        """Give the server weights, and prove that it computes with them."""
        self._loaded = None
        await self._patient(api.is_well)
        weights.readers.add(self.shown)
        try:
            await self._give(api, weights)
        finally:
            weights.readers.discard(self.shown)
        scored = await self._patient(lambda: api.score(self._probe, weights.probe.temperature))
        try:
            remedy = (_REMEDY_ADAPTERS if weights.are_adapters else _REMEDY).format(folder=weights.folder)
            self.difference = weights.probe.compare(scored, self._tolerance, remedy)
        except ModelError as error:
            raise ModelError(f"the server {self.shown} {error}") from None
        self._loaded, self._is_lost = weights.name, False
        self.loads += 1
        logger.info("%s has the weights %s (largest difference %.2g nats)", self.shown, weights.name, self.difference)

    async def _give(self, api: ServerApi, weights: Published) -> None:
        """Have the server load weights. A folder that is not there would end a vLLM server."""
        if not weights.folder.is_dir():
            raise StoreError(f"{weights.folder} is gone, with weights that {self.shown} needs: resume the run")
        if not weights.are_adapters:
            await self._patient(lambda: api.load(weights.folder, weights.name))
            return
        await self._patient(lambda: api.load_adapters(weights.folder, weights.name))
        for name in await self._patient(lambda: adapters_of(api.at)):
            if weights.is_older(name):
                with suppress(ConfigError):  # what the server has removed meanwhile
                    await self._patient(partial(api.unload_adapters, name))

    def _note(self, lost: ServerLost) -> None:
        """Remember that the server is gone or has lost its weights; a failed answer says neither."""
        if lost.cause == "answer":
            return
        if self.loads and not self._is_lost:
            logger.warning("%s is given its weights again when it answers: %s", self.shown, lost)
            self.losses += 1
        self._is_lost = True
        self._loaded = self._api = None
        if lost.cause == "network":
            self._close(str(lost))

    def _close(self, reason: str) -> None:
        """Have it asked nothing for a while, longer after each time in a row."""
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self._failures, 10))
        self._failures += not self.closed_s
        self._closed_until_s, self._reason = monotonic() + pause_s, reason

    async def _patient(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again as long as the server says that it is busy. Raises: ServerLost, ConfigError."""

        async def attempt() -> T | Failed:
            try:
                return await ask()
            except ServerBusy as busy:
                return Failed(str(busy), busy.asked_s)

        try:
            return await with_retries(attempt, _BUSY, self._random)
        except NoMoreAttempts as end:
            raise ServerLost(f"{end.last.reason} ({end.attempts} times)") from None
