"""The doors that are chat APIs: an agent that uses the API's own client plays the episodes through our endpoint.

Needs the extra `serve`. The model behind the endpoint says what was said in this process, so that the same actions
reach the environment.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

from agentrl.conform.doors import CLIENTS, Job, python_of, single_calls
from agentrl.conform.episodes import hash_of
from agentrl.conform.report import Door
from agentrl.env import registry
from agentrl.errors import ModelError
from agentrl.messages import Action
from agentrl.policy.engine.requests import Completion
from agentrl.policy.local import LocalPolicy
from agentrl.policy.tiny import build_tiny
from agentrl.serving.capture.desk import Desk
from agentrl.serving.capture.playing import AgentPlayer
from agentrl.serving.capture.server import CaptureServer
from agentrl.serving.capture.settings import AgentConfig
from agentrl.trajectory import Trajectory

_CONTEXT = 1 << 20
_ENGINE_CONTEXT = 512  # of the engine that is replaced: a proof of a long context takes minutes
_TIMEOUT_S = 120.0
_END = Action("The episode is over.")
_PACKAGES = {"chat": "openai", "responses": "openai", "messages": "anthropic"}


class Parrot(LocalPolicy):
    """A model that says what another policy said in an episode, with a tokenizer of its own."""

    name = "parrot"

    def __init__(self, episode: Trajectory) -> None:
        texts = [message.content for message in episode.messages()]
        config: dict[str, Any] = {"hidden_size": 8, "num_layers": 1, "max_position_embeddings": _ENGINE_CONTEXT}
        super().__init__(*build_tiny([*texts, "{}"], **config), slots=1, max_context=_ENGINE_CONTEXT, exact=False)
        self.context = _CONTEXT
        actions = [turn.action for turn in episode.turns]
        self.engine: Any = _Said([tuple(self.format.render_action(a, episode.tools)) for a in (*actions, _END)])


class _Said:
    """What a session asks of an engine: turns, one after the other; the last one again and again."""

    def __init__(self, turns: Sequence[tuple[int, ...]]) -> None:
        self._turns, self._next = turns, 0
        self.options = _Options()

    async def sample(self, owner: str, prompt: Sequence[int], *_: Any, on_token: Any = None) -> Completion:
        ids = self._turns[min(self._next, len(self._turns) - 1)]
        self._next += 1
        for token in ids if on_token is not None else ():
            on_token(token, 0.0)
            await asyncio.sleep(0)
        return Completion(ids, (0.0,) * len(ids), "stop", 0, (0,) * len(ids))

    def release(self, owner: str) -> None:
        """Nothing is kept for an owner."""


class _Options:
    context = _CONTEXT


def carried(episode: Trajectory, turns: int) -> list[Any]:
    """What an agent's episode has of the environment: task, tools, actions, results, rewards, how it ended."""
    first = [message.content for message in episode.turns[0].observation]
    seen: list[Any] = [first, sorted(tool["function"]["name"] for tool in episode.tools)]
    for turn in episode.turns[:turns]:
        calls = [[call.name, call.arguments] for call in turn.action.tool_calls]
        results = "\n".join(message.content for message in turn.next_observation)
        is_answer = not calls
        seen.append([turn.action.text, calls, turn.reward, "" if is_answer else results])
    ending, info = episode.ending, {key: value for key, value in episode.info.items() if key != "capture"}
    return [*seen, [ending.kind, ending.detail], info, episode.reward, episode.success]


def dialect(name: str, which: str) -> Callable[[Job], Door]:
    """The door of an API. Args: name: of the door; which: `chat`, `responses` or `messages`."""

    def door(job: Job) -> Door:
        python = python_of(job, _PACKAGES[which])
        chosen = [e for e in job.episodes if single_calls(e) and _ends_with_its_answer(e)]
        if not chosen:
            return Door(name, "does not apply", "no episode is of single calls and an answer alone")
        command = f"{shlex.quote(python)} {shlex.quote(str(CLIENTS / 'chat_client.py'))} {which}"
        found = asyncio.run(_played(job, command, chosen))
        hashes = tuple(hash_of(carried(f, len(e.turns))) for e, f in zip(chosen, found, strict=True))
        problems = [p for e, f in zip(chosen, found, strict=True) if (p := _problem(e, f))]
        if problems:
            return Door(name, "failed", "; ".join(problems[:3])[:500], hashes)
        text = f"{len(chosen)} episodes equal: task, tools, results, rewards; whole and in pieces by turns"
        return Door(name, "green", text, hashes)

    return door


def _ends_with_its_answer(episode: Trajectory) -> bool:
    """Whether no turn but the last is a text: an agent's loop ends with the first one."""
    return all(turn.action.tool_calls for turn in episode.turns[:-1])


async def _played(job: Job, command: str, episodes: Sequence[Trajectory]) -> list[Trajectory]:
    settings = AgentConfig(command, processes=1, timeout_s=_TIMEOUT_S)
    async with CaptureServer() as server, aclosing(Desk(settings, f"{server.url}/next")) as desk:
        server.proxy.desk = desk
        return [await _one(job, AgentPlayer(server, desk, max_turns=len(e.turns) + 2), e) for e in episodes]


async def _one(job: Job, player: AgentPlayer, episode: Trajectory) -> Trajectory:
    env = registry.make(job.ref)
    try:
        return await player.play(env, Parrot(episode), episode.task, episode.seed, ref=job.ref)
    except ModelError as error:
        raise ValueError(f"episode {episode.episode_id} cannot be written as tokens: {error}") from error
    finally:
        await env.aclose()


def _problem(episode: Trajectory, found: Trajectory) -> str:
    if not found.turns:
        return f"episode {episode.episode_id}: {found.ending.detail}"
    wanted, got = (json.loads(json.dumps(carried(e, len(episode.turns)))) for e in (episode, found))
    pairs = ((w, g) for w, g in zip(wanted, got, strict=False) if w != g)
    different = next(pairs, (len(wanted), len(got)) if len(wanted) != len(got) else None)
    return "" if different is None else f"episode {episode.episode_id}: {different[1]!r}, not {different[0]!r}"
