"""Agents that stay: processes that are started once and take one episode after the other. Owns who plays which.

Such a process asks `POST AGENTRL_NEXT_URL` with `AGENTRL_NEXT_KEY` for the variables of an episode, and says
`POST AGENTRL_URL/done` when it has played it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agentrl.errors import EnvFault
from agentrl.serving.capture.agents import Exit, Tail, ended, started, within
from agentrl.serving.capture.settings import AgentConfig

_WAIT_S = 20.0


@dataclass(eq=False)
class _Offer:
    """An episode. `since_s` is when it came into line, `handed_s` when a process got it; None: it is in line."""

    variables: Mapping[str, str]
    result: asyncio.Future[Exit]
    since_s: float = field(default_factory=time.monotonic)
    handed_s: float | None = None


class Desk:
    """Gives episodes to processes.

    Args:
        settings: of the agent.
        url: that processes ask for episodes.
    """

    def __init__(self, settings: AgentConfig, url: str) -> None:
        self._settings, self._url = settings, url
        self._waiting: asyncio.Queue[_Offer | None] = asyncio.Queue()  # None: the end
        self._taken: dict[str, _Offer] = {}
        self._sessions: dict[str, set[str]] = {}  # of each process, by its key
        self._processes: set[asyncio.Task[None]] = set()
        self._seen_s = time.monotonic()  # when an episode was last taken or ended

    @property
    def name(self) -> str:
        return self._settings.command

    async def run(self, variables: Mapping[str, str], waited_s: Callable[[], float]) -> Exit:
        """Have one episode played. Time in line for a process that plays another one does not count against it.

        Raises: EnvFault if the process that plays it ends, or none takes it though nothing is played.
        """
        self._start()
        offer = _Offer(variables, asyncio.get_running_loop().create_future())
        self._waiting.put_nowait(offer)
        timeout_s = self._settings.timeout_s
        try:
            ended = await within(offer.result, timeout_s, lambda: waited_s() + self._in_line_s(offer))
            if ended is None and offer.handed_s is None:
                raise EnvFault(
                    f"no process of the agent asked for an episode for {timeout_s:g} s, and none was played: a process "
                    "must ask AGENTRL_NEXT_URL when it has begun, and again after each episode",
                    who="author",
                )
            return ended or Exit(None)
        finally:
            offer.result.cancel()
            if self._taken.pop(variables["AGENTRL_KEY"], None) is not None:
                self._seen_s = time.monotonic()

    def _in_line_s(self, offer: _Offer) -> float:
        """Seconds until an episode was handed over; until the last sign of a process if it is not yet."""
        if offer.handed_s is not None:
            return offer.handed_s - offer.since_s
        last_s = time.monotonic() if self._taken else self._seen_s
        return max(0.0, last_s - offer.since_s)

    async def next(self, key: str) -> Mapping[str, str] | None:
        """An episode for the process of a key; None if there is none for a while. Raises: LookupError: no such key."""
        self._sessions[key]
        try:
            async with asyncio.timeout(_WAIT_S):
                offer = await self._waiting.get()
                while offer is not None and offer.result.done():  # it took too long
                    offer = await self._waiting.get()
        except TimeoutError:
            return None
        if offer is None or key not in self._sessions:  # the process has ended, or is to end
            self._waiting.put_nowait(offer)
            return None
        session = offer.variables["AGENTRL_KEY"]
        self._taken[session] = offer
        offer.handed_s = self._seen_s = time.monotonic()
        self._sessions[key].add(session)
        return offer.variables

    def take_back(self, variables: Mapping[str, str]) -> None:
        """The process did not get an episode that it was handed: the next one that asks gets it."""
        offer = self._taken.pop(variables["AGENTRL_KEY"], None)
        self._seen_s = time.monotonic()
        if offer is not None and not offer.result.done():
            offer.handed_s = None
            self._waiting.put_nowait(offer)

    def done(self, session: str, error: str) -> None:
        """An episode is played. Args: session: its key; error: what went wrong, or nothing."""
        offer = self._taken.get(session)
        if offer is not None and not offer.result.done():
            offer.result.set_result(Exit(1 if error else 0, error))

    async def aclose(self) -> None:
        """End the processes."""
        self._waiting.put_nowait(None)
        for task in self._processes:
            task.cancel()
        await asyncio.gather(*self._processes, return_exceptions=True)

    def _start(self) -> None:
        """Start the processes that are missing."""
        while len(self._sessions) < self._settings.processes:
            key = secrets.token_urlsafe(24)
            self._sessions[key] = set()
            task = asyncio.create_task(self._process(key))
            self._processes.add(task)
            task.add_done_callback(self._processes.discard)

    async def _until_it_ends(self, key: str) -> EnvFault:
        """A process from its start to its end. Returns: what its episodes are told."""
        variables = {**os.environ, "AGENTRL_NEXT_URL": self._url, "AGENTRL_NEXT_KEY": key}
        with Tail() as output:
            try:
                process = await started(self._settings.command, variables, output)
            except EnvFault as fault:
                return fault
            try:
                status = await process.wait()
            finally:
                await ended(process)
            return EnvFault(f"{Exit(status, output.text)} while it was to play", who="author")

    async def _process(self, key: str) -> None:
        """A process from its start to its end, of which its episodes are told; the next episode starts another one."""
        fault = await self._until_it_ends(key)
        sessions = self._sessions.pop(key)
        lost = [self._taken[session] for session in sessions if session in self._taken]
        while not self._sessions and (offer := self._waiting.get_nowait() if self._waiting.qsize() else None):
            lost.append(offer)
        for offer in lost:
            if not offer.result.done():
                offer.result.set_exception(fault)
