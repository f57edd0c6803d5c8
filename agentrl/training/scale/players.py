"""Who samples the turns of a run and who plays its episodes: this process, samplers, servers, an agent's program.

Owns their beginning and end. What is played belongs to the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agentrl.distributed.local import LocalWorkers
from agentrl.distributed.ray_workers import RayWorkers
from agentrl.distributed.samplers import Samplers
from agentrl.distributed.state import Condition, SamplingState, WorkerState
from agentrl.policy.base import SamplingParams
from agentrl.policy.local import LocalPolicy
from agentrl.policy.servers.replica import Replica
from agentrl.policy.servers.sampler import ServerSampler
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.sources.tasks import Player
from agentrl.serving.capture.player import player
from agentrl.training.settings import RunSettings
from agentrl.trajectory import EnvRef, TrajectoryGroup


def sampler(
    config: RunSettings, model: Any, tokenizer: Any, *, sampling: SamplingParams, version: int, run: Path
) -> LocalPolicy | ServerSampler:
    """What samples all turns: the embedded engine, or servers.

    Args:
        model: a `transformers` causal LM, which the learner updates in place.
        sampling: of turns that name none.
        version: of the model's weights.
        run: folder of the run.
    Raises: ConfigError, ModelError.
    """
    shared: dict[str, Any] = {
        "chat_format": config.model.chat_format,
        "sampling": sampling,
        "max_context": config.model.max_context,
        "version": version,
    }
    servers = config.scale.servers(run)
    if servers is not None:
        return ServerSampler(model, tokenizer, servers, **shared)
    slots = config.model.slots or config.run.max_concurrency
    return LocalPolicy(model, tokenizer, slots=slots, exact=config.sampling.exact, **shared)


class Players:
    """What plays the episodes of a run; a context manager, which holds the policy open too.

    Args:
        config: of the run.
        policy: of `sampler`.
        envs: that are played; requests that name none play the first.
        version: of the policy's weights.
    Attributes:
        training: plays training episodes; there while the context lasts.
    """

    def __init__(
        self, config: RunSettings, policy: LocalPolicy | ServerSampler, envs: Sequence[EnvRef], version: int
    ) -> None:
        self._config, self._policy, self._envs, self._version = config, policy, envs, version
        self._samplers: Samplers | None = None
        self._runners: list[Rollouts] = []
        self._stack = AsyncExitStack()
        self.training: Player

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._policy)
            self._play = await stack.enter_async_context(player(self._config.agent))
            self.training = await stack.enter_async_context(self._player())
            if isinstance(self._policy, ServerSampler):
                await self._policy.greet()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def _player(self) -> Rollouts | Samplers:
        scale, limit = self._config.scale, self._config.run.max_concurrency
        own = Rollouts(self._envs[0], self._policy, max_concurrency=limit, play=self._play)
        self._runners.append(own)
        if not scale.samplers:
            return own
        assert isinstance(self._policy, LocalPolicy)  # the plan refuses samplers together with servers
        given = (self._policy, self._config.model.chat_format, self._envs, limit, scale)
        workers = RayWorkers(*given, address=scale.address) if scale.engine == "ray" else LocalWorkers(*given)
        self._samplers = Samplers(own, workers, scale.samplers, restarts=scale.restarts, version=self._version)
        return self._samplers

    def publish(self, version: int) -> None:
        """Tell who samples that the weights changed."""
        self._policy.weights_changed()
        if self._samplers is not None:
            self._samplers.publish(version)

    def cpu_s(self) -> float:
        """CPU seconds that other processes of this machine spent sampling."""
        return 0.0 if self._samplers is None else self._samplers.cpu_s

    @property
    def metrics(self) -> Mapping[str, float]:
        """Of those that sample, `scale/...`."""
        return self._policy.metrics if self._samplers is None else self._samplers.metrics

    def state(self) -> SamplingState:
        """Who samples, and what is under way; any thread may ask."""
        if self._samplers is not None:
            engine = self._config.scale.engine
            return self._samplers.state(engine) or SamplingState(engine)
        episodes = sum(runner.running for runner in list(self._runners))
        if not isinstance(self._policy, ServerSampler):
            return SamplingState("this process", episodes=episodes)
        replicas = self._policy.replicas
        losses = sum(replica.losses for replica in replicas)
        servers = tuple(_server(number, replica) for number, replica in enumerate(replicas))
        return SamplingState("servers", episodes=episodes, restarts=losses, workers=servers)

    async def evaluate(
        self, requests: Sequence[GroupRequest], sampling: SamplingParams, on_episodes: Callable[[int], None]
    ) -> list[TrajectoryGroup]:
        """Play an evaluation, on the samplers where there are some.

        Args: on_episodes: called with the number of episodes that have just ended.
        """
        if self._samplers is not None:
            return await self._samplers.run(
                requests, sampling=sampling, on_group=lambda group: on_episodes(len(group.trajectories))
            )
        async with Rollouts(
            self._envs[0],
            self._policy,
            sampling=sampling,
            on_trajectory=lambda trajectory: on_episodes(1),
            max_concurrency=self._config.run.max_concurrency,
            play=self._play,
        ) as rollouts:
            self._runners.append(rollouts)
            try:
                return await rollouts.run(requests)
            finally:
                self._runners.remove(rollouts)


def _server(number: int, replica: Replica) -> WorkerState:
    """An inference server as a worker."""
    condition: Condition = "ready" if replica.is_ready else "lost" if replica.losses else "starting"
    return WorkerState(number, replica.shown, condition, episodes=replica.busy)
