"""The doors of verifiers: its evaluation and validation of the environment, and that taskset as an environment again.

Both run in a Python that has verifiers and AgentRL.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentrl.conform.doors import Job, python_of, run_client
from agentrl.conform.episodes import again, hash_of, transcript
from agentrl.conform.process import serving, toml_of
from agentrl.conform.report import Door
from agentrl.env.base import Env
from agentrl.errors import PackageMissing
from agentrl.serving.envs.client import connect
from agentrl.trajectory import Trajectory

_TASKS = 3
_PLUGIN = "agentrl_verifiers"
_ENV = "agentrl.adapters.verifiers.theirs:VerifiersEnv"


def _python(job: Job) -> str:
    """A Python with verifiers and AgentRL, which is the plugin for it. Raises: PackageMissing."""
    python = python_of(job, "verifiers")
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({_PLUGIN!r}) is None)"
    if subprocess.run([python, "-c", code], check=False, timeout=60, cwd=job.folder).returncode:
        raise PackageMissing("verifiers")
    return python


def ours(job: Job) -> Door:
    """The environment as a taskset: `vf-eval` plays the episodes, `vf-validate` asks the oracle and does nothing."""
    _python(job)
    episodes = [
        {
            "id": e.episode_id,
            "task": e.task.id,
            "split": e.task.split,
            "seed": e.seed,
            "messages": [turn.action.to_message().to_openai() for turn in e.turns],
        }
        for e in job.episodes
    ]
    given = {"env": job.ref.id, "kwargs": dict(job.ref.kwargs), "tasks": _TASKS, "episodes": episodes}
    seen = run_client(job, "verifiers", "verifiers_client.py", given=given)
    hashes = tuple(hash_of(found) for found in seen["episodes"])
    wanted = [json.loads(json.dumps(_as_verifiers(e))) for e in job.episodes]
    pairs = zip(job.episodes, wanted, seen["episodes"], strict=True)
    problems = [f"episode {e.episode_id}: {_differing(w, f)}" for e, w, f in pairs if w != f]
    bad = {
        name: row
        for name, row in seen["validated"].items()
        if row[0] not in ("valid", "unchecked") or row[1] != "valid"
    }
    problems += [f"vf-validate of {name}: {row}" for name, row in bad.items()]
    if problems:
        return Door("verifiers: our taskset", "failed", "; ".join(problems[:3])[:500], hashes)
    text = f"{len(hashes)} episodes equal by vf-eval; vf-validate: {len(seen['validated'])} tasks, gold and noop valid"
    return Door("verifiers: our taskset", "green", text, hashes)


def _differing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    key = next(key for key in wanted if wanted[key] != found.get(key))
    return f"{key} is {str(found.get(key))[-150:]}, not {str(wanted[key])[-150:]}"


def _as_verifiers(episode: Trajectory) -> dict[str, Any]:
    """What verifiers has of an episode."""
    messages: list[list[Any]] = []
    for turn in episode.turns:
        calls = [[call["function"]["name"], call["function"]["arguments"]] for call in _openai_calls(turn.action)]
        messages += [[m.role, m.content] for m in turn.observation]
        messages.append(["assistant", turn.action.text, *calls])
    ending = [episode.ending.kind, episode.ending.detail]
    last = [m.content for m in episode.turns[-1].next_observation] if episode.turns else []
    info = {
        "reward": episode.reward,
        "success": episode.success,
        "reward_components": dict(episode.reward_components),
        "ending": ending,
        "turn_rewards": [turn.reward for turn in episode.turns],
        "last_observation": last,
        "fingerprint": episode.task.fingerprint,
    }
    tools = sorted(tool["function"]["name"] for tool in episode.tools)
    return {"messages": messages, "tools": tools, "reward": episode.reward, "info": info}


def _openai_calls(action: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = action.to_message().to_openai().get("tool_calls", [])
    return found


def theirs(job: Job) -> Door:
    """A taskset of verifiers as an environment, served from a Python that has verifiers; here it is our own one."""
    python = _python(job)
    settings = {"env": job.ref.id, "kwargs": dict(job.ref.kwargs), "split": job.episodes[0].task.split}
    kwargs = {"taskset": _PLUGIN, "harness": _PLUGIN, "settings": settings, "seed_field": "seed"}
    pairs = [word for key, value in kwargs.items() for word in ("--kwarg", f"{key}={toml_of(value)}")]
    with serving([python, "-m", "agentrl", "serve", _ENV, *pairs, "--port", "0"], job.folder) as (url, token):
        found = asyncio.run(_played(connect(url, token), job.episodes))
    hashes, problems = tuple(hash_of(_texts(one)) for one in found), []
    for episode, one in zip(job.episodes, found, strict=True):
        wanted, got = _texts(episode), _texts(one)
        if one.status == "fault" or wanted != got:
            problems.append(f"episode {episode.episode_id}: {one.ending.detail or _first_difference(wanted, got)}")
    if problems:
        return Door("verifiers: as our Env", "failed", "; ".join(problems)[:500], hashes)
    text = f"{len(hashes)} transcripts and rewards equal, by our client from the Python of verifiers"
    return Door("verifiers: as our Env", "green", text, hashes)


def _texts(episode: Trajectory) -> list[Any]:
    """What both know: all texts but the last result, which ends the rollout, and the whole reward."""
    if not episode.turns:
        return []
    return [[texts for texts, _, _ in transcript(episode)][:-1], episode.reward]


def _first_difference(wanted: list[Any], got: list[Any]) -> str:
    return f"it reads {str(got)[:200]}, not {str(wanted)[:200]}"


async def _played(env: Env, episodes: Sequence[Trajectory]) -> list[Trajectory]:
    try:
        rows = {row.data["id"]: row for split in env.tasks.splits for row in env.tasks.split(split)}
        return await again(env, [replace(episode, task=rows[episode.task.id]) for episode in episodes])
    finally:
        await env.aclose()
