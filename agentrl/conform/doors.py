"""The doors that play episodes: this process, a pool, our own server, OpenEnv's clients and MCP's, in both eras."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gymnasium.utils.env_checker import check_env as check_gymnasium

from agentrl.conform.episodes import again, episode_hash, hash_of, transcript
from agentrl.conform.report import Door
from agentrl.conform.tools import python_in
from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.env.check import check_env
from agentrl.errors import PackageMissing
from agentrl.messages import Action
from agentrl.rollout.env_pool import EnvPool
from agentrl.serving.envs.client import connect
from agentrl.serving.envs.seats import Result
from agentrl.serving.envs.server import EnvServer, ServeOptions
from agentrl.trajectory import EnvRef, Trajectory

CLIENTS = Path(__file__).parent / "clients"
_TIMEOUT_S = 600
_MISSING = 3
_ERAS = {"mcp (2026-07-28)": "auto", "mcp (2025-11-25)": "legacy"}
_OVER = "the episode is over"


@dataclass(frozen=True)
class Job:
    """What a door is to repeat.

    Attributes:
        ref: the environment.
        episodes: as they were played in this process.
        folder: for files.
        pythons: name of a package -> a Python that has it, where this one does not.
        tools: folder with an installation for each external package, as `agentrl.conform.tools` lays it out.
        base: image on which that of the Dockerfile is built, if not the one that it names.
    """

    ref: EnvRef
    episodes: Sequence[Trajectory]
    folder: Path
    pythons: Mapping[str, str] = field(default_factory=dict)
    tools: str = ""
    base: str = ""

    @property
    def hashes(self) -> tuple[str, ...]:
        return tuple(episode_hash(episode) for episode in self.episodes)


def python_of(job: Job, package: str) -> str:
    """A Python that has a package. Raises: PackageMissing if the one that was named, or this one, does not."""
    python = job.pythons.get(package) or python_in(job.tools, package) or sys.executable
    code = f"import importlib.util, sys; sys.exit(0 if importlib.util.find_spec({package!r}) else {_MISSING})"
    if subprocess.run([python, "-c", code], check=False, timeout=60, cwd=job.folder).returncode == _MISSING:
        raise PackageMissing(package)
    return python


def run_client(job: Job, package: str, script: str, *arguments: str, given: Any = None) -> Any:
    """What a client program writes. Raises: PackageMissing, RuntimeError with the end of what it said."""
    command = [python_of(job, package), str(CLIENTS / script), *arguments]
    done = subprocess.run(
        command,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
        cwd=job.folder,
    )
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.strip().splitlines()[-2:])[-400:])
    return json.loads(done.stdout[done.stdout.find("{") if done.stdout.lstrip()[:1] != "[" else 0 :])


def checker(job: Job) -> Door:
    """`agentrl check`."""
    report = check_env(job.ref.id, processes=False, **job.ref.kwargs)
    found = [finding for finding in report.findings if finding.severity == "error"]
    return Door("agentrl check", "failed" if found else "green", found[0].problem if found else "nothing found")


def gymnasium(job: Job) -> Door:
    """Gymnasium's environment checker."""
    env = registry.make(job.ref)
    try:
        check_gymnasium(env.unwrapped)
    finally:
        env.close()
    return Door("gymnasium", "green", "its checker accepts reset, step, spaces and render")


def compared(name: str, job: Job, found: Sequence[Trajectory]) -> Door:
    """Whether episodes have the records of those of this process."""
    hashes = tuple(episode_hash(episode) for episode in found)
    different = [index for index, (one, other) in enumerate(zip(hashes, job.hashes, strict=True)) if one != other]
    if different:
        text = f"{len(different)} of {len(hashes)} episodes differ, the first is number {different[0]}"
        return Door(name, "failed", f"{text}: {found[different[0]].ending}", hashes)
    return Door(name, "green", f"{len(hashes)} records equal those of this process", hashes)


def pooled(job: Job) -> Door:
    """Instances that are used again, in another order, at the same time."""

    async def play() -> list[Trajectory]:
        pool = EnvPool(lambda: registry.make(job.ref))

        async def one(episode: Trajectory) -> Trajectory:
            env = await pool.lend()
            found = (await again(env, [episode]))[0]
            pool.give_back(env)
            return found

        try:
            found = await asyncio.gather(*(one(episode) for episode in reversed(job.episodes)))
            return list(reversed(found))
        finally:
            await pool.aclose()

    return compared("pooled", job, asyncio.run(play()))


def served(job: Job) -> Door:
    """Our own client against our own server."""
    with EnvServer(job.ref, ServeOptions(port=0)) as server:

        async def play(env: Env) -> list[Trajectory]:
            try:
                return await again(env, job.episodes)
            finally:
                await env.aclose()

        return compared("served", job, asyncio.run(play(connect(server.url, server.token))))


def _openenv_action(action: Action) -> dict[str, Any]:
    if len(action.tool_calls) == 1 and not action.text:
        call = action.tool_calls[0]
        return {"type": "call_tool", "tool_name": call.name, "arguments": call.arguments}
    return action.to_message().to_openai()


def openenv(job: Job) -> Door:
    """`GenericEnvClient`, `MCPToolClient` (both of its modes) and `openenv validate --url`."""
    if find_spec("websockets") is None and find_spec("wsproto") is None:
        raise PackageMissing("websockets")  # without it our server has no WebSocket
    episodes = [
        {"seed": e.seed, "task": e.task.id, "actions": [_openenv_action(t.action) for t in e.turns]}
        for e in job.episodes
    ]
    with EnvServer(job.ref, ServeOptions(port=0, token="")) as server:
        seen = run_client(job, "openenv", "openenv_client.py", given={"url": server.url, "episodes": episodes})
    wanted = [transcript(episode) for episode in job.episodes]
    hashes = tuple(hash_of(found) for found in seen["transcripts"])
    problems = [f"episode {i} differs" for i, w in enumerate(wanted) if hash_of(w) != hashes[i]]
    names = sorted(tool["function"]["name"] for tool in job.episodes[0].tools)
    problems += [f"its tools are {found}, not {names}" for found in seen["tools"] if found != names]
    problems += [f"validate: {name}" for name in seen["failed"]]
    if problems:
        return Door("openenv", "failed", "; ".join(problems), hashes)
    text = f"{len(hashes)} transcripts equal, both modes of MCPToolClient, openenv validate --url {seen['checks']} of "
    return Door("openenv", "green", text + str(seen["checks"]), hashes)


def single_calls(episode: Trajectory) -> bool:
    """Whether each turn is a call that the environment offers, or a text."""
    taken = {tool["function"]["name"] for tool in episode.tools}
    turns = [turn.action.tool_calls for turn in episode.turns]
    return all(not c or (len(c) == 1 and c[0].name in taken and c[0].error is None) for c in turns)


def _mcp_calls(episode: Trajectory) -> list[Any] | None:
    """The actions as MCP calls; None where a turn is no single call and no text."""
    if not single_calls(episode):
        return None
    taken = {tool["function"]["name"] for tool in episode.tools}
    submit = "submit" if "submit" not in taken else "submit_answer"
    found: list[Any] = []
    for turn in episode.turns:
        calls = turn.action.tool_calls
        found.append([calls[0].name, calls[0].arguments] if calls else [submit, {"answer": turn.action.text}])
    return found


def mcp(name: str) -> Callable[[Job], Door]:
    """MCP's own client, in one of its eras."""

    def door(job: Job) -> Door:
        if find_spec("mcp_types") is None:
            raise PackageMissing("mcp")
        chosen = [(e, calls) for e in job.episodes if (calls := _mcp_calls(e)) is not None]
        if not chosen:
            return Door(name, "does not apply", "no episode is of single calls and an answer alone")
        episodes = [{"seed": e.seed, "task": e.task.id, "calls": calls} for e, calls in chosen]
        with EnvServer(job.ref, ServeOptions(port=0)) as server:
            given = {"url": server.url, "token": server.token, "mode": _ERAS[name], "episodes": episodes}
            seen = run_client(job, "mcp", "mcp_client.py", given=given)
        problems = [p for (e, _), found in zip(chosen, seen, strict=True) for p in _mcp_problems(e, found)]
        hashes = tuple(hash_of([found["task"], found["seen"], found["result"]["reward"]]) for found in seen)
        if problems:
            return Door(name, "failed", "; ".join(problems[:3]), hashes)
        text = f"{len(chosen)} episodes equal in {seen[0]['version']}: tools, task, results, reward"
        return Door(name, "green", text, hashes)

    return door


def _mcp_problems(episode: Trajectory, found: Mapping[str, Any]) -> list[str]:
    task = "\n\n".join(message.content for message in episode.turns[0].observation)
    texts = ["\n\n".join(message.content for message in turn.next_observation) for turn in episode.turns]
    texts[-1] = f"{texts[-1]}\n\n({_OVER})" if texts[-1] else _OVER
    wanted = Result(episode.task.id, len(episode.turns), episode.reward).to_json()
    problems = [] if found["task"] == task else [f"the task of {episode.episode_id} reads {found['task'][:80]!r}"]
    if found["seen"] != texts:
        problems.append(f"the results of episode {episode.episode_id} differ")
    for key in ("task_id", "turns", "reward"):
        if found["result"][key] != wanted[key]:
            problems.append(f"{key} of episode {episode.episode_id} is {found['result'][key]}, not {wanted[key]}")
    return problems
