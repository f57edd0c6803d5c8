"""Episodes that an agent plays, as `run_episode` plays those of a policy. Owns what an agent's end means.

What the agent does after the model has spoken counts: its crash is a failure, and a limit that it reaches cuts the
episode off. So does a turn that the agent gave up on: otherwise a model could remove its losing episodes from the count
by speaking without end, and an agent by hanging up. An agent that ends before it has asked the model for anything is
broken, and so is a sampler that failed, or was too busy to begin: these are faults, which never count.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from agentrl.env.base import Env
from agentrl.errors import ConfigError, EnvFault, PolicyFault
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.episode import mark_fault
from agentrl.rollout.runner import Play
from agentrl.serving.capture.agents import Agent, CommandAgent, Exit
from agentrl.serving.capture.desk import Desk
from agentrl.serving.capture.episode import GAVE_UP, Episode, silence
from agentrl.serving.capture.server import CaptureServer
from agentrl.serving.capture.session import Session
from agentrl.serving.capture.settings import AgentConfig, captured
from agentrl.serving.capture.tasks import AgentTasks
from agentrl.serving.chat_model import ChatModel
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory

NAME = "agentrl"
"""Of the model, for agents that ask."""
_MOST_VARIABLE_BYTES = 100_000


class AgentPlayer:
    """Plays episodes by starting an agent for each. Give `play` to `Rollouts`.

    Args:
        server: serves the sessions.
        agent: plays.
        max_turns: after these a session is refused further turns.
    """

    def __init__(self, server: CaptureServer, agent: Agent, *, max_turns: int) -> None:
        self._server, self._agent, self._max_turns = server, agent, max_turns
        self._models: dict[int, ChatModel] = {}
        self._number = 0

    async def play(
        self,
        env: Env,
        policy: Policy,
        task: Task,
        seed: int,
        *,
        ref: EnvRef | None = None,
        sampling: SamplingParams | None = None,
        group_id: str = "",
        episode_id: str = "",
        labels: Labels = Labels(),  # noqa: B008 (frozen)
        on_fault: Callable[[EnvFault | PolicyFault], None] | None = None,
        earlier: Trajectory | None = None,
        key: str = "",
        fork: tuple[str, int] | None = None,
    ) -> Trajectory:
        """Play one episode; arguments as `run_episode`. A former attempt is not taken again: the agent begins anew.

        Raises: ConfigError if the policy is no local model, or the episode is to continue another.
        """
        if fork is not None:
            raise ConfigError("an agent's episode cannot be continued from a turn: leave out forks")
        session = self._session(policy, sampling)
        trajectory = Trajectory(
            captured(ref or EnvRef(type(env).__name__), self._agent.name),
            task,
            seed,
            group_id=group_id,
            episode_id=episode_id or session.name,
            labels=labels,
            sampling=session.sampling,
        )
        episode = Episode(session, env, task)
        try:
            await self._played(episode, seed)
        except (EnvFault, PolicyFault) as fault:
            fault.after_action = bool(session.nodes)
            mark_fault(trajectory, fault)
            if on_fault is not None:
                on_fault(fault)
        else:
            trajectory.ending = episode.ending or Ending()
            trajectory.info = {**episode.info, "capture": session.counts()}
        trajectory.turns = session.turns()
        trajectory.tools = session.recorded[0].tools if trajectory.turns else episode.tools
        return trajectory

    async def _played(self, episode: Episode, seed: int) -> None:
        """Let the agent play. Raises: EnvFault, PolicyFault."""
        session = episode.session
        await episode.begin(seed)
        self._server.proxy.add(episode)
        try:
            ended = await self._agent.run(self._variables(episode), session.waited_s)
        finally:
            self._server.proxy.remove(session)
            await session.end("the agent has ended")
        fault = session.fault or episode.fault or silence(session, str(ended))
        if fault is not None:
            raise fault
        await _conclude(episode, ended)

    def _session(self, policy: Policy, sampling: SamplingParams | None) -> Session:
        if not isinstance(policy, LocalPolicy):
            raise ConfigError(f"only a local model can be captured, got {policy.name}: use local:DIR")
        model = self._models.setdefault(id(policy), ChatModel(policy, NAME))
        self._number += 1
        return Session(model, sampling or policy.sampling, max_turns=self._max_turns, name=str(self._number))

    def _variables(self, episode: Episode) -> dict[str, str]:
        session = episode.session
        url = f"{self._server.url}/s/{session.name}"
        return {
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_KEY": session.key,
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": session.key,
            "AGENTRL_URL": url,
            "AGENTRL_KEY": session.key,
            "AGENTRL_TASK": _as_variable(episode.text),
            "AGENTRL_TASK_ID": episode.task.id,
        }


def _as_variable(text: str) -> str:
    """A text as a variable of a process; none where the kernel takes none so long: `GET /task` has it."""
    text = text.replace("\0", "")
    return text if len(text.encode()) <= _MOST_VARIABLE_BYTES else ""


@asynccontextmanager
async def playing(settings: AgentConfig) -> AsyncIterator[Play]:
    """What plays episodes with an agent; its server and processes live as long as the context."""
    async with CaptureServer() as server:
        if not settings.processes:
            yield AgentPlayer(server, CommandAgent(settings), max_turns=settings.max_turns).play
            return
        async with aclosing(Desk(settings, f"{server.url}/next")) as desk:
            server.proxy.desk = desk
            yield AgentPlayer(server, desk, max_turns=settings.max_turns).play


async def _conclude(episode: Episode, ended: Exit) -> None:
    """Score the episode, or say why it is not scored. Raises: EnvFault, PolicyFault."""
    inner = episode.env.unwrapped
    if ended.status is None:
        episode.ending = episode.ending or Ending("limit", "max_wall_s")
    elif not episode.session.nodes:
        episode.ending, episode.info["success"] = GAVE_UP, False
    elif isinstance(inner, AgentTasks):
        inner.ended = ended
    elif ended.status != 0:
        too_long = episode.session.too_long > 0
        episode.ending = Ending("limit", "max_context") if too_long else Ending("error", str(ended), "author")
        episode.info |= {"success": False}
    await episode.finish()
