"""Which of several servers samples a turn: an episode stays on one, and goes on at another one when that is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from agentrl.errors import ConfigError, PolicyFault
from agentrl.policy.servers.api import Sampled, Turn
from agentrl.policy.servers.replica import Replica
from agentrl.policy.servers.weights import Published
from agentrl.policy.servers.wire import ServerLost

_ATTEMPTS = 4
_PAUSE_S = 0.25


class ReplicaPool:
    """The servers of a sampler.

    Args:
        replicas: the servers.
        published: gives the newest weights.
        wait_s: longest time to wait for a server to come back, when none can be reached.
    """

    def __init__(self, replicas: Sequence[Replica], published: Callable[[], Published], wait_s: float) -> None:
        self.replicas, self._published, self._wait_s = tuple(replicas), published, wait_s
        self._homes: dict[str, Replica] = {}

    async def sample(self, episode_id: str, turn: Turn) -> tuple[Sampled, int]:
        """Sample a turn. Returns: it, and the version of the weights that sampled it.

        Raises: PolicyFault if no server can be reached for `wait_s`, or several answers were of no use; as
            `Replica.sample`.
        """
        deadline_s = monotonic() + self._wait_s
        failures, last = 0, "all servers are waited for"
        while True:
            replica = self._home(episode_id)
            if replica is None:
                await self._wait(deadline_s, last)
                continue
            try:
                return await replica.sample(turn, self._published)
            except ServerLost as lost:
                last = str(lost)
                self._move(episode_id, replica)
                failures += lost.cause in ("answer", "silence")
                if failures == _ATTEMPTS:
                    raise PolicyFault(
                        f"no server sampled a turn in {_ATTEMPTS} tries; the last failure: {last}. Read its log"
                    ) from None
                if lost.cause == "answer":
                    await asyncio.sleep(_PAUSE_S * 2.0 ** (failures - 1))

    async def greet(self) -> None:
        """Ask each server what it is. Raises: ConfigError if one cannot be used, or none can be reached."""
        reasons = [reason for replica in self.replicas if (reason := await replica.greet())]
        if len(reasons) == len(self.replicas):
            raise ConfigError(f"{'; '.join(reasons)}. Start the server, or correct scale.server")

    def _home(self, episode_id: str) -> Replica | None:
        """The server of an episode; a new one if it has none or that cannot be reached. None: no server can be."""
        home = self._homes.get(episode_id)
        if home is not None and not home.closed_s:
            return home
        open_ones = [replica for replica in self.replicas if not replica.closed_s]
        if not open_ones:
            return None
        home = self._homes[episode_id] = min(open_ones, key=self._episodes_of)
        return home

    def _episodes_of(self, replica: Replica) -> int:
        return sum(home is replica for home in self._homes.values())

    def _move(self, episode_id: str, failed: Replica) -> None:
        """Give an episode to the next server that can be reached, if there is another one."""
        others = [replica for replica in self.replicas if replica is not failed and not replica.closed_s]
        self._homes.pop(episode_id, None)
        if others:
            self._homes[episode_id] = min(others, key=self._episodes_of)

    async def _wait(self, deadline_s: float, last: str) -> None:
        """Wait until a server may be asked again. Raises: PolicyFault if that is too long."""
        wait_s = min(replica.closed_s for replica in self.replicas)
        if monotonic() + wait_s > deadline_s:
            shown = ", ".join(replica.shown for replica in self.replicas)
            raise PolicyFault(
                f"no server could be reached for {self._wait_s:g} s ({shown}): {last}. Start them again, then resume "
                "the run",
                who="network",
                answers=False,
            )
        await asyncio.sleep(wait_s)

    def release(self, episode_id: str) -> None:
        """Forget where an episode was."""
        self._homes.pop(episode_id, None)
