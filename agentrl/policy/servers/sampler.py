"""`ServerSampler`: a model that a learner trains here, and that inference servers sample.

Conversations are rendered and read here; servers get ids and give ids. New weights reach them as folders.
"""

from __future__ import annotations

import os
from typing import Any

import httpx

from agentrl.errors import ConfigError, ModelError
from agentrl.policy.base import SamplingParams
from agentrl.policy.control import control_messages
from agentrl.policy.engine.requests import Completion
from agentrl.policy.format import proof as format_proof
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.servers.addresses import Servers
from agentrl.policy.servers.api import ServerApi, Turn
from agentrl.policy.servers.find import find
from agentrl.policy.servers.pool import ReplicaPool
from agentrl.policy.servers.replica import Replica
from agentrl.policy.servers.weights import Published, WeightFolders
from agentrl.policy.servers.wire import Address
from agentrl.policy.token_policy import TokenPolicy, context_of, format_of
from agentrl.token_ids import TokenIds
from agentrl.wire.per_loop import PerLoop

KEY_ENV = "AGENTRL_SERVER_KEY"
_CONNECT_TIMEOUT_S = 10.0
# Servers close a connection that was idle for 5 s, perhaps while the next request is on its way.
_KEPT_ALIVE_S = 2.0
_SEED_BITS = 2**63 - 1


class ServerSampler(TokenPolicy):
    """Samples turns of a model with inference servers.

    It gives them the weights of `model` before the first turn, and after `weights_changed` before the next one. A
    server is refused (ModelError) if its log-probabilities then are not the model's own.

    Args:
        model: a `transformers` causal LM on this machine; a learner may train it and then calls `weights_changed`.
        tokenizer: its tokenizer, with a chat template.
        servers: that sample; they were started with a model of the same architecture.
        client: an httpx client to use instead of making one; it is not closed.
        chat_format, chat_template, sampling, max_context, seed, version: as of `LocalPolicy`.
    Raises: ModelError if the chat format cannot be proved right for the model; it says what to set.
    """

    name = "server"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        servers: Servers,
        *,
        chat_format: ChatFormat | str = "auto",
        chat_template: str | None = None,
        sampling: SamplingParams = SamplingParams(),  # noqa: B008 (frozen)
        max_context: int | None = None,
        seed: int = 0,
        version: int = 0,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(format_of(chat_format, model, tokenizer, chat_template), sampling, seed)
        format_proof.prove(self.format)
        self.model, self.tokenizer, self.servers, self.version = model, tokenizer, servers, version
        self.context = context_of(model, max_context)
        self._probe_ids = self.format.render_first(control_messages(()))
        self._folders = WeightFolders(servers.weights, adapters_alone=servers.lora == "swapped")
        self._published: Published | None = None
        self._was_asked = False
        self.replicas: tuple[Replica, ...] = ()
        self._client = client
        self._pools = PerLoop(self._connect)

    def weights_changed(self) -> None:
        """Call after an update of `model`, while nothing changes it.

        The weights are written at once if turns were sampled with the last ones; otherwise when they are first needed.
        """
        self.version += 1
        if self._was_asked:
            self._publish()
        self._was_asked = False

    def forget(self) -> None:
        """Servers keep their caches: what is cached was computed with the weights that they have."""

    async def greet(self) -> None:
        """Ask the servers what they are. Raises: ConfigError if one cannot be used, or none can be reached."""
        await self._pools.get()[0].greet()

    @property
    def metrics(self) -> dict[str, float]:
        """How the servers did, for a run's metrics."""
        pool = self._pools.peek()
        replicas = () if pool is None else pool[0].replicas
        return {
            "scale/servers": float(sum(replica.is_ready for replica in replicas)),
            "scale/server_losses": float(sum(replica.losses for replica in replicas)),
            "scale/server_difference": max((replica.difference for replica in replicas), default=0.0),
        }

    async def _sample(self, episode_id: str, prompt: TokenIds, sampling: SamplingParams, seed: int) -> Completion:
        if sampling.signals or sampling.first_rank is not None:
            raise ConfigError(
                "inference servers give no signals of how sure a model is of its tokens, and no tokens of a given "
                "rank: leave out scale.server, or the part of the run that reads or asks for them"
            )
        room = min(sampling.max_tokens, self.context - len(prompt))
        if room < 1:
            return Completion((), (), "length", 0, ())
        self._was_asked = True
        turn = Turn(tuple(prompt), room, sampling, seed & _SEED_BITS, self.format.stop_ids)
        try:
            sampled, version = await self._pools.get()[0].sample(episode_id, turn)
        except ModelError:
            self._folders.keep()  # the error says to start the server with one of them
            raise
        return Completion(sampled.ids, sampled.logprobs, sampled.finish, sampled.cached, (version,) * len(sampled.ids))

    def _newest(self) -> Published:
        if self._published is None or self._published.version != self.version:
            self._publish()
        assert self._published is not None
        return self._published

    def _publish(self) -> None:
        self._published = self._folders.publish(self.model, self.tokenizer, self.version, self._probe_ids)

    def _connect(self) -> tuple[ReplicaPool, httpx.AsyncClient]:
        client = self._client or httpx.AsyncClient(
            headers=_headers(),
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEPT_ALIVE_S),
        )
        self.replicas = tuple(self._replica(Address(url.rstrip("/"), client)) for url in self.servers.urls)
        return ReplicaPool(self.replicas, self._newest, self.servers.wait_s), client

    def _replica(self, at: Address) -> Replica:
        async def found() -> ServerApi:
            return await find(at, self.servers.kind, self.context, self.servers.timeout_s)

        return Replica(found, at.shown, self._probe_ids, self.servers.tolerance)

    async def release(self, episode_id: str) -> None:
        await super().release(episode_id)
        pool = self._pools.peek()
        if pool is not None:
            pool[0].release(episode_id)

    async def aclose(self) -> None:
        """Close the connections and remove the weights that were written for the servers."""
        await super().aclose()
        pool = self._pools.peek()
        self._pools.forget()
        if pool is not None and self._client is None:
            await pool[1].aclose()
        self._folders.remove()
        self._published = None


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY_ENV, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {KEY_ENV} has characters that a key cannot have: set it again")
    return {"Authorization": f"Bearer {key}"} if key else {}
